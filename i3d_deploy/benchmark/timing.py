"""What seconds come to: pure arithmetic on measured times."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from i3d_deploy.benchmark.record import NOISY_SPREAD, Ratio, Stages, Timing

Rounds = Sequence[Sequence[float]]
"""Per round, the seconds of each video of the turn."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a process used while its videos were timed.

    Attributes:
        wall_seconds: Of all turns.
        cpu_seconds: Of all its threads.
        cores: Cores that it might use.
        others_seconds: Of all other processes; None where that cannot be told.
        joules: Energy, where the device reports it.
        energy_source: What reported it.
        clock_mhz: Median clock at the end of the turns.
    """

    wall_seconds: float
    cpu_seconds: float
    cores: int
    others_seconds: float | None = None
    joules: float | None = None
    energy_source: str | None = None
    clock_mhz: float | None = None


def summarize(rounds: Rounds, *, views: int, warmup: Rounds, usage: Usage) -> Timing:
    """Make the figures of one artifact.

    Args:
        rounds: Per round, the seconds of each video of the turn; none is empty.
        views: Views per video.
        warmup: Seconds of the videos before the first timed one, turn by turn.
        usage: What the process used meanwhile.
    """
    seconds = [value for turn in rounds for value in turn]
    median = statistics.median(seconds)
    p90, p95, p99 = (float(value) for value in np.percentile(seconds, (90, 95, 99)))
    spread = spread_of([statistics.median(turn) for turn in rounds])
    return Timing(
        rounds=tuple(tuple(turn) for turn in rounds),
        videos=len(seconds),
        videos_per_second=1 / median,
        views_per_second=views / median,
        median=median,
        p90=p90,
        p95=p95,
        p99=p99,
        fastest=min(seconds),
        slowest=max(seconds),
        spread=spread,
        is_noisy=is_noisy(spread),
        warmup_videos=sum(len(turn) for turn in warmup),
        is_warm=is_warm(warmup),
        cpu_utilisation=usage.cpu_seconds / usage.wall_seconds / usage.cores,
        others_utilisation=(
            None if usage.others_seconds is None else usage.others_seconds / usage.wall_seconds / usage.cores
        ),
        joules_per_video=None if usage.joules is None else usage.joules / len(seconds),
        energy_source=usage.energy_source,
        clock_mhz=usage.clock_mhz,
    )


def spread_of(values: Sequence[float]) -> float | None:
    """(largest - smallest) / median; None of a single value."""
    return (max(values) - min(values)) / statistics.median(values) if len(values) > 1 else None


def is_noisy(spread: float | None) -> bool:
    """Whether a measurement must be marked."""
    return spread is not None and spread > NOISY_SPREAD


def is_warm(warmup: Rounds) -> bool:
    """Whether videos of the last two turns took the same time, within what counts as noise."""
    if len(warmup) < 2:
        return False
    before, last = (statistics.median(turn) for turn in warmup[-2:])
    return abs(last - before) <= NOISY_SPREAD * before


def ratio(artifact: str, rounds: Rounds, against: str, against_rounds: Rounds) -> Ratio:
    """Compare two artifacts that took turns.

    Args:
        artifact: Name of the one.
        rounds: Its seconds.
        against: Name of the other.
        against_rounds: Its seconds, of the same rounds.
    """
    pairs = zip(rounds, against_rounds, strict=True)
    ratios = [statistics.median(theirs) / statistics.median(ours) for ours, theirs in pairs]
    spread = spread_of(ratios)
    return Ratio(
        artifact=artifact, against=against, ratio=statistics.median(ratios), spread=spread, is_noisy=is_noisy(spread)
    )


def median_stages(stages: Sequence[Stages]) -> Stages:
    """The median of each stage.

    Args:
        stages: One entry per round.
    """
    names = Stages.model_fields
    return Stages(**{name: statistics.median(getattr(entry, name) for entry in stages) for name in names})


def overlap(stages: Sequence[Stages], rounds: Rounds) -> float:
    """How much of a video's work happens at the same time: sum of the stages over the time of a prediction.

    Args:
        stages: One entry per round.
        rounds: Seconds of the predictions of the same rounds.
    """
    pairs = zip(stages, rounds, strict=True)
    return statistics.median(entry.total / statistics.median(turn) for entry, turn in pairs)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A straight line.

    Attributes:
        fixed: Its value at size 0.
        slope: Its growth per unit of size.
    """

    fixed: float
    slope: float


def fit(sizes: Sequence[int], values: Sequence[float]) -> Line | None:
    """The line of least squares; None through fewer than two sizes."""
    if len(set(sizes)) < 2:
        return None
    slope, fixed = np.polyfit(np.array(sizes, np.float64), np.array(values, np.float64), 1)
    return Line(fixed=float(fixed), slope=float(slope))
