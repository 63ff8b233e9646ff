"""Writing that never leaves half a file."""

from __future__ import annotations

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


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert files.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
