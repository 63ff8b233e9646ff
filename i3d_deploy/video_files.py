"""Video files and URLs, opened with OpenCV: what their containers say, every frame in order, and writing one."""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from i3d_deploy import files
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.frames import Frame
from i3d_deploy.images import is_image_folder

SUFFIXES = frozenset(
    [".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"]
)
"""File endings that a folder of videos is searched for."""

MIN_FRAMES_PER_SECOND = 0.1
MAX_FRAMES_PER_SECOND = 1000
"""Rates that a video can be said to have. At a card's rate, a slow one has many more frames than are there; what a
container says below it is no rate, but a damaged one."""

ASSUMED_RATE = 25.0
"""Frames per second where a rate is needed and nothing says one."""

MAX_CAMERA = 99
"""In the hundreds OpenCV sees which system is asked for a camera."""

OPEN_TIMEOUT_SECONDS = 15
READ_TIMEOUT_SECONDS = 30

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_PASSWORD = re.compile(r"^([a-z][a-z0-9+.-]*://[^/@:\[]*):(?!\d+[/?#]).*@", re.IGNORECASE)
"""To the last @, since passwords have @ and / although they should not; digits and a slash are a port."""

_CLOCK_TICKS_PER_SECOND = 1000
"""Matroska's clock. No camera is as fast, so a frame rate of this much is the clock's and says nothing about frames."""

_LOG_SILENT = 0


class _OpenCVLog:
    """OpenCV's log, silenced by any number of threads: the level is one for the whole process, and the last one of them
    puts it back.
    """

    def __init__(self) -> None:
        self._logging: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV before 4.13 has the functions at the top
        self._lock = threading.Lock()
        self._silencers = 0

    @property
    def level(self) -> int:
        return int(self._logging.getLogLevel())

    def silence(self) -> None:
        with self._lock:
            if self._silencers == 0:
                self._level = self.level
                self._logging.setLogLevel(_LOG_SILENT)
            self._silencers += 1

    def restore(self) -> None:
        with self._lock:
            self._silencers -= 1
            if self._silencers == 0:
                self._logging.setLogLevel(self._level)


_log = _OpenCVLog()

# FFmpeg writes its complaints about damaged streams straight to stderr; the result carries a warning instead.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def below(folder: Path) -> list[Path]:
    """The video files of a folder and its subfolders, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def address(source: str | Path) -> str | None:
    """What FFmpeg opens of a file or URL; None of a folder of frames.

    Raises:
        VideoError: There is no such file or folder, or it cannot be a video.
    """
    if isinstance(source, str) and is_url(source):
        return source
    path = Path(source)
    _check_file(path)
    # An absolute path cannot be taken for one of FFmpeg's protocols ("concat:...").
    return None if path.is_dir() else str(path.absolute())


def _check_file(path: Path) -> None:
    try:
        # OpenCV ends the process over a name that is not UTF-8, of the file or of a folder above it.
        str(path.absolute()).encode()
        status = path.stat()
        is_unusable_folder = stat.S_ISDIR(status.st_mode) and not is_image_folder(path)
    except FileNotFoundError as error:
        raise VideoError(f"{path}: no such file") from error
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # UnicodeEncodeError is one; a NUL character in the name gives another
        raise VideoError(f"{os.fsencode(path)!r}: the name is not UTF-8 text; rename the file or folder") from error
    if is_unusable_folder:
        raise VideoError(f"{path}: a folder with neither videos nor frames named img_00001.jpg and so on")
    if stat.S_ISDIR(status.st_mode):
        return
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(f"{path}: not a regular file")
    if status.st_size == 0:
        raise VideoError(f"{path}: the file is empty")
    if not os.access(path, os.R_OK):
        raise VideoError(f"{path}: permission denied")


@contextmanager
def opened(
    address: str, *, threads: int | None = None, timeout_seconds: int | None = None
) -> Iterator[cv2.VideoCapture]:
    """Open what :func:`address` gives.

    Args:
        address: An absolute path, or a URL.
        threads: Threads that decode; None: one per core.
        timeout_seconds: How long a URL may take to open, and each of its frames to come; None:
            :data:`OPEN_TIMEOUT_SECONDS` and :data:`READ_TIMEOUT_SECONDS`.

    Raises:
        VideoError: It cannot be opened as a video.
    """
    options = [
        int(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC),
        (timeout_seconds or OPEN_TIMEOUT_SECONDS) * 1000,
        int(cv2.CAP_PROP_READ_TIMEOUT_MSEC),
        (timeout_seconds or READ_TIMEOUT_SECONDS) * 1000,
    ]
    if threads is not None:
        options += [int(cv2.CAP_PROP_N_THREADS), threads]
    with _quiet_opencv():
        capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, options)
    try:
        what = _what_is_wrong(capture, is_url=is_url(address))
        if what is not None:
            raise VideoError(f"{without_password(address)}: {what}")
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # the default of every OpenCV but 4.11
        yield capture
    finally:
        capture.release()


@contextmanager
def camera(index: int) -> Iterator[cv2.VideoCapture]:
    """Open a camera of this machine.

    Raises:
        InputError: No camera has this number.
        VideoError: There is none of this number, or it is in use.
    """
    if not 0 <= index <= MAX_CAMERA:
        raise InputError(f"a camera's number ({index}) must be from 0 to {MAX_CAMERA}")
    with _quiet_opencv():
        capture = cv2.VideoCapture(index)
    try:
        if not capture.isOpened():
            raise VideoError(f"camera {index} does not open: there is none of this number, or something else uses it")
        yield capture
    finally:
        capture.release()


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Without the lines on stderr with which OpenCV accompanies a file that does not open."""
    _log.silence()
    try:
        yield
    finally:
        _log.restore()


def is_url(address: str) -> bool:
    """Whether it is a URL, and no path."""
    return _URL.match(address) is not None


def is_web(address: str) -> bool:
    """Whether a web server is asked for it."""
    return address.lower().startswith(("http:", "https:"))


def without_password(address: str) -> str:
    """An address as it may be shown."""
    return _PASSWORD.sub(r"\1:***@", address)


def has_end(capture: cv2.VideoCapture) -> bool:
    """Whether what is open is a recording: its container says how long it is."""
    return float(capture.get(cv2.CAP_PROP_FRAME_COUNT)) > 0


def has_times(capture: cv2.VideoCapture, address: str) -> bool:
    """Whether what is open says when its frames are shown: JPEG pictures that a web server sends one by one do not."""
    is_pictures = int(capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"MJPG")
    return not (is_pictures and not has_end(capture) and is_web(address))


def seconds(capture: cv2.VideoCapture) -> float:
    """When the frame that was grabbed last is shown, as the container says."""
    return float(capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000


def _what_is_wrong(capture: cv2.VideoCapture, *, is_url: bool) -> str | None:
    if not capture.isOpened():
        return "the address does not answer with a video" if is_url else "no video stream that can be decoded"
    codec, pixels = int(capture.get(cv2.CAP_PROP_FOURCC)), int(capture.get(cv2.CAP_PROP_CODEC_PIXEL_FORMAT))
    if codec == cv2.VideoWriter.fourcc(*"ansi"):
        # FFmpeg plays any .txt as terminal art.
        return "a text file, not a video"
    if codec == 0 and pixels == cv2.VideoWriter.fourcc("B", "G", "R", chr(24)):
        # Stored from bottom to top, as usual, they make OpenCV 4.14 and 5.0 write outside their memory.
        return "uncompressed 24-bit frames are not supported: compress them, for example with FFV1"
    return None


def promised_frames(capture: cv2.VideoCapture) -> int:
    """The frames that the container promises; 0 or less where it does not say."""
    # Matroska stores a duration and no count. OpenCV multiplies it by the frame rate, for which it takes the clock's
    # where frames come at uneven times, as in recordings of a screen: 400 frames in 16 seconds count as 16000.
    if capture.get(cv2.CAP_PROP_FPS) >= _CLOCK_TICKS_PER_SECOND:
        return 0
    return int(capture.get(cv2.CAP_PROP_FRAME_COUNT))


def promised_rate(capture: cv2.VideoCapture) -> float | None:
    """Frames per second as the container says; None where it does not, or says what no video has."""
    found = float(capture.get(cv2.CAP_PROP_FPS))
    return found if MIN_FRAMES_PER_SECOND <= found < _CLOCK_TICKS_PER_SECOND else None


def read(path: Path) -> Iterator[Frame]:
    """Decode a video file from its first to its last frame.

    Yields:
        (H, W, 3) uint8 RGB.

    Raises:
        VideoError: It cannot be opened as a video.
    """
    _check_file(path)
    with opened(str(path.absolute())) as capture:
        yield from frames_of(capture)


def frames_of(capture: cv2.VideoCapture) -> Iterator[Frame]:
    """The frames of an open video, one by one."""
    while capture.grab():
        frame = retrieved(capture)
        if frame is None:
            return
        yield frame


def retrieved(capture: cv2.VideoCapture) -> Frame | None:
    """The frame that was grabbed last; None where it is damaged. OpenCV applies the rotation of the metadata."""
    is_whole, image = capture.retrieve()
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8) if is_whole else None


def frame_rate(path: Path) -> float:
    """Frames per second as the container says; 25 where it does not.

    Raises:
        VideoError: It cannot be opened as a video.
    """
    _check_file(path)
    with opened(str(path.absolute())) as capture:
        return promised_rate(capture) or ASSUMED_RATE


def write(path: Path, frames: Iterable[Frame], *, frames_per_second: float) -> None:
    """Write an MPEG-4 file, replaced as a whole.

    Args:
        path: An ``.mp4`` file.
        frames: (H, W, 3) uint8 RGB, all of one size.
        frames_per_second: Their rate.

    Raises:
        InputError: It is no ``.mp4``, or there is no frame.
        OSError: Not all frames reached the disk.
    """
    if path.suffix.lower() != ".mp4":
        raise InputError(f"{path}: videos are written as .mp4")
    with files.replacing(path) as (target,):
        written = _write(target, frames, frames_per_second=frames_per_second)
        if written == 0:
            raise InputError(f"{path}: no frame to write")
        # OpenCV says nothing of a full disk.
        try:
            readable = sum(1 for _ in read(target))
        except VideoError:
            readable = 0
        if readable != written:
            raise OSError(
                errno.EIO, f"only {readable} of {written} frames could be written (is the disk full?)", str(path)
            )


def _write(target: Path, frames: Iterable[Frame], *, frames_per_second: float) -> int:
    writer = cv2.VideoWriter()
    count = 0
    try:
        for frame in frames:
            if count == 0:
                codec = cv2.VideoWriter.fourcc(*"mp4v")
                writer.open(str(target), codec, frames_per_second, (frame.shape[1], frame.shape[0]))
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            count += 1
    finally:
        writer.release()
    return count
