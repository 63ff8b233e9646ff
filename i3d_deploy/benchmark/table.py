"""A record on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from i3d_deploy.benchmark import wording
from i3d_deploy.benchmark.baseline import Comparison
from i3d_deploy.benchmark.record import Ceiling, Ratio, Record, Result, Sweep

MIB = 2**20
SIZES = {"batch": "views per run", "clips": "clips per video", "frames": "frames of the video"}
"""What the sizes of each sweep count."""


def show(record: Record, console: Console) -> None:
    """Print a record: what was measured, a row per artifact, and whatever else was asked for."""
    what = f"{record.protocol.name}: {wording.views(record.protocol)}, model only, on {wording.machine(record.machine)}"
    console.print(escape(what), highlight=False, soft_wrap=True)
    tables = [_model(record), _use(record.results)]
    tables += [_end_to_end(record.results)] if any(result.end_to_end for result in record.results) else []
    tables += [_ratios(record)] if len(record.results) > 2 else []
    tables += [_sweep(sweep) for sweep in record.sweeps]
    tables += [_layers(result) for result in record.results if result.slowest_layers]
    tables += [_ceilings(record.ceilings)] if record.ceilings else []
    for table in tables:
        console.print(table)
        console.print()
    for failure in record.failures:
        console.print(escape(f"not timed: {failure.artifact}: {failure.reason}"), style="red", soft_wrap=True)
    for line in _remarks(record):
        console.print(escape(line), highlight=False, soft_wrap=True)


def show_comparison(comparison: Comparison, console: Console) -> None:
    """Print a run against its baseline."""
    table = _table("against the baseline", "before", "now", "change", "")
    for change in comparison.changes:
        verdict = "[bold red]regression[/] " if change.is_regression else ""
        verdict += "[yellow]noisy[/]" if change.is_noisy else ""
        figures = (wording.significant(change.before), wording.significant(change.now))
        row = (*figures, f"{change.change:+.1%}", verdict)
        table.add_row(escape(change.artifact), *row)
    for name, before in comparison.missing:
        table.add_row(escape(name), wording.significant(before), wording.DASH, wording.DASH, "not in this run")
    console.print()
    console.print(table)
    for warning in comparison.warnings:
        console.print(escape(warning), highlight=False, soft_wrap=True)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", justify="left" if number == 0 else "right")
    return table


def _model(record: Record) -> Table:
    table = _table("artifact", "videos/s", "views/s", "s/video", "p90", "p95", "p99", "spread", "ratio")
    first = record.results[0].artifact
    for result in record.results:
        model = result.model
        table.add_row(
            escape(result.artifact),
            wording.significant(model.videos_per_second),
            wording.significant(model.views_per_second),
            *(wording.significant(value) for value in (model.median, model.p90, model.p95, model.p99)),
            _spread(model.spread, is_noisy=model.is_noisy),
            _ratio(wording.ratio_of(record, result.artifact, first)) or "1",
        )
    return table


def _use(results: Sequence[Result]) -> Table:
    table = _table("used", "of ceiling", "floor", "batch", "CPU", "peak MiB", "J/video", "max diff")
    for result in results:
        line, joules = result.roofline, result.model.joules_per_video
        table.add_row(
            escape(result.artifact),
            wording.DASH if line is None else wording.percent(line.share),
            wording.DASH if line is None else wording.seconds(line.floor_seconds),
            str(result.batch),
            wording.percent(result.model.cpu_utilisation),
            _memory(result),
            wording.DASH if joules is None else wording.significant(joules),
            wording.DASH if result.difference is None else wording.small(result.difference),
        )
    return table


def _memory(result: Result) -> str:
    host = f"{result.peak_host_bytes / MIB:.0f}"
    return host if result.peak_device_bytes is None else f"{host} + {result.peak_device_bytes / MIB:.0f} GPU"


def _spread(spread: float | None, *, is_noisy: bool) -> str:
    return f"[yellow]{wording.spread(spread, is_noisy=True)}[/]" if is_noisy else wording.spread(spread, is_noisy=False)


def _end_to_end(results: Sequence[Result]) -> Table:
    table = _table(
        *("from the file", "videos/s", "s/video", "spread", "decode", "views", "transfer", "compute", "overlap"),
        *("open", "first"),
    )
    for result in results:
        found = result.end_to_end
        if found is None:
            continue
        stages = found.stages
        table.add_row(
            escape(result.artifact),
            wording.significant(found.timing.videos_per_second),
            wording.significant(found.timing.median),
            _spread(found.timing.spread, is_noisy=found.timing.is_noisy),
            *(wording.seconds(value) for value in (stages.decode, stages.views, stages.transfer, stages.compute)),
            f"{found.overlap:.2f}",
            *(wording.seconds(value) for value in (found.open, found.first)),
        )
    return table


def _ratios(record: Record) -> Table:
    """How many times as fast the artifact of the row is as that of the column."""
    names = [result.artifact for result in record.results]
    table = _table("times as fast as", *(f"({number})" for number in range(1, len(names))))
    by_pair = {(ratio.artifact, ratio.against): ratio for ratio in record.ratios}
    for number, name in enumerate(names, start=1):
        cells = [_ratio(by_pair.get((name, other))) for other in names[:-1]]
        table.add_row(f"({number}) {escape(name)}", *cells)
    return table


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio.ratio:.2f}{' [yellow]noisy[/]' if ratio.is_noisy else ''}"


def _sweep(sweep: Sweep) -> Table:
    table = _table(f"{escape(sweep.artifact)}: {SIZES[sweep.over]}", "seconds", "spread", "s per unit", "peak MiB")
    for point in sweep.points:
        table.add_row(
            str(point.size),
            wording.significant(point.median),
            _spread(point.spread, is_noisy=point.is_noisy),
            wording.significant(point.median / point.size),
            f"{point.peak_host_bytes / MIB:.0f}",
        )
    return table


def _layers(result: Result) -> Table:
    table = _table(f"slowest layers of {escape(result.artifact)}", "kind", "ms", "share")
    for layer in result.slowest_layers:
        table.add_row(
            escape(layer.name),
            escape(layer.kind),
            wording.significant(layer.seconds * 1e3),
            wording.percent(layer.share),
        )
    return table


def _ceilings(ceilings: Sequence[Ceiling]) -> Table:
    table = _table("what the machine can do", "work", "at most", "by")
    for ceiling in ceilings:
        rate = wording.rate(ceiling.per_second, ceiling.precision)
        table.add_row(ceiling.precision, ceiling.work, rate, ceiling.backend)
    return table


def _remarks(record: Record) -> Iterator[str]:
    yield (
        f"{wording.rounds(record)} in turns. spread: of the rounds' medians; "
        "ratio: to the first artifact; max diff: of a logit, from the first artifact's"
    )
    for result in record.results:
        model, whole = result.model, result.end_to_end
        warm = "" if model.is_warm else ", not yet stable"
        timed = wording.counted(model.videos, "video")
        yield f"{result.artifact}: {result.runner}; {timed} after {model.warmup_videos} of warm-up{warm}"
        if (line := result.roofline) is not None:
            yield (
                f"    {line.macs_per_view / 1e9:.2f} GMAC per view, "
                f"{wording.rate(line.operations_per_second, result.precision)} of "
                f"{wording.rate(line.ceiling, result.precision)} ({line.ceiling_of}); the floor is set by {line.bound}"
            )
        if model.energy_source is not None:
            yield f"    energy: {model.energy_source}"
        if model.clock_mhz is not None:
            yield f"    clock: {model.clock_mhz:.0f} MHz"
        if whole is not None:
            yield f"    from the file: {whole.video}, {wording.counted(whole.frames, 'frame')}"
        yield from (f"    {note}" for note in result.notes)
    yield from record.notes
    for sweep in record.sweeps:
        if sweep.seconds_per_unit is not None and sweep.fixed_seconds is not None:
            memory = "" if sweep.bytes_per_unit is None else f", {sweep.bytes_per_unit / MIB:.3g} MiB"
            yield (
                f"{sweep.artifact}, {SIZES[sweep.over]}: fixed {sweep.fixed_seconds:.3g} s, and for each "
                f"{sweep.seconds_per_unit:.3g} s{memory}"
            )
