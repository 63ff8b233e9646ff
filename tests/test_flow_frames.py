"""Optical flow in the path of a prediction: which frames, in which form, from a file, a folder or a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from i3d_deploy import flow, flow_frames, flow_images, generated, video_files, views
from i3d_deploy.errors import VideoError
from i3d_deploy.flow_cache import FlowCache
from i3d_deploy.flow_frames import FlowWanted
from i3d_deploy.frames import Frame
from i3d_deploy.images import FrameFolder
from i3d_deploy.preprocessing import Sampling, Spatial

DIS = FlowWanted(method="dis")
EVERY = Sampling(scheme="whole", clip_len=4, frame_interval=1, num_clips=1)


def as_it_is(frame: Frame) -> Frame:
    return frame


def moving(num_frames: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A texture that goes two pixels to the right and one up with each frame."""
    random = np.random.RandomState(0)
    coarse = random.randint(0, 256, (20, 30, 3)).astype(np.uint8)
    texture = cv2.resize(coarse, (240, 160), interpolation=cv2.INTER_CUBIC)
    windows = [texture[40 + n : 104 + n, 80 - 2 * n : 160 - 2 * n] for n in range(num_frames)]
    return np.stack(windows)


def test_a_flow_frame_leads_from_a_frame_to_the_next() -> None:
    frames = moving(5)
    found = flow_frames.collect(frames, DIS, choose=EVERY.flow_indices, resize=as_it_is)
    assert sorted(found.by_index) == [0, 1, 2, 3]
    assert found.indices.tolist() == [[0, 1, 2, 3]]
    assert found.num_frames == 5
    for number in range(4):
        expected = flow.to_uint8(flow.compute(frames[number], frames[number + 1], method="dis"))
        np.testing.assert_array_equal(found.by_index[number], expected)
    # Two pixels to the right and one up: 127.5 + 255 / 40 a pixel, cut off.
    middle = np.median(found.by_index[1][16:-16, 16:-16].reshape(-1, 2), axis=0)
    np.testing.assert_allclose(middle, [140, 121], atol=1)


def test_flow_spans_the_frames_that_are_counted(tmp_path: Path) -> None:
    # 20 frames at 50 a second are 10 at 25: flow leads over two frames of the file each time.
    frames = moving(20)
    video_files.write(tmp_path / "fast.mp4", iter(frames), frames_per_second=50)
    decoded = list(video_files.read(tmp_path / "fast.mp4"))
    sampling = EVERY.replaced(frames_per_second=25.0)
    found = flow_frames.collect(tmp_path / "fast.mp4", DIS, choose=sampling.flow_indices, resize=as_it_is)
    assert sorted(found.by_index) == list(range(9))
    expected = flow.to_uint8(flow.compute(decoded[4], decoded[6], method="dis"))
    np.testing.assert_array_equal(found.by_index[2], expected)


def test_colours_come_before_the_flow_that_starts_from_them() -> None:
    frames = moving(4)
    both = FlowWanted(method="dis", with_rgb=True)
    found = flow_frames.collect(frames, both, choose=EVERY.flow_indices, resize=as_it_is)
    alone = flow_frames.collect(frames, DIS, choose=EVERY.flow_indices, resize=as_it_is)
    for number in range(3):
        np.testing.assert_array_equal(found.by_index[number][..., :3], frames[number])
        np.testing.assert_array_equal(found.by_index[number][..., 3:], alone.by_index[number])


def test_one_frame_has_no_flow() -> None:
    with pytest.raises(VideoError, match="a video of 1 frame has no optical flow: it takes two"):
        flow_frames.collect(moving(1), DIS, choose=EVERY.flow_indices, resize=as_it_is)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    generated.write_clip(tmp_path / "clip.mp4", num_frames=6, height=48, width=64)
    return tmp_path / "clip.mp4"


def test_the_cache_gives_the_same_flow_and_computes_nothing(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = FlowWanted(method="dis", cache=FlowCache(tmp_path / "cache"))
    plain = flow_frames.collect(clip, DIS, choose=EVERY.flow_indices, resize=as_it_is)
    first = flow_frames.collect(clip, cached, choose=EVERY.flow_indices, resize=as_it_is)
    monkeypatch.setattr(flow, "compute", None)
    second = flow_frames.collect(clip, cached, choose=EVERY.flow_indices, resize=as_it_is)
    for number in range(5):
        np.testing.assert_array_equal(first.by_index[number], plain.by_index[number])
        np.testing.assert_array_equal(second.by_index[number], plain.by_index[number])


def halved(frame: Frame) -> Frame:
    return np.ascontiguousarray(frame[::2, ::2])


def test_the_cache_knows_flow_by_the_two_frames_alone(clip: Path, tmp_path: Path) -> None:
    cached = FlowWanted(method="dis", cache=FlowCache(tmp_path / "cache"))
    # 6 frames have 5 flows; every other frame, of which no pair was seen before, 2 more; half the size, 5 more.
    for sampling, resize, count in (
        (EVERY, as_it_is, 5),
        (EVERY.replaced(frames_per_second=12.5), as_it_is, 7),
        (EVERY, halved, 12),
    ):
        plain = flow_frames.collect(clip, DIS, choose=sampling.flow_indices, resize=resize)
        kept = flow_frames.collect(clip, cached, choose=sampling.flow_indices, resize=resize)
        assert kept.by_index.keys() == plain.by_index.keys()
        for number, frame in plain.by_index.items():
            np.testing.assert_array_equal(kept.by_index[number], frame)
        assert len(list((tmp_path / "cache").rglob("*.png"))) == count
    # The same frames from elsewhere are the same entries.
    frames = np.stack(list(video_files.read(clip)))
    flow_frames.collect(frames, cached, choose=EVERY.flow_indices, resize=as_it_is)
    assert len(list((tmp_path / "cache").rglob("*.png"))) == 12


def test_a_folder_of_flow_images_is_read_as_it_is(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    flows = [random.randint(0, 256, (24, 32, 2)).astype(np.uint8) for _ in range(3)]
    flow_images.write_pairs(tmp_path, flows, quality=100)
    found = flow_frames.collect(tmp_path, DIS, choose=EVERY.flow_indices, resize=as_it_is)
    assert found.indices.tolist() == [[0, 1, 2]]
    for number in range(3):
        for plane, axis in enumerate("xy"):
            image = cv2.imread(str(tmp_path / f"{axis}_0000{number + 1}.jpg"), cv2.IMREAD_GRAYSCALE)
            np.testing.assert_array_equal(found.by_index[number][..., plane], image)


def test_a_folder_with_frames_and_flow_gives_both(tmp_path: Path) -> None:
    frames = moving(3)
    flow_images.write_pairs(tmp_path, flow.between(iter(frames), method="dis"), quality=100)
    for number, frame in enumerate(frames, 1):
        cv2.imwrite(str(tmp_path / f"img_{number:05}.jpg"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    found = flow_frames.collect(
        tmp_path, FlowWanted(method="dis", with_rgb=True), choose=EVERY.flow_indices, resize=as_it_is
    )
    assert [frame.shape for frame in found.by_index.values()] == [(64, 80, 5)] * 2
    (tmp_path / "img_00002.jpg").unlink()
    with pytest.raises(VideoError, match=r"img_00002\.jpg: no such file"):
        flow_frames.collect(
            tmp_path, FlowWanted(method="dis", with_rgb=True), choose=EVERY.flow_indices, resize=as_it_is
        )


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """Five pairs, the number of each is ten times its x."""
    flows = [np.full((16, 16, 2), 10 * number, np.uint8) for number in range(1, 6)]
    flow_images.write_pairs(tmp_path, flows, quality=100)
    return tmp_path


def test_a_list_says_which_flow_images_of_a_folder(numbered: Path) -> None:
    listed = FrameFolder(path=numbered, num_frames=3, offset=1)
    found = flow_frames.collect(listed, DIS, choose=EVERY.flow_indices, resize=as_it_is)
    assert found.num_frames == 4  # three pairs lead from the first of four frames to the last
    assert [int(found.by_index[number][0, 0, 0]) for number in range(3)] == [20, 30, 40]


def test_a_list_that_counts_frames_is_told_from_one_that_counts_pairs(numbered: Path) -> None:
    listed = FrameFolder(path=numbered, num_frames=6)
    with pytest.raises(
        VideoError, match=r"x_00006\.jpg, the last one by the list, is missing: it counts pairs of flow"
    ):
        flow_frames.collect(listed, DIS, choose=EVERY.flow_indices, resize=as_it_is)


def test_a_folder_with_neither_says_what_was_looked_for(tmp_path: Path) -> None:
    listed = FrameFolder(path=tmp_path, num_frames=6)
    message = r"neither flow images \(x_00001\.jpg, y_00001\.jpg \.\.\.\) nor frames \(img_00001\.jpg"
    with pytest.raises(VideoError, match=message):
        flow_frames.collect(listed, DIS, choose=EVERY.flow_indices, resize=as_it_is)


def test_flow_images_are_transformed_in_place_of_being_resized(numbered: Path) -> None:
    found = flow_frames.collect(numbered, DIS, choose=EVERY.flow_indices, resize=as_it_is, transform=halved)
    assert found.by_index[0].shape == (8, 8, 2)
    # Of frames, the flow between whole ones.
    frames = moving(3)
    found = flow_frames.collect(frames, DIS, choose=EVERY.flow_indices, resize=as_it_is, transform=halved)
    expected = flow.to_uint8(flow.compute(frames[0], frames[1], method="dis"))
    np.testing.assert_array_equal(found.by_index[0], expected[::2, ::2])


def test_flow_is_short_by_its_own_frames(numbered: Path) -> None:
    # 9 frames have 8 flow frames: a clip of 9 begins anew with the first one, and 10 frames are enough.
    nine = Sampling(clip_len=9, frame_interval=1, num_clips=1)
    spatial = Spatial(short_side=32, crop_size=32, num_crops=1)
    prepared = views.cut(moving(9), sampling=nine, spatial=spatial, flow=DIS)
    assert prepared.indices.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 0]]
    assert prepared.warnings == ("9 frames are fewer than the 10 that a clip spans: they are repeated",)
    assert views.cut(moving(10), sampling=nine, spatial=spatial, flow=DIS).warnings == ()
    # Five pairs in a folder are six frames, as they are of a video.
    for clip_len, warnings in {
        5: (),
        6: ("6 frames are fewer than the 7 that a clip spans: they are repeated",),
    }.items():
        prepared = views.cut(numbered, sampling=nine.replaced(clip_len=clip_len), spatial=spatial, flow=DIS)
        assert (prepared.num_frames, prepared.warnings) == (6, warnings)


def test_flow_that_is_read_was_made_at_a_rate(numbered: Path) -> None:
    spatial = Spatial(short_side=32, crop_size=32, num_crops=1)
    at_25 = EVERY.replaced(frames_per_second=25.0)
    assert views.cut(numbered, sampling=at_25, spatial=spatial, flow=DIS).warnings == ()
    (computed,) = views.cut(moving(6), sampling=at_25, spatial=spatial, flow=DIS).warnings
    assert computed == "the video does not say its rate: its frames are taken to be 25 a second"


def test_views_of_flow_are_cut_from_resized_flow() -> None:
    frames = moving(6)
    sampling, spatial = (
        Sampling(clip_len=2, frame_interval=2, num_clips=1),
        Spatial(short_side=32, crop_size=32, num_crops=1),
    )
    prepared = views.cut(frames, sampling=sampling, spatial=spatial, flow=DIS)
    assert prepared.view_shape == (2, 32, 32, 2)
    (view,) = next(prepared.batches(1))
    small = [cv2.resize(frame, (40, 32), interpolation=cv2.INTER_LINEAR) for frame in frames]
    for place, number in enumerate(prepared.indices[0].tolist()):
        expected = flow.to_uint8(flow.compute(small[number], small[number + 1], method="dis"))
        np.testing.assert_array_equal(view[place], expected[:, 4:36])
