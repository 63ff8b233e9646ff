"""Class names, in the order of the network's outputs.

Source of the shipped sets: the label maps of the data sets as mmaction2 orders them (tools/data/*/label_map*.txt),
which is the alphabetical order of the official class lists.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from i3d_deploy.errors import InputError

LABEL_SETS: dict[str, int] = {"hmdb51": 51, "kinetics400": 400, "ucf101": 101}
"""The shipped sets and their sizes."""


def load(name: str) -> tuple[str, ...]:
    """Read one of the shipped label sets.

    Args:
        name: A key of :data:`LABEL_SETS`.

    Returns:
        One name per class, in output order.

    Raises:
        InputError: No such set.
    """
    if name not in LABEL_SETS:
        raise InputError(f"label set {name!r} is not one of {', '.join(sorted(LABEL_SETS))}")
    text = resources.files("i3d_deploy").joinpath("data", f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def read(path: Path) -> tuple[str, ...]:
    """Read a text file with one class name a line; blank lines at the end are ignored.

    Raises:
        InputError: The file is no readable text, is empty, has an empty line in the middle or a name twice.
    """
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        sets = ", ".join(sorted(LABEL_SETS))
        raise InputError(f"label file {path} cannot be read: give a text file, or one of {sets}") from error
    if names == ("",):
        raise InputError(f"label file {path} is empty: write one class name a line, in the order of the outputs")
    if "" in names:
        raise InputError(f"label file {path} has an empty line {names.index('') + 1}: write one class name a line")
    seen: set[str] = set()
    for number, name in enumerate(names, 1):
        if name in seen:
            raise InputError(f"label file {path} has {name!r} a second time in line {number}")
        seen.add(name)
    return names


def for_count(num_classes: int) -> tuple[str, tuple[str, ...]]:
    """Guess labels from the number of classes.

    Args:
        num_classes: K.

    Returns:
        The name of the shipped set with that many classes and its labels, or ``"numbered"`` and ``class_0`` ... .
    """
    for name, count in LABEL_SETS.items():
        if count == num_classes:
            return name, load(name)
    return "numbered", tuple(f"class_{index}" for index in range(num_classes))
