"""Windows of a video: so many frames every so many, and what is done where the last frames do not fill one.

Which frames make which window is known while the video is read: only as many frames are kept as a window has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, get_args

from i3d_deploy import sampling
from i3d_deploy.errors import InputError

Last = Literal["drop", "repeat", "loop", "shift"]
"""What becomes of frames after the last full window.

``drop``: they are left out. The others make one more window of them: ``repeat`` fills it with the last frame, ``loop``
with the frames of the video from the first one on, ``shift`` begins it earlier, so that it ends with the last frame; of
a video that is shorter than a window, ``shift`` repeats the last frame.
"""
LASTS: tuple[Last, ...] = get_args(Last)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Window(Generic[T]):
    """One window.

    Attributes:
        frames: As many as a window has; those that it was filled with come last.
        start_frame: The first of its own frames, by its number in the video.
        end_frame: The one after the last of its own.
    """

    frames: tuple[T, ...]
    start_frame: int
    end_frame: int

    @property
    def padded_frames(self) -> int:
        """Frames that it was filled with."""
        return len(self.frames) - (self.end_frame - self.start_frame)


def check(*, window: int, stride: int, last: Last) -> None:
    """Check the numbers of windows.

    Raises:
        InputError: One is out of range.
    """
    if min(window, stride) < 1:
        raise InputError(f"window ({window}) and stride ({stride}) must be > 0")
    if window > sampling.MAX_WHOLE_FRAMES:
        raise InputError(
            f"window ({window}) must be <= {sampling.MAX_WHOLE_FRAMES}: its frames go through the network at once"
        )
    if last not in LASTS:
        raise InputError(f"last ({last!r}) is not one of {', '.join(LASTS)}")


def rest(num_frames: int, *, window: int, stride: int, last: Last) -> range:
    """The frames of the window after the full ones, if there is one.

    Args:
        num_frames: Length of the video.
        window: Frames a window.
        stride: Frames from the first one of a window to that of the next.
        last: What becomes of the last frames.

    Returns:
        ``window`` frames, of which some may lie beyond the video and are to be filled; none where all frames are in
        full windows, in the gaps between them, or dropped.
    """
    num_full = max(0, (num_frames - window) // stride + 1)
    start = num_full * stride
    end_of_full = start - stride + window if num_full else 0
    if last == "drop" or max(start, end_of_full) >= num_frames:
        return range(0)
    if last == "shift":
        start = max(0, num_frames - window)
    return range(start, start + window)


def between(places: Sequence[Window[T]], *, stride: int, num_frames: int) -> int:
    """Count the frames that lie between windows, which a stride longer than a window leaves out.

    Args:
        places: The windows of a video, in order; their frames are not needed.
        stride: As for :func:`rest`.
        num_frames: As for :func:`rest`.
    """
    if not places:
        return 0
    starts = [*(place.start_frame for place in places), min(num_frames, places[-1].start_frame + stride)]
    return sum(max(0, start - place.end_frame) for place, start in zip(places, starts[1:], strict=True))


def slide(frames: Iterable[T], *, window: int, stride: int, last: Last) -> Iterator[Window[T]]:
    """Cut a video into windows while it is read.

    At most two windows of frames are kept: the latest ones, and for ``loop`` the first ones.

    Args:
        frames: In order; any kind of thing.
        window: As for :func:`rest`.
        stride: As for :func:`rest`.
        last: As for :func:`rest`.

    Yields:
        The windows in order, each as soon as its frames are there.

    Raises:
        InputError: A number is out of range.
    """
    check(window=window, stride=stride, last=last)
    latest: deque[T] = deque(maxlen=window)
    first: list[T] = []
    num_frames = 0
    for num_frames, frame in enumerate(frames, 1):
        latest.append(frame)
        if last == "loop" and num_frames <= window:
            first.append(frame)
        start = num_frames - window
        if start >= 0 and start % stride == 0:
            yield Window(frames=tuple(latest), start_frame=start, end_frame=num_frames)
    wanted = rest(num_frames, window=window, stride=stride, last=last)
    if wanted:
        own = tuple(latest)[wanted.start - num_frames :]
        beyond = max(0, wanted.stop - num_frames)
        fill = [first[index % num_frames] for index in range(beyond)] if last == "loop" else [latest[-1]] * beyond
        yield Window(frames=(*own, *fill), start_frame=wanted.start, end_frame=min(wanted.stop, num_frames))
