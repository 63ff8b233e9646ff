"""Tables of predictions, and what is left of them by a process that was killed."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from i3d_deploy import prediction_files
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.prediction_files import JOURNAL, Basis, Origin, Row
from i3d_deploy.predictions import Prediction

BASIS = Basis(artifact_sha256="ab" * 32, settings="clips 1, top 2")
KINDS = ["t.jsonl", "t.parquet"]


def origin(name: str) -> Origin:
    return Origin(video=name, path=f"/videos/{name}", size_bytes=1 << 40, modified_seconds=1_764_400_000.123456)


def row(name: str, seed: int = 0, *, of: Origin | None = None) -> Row:
    """The row of a video with three classes."""
    probabilities = np.random.RandomState(seed).dirichlet([1, 1, 1]).astype(np.float32)
    prediction = Prediction(
        labels=("run", "größer", 'say "hi"'),
        logits=np.zeros((6, 3), np.float32),
        probabilities=probabilities,
        frames=40,
        warnings=("cut short",),
    )
    return prediction_files.predicted(of or origin(name), prediction, top=2, basis=BASIS, ran_by="onnxruntime on cpu")


def broken(name: str) -> Row:
    error = VideoError(f"{name}: broken")
    return prediction_files.failed(origin(name), error, basis=BASIS, ran_by="onnxruntime on cpu")


def missing(*names: str) -> dict[str, str]:
    """Wanted videos that are not there."""
    return {f"/videos/{name}": f"/videos/{name}" for name in names}


def write(path: Path, rows: Sequence[Row], **options: Any) -> set[str]:
    """Open a table and add rows to it; what it had before."""
    with prediction_files.opened(path, BASIS, **options) as table:
        before = set(table.done)
        for entry in rows:
            table.add(entry)
    return before


def read(path: Path) -> list[Row]:
    """The rows as another program reads them."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return parquet.read_table(path).to_pylist() if list(path.glob("*.parquet")) else []


@pytest.mark.parametrize("name", KINDS)
def test_rows_come_back_to_the_bit(tmp_path: Path, name: str) -> None:
    rows = [row("a.mp4", 1), row("http://host/größer.mp4", 2), broken("c.mp4")]
    write(tmp_path / "new" / name, rows)
    found = read(tmp_path / "new" / name)
    assert found == rows
    assert [np.float32(entry["probability"]) for entry in found[0]["top"]] == [
        entry["probability"] for entry in rows[0]["top"]
    ]
    of_the_video = ["video", "path", "size_bytes", "modified_seconds"]
    predictions = ["top", "views", "frames", "warnings", "error"]
    assert list(found[0]) == [*of_the_video, *predictions, "artifact_sha256", "settings", "ran_by"]
    assert list(found[2]) == list(found[0])


@pytest.mark.parametrize("name", KINDS)
def test_videos_with_a_row_are_done(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert write(path, [row("a"), row("b")]) == set()
    assert write(path, [row("c")]) == {"/videos/a", "/videos/b"}
    assert [entry["video"] for entry in read(path)] == ["a", "b", "c"]


@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_was_replaced_is_another_video(tmp_path: Path, name: str) -> None:
    table, files = tmp_path / name, [tmp_path / f"{name}.mp4" for name in "abcdef"]
    # A path need not be the address: not where names are not UTF-8.
    addresses = {f"/videos/{file.name}": str(file) for file in files}
    for file in files:
        file.write_bytes(b"1")
        os.utime(file, ns=(0, 1_764_400_000_123_456_789))
    rows = [
        row(name, of=Origin.of(name, path, file))
        for name, (path, file) in zip("abcdef", addresses.items(), strict=True)
    ]
    write(table, rows)
    assert write(table, [], wanted=addresses) == {*addresses}

    larger, younger, gone, unwanted, touched_by_less_than_is_kept, _ = files
    larger.write_bytes(b"12")
    os.utime(larger, ns=(0, 1_764_400_000_123_456_789))
    os.utime(younger, ns=(0, 1_764_400_000_123_459_000))
    os.utime(touched_by_less_than_is_kept, ns=(0, 1_764_400_000_123_456_999))
    gone.unlink()
    unwanted.write_bytes(b"12")
    wanted = {path: file for path, file in addresses.items() if file != str(unwanted)}
    with prediction_files.opened(table, BASIS, wanted=wanted) as opened:
        assert (opened.done, opened.num_replaced) == ({*addresses} - {"/videos/a.mp4", "/videos/b.mp4"}, 2)
        opened.add(row("b", of=Origin.of("b", "/videos/b.mp4", str(younger))))
    assert sorted(entry["video"] for entry in read(table)) == ["b", "c", "d", "e", "f"]
    assert write(table, [], wanted=wanted) == {*addresses} - {"/videos/a.mp4"}


def test_what_is_no_file_has_no_size(tmp_path: Path) -> None:
    folder = Origin.of("frames", "/frames", str(tmp_path))
    assert folder.size_bytes is None
    assert folder.modified_seconds == pytest.approx(tmp_path.stat().st_mtime, abs=1e-6)
    for address in ("http://host/a.mp4", str(tmp_path / "no.mp4"), "\0"):
        assert Origin.of("a", "/a", address) == Origin(video="a", path="/a", size_bytes=None, modified_seconds=None)


@pytest.mark.parametrize("name", KINDS)
def test_videos_that_could_not_be_read_are_tried_again_where_they_are_wanted(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, [row("a"), broken("b"), broken("c")])
    assert write(path, [row("b")], wanted=missing("a", "b")) == {"/videos/a", "/videos/c"}
    assert sorted(read(path), key=lambda entry: str(entry["video"])) == [row("a"), row("b"), broken("c")]


@pytest.mark.parametrize("name", KINDS)
def test_a_table_of_errors_alone_can_be_tried_again(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, [broken("a")])
    assert write(tmp_path / name, [broken("a")], wanted=missing("a")) == set()
    assert read(tmp_path / name) == [broken("a")]


@pytest.mark.parametrize("name", KINDS)
def test_a_row_survives_a_killed_process_and_half_of_one_does_not(tmp_path: Path, name: str) -> None:
    path, killed = tmp_path / name, tmp_path / "killed" / name
    killed.parent.mkdir()
    with prediction_files.opened(path, BASIS) as table:
        table.add(row("a"))
        table.add(broken("b"))
        # What is on the disk at this moment is what a killed process leaves.
        if path.is_dir():
            shutil.copytree(path, killed)
        else:
            shutil.copy(path, killed)
    lines = killed / JOURNAL if killed.is_dir() else killed
    with lines.open("ab") as stream:
        stream.write(b'{"video": "c", "top": [{"la')
    assert write(killed, [row("c")]) == {"/videos/a", "/videos/b"}
    assert read(killed) == [row("a"), broken("b"), row("c")]


def test_rows_are_there_once_when_a_process_was_killed_before_the_journal_was_cleared(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write(path, [row("a"), row("b")])
    lines = "".join(json.dumps(entry) + "\n" for entry in (row("a"), row("b"), row("c")))
    (path / JOURNAL).write_text(lines)
    assert write(path, [row("d")]) == {"/videos/a", "/videos/b", "/videos/c"}
    assert [entry["video"] for entry in read(path)] == ["a", "b", "c", "d"]


def test_many_rows_become_a_part_while_the_table_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_files, "ROWS_OF_A_PART", 2)
    path = tmp_path / "t.parquet"
    with prediction_files.opened(path, BASIS) as table:
        for name in "abc":
            table.add(row(name))
        assert [entry["video"] for entry in read(path)] == ["a", "b"]
    assert sorted(entry.name for entry in path.glob("part-*")) == ["part-000000.parquet", "part-000001.parquet"]
    assert [entry["video"] for entry in read(path)] == ["a", "b", "c"]


@pytest.mark.parametrize("name", KINDS)
def test_rows_made_in_another_way_are_refused_or_overwritten(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, [row("a"), broken("b")])
    for basis, what in (
        (Basis(artifact_sha256="cd" * 32, settings=BASIS.settings), "artifact_sha256 was abab"),
        (
            Basis(artifact_sha256=BASIS.artifact_sha256, settings="clips 10, top 2"),
            "settings was clips 1, top 2, now cl",
        ),
    ):
        with (
            pytest.raises(InputError, match=rf"{name}.* holds rows that were made otherwise \({what}.*--overwrite"),
            prediction_files.opened(path, basis, wanted=missing("b")),
        ):
            pass
    assert [entry["video"] for entry in read(path)] == ["a", "b"]
    assert write(path, [row("c")], overwrite=True) == set()
    assert read(path) == [row("c")]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("rows", [[], [broken("a")]], ids=["as it was", "replaced"])
def test_one_process_writes(tmp_path: Path, name: str, rows: list[Row]) -> None:
    path = tmp_path / name
    write(path, rows)
    with (
        prediction_files.opened(path, BASIS, wanted=missing("a")),
        pytest.raises(InputError, match=r" is being written by another run: wait for it$"),
        prediction_files.opened(path, BASIS),
    ):
        pass


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text('{"label": "run"}')
    (tmp_path / "mixed.jsonl").write_text(json.dumps(row("a")) + '\n{"video": "b"}\n')
    (tmp_path / "damaged.parquet").mkdir()
    (tmp_path / "damaged.parquet" / "part-000000.parquet").write_text("no")
    (tmp_path / "file.parquet").write_text("no")
    for name, message in (
        ("notes.jsonl", "line 1 is no row of i3d-predict: give another --output, or --overwrite"),
        ("mixed.jsonl", "line 2 is no row of i3d-predict"),
        ("damaged.parquet", "part-000000.parquet is damaged: remove it, or give --overwrite"),
        ("file.parquet", "is a file, and a table is a folder of part files: give another --output"),
        ("table.csv", "a table is .jsonl or .parquet"),
    ):
        with (
            pytest.raises(InputError, match=re.escape(message)),
            prediction_files.opened(tmp_path / name, BASIS),
        ):
            pass
    assert (tmp_path / "notes.jsonl").read_text() == '{"label": "run"}'
