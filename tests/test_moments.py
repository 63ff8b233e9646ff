"""A video moment by moment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from i3d_deploy import flow, flow_images, generated, images, moments, video_files
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.flow_cache import FlowCache
from i3d_deploy.images import FrameFolder
from i3d_deploy.moments import Moment, MomentsWanted, Rate
from i3d_deploy.preprocessing import Spatial
from i3d_deploy.video import Source

SPATIAL = Spatial(short_side=32, crop_size=32)


def wanted(rate: Rate = "source", *, rgb: bool = True, with_flow: bool = False) -> MomentsWanted:
    """Frames or flow, of a short side of 32."""
    return MomentsWanted(spatial=SPATIAL, rate=rate, has_rgb=rgb, flow_method="dis" if with_flow else None)


def read(source: Source, what: MomentsWanted) -> tuple[list[Moment], float | None, list[str]]:
    """All moments, their rate, and the warnings."""
    with moments.opened(source, what) as opened:
        found = list(opened.moments)
        return found, opened.frames_per_second, opened.warnings


def numbered(count: int) -> np.ndarray:
    """Frames of 32x32 of one brightness each, their number."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 32, 32, 3))


def drawn(count: int) -> list[np.ndarray]:
    """Frames of 48x32 with something that moves."""
    return list(generated.frames(num_frames=count, height=32, width=48))


def test_frames_are_resized_and_counted_at_the_rate_wanted(tmp_path: Path) -> None:
    generated.write_clip(tmp_path / "clip.mp4", num_frames=20, height=48, width=64)
    found, rate, warnings = read(tmp_path / "clip.mp4", wanted(10.0))
    # 25 frames a second at 10: 0, 2.5, 5, 7.5, ... and the nearest ones, halves upwards.
    whole = list(video_files.read(tmp_path / "clip.mp4"))
    expected = [cv2.resize(whole[index], (43, 32)) for index in (0, 3, 5, 8, 10, 13, 15, 18)]
    np.testing.assert_array_equal([frame for (frame,) in found], expected)
    assert (rate, warnings) == (10.0, [])


def test_all_frames_at_the_rate_of_the_source(tmp_path: Path) -> None:
    generated.write_clip(tmp_path / "clip.mp4", num_frames=20, height=48, width=64)
    found, rate, _ = read(tmp_path / "clip.mp4", wanted("source"))
    assert (len(found), rate) == (20, 25.0)


def test_an_unknown_rate_is_assumed_aloud() -> None:
    found, rate, warnings = read(numbered(5), wanted(25.0))
    assert ([int(frame[0, 0, 0]) for (frame,) in found], rate) == ([0, 1, 2, 3, 4], 25.0)
    assert warnings == ["the video does not say its rate: its frames are taken to be 25 a second"]
    assert read(numbered(5), wanted("source"))[1:] == (None, [])


def test_flow_leads_from_each_frame_to_the_next() -> None:
    frames = drawn(6)
    found, _, _ = read(iter(frames), wanted(rgb=False, with_flow=True))
    np.testing.assert_array_equal([one for (one,) in found], list(flow.between(frames, method="dis")))
    assert len(found) == 5


def test_both_leave_out_the_last_frame() -> None:
    frames = drawn(6)
    found, _, _ = read(iter(frames), wanted(with_flow=True))
    np.testing.assert_array_equal([frame for frame, _ in found], frames[:5])
    np.testing.assert_array_equal([one for _, one in found], list(flow.between(frames, method="dis")))


def test_flow_is_that_of_frames_at_the_rate_wanted(tmp_path: Path) -> None:
    generated.write_clip(tmp_path / "clip.mp4", num_frames=9, height=32, width=48)
    found, _, _ = read(tmp_path / "clip.mp4", wanted(12.5, rgb=False, with_flow=True))
    every_other = list(video_files.read(tmp_path / "clip.mp4"))[::2]
    np.testing.assert_array_equal([one for (one,) in found], list(flow.between(every_other, method="dis")))


def test_flow_that_is_kept_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = drawn(4)
    expected = list(flow.between(frames, method="dis"))
    what = replace(wanted(rgb=False, with_flow=True), flow_cache=FlowCache(tmp_path))
    for _ in range(2):
        found, _, _ = read(iter(frames), what)
        np.testing.assert_array_equal([one for (one,) in found], expected)
        monkeypatch.setattr(flow, "compute", None)


@pytest.mark.parametrize("count", [0, 1])
def test_one_frame_has_no_flow(count: int) -> None:
    assert read(iter(drawn(count) if count else []), wanted(with_flow=True))[0] == []


@pytest.fixture
def flow_folder(tmp_path: Path) -> Path:
    """Five flow images of 32x48, and the frames from which they lead."""
    frames = drawn(6)
    flow_images.write_pairs(tmp_path, flow.between(frames, method="dis"))
    for number, frame in enumerate(frames, 1):
        cv2.imwrite(str(tmp_path / f"img_{number:05}.jpg"), frame[:, :, ::-1])
    return tmp_path


def test_stored_flow_is_read(flow_folder: Path) -> None:
    folder = flow_images.FlowFolder(flow_folder)
    found, _, _ = read(flow_folder, wanted(rgb=False, with_flow=True))
    np.testing.assert_array_equal([one for (one,) in found], [folder.read(number) for number in range(5)])


def test_stored_flow_is_read_with_its_frames(flow_folder: Path) -> None:
    found, _, _ = read(flow_folder, wanted(with_flow=True))
    frames = [images.read(flow_folder / f"img_{number:05}.jpg") for number in range(1, 6)]
    np.testing.assert_array_equal([frame for frame, _ in found], frames)


@pytest.mark.parametrize("rgb", [True, False])
def test_stored_flow_that_a_list_names_is_read_from_its_offset(flow_folder: Path, rgb: bool) -> None:
    for path in flow_folder.glob("img_*.jpg"):
        path.rename(flow_folder / f"frame{int(path.stem[4:])}.jpg")
    listed = FrameFolder(path=flow_folder, num_frames=3, offset=1, image_name="frame{}.jpg")
    found, rate, _ = read(listed, wanted(25.0, rgb=rgb, with_flow=True))
    for axis, name in enumerate("xy"):
        expected = [images.read_gray(flow_folder / f"{name}_0000{number}.jpg") for number in (2, 3, 4)]
        np.testing.assert_array_equal([moment[-1][..., axis] for moment in found], expected)
    if rgb:
        frames = [images.read(flow_folder / f"frame{number}.jpg") for number in (2, 3, 4)]
        np.testing.assert_array_equal([moment[0] for moment in found], frames)
    assert rate == 25.0


def test_a_listed_folder_of_frames_has_its_flow_computed(flow_folder: Path) -> None:
    for path in flow_folder.glob("[xy]_*.jpg"):
        path.unlink()
    found, _, _ = read(FrameFolder(path=flow_folder, num_frames=4, offset=2), wanted(rgb=False, with_flow=True))
    frames = [images.read(flow_folder / f"img_0000{number}.jpg") for number in (3, 4, 5, 6)]
    np.testing.assert_array_equal([one for (one,) in found], list(flow.between(frames, method="dis")))


def test_stored_flow_and_its_frames_have_one_shape(flow_folder: Path) -> None:
    cv2.imwrite(str(flow_folder / "img_00002.jpg"), np.zeros((32, 60, 3), np.uint8))
    with pytest.raises(VideoError, match="flow 2 and its frame have different shapes"):
        read(flow_folder, wanted(with_flow=True))


def image_folder(folder: Path, sizes: Iterable[tuple[int, int]]) -> Path:
    """A folder of frames of some sizes."""
    for number, size in enumerate(sizes, 1):
        cv2.imwrite(str(folder / f"img_{number:05}.png"), np.zeros((*size, 3), np.uint8))
    return folder


def test_frames_of_different_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=f"{tmp_path}: the frames have different sizes"):
        read(image_folder(tmp_path, [(32, 32), (32, 40)]), wanted())


def test_frames_that_become_of_one_size_are_fine(tmp_path: Path) -> None:
    assert len(read(image_folder(tmp_path, [(32, 32), (64, 64)]), wanted())[0]) == 2


def test_frames_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(InputError, match="frame 0 must be uint8"):
        read(iter([np.zeros((32, 32, 3), np.float32)]), wanted())  # type: ignore[arg-type]
