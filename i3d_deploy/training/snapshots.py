"""Checkpoints of a run, written so that a killed run finds a whole one.

Each is a ``.pth`` that ``torch.load(..., weights_only=True)`` reads, with its SHA-256 beside it in the form that
``sha256sum --check`` takes. Both are written under other names, flushed to the disk and renamed, the sum last: a
checkpoint without its sum, or with another one, is not whole and is passed over.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from i3d_deploy import files
from i3d_deploy.errors import TrainingError

State = dict[str, Any]

_NAME = re.compile(r"step_(\d+)\.pth")
BEST = "best.pth"


class Snapshots:
    """The checkpoints in one folder.

    Args:
        folder: Made when the first one is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def steps(self) -> list[int]:
        """The steps after which there is a checkpoint, whole or not, in ascending order."""
        if not self._folder.is_dir():
            return []
        matches = (_NAME.fullmatch(path.name) for path in self._folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def path(self, step: int) -> Path:
        """Where the checkpoint after a step is."""
        return self._folder / f"step_{step:08}.pth"

    @property
    def best(self) -> Path:
        """Where the best one is."""
        return self._folder / BEST

    def save(self, state: State, path: Path) -> None:
        """Write a checkpoint, replaced as a whole.

        Args:
            state: Tensors and plain values.
            path: One of :meth:`path` or :attr:`best`.

        Raises:
            TrainingError: It cannot be written.
        """
        with files.replacing(path, _sum_path(path)) as (target, sum_target):
            try:
                torch.save(state, target)
            except RuntimeError as error:  # PyTorch's own, of a write that came out short
                raise TrainingError(f"{path} cannot be written whole (is the disk full?)") from error
            sum_target.write_text(f"{files.sha256(target)}  {path.name}\n", encoding="utf-8")

    def newest(self, *, on_damaged: Callable[[str], None] = lambda text: None) -> State | None:
        """Read the newest checkpoint that is whole; None where there is none at all.

        Args:
            on_damaged: Called with a line for each that is not whole.

        Raises:
            TrainingError: There are some, and none is whole.
        """
        steps = self.steps
        for step in reversed(steps):
            problem = what_is_wrong(self.path(step))
            if problem is None:
                return read(self.path(step))
            on_damaged(f"{self.path(step)} is passed over: {problem}")
        if steps:
            best = "" if what_is_wrong(self.best) else f" with --init {self.best}, which is"
            raise TrainingError(
                f"{self._folder}: none of the {len(steps)} checkpoints is whole: start another run{best}"
            )
        return None

    def prune(self, *, newest: int, keep: Callable[[int], bool]) -> None:
        """Remove all but the newest checkpoint and those to keep.

        Args:
            newest: The step after which the newest one was written. One of a later step was passed over as damaged.
            keep: Whether the one after a step stays.
        """
        for step in self.steps:
            if step > newest or (step < newest and not keep(step)):
                # Its sum goes first, so that what a crash leaves is not taken for whole.
                _sum_path(self.path(step)).unlink(missing_ok=True)
                self.path(step).unlink()

    def sweep(self) -> None:
        """Remove what a killed run left half written."""
        for path in self._folder.glob(f"{files.SCRATCH_PREFIX}*"):
            shutil.rmtree(path, ignore_errors=True)


def what_is_wrong(path: Path) -> str | None:
    """Why a checkpoint is not whole; None where it is."""
    try:
        promised = _sum_path(path).read_text(encoding="utf-8").split()
        found = files.sha256(path)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, UnicodeDecodeError) as error:
        return str(error)
    return None if promised[:1] == [found] else f"its SHA-256 is {found[:8]}..., not the one recorded"


def read(path: Path) -> State:
    """Read a checkpoint."""
    state: State = torch.load(path, map_location="cpu", weights_only=True)
    return state


def _sum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
