"""Features of videos, against the originals' logits and against windows cut by hand."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from i3d_deploy import features, flow, generated, model, video_files
from i3d_deploy.card import Card, Provenance
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import ArtifactError, InputError, VideoError
from i3d_deploy.features import Settings
from i3d_deploy.frames import Resized
from i3d_deploy.head import I3D
from i3d_deploy.network import Inception
from i3d_deploy.preprocessing import Sampling, Spatial, normalize
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.runners import Runner, TwoStreamRunner
from i3d_deploy.runners.torch_runner import TorchRunner
from i3d_deploy.windows import Last
from tests import goldens, narrowed
from tests.raw_avi import write_avi
from tests.test_home import at_home

WHOLE = goldens.load_npz("inception_pipeline.npz")
SIDE = 32


def checkpoint_of(name: str, **changes: Any) -> Checkpoint:
    """A narrow network of the zoo with random weights, for frames of a short side of 36 and crops of 32."""
    numbers = narrowed.small(name, 5).model_copy(update=changes)
    net = model.build(numbers)
    model.randomize(net, seed=1)
    is_flow = numbers.in_channels == 2
    half = (127.5,) * numbers.in_channels
    card = Card(
        network=numbers,
        label_set="numbered",
        labels=tuple("abcde"),
        modality="flow" if is_flow else "rgb",
        flow_method="dis" if is_flow else None,
        sampling=Sampling(clip_len=16, frame_interval=1, num_clips=2, frames_per_second=25.0),
        spatial=Spatial(short_side=36, crop_size=SIDE, num_crops=1),
        pixels={"color": "xy" if is_flow else "rgb", "mean": half, "std": half},
        provenance=Provenance(origin="random weights"),
    )
    return Checkpoint(model=net, card=card)


def runner_of(name: str, **changes: Any) -> TorchRunner:
    """Its runner."""
    return TorchRunner(checkpoint_of(name, **changes), device="cpu")


@pytest.fixture(scope="module")
def rgb() -> TorchRunner:
    """A narrow Inception whose head averages windows of two frames."""
    return runner_of("i3d_inception_rgb", head_window=(2, 1, 1))


@pytest.fixture(scope="module")
def of_flow() -> TorchRunner:
    """Its companion for flow."""
    return runner_of("i3d_inception_flow", head_window=(2, 1, 1))


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """40 frames of 36x48, which no resize changes."""
    return np.stack(list(generated.frames(num_frames=40, height=36, width=48)))


def of_windows(runner: TorchRunner, cut: list[np.ndarray]) -> np.ndarray:
    """The pooled vectors of windows, (T, 32, 32, C) each, by the network itself."""
    views = torch.from_numpy(normalize(np.stack(cut), runner.card.pixels))
    with torch.inference_mode():
        found: torch.Tensor = runner.model.pool(runner.model.features(views))
    return found.numpy()


def centers(shown: np.ndarray, *, window: int, starts: range) -> list[np.ndarray]:
    """Windows of the center crop of frames of 36x48."""
    return [shown[start : start + window, 2:34, 8:40] for start in starts]


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for the rounding of averages taken in another order."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_features_of_a_file_give_the_logits_of_the_original(tmp_path: Path) -> None:
    # 64 frames of a file in one window, at its own rate: the head's matrix makes the original's logits of the feature.
    path = goldens.shared_file("videos/arm_wrestling.mp4")
    with at_home("inception_i3d_rgb", "pytorch-i3d", "i3d_inception_rgb", tmp_path) as recognizer:
        found = recognizer.features(path, window=64, stride=280, frames_per_second="source")
        weight, bias = recognizer._runner.classifier()
    assert found.values.shape == (1, 1024)
    np.testing.assert_allclose(
        found.values @ weight.T + bias, WHOLE["rgb/arm_wrestling_64/logits_f32"], rtol=0, atol=1e-4
    )


def test_the_mean_of_the_places_is_that_of_the_original() -> None:
    golden = goldens.load_npz("inception_i3d_rgb.npz")
    head = golden["c/features_f32"]  # 7 places of the window of the head, averages of 8 positions two by two
    maps = np.zeros((1, 1024, 8, 7, 7), np.float32)
    for position in range(7):  # maps whose averages two by two those are, the first position being zero
        maps[:, :, position + 1] = 2 * head[:, :, position] - maps[:, :, position]
    found = features.pool(maps, layer="pool", head_window=(2, 7, 7))
    np.testing.assert_allclose(found, head.mean((2, 3, 4)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("window", [None, (2, 7, 7), (1, 1, 1), (3, 8, 9)])
def test_pool_is_what_the_network_classifies(window: tuple[int, int, int] | None) -> None:
    maps = np.random.RandomState(0).standard_normal((2, 5, 3, 8, 9)).astype(np.float32)
    head = I3D(Inception(name="a", head_window=window))
    expected = head.pool(torch.from_numpy(maps)).numpy()
    np.testing.assert_allclose(features.pool(maps, layer="pool", head_window=window), expected, rtol=0, atol=1e-6)


def test_mixed_5c_is_the_plain_mean() -> None:
    maps = np.arange(6, dtype=np.float32).reshape(1, 1, 3, 1, 2)
    assert features.pool(maps, layer="mixed_5c", head_window=(2, 1, 1)).tolist() == [[2.5]]
    # The middle position is in both places: (0.5 + 2.5) / 2 + (2.5 + 4.5) / 2, halved.
    maps = np.array([0, 0, 3, 3, 9, 9], np.float32).reshape(1, 1, 3, 1, 2)
    assert features.pool(maps, layer="pool", head_window=(2, 1, 1)).tolist() == [[3.75]]
    assert features.pool(maps, layer="mixed_5c", head_window=(2, 1, 1)).tolist() == [[4.0]]


def test_windows_are_those_cut_by_hand(rgb: TorchRunner, frames: np.ndarray) -> None:
    found = Recognizer(rgb).features(frames, window=16, stride=12, last="drop")
    assert_close(found.values, of_windows(rgb, centers(frames, window=16, starts=range(0, 25, 12))))
    assert (found.start_frames.tolist(), found.end_frames.tolist()) == ([0, 12, 24], [16, 28, 40])
    assert found.values.dtype == np.float32
    assert (len(found), found.num_frames, found.padded_frames) == (3, 40, 0)


@pytest.mark.parametrize(
    ("last", "numbers", "padded"),
    [
        ("repeat", [32, 33, 34, 35, 36, 37, 38, 39] + [39] * 8, 8),
        ("loop", [32, 33, 34, 35, 36, 37, 38, 39, 0, 1, 2, 3, 4, 5, 6, 7], 8),
        ("shift", list(range(24, 40)), 0),
    ],
)
def test_the_last_window(rgb: TorchRunner, frames: np.ndarray, last: Last, numbers: list[int], padded: int) -> None:
    found = Recognizer(rgb).features(frames, last=last)
    expected = of_windows(rgb, [*centers(frames, window=16, starts=range(0, 32, 16)), frames[numbers, 2:34, 8:40]])
    assert_close(found.values, expected)
    assert (int(found.start_frames[-1]), int(found.end_frames[-1]), found.padded_frames) == (numbers[0], 40, padded)


def test_times_follow_from_the_rate(rgb: TorchRunner, frames: np.ndarray, tmp_path: Path) -> None:
    video_files.write(tmp_path / "clip.mp4", frames, frames_per_second=50)
    recognizer = Recognizer(rgb)
    found = recognizer.features(tmp_path / "clip.mp4", window=9, stride=5)
    every = recognizer.features(tmp_path / "clip.mp4", window=9, stride=5, frames_per_second="source")
    unknown = recognizer.features(frames, window=9, stride=5, frames_per_second="source")
    slow = recognizer.features(tmp_path / "clip.mp4", window=9, stride=5, frames_per_second=12.5)
    assert (found.num_frames, found.frames_per_second) == (20, 25.0)
    assert found.start_seconds is not None and found.end_seconds is not None
    np.testing.assert_allclose(found.start_seconds, [0, 0.2, 0.4, 0.6])
    np.testing.assert_allclose(found.end_seconds, [9 / 25, 14 / 25, 19 / 25, 20 / 25])
    assert (every.num_frames, every.frames_per_second) == (40, 50.0)
    assert (unknown.num_frames, unknown.start_seconds, unknown.end_seconds) == (40, None, None)
    assert (slow.num_frames, len(slow), slow.padded_frames) == (10, 2, 4)


def test_ten_crops_are_the_corners_the_center_and_their_mirror_images(rgb: TorchRunner, frames: np.ndarray) -> None:
    found = Recognizer(rgb).features(frames[:32], crops=10)
    faces = [frames[:32], np.flip(frames[:32], 2)]
    corners = [(0, 0), (0, 16), (4, 0), (4, 16), (2, 8)]
    expected = [of_windows(rgb, [face[:16, y : y + 32, x : x + 32]])[0] for face in faces for y, x in corners]
    assert found.values.shape == (2, 10, 16)
    assert_close(found.values[0], np.stack(expected))


def test_mirrored_flow_points_the_other_way(of_flow: TorchRunner, frames: np.ndarray) -> None:
    flows = np.stack(list(flow.between(frames[:17], method="dis")))
    found = Recognizer(of_flow).features(frames[:17], crops=10)
    face = np.flip(flows, 2).copy()
    face[..., 0] = 255 - face[..., 0]
    assert_close(found.values[0, 9:], of_windows(of_flow, [face[:, 2:34, 8:40]]))


def test_flow_features_are_those_of_the_flow(of_flow: TorchRunner, frames: np.ndarray) -> None:
    flows = np.stack(list(flow.between(frames[:33], method="dis")))
    found = Recognizer(of_flow).features(frames[:33])
    assert_close(found.values, of_windows(of_flow, centers(flows, window=16, starts=range(0, 17, 16))))
    assert found.num_frames == 32


def test_both_streams_see_the_same_moments(rgb: TorchRunner, of_flow: TorchRunner, frames: np.ndarray) -> None:
    both = Recognizer(rgb).features(frames[:33], flow=Recognizer(of_flow))
    assert (both.values.shape, both.num_frames, both.end_frames.tolist()) == ((2, 32), 32, [16, 32])
    assert_close(both.values[:, :16], Recognizer(rgb).features(frames[:32]).values)
    assert_close(both.values[:, 16:], Recognizer(of_flow).features(frames[:33]).values)
    pair = Recognizer(TwoStreamRunner(rgb, of_flow)).features(frames[:33])
    np.testing.assert_array_equal(pair.values, both.values)


def test_a_resnet_takes_windows_of_any_length(frames: np.ndarray) -> None:
    runner = runner_of("i3d_r50")
    found = Recognizer(runner).features(frames, window=20, stride=20)
    assert_close(found.values, of_windows(runner, centers(frames, window=20, starts=range(0, 40, 20))))
    plain = Recognizer(runner).features(frames, window=20, stride=20, layer="mixed_5c")
    np.testing.assert_array_equal(plain.values, found.values)


def test_frames_that_are_not_rounded(frames: np.ndarray) -> None:
    made = checkpoint_of("i3d_r50_8x8_slowfast")
    card = made.card.replaced(spatial=Spatial(formula="slowfast", short_side=32, crop_size=32, num_crops=3))
    runner = TorchRunner(Checkpoint(model=made.model, card=card), device="cpu")
    found = Recognizer(runner).features(frames, last="drop")
    exact = np.stack([cv2.resize(frame.astype(np.float32), (42, 32)) for frame in frames[:32]])
    assert_close(found.values, of_windows(runner, [exact[:16, :, 5:37], exact[16:, :, 5:37]]))


def test_layers_differ_where_the_head_fits_several_times(rgb: TorchRunner, frames: np.ndarray) -> None:
    recognizer = Recognizer(rgb)

    def values(window: int, layer: Any) -> np.ndarray:
        return recognizer.features(frames, window=window, stride=40, layer=layer).values

    assert_close(values(16, "pool"), values(16, "mixed_5c"))
    assert np.abs(values(24, "pool") - values(24, "mixed_5c")).max() > 1e-3


def test_another_crop_size(rgb: TorchRunner, frames: np.ndarray) -> None:
    found = Recognizer(rgb).features(frames[:16], crop_size=36)
    assert_close(found.values, of_windows(rgb, [frames[:16, :, 6:42]]))


def test_only_rounding_depends_on_the_batch(rgb: TorchRunner, frames: np.ndarray) -> None:
    recognizer = Recognizer(rgb)
    one, three, many = (recognizer.features(frames, stride=4, crops=10, batch=batch).values for batch in (1, 3, 64))
    assert one.shape == (7, 10, 16)
    assert_close(three, one)
    assert_close(many, one)


def test_windows_are_reported_as_they_are_done(rgb: TorchRunner, frames: np.ndarray) -> None:
    done: list[int] = []
    Recognizer(rgb).features(frames, stride=4, batch=3, on_windows=done.append)
    assert done == [3, 6, 7]


def test_memory_does_not_grow_with_the_video(rgb: TorchRunner, of_flow: TorchRunner, frames: np.ndarray) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    counts: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        for number in range(640):
            frame = frames[number % 40].copy()
            alive.append(weakref.ref(frame))
            counts.append(sum(reference() is not None for reference in alive))
            yield frame
            del frame

    found = Recognizer(rgb).features(endless(), flow=Recognizer(of_flow), batch=2, last="loop")
    gc.collect()
    assert len(found) == 40
    # Two batches of two windows, the first window for the loop, the flow that is being computed, and a few more.
    assert max(counts) <= 5 * 16 + len(os.sched_getaffinity(0)) + 8


def test_a_damaged_file_gives_what_decodes(rgb: TorchRunner, frames: np.ndarray, tmp_path: Path) -> None:
    write_avi(tmp_path / "clip.avi", frames[:32], promised=40)
    found = Recognizer(rgb).features(tmp_path / "clip.avi", frames_per_second="source")
    assert (len(found), found.warnings) == (2, ("the container says 40 frames, 32 decode",))
    with pytest.raises(VideoError, match="only 32 of 40 frames decode, fewer than 90%"):
        Recognizer(rgb).features(tmp_path / "clip.avi", min_decoded_share=0.9)


def test_a_video_shorter_than_a_window(rgb: TorchRunner, frames: np.ndarray) -> None:
    found = Recognizer(rgb).features(frames[:5])
    assert (found.values.shape, found.padded_frames, found.end_frames.tolist()) == ((1, 16), 11, [5])
    with pytest.raises(VideoError, match="the frames given: 5 frames are fewer than a window of 16, and what does not"):
        Recognizer(rgb).features(frames[:5], last="drop")


def test_no_frame_and_no_flow_are_errors(rgb: TorchRunner, of_flow: TorchRunner, frames: np.ndarray) -> None:
    with pytest.raises(VideoError, match="the frames given: there is no frame"):
        Recognizer(rgb).features(iter([]))
    with pytest.raises(VideoError, match="the frames given: optical flow takes two frames or more"):
        Recognizer(of_flow).features(frames[:1])


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"window": 0}, r"window \(0\) and stride \(16\) must be > 0"),
        ({"stride": -1}, r"window \(16\) and stride \(-1\) must be > 0"),
        ({"layer": "fc"}, r"layer \('fc'\) is not one of pool, mixed_5c"),
        ({"crops": 3}, r"crops \(3\) must be 1 or 10"),
        ({"last": "pad"}, r"last \('pad'\) is not one of drop, repeat, loop, shift"),
        ({"frames_per_second": 0}, r'frames_per_second \(0\) must be "source", or a number > 0 and <= 1000'),
        ({"frames_per_second": float("nan")}, r"frames_per_second \(nan\) must be"),
        ({"frames_per_second": "all"}, r"frames_per_second \(all\) must be"),
        ({"crop_size": 0}, r"crop_size \(0\) must be > 0"),
        ({"crop_size": 40}, r"crop_size \(40\) must be <= short_side \(36\)"),
        ({"window": 8}, r"window \(8\) is too short: i3d_inception_rgb takes 9 frames or more"),
        ({"batch": 0}, r"batch \(0\) must be > 0"),
    ],
)
def test_arguments_out_of_range(rgb: TorchRunner, frames: np.ndarray, changes: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part):
        Recognizer(rgb).features(frames, **changes)


def test_networks_that_do_not_go_together(rgb: TorchRunner, of_flow: TorchRunner, frames: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"an rgb network, a flow network or one of each, not of \['flow', 'rgb'\]"):
        Recognizer(of_flow).features(frames, flow=Recognizer(rgb))
    other = checkpoint_of("i3d_inception_flow")
    card = other.card.replaced(spatial=other.card.spatial.replaced(short_side=40))
    runner = TorchRunner(Checkpoint(model=other.model, card=card), device="cpu")
    with pytest.raises(InputError, match="short_side is 36 of i3d_inception_rgb and 40 of i3d_inception_flow"):
        Recognizer(rgb).features(frames, flow=Recognizer(runner))


def test_an_engine_gives_no_features(rgb: TorchRunner, frames: np.ndarray) -> None:
    class Engine(Runner):
        card, info = rgb.card, rgb.info

        def _run(self, inputs: Resized) -> NDArray[np.float32]:
            raise AssertionError("nothing is to run")

    with pytest.raises(InputError, match=r"torch .* runs an engine, which gives logits alone: give the checkpoint"):
        Recognizer(Engine()).features(frames)


def test_features_that_are_not_finite(frames: np.ndarray) -> None:
    made = checkpoint_of("i3d_r50")
    with torch.no_grad():
        next(made.model.parameters()).fill_(float("nan"))
    with pytest.raises(ArtifactError, match="features of i3d_r50 are not finite: the weights are damaged"):
        Recognizer(TorchRunner(made, device="cpu")).features(frames)


def test_settings_take_what_the_card_says(rgb: TorchRunner) -> None:
    assert Settings().on_card(rgb.card) == Settings(frames_per_second=25.0, crop_size=SIDE)
    card = rgb.card.replaced(sampling=rgb.card.sampling.replaced(frames_per_second=None))
    assert Settings(crop_size=36).on_card(card) == Settings(frames_per_second="source", crop_size=36)
