"""The record as one HTML file: no script, nothing from outside, for a browser at any width."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from i3d_deploy.benchmark import charts, curves, drawing, wording
from i3d_deploy.benchmark.record import Ratio, Record, Result
from i3d_deploy.errors import MissingExtraError

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATE = "page.html.jinja"
_NAME_LENGTH = 30
_NEUTRAL = {drawing.INK: "ink", drawing.MUTED: "muted", drawing.GRID: "grid", drawing.PAPER: "card"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One artifact as the tables show it.

    Attributes:
        number: Its place, from 1; charts and tables use it.
        name: Shortened in the middle.
        color: Its colour in the charts.
        result: Its figures.
        ratio: Against the first; None where the record has none, as for the first itself.
    """

    number: int
    name: str
    color: str
    result: Result
    ratio: Ratio | None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One field of the table of ratios.

    Attributes:
        ratio: None where the record has none, as on the diagonal.
        shade: Of the colour behind it, 0 to 1: how far the ratio is from 1.
    """

    ratio: Ratio | None
    shade: float


def render(record: Record) -> str:
    """Make the page.

    Returns:
        An HTML document; equal records give equal documents.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    environment = _environment()
    source = resources.files("i3d_deploy.benchmark").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    rows = _rows(record)
    return environment.from_string(source).render(
        record=record,
        rows=rows,
        fastest=max(rows, key=lambda row: (row.result.is_comparable, row.result.videos_per_second)),
        matrix=_matrix(record),
        charts=[(chart, _follow_the_scheme(chart.svg)) for chart in charts.draw(record)],
        wording=wording,
        fitted=curves.fitted,
        json=_json(record),
    )


def require() -> None:
    """Check that the page can be made, before a long run.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    _environment()
    drawing.require()


def _environment() -> Environment:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise MissingExtraError("jinja2", extra="report", cause=error) from error
    return Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_without_control
    )


def _json(record: Record) -> str:
    """The record as JSON, each line with nothing that a document cannot hold."""
    from markupsafe import escape  # comes with jinja2

    return escape("\n".join(wording.printable(line) for line in record.to_json().split("\n")))


def _without_control(value: Any) -> Any:
    """Texts from outside on one line; what is HTML already is left alone."""
    return value if not isinstance(value, str) or hasattr(value, "__html__") else wording.printable(value)


def _rows(record: Record) -> list[Row]:
    names = wording.short_names([result.artifact for result in record.results], _NAME_LENGTH)
    colors, first = charts.colors(record), record.results[0].artifact
    return [
        Row(
            number=number,
            name=name,
            color=colors[result.artifact],
            result=result,
            ratio=wording.ratio_of(record, result.artifact, first),
        )
        for number, (name, result) in enumerate(zip(names, record.results, strict=True), start=1)
    ]


def _matrix(record: Record) -> list[list[Cell]]:
    """The ratio of each artifact (row) against each (column)."""
    names = [result.artifact for result in record.results]
    return [[_cell(wording.ratio_of(record, name, against)) for against in names] for name in names]


def _cell(ratio: Ratio | None) -> Cell:
    """Full colour at a ratio of 8."""
    distance = abs(math.log(ratio.ratio, 8)) if ratio and ratio.ratio > 0 else 0.0
    return Cell(ratio=ratio, shade=min(1.0, distance))


def _follow_the_scheme(svg: str) -> str:
    """Neutral colours as the page's variables, so that they change with its colour scheme."""
    for color, name in _NEUTRAL.items():
        svg = svg.replace(color, f"var(--{name})")
    return svg
