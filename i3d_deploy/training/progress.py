"""What a person sees of a run: a bar, lines, ``metrics.jsonl``, TensorBoard, and the curves as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from i3d_deploy import files
from i3d_deploy.errors import MissingExtraError

METRICS_FILE = "metrics.jsonl"
CURVES_FILE = "curves.png"

Values = Mapping[str, float]

_PERCENTS = ("top1", "top5", "mean_class", "mean_average_precision")
_FORMATS = {
    **dict.fromkeys(_PERCENTS, "{:.1f} %"),
    "data_wait": "{:.0%}",
    "lr": "{:.2e}",
    "videos": "{:.0f}",
    "videos_per_second": "{:.1f}",
}
_NAMES = {
    "data_wait": "data wait",
    "mean_average_precision": "mean average precision",
    "mean_class": "mean class",
    "top1": "top-1",
    "top5": "top-5",
    "videos_per_second": "videos/s",
}


class Reporter:
    """Prints and records a run; a context manager. One that is not enabled does nothing at all.

    Args:
        folder: Of the run.
        total_steps: Steps of the whole run.
        first_step: Steps done before; what was recorded of later ones, by a run that was killed, is dropped.
        is_enabled: False in all processes but the first.
    """

    def __init__(self, folder: Path, *, total_steps: int, first_step: int, is_enabled: bool) -> None:
        self._folder = folder
        self._is_enabled = is_enabled
        if not is_enabled:
            return
        self._console = Console(stderr=True)
        self._progress = Progress(
            # On a narrow terminal the description takes a second line; the others are always whole.
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            BarColumn(bar_width=10, table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.description}", table_column=Column()),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=total_steps, completed=first_step)
        self._records = _open_records(folder / METRICS_FILE, first_step=first_step)
        self._board = _open_board(folder / "tensorboard", first_step=first_step)

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        if self._is_enabled:
            self._console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def show(self, step: int) -> None:
        """Say that a step is done."""
        if self._is_enabled:
            self._progress.update(self._task, completed=step)

    def record(self, kind: str, *, step: int, epoch: float, values: Values) -> None:
        """Record measurements and print them.

        Args:
            kind: "train" or "val".
            step: Steps done.
            epoch: Epochs done, with the fraction of the current one.
            values: By name.
        """
        if not self._is_enabled:
            return
        entry = {"kind": kind, "step": step, "epoch": round(epoch, 4), **values}
        self._records.write(json.dumps(entry, allow_nan=False) + "\n")
        self._records.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)
        shown = {name: value for name, value in values.items() if name != "videos"}
        text = "  ".join(f"{_NAMES.get(name, name)} {_formatted(name, value)}" for name, value in shown.items())
        if kind == "train" and self._console.is_terminal:
            self._progress.update(self._task, description=text)
        else:
            self.line(f"{kind}  epoch {epoch:.2f}  step {step}  {text}")

    def __enter__(self) -> Self:
        if self._is_enabled:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_enabled:
            self._progress.stop()
            self._records.close()
            self._board.close()


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The measurements that a run has recorded, in order."""
    path = folder / METRICS_FILE
    return _whole_lines(path.read_text(encoding="utf-8")) if path.exists() else []


def draw_curves(folder: Path, *, title: str) -> Path:
    """Draw the loss, accuracies and learning rate of a run.

    Args:
        folder: Of the run.
        title: Above the picture.

    Returns:
        The PNG.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", extra="train", cause=error) from error

    records = read_records(folder)
    train = [entry for entry in records if entry["kind"] == "train"]
    validation = [entry for entry in records if entry["kind"] == "val"]
    figure = Figure(figsize=(8, 7), layout="constrained")
    loss, accuracy, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    figure.suptitle(title)
    epochs = [entry["epoch"] for entry in train]
    loss.plot(epochs, [entry["loss"] for entry in train], color="tab:blue")
    loss.set_ylabel("training loss")
    accuracy.plot(epochs, [entry["top1"] for entry in train], color="tab:blue", alpha=0.5, label="training, top-1")
    # The one that counts is drawn last: on a balanced list the mean class lies exactly on it.
    for name in reversed(_PERCENTS):
        points = [(entry["epoch"], entry[name]) for entry in validation if name in entry]
        if points:
            accuracy.plot(*zip(*points, strict=True), marker="o", label=f"validation, {_NAMES.get(name, name)}")
    accuracy.set(ylabel="percent", ylim=(0, 103))
    accuracy.legend(loc="lower right")
    rate.plot(epochs, [entry["lr"] for entry in train], color="tab:gray")
    rate.set(ylabel="learning rate", xlabel="epoch", yscale="log")
    for axes in (loss, accuracy, rate):
        axes.grid(alpha=0.3)
    with files.replacing(folder / CURVES_FILE) as (target,):
        figure.savefig(target, dpi=110)
    return folder / CURVES_FILE


def _formatted(name: str, value: float) -> str:
    return _FORMATS.get(name, "{:.4g}").format(value)


def _open_records(path: Path, *, first_step: int) -> Any:
    kept = [entry for entry in read_records(path.parent) if entry["step"] <= first_step]
    with files.replacing(path) as (target,):
        target.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
    return path.open("a", encoding="utf-8")


def _whole_lines(text: str) -> list[dict[str, Any]]:
    entries = []
    for line in text.splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue  # a process that was killed may leave half a line
    return entries


def _open_board(folder: Path, *, first_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", extra="train", cause=error) from error
    return SummaryWriter(str(folder), purge_step=first_step + 1)
