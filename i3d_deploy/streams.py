"""Predictions of a stream: one thread reads it, the caller's computes, and what is too much is left out.

Note [Lag]
    A window is predicted as soon as its frames are there. While one is computed, the next one waits, and when another
    is complete before it is taken, it is dropped: the prediction that is made is always of the newest window. So the
    lag is at most one computation longer than the time between windows, however slow the network, and the memory is
    that of three windows.

Note [What windows share]
    A frame is resized once, when it is known to be in a window, and kept resized. Logits are not kept: clips of two
    windows have the same frames only where their distances happen to agree.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from i3d_deploy import resizing, stream_sources, stream_warnings, video, video_files, views
from i3d_deploy.card import Card
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.frames import Frame, Resized
from i3d_deploy.stream_sources import Arrival, Manner, OpenStream, StreamSource, TimedFrame
from i3d_deploy.stream_warnings import Breaks
from i3d_deploy.stream_windows import Cadence, Newest, Ring, StreamWindow
from i3d_deploy.views import Views

P = TypeVar("P")

RECONNECTS = 10
"""Attempts in a row to connect again: with their delays, two and a half minutes."""

MAX_SECONDS = 1e6
"""The longest time that a window, or the distance of two, can be said to have: eleven days."""

_THREAD_NAME = "i3d-stream"

_TELLING_GAPS = 10
"""So often counting has begun anew before a window was full, that it is told."""

_SHORTER = ": give shorter windows (window_seconds), or predict a file as a whole"


def nobody(_: str) -> None:
    """Hear a notice and do nothing."""


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """What is predicted of a stream.

    Attributes:
        window_seconds: Duration of a window; None: what a clip of the card spans.
        every_seconds: From the beginning of a window to that of the next one; None: one after the other.
        clips: Clips of a window.
        crops: Crops of a clip: 1 or 3.
        frames_per_second: Rate that frames are counted at, for a card without one; None: the source's.
        drop: Whether windows are left out that come too fast, and files are read at their own pace.
        min_decoded_share: A damaged file needs at least this share of the frames that its container promises.
        reconnects: Attempts in a row to connect again.
        on_notice: Told in a line what happens to the stream, in another thread.
    """

    window_seconds: float | None = None
    every_seconds: float | None = None
    clips: int = 1
    crops: int = 1
    frames_per_second: float | None = None
    drop: bool = True
    min_decoded_share: float = video.MIN_DECODED_SHARE
    reconnects: int = RECONNECTS
    on_notice: Callable[[str], None] = nobody

    def __post_init__(self) -> None:
        for name, highest in (
            ("window_seconds", MAX_SECONDS),
            ("every_seconds", MAX_SECONDS),
            ("frames_per_second", video_files.MAX_FRAMES_PER_SECOND),
        ):
            value = getattr(self, name)
            if value is not None and not 0 < value <= highest:
                raise InputError(f"{name} ({value:g}) must be > 0 and <= {highest:g}")
        if self.reconnects < 0:
            raise InputError(f"reconnects ({self.reconnects}) must be >= 0")

    def check(self, card: Card) -> None:
        """Refuse what does not go with a card.

        Raises:
            InputError: Its network takes optical flow, its frames have another rate, or the clips or crops do not fit
                it.
        """
        if card.modality != "rgb":
            raise InputError(
                f"this is a network of {card.modality}, and the flow of a stream is not computed: "
                "give a network of RGB frames"
            )
        rate = card.sampling.frames_per_second
        if None not in (rate, self.frames_per_second) and rate != self.frames_per_second:
            raise InputError(
                f"frames_per_second ({self.frames_per_second:g}) is for cards without a rate: "
                f"this one counts {rate:g} frames a second"
            )
        views.check_clips(self.clips)
        card.sampling.frame_indices(card.sampling.window_frames, num_clips=self.clips)
        card.spatial.check_crops(self.crops)

    def cadence(self, card: Card, *, source_rate: float | None, source: str) -> Cadence:
        """How windows follow each other.

        Args:
            card: Of the network.
            source_rate: Frames per second as the source says; None where it does not.
            source: What it is called.

        Raises:
            InputError: There is no rate, or a number is out of range.
            VideoError: Windows are too long for the network.
        """
        rate = card.sampling.frames_per_second or self.frames_per_second or source_rate
        if rate is None:
            raise InputError(
                f"{source} does not say its rate, and the card counts at none: "
                "give frames_per_second (--frames-per-second), such as 25"
            )
        frames = card.sampling.window_frames
        if self.window_seconds is not None:
            frames = int(self.window_seconds * rate + 0.5)
        every = frames / rate if self.every_seconds is None else self.every_seconds
        cadence = Cadence(frames_per_second=rate, window_frames=frames, every_seconds=every)
        card.sampling.frame_indices(frames, num_clips=self.clips)
        return cadence


@dataclass(frozen=True, kw_only=True)
class WindowPrediction(Generic[P]):
    """What a network says about one window of a stream.

    Attributes:
        prediction: As of a video that has the frames of the window and no others; its warnings say as well where frames
            came too seldom, and which pause longer than a window, lost connection or change of size lay between the
            window and the one before: :mod:`i3d_deploy.stream_warnings`.
        start_seconds: Beginning of the window, from the first frame of the stream on; of frames that the caller gives,
            in the caller's times.
        end_seconds: Its end: where its last frame gives way to the next.
        lag_seconds: From the coming of the frame with which the window was complete, its last one or the next, to the
            prediction; of a file at its own pace, from when that frame was due.
        dropped_windows: Windows of the stream that were left out so far because others were being computed.
        dropped_frames: Frames, at the rate that they are counted at, that were in such windows only.
        reconnects: How often the connection was made again so far.
    """

    prediction: P
    start_seconds: float
    end_seconds: float
    lag_seconds: float
    dropped_windows: int
    dropped_frames: int
    reconnects: int


def predictions(
    source: StreamSource, card: Card, settings: StreamSettings, *, predict: Callable[[Views], P]
) -> Generator[WindowPrediction[P], None, None]:
    """Predict the windows of a stream as they come.

    Args:
        source: Where the frames come from.
        card: What is done to them.
        settings: What is predicted.
        predict: Computes the views of a window, in the caller's thread.

    Yields:
        A prediction for each window that is not dropped, in order. When the iterator has ended or is closed, the thread
        that reads has ended too; closing waits for the frame that is being read, of an address for at most
        :data:`i3d_deploy.stream_sources.TIMEOUT_SECONDS`.

    Raises:
        VideoError: The source cannot be opened, is lost, or ends before a window is full.
        InputError: The source has no rate, or frames of it are none.
    """
    reader = _Reader(source, card, settings)
    cut = partial(
        views.of_resized, sampling=card.sampling, spatial=card.spatial, clips=settings.clips, crops=settings.crops
    )
    reader.start()
    try:
        while (taken := reader.take()) is not None:
            prepared = cut(taken.window.frames)
            of_window = stream_warnings.of_window(taken.window, prepared.by_index)
            warnings = (*prepared.warnings, *of_window, *taken.breaks.lines())
            prediction = predict(dataclasses.replace(prepared, warnings=warnings))
            yield WindowPrediction(
                prediction=prediction,
                start_seconds=taken.window.start_seconds,
                end_seconds=taken.window.end_seconds,
                lag_seconds=time.monotonic() - taken.came_at,
                dropped_windows=taken.dropped_windows,
                dropped_frames=taken.dropped_frames,
                reconnects=taken.reconnects,
            )
            del taken, prepared
    finally:
        reader.stop()


@dataclass(frozen=True, kw_only=True)
class _Taken:
    """A window that is to be predicted, and what happened until it was taken."""

    window: StreamWindow[Resized]
    breaks: Breaks
    came_at: float
    dropped_windows: int
    dropped_frames: int
    reconnects: int


class _Reader:
    """The thread that reads a stream and cuts it into windows.

    It ends with the process, also where the iterator of predictions is kept and never closed.
    """

    def __init__(self, source: StreamSource, card: Card, settings: StreamSettings) -> None:
        self._source = source
        self._card = card
        self._settings = settings
        self._changed = threading.Condition()
        self._newest: Newest[Resized] = Newest()
        self._breaks = Breaks()  # before the window that waits
        self._came_at = 0.0
        self._reconnects = 0
        self._num_windows = 0
        self._error: BaseException | None = None
        self._has_ended = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=_THREAD_NAME, daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait until it has."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not threading.current_thread():  # where the garbage collector closes an iterator
            self._thread.join()

    def take(self) -> _Taken | None:
        """Wait for a window; None at the end of the stream. Raises what ended it."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest.waiting is not None or self._has_ended)
            window, breaks = self._newest.take(), self._breaks
            self._breaks = Breaks()
            self._changed.notify_all()
            if window is None:
                if self._error is not None:
                    raise self._error
                return None
            return _Taken(
                window=window,
                breaks=breaks,
                came_at=self._came_at,
                dropped_windows=self._newest.dropped_windows,
                dropped_frames=self._newest.dropped_frames,
                reconnects=self._reconnects,
            )

    def _run(self) -> None:
        settings = self._settings
        manner = Manner(
            is_paced=settings.drop,
            reconnects=settings.reconnects,
            on_notice=settings.on_notice,
            min_decoded_share=settings.min_decoded_share,
        )
        error: BaseException | None = None
        try:
            with stream_sources.opened(self._source, manner, self._stopped) as stream:
                self._read(stream)
        except BaseException as raised:
            error = raised
        with self._changed:
            self._error, self._has_ended = error, True
            self._changed.notify_all()

    def _read(self, stream: OpenStream) -> None:
        source, rate = stream_sources.name(self._source), stream.frames_per_second
        cadence = self._settings.cadence(self._card, source_rate=rate, source=source)
        ring: Ring[Frame, Resized] = Ring(cadence, keep=partial(resizing.by_card, spatial=self._card.spatial))
        breaks = Breaks()  # before the window that is being filled
        latest: TimedFrame | None = None
        arrival: Arrival | None = None
        for arrival in stream.arrivals:
            timed = arrival.timed
            if latest is not None:
                found = _between(latest, arrival, cadence)
                breaks = breaks.followed_by(found)
                if found.is_lost or found.sizes is not None:
                    ring.restart()
            self._reconnects, latest = stream.reconnects, timed
            gaps = ring.gaps
            windows = ring.add(timed.frame, seconds=timed.seconds)
            breaks = self._hand_over(windows, came_at=arrival.came_at, breaks=breaks)
            if self._stopped.is_set():
                return
            if self._num_windows == 0 and gaps < ring.gaps == _TELLING_GAPS:
                self._settings.on_notice(f"{source}: no window was full yet{_about_gaps(ring, cadence)}")
        if arrival is not None and rate is not None:
            self._hand_over(ring.end(frame_seconds=1 / rate), came_at=arrival.came_at, breaks=breaks)
        if self._num_windows == 0 and not self._stopped.is_set():
            why = _about_gaps(ring, cadence) or _about_sizes(breaks) or _SHORTER
            raise VideoError(f"{source} ended before a window of {cadence.window_seconds:.3g} s was full{why}")

    def _hand_over(self, windows: list[StreamWindow[Resized]], *, came_at: float, breaks: Breaks) -> Breaks:
        """Let windows wait, the first one with the breaks before it; returns those that are still to be told."""
        for window in windows:
            with self._changed:
                if not self._settings.drop:
                    self._changed.wait_for(lambda: self._newest.waiting is None or self._stopped.is_set())
                self._newest.put(window)
                self._breaks = self._breaks.followed_by(breaks)
                self._came_at = came_at
                self._num_windows += 1
                self._changed.notify_all()
            breaks = Breaks()
        return breaks


def _between(before: TimedFrame, arrival: Arrival, cadence: Cadence) -> Breaks:
    """What lies between a frame and the one that has come."""
    pause_seconds = arrival.timed.seconds - before.seconds
    sizes = _size(before.frame), _size(arrival.timed.frame)
    return Breaks(
        pause_seconds=0.0 if cadence.spans(pause_seconds) else pause_seconds,
        is_lost=arrival.is_after_gap,
        sizes=None if sizes[0] == sizes[1] else sizes,
    )


def _size(frame: Frame) -> str:
    height, width, _ = frame.shape
    return f"{width}x{height}"


def _about_gaps(ring: Ring[Frame, Resized], cadence: Cadence) -> str:
    """Why windows may not become full; empty where there was no gap."""
    if ring.gaps == 0:
        return ""
    return (
        f": its frames are up to {ring.widest_gap_seconds:.3g} s apart, and no window spans a gap longer than itself, "
        f"{cadence.window_seconds:.3g} s: give longer windows (window_seconds), and times in seconds"
    )


def _about_sizes(breaks: Breaks) -> str:
    """The same of sizes that changed."""
    if breaks.sizes is None:
        return ""
    return f": its frames changed from {breaks.sizes[0]} to {breaks.sizes[1]}, and no window spans a change of size"
