"""Training and validation views against what the original pipelines produced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from i3d_deploy import flow, flow_images, video_files
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.flow_frames import FlowWanted
from i3d_deploy.images import FrameFolder
from i3d_deploy.preprocessing import Pixels, Sampling, Spatial, normalize
from i3d_deploy.training import clips
from i3d_deploy.training.clips import TrainViews, ValidationViews
from tests import goldens
from tests.test_views import PIPELINES, RAWFRAMES, SYNTHETIC, noise, strides_of, synthetic_video

EIGHT = TrainViews(clip_len=8, frame_interval=1)
DENSE = Sampling(scheme="dense")


def assert_clips_equal_golden(
    found: NDArray[np.uint8], golden: dict[str, Any], case: str, *, strides: tuple[int, int, int]
) -> None:
    """Hold (V, T, H, W, 3) views against a golden: shape, statistics of every pixel, and a sample."""
    pixels = normalize(found, Pixels())
    assert list(pixels.shape) == golden[f"{case}/shape"].tolist()
    step, step_y, step_x = strides
    # One float32 rounding of values up to 2.7; its statistics are sums over millions of pixels.
    np.testing.assert_allclose(pixels[:, :, ::step, ::step_y, ::step_x], golden[f"{case}/sample"], rtol=0, atol=2.5e-7)
    for number, view in enumerate(pixels):
        assert view.mean(dtype=np.float64) == pytest.approx(golden[f"{case}/view_mean"][number], abs=1e-6)
        assert view.std(dtype=np.float64) == pytest.approx(golden[f"{case}/view_std"][number], abs=1e-6)


@pytest.mark.parametrize("name", SYNTHETIC)
@pytest.mark.parametrize("form", ["train", "train_lazy"])
def test_training_clips_equal_the_original(name: str, form: str) -> None:
    # The golden's clip is all 8 frames in order; a uniform clip of 8 frames that starts at 0 is the same.
    seed = int(name.rpartition("_s")[2])
    spec = EIGHT.replaced(lazy=form == "train_lazy")
    found = clips.draw(synthetic_video(name), spec, seed=seed)
    assert_clips_equal_golden(found[None], PIPELINES, f"{name}/{form}", strides=strides_of(f"{name}/{form}"))


@pytest.mark.parametrize("name", SYNTHETIC)
@pytest.mark.parametrize("form", ["val", "val_lazy"])
def test_validation_views_equal_the_original(name: str, form: str) -> None:
    spec = ValidationViews(sampling=Sampling(clip_len=8, frame_interval=1, num_clips=1), lazy=form == "val_lazy")
    found = clips.validation_views(synthetic_video(name), spec)
    assert_clips_equal_golden(found, PIPELINES, f"{name}/{form}", strides=strides_of(f"{name}/{form}"))


@pytest.fixture(scope="module")
def images() -> FrameFolder:
    # The golden's list line: "imgs 10 127".
    return FrameFolder(path=goldens.shared_file("goldens/data/imgs"), num_frames=10)


@pytest.mark.parametrize(
    ("row", "spec"), [("plain", TrainViews()), ("dense", TrainViews(scheme="dense")), ("lazy", TrainViews(lazy=True))]
)
def test_training_clips_of_frames_equal_the_original(images: FrameFolder, row: str, spec: TrainViews) -> None:
    found = clips.draw(images, spec, seed=int(RAWFRAMES["seed"]))
    assert_clips_equal_golden(found[None], RAWFRAMES, f"{row}/train", strides=(8, 64, 64))


@pytest.mark.parametrize(
    ("row", "spec"),
    [
        ("plain", ValidationViews()),
        ("dense", ValidationViews(sampling=DENSE)),
        ("lazy", ValidationViews(lazy=True)),
    ],
)
def test_validation_views_of_frames_equal_the_original(images: FrameFolder, row: str, spec: ValidationViews) -> None:
    assert_clips_equal_golden(clips.validation_views(images, spec), RAWFRAMES, f"{row}/val", strides=(8, 64, 64))


@pytest.mark.parametrize("row", ["plain", "dense", "lazy"])
def test_test_views_of_listed_frames_equal_the_original(images: FrameFolder, row: str) -> None:
    sampling = DENSE if row == "dense" else Sampling()
    found = clips.validation_views(images, ValidationViews(sampling=sampling, spatial=Spatial()))
    assert_clips_equal_golden(found, RAWFRAMES, f"{row}/test", strides=(8, 64, 64))


SMALL = TrainViews(clip_len=4, frame_interval=2, short_side=32, crop_size=24)


def test_a_clip_is_a_function_of_its_seed() -> None:
    pixels = noise(40, 48, 64)
    first, again, other = (clips.draw(pixels, SMALL, seed=seed) for seed in (5, 5, 6))
    assert first.shape == (4, 24, 24, 3)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_seeds_differ_in_every_part() -> None:
    seeds = [clips.seed_of(run, epoch, index) for run in range(3) for epoch in range(3) for index in range(30)]
    assert len(set(seeds)) == len(seeds)
    # NumPy documents SeedSequence as stable: this value may never change, or resumed runs would.
    assert clips.seed_of(0, 1, 2) == int(np.random.SeedSequence([0, 1, 2]).generate_state(1)[0])


def test_flip_mirrors_all_frames_alike() -> None:
    pixels = np.zeros((8, 32, 32, 3), np.uint8)
    pixels[..., :] = np.arange(32)[:, None]
    whole = TrainViews(clip_len=8, frame_interval=1, short_side=32, crop_size=32, scales=(1.0,))
    flipped = clips.draw(pixels, whole.replaced(flip=1.0), seed=0)
    np.testing.assert_array_equal(flipped, pixels[:, :, ::-1])
    np.testing.assert_array_equal(clips.draw(pixels, whole.replaced(flip=0.0), seed=0), pixels)


@pytest.mark.parametrize("lazy", [False, True])
def test_random_resized_crops_have_the_asked_size(lazy: bool) -> None:
    spec = SMALL.replaced(crop="random_resized", lazy=lazy)
    assert clips.draw(noise(20, 40, 64), spec, seed=1).shape == (4, 24, 24, 3)


def test_frames_of_different_sizes_are_refused(tmp_path: Path) -> None:
    for number, width in enumerate((40, 40, 50, 40, 50, 40, 50, 50), 1):
        assert cv2.imwrite(str(tmp_path / f"img_{number:05d}.png"), noise(1, 32, width)[0])
    with pytest.raises(VideoError, match="the frames have different sizes"):
        clips.draw(tmp_path, SMALL, seed=0)


def test_a_listed_frame_that_is_missing_is_named(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "img_00001.jpg"), noise(1, 32, 40)[0])
    with pytest.raises(VideoError, match=r"img_00003.jpg: no such file"):
        clips.draw(FrameFolder(path=tmp_path, num_frames=8), SMALL, seed=0)


def test_offset_counts_images_before_the_run(tmp_path: Path) -> None:
    for number in range(1, 11):
        assert cv2.imwrite(str(tmp_path / f"frame-{number}.png"), np.full((32, 32, 3), number, np.uint8))
    run = FrameFolder(path=tmp_path, num_frames=4, offset=3, image_name="frame-{}.png")
    spec = ValidationViews(
        sampling=Sampling(clip_len=4, frame_interval=1, num_clips=1),
        spatial=Spatial(num_crops=1, crop_size=32, short_side=32),
    )
    assert clips.validation_views(run, spec)[0, :, 0, 0, 0].tolist() == [4, 5, 6, 7]


def test_a_wrong_count_is_noticed_where_its_frames_are_wanted() -> None:
    # The container says 311 frames, 310 decode. A clip of all frames needs the last one.
    path = goldens.shared_file("videos/flipping_pancake.mkv")
    spec = TrainViews(clip_len=311, frame_interval=1, short_side=32, crop_size=32, scales=(1.0,), flip=0.0)
    found = clips.draw(path, spec, seed=0)
    # 310 frames are too few, so the clip starts over with the first one.
    np.testing.assert_array_equal(found[310], found[0])


DIS = FlowWanted(method="dis")
WHOLE = TrainViews(clip_len=4, frame_interval=1, short_side=24, scales=(1.0,), crop_size=24, flip=0.0)
"""All of four square frames."""


@pytest.fixture
def flow_folder(tmp_path: Path) -> FrameFolder:
    """Four pairs of smooth flow images of 48x48, after one that the list leaves out."""
    random = np.random.RandomState(3)
    small = random.randint(0, 256, (5, 6, 6, 2)).astype(np.uint8)
    flow_images.write_pairs(tmp_path, [cv2.resize(pixels, (48, 48), interpolation=cv2.INTER_CUBIC) for pixels in small])
    return FrameFolder(path=tmp_path, num_frames=4, offset=1)


def resized_by_hand(folder: FrameFolder) -> NDArray[np.uint8]:
    """The images as OpenCV reads and resizes them, x beside y."""
    pairs = []
    for number in range(2, 6):
        planes = [cv2.imread(str(folder.path / f"{axis}_0000{number}.jpg"), cv2.IMREAD_GRAYSCALE) for axis in "xy"]
        pair = np.dstack([plane for plane in planes if plane is not None])
        pairs.append(cv2.resize(pair, (24, 24), interpolation=cv2.INTER_LINEAR))
    return np.stack(pairs).astype(np.uint8)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_clip_of_flow_images_equals_them_resized_by_hand(flow_folder: FrameFolder, lazy: bool) -> None:
    found = clips.draw(flow_folder, WHOLE.replaced(lazy=lazy), seed=0, flow=DIS)
    assert found.shape == WHOLE.shape(2) == (4, 24, 24, 2)
    np.testing.assert_array_equal(found, resized_by_hand(flow_folder))


@pytest.mark.parametrize("lazy", [False, True])
def test_mirrored_flow_has_x_inverted(flow_folder: FrameFolder, lazy: bool) -> None:
    found = clips.draw(flow_folder, WHOLE.replaced(flip=1.0, lazy=lazy), seed=0, flow=DIS)
    expected = resized_by_hand(flow_folder)[:, :, ::-1]
    np.testing.assert_array_equal(found[..., 0], 255 - expected[..., 0])
    np.testing.assert_array_equal(found[..., 1], expected[..., 1])


def test_no_motion_mirrored_is_one_level_higher(tmp_path: Path) -> None:
    flow_images.write_pairs(tmp_path, [np.full((24, 24, 2), 127, np.uint8)] * 4)
    folder = FrameFolder(path=tmp_path, num_frames=4)
    found = clips.draw(folder, WHOLE.replaced(flip=1.0), seed=0, flow=DIS)
    assert np.unique(found[..., 0]).tolist() == [128]
    assert np.unique(found[..., 1]).tolist() == [127]


def test_flow_and_frames_of_a_seed_have_the_same_crop_and_flip(tmp_path: Path) -> None:
    # x is the column and y the row, so that the corners of a clip say where it was cut.
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(40)), axis=-1).astype(np.uint8)
    flow_images.write_pairs(tmp_path, [grid] * 6, quality=100)
    spec = WHOLE.replaced(short_side=40, scales=(0.6,), flip=0.5)
    frames = np.repeat(np.concatenate([grid, grid[..., :1]], axis=2)[None], 6, axis=0)
    for seed in range(8):
        moved = clips.draw(tmp_path, spec, seed=seed, flow=DIS)
        seen = clips.draw(frames, spec, seed=seed)
        is_flipped = seen[0, 0, 0, 0] > seen[0, 0, -1, 0]
        x = 255 - moved[..., 0] if is_flipped else moved[..., 0]
        np.testing.assert_allclose(x.astype(int), seen[..., 0].astype(int), atol=2)  # JPEG
        np.testing.assert_allclose(moved[..., 1].astype(int), seen[..., 1].astype(int), atol=2)


@pytest.mark.parametrize("lazy", [False, True])
def test_flow_of_frames_is_computed_at_the_short_side(lazy: bool) -> None:
    frames = np.stack([np.roll(noise(1, 96, 96)[0], 2 * number, axis=1) for number in range(5)])
    spec = WHOLE.replaced(short_side=48, crop_size=48, lazy=lazy)
    found = clips.draw(frames, spec, seed=0, flow=DIS)
    small = [cv2.resize(frame, (48, 48), interpolation=cv2.INTER_LINEAR) for frame in frames]
    for number in range(4):
        expected = flow.to_uint8(flow.compute(small[number], small[number + 1], method="dis"))
        np.testing.assert_array_equal(found[number], expected)


def test_one_frame_has_no_flow_to_train_on() -> None:
    with pytest.raises(VideoError, match="a video of 1 frame has no optical flow: it takes two at the recipe's rate"):
        clips.draw(noise(1, 32, 32), WHOLE, seed=0, flow=DIS)


@pytest.mark.parametrize("lazy", [False, True])
def test_validation_views_of_flow_are_cut_from_the_middle(flow_folder: FrameFolder, lazy: bool) -> None:
    spec = ValidationViews(
        sampling=Sampling(clip_len=4, frame_interval=1, num_clips=1),
        spatial=Spatial(num_crops=1, crop_size=48, short_side=48),
        lazy=lazy,
    )
    found = clips.validation_views(flow_folder, spec, flow=DIS)
    assert found.shape == (1, 4, 48, 48, 2)
    for number in range(4):
        image = cv2.imread(str(flow_folder.path / f"y_0000{number + 2}.jpg"), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(found[0, number, ..., 1], image)


def test_frames_are_counted_at_the_rate_of_the_recipe(tmp_path: Path) -> None:
    # Eight frames at 50 a second are four at 25: every other one.
    levels = [np.full((32, 32, 3), 16 + 30 * number, np.uint8) for number in range(8)]
    video_files.write(tmp_path / "fast.mp4", iter(levels), frames_per_second=50)
    found = clips.draw(tmp_path / "fast.mp4", WHOLE.replaced(frames_per_second=25.0), seed=0)
    assert np.round((found.mean((1, 2, 3)) - 16) / 30).tolist() == [0, 2, 4, 6]


def test_a_random_crop_is_a_part_of_the_resized_frame() -> None:
    frames = noise(4, 40, 60)
    spec = WHOLE.replaced(short_side=40, crop="random")
    places = set()
    for seed in range(40):
        found = clips.draw(frames, spec, seed=seed)
        matches = [
            (top, left) for top in range(17) for left in range(37) if (frames[0, top, left] == found[0, 0, 0]).all()
        ]
        ((top, left),) = [
            place
            for place in matches
            if np.array_equal(frames[:, place[0] : place[0] + 24, place[1] : place[1] + 24], found)
        ]
        places.add((top, left))
    assert len(places) > 30
    with pytest.raises(InputError, match=r"crop_size \(48\) must be <= short_side \(40\)"):
        spec.replaced(crop_size=48)
