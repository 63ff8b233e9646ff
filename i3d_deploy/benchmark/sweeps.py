"""How cost grows with the size of the work."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from i3d_deploy import generated
from i3d_deploy.benchmark import timing
from i3d_deploy.benchmark.admission import Admitted, Entrant
from i3d_deploy.benchmark.plan import Plan, SweepPlan
from i3d_deploy.benchmark.record import Sweep, SweepPoint
from i3d_deploy.benchmark.turns import Turns, take_turns
from i3d_deploy.benchmark.workers import Worker
from i3d_deploy.errors import I3DError, InputError


class Ask(Protocol):
    """Has a worker time a size."""

    def __call__(self, worker: Worker, size: int, seconds: float, /, *, counts: bool) -> list[float]:
        """Seconds of one video, run or prediction after the other, until ``seconds`` have passed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Point:
    """One artifact at one size."""

    entrant: Entrant
    size: int


def measure(
    admitted: Admitted, sweep: SweepPlan, plan: Plan, *, scratch: Path, on_step: Callable[[str], None]
) -> tuple[Sweep, ...]:
    """Time every artifact at every size, in turns.

    A size that an artifact cannot take is left out and noted on it.

    Args:
        admitted: The field.
        sweep: Sizes.
        plan: The run's.
        scratch: Folder for views and videos.
        on_step: Called with a line as it goes on.
    """
    ask = _ask_for(admitted, sweep, scratch=scratch)
    points = [_Point(entrant=entrant, size=size) for size in sweep.sizes for entrant in admitted.entrants]
    memory: dict[_Point, tuple[int, int | None]] = {}
    for point in points:
        on_step(f"memory: {sweep.over} {point.size}, {point.entrant.name}")
        try:
            memory[point] = _memory(point, ask)
        except I3DError as error:
            _note(point, sweep, str(error))
    # What a size does to a process is known now: none of those left ends the artifact's own.
    turns = take_turns(
        list(memory),
        lambda point, seconds, *, counts: ask(point.entrant.worker, point.size, seconds, counts=counts),
        min_rounds=plan.min_rounds,
        min_seconds=0,
        max_warmup=1,
        on_turn=lambda point, text: on_step(f"sweep over {sweep.over}: {point.size}, {text}, {point.entrant.name}"),
    )
    found: dict[str, list[SweepPoint]] = {entrant.name: [] for entrant in admitted.entrants}
    for point, own in zip(memory, turns, strict=True):
        if own.reason is not None:
            _note(point, sweep, own.reason)
        else:
            found[point.entrant.name].append(_summarize_point(point, own, memory[point]))
    return tuple(_summarize(name, sweep, measured) for name, measured in found.items() if measured)


def _note(point: _Point, sweep: SweepPlan, reason: str) -> None:
    point.entrant.notes.append(f"{sweep.over} {point.size} was not measured: {reason}")


def _ask_for(admitted: Admitted, sweep: SweepPlan, *, scratch: Path) -> Ask:
    """Prepare what the sizes need, and return what times one of them."""
    protocol = admitted.protocol
    if sweep.over == "frames":
        for size in sweep.sizes:
            generated.write_clip(scratch / f"{size}.mp4", num_frames=size)
        wanted = {"clips": protocol.clips, "crops": protocol.crops, "batch": protocol.batch}
        return lambda worker, size, seconds, *, counts: worker.ask(
            "predict", video_path=str(scratch / f"{size}.mp4"), seconds=seconds, counts=counts, **wanted
        )
    crops = protocol.crops if sweep.over == "clips" else 1
    file = scratch / f"{sweep.over}.npy"
    _write_views(admitted.views, file, count=max(sweep.sizes) * crops)
    return lambda worker, size, seconds, *, counts: worker.ask(
        "time",
        views_path=str(file),
        count=size * crops,
        batch=size if sweep.over == "batch" else protocol.batch,
        seconds=seconds,
        counts=counts,
    )


def _memory(point: _Point, ask: Ask) -> tuple[int, int | None]:
    """Memory at one size, in a process that has seen no other: backends keep what a larger one took."""
    with Worker(point.entrant.worker.subject) as fresh:
        _ = fresh.opened
        ask(fresh, point.size, 0, counts=False)
        return fresh.memory()


def _write_views(source: Path, target: Path, *, count: int) -> None:
    """Write as many views as the largest size needs; what they show is repeated."""
    views = np.load(source, mmap_mode="r", allow_pickle=False)
    needed, free = count * views[0].nbytes, shutil.disk_usage(target.parent).free
    if needed > free:
        raise InputError(
            f"{count} views need {needed / 2**30:.1f} GiB of temporary files, {free / 2**30:.1f} GiB are free: "
            "give smaller sizes, or another folder as TMPDIR"
        )
    repeated = np.lib.format.open_memmap(target, mode="w+", dtype=views.dtype, shape=(count, *views.shape[1:]))
    for number in range(count):
        repeated[number] = views[number % len(views)]
    repeated.flush()


def _summarize(name: str, sweep: SweepPlan, points: Sequence[SweepPoint]) -> Sweep:
    sizes = [point.size for point in points]
    seconds = timing.fit(sizes, [point.median for point in points])
    memory = timing.fit(sizes, [float(point.peak_host_bytes) for point in points])
    return Sweep(
        artifact=name,
        over=sweep.over,
        points=tuple(points),
        fixed_seconds=None if seconds is None else seconds.fixed,
        seconds_per_unit=None if seconds is None else seconds.slope,
        bytes_per_unit=None if memory is None else memory.slope,
    )


def _summarize_point(point: _Point, own: Turns, memory: tuple[int, int | None]) -> SweepPoint:
    seconds = tuple(value for turn in own.rounds for value in turn)
    spread = timing.spread_of(seconds)
    return SweepPoint(
        size=point.size,
        seconds=seconds,
        median=statistics.median(seconds),
        spread=spread,
        is_noisy=timing.is_noisy(spread),
        peak_host_bytes=memory[0],
        peak_device_bytes=memory[1],
    )
