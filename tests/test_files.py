"""Writing that never leaves half a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from i3d_deploy import files


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with files.replacing(path) as (target,):
        target.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.replacing(path) as (target,):
        target.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_set_appears_together(tmp_path: Path) -> None:
    weights, graph = tmp_path / "a.bin", tmp_path / "a.xml"
    with pytest.raises(FileNotFoundError), files.replacing(weights, graph) as (target, _):
        target.write_text("weights alone")
    assert list(tmp_path.iterdir()) == []


def test_files_have_the_usual_mode(tmp_path: Path) -> None:
    path, usual = tmp_path / "a", tmp_path / "usual"
    usual.touch()
    with files.replacing(path) as (target,):
        target.touch(mode=0o600)
    assert path.stat().st_mode == usual.stat().st_mode


def test_a_link_is_followed(tmp_path: Path) -> None:
    path, link = tmp_path / "real", tmp_path / "link"
    path.write_text("old")
    link.symlink_to(path)
    with files.replacing(link) as (target,):
        target.write_text("new")
    assert link.is_symlink()
    assert path.read_text() == "new"


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"), files.replacing(path):
        pass
    assert path.is_fifo()


def test_a_set_is_never_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, graph = tmp_path / "a.bin", tmp_path / "a.xml"
    for path in (weights, graph):
        path.write_text("old")
    rename, renamed = Path.replace, []

    def crash_at_the_second(self: Path, target: Path) -> Path:
        renamed.append(target)
        if len(renamed) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", crash_at_the_second)
    with pytest.raises(KeyboardInterrupt), files.replacing(weights, graph) as targets:
        for target in targets:
            target.write_text("new")
    assert weights.read_text() == "new"
    assert not graph.exists()


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert files.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "a"
    for text in ("one", "two"):
        with files.replacing_folder(folder) as target:
            (target / text).mkdir()
            (target / text / "file").write_text(text)
            assert not (folder / text).exists()
    assert [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))] == ["two", "two/file"]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(KeyboardInterrupt), files.replacing_folder(folder) as target:
        (target / "half").touch()
        raise KeyboardInterrupt
    rename = Path.rename

    def fail_to_come_in(self: Path, target: Path) -> Path:
        if self.parent.name == "new":
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_to_come_in)
    with pytest.raises(OSError, match="disk full"), files.replacing_folder(folder) as target:
        (target / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("file")
    with pytest.raises(OSError, match="not a folder"), files.replacing_folder(path):
        pass
    assert path.read_text() == "file"
