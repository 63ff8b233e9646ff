"""Frames on their way to a network, and logits on their way back.

Note [Two lanes]
    While a GPU computes one batch, the next one is copied to it. So there are two lanes, each with memory of its own on
    both sides; copies go through page-locked memory, in which a GPU reads by itself, on a stream of their own. A lane's
    memory is written again when what was read from it has been read, which events tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from i3d_deploy.frames import Resized
from i3d_deploy.fused.graphs import Recorded, on
from i3d_deploy.fused.stacking import Source

Logits = Callable[[Source], Tensor]
"""Computes logits (N, K) of views."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Upload:
    """What is copied to the device for some views.

    Attributes:
        arrays: Contiguous, of one type; they lie one after the other there.
        origins: (N, T) int64, where each view's crop of each frame begins, in elements.
        pitch: Elements from one row of a frame to the next.
    """

    arrays: Sequence[Resized]
    origins: NDArray[np.int64]
    pitch: int

    @property
    def elements(self) -> int:
        """Of all arrays."""
        return sum(array.size for array in self.arrays)


class Lane:
    """Memory that views are read from: Note [Two lanes]. This one is a CPU's, whose memory is the caller's.

    Args:
        size: (H, W) of a crop.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size

    def start(self, upload: Upload, compute: Logits) -> Pending:
        """Copy, and compute.

        Args:
            upload: The views.
            compute: Computes their logits.
        """
        flat = torch.cat([torch.from_numpy(array.copy()).flatten() for array in upload.arrays])
        origins, pitch = torch.from_numpy(upload.origins), torch.tensor([upload.pitch])
        return Pending(compute(Source(pixels=flat, origins=origins, pitch=pitch, size=self._size)))

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
        self._streams, self._own_stream = streams, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copied, self._read = streams.event(), streams.event()
        self._recorded: dict[tuple[int, int], Recorded[Tensor]] = {}
        self._allocate(elements=0, places=0)

    def start(self, upload: Upload, compute: Logits) -> Pending:
        """As of :class:`Lane`; returns before it is done."""
        self._copy(upload)
        views, length = upload.origins.shape
        with torch.cuda.device(self._device), torch.cuda.stream(self._streams.compute):
            self._streams.compute.wait_event(self._copied)
            result = self._compute(views, length, compute)
            self._read.record(self._streams.compute)
            logits = torch.empty(result.shape, dtype=torch.float32, pin_memory=True)
            logits.copy_(result, non_blocking=True)
            done = self._streams.event()
            done.record(self._streams.compute)
        return CudaPending(logits, done)

    def fill(self, upload: Upload) -> None:
        """As of :class:`Lane`."""
        self._copy(upload)
        self._copied.synchronize()

    def _compute(self, views: int, length: int, compute: Logits) -> Tensor:
        source = replace(self._source, origins=self._source.origins[: views * length].view(views, length))
        if not self._is_recorded:
            with on(self._device):
                return compute(source)
        if (views, length) not in self._recorded:
            self._recorded[views, length] = Recorded(lambda: compute(source), stream=self._own_stream)
        recorded = self._recorded[views, length]
        recorded.start()
        return recorded.result

    def _copy(self, upload: Upload) -> None:
        """Start copying as soon as the last batch of this lane has been read."""
        self._copied.synchronize()
        self._reserve(elements=upload.elements, places=upload.origins.size)
        pixels = self._staged(upload.arrays)
        self._host_places[: upload.origins.size].copy_(torch.from_numpy(upload.origins).flatten())
        self._host_pitch[0] = upload.pitch
        copies = self._streams.copies
        with torch.cuda.device(self._device), torch.cuda.stream(copies):
            copies.wait_event(self._read)
            self._source.pixels[: len(pixels)].copy_(pixels, non_blocking=True)
            self._source.origins.copy_(self._host_places, non_blocking=True)
            self._source.pitch.copy_(self._host_pitch, non_blocking=True)
            self._copied.record(copies)

    def _staged(self, arrays: Sequence[Resized]) -> Tensor:
        """The arrays in page-locked memory: one that lies there already as it is."""
        if len(arrays) == 1 and arrays[0].flags.writeable:
            given = torch.from_numpy(arrays[0]).flatten()
            if given.is_pinned():
                return given
            return self._host_pixels[: len(given)].copy_(given)
        staged, filled = self._host_pixels.numpy(), 0
        for array in arrays:
            np.copyto(staged[filled : filled + array.size], array.reshape(-1))
            filled += array.size
        return self._host_pixels[:filled]

    def _reserve(self, *, elements: int, places: int) -> None:
        """Make memory, larger than any before; what was recorded reads the old one and is recorded again."""
        if elements <= len(self._host_pixels) and places <= len(self._host_places):
            return
        self._streams.copies.synchronize()
        self._streams.compute.synchronize()
        # A little more, for the next video that has a little more.
        elements, places = (
            max(size * 5 // 4, now)
            for size, now in ((elements, len(self._host_pixels)), (places, len(self._host_places)))
        )
        self._allocate(elements=elements, places=places)

    def _allocate(self, *, elements: int, places: int) -> None:
        self._recorded.clear()
        self._host_pixels = torch.empty(elements, dtype=self._dtype, pin_memory=True)
        self._host_places = torch.zeros(places, dtype=torch.int64, pin_memory=True)
        self._host_pitch = torch.zeros(1, dtype=torch.int64, pin_memory=True)
        self._source = Source(
            pixels=torch.empty(elements, dtype=self._dtype, device=self._device),
            origins=torch.empty(places, dtype=torch.int64, device=self._device),
            pitch=torch.empty(1, dtype=torch.int64, device=self._device),
            size=self._size,
        )


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
