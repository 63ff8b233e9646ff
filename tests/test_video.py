"""Frames out of arrays, iterables and streams of any source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from i3d_deploy import video, video_files
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.frames import Frame
from i3d_deploy.images import FrameFolder
from i3d_deploy.sampling import Indices
from i3d_deploy.video import TimedFrames
from tests.raw_avi import write_avi
from tests.sources import (
    assert_frames_are,
    collect_all,
    noise,
    write_images,
)


def test_array_list_and_generator_give_their_frames() -> None:
    pixels = noise(5)
    assert_frames_are(collect_all(pixels), pixels)
    assert_frames_are(collect_all(list(pixels)), pixels)
    assert_frames_are(collect_all(frame for frame in pixels), pixels)


def test_strided_arrays_and_frames_are_taken() -> None:
    pixels = noise(4)
    assert_frames_are(collect_all(pixels[:, ::-1, ::2, ::-1]), pixels[:, ::-1, ::2, ::-1].copy())
    assert_frames_are(collect_all(frame[..., ::-1] for frame in pixels), pixels[..., ::-1].copy())


def test_frames_with_their_rate_tell_it() -> None:
    pixels = noise(5)
    timed = TimedFrames(frames=pixels, frames_per_second=12.5)
    rates = []

    def choose(num_frames: int, frames_per_second: float | None) -> Indices:
        rates.append(frames_per_second)
        return np.arange(num_frames)[None]

    found = video.collect(timed, choose=choose, transform=lambda frame: frame)
    assert_frames_are(found, pixels)
    assert (rates, found.frames_per_second) == ([12.5], 12.5)
    with video.stream(timed) as stream:
        np.testing.assert_array_equal(list(stream.frames), pixels)
        assert stream.frames_per_second == 12.5


@pytest.mark.parametrize("rate", [0, 1e-6, -1, 1001, float("nan")])
def test_a_rate_that_no_video_has_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match=r"frames_per_second \(.*\) must be >= 0\.1 and <= 1000"):
        TimedFrames(frames=noise(1), frames_per_second=rate)


@pytest.mark.parametrize(
    ("array", "given"),
    [
        (noise(2).astype(np.float32), r"float32 of shape \(2, 48, 64, 3\)"),
        (noise(2)[0], r"uint8 of shape \(48, 64, 3\)"),
        (noise(2)[..., :1], r"uint8 of shape \(2, 48, 64, 1\)"),
        (noise(2).transpose(0, 3, 1, 2), r"uint8 of shape \(2, 3, 48, 64\)"),
    ],
)
def test_array_of_another_kind_is_refused(array: NDArray[Any], given: str) -> None:
    with pytest.raises(InputError, match=rf"frames must be uint8 of shape \(T, H, W, 3\), not {given}"):
        collect_all(array)


def test_array_and_iterable_without_frames_are_refused() -> None:
    with pytest.raises(VideoError, match=r"an array of shape \(0, 48, 64, 3\) has no frame"):
        collect_all(noise(0))
    with pytest.raises(VideoError, match="the iterable of frames is empty"):
        collect_all([])


@pytest.mark.parametrize(
    ("frame", "given"),
    [
        (noise(1)[0].astype(np.float64), r"float64 of shape \(48, 64, 3\)"),
        (noise(1)[0, ..., 0], r"uint8 of shape \(48, 64\)"),
        (b"img_00001.jpg", "<class 'bytes'> of shape None"),
    ],
)
def test_frame_of_another_kind_is_refused(frame: Any, given: str) -> None:
    with pytest.raises(InputError, match=rf"frame 1 must be uint8 of shape \(H, W, 3\), not {given}"):
        collect_all([noise(1)[0], frame])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "a video is a file, URL, folder of frames, array or iterable of frames, not NoneType"),
        (["a.mp4", "b.mp4"], "frame 0 is 'a.mp4': give one video at a time, or many to predict_many"),
        ([Path("a.mp4")], "frame 0 is 'a.mp4': give one video at a time, or many to predict_many"),
    ],
    ids=["nothing", "names", "a path"],
)
def test_what_is_no_video_is_refused(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        collect_all(source)


def test_frames_that_change_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"frame 2 has shape \(64, 48, 3\), those before it \(48, 64, 3\)"):
        collect_all([*noise(2), noise(1, 64, 48)[0]])


def test_error_of_an_iterable_passes_through() -> None:
    def breaks() -> Iterator[Frame]:
        yield noise(1)[0]
        raise ConnectionError("the camera is gone")

    with pytest.raises(ConnectionError, match="the camera is gone"):
        collect_all(breaks())


def streamed(source: Any, **options: Any) -> tuple[list[Frame], video.Stream]:
    """Every frame of a source, read as a stream."""
    with video.stream(source, **options) as opened:
        return list(opened.frames), opened


def test_a_stream_gives_the_frames_of_any_source(tmp_path: Path) -> None:
    pixels = noise(6)
    write_images(tmp_path / "images", pixels)
    listed = FrameFolder(path=tmp_path / "images", num_frames=3, offset=2, image_name="img_{:05}.png")
    for source in (tmp_path / "images", str(tmp_path / "images"), pixels, iter(pixels)):
        frames, opened = streamed(source)
        np.testing.assert_array_equal(frames, pixels)
        assert (opened.frames_per_second, opened.warnings) == (None, [])
    np.testing.assert_array_equal(streamed(listed)[0], pixels[2:5])
    write_avi(tmp_path / "clip.avi", pixels, promised=6)
    frames, opened = streamed(tmp_path / "clip.avi")
    np.testing.assert_array_equal(frames, pixels)
    assert (opened.frames_per_second, opened.warnings) == (video_files.frame_rate(tmp_path / "clip.avi"), [])


def test_a_stream_warns_of_a_wrong_count_at_its_end(tmp_path: Path) -> None:
    write_avi(tmp_path / "clip.avi", noise(10), promised=20)
    with video.stream(tmp_path / "clip.avi") as opened:
        next(opened.frames)
        assert opened.warnings == []
        assert len(list(opened.frames)) == 9
    assert opened.warnings == ["the container says 20 frames, 10 decode"]
    with pytest.raises(VideoError, match="only 10 of 20 frames decode, fewer than 60%: the file is damaged"):
        streamed(tmp_path / "clip.avi", min_decoded_share=0.6)


@pytest.mark.parametrize(
    ("source", "error", "part"),
    [
        ("/nowhere/clip.mp4", VideoError, "/nowhere/clip.mp4: no such file"),
        (np.zeros((3, 8, 8), np.uint8), InputError, r"frames must be uint8 of shape \(T, H, W, 3\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), VideoError, "has no frame"),
        ([np.zeros((8, 8), np.uint8)], InputError, "frame 0 must be uint8"),
    ],
)
def test_a_stream_of_what_is_no_video(source: Any, error: type[Exception], part: str) -> None:
    with pytest.raises(error, match=part):
        streamed(source)
