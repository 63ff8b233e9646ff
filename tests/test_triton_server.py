"""Round trips through a real Triton server, where ``make triton`` has put one.

``nvidia-pytriton`` brings the server and its Python backend, which is enough for the model that cuts views. The one
that answers needs the engine's backend as well, which only Triton's containers have: it is taken from the folder that
TRITON_BACKENDS names, where there is one.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
ENVIRONMENT = ROOT / ".venv-triton"
SECONDS_TO_START = 120

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


@contextmanager
def serving(repository: Path, scratch: Path) -> Iterator[str]:
    """Run a server; yields its gRPC address once all its models are ready."""
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
            address = f"127.0.0.1:{grpc}"
            wait(address, process, log)
            yield address
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
    with serving(repository, tmp_path) as address:
        answer = ask(address, "i3d_preprocess", video=frames)
        one = ask(address, "i3d_preprocess", video=frames, clips=np.array([1], np.int32))
        with pytest.raises(InferenceServerException, match=r"crops \(2\) must be 1 or 3"):
            ask(address, "i3d_preprocess", video=frames, crops=np.array([2], np.int32))
    (expected,) = views.prepare(clip, card).batches(6)
    np.testing.assert_array_equal(answer["frames"], expected)
    assert len(one["frames"]) == 3


@pytest.mark.parametrize(("name", "backend"), [("tiny.onnx", "onnxruntime"), ("tiny.xml", "openvino")])
def test_a_video_is_answered_as_the_recognizer_does(
    tiny_exports: Path, clip: Path, tmp_path: Path, name: str, backend: str
) -> None:
    if not (Path(os.environ.get("TRITON_BACKENDS") or "/nowhere") / backend).exists():
        pytest.skip(f"TRITON_BACKENDS has no {backend}")
    exported = tiny_exports / name
    if backend == "onnxruntime":
        served, write = Serving(backend="onnx"), partial(to_onnx.write, onnx.load(exported))
    else:
        served, write = Serving(backend="openvino"), partial(to_openvino.write, CORE.read_model(exported))
    repository = tmp_path / "i3d_triton"
    triton_repository.write(write, served, artifact.read_card(exported), repository)
    expected = i3d.load(engine_path(repository, served), device="cpu").predict(clip)
    frames = frames_of(clip)
    with serving(repository, tmp_path) as address:
        answer = ask(address, "i3d_video", video=frames)
        labelled = ask(address, "i3d_video", video=frames, classes=3)
        batch = ask(address, "i3d", frames=ask(address, "i3d_preprocess", video=frames)["frames"])
        script = [sys.executable, str(ROOT / "export" / "triton" / "client.py"), str(clip), "--model", "i3d_video"]
        client = subprocess.run([*script, "--url", address, "--top", "2"], capture_output=True, text=True)
    # ONNX Runtime is told the number of views by the library and not by Triton, which rounds otherwise.
    for found in (answer["logits"], batch["logits"]):
        np.testing.assert_allclose(found, expected.logits, rtol=0, atol=2e-6)
    np.testing.assert_allclose(answer["probabilities"], expected.probabilities, rtol=0, atol=1e-6)
    labels = [line.decode().split(":", 2)[2] for line in labelled["probabilities"]]
    assert labels == [label for label, _ in expected.top(3)]
    assert client.returncode == 0, client.stderr
    assert client.stdout.splitlines() == [f"{probability:7.4f}  {label}" for label, probability in expected.top(2)]
