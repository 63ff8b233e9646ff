"""How cost grows with the size of the work."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from i3d_deploy import generated
from i3d_deploy.benchmark import timing
from i3d_deploy.benchmark.admission import Admitted, Entrant
from i3d_deploy.benchmark.plan import Plan, SweepPlan
from i3d_deploy.benchmark.record import Protocol, Sweep, SweepPoint
from i3d_deploy.benchmark.turns import Turns, take_turns


@dataclass(kw_only=True)
class _Point:
    """One artifact at one size."""

    entrant: Entrant
    size: int
    peak_host_bytes: int = 0


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
    points = [_Point(entrant=entrant, size=size) for size in sweep.sizes for entrant in admitted.entrants]
    turns = take_turns(
        points,
        _once(admitted, sweep, plan, scratch=scratch),
        min_rounds=plan.min_rounds,
        min_seconds=0,
        max_warmup=1,
        on_turn=lambda point, text: on_step(f"sweep over {sweep.over}: {point.size}, {text}, {point.entrant.name}"),
    )
    for point, own in zip(points, turns, strict=True):
        if own.reason is not None:
            point.entrant.notes.append(f"{sweep.over} {point.size} was not measured: {own.reason}")
    measured = [(point, own) for point, own in zip(points, turns, strict=True) if own.reason is None]
    by_entrant = [[pair for pair in measured if pair[0].entrant is entrant] for entrant in admitted.entrants]
    return tuple(_summarize(sweep, pairs) for pairs in by_entrant if pairs)


def _once(
    admitted: Admitted, sweep: SweepPlan, plan: Plan, *, scratch: Path
) -> Callable[[_Point, float], Sequence[float]]:
    protocol = admitted.protocol
    if sweep.over == "frames":
        videos = {size: scratch / f"{size}_frames.mp4" for size in sweep.sizes}
        for size, path in videos.items():
            generated.write_clip(path, num_frames=size)
        wanted = {"clips": protocol.clips, "crops": protocol.crops, "batch": plan.batch, "seconds": 0}
        return lambda point, _: _ask(point, "predict", video=str(videos[point.size]), **wanted)
    file = scratch / f"{sweep.over}.npy"
    _write_views(admitted.views, file, count=max(sweep.sizes) * (protocol.crops if sweep.over == "clips" else 1))
    return partial(_time_views, file=file, sweep=sweep, protocol=protocol, plan=plan)


def _time_views(
    point: _Point, _: float, *, file: Path, sweep: SweepPlan, protocol: Protocol, plan: Plan
) -> Sequence[float]:
    count = point.size if sweep.over == "batch" else point.size * protocol.crops
    batch = point.size if sweep.over == "batch" else plan.batch
    return _ask(point, "time", views=str(file), count=count, batch=batch, seconds=0)


def _ask(point: _Point, do: str, **arguments: object) -> Sequence[float]:
    worker = point.entrant.worker
    worker.ask("reset_memory")
    seconds: list[float] = worker.ask(do, **arguments)
    point.peak_host_bytes = max(point.peak_host_bytes, worker.ask("memory")["host"])
    return seconds


def _write_views(source: Path, target: Path, *, count: int) -> None:
    """Write as many views as the largest size needs; what they show is repeated."""
    views = np.load(source, mmap_mode="r", allow_pickle=False)
    repeated = np.lib.format.open_memmap(target, mode="w+", dtype=views.dtype, shape=(count, *views.shape[1:]))
    for number in range(count):
        repeated[number] = views[number % len(views)]
    repeated.flush()


def _summarize(sweep: SweepPlan, pairs: Sequence[tuple[_Point, Turns]]) -> Sweep:
    points = tuple(_summarize_point(point, own) for point, own in pairs)
    sizes = [point.size for point in points]
    seconds = timing.fit(sizes, [point.median for point in points])
    memory = timing.fit(sizes, [float(point.peak_host_bytes) for point in points])
    return Sweep(
        artifact=pairs[0][0].entrant.name,
        over=sweep.over,
        points=points,
        fixed_seconds=None if seconds is None else seconds.fixed,
        seconds_per_unit=None if seconds is None else seconds.slope,
        bytes_per_unit=None if memory is None else memory.slope,
    )


def _summarize_point(point: _Point, own: Turns) -> SweepPoint:
    seconds = tuple(value for turn in own.rounds for value in turn)
    spread = timing.spread_of(seconds)
    return SweepPoint(
        size=point.size,
        seconds=seconds,
        median=statistics.median(seconds),
        spread=spread,
        is_noisy=timing.is_noisy(spread),
        peak_host_bytes=point.peak_host_bytes,
    )
