"""TensorRT engines: what is refused before a GPU is needed, the calls on a stand-in engine, answers on a GPU."""

from __future__ import annotations

import copy
import ctypes
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray

from i3d_deploy import to_tensorrt
from i3d_deploy.artifact import engine_note_path
from i3d_deploy.card import Card, Precision
from i3d_deploy.errors import ArtifactError, CardError, DeviceError, ExportError, InputError, MissingExtraError
from i3d_deploy.network import ResNet
from i3d_deploy.runners import tensorrt_runner
from i3d_deploy.runners.device_memory import DeviceMemory, Gpu, find_gpu
from i3d_deploy.runners.tensorrt_runner import TensorRTRunner
from i3d_deploy.tensorrt_flavor import Flavor, FlavorName, is_installed, load_flavor
from i3d_deploy.to_tensorrt import EngineOptions, Plan, build, write
from tests.gpu import IS_DEMANDED, has_gpu
from tests.tiny_onnx import NUM_CLASSES, PROFILE, VIEW_SHAPE, tiny_card, tiny_logits, tiny_model

# Where a GPU is demanded, so is the package.
rtx = importlib.import_module("tensorrt_rtx") if IS_DEMANDED else pytest.importorskip("tensorrt_rtx")


@pytest.fixture
def card(tiny_network: ResNet) -> Card:
    return tiny_card(tiny_network)


@pytest.fixture
def engine_path(tmp_path: Path, card: Card) -> Path:
    """A real engine for Ada, with its note."""
    path = tmp_path / "tiny.engine"
    options = EngineOptions(flavor="tensorrt_rtx", compute_capability="8.9")
    write(build(tiny_model().SerializeToString(), profile=PROFILE, options=options), card, path)
    return path


def edit_note(path: Path, **fields: Any) -> None:
    note_path = engine_note_path(path)
    note_path.write_text(json.dumps({**json.loads(note_path.read_text()), **fields}))


def random_views(num_views: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (num_views, *VIEW_SHAPE), np.uint8)


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(engine_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"^[^\n]*NVIDIA driver[^\n]*i3d-doctor[^\n]*$"):
        TensorRTRunner(engine_path)


def test_altered_plan_is_not_loaded(engine_path: Path) -> None:
    content = bytearray(engine_path.read_bytes())
    content[len(content) // 2] ^= 1
    engine_path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"SHA-256.*altered or replaced"):
        TensorRTRunner(engine_path)


def test_plan_without_a_note_is_not_loaded(engine_path: Path) -> None:
    engine_note_path(engine_path).unlink()
    with pytest.raises(CardError, match=r"carries no card: tiny\.engine\.json"):
        TensorRTRunner(engine_path)


def test_missing_plan_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        TensorRTRunner(tmp_path / "absent.engine")


def test_engine_of_another_version_must_be_rebuilt(engine_path: Path) -> None:
    edit_note(engine_path, version="1.2.0.54")
    expected = (
        rf"^Engine built for TensorRT-RTX 1\.2\.0\.54, running {rtx.__version__}: rebuild with i3d-export --to ten"
    )
    with pytest.raises(ArtifactError, match=expected):
        TensorRTRunner(engine_path)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="there is TensorRT")
def test_engine_of_a_missing_flavor_names_its_extra(engine_path: Path) -> None:
    edit_note(engine_path, flavor="tensorrt", version="11.4.0")
    with pytest.raises(MissingExtraError, match=r"i3d-deploy\[tensorrt\]"):
        TensorRTRunner(engine_path)


def test_note_must_describe_an_engine(engine_path: Path, card: Card) -> None:
    edit_note(engine_path, card=json.loads(card.model_copy(update={"engine": None}).to_json()))
    with pytest.raises(CardError, match="describes no engine"):
        TensorRTRunner(engine_path)


class HostMemory(DeviceMemory):
    """Device memory that is host memory, and a record of what was called."""

    stream = 0x1234

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls
        self.buffers: list[NDArray[Any]] = []

    @contextmanager
    def current(self) -> Iterator[None]:
        yield

    def allocate(self, size_bytes: int) -> int:
        self.buffers.append(np.zeros(size_bytes, np.uint8))
        return int(self.buffers[-1].ctypes.data)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        return np.zeros(shape, dtype)

    def copy_to_device(self, address: int, source: NDArray[Any]) -> None:
        assert source.flags.c_contiguous
        ctypes.memmove(address, source.ctypes.data, source.nbytes)
        self.calls.append("copy to device")

    def copy_to_host(self, target: NDArray[Any], address: int) -> None:
        ctypes.memmove(target.ctypes.data, address, target.nbytes)
        self.calls.append("copy to host")

    def synchronize(self) -> None:
        self.calls.append("synchronize")

    def close(self) -> None:
        self.calls.append("close memory")


class StandInEngine:
    """Runtime, engine and context in one, with the tensors of the tiny model; answers its logits."""

    num_io_tensors = 2

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls
        self.refuses = ""
        self.loads = True
        self.input_type = rtx.DataType.UINT8
        self.num_classes = NUM_CLASSES
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        self.profiler: Any = None
        self.contexts: list[StandInEngine] = []

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        return self if self.loads else None

    def create_execution_context(self) -> Any:
        context = copy.copy(self)
        context.addresses = {}
        self.contexts.append(context)
        return context

    def get_tensor_name(self, index: int) -> str:
        return ("frames", "logits")[index]

    def get_tensor_mode(self, name: str) -> Any:
        return rtx.TensorIOMode.INPUT if name == "frames" else rtx.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self.input_type if name == "frames" else rtx.DataType.FLOAT

    def get_tensor_shape(self, name: str) -> Any:
        return rtx.Dims((-1, *VIEW_SHAPE) if name == "frames" else (-1, self.num_classes))

    def get_tensor_profile_shape(self, name: str, index: int) -> list[Any]:
        return [rtx.Dims((num_views, *VIEW_SHAPE)) for num_views in PROFILE]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self.refuses != "address"

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return self.refuses != "shape"

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == HostMemory.stream
        self.calls.append("execute")
        size = int(np.prod(self.shape))
        views = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.addresses["frames"]))
        logits = tiny_logits(views.reshape(self.shape)).astype(np.float32)
        ctypes.memmove(self.addresses["logits"], logits.ctypes.data, logits.nbytes)
        if self.profiler is not None:
            first_run = self.calls.count("execute") == 1
            self.profiler.report_layer_time("convolution", 90.0 if first_run else 3.0)
            self.profiler.report_layer_time("transpose + cast", 4.0)
        return self.refuses != "run"


class Runtime:
    """The module's ``Runtime`` class: gives the stand-in engine."""

    def __init__(self, engine: StandInEngine) -> None:
        self.engine = engine

    def __call__(self, logger: Any) -> StandInEngine:
        logger.log(rtx.ILogger.ERROR, "a reason")
        return self.engine


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandInEngine:
    """An engine and memory in place of a GPU's; the loading of notes and plans stays real."""
    calls: list[str] = []
    engine = StandInEngine(calls)
    real = load_flavor("tensorrt_rtx")
    content = {name: getattr(rtx, name) for name in ("DataType", "IProfiler", "TensorIOMode")}
    module = type("module", (), {"Runtime": Runtime(engine), **content})
    flavor = Flavor(name=real.name, version=real.version, module=module, logger=real.logger)
    monkeypatch.setattr(tensorrt_runner, "load_flavor", lambda name: flavor)
    monkeypatch.setattr(tensorrt_runner, "find_gpu", lambda device: Gpu(name="NVIDIA L4", compute_capability="8.9"))
    monkeypatch.setattr(tensorrt_runner, "open_device_memory", lambda device: HostMemory(calls))
    return engine


@pytest.mark.parametrize("num_views", [1, 3, 5])
def test_every_batch_of_the_profile_is_answered(engine_path: Path, stand_in: StandInEngine, num_views: int) -> None:
    views = random_views(num_views)
    with TensorRTRunner(engine_path) as runner:
        logits = runner.infer(views)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, tiny_logits(views), rtol=1e-6)
    assert stand_in.calls == ["copy to device", "execute", "copy to host", "synchronize", "close memory"]


def test_answers_are_the_callers_own(engine_path: Path, stand_in: StandInEngine) -> None:
    with TensorRTRunner(engine_path) as runner:
        first = runner.infer(random_views(2))
        before = first.copy()
        runner.infer(np.zeros((2, *VIEW_SHAPE), np.uint8))
    np.testing.assert_array_equal(first, before)


def test_threads_take_turns_with_its_buffers(engine_path: Path, stand_in: StandInEngine) -> None:
    shown = [random_views(1 + number % 5) + np.uint8(number) for number in range(32)]
    with TensorRTRunner(engine_path) as runner, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(runner.infer, shown))
    for logits, views in zip(found, shown, strict=True):
        np.testing.assert_allclose(logits, tiny_logits(views), rtol=1e-6)
    assert stand_in.calls == ["copy to device", "execute", "copy to host", "synchronize"] * 32 + ["close memory"]


def test_layers_are_timed_in_a_context_of_their_own(engine_path: Path, stand_in: StandInEngine) -> None:
    with TensorRTRunner(engine_path) as runner:
        layers = runner.profile(random_views(2), runs=2)
    assert [(layer.name, layer.kind) for layer in layers] == [("transpose + cast", "layer"), ("convolution", "layer")]
    assert [layer.seconds for layer in layers] == pytest.approx([4e-3, 3e-3])  # without the first run
    assert stand_in.calls == ["copy to device", "synchronize", *["execute", "synchronize"] * 3, "close memory"]
    used, profiled = stand_in.contexts
    assert used.profiler is None
    assert used.shape == ()
    assert profiled.addresses == used.addresses


def test_answers_are_the_same_after_a_profile(engine_path: Path, stand_in: StandInEngine) -> None:
    views = random_views(3)
    with TensorRTRunner(engine_path) as runner:
        before = runner.infer(views)
        runner.profile(random_views(1))
        np.testing.assert_array_equal(runner.infer(views), before)


def test_transfer_copies_the_views_and_waits(engine_path: Path, stand_in: StandInEngine) -> None:
    views = random_views(2)
    with TensorRTRunner(engine_path) as runner:
        runner.transfer(views)
        address = stand_in.contexts[0].addresses["frames"]
        content = bytes((ctypes.c_uint8 * views.nbytes).from_address(address))
    assert content == views.tobytes()
    assert stand_in.calls == ["copy to device", "synchronize", "close memory"]


@pytest.mark.parametrize("method", ["infer", "profile", "transfer"])
def test_batch_beyond_the_profile_is_refused(engine_path: Path, stand_in: StandInEngine, method: str) -> None:
    with TensorRTRunner(engine_path) as runner, pytest.raises(InputError, match=r"^6 views .* takes 1 to 5"):
        getattr(runner, method)(random_views(6))


def test_info_tells_what_runs(engine_path: Path, stand_in: StandInEngine) -> None:
    with TensorRTRunner(engine_path, device=1) as runner:
        expected = f"tensorrt_rtx {rtx.__version__} NVIDIA L4 (compute capability 8.9) on cuda:1, fp32"
        assert str(runner.info) == expected
        assert runner.preferred_batch == 3


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ("address", "refused the address of frames: a reason"),
        ("shape", r"refused the shape \(1, 4, 16, 16, 3\)"),
        ("run", "refused to run"),
    ],
)
def test_refused_calls_are_errors(engine_path: Path, stand_in: StandInEngine, refused: str, message: str) -> None:
    stand_in.refuses = refused
    with pytest.raises(DeviceError, match=message), TensorRTRunner(engine_path) as runner:
        runner.infer(random_views(1))
    assert stand_in.calls[-1] == "close memory"


def test_plan_that_does_not_load_tells_why(engine_path: Path, stand_in: StandInEngine) -> None:
    stand_in.loads = False
    expected = r"cannot load this engine, built for compute capability 8\.9, on NVIDIA L4 with 8\.9: a reason"
    with pytest.raises(ArtifactError, match=expected):
        TensorRTRunner(engine_path)
    assert stand_in.calls == ["close memory"]


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (
            lambda engine: setattr(engine, "input_type", rtx.DataType.FLOAT),
            r"input of the engine is float32.*says uint8",
        ),
        (lambda engine: setattr(engine, "input_type", rtx.DataType.HALF), r"frames .* must be uint8 or float32"),
        (lambda engine: setattr(engine, "num_classes", 6), r"output .* \(N, 6\), its card says float32 .* \(N, 7\)"),
        (lambda engine: setattr(engine, "num_io_tensors", 1), "one input and one output, not frames"),
    ],
)
def test_engine_unlike_its_card_is_refused(
    engine_path: Path, stand_in: StandInEngine, alter: Callable[[StandInEngine], None], message: str
) -> None:
    alter(stand_in)
    with pytest.raises(ArtifactError, match=message):
        TensorRTRunner(engine_path)


def test_closed_runner_refuses_views(engine_path: Path, stand_in: StandInEngine) -> None:
    runner = TensorRTRunner(engine_path)
    runner.close()
    runner.close()
    for refuse in (runner.infer, runner.profile, runner.transfer):
        with pytest.raises(InputError, match="the runner is closed"):
            refuse(random_views(1))


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_real_runtime_without_a_gpu_tells_why(
    engine_path: Path, stand_in: StandInEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_runner, "load_flavor", load_flavor)
    with pytest.raises(ArtifactError, match=r"cannot load this engine.*Cuda Runtime"):
        TensorRTRunner(engine_path)


# Largest difference of a logit of magnitude 1: float16 rounds to 11 bits, bfloat16 to 8, over sums of 3 products.
TOLERANCES: dict[Precision, float] = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2}

FLAVORS: tuple[FlavorName, ...] = ("tensorrt", "tensorrt_rtx")


@pytest.fixture(params=FLAVORS)
def flavor(request: pytest.FixtureRequest) -> FlavorName:
    """Of the two packages, those that are installed."""
    name: FlavorName = request.param
    if not is_installed(name):
        pytest.skip(f"no {name}")
    return name


@contextmanager
def refusal_recorded(flavor: FlavorName) -> Iterator[None]:
    """TensorRT-RTX may refuse a GPU that it has no code for, such as one of Hopper's: that is no failure of ours."""
    gpu = find_gpu()
    try:
        yield
    except (ArtifactError, DeviceError, ExportError) as error:
        is_known = f"SM{gpu.compute_capability.replace('.', '')}" in rtx.ComputeCapability.__members__
        if flavor == "tensorrt" or is_known or str(load_flavor(flavor)) not in str(error):
            raise
        pytest.xfail(f"{gpu.name} ({gpu.compute_capability}): {error}")


def build_here(path: Path, card: Card, *, flavor: FlavorName, precision: Precision = "fp32") -> None:
    """Build the tiny model's engine for the GPU of this machine."""
    options = EngineOptions(flavor=flavor, compute_capability="current")
    write(build(tiny_model(precision).SerializeToString(), profile=PROFILE, options=options), card, path)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("num_views", PROFILE)
def test_engine_answers_as_arithmetic_does(
    tiny_network: ResNet, tmp_path: Path, flavor: FlavorName, precision: Precision, num_views: int
) -> None:
    path = tmp_path / "tiny.engine"
    views = random_views(num_views)
    with refusal_recorded(flavor):
        build_here(path, tiny_card(tiny_network, precision=precision), flavor=flavor, precision=precision)
        with TensorRTRunner(path) as runner:
            logits = runner.infer(views)
    gpu = find_gpu()
    assert runner.info.provider == f"{gpu.name} (compute capability {gpu.compute_capability})"
    np.testing.assert_allclose(logits, tiny_logits(views), rtol=0, atol=TOLERANCES[precision])


@pytest.mark.gpu
def test_layers_are_timed_on_a_gpu(card: Card, tmp_path: Path, flavor: FlavorName) -> None:
    path = tmp_path / "tiny.engine"
    views = random_views(3)
    with refusal_recorded(flavor):
        build_here(path, card, flavor=flavor)
        with TensorRTRunner(path) as runner:
            before = runner.infer(views)
            layers = runner.profile(views)
            runner.transfer(views)
            after = runner.infer(views)
    np.testing.assert_array_equal(after, before)
    assert layers
    assert layers[0].seconds > 0
    assert layers[0].seconds == max(layer.seconds for layer in layers)


@pytest.mark.gpu
def test_several_threads_run_one_engine_on_a_gpu(card: Card, tmp_path: Path, flavor: FlavorName) -> None:
    path = tmp_path / "tiny.engine"
    shown = [random_views(1 + number % 5) + np.uint8(number) for number in range(32)]
    with refusal_recorded(flavor):
        build_here(path, card, flavor=flavor)
        with TensorRTRunner(path) as runner, ThreadPoolExecutor(8) as threads:
            found = list(threads.map(runner.infer, shown))
    for logits, views in zip(found, shown, strict=True):
        np.testing.assert_allclose(logits, tiny_logits(views), rtol=0, atol=TOLERANCES["fp32"])


# What TensorRT-RTX says on this machine stands for what it says of a GPU that it does not know: it refuses both.
@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("capability", "outcome"), [("9.0", pytest.xfail.Exception), ("8.9", ExportError)], ids=["Hopper", "Ada"]
)
def test_only_the_refusal_of_an_unknown_gpu_is_no_failure(
    card: Card,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capability: str,
    outcome: type[BaseException],
) -> None:
    for module in (to_tensorrt, sys.modules[__name__]):
        monkeypatch.setattr(module, "find_gpu", lambda *_: Gpu(name="NVIDIA GPU", compute_capability=capability))
    expected = rf"could not build the engine for .* {capability}: .*Cuda Runtime"
    with pytest.raises(outcome, match=expected), refusal_recorded("tensorrt_rtx"):
        build_here(tmp_path / "tiny.engine", card, flavor="tensorrt_rtx")
    with pytest.raises(DeviceError, match="of the memory"), refusal_recorded("tensorrt_rtx"):
        raise DeviceError("an error of the memory, which is not TensorRT's")


@pytest.mark.gpu
def test_plan_of_nonsense_is_refused_by_the_runtime(card: Card, tmp_path: Path, flavor: FlavorName) -> None:
    path = tmp_path / "tiny.engine"
    version, capability = load_flavor(flavor).version, find_gpu().compute_capability
    plan = Plan(content=b"nonsense" * 100, flavor=flavor, version=version, compute_capability=capability)
    write(plan, card, path)
    with refusal_recorded(flavor), pytest.raises(ArtifactError, match="cannot load this engine"):
        TensorRTRunner(path)
