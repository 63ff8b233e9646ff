"""``i3d-predict --ray``: a table of labels for more videos than one process can predict."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import click

from i3d_deploy.commands.options import INTERRUPTED

P = ParamSpec("P")
R = TypeVar("R")

_STEPS_IN_A_LOG = 20


def bulk_options(function: Callable[P, R]) -> Callable[P, R]:
    """The options of a bulk run, given on as one :class:`BulkOptions`."""
    options = [
        click.option(
            "--ray",
            is_flag=True,
            help="Predict with Ray: one network for each GPU or group of --threads cores, on this machine or on the "
            "cluster of RAY_ADDRESS, where all nodes see the same files.",
        ),
        click.option(
            "--output",
            type=click.Path(path_type=Path),
            metavar="TABLE.parquet|.jsonl",
            help="Where --ray writes a row for each video, as they are finished. Videos that have one are left out, so "
            "that a run that was stopped goes on; those that could not be read, or were replaced, are tried again.",
        ),
        click.option("--actors", type=click.IntRange(min=1), help="Networks of --ray.  [default: as many as fit]"),
        click.option("--overwrite", is_flag=True, help="Forget what is in the table, whatever made it."),
    ]

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, Any] = {field.name: kwargs.pop(field.name) for field in fields(BulkOptions)}
        kwargs["bulk"] = BulkOptions(**given)
        return function(*args, **kwargs)

    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


@dataclass(frozen=True, kw_only=True)
class BulkOptions:
    """The values of :func:`bulk_options`."""

    ray: bool
    output: Path | None
    actors: int | None
    overwrite: bool

    def check(self, others: Mapping[str, Any]) -> None:
        """Tell what does not go together.

        Args:
            others: Options that are for one process, with their values.

        Raises:
            click.UsageError: Something does not.
        """
        if not self.ray:
            for name in ("output", "actors", "overwrite"):
                if getattr(self, name):
                    raise click.UsageError(f"--{name} goes with --ray")
            return
        if self.output is None:
            raise click.UsageError("--ray takes --output TABLE.parquet or TABLE.jsonl")
        for name, value in others.items():
            if value:
                raise click.UsageError(f"{name} does not go with --ray")


def predict(artifact: Path, sources: Sequence[str], options: BulkOptions, settings: Mapping[str, Any]) -> None:
    """Predict videos and say what became of them; exit code 1 where one cannot be read.

    Args:
        artifact: The network.
        sources: The videos.
        options: Where to, and by how many.
        settings: More arguments of :func:`i3d_deploy.bulk.predict`.
    """
    from i3d_deploy import bulk
    from i3d_deploy.benchmark.wording import counted

    assert options.output is not None, "checked before"
    progress = _Progress()
    try:
        with progress:
            report = bulk.predict(
                artifact,
                sources,
                options.output,
                actors=options.actors,
                overwrite=options.overwrite,
                on_row=_tell_error,
                on_progress=progress.show,
                on_note=lambda note: click.echo(f"Note: {note}", err=True),
                **settings,
            )
    except KeyboardInterrupt:
        command = "the same command without --overwrite" if options.overwrite else "the same command"
        videos = counted(progress.total, "video")
        click.echo(f"stopped: {progress.done:,} of {videos} {_are(progress.total)} done; {command} goes on", err=True)
        raise SystemExit(INTERRUPTED) from None
    failed = f", {report.failed:,} could not be read" if report.failed else ""
    before = f", {report.done_before:,} {_are(report.done_before)} from before" if report.done_before else ""
    click.echo(f"{options.output}: {counted(report.predicted, 'video')} predicted{failed}{before}")
    if report.failed:
        raise SystemExit(1)


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _tell_error(row: Mapping[str, Any]) -> None:
    if row["error"] is not None:
        click.echo(f"Error: {row['error']}", err=True)


class _Progress:
    """How far a run has come, on stderr: a bar on a terminal, else a line now and then.

    Attributes:
        done: Videos that have a row.
        total: Videos in all.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = TextColumn("videos"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._is_log = not console.is_terminal
        self._bar = Progress(*columns, console=console, transient=True, disable=self._is_log)
        self._task = self._bar.add_task("", total=None)
        self._step = -1
        self.done = self.total = 0

    def show(self, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` videos have a row."""
        self.done, self.total = done, total
        self._bar.update(self._task, completed=done, total=total)
        step = done * _STEPS_IN_A_LOG // max(total, 1)
        if self._is_log and step > self._step:
            click.echo(f"{done:,} of {total:,} videos are done", err=True)
        self._step = max(step, self._step)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
