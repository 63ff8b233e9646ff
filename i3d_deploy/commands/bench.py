"""``i3d-bench``: videos per second, and where the time goes."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from i3d_deploy.commands.options import reports_errors, steps
from i3d_deploy.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from i3d_deploy.benchmark.record import Record
    from i3d_deploy.card import Precision


def _print_schema(context: click.Context, parameter: click.Parameter, is_wanted: bool) -> None:
    if not is_wanted or context.resilient_parsing:
        return
    from i3d_deploy.benchmark.record import Record

    click.echo(json.dumps(Record.model_json_schema(mode="serialization"), indent=2))
    context.exit()


@click.command(epilog="Example: i3d-bench i3d_r50_fp32.onnx i3d_r50_fp32.xml --json bench.json --html bench.html")
@click.argument("artifacts", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--protocol",
    default="320x3",
    show_default=True,
    metavar="FRAMESxCROPS",
    help="Frames of all clips and crops of a video; 320x3 is 10 clips of 32 frames under 3 crops.",
)
@click.option("--clips", type=click.IntRange(min=1), help="Clips per video, in place of the protocol's.")
@click.option("--crops", type=click.Choice(["1", "3"]), help="Crops per clip, in place of the protocol's.")
@click.option(
    "--batch", type=click.IntRange(min=1), help="Views per run of the engine.  [default: as suits the device]"
)
@click.option(
    "--videos", type=click.IntRange(min=1), default=5, show_default=True, help="Timed videos per artifact at least."
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, max=1e6),
    default=10.0,
    show_default=True,
    help="Timed seconds per artifact at least.",
)
@click.option(
    "--warmup",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Videos before that at most; fewer where two in a row take the same time.",
)
@click.option(
    "--device",
    "devices",
    multiple=True,
    default=("auto",),
    show_default=True,
    help="auto, cpu, cuda or cuda:N. Repeat it to compare.",
)
@click.option(
    "--threads",
    multiple=True,
    type=click.IntRange(min=1),
    help="CPU threads. Repeat it to compare.  [default: the backend's choice]",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["fp32", "fp16", "bf16", "fp8"]),
    help="What checkpoints are computed in; engines have theirs. Repeat it to compare.  [default: as i3d-predict]",
)
@click.option(
    "--end-to-end",
    "video",
    type=click.Path(path_type=Path),
    metavar="VIDEO",
    help="Also time predictions from this file, stage by stage and as a whole.",
)
@click.option(
    "--sweep",
    "sweeps",
    multiple=True,
    metavar="SIZES",
    help="Also measure how cost grows: batch=1,2,4, clips=1,5,10 or frames=100,1000 (length of the video).",
)
@click.option("--profile", is_flag=True, help="Also list the slowest layers.")
@click.option(
    "--ceilings",
    "ceiling_seconds",
    type=click.FloatRange(min=0, max=60),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Time for each kind of work to find what the machine can do at best; 0: do not.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), metavar="FILE", help="Write the whole record.")
@click.option("--html", "html_path", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with charts.")
@click.option(
    "--baseline",
    "baseline_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="An earlier --json: print the change, exit 1 where an artifact lost too much.",
)
@click.option(
    "--max-regression",
    type=click.FloatRange(min=0, max=100, max_open=True),
    metavar="PERCENT",
    help="How much of its videos/s an artifact may lose against the baseline.  [default: 10]",
)
@click.option(
    "--schema",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_schema,
    help="Print the JSON Schema of --json and exit.",
)
@reports_errors
def main(
    artifacts: tuple[Path, ...],
    protocol: str,
    clips: int | None,
    crops: str | None,
    batch: int | None,
    videos: int,
    seconds: float,
    warmup: int,
    devices: tuple[str, ...],
    threads: tuple[int, ...],
    precisions: tuple[Precision, ...],
    video: Path | None,
    sweeps: tuple[str, ...],
    profile: bool,
    ceiling_seconds: float,
    json_path: Path | None,
    html_path: Path | None,
    baseline_path: Path | None,
    max_regression: float | None,
) -> None:
    """Measure videos per second of ARTIFACTS in turns.

    The clock runs from uint8 views in host memory to averaged probabilities in host memory. All artifacts must answer
    as the first one does. Only figures of one run may be compared: machines drift.

    Exit code 1: an artifact does not run here, answers otherwise, or lost too much against the baseline.
    """
    from i3d_deploy.benchmark import baseline, record, schedule, table, workers
    from i3d_deploy.benchmark.plan import Plan, SweepPlan, frames_and_crops

    try:
        frames, protocol_crops = frames_and_crops(protocol)
        plan = Plan(
            frames=frames,
            crops=int(crops or protocol_crops),
            clips=clips,
            batch=batch,
            min_rounds=videos,
            min_seconds=seconds,
            max_warmup=warmup,
            video=video,
            sweeps=tuple(SweepPlan.parse(text) for text in sweeps),
            profiles=profile,
            ceiling_seconds=ceiling_seconds,
        )
    except InputError as error:
        raise click.UsageError(str(error)) from error
    _check_inputs(artifacts)
    _check_outputs(json_path, html_path)
    if max_regression is not None and baseline_path is None:
        raise click.UsageError("--max-regression says how much may be lost against a --baseline: give one")
    before = None if baseline_path is None else record.read(baseline_path)
    subjects = workers.subjects(
        artifacts, devices=devices, threads=threads or (None,), precisions=precisions or (None,)
    )
    with _ending_on_sigterm(), steps() as on_step:
        found = schedule.run(subjects, plan, on_step=on_step)
    # Before anything is printed: whoever reads it may go away.
    _write(found, json_path=json_path, html_path=html_path)
    console = _console()
    table.show(found, console)
    has_failed = bool(found.failures)
    if before is not None:
        allowed = 10.0 if max_regression is None else max_regression
        comparison = baseline.compare(found, before, max_regression=allowed / 100)
        table.show_comparison(comparison, console)
        if comparison.has_regression:
            click.echo(f"Error: videos/s fell by more than {allowed:g} % against {baseline_path}", err=True)
            has_failed = True
    for failure in found.failures:
        click.echo(f"Error: {failure.artifact} was not timed: {failure.reason}", err=True)
    if has_failed:
        raise SystemExit(1)


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Leave in order when the process is told to end, so that the workers end as well."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_inputs(artifacts: Sequence[Path]) -> None:
    """Before the long run: a slip of the pen is no artifact that does not run here."""
    from i3d_deploy import tensorflow_files

    for path in artifacts:
        if not path.exists() and not tensorflow_files.is_checkpoint(path):
            raise InputError(f"{path}: no such file")


def _check_outputs(json_path: Path | None, html_path: Path | None) -> None:
    """Before the long run: whatever is written at its end can be."""
    if json_path is not None and html_path is not None and json_path.absolute() == html_path.absolute():
        raise click.UsageError(f"--json and --html are the same file {json_path}: give two")
    for name, path in (("--json", json_path), ("--html", html_path)):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise click.UsageError(f"{name} {path}: give a file in a folder that exists")
    if html_path is not None:
        from i3d_deploy.benchmark import page

        page.require()


def _write(found: Record, *, json_path: Path | None, html_path: Path | None) -> None:
    from i3d_deploy import files

    if json_path is not None:
        found.write(json_path)
    if html_path is not None:
        from i3d_deploy.benchmark import page

        with files.replacing(html_path) as (target,):
            target.write_text(page.render(found), encoding="utf-8")


def _console() -> Console:
    from rich.console import Console

    terminal = Console()
    # Where it goes to a file or a pipe, a row stays a line.
    return terminal if terminal.is_terminal else Console(width=200)
