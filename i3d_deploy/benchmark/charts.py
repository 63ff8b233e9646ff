"""The charts of a record, as SVG text: narrow enough for a telephone, one colour per artifact throughout."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from i3d_deploy.benchmark import curves, drawing, wording
from i3d_deploy.benchmark.record import EndToEnd, Record, Result, Timing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.3
"""Inches of a chart of the page."""

MAX_POINTS = 60
"""Videos up to which each is a point; of more the picture shows how many took how long."""

_STAGES = {"decode": "#c9d1d9", "views": "#4b5866", "transfer": "#e3d5b8", "compute": "#929eab"}
_NAME_LENGTH = 26
_TOP = 0.04


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart.

    Attributes:
        name: A word; ids in the SVG begin with it.
        title: What it shows.
        caption: How to read it.
        svg: An ``svg`` element.
    """

    name: str
    title: str
    caption: str
    svg: str


def draw(record: Record) -> tuple[Chart, ...]:
    """Draw all charts that the record has data for.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    charts = [Chart(name="throughput", title="Throughput", caption=_THROUGHPUT, svg=throughput(record))]
    if any(result.model.videos > 1 for result in record.results):
        charts.append(Chart(name="latency", title="Time of a video", caption=_LATENCY, svg=_latency(record)))
    if any(result.end_to_end for result in record.results):
        charts.append(Chart(name="stages", title="From file to answer", caption=_END_TO_END, svg=_stages(record)))
    devices = dict.fromkeys(result.device for result in record.results if result.roofline)
    for device in devices:
        svg = curves.roofline(record, device, colors(record), width=WIDTH)
        name, title = ("roofline", "Roofline") if len(devices) == 1 else (f"roofline-{device}", f"Roofline on {device}")
        charts.append(Chart(name=name, title=title, caption=_ROOFLINE, svg=svg))
    for over, title in curves.SWEEPS.items():
        if any(sweep.over == over for sweep in record.sweeps):
            svg = curves.sweep(record, over, colors(record), width=WIDTH)
            charts.append(Chart(name=f"sweep-{over}", title=title, caption=_SWEEP, svg=svg))
    return tuple(charts)


_THROUGHPUT = "Bar: median. Whisker: slowest and fastest round. Hatched: noisy, the rounds differ by more than 5 %."
_LATENCY = (
    "Every timed video over its artifact's median, so that steadiness can be compared. Of few videos p90 and p99 say "
    "little. Arrow: the slowest lies further out."
)
_END_TO_END = (
    "Upper bar: the stages of a video, each run alone, in the order of the figures. Lower bar: the prediction as it "
    "really runs, shorter than the stages where they overlap."
)
_ROOFLINE = (
    "Lines: the most that this machine did in the same run. Points: artifacts, by operations per byte of their layers, "
    "with their share of the ceiling. The gap above a point is what is left to gain."
)
_SWEEP = "Points: medians, hollow where noisy. Bars: slowest and fastest round. Dashed: fitted line."


def colors(record: Record) -> dict[str, str]:
    """The colour of each artifact."""
    palette = drawing.PALETTE
    return {result.artifact: palette[number % len(palette)] for number, result in enumerate(record.results)}


def throughput(
    record: Record, *, width: float = WIDTH, background: str = "none", title: str = "", id_prefix: str = "throughput"
) -> str:
    """Videos per second, a bar per artifact.

    Args:
        record: What was measured.
        width: Inches.
        background: A colour, or "none".
        title: A line above, where nothing else says what it is.
        id_prefix: Ids in the SVG begin with it.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    height, top = 0.5, 0.34 if title else _TOP
    names = _names(record.results, round(_NAME_LENGTH * width / WIDTH))

    def paint(figure: Figure) -> None:
        if title:
            drawing.heading(figure, title)
        axes = drawing.rows(figure, len(names), top=top, height=height, label="videos/s, model only (higher is better)")
        axes.set_xlim(0, 1.02 * max(_fastest_round(result.model) for result in record.results))
        for number, (name, result) in enumerate(zip(names, record.results, strict=True)):
            _bar(axes, number, name, result, colors(record)[result.artifact])

    return drawing.svg(
        paint,
        name=id_prefix,
        title=f"Videos per second of {len(names)} artifacts",
        width=width,
        height=top + len(names) * height + drawing.SCALE,
        background=background,
    )


def _bar(axes: Axes, number: int, name: str, result: Result, color: str) -> None:
    timing, y = result.model, number + 0.66
    noisy = f"  (noisy, {wording.percent(timing.spread)})" if timing.is_noisy and timing.spread is not None else ""
    drawing.row_text(axes, number + 0.22, name, wording.significant(timing.videos_per_second) + noisy)
    hatch = "///" if timing.is_noisy else None
    axes.barh(y, timing.videos_per_second, height=0.4, color=color, hatch=hatch, edgecolor="white", linewidth=0)
    ends = _slowest_round(timing), _fastest_round(timing)
    if len(timing.rounds) > 1:
        axes.plot(ends, (y, y), color=drawing.INK, linewidth=1.2)
        axes.plot(ends, (y, y), color=drawing.INK, linestyle="none", marker="|", markersize=7)


def _slowest_round(timing: Timing) -> float:
    return 1 / max(statistics.median(turn) for turn in timing.rounds)


def _fastest_round(timing: Timing) -> float:
    return 1 / min(statistics.median(turn) for turn in timing.rounds)


def _latency(record: Record) -> str:
    height, results = 0.72, record.results
    names = _names(results, _NAME_LENGTH)

    def paint(figure: Figure) -> None:
        axes = drawing.rows(figure, len(results), top=_TOP, height=height, label="time of a video / its median")
        least = min(result.model.fastest / result.model.median for result in results)
        most = max(_end(result.model) for result in results)
        room = max(0.04 * (most - least), 0.002)
        axes.set_xlim(least - room, most + room)
        for number, (name, result) in enumerate(zip(names, results, strict=True)):
            _tell(axes, number, name, result.model)
            _distribution(axes, number + 0.72, result.model, colors(record)[result.artifact])
        drawing.legend(figure, _LATENCY_LEGEND, top=_TOP + len(results) * height + drawing.SCALE)

    total = _TOP + len(results) * height + drawing.SCALE + drawing.LINE * len(_LATENCY_LEGEND)
    title = f"Time of each video, of {len(results)} artifacts"
    return drawing.svg(paint, name="latency", title=title, width=WIDTH, height=total)


_LATENCY_LEGEND = (
    (drawing.INK, "|", "median"),
    (drawing.INK, "^", "p90: nine of ten took no longer"),
    (drawing.INK, "D", "p99"),
)


def _end(timing: Timing) -> float:
    """Where the scale may end, over the median: one slow video in thousands must not press the others together."""
    return min(timing.slowest, timing.median + 4 * (timing.p99 - timing.median)) / timing.median


def _tell(axes: Axes, number: int, name: str, timing: Timing) -> None:
    counted = wording.counted(timing.videos, "video")
    drawing.row_text(axes, number + 0.15, name, f"{counted}, noisy" if timing.is_noisy else counted)
    named = {"median": timing.median, "p90": timing.p90, "p99": timing.p99, "max": timing.slowest}
    drawing.row_text(axes, number + 0.4, wording.durations(named), is_small=True)


def _distribution(axes: Axes, y: float, timing: Timing, color: str) -> None:
    left, right = axes.get_xlim()
    relative = np.array([value for turn in timing.rounds for value in turn]) / timing.median
    axes.plot((relative.min(), min(relative.max(), right)), (y, y), color=color, linewidth=1)
    if relative.max() > right:
        axes.plot(right, y, marker=">", markersize=6, color=color, clip_on=False)
    if len(relative) <= MAX_POINTS:
        # Points at one place would hide each other: they are moved up and down in a fixed pattern.
        shifts = 0.12 * ((np.arange(len(relative)) * 0.618 + 0.5) % 1 - 0.5)
        axes.scatter(relative, y + shifts, s=16, color=color, alpha=0.75, linewidths=0)
    else:
        counts, edges = np.histogram(relative, bins=70, range=(left, right))
        extent = 0.17 * counts / max(counts.max(), 1)
        middles = (edges[:-1] + edges[1:]) / 2
        axes.fill_between(middles, y - extent, y + extent, step="mid", color=color, alpha=0.75, linewidth=0)
    for value, marker, size in ((timing.median, "|", 15), (timing.p90, "^", 5), (timing.p99, "D", 4)):
        axes.plot(value / timing.median, y, marker=marker, markersize=size, color=drawing.INK, markeredgewidth=1.5)


def _stages(record: Record) -> str:
    height = 0.84
    measured = [(result, result.end_to_end) for result in record.results if result.end_to_end]
    names = _names([result for result, _ in measured], _NAME_LENGTH)
    lines = [(color, "s", text) for text, color in zip(_STAGE_WORDS, _STAGES.values(), strict=True)]

    def paint(figure: Figure) -> None:
        axes = drawing.rows(figure, len(measured), top=_TOP, height=height, label="seconds of a video")
        axes.set_xlim(0, 1.02 * max(max(whole.stages.total, whole.timing.median) for _, whole in measured))
        for number, (name, (result, whole)) in enumerate(zip(names, measured, strict=True)):
            _stack(axes, number, name, whole, colors(record)[result.artifact])
        drawing.legend(figure, lines, top=_TOP + len(measured) * height + drawing.SCALE)

    total = _TOP + len(measured) * height + drawing.SCALE + drawing.LINE * len(lines)
    title = f"Stages from the video file to the answer, of {len(measured)} artifacts"
    return drawing.svg(paint, name="stages", title=title, width=WIDTH, height=total)


_STAGE_WORDS = (
    "decode: file to frames",
    "views: resize and cut",
    "transfer: to the device",
    "compute: network and averaging",
)


def _stack(axes: Axes, number: int, name: str, whole: EndToEnd, color: str) -> None:
    noisy = " (noisy)" if whole.timing.is_noisy else ""
    drawing.row_text(axes, number + 0.13, name, wording.seconds(whole.timing.median) + noisy)
    stages = {stage: getattr(whole.stages, stage) for stage in _STAGES}
    drawing.row_text(axes, number + 0.35, " + ".join(map(wording.seconds, stages.values())), is_small=True)
    start = 0.0
    for stage, value in stages.items():
        axes.barh(number + 0.59, value, left=start, height=0.2, color=_STAGES[stage], linewidth=0)
        start += value
    axes.barh(number + 0.81, whole.timing.median, height=0.16, color=color, linewidth=0)


def _names(results: Sequence[Result], length: int) -> tuple[str, ...]:
    return wording.short_names([result.artifact for result in results], length)
