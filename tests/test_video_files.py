"""Files and addresses: names, and what is no video ends in one VideoError."""

from __future__ import annotations

import functools
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from i3d_deploy import generated, video_files, views
from i3d_deploy.errors import VideoError
from i3d_deploy.preprocessing import Sampling, Spatial
from tests.goldens import shared_file
from tests.raw_avi import write_avi
from tests.sources import (
    assert_frames_are,
    collect_all,
    noise,
)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (31, 45)], ids=["landscape", "portrait", "odd"])
def test_frames_of_an_uncompressed_file_come_out_bit_exact(tmp_path: Path, height: int, width: int) -> None:
    pixels = noise(7, height, width)
    write_avi(tmp_path / "clip.avi", pixels)
    frames = collect_all(tmp_path / "clip.avi")
    assert_frames_are(frames, pixels)
    assert frames.warnings == ()


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    pixels = noise(1)
    write_avi(tmp_path / "clip.avi", pixels)
    assert_frames_are(collect_all(str(tmp_path / "clip.avi")), pixels)


@pytest.mark.parametrize(
    "name", ["a b.avi", "100%.avi", "img_%05d.avi", "日本é.avi", "-i.avi", "concat:clip.avi", "a|b.avi", "x#y?z.avi"]
)
def test_awkward_file_names_are_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pixels = noise(2)
    write_avi(tmp_path / name, pixels)
    monkeypatch.chdir(tmp_path)
    assert_frames_are(collect_all(name), pixels)
    assert_frames_are(collect_all(tmp_path / name), pixels)


def test_rotation_in_the_metadata_is_applied() -> None:
    lying = collect_all(shared_file("videos/rotation_0.mov")).by_index[0]
    turned = collect_all(shared_file("videos/rotation_90.mov")).by_index[0]
    assert (lying.shape, turned.shape) == ((320, 568, 3), (568, 320, 3))
    # Both show the keys J K L over M < >; the second camera stood a little farther away.
    keys = cv2.resize(lying[55:225, 270:520], None, fx=0.9, fy=0.9)
    likeness = [
        cv2.matchTemplate(np.rot90(turned, quarter).copy(), keys, cv2.TM_CCOEFF_NORMED).max() for quarter in range(4)
    ]
    assert likeness[0] > 0.55
    assert likeness[0] > 1.2 * max(likeness[1:])


def test_missing_file_is_named() -> None:
    with pytest.raises(VideoError, match=r"^nowhere/clip\.mp4: no such file$"):
        collect_all("nowhere/clip.mp4")


def test_empty_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(VideoError, match=r"clip\.mp4: the file is empty"):
        collect_all(tmp_path / "clip.mp4")


@pytest.mark.parametrize(
    "content", [b"hello\n" * 500, bytes(50_000), noise(4).tobytes()], ids=["text", "zeros", "noise"]
)
def test_file_that_is_no_video_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes) -> None:
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=r"clip\.mp4: no video stream that can be decoded"):
        collect_all(tmp_path / "clip.mp4")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["txt", "nfo", "ans"])
def test_text_is_not_played_as_terminal_art(tmp_path: Path, suffix: str) -> None:
    # FFmpeg makes 59 frames of 640x400 of this file.
    (tmp_path / f"notes.{suffix}").write_text("hello world, this is a text\n" * 500)
    with pytest.raises(VideoError, match=rf"notes\.{suffix}: a text file, not a video"):
        collect_all(tmp_path / f"notes.{suffix}")


@pytest.mark.parametrize("name", ["sound.wav", "sound.mp4"])
def test_file_with_sound_alone_is_named(tmp_path: Path, name: str) -> None:
    with wave.open(str(tmp_path / name), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16_000))
    with pytest.raises(VideoError, match="no video stream that can be decoded"):
        collect_all(tmp_path / name)


def test_uncompressed_24_bit_file_does_not_end_the_process(tmp_path: Path) -> None:
    # OpenCV 4.14 and 5.0 corrupt their heap over it: malloc_consolidate(): invalid chunk size.
    write_avi(tmp_path / "clip.avi", noise(3), bits=24)
    with pytest.raises(VideoError, match="uncompressed 24-bit frames are not supported"):
        collect_all(tmp_path / "clip.avi")


def test_pipe_and_device_are_refused_without_reading(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", Path("/dev/zero")):
        with pytest.raises(VideoError, match="not a regular file"):
            collect_all(path)


def test_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(VideoError, match=r"clip\.mp4: permission denied"):
        collect_all(path)


def test_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    # OpenCV ends the process over such a name, so the call is made in another one.
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    code = (
        "import os, sys\n"
        "from i3d_deploy import video\n"
        "from i3d_deploy.errors import VideoError\n"
        "try:\n"
        "    video.collect(os.fsdecode(b'\\xff.mp4'), choose=lambda n, _: None, transform=lambda frame: frame)\n"
        "except VideoError as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    expected = r"b'\xff.mp4': the name is not UTF-8 text; rename the file or folder"
    assert (result.returncode, result.stdout.strip()) == (0, expected), result.stderr


def test_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(VideoError, match="the name is not UTF-8 text"):
        collect_all("a\0b.mp4")
    with pytest.raises(VideoError, match="File name too long"):
        collect_all("a" * 300)


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local addresses are asked directly, whatever proxy the machine has."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.parametrize(("seconds", "rate"), [(10, 0.1), (11, None), (1000, None)])
def test_a_rate_that_no_video_has_is_unknown(tmp_path: Path, seconds: int, rate: float | None) -> None:
    write_avi(tmp_path / "clip.avi", noise(4), rate=(1, seconds))
    assert collect_all(tmp_path / "clip.avi").frames_per_second == rate
    sampling, spatial = Sampling(clip_len=2, frames_per_second=0.1), Spatial(short_side=32, crop_size=32)
    found = views.cut(tmp_path / "clip.avi", sampling=sampling, spatial=spatial)
    assumed = "the video does not say its rate: its frames are taken to be 0.1 a second"
    assert found.warnings == (() if rate else (assumed,))


@pytest.mark.usefixtures("direct")
def test_address_that_nobody_serves_fails_at_once() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(VideoError, match=rf"http://127\.0\.0\.1:{port}/x\.mp4: the address does not answer"):
        collect_all(f"http://127.0.0.1:{port}/x.mp4")
    assert time.monotonic() - started < video_files.OPEN_TIMEOUT_SECONDS / 2


@pytest.mark.usefixtures("direct")
def test_address_that_is_silent_fails_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_files, "OPEN_TIMEOUT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(VideoError, match="the address does not answer with a video"):
            collect_all(f"http://127.0.0.1:{silent.getsockname()[1]}/x.mp4")
        assert time.monotonic() - started < 10


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 # the name is the base class's
        pass


@pytest.fixture
def address(tmp_path: Path, direct: None) -> Iterator[str]:
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_served_file_gives_its_frames(tmp_path: Path, address: str) -> None:
    pixels = noise(6)
    write_avi(tmp_path / "clip.avi", pixels)
    assert_frames_are(collect_all(f"{address}/clip.avi"), pixels)


def test_an_index_at_the_end_is_told_where_the_server_sends_no_parts(tmp_path: Path, address: str) -> None:
    generated.write_clip(tmp_path / "clip.mp4", num_frames=60, height=128, width=160)
    data = (tmp_path / "clip.mp4").read_bytes()
    assert data.find(b"moov") > data.find(b"mdat") + 64_000  # farther than FFmpeg keeps what it has read
    with pytest.raises(
        VideoError, match=r"clip\.mp4: no frame could be decoded, 60 are promised; if it is an MP4 .*\+faststart"
    ) as told:
        collect_all(f"{address}/clip.mp4")
    assert "\n" not in str(told.value)


def test_address_without_a_video_is_named(address: str) -> None:
    with pytest.raises(VideoError, match=r"/nothing\.mp4: the address does not answer with a video"):
        collect_all(f"{address}/nothing.mp4")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://user:secret@camera:554/1", "rtsp://user:***@camera:554/1"),
        ("http://user:p@ss/word@host/clip.mp4", "http://user:***@host/clip.mp4"),
        ("http://user@host:80/clip@2x.mp4", "http://user@host:80/clip@2x.mp4"),
        ("rtsp://camera:554/1@2", "rtsp://camera:554/1@2"),
        ("http://[::1]:80/1@2", "http://[::1]:80/1@2"),
        ("user:secret@host.mp4", "user:secret@host.mp4"),
    ],
)
def test_passwords_are_not_shown(address: str, shown: str) -> None:
    assert video_files.without_password(address) == shown
