"""The confusion matrix as a table and as a picture."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from i3d_deploy import confusion
from i3d_deploy.errors import InputError, MissingExtraError

LABELS = ("run", 'say "hi"', "costs $5, or $6", "größer")


def test_the_table_counts_true_classes_in_rows(tmp_path: Path) -> None:
    # "run" three times, once taken for "größer"; "costs" once, taken for "größer".
    confusion.write(tmp_path / "m.png", predicted=[0, 0, 3, 3], true=[0, 0, 0, 2], labels=LABELS)
    with (tmp_path / "m.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["true class", "run", "costs $5, or $6", "größer"],
            ["run", "2", "0", "1"],
            ["costs $5, or $6", "0", "0", "1"],
            ["größer", "0", "0", "0"],
        ]


@pytest.mark.parametrize("count", [1, 8, 30, 400])
def test_a_cell_of_the_picture_has_dots_enough(tmp_path: Path, count: int) -> None:
    labels = [f"a rather long name of a class, number {number}" for number in range(count)]
    classes = list(range(count))
    confusion.write(tmp_path / "m.png", predicted=classes, true=classes, labels=labels)
    picture = cv2.imread(str(tmp_path / "m.png"))
    assert picture is not None
    # Blues ends in (8, 48, 107) RGB: the diagonal, and the end of the colour bar.
    is_full = np.abs(picture.astype(int) - [107, 48, 8]).max(axis=2) < 8
    columns = np.flatnonzero(is_full.any(axis=0))
    assert len(columns) > 4 * count
    assert max(picture.shape) < 3000


def test_only_png_is_drawn() -> None:
    with pytest.raises(InputError, match=r"m.pdf: the confusion matrix is drawn as .png, with a .csv beside it"):
        confusion.check(Path("m.pdf"))


def test_without_matplotlib_the_pip_command_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib.backends.backend_agg", "matplotlib.figure", "matplotlib"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"matplotlib .*pip install 'i3d-deploy\[train\]'"):
        confusion.check(Path("m.png"))
