"""Figures as SVG text or PNG files: the same drawing gives the same bytes, nothing comes from outside.

In SVG, text stays text.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

from i3d_deploy.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1b1f24"
MUTED = "#59636e"
GRID = "#d8dee4"
PAPER = "#fefefe"
"""What is behind a drawing, for hollow points."""

PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#882255", "#999933", "#7f7f7f")
"""Colours of artifacts, apart for every kind of colour blindness: six of Okabe and Ito (2008), without yellow and
black, two of Tol's "muted" (2021), and grey."""

FONT_SIZE = 10.5
SMALL = 9.5
MARGIN = 0.08
"""Inches around a drawing."""

SCALE = 0.5
"""Inches for numbers and label below a scale."""

LINE = 0.2
"""Inches of a line of a legend."""

_MEASURED_FONT = "DejaVu Sans"
"""It comes with matplotlib and is wider than what readers have, so that texts fit anywhere."""

_READER_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": SMALL,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": _MEASURED_FONT,
    "font.size": FONT_SIZE,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "hatch.linewidth": 1.4,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelsize": SMALL,
    "ytick.color": MUTED,
    "ytick.labelsize": SMALL,
}


def require() -> None:
    """Check that figures can be drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401 - whether it is there
    except ImportError as error:
        raise MissingExtraError("matplotlib", extra="report", cause=error) from error


def svg(
    paint: Callable[[Figure], None], *, name: str, title: str, width: float, height: float, background: str = "none"
) -> str:
    """Draw a figure, as an ``svg`` element.

    Args:
        paint: Draws into the empty figure.
        name: Begins every ``id``, so that several drawings may lie in one document.
        title: For readers who do not see it.
        width: Inches.
        height: Inches.
        background: A colour, or "none".

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    stream = io.StringIO()
    with _styled(width, height, salt=name, background=background) as figure:
        paint(figure)
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _finish(stream.getvalue(), name, title)


def png(path: Path, paint: Callable[[Figure], None], *, width: float, height: float) -> None:
    """Draw a figure as a PNG file.

    Args:
        path: Overwritten.
        paint: Draws into the empty figure.
        width: Inches, of 160 pixels.
        height: Inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with _styled(width, height, salt="", background=PAPER) as figure:
        paint(figure)
        figure.savefig(path, format="png", dpi=160, metadata={"Software": None})


@contextmanager
def _styled(width: float, height: float, *, salt: str, background: str) -> Iterator[Figure]:
    """An empty figure, and the house style while it is drawn and saved."""
    require()
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        # Names may have letters that the font lacks; readers of SVG have fonts with them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()  # a reader's matplotlibrc must not change a report
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": salt})
        figure = Figure(figsize=(width, height), dpi=72, facecolor=background)
        FigureCanvasSVG(figure)  # saving as PNG takes another for the while
        yield figure


def _finish(document: str, name: str, title: str) -> str:
    """One element without prologue, whose names are its own, in the reader's fonts."""
    element = document[document.index("<svg") :]
    element = re.sub(r'((?: id|xlink:href)="#?|url\(#)', rf"\g<1>{name}-", element)
    element = element.replace(f"'{_MEASURED_FONT}'", _READER_FONTS)
    element = re.sub(r"<metadata>.*?</metadata>\s*", "", element, flags=re.DOTALL)
    return element.replace("<svg ", f'<svg role="img" aria-label={quoteattr(title)} ', 1)


def place(figure: Figure, *, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches from the upper left corner."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def rows(figure: Figure, count: int, *, top: float, height: float, label: str) -> Axes:
    """Axes over the whole width with one row per artifact, without a scale upwards: row i spans i to i + 1, downwards.

    Args:
        figure: The figure; it needs :data:`SCALE` inches below the rows.
        count: Rows.
        top: Inches above them.
        height: Inches of a row.
        label: What the scale below shows.
    """
    across = figure.get_size_inches()[0]
    side = 0.2  # half the width of a number at the end of the scale
    axes = place(figure, left=side, top=top, width=across - 2 * side, height=count * height)
    axes.set_ylim(count, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(visible=True, axis="x")
    axes.set_xlabel(label)
    return axes


def heading(figure: Figure, text: str) -> None:
    """A line above everything."""
    across, down = figure.get_size_inches()
    figure.text(0.2 / across, 1 - 0.17 / down, text, va="center", weight="bold")


def row_text(axes: Axes, y: float, left: str, right: str = "", *, is_small: bool = False) -> None:
    """A line of text in a row: one part at its beginning, one at its end.

    Args:
        axes: From :func:`rows`.
        y: Middle of the line, in rows.
        left: Begins the line.
        right: Ends it.
        is_small: In the secondary size and colour.
    """
    size, color = (SMALL, MUTED) if is_small else (FONT_SIZE, INK)
    across = axes.get_yaxis_transform()
    axes.text(0, y, left, transform=across, va="center", fontsize=size, color=color)
    axes.text(1, y, right, transform=across, va="center", ha="right", fontsize=size, color=color)


def legend(figure: Figure, lines: Sequence[tuple[str, str, str]], *, top: float) -> None:
    """Lines below a drawing, each :data:`LINE` inches high.

    Args:
        figure: The figure.
        lines: Colour, marker and text; an empty marker goes on with the line above.
        top: Inches above them.
    """
    across = figure.get_size_inches()[0]
    axes = place(figure, left=MARGIN, top=top, width=across - 2 * MARGIN, height=LINE * len(lines))
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(lines), 0)
    for number, (color, marker, text) in enumerate(lines):
        if marker:
            axes.plot(0.02, number + 0.5, marker=marker, color=color, markersize=6, linestyle="none")
        axes.text(0.055, number + 0.5, text, va="center", fontsize=SMALL)


def spread_apart(places: Sequence[float], distance: float, *, limit: float = math.inf) -> list[float]:
    """Places moved up as far as texts there need in order not to overlap, or down where there is no more room.

    Args:
        places: Wished places, in any order.
        distance: The least between two.
        limit: None may be beyond.
    """
    moved = list(places)
    order = sorted(range(len(places)), key=lambda number: places[number])
    for below, above in pairwise(order):
        moved[above] = max(moved[above], moved[below] + distance)
    for steps, number in enumerate(reversed(order)):
        moved[number] = min(moved[number], limit - steps * distance)
    return moved
