"""Times of layers and of the copy to the device."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from i3d_deploy import export
from i3d_deploy.builders import Target
from i3d_deploy.card import Card, Engine
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import InputError
from i3d_deploy.frames import Resized
from i3d_deploy.runners import LayerTime, Runner, RunnerInfo, open_runner
from i3d_deploy.runners.onnx_runner import sum_layers
from i3d_deploy.runners.torch_runner import ModuleTimer
from tests.on_cuda import on_cuda

CONVOLUTIONS = {
    "tiny.safetensors": {"Conv3d"},
    "tiny.onnx": {"Conv", "FusedConv"},
    "tiny.xml": {"Convolution"},
}
NAMES = list(CONVOLUTIONS)

CUDA_NAMES = [on_cuda("tiny.safetensors", by="PyTorch"), on_cuda("tiny.onnx", by="ONNX Runtime")]


def some_views(count: int) -> NDArray[np.uint8]:
    """Random views of the tiny network's shape."""
    return np.random.RandomState(count).randint(0, 256, (count, 8, 32, 32, 3)).astype(np.uint8)


@pytest.fixture
def num_convolutions(tiny_checkpoint: Checkpoint) -> int:
    """Of the network that was exported."""
    return sum(isinstance(module, torch.nn.Conv3d) for module in tiny_checkpoint.model.modules())


def check(layers: tuple[LayerTime, ...], name: str, num_convolutions: int) -> None:
    """Every convolution is there and took time, and the slowest layer is the first."""
    found = [layer for layer in layers if layer.kind in CONVOLUTIONS[name]]
    assert len(found) == num_convolutions
    assert all(layer.seconds > 0 for layer in found)
    seconds = [layer.seconds for layer in layers]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[-1] >= 0  # a layer may be below the clock's microsecond
    assert len({(layer.name, layer.kind) for layer in layers}) == len(layers)
    assert all(layer.name for layer in layers)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("count", "runs"), [(1, 1), (3, 2)])
def test_every_convolution_is_timed(
    tiny_exports: Path, num_convolutions: int, name: str, count: int, runs: int
) -> None:
    with open_runner(tiny_exports / name, device="cpu") as runner:
        check(runner.profile(some_views(count), runs=runs), name, num_convolutions)


@pytest.mark.parametrize("name", NAMES)
def test_the_layers_of_a_run_take_no_longer_than_the_call(tiny_exports: Path, name: str) -> None:
    views, runs = some_views(2), 4
    with open_runner(tiny_exports / name, device="cpu") as runner:
        start = time.perf_counter()
        layers = runner.profile(views, runs=runs)
        elapsed = time.perf_counter() - start
    assert sum(layer.seconds for layer in layers) * runs <= elapsed


@pytest.mark.parametrize("name", NAMES)
def test_answers_stay_as_they_were(tiny_exports: Path, name: str) -> None:
    views = some_views(3)
    with open_runner(tiny_exports / name, device="cpu") as runner:
        before = runner.infer(views)
        runner.profile(views, runs=1)
        runner.transfer(views)
        np.testing.assert_array_equal(runner.infer(views), before)


def test_no_hook_stays_in_the_network(tiny_exports: Path) -> None:
    with open_runner(tiny_exports / "tiny.safetensors", device="cpu") as runner:
        runner.profile(some_views(1), runs=1)
        model: torch.nn.Module = runner.model  # type: ignore[attr-defined] # of TorchRunner
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", NAMES)
def test_no_file_is_left_behind(tiny_exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = sorted(tiny_exports.iterdir())
    with open_runner(tiny_exports / name, device="cpu") as runner:
        runner.profile(some_views(1), runs=1)
    assert list(tmp_path.iterdir()) == []
    assert sorted(tiny_exports.iterdir()) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_closed_runner_says_so(tiny_exports: Path, name: str) -> None:
    runner = open_runner(tiny_exports / name, device="cpu")
    runner.profile(some_views(1), runs=1)
    runner.close()
    runner.close()
    with pytest.raises(InputError, match=r"^the runner is closed$"):
        runner.profile(some_views(1))
    with pytest.raises(InputError, match=r"^the runner is closed$"):
        runner.transfer(some_views(1))


@pytest.mark.parametrize("name", NAMES)
def test_views_of_another_shape_are_refused(tiny_exports: Path, name: str) -> None:
    views = np.zeros((1, 8, 32, 33, 3), np.uint8)
    expected = r"^views must be uint8 of shape \(N, 8, 32, 32, 3\), not uint8 of shape \(1, 8, 32, 33, 3\)$"
    with open_runner(tiny_exports / name, device="cpu") as runner:
        for refuse in (runner.infer, runner.profile, runner.transfer):
            with pytest.raises(InputError, match=expected):
                refuse(views)


def test_no_run_is_refused(tiny_exports: Path) -> None:
    with (
        open_runner(tiny_exports / "tiny.onnx", device="cpu") as runner,
        pytest.raises(InputError, match=r"runs \(0\) must be > 0"),
    ):
        runner.profile(some_views(1), runs=0)


@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_views_are_normalised_and_filled_up_as_for_infer(
    tiny_checkpoint: Checkpoint, tmp_path: Path, num_convolutions: int, target: Target
) -> None:
    (exported,) = export.export(
        tiny_checkpoint,
        targets=[target],
        output=tmp_path,
        name="tiny",
        engine=Engine(input="float32_ncthw", profile=(4, 4, 8)),
    )
    with open_runner(exported.path, device="cpu") as runner:
        check(runner.profile(some_views(2), runs=1), exported.path.name, num_convolutions)


def test_pytorch_names_modules(tiny_exports: Path) -> None:
    with open_runner(tiny_exports / "tiny.safetensors", device="cpu") as runner:
        layers = runner.profile(some_views(1), runs=1)
    kinds = {layer.name: layer.kind for layer in layers}
    # Of the network that conftest.py describes: two stages of two blocks, the last of them non-local.
    assert kinds["conv1"] == "Conv3d"
    assert kinds["layer1.0.downsample.1"] == "BatchNorm3d"
    assert kinds["layer2.1.conv3"] == "Conv3d"
    assert kinds["layer2.1.relu"] == "ReLU"
    assert kinds["layer2.1.non_local"] == "NonLocalBlock"
    assert kinds["layer2.1.non_local.theta"] == "Conv3d"
    assert kinds["fc"] == "Linear"
    assert "layer2" not in kinds


class Sleeper(torch.nn.Module):
    """Sleeps, and has its parts sleep."""

    def __init__(self, seconds: float, *parts: torch.nn.Module) -> None:
        super().__init__()
        self.seconds = seconds
        self.parts = torch.nn.ModuleList(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pass the tensor through."""
        time.sleep(self.seconds)
        for part in self.parts:
            x = part(x)
        return x


def test_the_time_of_a_part_is_not_that_of_the_whole() -> None:
    network = Sleeper(0.01, Sleeper(0.02, Sleeper(0.04)), Sleeper(0.03))
    start = time.perf_counter()
    with ModuleTimer(network, torch.device("cpu")) as timer:
        network(torch.zeros(1))
        network(torch.zeros(1))
    elapsed = time.perf_counter() - start
    slept = {"Sleeper": 0.01, "parts.0": 0.02, "parts.0.parts.0": 0.04, "parts.1": 0.03}
    assert {name for name, _ in timer.seconds} == set(slept)
    for name, seconds in slept.items():
        assert timer.seconds[name, "Sleeper"] >= 2 * seconds
    # Counted twice, the innermost alone would make the sum longer than the whole.
    assert sum(timer.seconds.values()) <= elapsed


def event(cat: str, name: str, *, start: int, microseconds: int, **args: str) -> dict[str, Any]:
    """One entry of a profile, as ONNX Runtime writes it."""
    return {"cat": cat, "pid": 1, "tid": 1, "dur": microseconds, "ts": start, "ph": "X", "name": name, "args": args}


def trace(provider: str, *, kernels: bool) -> list[dict[str, Any]]:
    """Three runs of a node on the provider and one on the CPU; times are 10 and 2 us, 90 and 50 in the first run."""
    events = [event("Session", "session_initialization", start=0, microseconds=900)]
    for run, start in enumerate((1000, 2000, 3000)):
        slow, quick = ((90, 50), (10, 2), (10, 2))[run]
        node = {"op_name": "FusedConv", "provider": provider}
        events.append(event("Node", "Conv_4_kernel_time", start=start, microseconds=slow, **node))
        if kernels:
            parent = {"op_name": "FusedConv", "parent_name": "Conv_4_kernel_time", "stream": "7"}
            events.append(event("Kernel", "pad", start=start + 5, microseconds=100, **parent))
            events.append(event("Kernel", "conv3d", start=start + 105, microseconds=200, **parent))
            events.append(event("Kernel", "lost", start=start + 305, microseconds=4, stream="7"))
        shape = {"op_name": "Shape", "provider": "CPUExecutionProvider"}
        events.append(event("Node", "Shape_5_kernel_time", start=start + 400, microseconds=quick, **shape))
        events.append(event("Session", "SequentialExecutor::Execute", start=start, microseconds=500))
        events.append(event("Session", "model_run", start=start, microseconds=510))
    return events


def test_onnx_runtimes_first_run_does_not_count() -> None:
    found = sum_layers(trace("CPUExecutionProvider", kernels=False))
    assert found == pytest.approx({("Conv_4", "FusedConv"): 20e-6, ("Shape_5", "Shape"): 4e-6})


def test_on_a_gpu_onnx_runtimes_kernels_count() -> None:
    found = sum_layers(trace("CUDAExecutionProvider", kernels=True))
    expected = {("Conv_4", "FusedConv"): 600e-6, ("lost", "kernel"): 8e-6, ("Shape_5", "Shape"): 4e-6}
    assert found == pytest.approx(expected)


def test_without_kernels_onnx_runtime_cannot_tell_of_a_gpu() -> None:
    assert sum_layers(trace("CUDAExecutionProvider", kernels=False)) == {}


class Copying(Runner):
    """A runner that keeps what it would copy to its device, and cannot tell of its layers."""

    def __init__(self, card: Card, device: str) -> None:
        super().__init__()
        self.card = card
        self.info = RunnerInfo(backend="none", device=device, provider="none", precision="fp32")
        self.copied: list[Resized] = []

    def _run(self, inputs: Resized) -> NDArray[np.float32]:
        return np.zeros((len(inputs), self.card.network.num_classes), np.float32)

    def _transfer(self, inputs: Resized) -> None:
        self.copied.append(inputs)


def test_a_runner_that_cannot_tell_says_nothing(tiny_checkpoint: Checkpoint) -> None:
    with Copying(tiny_checkpoint.card, "cpu") as runner:
        assert runner.profile(some_views(1)) == ()


def test_nothing_is_copied_on_a_cpu(tiny_checkpoint: Checkpoint) -> None:
    with Copying(tiny_checkpoint.card, "cpu") as runner:
        runner.transfer(some_views(2))
    assert runner.copied == []


def test_views_are_copied_as_they_are(tiny_checkpoint: Checkpoint) -> None:
    card = tiny_checkpoint.card.model_copy(update={"engine": Engine(profile=(2, 4, 8))})
    views = some_views(2)
    with Copying(card, "cuda:0") as runner:
        runner.transfer(views)
    assert runner.copied[0] is views


@pytest.mark.parametrize(
    ("engine", "dtype", "shape"),
    [
        (None, np.float32, (3, 3, 8, 32, 32)),
        (Engine(input="float32_ncthw"), np.float32, (3, 3, 8, 32, 32)),
        (Engine(input="float32_ncthw", profile=(4, 4, 8)), np.float32, (4, 3, 8, 32, 32)),
        (Engine(profile=(4, 4, 8)), np.uint8, (4, 8, 32, 32, 3)),
    ],
    ids=["network", "floats", "floats, filled up", "filled up"],
)
def test_what_is_copied_is_like_the_engines_input(
    tiny_checkpoint: Checkpoint, engine: Engine | None, dtype: type, shape: tuple[int, ...]
) -> None:
    card = tiny_checkpoint.card.model_copy(update={"engine": engine})
    with Copying(card, "cuda:0") as runner:
        for count in (3, 2, 3):
            runner.transfer(some_views(count))
    first, _, third = runner.copied
    assert first.dtype == dtype
    assert first.shape == shape
    assert first.flags.c_contiguous
    assert np.shares_memory(first, third)  # a later call times no allocation


@pytest.mark.parametrize("name", CUDA_NAMES)
def test_views_reach_the_gpu(tiny_exports: Path, name: str) -> None:
    views = some_views(2)
    with open_runner(tiny_exports / name, device="cuda") as runner:
        before = runner.infer(views)
        runner.transfer(views)
        np.testing.assert_array_equal(runner.infer(views), before)


@pytest.mark.parametrize("name", CUDA_NAMES)
def test_layers_on_a_gpu(tiny_exports: Path, num_convolutions: int, name: str) -> None:
    views = some_views(2)
    with open_runner(tiny_exports / name, device="cuda") as runner:
        before = runner.infer(views)
        layers = runner.profile(views, runs=2)
        np.testing.assert_array_equal(runner.infer(views), before)
    if name == "tiny.safetensors":
        check(layers, name, num_convolutions)
    else:  # how much ONNX Runtime tells depends on its build
        assert all(layer.seconds >= 0 for layer in layers)
