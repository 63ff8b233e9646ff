"""ONNX Runtime runs where its runner says: CUDA's provider is used in full, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

from i3d_deploy import export, limits
from i3d_deploy.card import Engine
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import ArtifactError, DeviceError
from i3d_deploy.preprocessing import normalize
from i3d_deploy.runners.onnx_runner import OnnxRunner
from tests.on_cuda import HAS_CUDA, on_cuda

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def some_views(count: int) -> NDArray[np.uint8]:
    """Random views of the tiny network's shape."""
    return np.random.RandomState(count).randint(0, 256, (count, 8, 32, 32, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def exports(tiny_exports: Path, tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The tiny network in fp32, and in both layouts of fp16."""
    folder = tmp_path_factory.mktemp("fp16")
    narrow = export.export(
        tiny_checkpoint, targets=["onnx"], output=folder, name="tiny", engine=Engine(precision="fp16")
    )
    assert [entry.path.name for entry in narrow] == ["tiny.onnx", "tiny_2d.onnx"]
    return [tiny_exports / "tiny.onnx", *(entry.path for entry in narrow)]


def providers_of_convolutions(runner: OnnxRunner, views: NDArray[np.uint8], trace: Path) -> list[str]:
    """What ran each convolution in a session like the runner's own, as ONNX Runtime's profile says."""
    session = runner._open(1, num_views=None, trace=trace)
    session.run(["logits"], {"frames": views})
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event["args"] for event in events if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]
    return [node["provider"] for node in nodes if node["op_name"].endswith("Conv")]


@pytest.mark.parametrize("device", ["cpu", on_cuda("cuda", by="ONNX Runtime")])
@pytest.mark.parametrize("number", range(3), ids=["fp32", "fp16", "fp16 2d"])
def test_every_convolution_runs_where_the_runner_says(
    exports: list[Path], tiny_checkpoint: Checkpoint, tmp_path: Path, number: int, device: str
) -> None:
    views = some_views(3)
    with OnnxRunner(exports[number], device=device) as runner:
        logits = runner.infer(views)
        found = providers_of_convolutions(runner, views, tmp_path / "trace")
    num_convolutions = sum(isinstance(module, torch.nn.Conv3d) for module in tiny_checkpoint.model.modules())
    assert found == [PROVIDERS[device]] * num_convolutions
    assert (runner.info.provider, runner.info.device) == (PROVIDERS[device], {"cpu": "cpu", "cuda": "cuda:0"}[device])
    with torch.no_grad():
        expected = tiny_checkpoint.model(torch.from_numpy(normalize(views, tiny_checkpoint.card.pixels))).numpy()
    limit = limits.logits_limit(runner.card, expected)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=limit)


def test_a_gpu_that_is_not_there_is_refused(tiny_exports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DeviceError, match=r"^ONNX Runtime \S+ cannot use cuda:99"):
        OnnxRunner(tiny_exports / "tiny.onnx", device="cuda:99")
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(HAS_CUDA["ONNX Runtime"], reason="there is a build for CUDA")
def test_a_build_for_cpus_names_the_other(tiny_exports: Path) -> None:
    with pytest.raises(DeviceError, match=r"cannot use cuda, it is a build for CPUs: pip install 'i3d-deploy\[gpu\]'"):
        OnnxRunner(tiny_exports / "tiny.onnx", device="cuda")


@pytest.fixture
def idle_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build for CUDA where CUDA does not start: its provider is offered, and left out of sessions with a warning."""
    if HAS_CUDA["ONNX Runtime"]:
        pytest.skip("there is a build for CUDA")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS.values()))
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcublasLt.so.13"))


@pytest.mark.usefixtures("idle_cuda")
@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_a_provider_that_does_not_start_is_refused(tiny_exports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DeviceError, match=r"cannot use cuda: there is no such GPU .* or CUDA's libraries are missing"):
        OnnxRunner(tiny_exports / "tiny.onnx", device="cuda")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "Failed to load libcublasLt.so.13\n")


@pytest.mark.usefixtures("idle_cuda")
@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_auto_says_that_it_is_the_cpu(tiny_exports: Path) -> None:
    with OnnxRunner(tiny_exports / "tiny.onnx", device="auto") as runner:
        assert (runner.info.provider, runner.info.device) == ("CPUExecutionProvider", "cpu")
        assert runner.infer(some_views(2)).shape == (2, 7)


class LostDevice:
    """The inside of a session, on a GPU that fails."""

    def __init__(self, inside: Any) -> None:
        self.inside = inside

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inside, name)

    def run(self, *arguments: object) -> None:
        raise EPFail("[ONNXRuntimeError] : 11 : EP_FAIL : CUDA failure 700: an illegal memory access")


def test_a_run_that_fails_on_a_gpu_is_not_repeated_on_the_cpu(
    tiny_exports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with OnnxRunner(tiny_exports / "tiny.onnx", device="cpu") as runner:
        session = runner._session
        assert session is not None
        session._sess = LostDevice(session._sess)
        with pytest.raises(ArtifactError, match="cannot run 1 views: CUDA failure 700: an illegal memory access"):
            runner.infer(some_views(1))
    assert capsys.readouterr().out == ""
