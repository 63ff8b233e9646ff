"""Round trips through a real Triton server, where ``make triton`` has put one.

``nvidia-pytriton`` brings the server and its Python backend, which is enough for the models that take videos. The
backends that run engines are in Triton's containers alone: in their place a model in Python calls ONNX Runtime, and the
folder that TRITON_BACKENDS names may have them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

import i3d_deploy as i3d
from i3d_deploy import artifact, to_onnx, to_openvino, triton_repository, video, views
from i3d_deploy.openvino_core import CORE
from i3d_deploy.triton_repository import Serving, engine_path

ROOT = Path(__file__).parents[1]
KIT = ROOT / "export" / "triton"
README = (KIT / "README.md").read_text()
READY = "\n".join(re.findall(r"^    (curl .*)$", README, re.MULTILINE))
(REQUEST,) = re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
ENVIRONMENT = ROOT / ".venv-triton"
SECONDS_TO_START = 120

ENGINE_IN_PYTHON = """
import os

import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        return [self.respond(pb_utils.get_input_tensor_by_name(request, "frames")) for request in requests]

    def respond(self, frames):
        (logits,) = self.session.run(["logits"], {"frames": frames.as_numpy()})
        return pb_utils.InferenceResponse([pb_utils.Tensor("logits", logits)])
"""
"""In place of the backend of ONNX Runtime, which pytriton does not bring."""

pytestmark = pytest.mark.skipif(not (ENVIRONMENT / ".installed").exists(), reason="no server: make triton")


def frames_of(clip: Path) -> NDArray[np.uint8]:
    """The frames of a file, as the library decodes them."""
    with video.stream(clip) as stream:
        return np.stack(list(stream.frames))


def backends(folder: Path) -> set[str]:
    """Lay the server's backends out as a container has them."""
    (server,) = ENVIRONMENT.glob("lib/python*/site-packages/pytriton/tritonserver")
    shutil.copytree(server / "backends", folder)
    version = server.parents[2].name.removeprefix("python")
    shutil.copy2(server / "python_backend_stubs" / version / "triton_python_backend_stub", folder / "python")
    built = os.environ.get("TRITON_BACKENDS")
    if built:
        shutil.copytree(built, folder, symlinks=True, dirs_exist_ok=True)
    return {path.name for path in folder.iterdir()}


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports


def run_in_python(repository: Path) -> None:
    """Let the Python backend run the engine of a repository."""
    config = repository / "i3d" / "config.pbtxt"
    config.write_text(config.read_text().replace('backend: "onnxruntime"', 'backend: "python"'))
    (repository / "i3d" / "1" / "model.py").write_text(ENGINE_IN_PYTHON)


@dataclass(frozen=True)
class Addresses:
    """Where a server listens."""

    http: str
    grpc: str


@contextmanager
def serving(repository: Path, scratch: Path) -> Iterator[Addresses]:
    """Run a server; yields its addresses once all its models are ready."""
    backends(scratch / "backends")
    (server,) = ENVIRONMENT.glob("lib/python*/site-packages/pytriton/tritonserver")
    http, grpc = free_ports(2)
    arguments = {
        "model-repository": repository,
        "model-control-mode": "none",
        "backend-directory": scratch / "backends",
        "http-address": "127.0.0.1",
        "http-port": http,
        "grpc-address": "127.0.0.1",
        "grpc-port": grpc,
        "allow-metrics": "false",
    }
    libraries = [server.parents[1] / "nvidia_pytriton.libs", Path(sys.base_prefix) / "lib"]
    environment = {
        **os.environ,
        "PATH": f"{ENVIRONMENT / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
    }
    command = [str(server / "bin" / "tritonserver"), *(f"--{name}={value}" for name, value in arguments.items())]
    log = scratch / "log"
    with log.open("w") as stream, subprocess.Popen(command, env=environment, stdout=stream, stderr=stream) as process:
        try:
            addresses = Addresses(http=f"127.0.0.1:{http}", grpc=f"127.0.0.1:{grpc}")
            wait(addresses.grpc, process, log)
            yield addresses
        finally:
            process.terminate()


def wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server is ready; fails with its log where it never is."""
    end = time.monotonic() + SECONDS_TO_START
    with InferenceServerClient(address) as client:
        while process.poll() is None and time.monotonic() < end:
            try:
                if client.is_server_ready():
                    return
            except InferenceServerException:  # it does not listen yet
                time.sleep(0.1)
    pytest.fail(log.read_text())


def ask(address: str, model: str, *, classes: int = 0, **inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Send a request; ``classes`` asks for the labels of the most probable ones."""
    tensors = []
    for name, array in inputs.items():
        tensor = InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    wanted = [InferRequestedOutput("probabilities", class_count=classes)] if classes else None
    with InferenceServerClient(address) as client:
        response = client.infer(model, tensors, outputs=wanted)
    return {output.name: response.as_numpy(output.name) for output in response.get_response().outputs}


def test_views_are_those_of_the_card(tiny_exports: Path, clip: Path, tmp_path: Path) -> None:
    # Without the engine's backend: the model that cuts views stands alone.
    card = artifact.read_card(tiny_exports / "tiny.onnx")
    repository = tmp_path / "i3d_triton"
    triton_repository.write(partial(to_onnx.write, onnx.load(tiny_exports / "tiny.onnx")), Serving(), card, repository)
    for model in ("i3d", "i3d_video"):
        shutil.rmtree(repository / model)
    frames = frames_of(clip)
    with serving(repository, tmp_path) as addresses:
        answer = ask(addresses.grpc, "i3d_preprocess", video=frames)
        one = ask(addresses.grpc, "i3d_preprocess", video=frames, clips=np.array([1], np.int32))
        with pytest.raises(InferenceServerException, match=r"crops \(2\) must be 1 or 3"):
            ask(addresses.grpc, "i3d_preprocess", video=frames, crops=np.array([2], np.int32))
    (expected,) = views.prepare(clip, card).batches(6)
    np.testing.assert_array_equal(answer["frames"], expected)
    assert len(one["frames"]) == 3


@pytest.mark.parametrize(
    ("name", "backend"), [("tiny.onnx", "python"), ("tiny.onnx", "onnxruntime"), ("tiny.xml", "openvino")]
)
def test_a_video_is_answered_as_the_recognizer_does(
    tiny_exports: Path, clip: Path, tmp_path: Path, name: str, backend: str
) -> None:
    if backend != "python" and not (Path(os.environ.get("TRITON_BACKENDS") or "/nowhere") / backend).exists():
        pytest.skip(f"TRITON_BACKENDS has no {backend}")
    exported = tiny_exports / name
    if backend == "openvino":
        served, write = Serving(backend="openvino"), partial(to_openvino.write, CORE.read_model(exported))
    else:
        served, write = Serving(backend="onnx"), partial(to_onnx.write, onnx.load(exported))
    repository = tmp_path / "i3d_triton"
    triton_repository.write(write, served, artifact.read_card(exported), repository)
    engine = engine_path(repository, served)
    expected = i3d.load(engine, device="cpu").predict(clip)
    if backend == "python":
        run_in_python(repository)
    frames = frames_of(clip)
    with serving(repository, tmp_path) as addresses:
        answer = ask(addresses.grpc, "i3d_video", video=frames)
        labelled = ask(addresses.grpc, "i3d_video", video=frames, classes=3)
        batch = ask(addresses.grpc, "i3d", frames=ask(addresses.grpc, "i3d_preprocess", video=frames)["frames"])
        client = run_client(clip, addresses, "--top", "2", "--engine", engine)
        of_another = run_client(clip, addresses, "--engine", other_engine(tiny_exports / "tiny.onnx", tmp_path))
        ready, by_curl = run_commands(clip, addresses, tmp_path)
    # ONNX Runtime is told the number of views by the library and not by Triton, which rounds otherwise.
    for found in (answer["logits"], batch["logits"]):
        np.testing.assert_allclose(found, expected.logits, rtol=0, atol=2e-6)
    np.testing.assert_allclose(answer["probabilities"], expected.probabilities, rtol=0, atol=1e-6)
    labels = [line.decode().split(":", 2)[2] for line in labelled["probabilities"]]
    assert labels == [label for label, _ in expected.top(3)]
    assert client.returncode == 0, client.stderr
    *shown, proven = client.stdout.splitlines()
    assert shown == [f"{probability:7.4f}  {label}" for label, probability in expected.top(2)]
    assert re.fullmatch(r"6 views: logits differ from .+ by at most \d\.\de[-+]\d\d \(allowed 1\.0e-03\)", proven)
    assert of_another.returncode == 1
    assert "the server does not answer as was proven" in of_another.stderr
    assert ready == "200\n200\n"
    probabilities, warnings = by_curl["outputs"]
    assert [entry.split(":", 2)[2] for entry in probabilities["data"]] == labels
    assert warnings["data"] == []


def run_client(clip: Path, addresses: Addresses, *options: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ``client.py``."""
    script = [sys.executable, KIT / "client.py", clip, "--model", "i3d_video", "--url", addresses.grpc]
    return subprocess.run([*map(str, script), *map(str, options)], capture_output=True, text=True)


def other_engine(exported: Path, folder: Path) -> Path:
    """An engine whose last bias is off by a hundredth."""
    model = onnx.load(exported)
    (bias,) = [tensor for tensor in model.graph.initializer if list(tensor.dims) == [7]]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(1e-2), bias.name))
    onnx.save(model, folder / "other.onnx")
    return folder / "other.onnx"


def run_commands(clip: Path, addresses: Addresses, folder: Path) -> tuple[str, Any]:
    """Run what the README shows with curl: what the server says of being ready, and its answer."""
    shutil.copy(clip, folder / "clip.mp4")
    outputs = []
    for command in (READY, REQUEST.replace("256, 340", "48, 64").replace("256 * 340", "48 * 64")):
        command = command.replace("localhost:8000", addresses.http).replace("i3d_r50", "i3d")
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    return outputs[0], json.loads(outputs[1])
