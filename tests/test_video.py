"""Frames out of files, streams, folders, arrays and iterables; damage of every kind ends in one VideoError."""

from __future__ import annotations

import functools
import http.server
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import wave
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from i3d_deploy import generated, video, video_files
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.frames import Frame, Frames
from i3d_deploy.images import FrameFolder
from i3d_deploy.sampling import Indices
from tests.goldens import shared_file
from tests.raw_avi import write_avi

HEIGHT, WIDTH = 48, 64


def noise(num_frames: int, height: int = HEIGHT, width: int = WIDTH, *, seed: int = 0) -> NDArray[np.uint8]:
    """Frames of which no two are alike."""
    return np.random.RandomState(seed).randint(0, 256, (num_frames, height, width, 3)).astype(np.uint8)


def every_frame(num_frames: int, _: float | None) -> Indices:
    """One clip of all frames."""
    return np.arange(num_frames)[None]


def collect_all(source: Any, **options: Any) -> Frames:
    """Every frame of a source, as it is."""
    return video.collect(source, choose=every_frame, transform=lambda frame: frame, **options)


def assert_frames_are(frames: Frames, expected: NDArray[np.uint8]) -> None:
    assert frames.num_frames == len(expected)
    assert sorted(frames.by_index) == list(range(len(expected)))
    for number, frame in enumerate(expected):
        np.testing.assert_array_equal(frames.by_index[number], frame)


def write_images(folder: Path, frames: NDArray[np.uint8], *, suffix: str = "png", first: int = 1) -> None:
    folder.mkdir()
    for number, frame in enumerate(frames, first):
        assert cv2.imwrite(str(folder / f"img_{number:05d}.{suffix}"), frame[..., ::-1])


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


def test_array_list_and_generator_give_their_frames() -> None:
    pixels = noise(5)
    assert_frames_are(collect_all(pixels), pixels)
    assert_frames_are(collect_all(list(pixels)), pixels)
    assert_frames_are(collect_all(frame for frame in pixels), pixels)


def test_strided_arrays_and_frames_are_taken() -> None:
    pixels = noise(4)
    assert_frames_are(collect_all(pixels[:, ::-1, ::2, ::-1]), pixels[:, ::-1, ::2, ::-1].copy())
    assert_frames_are(collect_all(frame[..., ::-1] for frame in pixels), pixels[..., ::-1].copy())


@pytest.mark.parametrize("first", [0, 1, 41])
def test_image_folder_may_start_at_any_number(tmp_path: Path, first: int) -> None:
    pixels = noise(3)
    write_images(tmp_path / "frames", pixels, first=first)
    (tmp_path / "frames" / "notes.txt").write_text("not a frame")
    assert_frames_are(collect_all(tmp_path / "frames"), pixels)


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


@pytest.mark.parametrize(
    "name", ["a b.avi", "100%.avi", "img_%05d.avi", "日本é.avi", "-i.avi", "concat:clip.avi", "a|b.avi", "x#y?z.avi"]
)
def test_awkward_file_names_are_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pixels = noise(2)
    write_avi(tmp_path / name, pixels)
    monkeypatch.chdir(tmp_path)
    assert_frames_are(collect_all(name), pixels)
    assert_frames_are(collect_all(tmp_path / name), pixels)


def test_single_image_is_a_video_of_one_frame(tmp_path: Path) -> None:
    pixels = noise(1)
    write_images(tmp_path / "frames", pixels)
    assert_frames_are(collect_all(tmp_path / "frames" / "img_00001.png"), pixels)


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


IS_CUT_AT_PROMISE = pytest.mark.skipif(
    tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 11),
    reason="OpenCV 4.10 ends at one frame more than the container promises",
)


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
        ("img_00001.jpg", "<class 'str'> of shape None"),
    ],
)
def test_frame_of_another_kind_is_refused(frame: Any, given: str) -> None:
    with pytest.raises(InputError, match=rf"frame 1 must be uint8 of shape \(H, W, 3\), not {given}"):
        collect_all([noise(1)[0], frame])


def test_frames_that_change_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"frame 2 has shape \(64, 48, 3\), those before it \(48, 64, 3\)"):
        collect_all([*noise(2), noise(1, 64, 48)[0]])


def test_error_of_an_iterable_passes_through() -> None:
    def breaks() -> Iterator[Frame]:
        yield noise(1)[0]
        raise ConnectionError("the camera is gone")

    with pytest.raises(ConnectionError, match="the camera is gone"):
        collect_all(breaks())


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local addresses are asked directly, whatever proxy the machine has."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


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


def test_address_without_a_video_is_named(address: str) -> None:
    with pytest.raises(VideoError, match=r"/nothing\.mp4: the address does not answer with a video"):
        collect_all(f"{address}/nothing.mp4")


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
