"""Which class was taken for which, as a table and as a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import files, metrics
from i3d_deploy.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NAMED = 30
"""Classes up to which the picture has their names and counts; beyond, it has their numbers at the axes."""

_MAX_NAME_LENGTH = 28
_SHARES_SHOWN = (0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1)


def check(path: Path) -> None:
    """Whether a picture can be written, before hours are spent on what it shows.

    Raises:
        InputError: It is no ``.png``.
        MissingExtraError: matplotlib is not installed.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: the confusion matrix is drawn as .png, with a .csv beside it")
    _figure(1.0)


def write(path: Path, *, predicted: Sequence[int], true: Sequence[int], labels: Sequence[str]) -> None:
    """Draw the confusion matrix of the classes that occur, and write its counts as a table beside it.

    Args:
        path: A ``.png``; the table has its name with ``.csv``. Rows are true classes, columns predicted ones.
        predicted: N classes.
        true: N classes.
        labels: The names of all classes.

    Raises:
        InputError: It is no ``.png``.
        MissingExtraError: matplotlib is not installed.
    """
    check(path)
    classes = metrics.occurring(predicted, true).tolist()
    counts = metrics.confusion_matrix(predicted, true)
    with files.replacing(path.with_suffix(".csv"), path) as (table, picture):
        _write_table(table, counts, [labels[number] for number in classes])
        figure = _draw(counts, metrics.confusion_matrix(predicted, true, "true"), classes, labels)
        figure.savefig(picture, format="png", metadata={"Software": None})


def _write_table(path: Path, counts: NDArray[Any], names: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["true class", *names])
        writer.writerows([name, *row] for name, row in zip(names, counts.tolist(), strict=True))


def _figure(inches: float, *, dots_per_inch: int = 100) -> Figure:
    """A figure of its own, without pyplot's windows and global state; it draws with Agg."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", extra="train", cause=error) from error
    figure = Figure(figsize=(inches, inches), dpi=dots_per_inch, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw(counts: NDArray[Any], shares: NDArray[Any], classes: Sequence[int], labels: Sequence[str]) -> Figure:
    count = len(classes)
    is_named = count <= MAX_NAMED
    # With names a cell has room for a count; without, 400 classes still get five dots a cell.
    figure = _figure(4 + 0.4 * count, dots_per_inch=120) if is_named else _figure(12, dots_per_inch=220)
    axes = figure.add_subplot()
    # A class of hundreds is mistaken for many others, a little for each: the square root brings these out.
    image = axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    bar.set_ticks(np.sqrt(_SHARES_SHOWN).tolist(), labels=[f"{share:g}" for share in _SHARES_SHOWN])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if is_named:
        _name_axes(axes, [_short(labels[number]) for number in classes])
        _write_counts(axes, counts, shares)
        return figure
    places = range(0, count, -(-count // 20))
    numbers = [str(classes[place]) for place in places]
    axes.set_xticks(places, numbers, rotation=90)
    axes.set_yticks(places, numbers)
    return figure


def _name_axes(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)


def _write_counts(axes: Axes, counts: NDArray[Any], shares: NDArray[Any]) -> None:
    for row, column in np.argwhere(counts).tolist():
        color = "white" if shares[row, column] > 0.3 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize="small")


def _short(name: str) -> str:
    """A name that leaves room for the matrix, with nothing that matplotlib takes for a formula."""
    cut = name if len(name) <= _MAX_NAME_LENGTH else name[: _MAX_NAME_LENGTH - 1] + "…"
    return cut.replace("$", r"\$")
