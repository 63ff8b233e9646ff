"""From a file to the frames wanted of it, with OpenCV.

Frames are counted by decoding: containers are often wrong, and the frames of a clip follow from the count. A source is
read in one forward pass without seeking; only when the container's count proves wrong is it read a second time.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from i3d_deploy import files
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.sampling import Indices

Frame = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""

Resized = NDArray[np.uint8 | np.float32]
"""(H, W, C) values of 0 to 255: a frame after a transform, which may not round."""

Choose = Callable[[int, float | None], Indices]
"""From the number of frames, and of frames per second where that is known, to the indices wanted, (clips, clip_len)."""


@dataclass(frozen=True, kw_only=True)
class FrameFolder:
    """A run of numbered images in a folder, whose length is known from a list.

    Attributes:
        path: The folder.
        num_frames: Length of the run.
        offset: Images of the folder before the run.
        image_name: Names of the images, as for ``str.format``; numbered from 1.
    """

    path: Path
    num_frames: int
    offset: int = 0
    image_name: str = "img_{:05}.jpg"

    def __str__(self) -> str:
        return str(self.path)

    def image(self, index: int) -> Path:
        """The file of a frame of the run, counted from 0."""
        return self.path / self.image_name.format(self.offset + index + 1)


Source = str | Path | FrameFolder | NDArray[np.uint8] | Iterable[Frame]
"""A video file, a URL, an image folder, a (T, H, W, 3) uint8 RGB array, or an iterable of frames."""

VIDEO_SUFFIXES = frozenset(
    [".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"]
)
"""File endings that a folder of videos is searched for."""

OPEN_TIMEOUT_SECONDS = 15
READ_TIMEOUT_SECONDS = 30
MIN_DECODED_SHARE = 0.5
"""A damaged stream needs at least this share of the frames that its container promises."""

_IMAGE_NAME = re.compile(r"img_(\d+)\.(?:jpe?g|png)", re.IGNORECASE)
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)

_CLOCK_TICKS_PER_SECOND = 1000
"""Matroska's clock. No camera is as fast, so a frame rate of this much is the clock's and says nothing about frames."""

_LOG_SILENT = 0

# FFmpeg writes its complaints about damaged streams straight to stderr; the result carries a warning instead.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The frames wanted of a video.

    Attributes:
        indices: (clips, clip_len) what was wanted, in [0, num_frames).
        by_index: Each unique frame, RGB, after the transform.
        num_frames: Frames that decode.
        frames_per_second: As the container says; None where it does not, or there is none.
        counted: (N,) of flow: the frame of the video that each number stands for; None: numbers are those of frames.
        warnings: What was wrong with the source, one line each.
    """

    indices: Indices
    by_index: dict[int, Resized]
    num_frames: int
    frames_per_second: float | None = None
    counted: Indices | None = None
    warnings: tuple[str, ...] = ()


class Watcher(Protocol):
    """Follows a source while it is read, in the thread that reads; what a method raises ends the reading."""

    def planned(self, indices: Indices) -> None:
        """Learn what will be read; once more where the count proved wrong, and all that came before is void.

        Args:
            indices: (clips, clip_len), from the count that the source promises.
        """

    def before_frame(self) -> None:
        """Called before each frame of the source, wanted or not."""

    def decoded(self, index: int, frame: Resized) -> None:
        """Take a wanted frame, after the transform; they come in ascending order."""


class Nobody:
    """A watcher of nothing."""

    def planned(self, indices: Indices) -> None: ...

    def before_frame(self) -> None: ...

    def decoded(self, index: int, frame: Resized) -> None: ...


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What is done with the frames of any kind of source; attributes as the arguments of :func:`collect`."""

    choose: Choose
    transform: Callable[[Frame], Resized]
    watcher: Watcher

    def planned(self, num_frames: int, frames_per_second: float | None = None) -> Indices:
        """Choose, and tell the watcher."""
        indices = self.choose(num_frames, frames_per_second)
        self.watcher.planned(indices)
        return indices

    def read(self, indices: Indices, read: Callable[[int], Frame]) -> dict[int, Resized]:
        """Read and transform the unique frames, each by its index."""
        by_index: dict[int, Resized] = {}
        for index in _unique(indices):
            self.watcher.before_frame()
            by_index[index] = self.transform(read(index))
            self.watcher.decoded(index, by_index[index])
        return by_index


def collect(
    source: Source,
    *,
    choose: Choose,
    transform: Callable[[Frame], Resized],
    min_decoded_share: float = MIN_DECODED_SHARE,
    trust_count: bool = False,
    decoder_threads: int | None = None,
    watcher: Watcher | None = None,
) -> Frames:
    """Read the frames wanted of a source.

    Args:
        source: File, URL, image folder (``img_00001.jpg`` ...), uint8 RGB array (T, H, W, 3), or iterable of frames.
        choose: From the number of frames and their rate, where it is known, to the indices wanted, (clips, clip_len).
        transform: Applied to each unique frame as it is decoded, so that large frames are never kept.
        min_decoded_share: A damaged stream needs at least this share of the frames that its container promises.
        trust_count: Stop after the last frame wanted: where all are there, a wrong count in the container is not
            noticed. For training, which wants one random clip and reads each video many times.
        decoder_threads: Threads that decode a file or URL; default: one per core.
        watcher: Told of the frames as they come.

    Raises:
        VideoError: There is no usable frame; the message says why.
        InputError: An array or frame has the wrong shape or type.
    """
    wish = _Wish(choose=choose, transform=transform, watcher=watcher or Nobody())
    if isinstance(source, FrameFolder):
        return _collect_listed_images(source, wish)
    if isinstance(source, np.ndarray):
        return _collect_array(source, wish)
    if not isinstance(source, (str, Path)):
        return _collect_iterable(source, wish)
    address = _address(source)
    if address is None:
        return _collect_images(Path(source), wish)
    # Training reads many videos at once, in processes of their own.
    threads = 1 if trust_count else decoder_threads
    with _opened(address, threads=threads) as capture:
        found = _first_pass(capture, wish, trust_count=trust_count)
    if isinstance(found, _WrongCount):
        return _second_pass(address, wish, found, min_decoded_share=min_decoded_share, threads=threads)
    return found


def check(source: str | Path) -> None:
    """Open a file, URL or image folder and close it again.

    Raises:
        VideoError: It cannot be opened as a video; the message says why.
    """
    address = _address(source)
    if address is not None:
        with _opened(address):
            pass


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The frames of a source one after the other, for videos of any length.

    Attributes:
        frames: Each is decoded when it is asked for; to be gone through once.
        frames_per_second: As the container says; None where it does not, or there is none.
        warnings: What was wrong with the source, one line each; complete once the frames have ended.
    """

    frames: Iterator[Frame]
    frames_per_second: float | None = None
    warnings: list[str] = field(default_factory=list)


@contextmanager
def stream(source: Source, *, min_decoded_share: float = MIN_DECODED_SHARE) -> Iterator[Stream]:
    """Open a source to read it from its first to its last frame.

    Args:
        source: As for :func:`collect`.
        min_decoded_share: As for :func:`collect`; where there is less, the error comes after the last frame.

    Raises:
        VideoError: There is no usable frame; the message says why.
        InputError: An array or frame has the wrong shape or type.
    """
    address = _address(source) if isinstance(source, (str, Path)) else None
    if address is None:
        yield Stream(frames=_still(source))
        return
    with _opened(address) as capture:
        warnings: list[str] = []
        yield Stream(
            frames=_counted(capture, address, warnings, min_decoded_share=min_decoded_share),
            frames_per_second=_container_rate(capture),
            warnings=warnings,
        )


def _still(source: Source) -> Iterator[Frame]:
    """The frames of what is no file, one by one."""
    if isinstance(source, FrameFolder):
        return (read_image(source.image(index)) for index in range(source.num_frames))
    if isinstance(source, (str, Path)):
        return (read_image(path) for path in _run_of_images(Path(source)))
    if isinstance(source, np.ndarray):
        _check_array(source)
    return _checked(source)


def _counted(
    capture: cv2.VideoCapture, address: str, warnings: list[str], *, min_decoded_share: float
) -> Iterator[Frame]:
    """The frames of a file; after the last one they are held against what the container promises."""
    promised, num_frames = _container_count(capture), 0
    for frame in _frames(capture):
        num_frames += 1
        yield frame
    _check_count(address, num_frames, promised, min_decoded_share=min_decoded_share)
    if num_frames != promised:
        warnings.append(_wrong_count(num_frames, promised))


def read(path: Path) -> Iterator[Frame]:
    """Decode a video file from its first to its last frame.

    Yields:
        (H, W, 3) uint8 RGB.

    Raises:
        VideoError: It cannot be opened as a video.
    """
    _check_file(path)
    with _opened(str(path.absolute())) as capture:
        yield from _frames(capture)


def _frames(capture: cv2.VideoCapture) -> Iterator[Frame]:
    while capture.grab():
        is_whole, image = capture.retrieve()
        if not is_whole:
            return
        yield _to_rgb(np.asarray(image, np.uint8))


def frame_rate(path: Path) -> float:
    """Frames per second as the container says; 25 where it does not.

    Raises:
        VideoError: It cannot be opened as a video.
    """
    _check_file(path)
    with _opened(str(path.absolute())) as capture:
        return _container_rate(capture) or 25.0


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


def is_image_folder(path: Path) -> bool:
    """Whether a folder holds frames named ``img_00001.jpg`` and so on."""
    return path.is_dir() and any(_IMAGE_NAME.fullmatch(entry.name) for entry in path.iterdir())


def _address(source: str | Path) -> str | None:
    """What FFmpeg opens; None of a folder of frames."""
    if isinstance(source, str) and _URL.match(source):
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


@dataclass(frozen=True, kw_only=True)
class _WrongCount:
    """Frames that decode, and those that the container promises: 0 or less where it does not say."""

    num_frames: int
    promised: int


def _first_pass(capture: cv2.VideoCapture, wish: _Wish, *, trust_count: bool) -> Frames | _WrongCount:
    promised, rate = _container_count(capture), _container_rate(capture)
    indices = wish.planned(promised, rate) if promised > 0 else np.empty((0, 0), np.int64)
    wanted = _unique(indices)
    by_index, num_frames = _decode(capture, wish, wanted=wanted, to_the_end=not trust_count or promised <= 0)
    if trust_count and promised > 0 and len(by_index) == len(wanted):
        num_frames = promised
    if num_frames != promised or num_frames == 0:
        return _WrongCount(num_frames=num_frames, promised=promised)
    return Frames(indices=indices, by_index=by_index, num_frames=num_frames, frames_per_second=rate)


def _second_pass(
    address: str, wish: _Wish, count: _WrongCount, *, min_decoded_share: float, threads: int | None
) -> Frames:
    num_frames, promised = count.num_frames, count.promised
    _check_count(address, num_frames, promised, min_decoded_share=min_decoded_share)
    with _opened(address, threads=threads) as capture:
        rate = _container_rate(capture)
        indices = wish.planned(num_frames, rate)
        by_index, recount = _decode(capture, wish, wanted=_unique(indices), to_the_end=True)
    if recount < num_frames:
        raise VideoError(f"{address}: {num_frames} frames decoded at first, {recount} the second time")
    return Frames(
        indices=indices,
        by_index=by_index,
        num_frames=num_frames,
        frames_per_second=rate,
        warnings=(_wrong_count(num_frames, promised),),
    )


def _check_count(address: str, num_frames: int, promised: int, *, min_decoded_share: float) -> None:
    if num_frames == 0:
        raise VideoError(f"{address}: no frame could be decoded")
    if num_frames < promised * min_decoded_share:
        raise VideoError(
            f"{address}: only {num_frames} of {promised} frames decode, fewer than {min_decoded_share:.0%}: "
            "the file is damaged; min_decoded_share (--min-decoded) sets how much is enough"
        )


def _wrong_count(num_frames: int, promised: int) -> str:
    says = f"the container says {promised} frames" if promised > 0 else "the container does not say how many frames"
    return f"{says}, {num_frames} decode"


@contextmanager
def _opened(address: str, *, threads: int | None = None) -> Iterator[cv2.VideoCapture]:
    options = [
        int(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC),
        OPEN_TIMEOUT_SECONDS * 1000,
        int(cv2.CAP_PROP_READ_TIMEOUT_MSEC),
        READ_TIMEOUT_SECONDS * 1000,
    ]
    if threads is not None:
        options += [int(cv2.CAP_PROP_N_THREADS), threads]
    with _quiet_opencv():
        capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, options)
    try:
        what = _what_is_wrong(capture, is_url=_URL.match(address) is not None)
        if what is not None:
            raise VideoError(f"{address}: {what}")
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)  # the default of every OpenCV but 4.11
        yield capture
    finally:
        capture.release()


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Without the lines on stderr with which OpenCV accompanies a file that does not open."""
    logging: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV before 4.13 has the functions at the top
    level = logging.getLogLevel()
    logging.setLogLevel(_LOG_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


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


def _container_count(capture: cv2.VideoCapture) -> int:
    """The frames that the container promises; 0 or less where it does not say."""
    # Matroska stores a duration and no count. OpenCV multiplies it by the frame rate, for which it takes the clock's
    # where frames come at uneven times, as in recordings of a screen: 400 frames in 16 seconds count as 16000.
    if capture.get(cv2.CAP_PROP_FPS) >= _CLOCK_TICKS_PER_SECOND:
        return 0
    return int(capture.get(cv2.CAP_PROP_FRAME_COUNT))


def _container_rate(capture: cv2.VideoCapture) -> float | None:
    """Frames per second as the container says; None where it does not."""
    found = float(capture.get(cv2.CAP_PROP_FPS))
    return found if 0 < found < _CLOCK_TICKS_PER_SECOND else None


def _decode(
    capture: cv2.VideoCapture, wish: _Wish, *, wanted: list[int], to_the_end: bool
) -> tuple[dict[int, Resized], int]:
    """One pass over the frames, past the last one wanted on request; rotation metadata is applied by OpenCV."""
    kept = iter(wanted)
    next_wanted = next(kept, None)
    by_index: dict[int, Resized] = {}
    count = 0
    while to_the_end or next_wanted is not None:
        wish.watcher.before_frame()
        if not capture.grab():
            break
        if count == next_wanted:
            is_whole, image = capture.retrieve()
            if not is_whole:
                break
            by_index[count] = wish.transform(_to_rgb(np.asarray(image, np.uint8)))
            wish.watcher.decoded(count, by_index[count])
            next_wanted = next(kept, None)
        count += 1
    return by_index, count


def _to_rgb(image: NDArray[np.uint8]) -> Frame:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _unique(indices: Indices) -> list[int]:
    return [int(index) for index in np.unique(indices)]


def _collect_images(folder: Path, wish: _Wish) -> Frames:
    images = _run_of_images(folder)
    indices = wish.planned(len(images))
    by_index = wish.read(indices, lambda index: read_image(images[index]))
    return Frames(indices=indices, by_index=by_index, num_frames=len(images))


def _run_of_images(folder: Path) -> list[Path]:
    numbered = _numbered_images(folder)
    first = min(numbered)
    missing = next((number for number in range(first, first + len(numbered)) if number not in numbered), None)
    if missing is not None:
        raise VideoError(f"{folder}: frame {missing} is missing between {first} and {max(numbered)}")
    return [numbered[number] for number in sorted(numbered)]


def _collect_listed_images(folder: FrameFolder, wish: _Wish) -> Frames:
    indices = wish.planned(folder.num_frames)
    by_index = wish.read(indices, lambda index: read_image(folder.image(index)))
    return Frames(indices=indices, by_index=by_index, num_frames=folder.num_frames)


def _numbered_images(folder: Path) -> dict[int, Path]:
    numbered: dict[int, Path] = {}
    for entry in sorted(folder.iterdir()):
        if match := _IMAGE_NAME.fullmatch(entry.name):
            number = int(match[1])
            if number in numbered:
                raise VideoError(f"{folder}: {numbered[number].name} and {entry.name} are both frame {number}")
            numbered[number] = entry
    return numbered


def read_image(path: Path) -> Frame:
    """Read one image file.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        VideoError: There is no such file, or it cannot be decoded whole.
    """
    if not path.is_file():
        raise VideoError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror or error}") from error
    # A JPEG file that is cut off decodes without complaint, grey where pixels are missing. Its last scan has no end.
    is_cut_off = data.startswith(_JPEG_START) and data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN)
    try:
        image = None if is_cut_off else cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # an empty file, or more pixels than OpenCV takes
        image = None
    if image is None:
        raise VideoError(f"{path}: the image cannot be decoded")
    return _to_rgb(np.asarray(image, np.uint8))


def _collect_array(array: NDArray[np.uint8], wish: _Wish) -> Frames:
    _check_array(array)
    indices = wish.planned(len(array))
    by_index = wish.read(indices, lambda index: np.ascontiguousarray(array[index]))
    return Frames(indices=indices, by_index=by_index, num_frames=len(array))


def _check_array(array: NDArray[np.uint8]) -> None:
    if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8:
        raise InputError(f"frames must be uint8 of shape (T, H, W, 3), not {array.dtype} of shape {array.shape}")
    if array.size == 0:
        raise VideoError(f"an array of shape {array.shape} has no frame")


def _checked(frames: Iterable[Frame]) -> Iterator[Frame]:
    size: tuple[int, ...] | None = None
    for number, frame in enumerate(frames):
        shape, kind = getattr(frame, "shape", None), getattr(frame, "dtype", None)
        if shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape or kind != np.uint8:
            raise InputError(
                f"frame {number} must be uint8 of shape (H, W, 3), not {kind or type(frame)} of shape {shape}"
            )
        if size is not None and shape != size:
            raise InputError(f"frame {number} has shape {shape}, those before it {size}")
        size = shape
        yield np.ascontiguousarray(frame)


def _collect_iterable(frames: Iterable[Frame], wish: _Wish) -> Frames:
    """Keep all transformed frames in a temporary file until their number is known, so that memory stays flat."""
    shape: tuple[int, ...] = ()
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    num_frames = 0
    with tempfile.TemporaryFile() as store:
        for frame in _checked(frames):
            wish.watcher.before_frame()
            kept = wish.transform(frame)
            shape, dtype = kept.shape, kept.dtype
            store.write(kept.tobytes())
            num_frames += 1
        if num_frames == 0:
            raise VideoError("the iterable of frames is empty")
        store.flush()
        stored = np.memmap(store, dtype, mode="r", shape=(num_frames, *shape))
        indices = wish.planned(num_frames)
        by_index: dict[int, Resized] = {index: np.array(stored[index]) for index in _unique(indices)}
        for index, kept in by_index.items():
            wish.watcher.decoded(index, kept)
    return Frames(indices=indices, by_index=by_index, num_frames=num_frames)
