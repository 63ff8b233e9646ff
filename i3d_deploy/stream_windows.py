"""Which frames of a stream make which window, from times alone; and which windows are left out when there are too many.

Note [Frames at a rate by their times]
    Frames are counted at a rate, from the first one on: moment k is k / rate seconds after it, and shows the frame that
    is nearest in time, of two the later one. Of a source at a steady rate these are the frames that
    :func:`i3d_deploy.sampling.frames_at_rate` chooses. A moment is settled when a frame of its own time or a later one
    has come. Where none comes for longer than a window, counting begins anew with the next frame: a window spans no
    such gap.

Note [Windows in time]
    Window n begins with the frame nearest to ``n * every_seconds``, so that rounding does not add up, and has always
    the same number of frames. Where counting begins anew, window 0 begins with the first frame that is
    ``every_seconds`` or more after the beginning of the latest whole window: gaps make no more windows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from i3d_deploy.errors import InputError

T = TypeVar("T")
K = TypeVar("K")

MAX_WINDOW_FRAMES = 3000
"""Of a window, which are all in memory: two minutes at 25 frames a second, of 340x256 pixels 750 MiB."""

_SAME_TIME_SECONDS = 1e-6
"""Times are sums of fractions: so close together, they are the same."""


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """How windows follow each other.

    Attributes:
        frames_per_second: Rate that frames are counted at.
        window_frames: Frames of a window.
        every_seconds: From the beginning of a window to that of the next one.
    """

    frames_per_second: float
    window_frames: int
    every_seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.frames_per_second < math.inf:
            raise InputError(f"frames_per_second ({self.frames_per_second}) must be > 0")
        if not 1 <= self.window_frames <= MAX_WINDOW_FRAMES:
            raise InputError(
                f"a window of {self.window_frames} frames ({self.frames_per_second:g} a second): "
                f"it must have from 1 to {MAX_WINDOW_FRAMES}, all of which are kept in memory"
            )
        if not self.every_seconds * self.frames_per_second >= 1 - _SAME_TIME_SECONDS:
            raise InputError(
                f"every_seconds ({self.every_seconds:g}) must be at least the time of a frame, "
                f"{1 / self.frames_per_second:g} s at {self.frames_per_second:g} a second"
            )

    @property
    def window_seconds(self) -> float:
        """Duration of a window."""
        return self.window_frames / self.frames_per_second

    def spans(self, gap_seconds: float) -> bool:
        """Whether a window spans so long a time without a frame: Note [Frames at a rate by their times]."""
        return gap_seconds <= self.window_seconds + _SAME_TIME_SECONDS

    def first_frame(self, number: int) -> int:
        """The first frame of a window: Note [Windows in time]."""
        return math.floor(number * max(1.0, self.every_seconds * self.frames_per_second) + 0.5)


@dataclass(frozen=True, kw_only=True)
class StreamWindow(Generic[K]):
    """One window of a stream.

    Attributes:
        frames: As many as a window has, at the rate that frames are counted at.
        shown_seconds: The time of each of them in the stream: of a frame that is repeated, each time the same.
        start_frame: The first of them, by its number in the stream.
        start_seconds: Its time.
        end_seconds: When the last one ends.
    """

    frames: tuple[K, ...]
    shown_seconds: tuple[float, ...]
    start_frame: int
    start_seconds: float
    end_seconds: float

    @property
    def end_frame(self) -> int:
        """The frame after the last one."""
        return self.start_frame + len(self.frames)


class Ring(Generic[T, K]):
    """The latest frames at a rate, cut into windows: Note [Frames at a rate by their times].

    Args:
        cadence: How windows follow each other.
        keep: What is done to a frame that is in a window, once, before it is kept.

    Attributes:
        gaps: Times that no frame came for longer than a window.
        widest_gap_seconds: The longest of them.
    """

    def __init__(self, cadence: Cadence, *, keep: Callable[[T], K]) -> None:
        self._cadence = cadence
        self._keep = keep
        self._frames: deque[K] = deque(maxlen=cadence.window_frames)
        self._shown_seconds: deque[float] = deque(maxlen=cadence.window_frames)
        self._latest: _Latest[T, K] | None = None
        self._origin_seconds = 0.0
        self._origin_frame = 0
        self._first_start = 0
        self._next_start_seconds = -math.inf
        self._num_frames = 0
        self._num_windows = 0
        self.gaps = 0
        self.widest_gap_seconds = 0.0

    def add(self, item: T, *, seconds: float) -> list[StreamWindow[K]]:
        """Take a frame.

        Args:
            item: The frame.
            seconds: Its time in the stream.

        Returns:
            The windows that are complete with it.

        Raises:
            InputError: It is not later than the one before.
        """
        before = self._latest
        if before is not None and not seconds > before.seconds:
            raise InputError(f"a frame of {seconds:g} s follows one of {before.seconds:g} s: times must ascend")
        if before is not None and not self._cadence.spans(seconds - before.seconds):
            self.gaps += 1
            self.widest_gap_seconds = max(self.widest_gap_seconds, seconds - before.seconds)
            self.restart()
            before = None
        windows: list[StreamWindow[K]] = []
        if before is None:
            self._begin(seconds)
        else:
            windows += self._fill(before, until=(before.seconds + seconds) / 2 - _SAME_TIME_SECONDS)
        self._latest = _Latest(item=item, seconds=seconds)
        return [*windows, *self._fill(self._latest, until=seconds + _SAME_TIME_SECONDS)]

    def end(self, *, frame_seconds: float) -> list[StreamWindow[K]]:
        """Learn that no frame follows.

        Args:
            frame_seconds: How long the last one lasts.

        Returns:
            The windows that are complete with that.
        """
        if self._latest is None:
            return []
        end = self._latest.seconds + frame_seconds - 0.5 / self._cadence.frames_per_second
        return list(self._fill(self._latest, until=end + _SAME_TIME_SECONDS))

    def restart(self) -> None:
        """Begin anew with the next frame; numbers of frames go on."""
        self._frames.clear()
        self._shown_seconds.clear()
        self._latest = None
        self._num_windows = 0

    def _begin(self, seconds: float) -> None:
        """Count from a frame on: Note [Windows in time]."""
        self._origin_seconds, self._origin_frame = seconds, self._num_frames
        wait_seconds = max(0.0, self._next_start_seconds - seconds - _SAME_TIME_SECONDS)
        if wait_seconds > self._cadence.every_seconds:
            wait_seconds = 0.0  # times went back: the latest window is in another time
        self._first_start = self._num_frames + math.ceil(wait_seconds * self._cadence.frames_per_second)

    def _seconds(self, frame: int) -> float:
        return self._origin_seconds + (frame - self._origin_frame) / self._cadence.frames_per_second

    def _fill(self, latest: _Latest[T, K], *, until: float) -> Iterator[StreamWindow[K]]:
        """Show a frame at all moments that are not settled, to a time."""
        while self._seconds(self._num_frames) <= until:
            start = self._first_start + self._cadence.first_frame(self._num_windows)
            if self._num_frames >= start:
                self._frames.append(latest.kept(self._keep))
                self._shown_seconds.append(latest.seconds)
            self._num_frames += 1
            if self._num_frames >= start + self._cadence.window_frames:
                self._num_windows += 1
                self._next_start_seconds = self._seconds(start) + self._cadence.every_seconds
                yield StreamWindow(
                    frames=tuple(self._frames),
                    shown_seconds=tuple(self._shown_seconds),
                    start_frame=start,
                    start_seconds=self._seconds(start),
                    end_seconds=self._seconds(self._num_frames),
                )


class _Latest(Generic[T, K]):
    """A frame that may be shown at several moments, or at none."""

    def __init__(self, *, item: T, seconds: float) -> None:
        self.seconds = seconds
        self._item = item
        self._kept: K | None = None

    def kept(self, keep: Callable[[T], K]) -> K:
        if self._kept is None:
            self._kept = keep(self._item)
        return self._kept


class Newest(Generic[K]):
    """Room for one window that waits to be predicted: an older one is dropped for a newer one, and counted.

    Attributes:
        waiting: The window.
        dropped_windows: Windows that were never taken.
        dropped_frames: Frames that were in such windows only.
    """

    def __init__(self) -> None:
        self.waiting: StreamWindow[K] | None = None
        self.dropped_windows = 0
        self.dropped_frames = 0
        self._settled = 0

    def put(self, window: StreamWindow[K]) -> None:
        """Let a window wait, later than all before."""
        dropped, self.waiting = self.waiting, window
        if dropped is None:
            return
        self.dropped_windows += 1
        # Later windows begin no earlier than this one: frames before it are not seen any more.
        lost = range(max(dropped.start_frame, self._settled), min(dropped.end_frame, window.start_frame))
        self.dropped_frames += len(lost)
        self._settled = max(self._settled, lost.stop)

    def take(self) -> StreamWindow[K] | None:
        """Give the window that waits, if there is one."""
        window, self.waiting = self.waiting, None
        if window is not None:
            self._settled = window.end_frame
        return window
