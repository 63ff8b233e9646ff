"""Lanes on the CPU, and those of a GPU on stand-ins for CUDA's streams that do everything at once and write it down."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from i3d_deploy.fused import lanes
from i3d_deploy.fused.lanes import CudaLane, Lane, Piece, Streams, Upload
from i3d_deploy.fused.stacking import Source

SIZE = (2, 3)
CPU = torch.device("cpu")


class Sums:
    """A network whose maps are the sums of each frame's crop, and whose logits are these."""

    def __init__(self, chunk: int) -> None:
        self.chunk = chunk

    def early(self, source: Source, out: Tensor | None) -> Tensor:
        rows = torch.arange(SIZE[0])[:, None] * source.pitch + torch.arange(SIZE[1])
        frames = source.pixels[source.origins[:, :, None, None] + rows].float()
        maps = frames.sum((2, 3))[:, :, None, None, None]
        return maps if out is None else out.copy_(maps)

    def late(self, maps: Tensor) -> Tensor:
        return maps.flatten(1)


class Standing:
    """What CUDA was asked to do, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.num_recorded = 0

    def stream(self, *_: Any, **__: Any) -> _Stream:
        return _Stream(self)

    def event(self, *_: Any, **__: Any) -> _Event:
        return _Event(self)

    def recorded(self, function: Callable[[], Tensor], *, stream: _Stream, pool: object) -> _Recorded:
        self.num_recorded += 1
        return _Recorded(self, function)


class _Stream:
    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self.name = ""

    def wait_event(self, event: _Event) -> None:
        self._standing.done.append(f"{self.name} waits")

    def wait_stream(self, other: _Stream) -> None: ...

    def synchronize(self) -> None: ...


class _Event:
    def __init__(self, standing: Standing) -> None:
        self._standing = standing

    def record(self, stream: _Stream) -> None:
        self._standing.done.append(f"{stream.name} tells")

    def synchronize(self) -> None: ...


class _Recorded:
    def __init__(self, standing: Standing, function: Callable[[], Tensor]) -> None:
        self._standing, self._function = standing, function
        self.result = function()

    def start(self) -> None:
        self._standing.done.append("runs")
        self.result.copy_(self._function())


@pytest.fixture
def standing(monkeypatch: pytest.MonkeyPatch) -> Standing:
    """CUDA's streams, events and graphs replaced by ones that work at once, on the CPU."""
    found = Standing()
    monkeypatch.setattr(torch.cuda, "Stream", found.stream)
    monkeypatch.setattr(torch.cuda, "Event", found.event)
    monkeypatch.setattr(torch.cuda, "current_stream", found.stream)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(lanes, "Recorded", found.recorded)
    for name in ("empty", "zeros"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *size, make=make, pin_memory=False, **options: make(*size, **options))
    return found


def cuda_lane(*, is_recorded: bool = True) -> CudaLane:
    streams = Streams(CPU)
    streams.copies.name, streams.compute.name = "copies", "compute"  # type: ignore[attr-defined]
    return CudaLane(SIZE, device=CPU, dtype=torch.uint8, streams=streams, is_recorded=is_recorded)


def upload_of(views: NDArray[np.uint8], *, sizes: tuple[int, ...]) -> Upload:
    """Views (N, T, H, W) that are cut already, in pieces of some numbers of views."""
    count, frames = views.shape[:2]
    ends = np.cumsum(sizes).tolist()
    pieces = [Piece(arrays=[views[start:end]], views=end) for start, end in zip([0, *ends], ends, strict=False)]
    numbers = np.arange(count * frames, dtype=np.int64).reshape(count, frames)
    return Upload(pieces=pieces, origins=numbers * SIZE[0] * SIZE[1], pitch=SIZE[1])


def some_views(count: int, frames: int = 4) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, frames, *SIZE), dtype=np.uint8)


def sums_of(views: NDArray[np.uint8]) -> NDArray[np.float32]:
    sums: NDArray[np.float32] = views.sum((2, 3)).astype(np.float32)
    return sums


@pytest.mark.parametrize("sizes", [(5,), (2, 2, 1)], ids=["one piece", "chunk by chunk"])
def test_a_cpu_computes_what_it_is_given(sizes: tuple[int, ...]) -> None:
    views = some_views(5)
    found = Lane(SIZE).start(upload_of(views, sizes=sizes), Sums(2)).wait()
    np.testing.assert_array_equal(found, sums_of(views))


@pytest.mark.parametrize("is_recorded", [True, False], ids=["recorded", "not recorded"])
@pytest.mark.parametrize("sizes", [(5,), (2, 2, 1)], ids=["one piece", "chunk by chunk"])
@pytest.mark.usefixtures("standing")
def test_a_gpus_lane_computes_one_batch_after_the_other(sizes: tuple[int, ...], is_recorded: bool) -> None:
    lane = cuda_lane(is_recorded=is_recorded)
    for seed in range(3):
        views = some_views(5) + np.uint8(seed)
        views.flags.writeable = seed > 0  # arrays of others may be read-only
        found = lane.start(upload_of(views, sizes=sizes), Sums(2)).wait()
        np.testing.assert_array_equal(found, sums_of(views))


def test_computing_begins_when_the_first_chunk_is_there(standing: Standing) -> None:
    lane = cuda_lane()
    lane.start(upload_of(some_views(5), sizes=(2, 2, 1)), Sums(2))
    standing.done.clear()
    lane.start(upload_of(some_views(5), sizes=(2, 2, 1)), Sums(2))
    assert standing.done == [
        *("copies waits", "copies tells", "compute waits"),  # for what was read before; where to read is there
        *("copies tells", "compute waits", "runs"),
        *("copies tells", "compute waits", "runs"),
        *("copies tells", "compute waits", "runs"),
        *("compute tells", "runs", "compute tells"),  # all pixels are read; the late parts; the logits are there
    ]


def test_a_network_is_recorded_once_for_each_number_of_views(standing: Standing) -> None:
    lane = cuda_lane()
    for count, recorded in ((5, 4), (5, 4), (2, 6), (5, 6), (2, 6)):
        views = some_views(count)
        found = lane.start(upload_of(views, sizes=(count,)), Sums(2)).wait()
        np.testing.assert_array_equal(found, sums_of(views))
        assert standing.num_recorded == recorded


def test_memory_that_grows_is_recorded_anew_with_room_to_spare(standing: Standing) -> None:
    lane = cuda_lane()
    for frames, recorded in ((4, 2), (8, 4), (9, 6), (4, 8)):
        views = some_views(2, frames)
        found = lane.start(upload_of(views, sizes=(2,)), Sums(2)).wait()
        np.testing.assert_array_equal(found, sums_of(views))
        assert standing.num_recorded == recorded  # 9 frames fit where 8 were; the 4 frames of before are forgotten


def test_copying_alone_computes_nothing(standing: Standing) -> None:
    cuda_lane().fill(upload_of(some_views(5), sizes=(2, 2, 1)))
    assert "runs" not in standing.done
    assert standing.done.count("copies tells") == 4


def test_many_arrays_are_copied_one_after_the_other() -> None:
    generator = np.random.default_rng(0)
    arrays = [generator.integers(0, 256, size, dtype=np.uint8) for size in ((3, 5), (1 << 21,), (7,), (1, 3 << 20))]
    target = np.zeros(sum(array.size for array in arrays), np.uint8)
    lanes.copy_side_by_side(arrays, target)
    np.testing.assert_array_equal(target, np.concatenate([array.ravel() for array in arrays]))
    lanes.copy_side_by_side([], target[:0])
