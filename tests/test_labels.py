"""Label sets and label files."""

from __future__ import annotations

from pathlib import Path

import pytest

from i3d_deploy import labels
from i3d_deploy.errors import InputError

# First, some middle and last name of each set, as the data sets' own class lists number them.
KNOWN = [
    ("kinetics400", {0: "abseiling", 6: "arm wrestling", 99: "dribbling basketball", 399: "zumba"}),
    ("ucf101", {0: "ApplyEyeMakeup", 2: "Archery", 100: "YoYo"}),
    ("hmdb51", {0: "brush_hair", 50: "wave"}),
]


@pytest.mark.parametrize(("name", "known"), KNOWN)
def test_shipped_sets_have_their_names_in_order(name: str, known: dict[int, str]) -> None:
    names = labels.load(name)
    assert len(names) == len(set(names)) == labels.LABEL_SETS[name]
    assert list(names) == sorted(names, key=str.lower if name != "kinetics400" else None)
    assert {index: names[index] for index in known} == known


def test_an_unknown_set_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="'kinetics' is not one of hmdb51, kinetics400, ucf101"):
        labels.load("kinetics")


def test_a_label_file_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("run\njump high\n\n", encoding="utf-8")
    assert labels.read(path) == ("run", "jump high")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a\n\nb\n", "empty line 2"),
        (b"a\nb\na\n", "'a' a second time in line 3"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_a_bad_label_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        labels.read(path)


def test_a_label_file_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labels\.txt cannot be read"):
        labels.read(tmp_path / "labels.txt")


@pytest.mark.parametrize(("count", "name", "first"), [(400, "kinetics400", "abseiling"), (3, "numbered", "class_0")])
def test_labels_are_guessed_from_the_count(count: int, name: str, first: str) -> None:
    found, names = labels.for_count(count)
    assert (found, names[0], len(names)) == (name, first, count)
