"""Frames as they come: their times, their pace, and what becomes of a lost connection."""

from __future__ import annotations

import fcntl
import math
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest

from i3d_deploy import stream_sources, video_files
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.stream_sources import Arrival, Manner, OpenStream, RawVideo, StreamSource, TimedFrame, parse_size
from tests.cameras import gray, rtsp_camera, web_broadcast, web_camera
from tests.raw_avi import write_avi
from tests.sources import noise
from tests.test_decoding import webm_with_uneven_times
from tests.test_video_files import address as address
from tests.test_video_files import direct as direct


class Clockwork(threading.Event):
    """Time that passes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0)
        return self.is_set()


@pytest.fixture
def opened() -> Iterator[Callable[..., OpenStream]]:
    """Opens sources, and closes them in the end."""
    with ExitStack() as stack:

        def open_source(
            source: StreamSource,
            *,
            is_paced: bool = True,
            reconnects: int = 0,
            notices: list[str] | None = None,
            stopped: threading.Event | None = None,
        ) -> OpenStream:
            told = [] if notices is None else notices
            manner = Manner(is_paced=is_paced, reconnects=reconnects, on_notice=told.append)
            return stack.enter_context(stream_sources.opened(source, manner, stopped or Clockwork()))

        yield open_source


Open = Callable[..., OpenStream]


def seconds(arrivals: Iterator[Arrival]) -> list[float]:
    return [round(arrival.timed.seconds, 4) for arrival in arrivals]


def test_a_file_has_the_times_of_its_container(tmp_path: Path, opened: Open) -> None:
    webm_with_uneven_times(tmp_path / "screen.webm", num_frames=20)
    random = np.random.RandomState(0)
    shown = [40 * number + random.randint(0, 39) for number in range(20)]
    stream = opened(tmp_path / "screen.webm")
    assert stream.frames_per_second is None
    assert seconds(stream.arrivals) == [(milliseconds - shown[0]) / 1000 for milliseconds in shown]


def test_times_are_from_the_first_frame_on(tmp_path: Path, opened: Open) -> None:
    write_avi(tmp_path / "late.avi", noise(4), num_empty=3)
    with video_files.opened(str(tmp_path / "late.avi")) as capture:
        capture.grab()
        assert video_files.seconds(capture) == pytest.approx(3 / 25)
    assert seconds(opened(tmp_path / "late.avi").arrivals) == [0, 0.04, 0.08, 0.12]


def test_a_file_is_paced_by_its_times(clip: Path, opened: Open) -> None:
    clockwork = Clockwork()
    stream = opened(clip, stopped=clockwork)
    assert stream.frames_per_second == 25
    arrivals = list(stream.arrivals)
    assert seconds(iter(arrivals)) == [number / 25 for number in range(40)]
    # Frame n is due n / 25 s after the first, of which decoding has taken some.
    assert all(0 <= wait <= number / 25 for number, wait in enumerate(clockwork.waits))
    assert max(clockwork.waits) > 0
    dues = [arrival.came_at - arrivals[0].came_at for arrival in arrivals]
    np.testing.assert_allclose(dues, np.arange(40) / 25, atol=1e-6)


def test_a_file_is_read_at_once_where_it_is_not_paced(clip: Path, opened: Open) -> None:
    clockwork = Clockwork()
    assert len(list(opened(clip, is_paced=False, stopped=clockwork).arrivals)) == 40
    assert set(clockwork.waits) == {0}


def test_a_stopped_stream_gives_no_further_frame(clip: Path, opened: Open) -> None:
    clockwork = Clockwork()
    arrivals = opened(clip, stopped=clockwork).arrivals
    next(arrivals)
    clockwork.set()
    assert list(arrivals) == []


def test_a_damaged_file_is_told(clip: Path, tmp_path: Path, opened: Open) -> None:
    (tmp_path / "clip.avi").write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"clip\.avi: no video stream that can be decoded"):
        opened(tmp_path / "clip.avi")


def test_a_file_with_fewer_frames_than_promised_is_told(tmp_path: Path, opened: Open) -> None:
    write_avi(tmp_path / "clip.avi", noise(6), promised=8)
    notices: list[str] = []
    assert len(list(opened(tmp_path / "clip.avi", notices=notices).arrivals)) == 6
    assert notices == [f"{tmp_path / 'clip.avi'}: the container says 8 frames, 6 decode"]


def test_a_damaged_file_is_told_without_its_password(tmp_path: Path, address: str, opened: Open) -> None:
    write_avi(tmp_path / "clip.avi", noise(6), promised=20)
    stream = opened(f"{address}/clip.avi".replace("://", "://user:secret@"))
    with pytest.raises(VideoError, match=r"^http://user:\*\*\*@127\.0\.0\.1:\d+/clip\.avi: only 6 of 20 frames decode"):
        list(stream.arrivals)


def test_a_served_file_is_a_file(tmp_path: Path, address: str, opened: Open) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for frame in noise(6):
        writer.write(frame)
    writer.release()
    clockwork = Clockwork()
    stream = opened(f"{address}/clip.avi", stopped=clockwork)
    assert stream.frames_per_second == 10
    assert seconds(stream.arrivals) == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert max(clockwork.waits) > 0


@pytest.mark.usefixtures("direct")
def test_a_broadcast_of_a_web_server_is_paced_by_its_times(tmp_path: Path, opened: Open) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "clip.ts"), cv2.VideoWriter.fourcc(*"mpg2"), 25, (64, 48))
    for frame in noise(20):
        writer.write(frame)
    writer.release()
    with web_broadcast(tmp_path / "clip.ts") as where:
        for is_paced in (True, False):
            clockwork = Clockwork()
            stream = opened(where, is_paced=is_paced, stopped=clockwork)
            assert stream.frames_per_second == 25
            arrivals = [next(stream.arrivals) for _ in range(20)]
            assert seconds(iter(arrivals)) == [number / 25 for number in range(20)]
            assert (max(clockwork.waits) > 0) == is_paced


def test_an_rtsp_camera_has_its_own_clock(opened: Open) -> None:
    shown = [0, 0.1, 0.2, 0.3, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9]
    levels = list(range(20, 220, 20))
    with rtsp_camera(np.stack([gray(level) for level in levels]), shown) as where:
        clockwork = Clockwork()
        stream = opened(where, stopped=clockwork)
        arrivals = [next(stream.arrivals) for _ in shown]
        np.testing.assert_allclose([arrival.timed.seconds for arrival in arrivals], shown, atol=1e-3)
        np.testing.assert_allclose([arrival.timed.frame.mean() for arrival in arrivals], levels, atol=2)
        assert set(clockwork.waits) == {0}  # it has its own pace
        with pytest.raises(VideoError, match=r"rtsp://.*: the connection was lost$"):
            next(stream.arrivals)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        # The camera's clock is set back by three seconds: the next one is a frame later, and time goes on as it says.
        ([5, 5.1, 5.2, 2.2, 2.3, 2.4, 2.6], [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7]),
        # Twice at the same time, and out of order.
        ([0, 0.1, 0.2, 0.2, 0.15, 0.3, 0.4], [0, 0.1, 0.2, 0.201, 0.202, 0.3, 0.4]),
    ],
    ids=["set back", "out of order"],
)
def test_times_ascend_whatever_a_camera_says(opened: Open, shown: list[float], expected: list[float]) -> None:
    with rtsp_camera(np.stack([gray(100) for _ in shown]), shown) as where:
        stream = opened(where)
        assert stream.frames_per_second == 10
        found = [next(stream.arrivals).timed.seconds for _ in shown]
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.usefixtures("direct")
def test_pictures_of_a_web_camera_have_the_times_at_which_they_come(opened: Open) -> None:
    with web_camera() as camera:
        stream = opened(camera.address)
        assert stream.frames_per_second is None  # FFmpeg would guess 25
        before = time.monotonic()
        arrivals = [next(stream.arrivals) for _ in range(5)]
        elapsed = time.monotonic() - before
    times = [arrival.timed.seconds for arrival in arrivals]
    assert times == sorted(set(times))
    assert times[0] == 0
    assert times[-1] <= elapsed


@pytest.mark.usefixtures("direct")
def test_a_lost_connection_is_made_again(opened: Open) -> None:
    notices: list[str] = []
    with web_camera() as camera:
        stream = opened(camera.address, reconnects=3, notices=notices)
        first = next(stream.arrivals)
        camera.hang_up.set()
        again = next(arrival for arrival in stream.arrivals if arrival.is_after_gap)
        after = next(stream.arrivals)
        assert camera.connections == 2
    assert (first.is_after_gap, after.is_after_gap) == (False, False)
    assert first.timed.seconds < again.timed.seconds < after.timed.seconds
    assert stream.reconnects == 1
    assert notices == [
        f"{camera.address}: the connection was lost; attempt 1 of 3 to connect again in 0.5 s",
        f"{camera.address}: connected again",
    ]


@pytest.mark.usefixtures("direct")
def test_attempts_are_counted_anew_after_a_frame(opened: Open) -> None:
    with web_camera() as camera:
        stream = opened(camera.address, reconnects=1)
        for connections in (1, 2, 3):
            next(arrival for arrival in stream.arrivals if arrival.is_after_gap or connections == 1)
            assert camera.connections == connections
            camera.hang_up.set()
    assert stream.reconnects == 2


@pytest.mark.usefixtures("direct")
def test_attempts_to_connect_again_are_bounded_and_ever_further_apart(opened: Open) -> None:
    notices: list[str] = []
    clockwork = Clockwork()
    with web_camera() as camera:
        stream = opened(camera.address, reconnects=8, notices=notices, stopped=clockwork)
        next(stream.arrivals)
        camera.is_gone.set()
        camera.hang_up.set()
        message = r"http://.*: the connection was lost and 8 attempts to connect again failed"
        with pytest.raises(VideoError, match=message):
            list(stream.arrivals)
    assert [wait for wait in clockwork.waits if wait] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert len(notices) == 8
    assert stream.reconnects == 0


@pytest.mark.usefixtures("direct")
def test_a_stopped_stream_does_not_connect_again(opened: Open) -> None:
    clockwork = Clockwork()
    with web_camera() as camera:
        stream = opened(camera.address, reconnects=3, stopped=clockwork)
        next(stream.arrivals)
        clockwork.set()
        assert list(stream.arrivals) == []
        assert camera.connections == 1


@pytest.mark.usefixtures("direct")
def test_an_address_that_does_not_answer_at_first_is_an_error(opened: Open) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(VideoError, match=rf"http://127\.0\.0\.1:{port}/: the address does not answer with a video"):
        opened(f"http://127.0.0.1:{port}/", reconnects=3)


def test_digits_are_a_camera_unless_they_are_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").touch()
    assert [stream_sources.resolved(source) for source in ("0", "7", "clip.mp4", 3)] == [0, "7", "clip.mp4", 3]


@pytest.mark.skipif(any(Path("/dev").glob("video*")), reason="there is a camera")
def test_a_camera_that_is_not_there_is_named(opened: Open, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(VideoError, match="camera 7 does not open: there is none of this number"):
        opened(7)
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("direct")
def test_a_connection_that_falls_silent_is_lost(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_sources, "TIMEOUT_SECONDS", 1)
    with web_camera(silent_after=8) as camera:
        stream = opened(camera.address)
        with pytest.raises(VideoError, match=r"http://.*: the connection was lost$"):
            list(stream.arrivals)


@pytest.mark.usefixtures("direct")
def test_passwords_are_not_shown(opened: Open) -> None:
    with web_camera() as camera:
        stream = opened(camera.address.replace("://", "://user:secret@"))
        next(stream.arrivals)
        camera.hang_up.set()
        with pytest.raises(VideoError, match=r"^http://user:\*\*\*@127\.0\.0\.1:\d+/: the connection was lost$"):
            list(stream.arrivals)
        camera.is_gone.set()
        with pytest.raises(VideoError, match=r"^http://user:\*\*\*@127.*the address does not answer"):
            opened(camera.address.replace("://", "://user:secret@"))


def raw(data: bytes, *, width: int = 4, height: int = 2, rate: float = 10) -> RawVideo:
    """A pipe that holds some bytes and has ended."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return RawVideo(file=os.fdopen(reading, "rb"), width=width, height=height, frames_per_second=rate)


def test_raw_frames_have_the_rate_that_was_given(opened: Open) -> None:
    pixels = noise(3, 2, 4)
    with (source := raw(pixels.tobytes())).file:
        stream = opened(source)
        arrivals = list(stream.arrivals)
    assert stream.frames_per_second == 10
    assert seconds(iter(arrivals)) == [0, 0.1, 0.2]
    np.testing.assert_array_equal([arrival.timed.frame for arrival in arrivals], pixels)


def test_a_pipe_that_ends_within_a_frame_tells_its_size(opened: Open) -> None:
    with (source := raw(bytes(24 + 7))).file:
        arrivals = opened(source).arrivals
        next(arrivals)
        message = "the pipe ended within frame 1, after 7 of its 24 bytes: are its frames 4x2 in rgb24"
        with pytest.raises(VideoError, match=message):
            next(arrivals)


def test_a_silent_pipe_can_be_stopped(opened: Open) -> None:
    reading, writing = os.pipe()
    stopped = threading.Event()
    with os.fdopen(reading, "rb") as file, os.fdopen(writing, "wb"):
        stream = opened(RawVideo(file=file, width=4, height=2, frames_per_second=10), stopped=stopped)
        thread = threading.Thread(target=lambda: list(stream.arrivals))
        thread.start()
        stopped.set()
        thread.join()


def test_a_pipe_may_have_a_high_descriptor(opened: Open) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 1200:
        pytest.skip(f"this process may have {limits[1]} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(1200, limits[0]), limits[1]))
    try:
        with (low := raw(bytes(24))).file:
            high = fcntl.fcntl(low.file.fileno(), fcntl.F_DUPFD, 1024)
        with os.fdopen(high, "rb") as file:
            assert len(list(opened(RawVideo(file=file, width=4, height=2, frames_per_second=10)).arrivals)) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", 0), ("height", -1), ("frames_per_second", 0), ("frames_per_second", math.inf)],
    ids=["width", "height", "rate", "endless rate"],
)
def test_a_pipe_of_no_size_is_refused(name: Literal["width", "height", "frames_per_second"], value: float) -> None:
    numbers: dict[str, Any] = {"width": 4, "height": 2, "frames_per_second": 10, name: value}
    with Path(os.devnull).open("rb") as file, pytest.raises(InputError, match=r"must be > 0, and the last one <= 1000"):
        RawVideo(file=file, **numbers)


def test_sizes_are_read() -> None:
    assert parse_size("340x256") == (340, 256)
    for text in ("340", "340x", "0x256", "340*256", "-1x2"):
        with pytest.raises(InputError, match="is not WIDTHxHEIGHT in pixels, such as 340x256"):
            parse_size(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (gray(0), "frame 0 of the stream must be a TimedFrame, not ndarray"),
        (TimedFrame(frame=gray(0)[0], seconds=0), r"frame 0 must be uint8 of shape \(H, W, 3\), not uint8 of shape"),
    ],
    ids=["no time", "no frame"],
)
def test_what_is_no_frame_with_a_time_is_refused(given: Any, message: str, opened: Open) -> None:
    with pytest.raises(InputError, match=message):
        next(opened([given]).arrivals)


@pytest.mark.parametrize("at", [math.nan, math.inf, -math.inf, 1.7e18], ids=["nan", "inf", "-inf", "nanoseconds"])
def test_a_time_that_is_none_is_refused(at: float) -> None:
    with pytest.raises(InputError, match=r"seconds \(.*\) of a frame must be from -1e\+10 to 1e\+10"):
        TimedFrame(frame=gray(0), seconds=at)


def test_frames_that_are_given_are_copied(opened: Open) -> None:
    buffer = gray(1)

    def come() -> Iterator[TimedFrame]:
        yield TimedFrame(frame=buffer, seconds=0)
        buffer[:] = 2
        yield TimedFrame(frame=buffer, seconds=1)

    assert [arrival.timed.frame[0, 0, 0] for arrival in list(opened(come()).arrivals)] == [1, 2]


def test_a_folder_of_frames_has_no_times(tmp_path: Path, opened: Open) -> None:
    (tmp_path / "img_00001.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="a stream is one file, URL, camera or pipe, not a folder"):
        opened(tmp_path)
