"""Frames as they come, with their times: from a camera, an address, a file at its own pace, a pipe or the caller.

Note [Times of a stream]
    Times are seconds from the first frame on. A file has those of its container; so have addresses, but for JPEG
    pictures that a web server sends one by one, which have none: theirs and a camera's are the times at which they
    come. Frames of a pipe have the rate that was given. After a connection was made again, times go on with the clock.

Note [Times that ascend]
    Where a container's time is no later than the one before, by less than a second, it is taken to be a millisecond
    later, until the container is ahead again: frames out of order, or twice at a time. Where it is earlier by more, the
    clock behind it was set back, and times go on a frame later with the container's own differences.

Note [Recordings]
    What says how long it is, such as a file or a file on a web server, ends when its frames end. Anything else with an
    address, and a camera, is live: when its frames end, the connection was lost.

Note [Pace]
    A file's frames are handed over when their time has come, and so are those that a web server sends with times, which
    come in pieces. Cameras, other addresses and pipes have their own pace.
"""

from __future__ import annotations

import math
import os
import re
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Self

import cv2
import numpy as np

from i3d_deploy import decoding, video, video_files
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.frames import Frame

TIMEOUT_SECONDS = 10
"""How long an address may take to open, and each of its frames to come, before the connection counts as lost."""

FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 30.0
"""Between attempts to connect again; each delay is twice the one before."""

MAX_SECONDS = 1e10
"""Of a frame's time: three hundred years, of which a float still tells microseconds apart."""

_LIVE_THREADS = 2
"""Threads that decode what is live: each but the first keeps back a frame."""

_POLL_SECONDS = 0.1
"""How often a pipe that is silent is asked whether the stream was stopped."""

_SET_BACK_SECONDS = 1.0
_LEAST_STEP_SECONDS = 1e-3
"""Of times: Note [Times that ascend]."""

_CAMERA = re.compile(r"/dev/video(\d+)")
_SIZE = re.compile(r"([1-9]\d*)x([1-9]\d*)")


@dataclass(frozen=True, kw_only=True)
class TimedFrame:
    """A frame and its time.

    Attributes:
        frame: (H, W, 3) uint8 RGB; a stream copies it.
        seconds: When it is shown, from any moment on; later than the frame before.
    """

    frame: Frame
    seconds: float

    def __post_init__(self) -> None:
        if not abs(self.seconds) <= MAX_SECONDS:
            raise InputError(f"seconds ({self.seconds:g}) of a frame must be from {-MAX_SECONDS:g} to {MAX_SECONDS:g}")


@dataclass(frozen=True, kw_only=True)
class RawVideo:
    """Raw frames from a pipe, as ``ffmpeg -i INPUT -f rawvideo -pix_fmt rgb24 -`` writes them.

    Attributes:
        file: Where they are read, such as ``sys.stdin.buffer``: what has a file descriptor.
        width: Columns.
        height: Rows.
        frames_per_second: Their rate.
    """

    file: IO[bytes]
    width: int
    height: int
    frames_per_second: float

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 1 or not 0 < self.frames_per_second <= video_files.MAX_FRAMES_PER_SECOND:
            raise InputError(
                f"width, height and frames_per_second ({self.width}, {self.height}, {self.frames_per_second:g}) "
                f"must be > 0, and the last one <= {video_files.MAX_FRAMES_PER_SECOND}"
            )


StreamSource = int | str | Path | RawVideo | Iterable[TimedFrame]
"""The number of a camera, a URL, a video file, a pipe, or frames with times."""


def resolved(source: StreamSource) -> StreamSource:
    """What a caller means: the camera of that number where digits are no file.

    Raises:
        InputError: It is no source.
    """
    if isinstance(source, str) and source.isdecimal() and not Path(source).exists():
        return int(source)
    if not isinstance(source, (int, str, Path, RawVideo, Iterable)):
        raise InputError(
            f"a stream is the number of a camera, a URL, a video file, a RawVideo or an iterable of TimedFrame, "
            f"not {type(source).__name__}"
        )
    return source


def parse_size(text: str) -> tuple[int, int]:
    """Width and height from text such as 340x256.

    Raises:
        InputError: It is no size.
    """
    found = _SIZE.fullmatch(text)
    if found is None:
        raise InputError(f"size {text!r} is not WIDTHxHEIGHT in pixels, such as 340x256")
    return int(found[1]), int(found[2])


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a stream is read.

    Attributes:
        is_paced: Whether frames wait for their time: Note [Pace].
        reconnects: Attempts in a row to connect again.
        on_notice: Told in a line what happens to the stream.
        min_decoded_share: A damaged file needs at least this share of the frames that its container promises.
    """

    is_paced: bool
    reconnects: int
    on_notice: Callable[[str], None]
    min_decoded_share: float = video.MIN_DECODED_SHARE


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A frame that has come.

    Attributes:
        timed: The frame: Note [Times of a stream].
        came_at: When, on the clock of :func:`time.monotonic`: of a file at its own pace, when it was due.
        is_after_gap: Whether the connection was lost before it.
    """

    timed: TimedFrame
    came_at: float
    is_after_gap: bool = False


@dataclass(kw_only=True)
class OpenStream:
    """A source that is open.

    Attributes:
        arrivals: Its frames, to be gone through once; they end when the stream is stopped.
        frames_per_second: As the source says; None where it does not.
        reconnects: How often the connection was made again.
    """

    arrivals: Iterator[Arrival]
    frames_per_second: float | None
    reconnects: int = 0


@contextmanager
def opened(source: StreamSource, manner: Manner, stopped: threading.Event) -> Iterator[OpenStream]:
    """Open a source; to be used by one thread.

    Args:
        source: Where the frames come from.
        manner: How they are read.
        stopped: Set by another thread, it ends the frames: at once, or after the one that is waited for.

    Raises:
        VideoError: It cannot be opened, or a connection is lost for good.
        InputError: It is no such source.
    """
    if isinstance(source, RawVideo):
        arrivals = _raw(source, stopped)
        yield OpenStream(arrivals=arrivals, frames_per_second=source.frames_per_second)
    elif isinstance(source, int):
        with _Live(name(source), partial(video_files.camera, source), manner, stopped) as live:
            yield live.stream(has_times=False, rate=video_files.promised_rate(live.capture))
    elif not isinstance(source, (str, Path)):
        yield OpenStream(arrivals=_given(source), frames_per_second=None)
    else:
        with _opened_address(source, manner, stopped) as stream:
            yield stream


def name(source: StreamSource) -> str:
    """What a source is called in messages and records; passwords in addresses are left out."""
    if isinstance(source, int):
        return f"camera {source}"
    if isinstance(source, RawVideo):
        return "the pipe"
    return video_files.without_password(str(source)) if isinstance(source, (str, Path)) else "the iterable of frames"


@contextmanager
def _opened_address(source: str | Path, manner: Manner, stopped: threading.Event) -> Iterator[OpenStream]:
    if device := _CAMERA.fullmatch(str(source)):
        raise InputError(f"{source}: a camera is given by its number: {device[1]} (--stream {device[1]})")
    address = None if Path(source).is_dir() else video_files.address(source)
    if address is None:
        raise InputError(f"{source}: a stream is one file, URL, camera or pipe, not a folder")
    is_url = video_files.is_url(address)
    connect = partial(
        video_files.opened, address, threads=_LIVE_THREADS if is_url else None, timeout_seconds=TIMEOUT_SECONDS
    )
    with _Live(address, connect, manner, stopped) as live:
        rate = video_files.promised_rate(live.capture)
        if is_url and not video_files.has_end(live.capture):
            has_times = video_files.has_times(live.capture, address)
            yield live.stream(has_times=has_times, rate=rate if has_times else None)  # without times, FFmpeg's guess
        else:
            arrivals = _recorded(live.capture, address, rate, manner, stopped)
            yield OpenStream(arrivals=arrivals, frames_per_second=rate)


def _given(frames: Iterable[TimedFrame]) -> Iterator[Arrival]:
    for number, timed in enumerate(frames):
        if not isinstance(timed, TimedFrame):
            raise InputError(f"frame {number} of the stream must be a TimedFrame, not {type(timed).__name__}")
        video.check_frame(timed.frame, number)
        copied = TimedFrame(frame=timed.frame.copy(), seconds=timed.seconds)
        yield Arrival(timed=copied, came_at=time.monotonic())


def _recorded(
    capture: cv2.VideoCapture, address: str, rate: float | None, manner: Manner, stopped: threading.Event
) -> Iterator[Arrival]:
    """A file from its first to its last frame."""
    warnings: list[str] = []
    clock = _Clock(rate)
    first: float | None = None
    began_at = 0.0
    for frame in decoding.counted(capture, address, warnings, min_decoded_share=manner.min_decoded_share):
        now, shown = time.monotonic(), clock.tell(video_files.seconds(capture))
        if first is None:
            first, began_at = shown, now
        seconds = shown - first
        due_at = began_at + seconds
        if stopped.wait(max(0.0, due_at - now) if manner.is_paced else 0):
            return
        yield Arrival(timed=TimedFrame(frame=frame, seconds=seconds), came_at=due_at if manner.is_paced else now)
    for warning in warnings:
        manner.on_notice(f"{video_files.without_password(address)}: {warning}")


def _raw(source: RawVideo, stopped: threading.Event) -> Iterator[Arrival]:
    size = source.width * source.height * 3
    number = 0
    while True:
        data = _read(source.file.fileno(), size, stopped)
        if stopped.is_set() or not data:
            return
        if len(data) < size:
            raise VideoError(
                f"the pipe ended within frame {number}, after {len(data)} of its {size} bytes: "
                f"are its frames {source.width}x{source.height} in rgb24?"
            )
        frame = np.frombuffer(data, np.uint8).reshape(source.height, source.width, 3)
        timed = TimedFrame(frame=frame, seconds=number / source.frames_per_second)
        yield Arrival(timed=timed, came_at=time.monotonic())
        number += 1


def _read(descriptor: int, size: int, stopped: threading.Event) -> bytearray:
    """So many bytes of a pipe; fewer at its end, or when the stream is stopped."""
    data = bytearray()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while len(data) < size and not stopped.is_set():
        if not poll.poll(_POLL_SECONDS * 1000):
            continue
        piece = os.read(descriptor, size - len(data))
        if not piece:
            break
        data += piece
    return data


class _Clock:
    """Note [Times that ascend]."""

    def __init__(self, rate: float | None) -> None:
        self._step = 1 / (rate or video_files.ASSUMED_RATE)
        self._added = 0.0
        self._latest = -math.inf

    def tell(self, seconds: float) -> float:
        if self._latest - (seconds + self._added) >= _SET_BACK_SECONDS:
            self._added = self._latest + self._step - seconds
        self._latest = max(seconds + self._added, self._latest + _LEAST_STEP_SECONDS)
        return self._latest


class _Live:
    """A connection that is made again when it is lost; a context manager that closes it.

    Args:
        address: Of what.
        connect: Makes it.
        manner: How often it is tried again, and who is told.
        stopped: Ends it.
    """

    def __init__(
        self,
        address: str,
        connect: Callable[[], AbstractContextManager[cv2.VideoCapture]],
        manner: Manner,
        stopped: threading.Event,
    ) -> None:
        self._name = video_files.without_password(address)
        self._is_web = video_files.is_web(address)
        self._connect = connect
        self._manner = manner
        self._stopped = stopped
        self._connection = ExitStack()

    def __enter__(self) -> Self:
        self.capture = self._connection.enter_context(self._connect())
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def stream(self, *, has_times: bool, rate: float | None) -> OpenStream:
        """The frames of one connection after the other.

        Args:
            has_times: Whether the source says when its frames are shown.
            rate: Frames per second that it says.
        """
        stream = OpenStream(arrivals=iter(()), frames_per_second=rate)
        stream.arrivals = self._arrivals(stream, has_times=has_times)
        return stream

    def _arrivals(self, stream: OpenStream, *, has_times: bool) -> Iterator[Arrival]:
        clock = _Clock(stream.frames_per_second)
        began_at: float | None = None
        failures = 0
        while True:
            is_first = True
            for frame, shown_at in self._frames(has_times=has_times):
                if began_at is None:
                    began_at = shown_at
                failures = 0
                timed = TimedFrame(frame=frame, seconds=clock.tell(shown_at - began_at))
                yield Arrival(timed=timed, came_at=time.monotonic(), is_after_gap=is_first and stream.reconnects > 0)
                is_first = False
            failures = self._connect_again(failures)
            if self._stopped.is_set():
                return
            stream.reconnects += 1
            self._manner.on_notice(f"{self._name}: connected again")

    def _frames(self, *, has_times: bool) -> Iterator[tuple[Frame, float]]:
        """Those of the connection as it is, and when each was shown or came, on our clock."""
        is_ahead = has_times and self._is_web
        began_at: float | None = None
        for frame in video_files.frames_of(self.capture):
            now = time.monotonic()
            shown = video_files.seconds(self.capture) if has_times else now
            if began_at is None:
                began_at = now - shown
            shown_at = began_at + shown
            if self._stopped.wait(max(0.0, shown_at - now) if is_ahead and self._manner.is_paced else 0):
                return
            yield frame, shown_at

    def _connect_again(self, failures: int) -> int:
        """Wait, and try it until it is done or the stream is stopped.

        Args:
            failures: Attempts since the latest frame.

        Returns:
            The same afterwards.

        Raises:
            VideoError: There were too many.
        """
        self._connection.close()
        while not self._stopped.is_set():
            if failures >= self._manner.reconnects:
                tried = f" and {failures} attempts to connect again failed" if failures else ""
                raise VideoError(f"{self._name}: the connection was lost{tried}")
            delay = min(FIRST_DELAY_SECONDS * 2**failures, MAX_DELAY_SECONDS)
            failures += 1
            self._manner.on_notice(
                f"{self._name}: the connection was lost; attempt {failures} of {self._manner.reconnects} to connect "
                f"again in {delay:g} s"
            )
            if self._stopped.wait(delay):
                break
            with suppress(VideoError):
                self.capture = self._connection.enter_context(self._connect())
                break
        return failures
