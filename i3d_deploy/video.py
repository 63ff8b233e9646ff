"""From a source of any kind to the frames wanted of it, or to all of them one by one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import decoding, images, video_files
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.frames import Choose, Frame, Frames, Nobody, Resized, Watcher, Wish, unique
from i3d_deploy.images import FrameFolder
from i3d_deploy.video_files import MAX_FRAMES_PER_SECOND, MIN_FRAMES_PER_SECOND


@dataclass(frozen=True, kw_only=True)
class TimedFrames:
    """The frames of a whole video in memory, with their rate.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB.
        frames_per_second: How fast they follow each other.
    """

    frames: NDArray[np.uint8] = field(repr=False)
    frames_per_second: float

    def __post_init__(self) -> None:
        if not MIN_FRAMES_PER_SECOND <= self.frames_per_second <= MAX_FRAMES_PER_SECOND:
            raise InputError(
                f"frames_per_second ({self.frames_per_second:g}) must be >= {MIN_FRAMES_PER_SECOND} and "
                f"<= {MAX_FRAMES_PER_SECOND}"
            )


Source = str | Path | FrameFolder | TimedFrames | NDArray[np.uint8] | Iterable[Frame]
"""A video file, a URL, an image folder, a (T, H, W, 3) uint8 RGB array with or without its rate, or an iterable of
frames."""

MIN_DECODED_SHARE = 0.5
"""A damaged stream needs at least this share of the frames that its container promises."""


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
        source: File, URL, image folder (``img_00001.jpg`` ...), uint8 RGB array (T, H, W, 3) with or without its rate,
            or iterable of frames.
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
    wish = Wish(choose=choose, transform=transform, watcher=watcher or Nobody())
    if isinstance(source, FrameFolder):
        return wish.collect(source.num_frames, lambda index: images.read(source.image(index)))
    if isinstance(source, np.ndarray | TimedFrames):
        array, rate = (source, None) if isinstance(source, np.ndarray) else (source.frames, source.frames_per_second)
        _check_array(array)
        return wish.collect(len(array), lambda index: np.ascontiguousarray(array[index]), frames_per_second=rate)
    if not isinstance(source, (str, Path)):
        return _collect_iterable(source, wish)
    address = video_files.address(source)
    if address is None:
        paths = images.run_of(Path(source))
        return wish.collect(len(paths), lambda index: images.read(paths[index]))
    # Training reads many videos at once, in processes of their own.
    threads = 1 if trust_count else decoder_threads
    return decoding.collect(
        address, wish, min_decoded_share=min_decoded_share, trust_count=trust_count, threads=threads
    )


def assumed_rate(frames_per_second: float) -> str:
    """The warning of a source without a rate, whose frames are taken to be so many a second."""
    return f"the video does not say its rate: its frames are taken to be {frames_per_second:g} a second"


def check(source: str | Path) -> None:
    """Open a file, URL or image folder and close it again.

    Raises:
        VideoError: It cannot be opened as a video; the message says why.
    """
    address = video_files.address(source)
    if address is not None:
        with video_files.opened(address):
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
    address = video_files.address(source) if isinstance(source, (str, Path)) else None
    if address is None:
        rate = source.frames_per_second if isinstance(source, TimedFrames) else None
        yield Stream(frames=_still(source), frames_per_second=rate)
        return
    with video_files.opened(address) as capture:
        warnings: list[str] = []
        yield Stream(
            frames=decoding.counted(capture, address, warnings, min_decoded_share=min_decoded_share),
            frames_per_second=video_files.promised_rate(capture),
            warnings=warnings,
        )


def _still(source: Source) -> Iterator[Frame]:
    """The frames of what is no file, one by one."""
    if isinstance(source, FrameFolder):
        return (images.read(source.image(index)) for index in range(source.num_frames))
    if isinstance(source, (str, Path)):
        return (images.read(path) for path in images.run_of(Path(source)))
    if isinstance(source, TimedFrames):
        source = source.frames
    if isinstance(source, np.ndarray):
        _check_array(source)
    return _checked(source)


def _check_array(array: NDArray[np.uint8]) -> None:
    if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8:
        raise InputError(f"frames must be uint8 of shape (T, H, W, 3), not {array.dtype} of shape {array.shape}")
    if array.size == 0:
        raise VideoError(f"an array of shape {array.shape} has no frame")


def _checked(frames: Iterable[Frame]) -> Iterator[Frame]:
    if not isinstance(frames, Iterable):
        kind = type(frames).__name__
        raise InputError(f"a video is a file, URL, folder of frames, array or iterable of frames, not {kind}")
    size: tuple[int, ...] | None = None
    for number, frame in enumerate(frames):
        if isinstance(frame, (str, Path)):
            raise InputError(f"frame {number} is {str(frame)!r}: give one video at a time, or many to predict_many")
        check_frame(frame, number)
        if size is not None and frame.shape != size:
            raise InputError(f"frame {number} has shape {frame.shape}, those before it {size}")
        size = frame.shape
        yield np.ascontiguousarray(frame)


def check_frame(frame: object, number: int) -> None:
    """Refuse what is no frame.

    Args:
        frame: What was given as one.
        number: Its number, for the message.

    Raises:
        InputError: It is not uint8 of shape (H, W, 3).
    """
    shape, kind = getattr(frame, "shape", None), getattr(frame, "dtype", None)
    if shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape or kind != np.uint8:
        raise InputError(f"frame {number} must be uint8 of shape (H, W, 3), not {kind or type(frame)} of shape {shape}")


def _collect_iterable(frames: Iterable[Frame], wish: Wish) -> Frames:
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
        by_index: dict[int, Resized] = {index: np.array(stored[index]) for index in unique(indices)}
        for index, kept in by_index.items():
            wish.watcher.decoded(index, kept)
    return Frames(indices=indices, by_index=by_index, num_frames=num_frames)
