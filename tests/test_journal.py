"""Journals of killed evaluations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from i3d_deploy.errors import InputError
from i3d_deploy.journal import Entry, Journal

IDENTITY = {"artifact": {".onnx": "ab"}, "averaging": "prob"}


def rows(seed: int, count: int = 1) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal((count, 5)).astype(np.float32)


def write(journal: Journal, rank: int, *entries: Entry) -> None:
    with journal.writing(rank) as writer:
        for entry in entries:
            writer.add(entry)


def test_entries_come_back_to_the_bit(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", IDENTITY)
    write(journal, 0, Entry(index=4, rows=rows(0, 3), warnings=("short: größer",)), Entry(index=0, error="no file"))
    write(journal, 12, Entry(index=1, rows=rows(1)))
    found = Journal(tmp_path / "j", dict(reversed(IDENTITY.items()))).read()
    assert sorted(found) == [0, 1, 4]
    np.testing.assert_array_equal(found[4].rows, rows(0, 3))
    assert found[4].rows is not None
    assert found[4].rows.dtype == np.float32
    assert found[4].warnings == ("short: größer",)
    assert (found[0].rows, found[0].error) == (None, "no file")


def test_there_is_no_entry_without_a_folder(tmp_path: Path) -> None:
    assert Journal(tmp_path / "j", IDENTITY).read() == {}


@pytest.mark.parametrize("ranks", [(0, 1), (1, 0)])
def test_a_video_that_was_read_once_counts_as_read(tmp_path: Path, ranks: tuple[int, int]) -> None:
    journal = Journal(tmp_path, IDENTITY)
    write(journal, ranks[0], Entry(index=0, error="busy"))
    write(journal, ranks[1], Entry(index=0, rows=rows(0)))
    assert journal.read()[0].error is None


@pytest.mark.parametrize("size", [1, 70_000], ids=["short", "longer than a block"])
def test_a_torn_last_line_is_ignored_and_cut_off(tmp_path: Path, size: int) -> None:
    journal = Journal(tmp_path, IDENTITY)
    write(journal, 0, Entry(index=0, rows=rows(0)))
    path = tmp_path / "rank_0.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"index": 1, "rows": [[' + b"1" * size)
    assert list(journal.read()) == [0]
    write(journal, 0, Entry(index=2, rows=rows(2)))
    assert path.read_bytes().startswith(whole)
    assert list(journal.read()) == [0, 2]


def test_a_torn_first_line_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "rank_0.jsonl").write_text('{"artif')
    journal = Journal(tmp_path, IDENTITY)
    assert journal.read() == {}
    write(journal, 0, Entry(index=2, rows=rows(2)))
    assert list(journal.read()) == [2]


def test_a_journal_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    write(Journal(tmp_path, IDENTITY), 0, Entry(index=0, error="x"))
    other = Journal(tmp_path, {**IDENTITY, "averaging": "score"})
    with pytest.raises(InputError, match=r"left from another evaluation \(averaging differ\): remove it, or give --fr"):
        other.read()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello\n", "rank_0.jsonl is no journal of an evaluation"),
        ("[1]\n", "rank_0.jsonl is no journal of an evaluation"),
        ('{"averaging": "prob", "artifact": {".onnx": "ab"}}\n{"rows": [[1]]}\n', "line 2 is damaged"),
        ('{"averaging": "prob", "artifact": {".onnx": "ab"}}\n\0\0\0\n', "line 2 is damaged"),
    ],
)
def test_a_damaged_journal_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rank_0.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        Journal(tmp_path, IDENTITY).read()


def test_two_evaluations_do_not_write_the_same_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path, IDENTITY)
    with (
        journal.writing(0),
        pytest.raises(InputError, match=r"rank_0.jsonl is being written by another evaluation"),
        journal.writing(0),
    ):
        pass


def test_removing_spares_what_is_not_of_a_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", IDENTITY)
    write(journal, 0)
    (tmp_path / "j" / "notes.txt").touch()
    journal.remove()
    assert [path.name for path in (tmp_path / "j").iterdir()] == ["notes.txt"]
    (tmp_path / "j" / "notes.txt").unlink()
    journal.remove()
    assert not (tmp_path / "j").exists()
    journal.remove()
