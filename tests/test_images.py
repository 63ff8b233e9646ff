"""Image files and folders of them: numbers, and damage of every kind."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest

from i3d_deploy.errors import VideoError
from tests.sources import (
    assert_frames_are,
    collect_all,
    noise,
    write_images,
)


@pytest.mark.parametrize("first", [0, 1, 41])
def test_image_folder_may_start_at_any_number(tmp_path: Path, first: int) -> None:
    pixels = noise(3)
    write_images(tmp_path / "frames", pixels, first=first)
    (tmp_path / "frames" / "notes.txt").write_text("not a frame")
    assert_frames_are(collect_all(tmp_path / "frames"), pixels)


def test_single_image_is_a_video_of_one_frame(tmp_path: Path) -> None:
    pixels = noise(1)
    write_images(tmp_path / "frames", pixels)
    assert_frames_are(collect_all(tmp_path / "frames" / "img_00001.png"), pixels)


def test_folder_without_frames_says_how_to_name_them(tmp_path: Path) -> None:
    (tmp_path / "frame1.jpg").touch()
    with pytest.raises(VideoError, match=r"neither videos nor frames named img_00001\.jpg and so on"):
        collect_all(tmp_path)


def test_gap_in_a_folder_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "frames", noise(5))
    (tmp_path / "frames" / "img_00003.png").unlink()
    with pytest.raises(VideoError, match="frames: frame 3 is missing between 1 and 5"):
        collect_all(tmp_path / "frames")


def test_two_files_for_one_frame_are_named(tmp_path: Path) -> None:
    write_images(tmp_path / "frames", noise(2))
    (tmp_path / "frames" / "img_2.JPG").touch()
    with pytest.raises(VideoError, match=r"img_00002\.png and img_2\.JPG are both frame 2"):
        collect_all(tmp_path / "frames")


def huge_png() -> bytes:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("content", [b"", b"not an image", huge_png()], ids=["empty", "text", "100000x100000"])
def test_damaged_image_is_named(tmp_path: Path, content: bytes) -> None:
    write_images(tmp_path / "frames", noise(3))
    (tmp_path / "frames" / "img_00002.png").write_bytes(content)
    with pytest.raises(VideoError, match=r"img_00002\.png: the image cannot be decoded"):
        collect_all(tmp_path / "frames")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_jpeg_that_is_cut_off_is_damaged(tmp_path: Path, share: float) -> None:
    # OpenCV fills the rest with grey and says nothing.
    write_images(tmp_path / "frames", noise(2), suffix="jpg")
    path = tmp_path / "frames" / "img_00002.jpg"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(VideoError, match=r"img_00002\.jpg: the image cannot be decoded"):
        collect_all(tmp_path / "frames")


def test_frame_that_is_a_pipe_is_refused_without_reading(tmp_path: Path) -> None:
    write_images(tmp_path / "frames", noise(1))
    os.mkfifo(tmp_path / "frames" / "img_00002.png")
    with pytest.raises(VideoError, match=r"img_00002\.png: not a regular file"):
        collect_all(tmp_path / "frames")
