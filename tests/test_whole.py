"""Whole videos in one pass, and frames whose pixels are not rounded: in PyTorch and in engines of open length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import i3d_deploy as i3d
from i3d_deploy import checkpoint, export, limits, model, origins, sampling, video_files, views
from i3d_deploy.card import Card, Engine, Provenance
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import CardError, InputError, VideoError
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.runners.openvino_runner import OpenVINORunner
from i3d_deploy.runners.torch_runner import TorchRunner
from tests import narrowed
from tests.on_cuda import on_cuda

RandomState = np.random.RandomState


ASSUMED = "the video does not say its rate: its frames are taken to be 25 a second"


def small(name: str, spatial: Spatial, **changes: Any) -> Checkpoint:
    """A small network that is tested as its origin tests it, on small frames."""
    numbers = narrowed.small(name, 5)
    net = model.build(numbers)
    model.randomize(net, seed=1)
    parts = {**origins.usual_conventions(numbers).parts, "spatial": spatial, **changes}
    card = Card(
        network=numbers,
        label_set="numbered",
        labels=("a", "b", "c", "d", "e"),
        provenance=Provenance(origin="random weights"),
        **parts,
    )
    return Checkpoint(model=net, card=card)


def noise(num_frames: int, height: int = 40, width: int = 52) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return RandomState(num_frames).randint(0, 256, (num_frames, height, width, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def whole() -> Checkpoint:
    return small("i3d_inception_rgb", Spatial(short_side=36, crop_size=33, num_crops=1))


@pytest.fixture(scope="module")
def engines(whole: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of whole videos in every form that takes them."""
    folder = tmp_path_factory.mktemp("whole")
    exported = export.export(whole, targets=["onnx", "openvino", "safetensors"], output=folder, name="whole")
    assert [entry.card.parity[0].status for entry in exported] == ["passed"] * 3
    assert [entry.card.parity[0].num_views for entry in exported] == [1] * 3
    return folder


ON_DEVICES = [
    *((suffix, "cpu") for suffix in (".onnx", ".xml", ".safetensors")),
    on_cuda(".onnx", "cuda", by="ONNX Runtime"),
    on_cuda(".safetensors", "cuda", by="PyTorch"),
]


@pytest.mark.parametrize(("suffix", "device"), ON_DEVICES)
def test_engines_take_any_length(engines: Path, whole: Checkpoint, suffix: str, device: str) -> None:
    limit = 1e-5 if device == "cpu" else limits.LOGITS_LIMITS["fp32"]
    with (
        Recognizer(TorchRunner(whole, device="cpu")) as reference,
        i3d.load(engines / f"whole{suffix}", device=device) as engine,
    ):
        for num_frames in (9, 10, 11, 12, 13, 14, 15, 16, 31, 64):
            frames = noise(num_frames)
            expected, found = reference.predict(frames), engine.predict(frames)
            assert expected.logits.shape == (1, 5)
            np.testing.assert_allclose(found.logits, expected.logits, rtol=0, atol=limit)


def test_a_whole_video_is_one_view_of_all_frames(whole: Checkpoint) -> None:
    prepared = views.prepare(noise(23), whole.card)
    assert prepared.indices.tolist() == [list(range(23))]
    assert next(prepared.batches(1)).shape == (1, 23, 33, 33, 3)
    assert prepared.warnings == (ASSUMED,)


def test_a_short_video_is_repeated(whole: Checkpoint) -> None:
    prepared = views.prepare(noise(4), whole.card)
    assert prepared.indices.tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 0]]
    short = "4 frames are fewer than the 9 that a clip spans: they are repeated"
    assert prepared.warnings == (ASSUMED, short)


def test_a_video_is_short_by_its_frames_at_the_cards_rate(tmp_path: Path, whole: Checkpoint) -> None:
    # Of 12 frames at 50 a second 6 are counted, and those of 9 are repeated; 17 frames have 9: the first, the third ...
    video_files.write(tmp_path / "short.mp4", iter(noise(12)), frames_per_second=50)
    prepared = views.prepare(tmp_path / "short.mp4", whole.card)
    assert prepared.indices.tolist() == [[0, 2, 4, 6, 8, 10, 0, 2, 4]]
    assert prepared.warnings == ("12 frames are fewer than the 17 that a clip spans: they are repeated",)
    video_files.write(tmp_path / "enough.mp4", iter(noise(17)), frames_per_second=50)
    prepared = views.prepare(tmp_path / "enough.mp4", whole.card)
    assert prepared.indices.tolist() == [list(range(0, 17, 2))]
    assert prepared.warnings == ()


def test_frames_are_counted_at_the_cards_rate(tmp_path: Path, whole: Checkpoint) -> None:
    # One second at 50 a second is 25 frames at 25: every other one.
    video_files.write(tmp_path / "fast.mp4", iter(noise(50)), frames_per_second=50)
    prepared = views.prepare(tmp_path / "fast.mp4", whole.card)
    assert prepared.indices.tolist() == [list(range(0, 50, 2))]
    # And at 20: frames 0, 0.8, 1.6, 2.4, 3.2, ... of the file, the nearest ones.
    video_files.write(tmp_path / "slow.mp4", iter(noise(20)), frames_per_second=20)
    prepared = views.prepare(tmp_path / "slow.mp4", whole.card)
    assert prepared.indices[0, :8].tolist() == [0, 1, 2, 2, 3, 4, 5, 6]
    assert prepared.indices.shape == (1, 25)


def test_a_video_too_long_for_one_pass_is_refused(whole: Checkpoint) -> None:
    frames = np.zeros((sampling.MAX_WHOLE_FRAMES + 1, 8, 8, 3), np.uint8)
    with pytest.raises(VideoError, match=r"1501 frames are too many for a whole video at once, which may have 1500"):
        views.prepare(frames, whole.card)


def test_a_whole_video_has_no_clips(whole: Checkpoint) -> None:
    with (
        Recognizer(TorchRunner(whole, device="cpu")) as recognizer,
        pytest.raises(InputError, match=r"must be 1: a whole .*; export it with --sampling uniform"),
    ):
        recognizer.predict(noise(20), clips=2)
    with pytest.raises(InputError, match=r"num_clips \(3\) must be 1"):
        whole.card.sampling.replaced(num_clips=3)


def test_tensorrt_takes_clips(whole: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="built for clips of one length, and this network takes whole videos"):
        export.export(whole, targets=["tensorrt"], output=tmp_path, name="a")
    assert not list(tmp_path.iterdir())


SLOWFAST = Spatial(formula="slowfast", short_side=40, crop_size=40, num_crops=3)
EIGHT = Sampling(formula="slowfast", clip_len=8, frame_interval=8, num_clips=2, frames_per_second=30.0)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SlowFast's network, whose pixels are not rounded, as ONNX and OpenVINO."""
    folder = tmp_path_factory.mktemp("exact")
    source = small("i3d_r50_8x8_slowfast", SLOWFAST, sampling=EIGHT)
    checkpoint.save(source, folder / "exact.safetensors")
    exported = export.export(source, targets=["onnx", "openvino"], output=folder, name="exact")
    assert [entry.card.parity[0].status for entry in exported] == ["passed"] * 2
    return folder


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_pixels_that_are_not_rounded_reach_the_engine(exact: Path, suffix: str) -> None:
    frames = noise(60, 47, 60)
    with i3d.load(exact / "exact.safetensors") as reference, i3d.load(exact / f"exact{suffix}") as engine:
        assert engine.card.engine is not None
        assert engine.card.engine.input == "float32_nthwc"
        prepared = views.prepare(frames, engine.card)
        batch = next(prepared.batches(1))
        assert batch.dtype == np.float32
        assert np.abs(batch - np.rint(batch)).max() > 0.1
        np.testing.assert_allclose(engine.predict(frames).logits, reference.predict(frames).logits, rtol=0, atol=1e-5)
        with pytest.raises(InputError, match="views must be float32 of shape"):
            engine.infer(np.zeros(batch.shape, np.uint8))


def test_a_stem_of_exact_pixels_is_not_shared(exact: Path) -> None:
    with OpenVINORunner(exact / "exact.xml") as runner:
        prepared = views.prepare(noise(60, 40, 48), runner.card)
        assert not runner.shares(prepared, size=1)


def test_a_card_whose_engine_would_round_pixels_is_refused() -> None:
    card = small("i3d_r50_8x8_slowfast", SLOWFAST, sampling=EIGHT).card
    document = card.model_copy(update={"engine": Engine()}).to_json()
    with pytest.raises(CardError, match=r"uint8_nthwc does not go with spatial.formula slowfast: pixels are float32"):
        Card.from_json(document, where="here")


def test_three_crops_of_slowfast_are_left_center_right() -> None:
    # 57x40 is 57 columns: (57 - 40) / 2 = 8.5, rounded up.
    assert [box.left for box in SLOWFAST.boxes(40, 57)] == [0, 9, 17]
    assert [box.top for box in SLOWFAST.boxes(57, 40)] == [0, 9, 17]
    assert SLOWFAST.boxes(40, 57, num_crops=1) == (SLOWFAST.boxes(40, 57)[1],)
    assert SLOWFAST.size(47, 60) == (40, 51)  # 51.06
    assert SLOWFAST.size(60, 47) == (51, 40)
