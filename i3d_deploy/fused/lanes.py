"""Frames on their way to a network, and logits on their way back.

Note [Two lanes]
    While a GPU computes one batch, the next one is copied to it. So there are two lanes, each with memory of its own on
    both sides; copies go through page-locked memory, in which a GPU reads by itself, on a stream of their own. Events
    order the streams: pixels are read once they are copied, and a lane's memory is overwritten once it has been read.

Note [Chunks]
    Computing begins before all views of a batch are there: the early parts of the network run chunk by chunk, each when
    its pixels are, and the late parts over the maps of all of them. So where copying is no slower than computing, only
    the copy of the first chunk is waited for. Each chunk, and the late parts, are recorded once for their places in
    memory.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i3d_deploy.frames import Resized
from i3d_deploy.fused.graphs import Recorded, exact_sums, on
from i3d_deploy.fused.stacking import Source

_COPIERS = 4
_COPIED_AT_ONCE = 1 << 20
"""Elements: few enough that all threads have some of a chunk."""


class Network(Protocol):
    """A network in the way in which some number of views is run: Note [Chunks]."""

    @property
    def chunk(self) -> int:
        """Views that go through the early parts at a time."""

    def early(self, source: Source, out: Tensor | None) -> Tensor:
        """Maps (N, T, H, W, C) of some views, written into ``out`` where that is given."""

    def late(self, maps: Tensor) -> Tensor:
        """Logits (N, K) of the maps of all views."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """What is copied at a time.

    Attributes:
        arrays: Contiguous; they lie one after the other on the device, after those of the piece before.
        views: How many views are complete with it, of the first ones.
    """

    arrays: Sequence[Resized]
    views: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Upload:
    """What is copied to the device for some views.

    Attributes:
        pieces: In order.
        origins: (N, T) int64, where each view's crop of each frame begins, in elements.
        pitch: Elements from one row of a frame to the next.
    """

    pieces: Sequence[Piece]
    origins: NDArray[np.int64]
    pitch: int

    @property
    def elements(self) -> int:
        """Of all arrays."""
        return sum(array.size for piece in self.pieces for array in piece.arrays)


class Lane:
    """Memory that views are read from: Note [Two lanes]. This one is a CPU's, whose memory is the caller's.

    Args:
        size: (H, W) of a crop.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size

    def start(self, upload: Upload, network: Network) -> Pending:
        """Copy, and compute.

        Args:
            upload: The views.
            network: Computes their logits.
        """
        arrays = [array.reshape(-1) for piece in upload.pieces for array in piece.arrays]
        source = Source(
            pixels=torch.from_numpy(np.concatenate(arrays)),
            origins=torch.from_numpy(upload.origins),
            pitch=torch.tensor([upload.pitch]),
            size=self._size,
        )
        maps = [network.early(source.of(some), None) for some in _chunks(len(upload.origins), network.chunk)]
        return Pending(network.late(torch.cat(maps)))

    def fill(self, upload: Upload) -> None:
        """Copy, and wait until it is there."""


class Pending:
    """Logits that are being computed."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    def wait(self) -> NDArray[np.float32]:
        """(N, K), owned by the caller."""
        return np.array(self._logits.numpy(), np.float32)


class CudaLane(Lane):
    """Memory on a GPU and page-locked memory beside it: Note [Two lanes].

    Args:
        size: (H, W) of a crop.
        device: The GPU.
        dtype: Of pixels.
        streams: Of copies and of computing, which all lanes share.
        is_recorded: Whether the network is recorded, once for each number of views.
    """

    def __init__(
        self,
        size: tuple[int, int],
        *,
        device: torch.device,
        dtype: torch.dtype,
        streams: Streams,
        is_recorded: bool,
    ) -> None:
        super().__init__(size)
        self._device, self._dtype, self._is_recorded = device, dtype, is_recorded
        self._streams = streams
        # Streams are handed out in turn and come back: of another priority, it is never one that ways are tried on.
        self._own_stream: Any = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
        self._copied, self._read = streams.event(), streams.event()
        self._recorded: dict[tuple[int, int], _RecordedNetwork] = {}
        self._source: Source
        self._host_pixels: Tensor
        self._allocate(elements=0, places=0)

    def start(self, upload: Upload, network: Network) -> Pending:
        """As of :class:`Lane`; returns before it is done."""
        self._begin(upload)
        compute = self._streams.compute
        with torch.cuda.device(self._device), torch.cuda.stream(compute):
            compute.wait_event(self._copied)  # where to read is there, also for what is recorded now
            run = self._run_of(upload.origins.shape, network)
            waiting = [*_chunks(len(upload.origins), network.chunk)]
            for piece in self._copied_pieces(upload):
                compute.wait_event(self._copied)
                while waiting and waiting[0].stop <= piece.views:
                    run.early(waiting.pop(0))
            self._read.record(compute)
            result = run.late()
            logits = torch.empty(result.shape, dtype=torch.float32, pin_memory=True)
            logits.copy_(result, non_blocking=True)
            done = self._streams.event()
            done.record(compute)
        return CudaPending(logits, done)

    def fill(self, upload: Upload) -> None:
        """As of :class:`Lane`."""
        self._begin(upload)
        for _ in self._copied_pieces(upload):
            pass
        self._copied.synchronize()

    def _run_of(self, shape: tuple[int, ...], network: Network) -> _RunNetwork | _RecordedNetwork:
        views, length = shape
        source = replace(self._source, origins=self._source.origins[: views * length].view(views, length))
        if not self._is_recorded:
            return _RunNetwork(network, source, self._device)
        if (views, length) not in self._recorded:
            try:
                # Whatever pixels are in memory now serve as well.
                recorded = _RecordedNetwork(network, source, stream=self._own_stream, pool=self._pool)
            except BaseException:
                self._recorded.clear()  # which share memory with what was recorded in part
                raise
            self._recorded[views, length] = recorded
        return self._recorded[views, length]

    def _begin(self, upload: Upload) -> None:
        """Make room, once what the lane copied and read last has been."""
        self._copied.synchronize()
        self._reserve(elements=upload.elements, places=upload.origins.size)
        self._host_places[: upload.origins.size].copy_(torch.from_numpy(upload.origins).flatten())
        self._host_pitch[0] = upload.pitch
        with torch.cuda.device(self._device), torch.cuda.stream(self._streams.copies):
            self._streams.copies.wait_event(self._read)
            self._source.origins.copy_(self._host_places, non_blocking=True)
            self._source.pitch.copy_(self._host_pitch, non_blocking=True)
            self._copied.record(self._streams.copies)

    def _copied_pieces(self, upload: Upload) -> Iterator[Piece]:
        """Each piece, when its copy was started; the event of copying is that of the last one."""
        filled = 0
        for piece in upload.pieces:
            pixels = self._staged(piece.arrays, at=filled)
            with torch.cuda.device(self._device), torch.cuda.stream(self._streams.copies):
                self._source.pixels[filled : filled + len(pixels)].copy_(pixels, non_blocking=True)
                self._copied.record(self._streams.copies)
            filled += len(pixels)
            yield piece

    def _staged(self, arrays: Sequence[Resized], *, at: int) -> Tensor:
        """The arrays in page-locked memory: one that lies there already as it is."""
        if len(arrays) == 1 and arrays[0].flags.writeable:
            given = torch.from_numpy(arrays[0]).flatten()
            if given.is_pinned():
                return given
        if len(self._host_pixels) < len(self._source.pixels):
            self._host_pixels = torch.empty(len(self._source.pixels), dtype=self._dtype, pin_memory=True)
        size = sum(array.size for array in arrays)
        copy_side_by_side(arrays, self._host_pixels.numpy()[at : at + size])
        return self._host_pixels[at : at + size]

    def _reserve(self, *, elements: int, places: int) -> None:
        """Make memory, larger than any before; what was recorded reads the old one and is recorded again."""
        now = len(self._source.pixels), len(self._source.origins)
        if elements <= now[0] and places <= now[1]:
            return
        self._streams.copies.synchronize()
        self._streams.compute.synchronize()
        self._allocate(elements=0, places=0)  # both at once may be too much
        # A little more, for the next video that has a little more.
        elements, places = (max(wanted * 5 // 4, had) for wanted, had in zip((elements, places), now, strict=True))
        self._allocate(elements=elements, places=places)

    def _allocate(self, *, elements: int, places: int) -> None:
        self._recorded.clear()
        # Of what is recorded: it runs in turn, so one may use what another has used.
        self._pool = torch.cuda.graph_pool_handle()
        source = Source(
            pixels=torch.empty(elements, dtype=self._dtype, device=self._device),
            origins=torch.empty(places, dtype=torch.int64, device=self._device),
            pitch=torch.empty(1, dtype=torch.int64, device=self._device),
            size=self._size,
        )
        for stream in (self._streams.copies, self._streams.compute):
            # The memory may be that of a tensor which what was started before still reads.
            stream.wait_stream(torch.cuda.current_stream(self._device))
        self._host_pixels = torch.empty(0, dtype=self._dtype)
        self._host_places = torch.zeros(places, dtype=torch.int64, pin_memory=True)
        self._host_pitch = torch.zeros(1, dtype=torch.int64, pin_memory=True)
        self._source = source


def copy_side_by_side(arrays: Sequence[Resized], target: Resized) -> None:
    """Copy arrays one after the other into memory, in several threads.

    Args:
        arrays: Of one type, each contiguous.
        target: Flat, with room for all of them.
    """
    jobs = []
    filled = 0
    for array in arrays:
        flat = array.reshape(-1)
        for start in range(0, array.size, _COPIED_AT_ONCE):
            part = flat[start : start + _COPIED_AT_ONCE]
            jobs.append((target[filled : filled + part.size], part))
            filled += part.size
    if len(jobs) == 1:
        np.copyto(*jobs[0])
        return
    for _ in _copiers().map(lambda job: np.copyto(*job), jobs):
        pass


@functools.cache
def _copiers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_COPIERS, thread_name_prefix="i3d-copier")


class _RunNetwork:
    """A network on the views of a lane, started step by step."""

    def __init__(self, network: Network, source: Source, device: torch.device) -> None:
        self._network, self._source, self._device = network, source, device
        self._maps: list[Tensor] = []

    def early(self, some: slice) -> None:
        with on(self._device):
            self._maps.append(self._network.early(self._source.of(some), None))

    def late(self) -> Tensor:
        with on(self._device):
            return self._network.late(torch.cat(self._maps))


class _RecordedNetwork:
    """The same, recorded: Note [Chunks]."""

    def __init__(self, network: Network, source: Source, *, stream: torch.cuda.Stream, pool: Any) -> None:
        chunks = [*_chunks(len(source.origins), network.chunk)]
        with exact_sums(chooses=True):
            first = network.early(source.of(chunks[0]), None)
        self._maps = first.new_empty((len(source.origins), *first.shape[1:]))
        self._early = {
            some.start: Recorded(partial(network.early, source.of(some), self._maps[some]), stream=stream, pool=pool)
            for some in chunks
        }
        self._late = Recorded(partial(network.late, self._maps), stream=stream, pool=pool)

    def early(self, some: slice) -> None:
        self._early[some.start].start()

    def late(self) -> Tensor:
        self._late.start()
        return self._late.result


def _chunks(views: int, size: int) -> Iterator[slice]:
    for start in range(0, views, size):
        yield slice(start, min(start + size, views))


class CudaPending(Pending):
    """Logits that a GPU is computing."""

    def __init__(self, logits: Tensor, done: torch.cuda.Event) -> None:
        super().__init__(logits)
        self._done = done

    def wait(self) -> NDArray[np.float32]:
        """As of :class:`Pending`."""
        self._done.synchronize()
        return super().wait()


class Streams:
    """A stream for copies and one for computing."""

    def __init__(self, device: torch.device) -> None:
        self.copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.compute = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def event(self) -> torch.cuda.Event:
        """Something to wait for, that has happened until it is recorded."""
        return torch.cuda.Event()  # type: ignore[no-untyped-call]
