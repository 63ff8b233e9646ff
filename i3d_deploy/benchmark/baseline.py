"""A run against an earlier one."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from i3d_deploy.benchmark.record import NOISY_SPREAD, Protocol, Record
from i3d_deploy.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Change:
    """One artifact, then and now.

    Attributes:
        artifact: Its name, the same in both records.
        before: Videos per second in the baseline.
        now: Videos per second in this run.
        is_regression: It lost more than was allowed.
        is_noisy: One of the two measurements is noisy.
    """

    artifact: str
    before: float
    now: float
    is_regression: bool
    is_noisy: bool = False

    @property
    def change(self) -> float:
        """Growth of videos per second: 0.1 is a tenth more."""
        return self.now / self.before - 1


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All artifacts that both records have.

    Attributes:
        changes: In the order of this run.
        warnings: What makes the two records hard to compare.
        missing: Artifacts of the baseline that this run did not time, and their videos per second.
    """

    changes: tuple[Change, ...]
    warnings: tuple[str, ...]
    missing: tuple[tuple[str, float], ...]

    @property
    def has_regression(self) -> bool:
        """Whether an artifact lost more than was allowed. One that was not asked for lost nothing."""
        return any(change.is_regression for change in self.changes)


def compare(record: Record, baseline: Record, *, max_regression: float) -> Comparison:
    """Compare by the artifacts' names.

    Args:
        record: This run.
        baseline: The earlier one.
        max_regression: Share of videos per second that an artifact may lose.

    Raises:
        InputError: They measured other protocols, or have no artifact in common.
    """
    ours, theirs = _what(record.protocol), _what(baseline.protocol)
    if ours != theirs:
        raise InputError(f"the baseline measured {theirs}, this run {ours}: give both the same")
    before = {result.artifact: result for result in baseline.results}
    now = {result.artifact: result for result in record.results}
    both = [name for name in now if name in before]
    missing = tuple((name, entry.videos_per_second) for name, entry in before.items() if name not in now)
    if not both:
        raise InputError(f"the baseline has no artifact of this run, only {', '.join(before)}: names must be the same")
    changes = tuple(
        Change(
            artifact=name,
            before=before[name].videos_per_second,
            now=now[name].videos_per_second,
            is_regression=now[name].videos_per_second < before[name].videos_per_second * (1 - max_regression),
            is_noisy=now[name].model.is_noisy or before[name].model.is_noisy,
        )
        for name in both
    )
    return Comparison(changes=changes, warnings=_warnings(record, baseline, changes), missing=missing)


def _what(protocol: Protocol) -> str:
    batch = protocol.batch or "that suits"
    return f"{protocol.name} in clips of {protocol.clip_len} ({protocol.views} views) with a batch {batch}"


def _warnings(record: Record, baseline: Record, changes: tuple[Change, ...]) -> tuple[str, ...]:
    warnings = []
    for part in ("cpu", "cores", "gpus"):
        ours, theirs = getattr(record.machine, part), getattr(baseline.machine, part)
        if part == "gpus":
            ours, theirs = ([gpu.name for gpu in gpus] for gpus in (ours, theirs))
        if ours != theirs:
            warnings.append(f"other machine: {part} was {theirs}, is {ours}")
    before = {result.artifact: result for result in baseline.results}
    pairs = ((result, before[result.artifact]) for result in record.results if result.artifact in before)
    warnings += [
        f"{ours.artifact} was run by {theirs.runner}, is by {ours.runner}"
        for ours, theirs in pairs
        if ours.runner != theirs.runner
    ]
    growth = [change.change for change in changes]
    is_alike = not warnings and len(growth) > 1 and max(growth) - min(growth) <= NOISY_SPREAD
    if is_alike and abs(statistics.median(growth)) > NOISY_SPREAD:
        warnings.append(
            f"all artifacts changed alike, by {statistics.median(growth):+.0%}: the machine, rather than the artifacts"
        )
    return tuple(warnings)
