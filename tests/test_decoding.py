"""Frames out of files in one pass or two, and what counts as damage."""

from __future__ import annotations

import functools
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from i3d_deploy import generated, video
from i3d_deploy.errors import VideoError
from i3d_deploy.frames import Frame
from i3d_deploy.sampling import Indices
from tests.goldens import shared_file
from tests.raw_avi import write_avi
from tests.sources import (
    HEIGHT,
    IS_CUT_AT_PROMISE,
    WIDTH,
    assert_frames_are,
    collect_all,
    noise,
)


def test_only_wanted_frames_are_kept_each_transformed_once(tmp_path: Path) -> None:
    pixels = noise(9)
    write_avi(tmp_path / "clip.avi", pixels)
    seen = []

    def transform(frame: Frame) -> Frame:
        seen.append(frame)
        return frame[:2, :2]

    wanted = np.array([[7, 2, 7], [2, 5, 5]])
    frames = video.collect(tmp_path / "clip.avi", choose=lambda num_frames, _: wanted, transform=transform)
    assert len(seen) == 3
    assert {index: frame.shape for index, frame in frames.by_index.items()} == dict.fromkeys([2, 5, 7], (2, 2, 3))
    np.testing.assert_array_equal(frames.by_index[5], pixels[5, :2, :2])


class CountingCapture:
    """A capture that notes its calls; it holds one, since a class derived from OpenCV's breaks the interpreter."""

    def __init__(self, calls: list[str], capture: cv2.VideoCapture) -> None:
        self._calls = calls
        self._capture = capture

    def __getattr__(self, name: str) -> Any:
        self._calls.append(name)
        return getattr(self._capture, name)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the methods called on OpenCV's captures, and "open" for each new one."""
    calls: list[str] = []
    make = cv2.VideoCapture

    def counting(*args: Any) -> CountingCapture:
        calls.append("open")
        return CountingCapture(calls, make(*args))

    monkeypatch.setattr(cv2, "VideoCapture", counting)
    return calls


def pick_three(num_frames: int, _: float | None) -> Indices:
    return np.array([[0, 5, 5, num_frames - 1]])


def test_whole_file_is_read_in_one_forward_pass(tmp_path: Path, calls: list[str]) -> None:
    write_avi(tmp_path / "clip.avi", noise(10))
    video.collect(tmp_path / "clip.avi", choose=pick_three, transform=lambda frame: frame)
    # One more grab than frames: the last one finds the end.
    assert [calls.count(name) for name in ("open", "grab", "retrieve")] == [1, 11, 3]


@pytest.mark.parametrize("promised", [pytest.param(7, marks=IS_CUT_AT_PROMISE), 14])
def test_wrong_count_costs_a_second_pass_and_warns(tmp_path: Path, calls: list[str], promised: int) -> None:
    pixels = noise(10)
    write_avi(tmp_path / "clip.avi", pixels, promised=promised)
    frames = video.collect(tmp_path / "clip.avi", choose=pick_three, transform=lambda frame: frame)
    assert frames.warnings == (f"the container says {promised} frames, 10 decode",)
    assert calls.count("open") == 2
    assert frames.indices.tolist() == [[0, 5, 5, 9]]
    np.testing.assert_array_equal(frames.by_index[9], pixels[9])


def test_missing_count_is_counted(tmp_path: Path) -> None:
    pixels = noise(10)
    write_avi(tmp_path / "clip.avi", pixels, promised=0)
    frames = collect_all(tmp_path / "clip.avi")
    assert_frames_are(frames, pixels)
    assert frames.warnings == ("the container does not say how many frames, 10 decode",)


def test_share_of_decoded_frames_decides_what_is_damaged(tmp_path: Path) -> None:
    write_avi(tmp_path / "clip.avi", noise(10), promised=20)
    assert collect_all(tmp_path / "clip.avi").num_frames == 10
    with pytest.raises(VideoError, match="only 10 of 20 frames decode, fewer than 60%: the file is damaged"):
        collect_all(tmp_path / "clip.avi", min_decoded_share=0.6)


def webm_with_uneven_times(path: Path, *, num_frames: int) -> None:
    """As recorders of a screen write it: every frame has its own time, and the track no frame rate."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), 25, (WIDTH, HEIGHT))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write VP8")
    for frame in noise(num_frames):
        writer.write(frame)
    writer.release()
    data = bytearray(path.read_bytes())
    rate = data.find(bytes.fromhex("23e38384"))  # the element DefaultDuration becomes one of type Void
    data[rate : rate + 8] = bytes.fromhex("ec86000000000000")
    random = np.random.RandomState(0)
    position = _children(data, data.find(bytes.fromhex("1f43b675")))
    while data[position] != 0x1C:  # Cues follow the last Cluster
        if data[position] == 0x1F:  # a Cluster: enter it
            position = _children(data, position)
            continue
        start, size = _element(data, position + 1)
        if data[position] == 0xA3:  # SimpleBlock: track, then two bytes of time
            (milliseconds,) = struct.unpack_from(">h", data, start + 1)
            struct.pack_into(">h", data, start + 1, milliseconds + random.randint(0, 39))
        position = start + size
    path.write_bytes(data)


def _element(data: bytearray, position: int) -> tuple[int, int]:
    """Start and size of an EBML element's content, from where its size stands."""
    length = 9 - data[position].bit_length()
    size = int.from_bytes(data[position : position + length], "big") & ((1 << 7 * length) - 1)
    return position + length, size


def _children(data: bytearray, cluster: int) -> int:
    return _element(data, cluster + 4)[0]


def test_frames_at_uneven_times_are_not_damage(tmp_path: Path) -> None:
    # OpenCV reports 1000 frames per second for such a file, so 40 times the frames there are.
    webm_with_uneven_times(tmp_path / "screen.webm", num_frames=100)
    frames = collect_all(tmp_path / "screen.webm")
    assert frames.num_frames == 100
    assert frames.warnings == ("the container does not say how many frames, 100 decode",)


def test_matroska_that_promises_one_frame_too_many_warns() -> None:
    frames = collect_all(shared_file("videos/flipping_pancake.mkv"))
    assert (frames.num_frames, frames.by_index[309].shape) == (310, (240, 426, 3))
    assert frames.warnings == ("the container says 311 frames, 310 decode",)


def test_damaged_file_gives_the_frames_before_the_damage() -> None:
    frames = collect_all(shared_file("videos/corrupted.mp4"))
    assert (frames.num_frames, frames.by_index[27].shape) == (28, (720, 1280, 3))
    assert frames.warnings == ("the container says 50 frames, 28 decode",)


def test_damaged_file_is_refused_where_more_is_asked() -> None:
    with pytest.raises(VideoError, match=r"corrupted\.mp4: only 28 of 50 frames decode, fewer than 90%"):
        collect_all(shared_file("videos/corrupted.mp4"), min_decoded_share=0.9)


@functools.cache
def encoded(suffix: str, codec: str, folder: Path) -> bytes:
    path = folder / f"whole{suffix}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25, (WIDTH, HEIGHT))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV cannot write {codec}")
    for frame in generated.frames(num_frames=20, height=HEIGHT, width=WIDTH):
        writer.write(frame)
    writer.release()
    return path.read_bytes()


def cut(data: bytes, random: np.random.RandomState) -> bytes:
    return data[: random.randint(1, len(data))]


def flip(data: bytes, random: np.random.RandomState) -> bytes:
    damaged = bytearray(data)
    for position in random.randint(0, len(data), random.randint(1, 20)):
        damaged[position] = random.randint(0, 256)
    return bytes(damaged)


def flip_header(data: bytes, random: np.random.RandomState) -> bytes:
    return flip(data[:2000], random) + data[2000:]


@pytest.mark.parametrize("damage", [cut, flip, flip_header])
@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "mp4v"), (".avi", "MJPG"), (".mkv", "mp4v")])
def test_damaged_files_give_frames_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, codec: str, damage: Any
) -> None:
    data = encoded(suffix, codec, tmp_path_factory.getbasetemp())
    path = tmp_path_factory.mktemp("damage") / f"clip{suffix}"
    random = np.random.RandomState(0)
    for _ in range(60):
        path.write_bytes(damage(data, random))
        try:
            frames = collect_all(path)
        except VideoError:
            continue
        assert frames.num_frames == len(frames.by_index) > 0
