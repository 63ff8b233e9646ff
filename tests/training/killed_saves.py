"""Writes, replaces and removes checkpoints, and is ended with SIGKILL before every call that may reach the disk.

Usage: killed_saves.py FOLDER

Each death is that of a forked process, in a folder of its own: ``FOLDER/SCENARIO-NUMBER``. Prints a JSON object: the
calls of each scenario, in order.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from i3d_deploy.training.snapshots import Snapshots, State

# As their C functions are named.
_WRITERS = {"open", "write", "write_record", "write_end_of_file"}
_READERS = {"_path_normpath", "fspath", "fstat", "getpid", "lstat", "stat"}


def state(step: int) -> State:
    """The checkpoint after a step, told from all others by every value."""
    return {"step": step, "weights": torch.full((256,), float(step))}


def save_the_next(folder: Path) -> None:
    snapshots = Snapshots(folder)
    snapshots.save(state(2), snapshots.path(2))


def replace_the_best(folder: Path) -> None:
    snapshots = Snapshots(folder)
    snapshots.save(state(2), snapshots.best)


def replace_a_damaged_one(folder: Path) -> None:
    snapshots = Snapshots(folder)
    snapshots.save(state(3), snapshots.path(3))


def prune(folder: Path) -> None:
    Snapshots(folder).prune(newest=3, keep=lambda step: False)


def prepare(scenario: str, folder: Path) -> None:
    """What is there before."""
    snapshots = Snapshots(folder)
    steps = {"prune": [1, 2, 3], "replace_a_damaged_one": [1, 3]}.get(scenario, [1])
    for step in steps:
        snapshots.save(state(step), snapshots.path(step))
    if scenario == "replace_the_best":
        snapshots.save(state(1), snapshots.best)
    if scenario == "replace_a_damaged_one":
        snapshots.path(3).write_bytes(snapshots.path(3).read_bytes()[:-1])


SCENARIOS: tuple[Callable[[Path], None], ...] = (save_the_next, replace_the_best, replace_a_damaged_one, prune)


def called(act: Callable[[Path], None], folder: Path, *, kill_before: int | None) -> list[str]:
    """Act, and note the calls; never return from the one with the number ``kill_before``."""
    names: list[str] = []

    def count(frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call" or function.__name__ in _READERS:
            return
        if function.__module__ != "posix" and function.__name__ not in _WRITERS:
            return
        if len(names) == kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        names.append(function.__name__)

    sys.setprofile(count)
    try:
        act(folder)
    finally:
        sys.setprofile(None)
    return names


def killed(act: Callable[[Path], None], folder: Path, *, before: int) -> int:
    """The signal that ends a process which acts."""
    process = os.fork()
    if process == 0:
        called(act, folder, kill_before=before)
        os._exit(0)
    _, status = os.waitpid(process, 0)
    return os.WTERMSIG(status)


def main() -> None:
    root = Path(sys.argv[1])
    calls = {}
    for act in SCENARIOS:
        before = root / f"before_{act.__name__}"
        prepare(act.__name__, before)
        shutil.copytree(before, root / act.__name__)
        calls[act.__name__] = called(act, root / act.__name__, kill_before=None)
        for number in range(len(calls[act.__name__])):
            folder = root / f"{act.__name__}-{number}"
            shutil.copytree(before, folder)
            assert killed(act, folder, before=number) == signal.SIGKILL
    print(json.dumps(calls))


if __name__ == "__main__":
    main()
