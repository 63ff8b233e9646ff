"""A record on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from i3d_deploy.benchmark.baseline import Comparison
from i3d_deploy.benchmark.record import Ceiling, Ratio, Record, Result, Sweep

MIB = 2**20
SIZES = {"batch": "views per run", "clips": "clips per video", "frames": "frames of the video"}
"""What the sizes of each sweep count."""


def show(record: Record, console: Console) -> None:
    """Print a record: what was measured, a row per artifact, and whatever else was asked for."""
    protocol, machine = record.protocol, record.machine
    gpus = "".join(f", {gpu.name}" for gpu in machine.gpus)
    where = f"{machine.cpu} ({machine.cores} cores){gpus}"
    console.print(f"{protocol.name}: {protocol.views} views per video, model only, on {where}", highlight=False)
    tables = [_model(record.results)]
    tables += [_end_to_end(record.results)] if any(result.end_to_end for result in record.results) else []
    tables += [_ratios(record)] if len(record.results) > 2 else []
    tables += [_sweep(sweep) for sweep in record.sweeps]
    tables += [_layers(result) for result in record.results if result.slowest_layers]
    tables += [_ceilings(record.ceilings)] if record.ceilings else []
    for table in tables:
        console.print(table)
        console.print()
    for line in _remarks(record):
        console.print(escape(line), highlight=False, soft_wrap=True)


def show_comparison(comparison: Comparison, console: Console) -> None:
    """Print a run against its baseline."""
    table = _table("against the baseline", "before", "now", "change", "")
    for change in comparison.changes:
        verdict = "[bold red]regression[/]" if change.is_regression else ""
        row = f"{change.before:.3g}", f"{change.now:.3g}", f"{change.change:+.1%}", verdict
        table.add_row(escape(change.artifact), *row)
    for name in comparison.missing:
        table.add_row(escape(name), "", "not timed", "", "[bold red]missing[/]")
    console.print()
    console.print(table)
    for warning in comparison.warnings:
        console.print(escape(warning), highlight=False, soft_wrap=True)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", justify="left" if number == 0 else "right")
    return table


def _model(results: Sequence[Result]) -> Table:
    table = _table(
        *("artifact", "videos/s", "views/s", "s/video", "p90", "p95", "p99", "spread", "ratio", "of ceiling"),
        *("batch", "CPU", "peak MiB", "max diff"),
    )
    first = results[0]
    for result in results:
        model = result.model
        difference = "-" if result.difference is None else f"{result.difference:.1e}"
        table.add_row(
            escape(result.artifact),
            f"{model.videos_per_second:.3g}",
            f"{model.views_per_second:.3g}",
            *(seconds(value) for value in (model.median, model.p90, model.p95, model.p99)),
            _spread(model.spread, is_noisy=model.is_noisy),
            f"{first.model.median / model.median:.2f}",
            "-" if result.roofline is None else f"{result.roofline.share:.0%}",
            str(result.batch),
            f"{model.cpu_utilisation:.0%}",
            _memory(result),
            difference,
        )
    return table


def seconds(value: float) -> str:
    """Seconds with three digits."""
    return f"{value:.3f}" if value >= 0.1 else f"{value:.3g}"


def _memory(result: Result) -> str:
    host = f"{result.peak_host_bytes / MIB:.0f}"
    return host if result.peak_device_bytes is None else f"{host} + {result.peak_device_bytes / MIB:.0f} GPU"


def _spread(spread: float | None, *, is_noisy: bool) -> str:
    if spread is None:
        return "-"
    return f"{spread:.0%}{' [yellow]noisy[/]' if is_noisy else ''}"


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
            f"{found.timing.videos_per_second:.3g}",
            seconds(found.timing.median),
            _spread(found.timing.spread, is_noisy=found.timing.is_noisy),
            *(seconds(value) for value in (stages.decode, stages.views, stages.transfer, stages.compute)),
            f"{found.overlap:.2f}",
            *(seconds(value) for value in (found.open, found.first)),
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
    table = _table(f"{sweep.artifact}: {SIZES[sweep.over]}", "seconds", "spread", "s per unit", "peak MiB")
    for point in sweep.points:
        table.add_row(
            str(point.size),
            seconds(point.median),
            _spread(point.spread, is_noisy=point.is_noisy),
            seconds(point.median / point.size),
            f"{point.peak_host_bytes / MIB:.0f}",
        )
    return table


def _layers(result: Result) -> Table:
    table = _table(f"slowest layers of {escape(result.artifact)}", "kind", "ms", "share")
    for layer in result.slowest_layers:
        table.add_row(escape(layer.name), escape(layer.kind), f"{layer.seconds * 1e3:.3g}", f"{layer.share:.1%}")
    return table


def _ceilings(ceilings: Sequence[Ceiling]) -> Table:
    table = _table("what the machine can do", "work", "per second", "by")
    for ceiling in ceilings:
        unit = "GB" if ceiling.work == "copy" else "GOP"
        table.add_row(ceiling.precision, ceiling.work, f"{ceiling.per_second / 1e9:.4g} {unit}", ceiling.backend)
    return table


def _remarks(record: Record) -> Iterator[str]:
    protocol = record.protocol
    timed = ", ".join(
        dict.fromkeys(f"{result.model.videos} after {result.model.warmup_videos}" for result in record.results)
    )
    yield (
        f"{protocol.min_rounds} rounds in turns; timed videos after warm-up: {timed}. spread: of the rounds' medians; "
        "ratio: to the first artifact; max diff: of a logit, from the first artifact's"
    )
    for result in record.results:
        model = result.model
        warm = "" if model.is_warm else ", not yet stable"
        yield f"{result.artifact}: {result.runner}; {model.videos} videos after {model.warmup_videos} of warm-up{warm}"
        if (line := result.roofline) is not None:
            yield (
                f"    {line.macs_per_view / 1e9:.2f} GMAC per view, {line.operations_per_second / 1e9:.4g} of "
                f"{line.ceiling / 1e9:.4g} GOP/s ({line.ceiling_of}); floor {seconds(line.floor_seconds)} s/video, "
                f"set by {line.bound}"
            )
        if result.model.joules_per_video is not None:
            yield f"    {result.model.joules_per_video:.3g} J per video ({result.model.energy_source})"
        yield from (f"    {note}" for note in result.notes)
    for sweep in record.sweeps:
        if sweep.seconds_per_unit is not None and sweep.fixed_seconds is not None:
            memory = "" if sweep.bytes_per_unit is None else f", {sweep.bytes_per_unit / MIB:.3g} MiB"
            yield (
                f"{sweep.artifact}: {sweep.fixed_seconds:.3g} s + {sweep.seconds_per_unit:.3g} s{memory} per unit of "
                f"{SIZES[sweep.over]}"
            )
