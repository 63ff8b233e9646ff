"""The charts of a record that have two scales: roofline and sweeps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from i3d_deploy.benchmark import drawing, wording
from i3d_deploy.benchmark.ceilings import on_device
from i3d_deploy.benchmark.record import Ceiling, Record, Roofline, Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SWEEPS = {
    "batch": "Growth with views per run",
    "clips": "Growth with clips per video",
    "frames": "Growth with the length of the video",
}
"""What a sweep goes over, and the title of its chart."""

_UNITS = {"batch": "view", "clips": "clip", "frames": "frame"}
_LABELS = {"batch": "views per run of the engine", "clips": "clips per video", "frames": "frames of the video"}
_LEFT = 0.68
_NAME_LENGTH = 34


def roofline(record: Record, device: str, colors: Mapping[str, str], *, width: float) -> str:
    """Achieved operations per second under a device's ceilings, both scales logarithmic.

    Args:
        record: At least one result on the device has a roofline.
        device: Such as "cpu" or "cuda:0".
        colors: Of the artifacts.
        width: Inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    found_here = [result for result in record.results if result.device == device]
    points = [(result.artifact, result.roofline) for result in found_here if result.roofline]
    ceilings = on_device(record.ceilings, device)
    names = wording.short_names([name for name, _ in points], _NAME_LENGTH)
    tall = 3.1
    numbers = {result.artifact: number for number, result in enumerate(record.results, start=1)}
    lines = [
        (colors[artifact], "o", f"{numbers[artifact]} {name}: {wording.percent(found.share)}")
        for name, (artifact, found) in zip(names, points, strict=True)
    ]

    def paint(figure: Figure) -> None:
        axes = drawing.place(figure, left=_LEFT, top=0.1, width=width - _LEFT - 0.12, height=tall)
        _set_limits(axes, ceilings, [found for _, found in points])
        _draw_ceilings(axes, ceilings, tall)
        _draw_points(axes, [(numbers[artifact], colors[artifact], found) for artifact, found in points], tall)
        drawing.legend(figure, lines, top=0.1 + tall + drawing.SCALE)

    title = f"Roofline of {len(points)} artifacts"
    total = 0.1 + tall + drawing.SCALE + drawing.LINE * len(lines)
    return drawing.svg(paint, name="roofline", title=title, width=width, height=total)


def _highest(ceilings: Sequence[Ceiling]) -> dict[str, float]:
    """The highest ceiling of each precision."""
    highest: dict[str, float] = {}
    for ceiling in ceilings:
        if ceiling.work != "copy":
            highest[ceiling.precision] = max(highest.get(ceiling.precision, 0), ceiling.per_second)
    return highest


def _bandwidth(ceilings: Sequence[Ceiling]) -> float | None:
    return max((ceiling.per_second for ceiling in ceilings if ceiling.work == "copy"), default=None)


def _set_limits(axes: Axes, ceilings: Sequence[Ceiling], found: Sequence[Roofline]) -> None:
    """Room for everything, and beside the points for the ceilings' names."""
    rates = [*_highest(ceilings).values(), *(one.operations_per_second for one in found)]
    places = [one.intensity for one in found]
    bandwidth = _bandwidth(ceilings)
    if bandwidth is not None:
        places += [rate / bandwidth for rate in _highest(ceilings).values()]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(min(places) / 8, max(places) * 14)
    axes.set_ylim(min(rates) / 3, max(rates) * 2)
    axes.locator_params(axis="y", subs=(1, 2, 5))
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: wording.significant(value, 1))
    axes.yaxis.set_major_formatter(lambda value, _: wording.significant(value / 1e12, 1))
    axes.set_xlabel("operations per byte")
    axes.set_ylabel("TFLOP/s (int8: TOP/s)")


def _draw_ceilings(axes: Axes, ceilings: Sequence[Ceiling], tall: float) -> None:
    bandwidth, (left, right) = _bandwidth(ceilings), axes.get_xlim()
    rates = _highest(ceilings)
    for rate in rates.values():
        knee = left if bandwidth is None else rate / bandwidth
        axes.plot((knee, right), (rate, rate), color=drawing.MUTED, linewidth=1.2)
    if bandwidth is not None and rates:
        top = max(rates.values())
        axes.plot((left, top / bandwidth), (left * bandwidth, top), color=drawing.MUTED, linewidth=1.2)
        _name_slope(axes, bandwidth)
    heights = drawing.spread_apart([_inches(axes, rate, tall) for rate in rates.values()], 0.17, limit=tall - 0.2)
    for (precision, rate), height in zip(rates.items(), heights, strict=True):
        text = f"{precision} {wording.rate(rate, precision)}"
        axes.text(0.99, (height + 0.05) / tall, text, transform=axes.transAxes, ha="right", fontsize=drawing.SMALL)


def _name_slope(axes: Axes, bandwidth: float) -> None:
    """In the corner above the slope, where no artifact can be."""
    text = f"memory\n{wording.rate(bandwidth, 'bytes')}"
    axes.text(0.03, 0.98, text, transform=axes.transAxes, va="top", fontsize=drawing.SMALL)


def _inches(axes: Axes, rate: float, tall: float) -> float:
    """Height of a rate above the lower end of the scale."""
    bottom, top = axes.get_ylim()
    return tall * math.log(rate / bottom) / math.log(top / bottom)


def _draw_points(axes: Axes, points: Sequence[tuple[int, str, Roofline]], tall: float) -> None:
    """The artifacts, with their numbers beside them and apart from each other: downwards, away from the ceilings."""
    depths = drawing.spread_apart(
        [-_inches(axes, found.operations_per_second, tall) for *_, found in points], 0.16, limit=-0.06
    )
    for (number, color, found), depth in zip(points, depths, strict=True):
        at = found.intensity, found.operations_per_second
        axes.plot(*at, "o", markersize=7, color=color, markeredgecolor="white", markeredgewidth=0.8)
        axes.annotate(
            str(number),
            at,
            xytext=(at[0] * 1.35, -depth / tall),
            textcoords=("data", "axes fraction"),
            va="center",
            fontsize=drawing.SMALL,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 2},
        )


def sweep(record: Record, over: str, colors: Mapping[str, str], *, width: float) -> str:
    """Seconds, and below them peak memory, against size.

    Args:
        record: At least one sweep goes over this.
        over: "batch", "clips" or "frames".
        colors: Of the artifacts.
        width: Inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    sweeps = [one for one in record.sweeps if one.over == over]
    names = wording.short_names([one.artifact for one in sweeps], _NAME_LENGTH)
    lines = [line for name, one in zip(names, sweeps, strict=True) for line in _sweep_lines(name, one, colors)]
    below = 0.1 + _TIMES + _GAP + _MEMORIES + drawing.SCALE

    def paint(figure: Figure) -> None:
        upper, lower = _panels(figure, over)
        for one in sweeps:
            color = colors.get(one.artifact, drawing.MUTED)
            _draw_seconds(upper, one, color)
            _draw_memory(lower, one, color)
        for axes in (upper, lower):
            axes.set_xlim(left=0)
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        drawing.legend(figure, lines, top=below)

    title = f"{SWEEPS[over]}, of {len(sweeps)} artifacts"
    height = below + drawing.LINE * len(lines)
    return drawing.svg(paint, name=f"sweep-{over}", title=title, width=width, height=height)


_TIMES, _GAP, _MEMORIES = 1.9, 0.25, 1.4
"""Inches of the two parts of a sweep and between them."""


def _panels(figure: Figure, over: str) -> tuple[Axes, Axes]:
    inside = figure.get_size_inches()[0] - _LEFT - 0.2
    upper = drawing.place(figure, left=_LEFT, top=0.1, width=inside, height=_TIMES)
    lower = drawing.place(figure, left=_LEFT, top=0.1 + _TIMES + _GAP, width=inside, height=_MEMORIES)
    upper.set_ylabel("seconds")
    upper.tick_params(labelbottom=False)
    lower.set_ylabel("peak memory, MiB")
    lower.set_xlabel(_LABELS[over])
    for axes in (upper, lower):
        axes.locator_params(axis="x", nbins=6, integer=True)
        axes.xaxis.set_major_formatter(lambda size, _: f"{size:,.0f}")
    return upper, lower


def _sweep_lines(name: str, one: Sweep, colors: Mapping[str, str]) -> list[tuple[str, str, str]]:
    return [(colors.get(one.artifact, drawing.MUTED), "o", name), (drawing.MUTED, "", fitted(one))]


def fitted(one: Sweep) -> str:
    """The fitted line in words."""
    if one.seconds_per_unit is None or one.fixed_seconds is None:
        return "no line through one size"
    unit = _UNITS[one.over]
    sign = "-" if one.fixed_seconds < 0 else "+"
    text = f"{wording.seconds(one.seconds_per_unit)} per {unit} {sign} {wording.seconds(abs(one.fixed_seconds))}"
    return text if one.bytes_per_unit is None else f"{text}, {wording.memory(one.bytes_per_unit)} per {unit}"


def _draw_seconds(axes: Axes, one: Sweep, color: str) -> None:
    for point in one.points:
        ends = [[point.median - min(point.seconds)], [max(point.seconds) - point.median]]
        face = drawing.PAPER if point.is_noisy else color
        axes.errorbar(
            point.size, point.median, yerr=ends, fmt="o", markersize=5, color=color, markerfacecolor=face, capsize=3
        )
    if one.seconds_per_unit is not None and one.fixed_seconds is not None:
        ends_at = max(point.size for point in one.points)
        line = (one.fixed_seconds, one.fixed_seconds + ends_at * one.seconds_per_unit)
        axes.plot((0, ends_at), line, "--", color=color, linewidth=1.2)


def _draw_memory(axes: Axes, one: Sweep, color: str) -> None:
    sizes = [point.size for point in one.points]
    memories = [point.peak_host_bytes / 2**20 for point in one.points]
    axes.plot(sizes, memories, "o", markersize=5, color=color)
    if one.bytes_per_unit is not None:
        # A line of least squares goes through the means.
        middle, slope = statistics.fmean(sizes), one.bytes_per_unit / 2**20
        ends = (0, max(sizes))
        line = [statistics.fmean(memories) + (size - middle) * slope for size in ends]
        axes.plot(ends, line, "--", color=color, linewidth=1.2)
