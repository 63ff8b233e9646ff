"""Checkpoints: whole or passed over, whatever happens to the process that writes them or to the disk."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
import torch

from i3d_deploy.errors import TrainingError
from i3d_deploy.training import snapshots
from i3d_deploy.training.snapshots import Snapshots
from tests.training.killed_saves import state


def saved(folder: Path, *steps: int) -> Snapshots:
    """Checkpoints after some steps."""
    made = Snapshots(folder / "checkpoints")
    for step in steps:
        made.save(state(step), made.path(step))
    return made


def step_of(found: snapshots.State | None) -> int | None:
    """The step of a checkpoint, which must hold what was saved after it."""
    if found is None:
        return None
    step: int = found["step"]
    assert found.keys() == state(step).keys()
    assert torch.equal(found["weights"], state(step)["weights"])
    return step


def test_a_new_folder_has_no_checkpoint(tmp_path: Path) -> None:
    none = Snapshots(tmp_path / "checkpoints")
    assert none.steps == []
    assert none.newest() is None
    assert not (tmp_path / "checkpoints").exists()


def test_a_checkpoint_has_its_sum_beside_it(tmp_path: Path) -> None:
    made = saved(tmp_path, 12)
    assert made.path(12) == tmp_path / "checkpoints" / "step_00000012.pth"
    digest = hashlib.sha256(made.path(12).read_bytes()).hexdigest()
    assert (tmp_path / "checkpoints" / "step_00000012.pth.sha256").read_text() == f"{digest}  step_00000012.pth\n"
    assert snapshots.what_is_wrong(made.path(12)) is None
    assert step_of(torch.load(made.path(12), weights_only=True)) == 12
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_the_best_one_counts_for_no_step(tmp_path: Path) -> None:
    made = saved(tmp_path, 1)
    made.save(state(9), made.best)
    assert made.best.name == "best.pth"
    assert (made.steps, step_of(made.newest())) == ([1], 1)
    assert step_of(snapshots.read(made.best)) == 9


def test_the_newest_is_that_of_the_latest_step(tmp_path: Path) -> None:
    made = saved(tmp_path, 900, 1000, 20)
    assert made.steps == [20, 900, 1000]
    assert step_of(made.newest()) == 1000


def test_steps_of_more_than_eight_digits_come_last(tmp_path: Path) -> None:
    made = saved(tmp_path, 99_999_999, 100_000_000)
    assert made.steps == [99_999_999, 100_000_000]
    assert step_of(made.newest()) == 100_000_000


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    made = saved(tmp_path, 3)
    for name in ("step_7.pth.part", "xstep_00000008.pth", "step_.pth", "notes.txt", "best.pth"):
        (tmp_path / "checkpoints" / name).write_text("x")
    assert made.steps == [3]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, share: float) -> None:
    made = saved(tmp_path, 1, 2)
    content = made.path(2).read_bytes()
    torn = content[: int(share * len(content))]
    made.path(2).write_bytes(torn)
    said: list[str] = []
    assert step_of(made.newest(on_damaged=said.append)) == 1
    beginning = hashlib.sha256(torn).hexdigest()[:8]
    assert said == [f"{made.path(2)} is passed over: its SHA-256 is {beginning}..., not the one recorded"]


def test_one_changed_bit_is_noticed(tmp_path: Path) -> None:
    made = saved(tmp_path, 1, 2)
    content = bytearray(made.path(2).read_bytes())
    content[len(content) // 2] ^= 1
    made.path(2).write_bytes(content)
    assert step_of(made.newest()) == 1


def test_a_checkpoint_without_its_sum_is_passed_over(tmp_path: Path) -> None:
    made = saved(tmp_path, 1, 2)
    (tmp_path / "checkpoints" / "step_00000002.pth.sha256").unlink()
    said: list[str] = []
    assert step_of(made.newest(on_damaged=said.append)) == 1
    assert said == [f"{made.path(2)} is passed over: step_00000002.pth.sha256 is missing"]


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"0" * 64], ids=["empty", "blank", "binary", "wrong"])
def test_a_damaged_sum_is_noticed(tmp_path: Path, content: bytes) -> None:
    made = saved(tmp_path, 1, 2)
    (tmp_path / "checkpoints" / "step_00000002.pth.sha256").write_bytes(content)
    said: list[str] = []
    assert step_of(made.newest(on_damaged=said.append)) == 1
    assert len(said) == 1


def test_a_sum_without_its_checkpoint_is_nothing(tmp_path: Path) -> None:
    made = saved(tmp_path, 1, 2)
    made.path(2).unlink()
    assert step_of(made.newest()) == 1
    assert snapshots.what_is_wrong(made.path(2)) == "step_00000002.pth is missing"


def test_nothing_but_damaged_checkpoints_is_an_error(tmp_path: Path) -> None:
    made = saved(tmp_path, 1, 2)
    for step in (1, 2):
        made.path(step).write_bytes(b"")
    said: list[str] = []
    with pytest.raises(TrainingError, match=r"checkpoints: none of the 2 checkpoints is whole: start another run"):
        made.newest(on_damaged=said.append)
    assert [line.partition(" is passed over")[0] for line in said] == [str(made.path(2)), str(made.path(1))]


def test_pruning_keeps_the_newest_and_what_is_asked_for(tmp_path: Path) -> None:
    made = saved(tmp_path, 2, 4, 6, 8, 9)
    made.save(state(3), made.best)
    made.prune(newest=9, keep=lambda step: step % 4 == 0)
    assert made.steps == [4, 8, 9]
    names = [f"step_0000000{step}.pth" for step in made.steps] + ["best.pth"]
    left = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert left == {*names, *(f"{name}.sha256" for name in names)}
    assert all(snapshots.what_is_wrong(tmp_path / "checkpoints" / name) is None for name in names)


def test_pruning_nothing_is_allowed(tmp_path: Path) -> None:
    Snapshots(tmp_path).prune(newest=2, keep=lambda step: False)
    made = saved(tmp_path, 2)
    made.prune(newest=2, keep=lambda step: False)
    assert made.steps == [2]


def test_pruning_never_leaves_a_damaged_one_alone(tmp_path: Path) -> None:
    # The one after step 12 was passed over, and the run went on from 9 to 10.
    made = saved(tmp_path, 9, 10, 12)
    made.path(12).write_bytes(b"")
    made.prune(newest=10, keep=lambda step: False)
    assert step_of(made.newest()) == 10
    assert made.steps == [10]


def test_what_a_killed_run_left_half_written_is_swept_away(tmp_path: Path) -> None:
    made = saved(tmp_path, 1)
    (tmp_path / "checkpoints" / ".writing-x").mkdir()
    (tmp_path / "checkpoints" / ".writing-x" / "step_00000002.pth").write_bytes(b"half")
    made.sweep()
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        "step_00000001.pth",
        "step_00000001.pth.sha256",
    }


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """A folder of processes that were killed, and before which calls, by scenario."""
    folder = tmp_path_factory.mktemp("killed")
    command: list[str | Path] = [sys.executable, Path(__file__).with_name("killed_saves.py"), folder]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def deaths(killed: tuple[Path, dict[str, list[str]]], scenario: str) -> Iterator[Snapshots]:
    """What each killed process left, and at last what one left that was not killed."""
    folder, calls = killed
    for number in range(len(calls[scenario])):
        yield Snapshots(folder / f"{scenario}-{number}")
    yield Snapshots(folder / scenario)


@pytest.mark.parametrize("scenario", ["save_the_next", "replace_the_best", "replace_a_damaged_one"])
def test_a_save_is_killed_at_every_stage(killed: tuple[Path, dict[str, list[str]]], scenario: str) -> None:
    _, calls = killed
    stages = {"mkdir", "write_record", "write_end_of_file", "write", "fsync", "chmod", "unlink", "replace", "rmdir"}
    assert stages <= set(calls[scenario])
    assert len(calls[scenario]) >= 20


def test_a_killed_save_leaves_the_older_one_or_the_new_one(killed: tuple[Path, dict[str, list[str]]]) -> None:
    found = [step_of(made.newest()) for made in deaths(killed, "save_the_next")]
    # From some call on it is the new one.
    assert [step for step, _ in groupby(found)] == [1, 2]
    # A kill between the two renames leaves one without its sum.
    assert "step_00000002.pth.sha256 is missing" in {
        snapshots.what_is_wrong(made.path(2)) for made in deaths(killed, "save_the_next")
    }


def test_a_killed_save_over_a_damaged_one_leaves_the_older_one_or_the_new_one(
    killed: tuple[Path, dict[str, list[str]]],
) -> None:
    found = [step_of(made.newest()) for made in deaths(killed, "replace_a_damaged_one")]
    assert [step for step, _ in groupby(found)] == [1, 3]


def test_a_replaced_one_is_the_old_one_or_the_new_one_or_known_to_be_neither(
    killed: tuple[Path, dict[str, list[str]]],
) -> None:
    found = []
    for made in deaths(killed, "replace_the_best"):
        is_whole = snapshots.what_is_wrong(made.best) is None
        found.append(step_of(snapshots.read(made.best)) if is_whole else None)
        assert step_of(made.newest()) == 1
    assert [step for step, _ in groupby(found)] == [1, None, 2]


def test_a_killed_pruning_leaves_the_newest(killed: tuple[Path, dict[str, list[str]]]) -> None:
    for made in deaths(killed, "prune"):
        assert step_of(made.newest()) == 3
        # What it left, the next one removes.
        made.prune(newest=3, keep=lambda step: False)
        assert made.steps == [3]
        assert {path.name for path in made.path(3).parent.iterdir()} == {
            "step_00000003.pth",
            "step_00000003.pth.sha256",
        }


def test_what_was_killed_can_be_saved_again(killed: tuple[Path, dict[str, list[str]]]) -> None:
    for made in deaths(killed, "save_the_next"):
        made.save(state(2), made.path(2))
        assert step_of(made.newest()) == 2
