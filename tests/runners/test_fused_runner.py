"""The fused runner answers as PyTorch does, in the precision that it says. Its arithmetic runs on the CPU too."""

from __future__ import annotations

import dataclasses
import functools
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from i3d_deploy import limits, model, views
from i3d_deploy.card import Precision
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import InputError
from i3d_deploy.fused import sampled
from i3d_deploy.fused.convolution import Convolution
from i3d_deploy.preprocessing import Sampling
from i3d_deploy.recognizer import Recognizer, load
from i3d_deploy.runners import open_checkpoint, open_runner
from i3d_deploy.runners.fused_runner import FusedRunner, WrongPrecisionError, of_frames
from i3d_deploy.runners.torch_runner import TorchRunner
from tests.narrowed import DISTINCT, card_of, resnet, small

FRAMES = np.random.default_rng(0).integers(0, 256, (60, 40, 56, 3), dtype=np.uint8)
HALVES: list[Precision] = ["fp16", "bf16"]


@pytest.fixture(autouse=True)
def no_plans_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found in other runs is not used, and nothing is left for them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@functools.cache
def checkpoint_of(name: str) -> Checkpoint:
    """A narrowed network with random weights and a card of small views."""
    numbers = small(name, 7)
    net = model.build(numbers)
    model.randomize(net, seed=1)
    return Checkpoint(model=net, card=card_of(numbers, frames=16, side=32))


def some_views(count: int, *, frames: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, frames, 32, 32, 3), dtype=np.uint8)


@functools.cache
def reference(name: str = "i3d_r50") -> TorchRunner:
    return TorchRunner(checkpoint_of(name), device="cpu")


@pytest.fixture(scope="module")
def fused() -> FusedRunner:
    return FusedRunner(checkpoint_of("i3d_r50"), device="cpu", precisions=["fp32"])


@pytest.mark.parametrize("count", [1, 8, 31])
def test_logits_are_those_of_pytorch(fused: FusedRunner, count: int) -> None:
    logits = fused.infer(some_views(count))
    kept = logits.copy()
    np.testing.assert_allclose(logits, reference().infer(some_views(count)), rtol=0, atol=1e-5)
    fused.infer(some_views(1))
    np.testing.assert_array_equal(logits, kept)  # the caller owns the result


@pytest.mark.parametrize("batch", [None, 4], ids=["all at once", "in parts"])
def test_views_made_of_frames_are_those_that_were_cut(fused: FusedRunner, batch: int | None) -> None:
    found = Recognizer(fused).predict(FRAMES, clips=3, batch=batch)
    expected = Recognizer(reference()).predict(FRAMES, clips=3)
    np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=1e-5)


def test_each_frame_is_copied_once() -> None:
    prepared = views.prepare(FRAMES, checkpoint_of("i3d_r50").card, clips=3)
    numbers = prepared.by_clip()
    upload = of_frames(prepared, numbers)
    assert len(prepared) == 9
    frames = [array for piece in upload.pieces for array in piece.arrays]
    assert len(frames) == len(np.unique(prepared.indices)) < prepared.indices.size
    assert [piece.views for piece in upload.pieces] == [3, 6, 9]
    memory = np.concatenate([frame.ravel() for frame in frames])
    for cut, origins in zip(
        prepared.fill(np.empty((9, 16, 32, 32, 3), np.uint8), numbers), upload.origins, strict=True
    ):
        for frame, origin in zip(cut, origins, strict=True):
            rows = [memory[origin + row * upload.pitch :][: 32 * 3].reshape(32, 3) for row in range(32)]
            np.testing.assert_array_equal(np.stack(rows), frame)


def test_a_later_attempt_is_computed_like_a_first_one(fused: FusedRunner) -> None:
    prepared = views.prepare(FRAMES, fused.card, clips=2)
    parts = [*prepared.parts(2)]
    again = [dataclasses.replace(part, attempt=2) for part in parts]
    rows = [logits for _, logits in fused.infer_parts([parts[0], *again])]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert [len(row) for row in rows] == [2, 2, 2, 2]


def test_feature_maps_and_classifier_are_those_of_pytorch(fused: FusedRunner) -> None:
    larger = np.random.default_rng(3).integers(0, 256, (2, 24, 64, 48, 3), dtype=np.uint8)
    np.testing.assert_allclose(fused.feature_maps(larger), reference().feature_maps(larger), rtol=0, atol=1e-5)
    for found, expected in zip(fused.classifier(), reference().classifier(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_layers_are_timed_by_name(fused: FusedRunner) -> None:
    layers = fused.profile(some_views(2), runs=1)
    names = {layer.name for layer in layers}
    assert {"conv1", "layer1.0.downsample", "layer4.2.conv3", "frames to images"} <= names
    assert all(layer.seconds > 0 for layer in layers if layer.kind != "rest")


def test_whole_videos_come_in_any_length() -> None:
    made = checkpoint_of("i3d_r50")
    card = made.card.model_copy(
        update={"sampling": Sampling(scheme="whole", clip_len=16, num_clips=1, min_clip_len=16)}
    )
    whole = dataclasses.replace(made, card=card)
    with FusedRunner(whole, device="cpu", precisions=["fp32"]) as runner, TorchRunner(whole, device="cpu") as expected:
        for frames in (16, 23):
            given = some_views(1, frames=frames)
            np.testing.assert_allclose(runner.infer(given), expected.infer(given), rtol=0, atol=1e-5)
        found = Recognizer(runner).predict(FRAMES[:40]).logits
        np.testing.assert_allclose(found, Recognizer(expected).predict(FRAMES[:40]).logits, rtol=0, atol=1e-5)


def test_memory_of_views_is_the_callers(fused: FusedRunner) -> None:
    for dtype in (np.uint8, np.float32):
        array = fused.allocate((2, 3, 4, 5, 3), dtype)
        assert array.shape == (2, 3, 4, 5, 3)
        assert array.dtype == dtype
        assert array.flags.c_contiguous
        assert array.flags.writeable


def test_a_closed_runner_says_so() -> None:
    runner = FusedRunner(checkpoint_of("i3d_r50"), device="cpu", precisions=["fp32"])
    runner.close()
    with pytest.raises(InputError, match="the runner is closed"):
        runner.infer(some_views(1))


@pytest.fixture(scope="module")
def large() -> Checkpoint:
    """A network whose activations leave the range of fp16 and come back."""
    made = checkpoint_of("i3d_r50")
    net = model.build(small("i3d_r50", 7))
    net.load_state_dict(made.model.state_dict())
    block = resnet(net).get_submodule("layer2.0")
    with torch.no_grad():
        for name, factor in (("bn1", 1e6), ("conv2", 1e-6)):
            module = block.get_submodule(name)
            for entry in ("weight", "bias"):
                tensor = getattr(module, entry, None)
                if tensor is not None:
                    tensor.mul_(factor)
    return dataclasses.replace(made, model=net)


def test_a_precision_off_its_limit_is_not_used(large: Checkpoint) -> None:
    with FusedRunner(large, device="cpu", precisions=HALVES) as runner, TorchRunner(large, device="cpu") as right:
        assert runner.info.precision == "bf16"
        expected = right.infer(some_views(2))
        limit = limits.logits_limit(large.card, expected, computed_in="bf16")
        np.testing.assert_allclose(runner.infer(some_views(2)), expected, rtol=0, atol=limit)
    with pytest.raises(WrongPrecisionError, match=r"in fp16 they differ by nan, allowed 0\.02: give --precision fp32"):
        FusedRunner(large, device="cpu", precisions=["fp16"])


def test_eight_bits_are_told_and_proven() -> None:
    made = checkpoint_of("i3d_r50")
    with FusedRunner(made, device="cpu", precisions=["fp8"]) as runner:
        assert runner.info.precision == "fp8 with fp16"
        found, expected = runner.infer(some_views(2)), reference().infer(some_views(2))
    assert limits.smallest_cosine(found, expected) > 0.99
    limit = limits.logits_limit(made.card, expected, computed_in="fp8")
    assert limit == pytest.approx(expected.std())
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit / 4)


@pytest.mark.parametrize("precision", [*HALVES, "fp8"])
def test_half_precision_is_for_gpus(tiny_exports: Path, precision: Precision) -> None:
    with pytest.raises(InputError, match=rf"precision \({precision}\) needs a GPU .*i3d-export --to openvino"):
        load(tiny_exports / "tiny.safetensors", device="cpu", precision=precision)


def test_eight_bits_are_for_engines(tiny_exports: Path) -> None:
    with pytest.raises(
        InputError, match=r"precision \(int8\) must be fp32, fp16, bf16 or fp8 where a checkpoint is run"
    ):
        open_runner(tiny_exports / "tiny.safetensors", precision="int8")


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.xml"])
def test_an_engine_has_its_precision(tiny_exports: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"precision \(fp16\) is for checkpoints: .*{name} has the one"):
        open_runner(tiny_exports / name, precision="fp16")


def test_a_cpu_runs_checkpoints_as_they_were_trained(tiny_exports: Path) -> None:
    for precision in (None, "fp32"):
        with load(tiny_exports / "tiny.safetensors", device="cpu", precision=precision) as recognizer:
            assert recognizer.info.provider == "eager"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [*HALVES, "fp8"])
@pytest.mark.parametrize("name", DISTINCT)
def test_logits_on_a_gpu(name: str, precision: Precision) -> None:
    made = checkpoint_of(name)
    with FusedRunner(made, device="cuda", precisions=[precision]) as runner:
        assert runner.info.precision.partition(" ")[0] == precision
        found = Recognizer(runner).predict(FRAMES, clips=3).logits
    expected = Recognizer(reference(name)).predict(FRAMES, clips=3).logits
    limit = limits.logits_limit(made.card, expected, computed_in=precision)
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 2, 7, 10, 11, 30, 31, 64])
def test_every_number_of_views_on_a_gpu(count: int) -> None:
    with FusedRunner(checkpoint_of("i3d_r50"), device="cuda") as runner:
        given = some_views(count)
        first, again = runner.infer(given), runner.infer(given)
        pinned = runner.allocate(given.shape, given.dtype)
        pinned[...] = given
        from_pinned = runner.infer(pinned)
        read_only = given.copy()
        read_only.flags.writeable = False
        from_read_only = runner.infer(read_only)
    expected = reference().infer(given)
    np.testing.assert_allclose(first, expected, rtol=0, atol=2e-2)
    for found in (again, from_pinned, from_read_only):
        np.testing.assert_array_equal(found, first)


@pytest.mark.gpu
def test_videos_of_any_size_follow_each_other_on_a_gpu() -> None:
    recognizer, expected = Recognizer(FusedRunner(checkpoint_of("i3d_r50"), device="cuda")), Recognizer(reference())
    with recognizer:
        for height, width, length in ((40, 56, 60), (200, 120, 90), (32, 32, 20), (300, 400, 30), (40, 56, 60)):
            video = np.random.default_rng(height).integers(0, 256, (length, height, width, 3), dtype=np.uint8)
            found = recognizer.predict(video, batch=5).logits
            np.testing.assert_allclose(found, expected.predict(video).logits, rtol=0, atol=2e-2)


@pytest.mark.gpu
def test_threads_share_a_gpu() -> None:
    videos = [np.random.default_rng(seed).integers(0, 256, (60, 40, 56, 3), dtype=np.uint8) for seed in range(4)]
    expected = [Recognizer(reference()).predict(video).logits for video in videos]
    found: dict[int, NDArray[np.float32]] = {}
    with Recognizer(FusedRunner(checkpoint_of("i3d_r50"), device="cuda")) as recognizer:

        def predict(number: int) -> None:
            for _ in range(3):
                found[number] = recognizer.predict(videos[number], batch=4).logits

        threads = [threading.Thread(target=predict, args=(number,)) for number in range(len(videos))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number, logits in enumerate(expected):
        np.testing.assert_allclose(found[number], logits, rtol=0, atol=2e-2)


@pytest.mark.gpu
def test_a_gpu_takes_fp16_unless_told_otherwise(large: Checkpoint) -> None:
    for made, precision in ((checkpoint_of("i3d_r50"), "fp16"), (large, "bf16")):
        with open_checkpoint(lambda made=made: made, device="cuda") as runner:  # type: ignore[misc]
            assert (runner.info.provider, runner.info.precision) == ("fused", precision)
    with open_checkpoint(lambda: checkpoint_of("i3d_r50"), device="cuda", precision="fp32") as runner:
        assert (runner.info.provider, runner.info.precision) == ("eager", "fp32")


@pytest.mark.gpu
def test_memory_of_a_gpu_is_given_back() -> None:
    FusedRunner(checkpoint_of("i3d_r50"), device="cuda").close()  # what libraries keep for themselves
    before = torch.cuda.memory_allocated()
    runner = FusedRunner(checkpoint_of("i3d_r50"), device="cuda")
    runner.infer(some_views(12))
    assert torch.cuda.memory_allocated() > before
    runner.close()
    assert torch.cuda.memory_allocated() == before


def test_sizes_that_come_later_are_checked_in_the_way_that_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with FusedRunner(checkpoint_of("i3d_r50"), device="cpu", precisions=["fp32"]) as runner:
        found = {key[0]: chosen.way for key, chosen in runner.plan(1).choices.items()}
        checked: list[tuple[int, ...]] = []
        agrees = sampled.agrees

        def watched(convolution: Convolution, x: Tensor, result: Tensor, **options: Tensor | None) -> bool:
            checked.append(tuple(x.shape))
            return agrees(convolution, x, result, **options)

        monkeypatch.setattr(sampled, "agrees", watched)
        larger = np.random.default_rng(4).integers(0, 256, (1, 24, 64, 48, 3), dtype=np.uint8)
        maps = runner.feature_maps(larger)
        np.testing.assert_allclose(maps, reference().feature_maps(larger), rtol=0, atol=1e-5)
        assert len(checked) == len(set(found))  # each kind once, and no other way
        runner.feature_maps(larger)
        assert len(checked) == len(set(found))
