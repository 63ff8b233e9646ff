"""Views against what the original pipelines produced, to the bit."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from i3d_deploy import geometry, video_files, views
from i3d_deploy.card import Card, Provenance
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.frames import Resized
from i3d_deploy.geometry import Box, LazyWindow
from i3d_deploy.images import FrameFolder
from i3d_deploy.network import ResNet
from i3d_deploy.preprocessing import Pixels, Sampling, Spatial, normalize
from i3d_deploy.video import Source
from i3d_deploy.views import Views
from tests import goldens
from tests.raw_avi import write_avi

PIPELINES = goldens.load_npz("pipeline_tensors.npz")
RAWFRAMES = goldens.load_npz("rawframes_pipeline.npz")
SYNTHETIC = sorted({key.partition("/")[0] for key in PIPELINES if key.startswith("synth_")})

UNIFORM = Sampling()
DENSE = Sampling(scheme="dense")
ONE_CLIP = Sampling(num_clips=1)
THREE_CROPS = Spatial()
CENTER_224 = Spatial(num_crops=1, crop_size=224)


def make_card(sampling: Sampling, spatial: Spatial = THREE_CROPS) -> Card:
    return Card(
        network=ResNet(name="any", num_classes=2, stem_stride=1, stem_pool_stride=1),
        label_set="custom",
        labels=("a", "b"),
        sampling=sampling,
        spatial=spatial,
        provenance=Provenance(origin="random weights"),
    )


SMALL = make_card(Sampling(clip_len=4, frame_interval=1, num_clips=2), Spatial(short_side=32, crop_size=32))


def noise(num_frames: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.random.RandomState(0).randint(0, 256, (num_frames, height, width, 3)).astype(np.uint8)


def synthetic_video(name: str) -> NDArray[np.uint8]:
    """The goldens' video of 8 frames: coarse blocks under noise; its size and seed are in its name."""
    size, _, seed = name.removeprefix("synth_").partition("_s")
    height, width = map(int, size.split("x"))
    random = np.random.RandomState(int(seed))
    small = random.randint(0, 256, size=(8, 9, 11, 3)).astype(np.uint8)
    blocks = small.repeat(-(-height // 9), axis=1).repeat(-(-width // 11), axis=2)[:, :height, :width]
    grain = random.randint(0, 32, size=(8, height, width, 3))
    return ((blocks.astype(np.int64) * 7 // 8) + grain).astype(np.uint8)


def assert_views_equal_golden(
    prepared: Views, golden: dict[str, Any], case: str, *, strides: tuple[int, int, int]
) -> None:
    """Hold views against a golden: shape, statistics of every pixel, and a sample to the bit."""
    step, step_y, step_x = strides
    sample, mean, std = [], [], []
    for batch in prepared.batches(3):
        for view in batch:
            pixels = normalize(view[None], Pixels())[0]
            mean.append(pixels.mean(dtype=np.float64))
            std.append(pixels.std(dtype=np.float64))
            sample.append(view[::step, ::step_y, ::step_x])
    num_views, _, *extent = golden[f"{case}/shape"]
    assert (len(sample), *view.shape) == (num_views, *extent, 3)
    assert view.dtype == np.uint8
    expected = golden[f"{case}/sample"]
    # The original scales uint8 in float32, so its pixels can be told exactly from its floats.
    pixels = Pixels()
    scaled = expected.transpose(0, 2, 3, 4, 1) * np.array(pixels.std) + np.array(pixels.mean)
    np.testing.assert_allclose(scaled, scaled.round(), atol=1e-4)
    np.testing.assert_array_equal(np.stack(sample), scaled.round())
    # One float32 rounding of values up to 2.7.
    np.testing.assert_allclose(normalize(np.stack(sample), pixels), expected, rtol=0, atol=2.5e-7)
    # Sums over millions of pixels: 1e-7 on each leaves 1e-6 on the mean at worst.
    np.testing.assert_allclose(mean, golden[f"{case}/view_mean"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(std, golden[f"{case}/view_std"], rtol=0, atol=1e-6)


def strides_of(case: str) -> tuple[int, int, int]:
    step, step_y, step_x = PIPELINES[f"{case}/strides"].tolist()
    return step, step_y, step_x


@pytest.mark.parametrize("name", SYNTHETIC)
def test_three_crops_of_two_clips_equal_the_original(name: str) -> None:
    # The golden's clips are frames 0-3 and 4-7: the only clip of either half.
    pixels = synthetic_video(name)
    card = make_card(Sampling(clip_len=4, frame_interval=1, num_clips=1))
    first, second = (views.prepare(half, card) for half in (pixels[:4], pixels[4:]))
    prepared = Views(
        indices=np.concatenate([first.indices, second.indices + 4]),
        boxes=first.boxes,
        by_index=first.by_index | {index + 4: frame for index, frame in second.by_index.items()},
        num_frames=8,
    )
    case = f"{name}/test_2clips_of_4"
    assert_views_equal_golden(prepared, PIPELINES, case, strides=strides_of(case))


@pytest.mark.parametrize("name", SYNTHETIC)
def test_center_crop_equals_the_original(name: str) -> None:
    card = make_card(Sampling(clip_len=8, frame_interval=1, num_clips=1), CENTER_224)
    prepared = views.prepare(synthetic_video(name), card)
    assert_views_equal_golden(prepared, PIPELINES, f"{name}/val", strides=strides_of(f"{name}/val"))


@pytest.mark.parametrize("name", SYNTHETIC)
def test_lazy_center_crop_equals_the_original(name: str) -> None:
    # Cut from the source first, then resized once: what the original's lazy pipelines see.
    pixels = synthetic_video(name)
    height, width = geometry.short_side_size(*pixels.shape[1:3], short_side=256)
    window = LazyWindow.whole(*pixels.shape[1:3]).resize(height, width)
    window = window.crop(geometry.center_crop(height, width, size=224))
    box = window.source_box()
    cut = pixels[:, box.top : box.bottom, box.left : box.right]
    resized = {
        number: np.asarray(cv2.resize(frame, (window.width, window.height)), np.uint8)
        for number, frame in enumerate(cut)
    }
    prepared = Views(indices=np.arange(8)[None], boxes=(Box(0, 0, 224, 224),), by_index=dict(resized), num_frames=8)
    assert_views_equal_golden(prepared, PIPELINES, f"{name}/val_lazy", strides=strides_of(f"{name}/val_lazy"))


@pytest.mark.parametrize(
    ("case", "card"),
    [
        ("uniform_test30", make_card(UNIFORM)),
        ("dense_test30", make_card(DENSE)),
        ("val", make_card(ONE_CLIP, CENTER_224)),
        ("inference_3view", make_card(ONE_CLIP)),
    ],
)
def test_views_of_a_video_file_equal_the_original(case: str, card: Card) -> None:
    prepared = views.prepare(goldens.shared_file("videos/arm_wrestling.mp4"), card)
    assert prepared.num_frames == PIPELINES[f"clip/{case}/total_frames"]
    np.testing.assert_array_equal(prepared.indices.ravel(), PIPELINES[f"clip/{case}/frame_inds"])
    assert prepared.warnings == ()
    assert_views_equal_golden(prepared, PIPELINES, f"clip/{case}", strides=strides_of(f"clip/{case}"))


@pytest.mark.parametrize(
    ("case", "card"),
    [
        ("plain/test", make_card(UNIFORM)),
        ("plain/val", make_card(ONE_CLIP, CENTER_224)),
        ("dense/test", make_card(DENSE)),
        ("dense/val", make_card(DENSE, CENTER_224)),
    ],
)
def test_views_of_an_image_folder_equal_the_original(case: str, card: Card) -> None:
    prepared = views.prepare(goldens.shared_file("goldens/data/imgs"), card)
    assert prepared.num_frames == RAWFRAMES["total_frames"]
    assert_views_equal_golden(prepared, RAWFRAMES, case, strides=(8, 64, 64))


def stacked(source: Source, card: Card, **options: Any) -> Resized:
    prepared = views.prepare(source, card, **options)
    return next(prepared.batches(len(prepared)))


@pytest.mark.parametrize(("height", "width"), [(40, 53), (53, 40)], ids=["landscape", "portrait"])
def test_every_kind_of_source_gives_identical_views(tmp_path: Path, height: int, width: int) -> None:
    pixels = noise(11, height, width)
    write_avi(tmp_path / "clip.avi", pixels)
    for number, frame in enumerate(pixels, 1):
        assert cv2.imwrite(str(tmp_path / f"img_{number:05d}.png"), frame[..., ::-1])
    expected = stacked(pixels, SMALL)
    assert expected.shape == (6, 4, 32, 32, 3)
    for source in (tmp_path / "clip.avi", str(tmp_path / "clip.avi"), tmp_path, list(pixels), iter(pixels)):
        np.testing.assert_array_equal(stacked(source, SMALL), expected)


def test_order_is_crop_major_left_right_center() -> None:
    # Frames of 32x64 that need no resize; every pixel holds its frame and its column.
    pixels = np.zeros((8, 32, 64, 3), np.uint8)
    pixels[..., 0] = np.arange(8)[:, None, None]
    pixels[..., 1] = np.arange(64)
    corners = stacked(pixels, SMALL)[:, 0, 0, 0, :2]
    # Clips of 4 out of 8 frames: (8 - 4 + 1) / 2 = 2.5 apart, each in the middle of its part: they start at 1 and 3.
    assert corners.tolist() == [[1, 0], [3, 0], [1, 32], [3, 32], [1, 16], [3, 16]]


def test_portrait_frames_are_cut_top_bottom_middle() -> None:
    pixels = np.zeros((4, 64, 32, 3), np.uint8)
    pixels[..., 0] = np.arange(64)[:, None]
    assert stacked(pixels, SMALL, clips=1)[:, 0, 0, 0, 0].tolist() == [0, 32, 16]


def test_video_shorter_than_a_clip_starts_over() -> None:
    pixels = noise(3, 32, 32)
    assert views.prepare(pixels, SMALL, clips=1).indices.tolist() == [[0, 1, 2, 0]]
    np.testing.assert_array_equal(stacked(pixels, SMALL, clips=1, crops=1)[0], pixels[[0, 1, 2, 0]])


def test_one_frame_fills_every_clip() -> None:
    pixels = noise(1, 32, 32)
    np.testing.assert_array_equal(stacked(pixels, SMALL), np.broadcast_to(pixels[0], (6, 4, 32, 32, 3)))


@pytest.mark.parametrize(("clips", "crops", "num_views"), [(None, None, 6), (5, None, 15), (None, 1, 2), (1, 1, 1)])
def test_clips_and_crops_replace_the_cards(clips: int | None, crops: int | None, num_views: int) -> None:
    assert len(views.prepare(noise(20, 32, 40), SMALL, clips=clips, crops=crops)) == num_views


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clips": 0}, r"clips \(0\) must be > 0"),
        ({"crops": 2}, r"crops \(2\) must be 1 or 3"),
        ({"crops": 0}, r"crops \(0\) must be 1 or 3"),
    ],
)
def test_clips_and_crops_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        views.prepare(noise(8, 32, 40), SMALL, **options)


def test_three_crops_of_a_card_with_a_smaller_crop_are_refused_before_anything_is_read() -> None:
    def unread() -> Any:
        raise AssertionError("a frame was asked for")
        yield

    message = (
        r"crops \(3\) need a crop_size equal to short_side, and the card has crop_size 224 and short_side 256: give 1, "
        "or export the checkpoint with --short-side 224"
    )
    with pytest.raises(InputError, match=message):
        views.prepare(unread(), make_card(ONE_CLIP, CENTER_224), crops=3)


def test_slowfast_cuts_three_crops_of_any_size() -> None:
    spatial = Spatial(formula="slowfast", short_side=40, crop_size=32, num_crops=1)
    assert len(views.prepare(noise(8, 40, 50), make_card(ONE_CLIP, spatial), crops=3)) == 3


ASSUMED = "the video does not say its rate: its frames are taken to be 25 a second"


@pytest.mark.parametrize("kind", ["array", "iterable", "images"])
def test_a_rate_that_is_not_known_is_assumed_aloud(kind: str, tmp_path: Path) -> None:
    frames = noise(16, 32, 40)
    for number, frame in enumerate(frames, 1):
        assert cv2.imwrite(str(tmp_path / f"img_{number:05d}.png"), frame)
    source: Any = {"array": frames, "iterable": iter(frames), "images": tmp_path}[kind]
    at_25 = SMALL.replaced(sampling=SMALL.sampling.replaced(frames_per_second=25.0))
    assert views.prepare(source, at_25).warnings == (ASSUMED,)
    # A card that takes any rate assumes none, and of the folders of a list all have that of the data set.
    assert views.prepare(frames, SMALL).warnings == ()
    assert views.prepare(FrameFolder(path=tmp_path, num_frames=16, image_name="img_{:05}.png"), at_25).warnings == ()


def test_a_file_says_its_rate(tmp_path: Path) -> None:
    at_25 = SMALL.replaced(sampling=SMALL.sampling.replaced(frames_per_second=25.0))
    video_files.write(tmp_path / "clip.mp4", iter(noise(16, 32, 40)), frames_per_second=25)
    assert views.prepare(tmp_path / "clip.mp4", at_25).warnings == ()


@pytest.mark.parametrize("size", [1, 4, 6, 7])
def test_batches_hold_the_same_views_in_any_size(size: int) -> None:
    prepared = views.prepare(noise(9, 32, 50), SMALL)
    batches = list(prepared.batches(size))
    assert [len(batch) for batch in batches] == [len(part) for part in np.split(np.arange(6), range(size, 6, size))]
    assert all(batch.flags.c_contiguous and batch.flags.owndata for batch in batches)
    np.testing.assert_array_equal(np.concatenate(batches), next(prepared.batches(6)))


def test_writing_into_a_batch_leaves_the_video_alone() -> None:
    pixels = noise(4, 32, 32)
    prepared = views.prepare(pixels, SMALL, clips=1, crops=1)
    next(prepared.batches(1))[:] = 0
    np.testing.assert_array_equal(next(prepared.batches(1))[0], pixels)


def test_views_are_cut_into_the_callers_array() -> None:
    prepared = views.prepare(noise(9, 32, 50), SMALL)
    everything = next(prepared.batches(6))
    mine = np.zeros((3, 4, 32, 32, 3), np.uint8)
    assert prepared.fill(mine, [5, 0, 2]) is mine
    np.testing.assert_array_equal(mine, everything[[5, 0, 2]])


def test_clips_that_end_first_are_cut_first() -> None:
    # 3 clips of 2 frames under 2 crops: the second clip ends at frame 3, the first at 5, the third at 9.
    boxes = (Box(0, 0, 4, 4), Box(2, 0, 6, 4))
    prepared = Views(indices=np.array([[1, 5], [2, 3], [9, 0]]), boxes=boxes, by_index={}, num_frames=10)
    assert prepared.by_clip() == [1, 4, 0, 3, 2, 5]


def test_memory_holds_the_unique_frames_and_one_batch() -> None:
    # 60 views of 16 frames, all cut from the same 16 frames.
    card = make_card(Sampling(clip_len=16, frame_interval=1, num_clips=20), Spatial(short_side=64, crop_size=64))
    prepared = views.prepare(noise(16, 64, 80), card)
    assert sum(frame.nbytes for frame in prepared.by_index.values()) == 16 * 64 * 80 * 3
    view_bytes = 16 * 64 * 64 * 3
    tracemalloc.start()
    try:
        num_views = sum(len(batch) for batch in prepared.batches(2))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num_views == 60
    # The batch of 2, and the batch before, which the loop still holds.
    assert peak_bytes < 5 * view_bytes


def test_large_frames_are_not_kept_while_reading() -> None:
    # 40 frames of 480x640 are 37 MB; resized to a short side of 32 they are 0.2 MB.
    def large() -> Any:
        for number in range(40):
            yield np.full((480, 640, 3), number, np.uint8)

    tracemalloc.start()
    try:
        views.prepare(large(), SMALL)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 5 * 480 * 640 * 3


def test_images_of_different_sizes_are_refused(tmp_path: Path) -> None:
    for number, width in enumerate((40, 40, 50, 40), 1):
        assert cv2.imwrite(str(tmp_path / f"img_{number:05d}.png"), noise(1, 32, width)[0])
    with pytest.raises(VideoError, match=r"the frames have different sizes \(2 of them\)"):
        views.prepare(tmp_path, SMALL)


def test_frames_too_narrow_to_show_anything_are_refused() -> None:
    # Resized to a short side of 256, one frame of 2x4096 would take 400 MB.
    with pytest.raises(VideoError, match="frames of 4096x2 are narrower than 1:16"):
        views.prepare(noise(1, 2, 4096), SMALL)
