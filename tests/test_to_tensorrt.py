"""Engines from ONNX models, without a GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from i3d_deploy import to_tensorrt
from i3d_deploy.artifact import read_engine_note
from i3d_deploy.card import Precision
from i3d_deploy.errors import DeviceError, ExportError, InputError
from i3d_deploy.network import ResNet
from i3d_deploy.runners.device_memory import Gpu
from i3d_deploy.tensorrt_flavor import Flavor, load_flavor
from i3d_deploy.to_tensorrt import EngineOptions, Plan, build, write
from tests.gpu import has_gpu
from tests.tiny_onnx import PROFILE, tiny_card, tiny_model

rtx = pytest.importorskip("tensorrt_rtx")

ADA = EngineOptions(flavor="tensorrt_rtx", compute_capability="8.9")


def pretend_gpu(compute_capability: str | None) -> Callable[[int], Gpu]:
    """A stand-in for ``find_gpu`` on a machine with such a GPU, or without one."""

    def find(device: int = 0) -> Gpu:
        if compute_capability is None:
            raise DeviceError("no NVIDIA driver on this machine")
        return Gpu(name="GPU", compute_capability=compute_capability)

    return find


@pytest.fixture
def plain_tensorrt(monkeypatch: pytest.MonkeyPatch) -> Flavor:
    """TensorRT-RTX under the name of ``tensorrt``, whose interface it shares, on a machine with a Hopper GPU."""
    real = load_flavor("tensorrt_rtx")
    flavor = Flavor(name="tensorrt", version="11.4.0", module=real.module, logger=real.logger)
    monkeypatch.setattr(to_tensorrt, "load_flavor", lambda name: flavor)
    monkeypatch.setattr(to_tensorrt, "find_gpu", pretend_gpu("9.0"))
    return flavor


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_every_precision_builds_for_ada(precision: Precision) -> None:
    plan = build(tiny_model(precision).SerializeToString(), profile=PROFILE, options=ADA)
    assert len(plan.content) > 10_000
    assert (plan.flavor, plan.version, plan.compute_capability) == ("tensorrt_rtx", rtx.__version__, "8.9")


@pytest.mark.parametrize("capability", ["8.0", "8.6", "8.9", "12.0", "12.1", "8.0+"])
def test_rtx_builds_for_every_capability_without_a_gpu(capability: str) -> None:
    options = EngineOptions(flavor="tensorrt_rtx", compute_capability=capability)
    assert build(tiny_model().SerializeToString(), profile=PROFILE, options=options).compute_capability == capability


def test_rtx_without_a_gpu_builds_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_tensorrt, "find_gpu", pretend_gpu(None))
    plan = build(tiny_model().SerializeToString(), profile=PROFILE, options=EngineOptions(flavor="tensorrt_rtx"))
    assert plan.compute_capability == "8.0+"


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_current_needs_a_gpu() -> None:
    options = EngineOptions(flavor="tensorrt_rtx", compute_capability="current")
    with pytest.raises(DeviceError, match=r"GPU|driver"):
        build(tiny_model().SerializeToString(), profile=PROFILE, options=options)


@pytest.mark.skipif(has_gpu(), reason="there is a GPU")
def test_failed_build_tells_the_reason_of_the_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_tensorrt, "find_gpu", pretend_gpu("8.9"))
    with pytest.raises(ExportError, match=r"^TensorRT-RTX \S+ could not build the engine for .* 8\.9: .*Cuda Runtime"):
        build(tiny_model().SerializeToString(), profile=PROFILE, options=EngineOptions(flavor="tensorrt_rtx"))


# TensorRT-RTX 1.7 has no float32 matrix product for Turing either, and the classifier is float32 in every precision.
@pytest.mark.parametrize(("precision", "reason"), [("fp32", "FP32 .* not supported"), ("bf16", "b16")])
def test_turing_lacks_types_and_says_so(precision: Precision, reason: str) -> None:
    options = EngineOptions(flavor="tensorrt_rtx", compute_capability="7.5")
    with pytest.raises(ExportError, match=rf"could not build the engine for compute capability 7\.5: .*{reason}"):
        build(tiny_model(precision).SerializeToString(), profile=PROFILE, options=options)


def test_hopper_needs_plain_tensorrt() -> None:
    options = EngineOptions(flavor="tensorrt_rtx", compute_capability="9.0")
    expected = r"compute_capability 9\.0, only for 7\.5, 8\.0, .*current and 8\.0\+; .*i3d-deploy\[tensorrt\]"
    with pytest.raises(InputError, match=expected):
        build(tiny_model().SerializeToString(), profile=PROFILE, options=options)


def test_timing_cache_is_not_for_rtx(tmp_path: Path) -> None:
    options = EngineOptions(flavor="tensorrt_rtx", compute_capability="8.9", timing_cache=tmp_path / "cache")
    with pytest.raises(InputError, match=r"^timing_cache is for the tensorrt package"):
        build(tiny_model().SerializeToString(), profile=PROFILE, options=options)


def test_plain_tensorrt_builds_for_its_own_gpu(plain_tensorrt: Flavor) -> None:
    assert build(tiny_model().SerializeToString(), profile=PROFILE).compute_capability == "9.0"


def test_plain_tensorrt_builds_for_no_other_gpu(plain_tensorrt: Flavor) -> None:
    options = EngineOptions(compute_capability="8.9")
    with pytest.raises(InputError, match=r"\(compute capability 9\.0\), not for compute_capability 8\.9"):
        build(tiny_model().SerializeToString(), profile=PROFILE, options=options)


def test_plain_tensorrt_needs_a_gpu(plain_tensorrt: Flavor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_tensorrt, "find_gpu", pretend_gpu(None))
    with pytest.raises(DeviceError, match=r"^TensorRT 11\.4\.0 builds on a GPU, tensorrt_rtx without one: no NVIDIA"):
        build(tiny_model().SerializeToString(), profile=PROFILE)


# TensorRT-RTX keeps the calls of the timing cache for compatibility; they do nothing but warn.
@pytest.mark.filterwarnings("ignore:.*Timing cache operations:DeprecationWarning")
def test_timing_cache_is_written_and_read(plain_tensorrt: Flavor, tmp_path: Path) -> None:
    options = EngineOptions(timing_cache=tmp_path / "cache")
    for _ in range(2):
        build(tiny_model().SerializeToString(), profile=PROFILE, options=options)
        assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_float32_is_not_rounded_to_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = rtx.Builder.build_serialized_network

    def spy(builder: object, network: object, config: Any) -> object:
        seen.append(config.get_flag(rtx.BuilderFlag.TF32))
        return original(builder, network, config)

    monkeypatch.setattr(rtx.Builder, "build_serialized_network", spy)
    build(tiny_model().SerializeToString(), profile=PROFILE, options=ADA)
    assert seen == [False]


def test_workspace_and_optimization_level_are_taken() -> None:
    options = EngineOptions(
        flavor="tensorrt_rtx", compute_capability="8.9", workspace_bytes=1 << 28, optimization_level=1
    )
    assert build(tiny_model().SerializeToString(), profile=PROFILE, options=options).content


def test_file_with_external_weights_builds(tmp_path: Path) -> None:
    path = tmp_path / "tiny.onnx"
    onnx.save(tiny_model(), path, save_as_external_data=True, location="tiny.weights", size_threshold=0)
    assert (tmp_path / "tiny.weights").exists()
    assert build(path, profile=PROFILE, options=ADA).content


def test_unknown_operator_is_named_with_its_node() -> None:
    model = tiny_model(operator="Convolve").SerializeToString()
    with pytest.raises(ExportError, match=r"cannot read the ONNX model: node convolution \(Convolve\): .*Plugin not"):
        build(model, profile=PROFILE, options=ADA)


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(ExportError, match=r"found 0 inputs and 0 outputs in the ONNX model"):
        build(b"hello" * 5, profile=PROFILE, options=ADA)


def test_only_the_number_of_views_may_be_dynamic() -> None:
    model = tiny_model()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "T"
    with pytest.raises(ExportError, match=r"input frames has shape \(-1, -1, 16, 16, 3\): N alone must be dynamic"):
        build(model.SerializeToString(), profile=PROFILE, options=ADA)


def test_static_model_builds_within_a_profile_of_its_size() -> None:
    model = tiny_model()
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    assert build(model.SerializeToString(), profile=(3, 3, 3), options=ADA).content


def test_static_model_refuses_another_profile() -> None:
    model = tiny_model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    with pytest.raises(ExportError, match=r"has 3 views in every call, not 1 to 5"):
        build(model.SerializeToString(), profile=PROFILE, options=ADA)


@pytest.mark.parametrize("profile", [(0, 1, 1), (2, 1, 3), (1, 3, 2)])
def test_profile_must_ascend(profile: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match=r"profile \(.*\) must ascend from 1"):
        build(b"", profile=profile)


@pytest.mark.parametrize("capability", ["89", "sm_89", "8", ""])
def test_compute_capability_must_look_like_one(capability: str) -> None:
    with pytest.raises(InputError, match=r"must look like 8\.9, or be current or 8\.0\+"):
        EngineOptions(compute_capability=capability)


def test_workspace_must_be_positive() -> None:
    with pytest.raises(InputError, match=r"workspace_bytes \(0\) must be > 0"):
        EngineOptions(workspace_bytes=0)


@pytest.mark.parametrize("level", [-1, 6])
def test_optimization_level_is_bounded(level: int) -> None:
    with pytest.raises(InputError, match=rf"optimization_level \({level}\) must be 0 to 5"):
        EngineOptions(optimization_level=level)


def test_progress_is_reported() -> None:
    lines: list[str] = []
    build(tiny_model().SerializeToString(), profile=PROFILE, options=ADA, on_progress=lines.append)
    assert "Building engine" in lines
    assert any(line.startswith("Building engine 1/") for line in lines)


def test_interrupted_progress_ends_the_build() -> None:
    calls = []

    def interrupt(text: str) -> None:
        calls.append(text)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tiny_model().SerializeToString(), profile=PROFILE, options=ADA, on_progress=interrupt)
    assert len(calls) == 1


def test_note_describes_the_plan(tiny_network: ResNet, tmp_path: Path) -> None:
    path = tmp_path / "tiny.engine"
    card = tiny_card(tiny_network)
    plan = build(tiny_model().SerializeToString(), profile=PROFILE, options=ADA)
    write(plan, card, path)
    note = read_engine_note(path)
    assert path.read_bytes() == plan.content
    assert note.card == card
    assert note.sha256 == hashlib.sha256(plan.content).hexdigest()
    assert (note.flavor, note.version, note.compute_capability) == ("tensorrt_rtx", rtx.__version__, "8.9")


def test_equal_plans_and_cards_make_equal_notes(tiny_network: ResNet, tmp_path: Path) -> None:
    plan = Plan(content=b"plan", flavor="tensorrt", version="11.4.0", compute_capability="9.0")
    for name in ("a", "b"):
        write(plan, tiny_card(tiny_network), tmp_path / name / "tiny.engine")
    first, second = (tmp_path / name / "tiny.engine.json" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in first.parent.iterdir()) == ["tiny.engine", "tiny.engine.json"]
