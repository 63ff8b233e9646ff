"""Views of a video that is still being decoded: a thread decodes, the caller computes what is ready.

The frames of the first clips follow from the container's count, so that their views can be cut while the rest of the
file is decoded. Where the count proves wrong, all that was handed over is void and another attempt starts with the
right frames: the answer is that of a video which was decoded first.

Note [Memory]
    Of a video its unique resized frames are kept, however long it is. At most one video is read ahead of the one that
    is computed, so that a stream of videos keeps the frames of two.

Note [Threads]
    The decoder keeps a thread per core, and OpenCV its own, also while an engine runs on the same cores: they sleep
    when they have nothing to do. On two cores that compute in int8 with OpenVINO, overlapping is 1.01 times as fast as
    one after the other, since both ways keep the cores at work; with one thread for the decoder and one for OpenCV
    1.03. Where the engine leaves the cores alone, as a GPU does, decoding is what a stream waits for: with 5 ms a view
    1.49 times, and 1.51 with one thread each; a thread per core is the one that more cores make faster
    (bench/overlap.py; bench/records/2026-11-25_overlap_int8_2_cores.json and 2026-11-25_overlap_waiting_2_cores.json).
    OpenCV's number of threads is one setting for the whole process, the caller's to choose.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from i3d_deploy import awaiting, video, views
from i3d_deploy.errors import VideoError
from i3d_deploy.flow_frames import FlowWanted
from i3d_deploy.frames import Resized, Watcher
from i3d_deploy.images import FrameFolder
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.sampling import Indices
from i3d_deploy.video import Source, TimedFrames
from i3d_deploy.views import Part, Views

_THREAD_NAME = "i3d-decode"
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """How views are cut from videos.

    Attributes:
        sampling: Which frames.
        spatial: Which pixels.
        flow: The optical flow that is wanted in place of the frames, or with them.
        clips: Another number of clips than that of ``sampling``.
        crops: Another number of crops than that of ``spatial``: 1 or 3.
        min_decoded_share: What a damaged stream must still give.
        decoder_threads: Threads that decode a file; None: one per core.
    """

    sampling: Sampling
    spatial: Spatial
    flow: FlowWanted | None = None
    clips: int | None = None
    crops: int | None = None
    min_decoded_share: float = video.MIN_DECODED_SHARE
    decoder_threads: int | None = None

    def cut(self, source: Source, *, watcher: Watcher | None = None) -> Views:
        """Read a video to its end; raises as :func:`i3d_deploy.views.cut`."""
        return views.cut(
            source,
            sampling=self.sampling,
            spatial=self.spatial,
            flow=self.flow,
            clips=self.clips,
            crops=self.crops,
            min_decoded_share=self.min_decoded_share,
            decoder_threads=self.decoder_threads,
            watcher=watcher,
        )


class _StoppedError(Exception):
    """The views are no longer wanted."""


class Reading:
    """A video that is read in one thread while another computes its views.

    Args:
        source: What :func:`i3d_deploy.video.collect` takes.
        cutting: How its views are cut.
        stopped: Set by whoever wants it to end; several readings may have one in common.
    """

    def __init__(self, source: Source, cutting: Cutting, *, stopped: threading.Event | None = None) -> None:
        self.source = source
        self._cutting = cutting
        self._changed = threading.Condition()
        self._attempt = 0
        self._indices: Indices = np.empty((0, 0), np.int64)
        self._plan: Views | None = None
        self._last_frame = -1
        self._final: Views | None = None
        self._error: BaseException | None = None
        self._stopped = stopped or threading.Event()

    def run(self) -> None:
        """Read to the end, in the thread that decodes. What goes wrong is raised in the one that computes."""
        try:
            self._check_wanted()
            final = self._cutting.cut(self.source, watcher=self)
        except BaseException as error:
            if isinstance(error, VideoError):
                # Outcomes are kept, and the frames on the stack would be kept with them.
                error = error.with_traceback(None)
            with self._changed:
                self._error, self._plan = error, None
                self._changed.notify_all()
            return
        with self._changed:
            self._final = self._plan = final
            self._changed.notify_all()

    def stop(self) -> None:
        """Have the thread that decodes end before its next frame, and the one that computes before its next part."""
        self._stopped.set()

    def planned(self, indices: Indices) -> None:
        """Begin an attempt, as :class:`i3d_deploy.frames.Watcher`."""
        with self._changed:
            self._attempt += 1
            self._indices, self._plan, self._last_frame = indices, None, -1

    def before_frame(self) -> None:
        """End the reading where it is no longer wanted."""
        self._check_wanted()

    def _check_wanted(self) -> None:
        if self._stopped.is_set():
            raise _StoppedError

    def decoded(self, index: int, frame: Resized) -> None:
        """Let the views of another frame be cut."""
        with self._changed:
            if self._last_frame < 0:
                boxes = self._cutting.spatial.boxes(*frame.shape[:2], num_crops=self._cutting.crops)
                self._plan = Views(indices=self._indices, boxes=boxes, by_index={}, num_frames=0)
                self._size = frame.shape
            if self._size != frame.shape:
                self._plan = None  # frames of several sizes are an error once all are counted
            if self._plan is not None:
                self._plan.by_index[index] = frame
            self._last_frame = index
            self._changed.notify_all()

    def parts(self, size: int) -> Iterator[Part]:
        """Give the views as soon as their frames are there: :meth:`i3d_deploy.views.Views.by_clip`.

        Args:
            size: Views per part; the last part of an attempt may be smaller.

        Yields:
            Parts of one attempt after the other; those of the last attempt are all views of the video.

        Raises:
            VideoError: No usable frame.
            InputError: The crops do not fit the frames.
        """
        attempt, left = 0, list[int]()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_ready(attempt, left[:size]))  # noqa: B023
                if self._error is not None:
                    raise self._error
                self._check_wanted()
                plan = self._plan
                assert plan is not None, "what is ready has a plan"
                if attempt != self._attempt:
                    attempt, left = self._attempt, plan.by_clip()
                    continue
            if not left:
                return
            numbers, left = left[:size], left[size:]
            yield Part(attempt=attempt, numbers=numbers, views=plan)

    def _is_ready(self, attempt: int, numbers: list[int]) -> bool:
        """Whether there is something new, or the frames of these views, or for none of them the end."""
        if self._error is not None or self._final is not None:
            return True
        if self._plan is None:
            return False
        if attempt != self._attempt:
            return True
        clips = [number % len(self._indices) for number in numbers]
        return bool(numbers) and int(self._indices[clips].max()) <= self._last_frame

    def views(self) -> Views:
        """Wait for the end, and give what was read; raises as :meth:`parts`."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._final is not None)
            if self._error is not None:
                raise self._error
            assert self._final is not None, "it ended without an error"
            return self._final


@contextmanager
def opened(source: Source, cutting: Cutting) -> Iterator[Reading]:
    """Read one video in a thread, which has ended when the ``with`` block has.

    An iterable of frames is read by the caller's thread: its frames must be counted before a view can be cut.

    Args:
        source: What :func:`i3d_deploy.video.collect` takes.
        cutting: How its views are cut.
    """
    reading = Reading(source, cutting)
    if not isinstance(source, (str, Path, FrameFolder, TimedFrames, np.ndarray)):
        reading.run()
        yield reading
        return
    thread = threading.Thread(target=reading.run, name=_THREAD_NAME)
    thread.start()
    try:
        yield reading
    finally:
        reading.stop()
        thread.join()


def one_ahead(sources: Iterable[Source], cutting: Cutting) -> Generator[Reading, None, None]:
    """Read videos in a thread, one at a time, the next one while the caller computes this one.

    The thread has ended when the iterator has, also when it is closed before its end: closing waits for the frame that
    is being read, of an iterable for its next one.

    Args:
        sources: Asked for the next one before this one is handed over, in the caller's thread. Iterables of frames are
            read in the other thread.
        cutting: How their views are cut.

    Yields:
        One reading for each source, in order.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix=_THREAD_NAME) as thread:
        started: list[Reading] = []
        try:
            for source in sources:
                started.append(Reading(source, cutting))
                thread.submit(started[-1].run)
                if len(started) > 1:
                    yield started[0]
                    del started[0]
            yield from started
        finally:
            for reading in started:
                reading.stop()


async def one_ahead_async(
    sources: Iterable[Source] | AsyncIterable[Source], cutting: Cutting, compute: Callable[[Reading], T]
) -> AsyncGenerator[T, None]:
    """Read and compute videos in two threads of their own, as with :func:`one_ahead`, beside asyncio's event loop.

    Both threads have ended when the iterator has, also when it is closed before its end or its task is cancelled: that
    waits for the frame being read and the part being computed, of an iterable for its next one.

    Args:
        sources: As for :func:`one_ahead`; a plain iterable is asked in the thread that computes.
        cutting: How their views are cut.
        compute: Called in a thread; what it raises ends the iterator.

    Yields:
        What ``compute`` makes of each, in order; no further one is begun before it is asked for.
    """
    loop, stopped = asyncio.get_running_loop(), threading.Event()
    with (
        ThreadPoolExecutor(max_workers=1, thread_name_prefix=_THREAD_NAME) as decoder,
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="i3d-compute") as computer,
    ):
        started: list[tuple[Reading, asyncio.Future[None]]] = []

        async def computed() -> T:
            result = await awaiting.run(computer, partial(compute, started[0][0]), stop=stopped.set)
            del started[0]
            return result

        try:
            async with aclosing(awaiting.each(sources, computer)) as each:
                async for source in each:
                    reading = Reading(source, cutting, stopped=stopped)
                    started.append((reading, loop.run_in_executor(decoder, reading.run)))
                    if len(started) > 1:
                        yield await computed()
            while started:
                yield await computed()
        finally:
            stopped.set()
            for _, reading_ended in started:
                await awaiting.until_done(reading_ended)
