"""``i3d-predict``: labels for videos."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from i3d_deploy.commands.bulk import BulkOptions, bulk_options
from i3d_deploy.commands.bulk import predict as bulk_predictions
from i3d_deploy.commands.options import (
    CheckpointOptions,
    checkpoint_options,
    device_option,
    min_decoded_option,
    precision_option,
    reports_errors,
    threads_option,
)
from i3d_deploy.commands.sources import expand
from i3d_deploy.commands.streaming import StreamOptions, stream_options
from i3d_deploy.commands.streaming import predict as stream_predictions
from i3d_deploy.errors import VideoError

if TYPE_CHECKING:
    from i3d_deploy.card import Precision
    from i3d_deploy.predictions import Explanation, Prediction
    from i3d_deploy.recognizer import Recognizer
    from i3d_deploy.runners import Runner


@click.command(epilog="Example: i3d-predict i3d_r50_fp32.onnx videos/ --top 3 --json")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("videos", nargs=-1)
@click.option(
    "--flow",
    type=click.Path(path_type=Path),
    metavar="ARTIFACT",
    help="The optical flow stream, where ARTIFACT is the RGB stream: their logits are added up.",
)
@click.option(
    "--flow-cache",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where optical flow is kept, so that it is computed once.",
)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Labels per video.")
@click.option("--clips", type=click.IntRange(min=1), help="Clips per video.  [default: the card's]")
@click.option("--crops", type=click.Choice(["1", "3"]), help="Crops per clip.  [default: the card's]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per video and line.")
@click.option("--annotate", type=click.Path(path_type=Path), metavar="OUT.mp4", help="Draw the labels on a copy.")
@click.option(
    "--explain",
    type=click.Path(path_type=Path),
    metavar="OUT.mp4",
    help="Draw on a copy what speaks for the first label, and a chart over time as OUT.png.  (checkpoints only)",
)
@click.option("--explain-class", metavar="LABEL|NUMBER", help="Another class for --explain.")
@stream_options
@bulk_options
@device_option
@threads_option
@precision_option
@click.option("--batch", type=click.IntRange(min=1), help="Views per run of the engine.")
@min_decoded_option
@checkpoint_options
@reports_errors
def main(
    artifact: Path,
    videos: tuple[str, ...],
    flow: Path | None,
    flow_cache: Path | None,
    top: int,
    clips: int | None,
    crops: str | None,
    as_json: bool,
    annotate: Path | None,
    explain: Path | None,
    explain_class: str | None,
    streaming: StreamOptions,
    bulk: BulkOptions,
    device: str,
    threads: int | None,
    precision: Precision | None,
    batch: int | None,
    min_decoded: float,
    **reading: Any,
) -> None:
    """Recognise the action in VIDEOS with ARTIFACT (.onnx, .xml, .engine, .safetensors, .json of two streams, or a
    checkpoint such as .pth).

    VIDEOS are files, URLs, folders of videos, folders of frames (img_00001.jpg ...) or of optical flow (x_00001.jpg,
    y_00001.jpg ...), or text files (.txt) with one of these a line. A video that cannot be read is reported, the others
    go on, and the exit code is 1. The last options are for checkpoints.

    Of a stream (--stream) a line is printed for each window, of one clip and crop unless --clips and --crops say
    another number, with its times in seconds; Ctrl-C ends it.

    With --ray, any number of videos are predicted into a table, by as many networks as the machine or cluster has room
    for. A checkpoint that takes options of its own is exported first.
    """
    from i3d_deploy.annotate import annotate as write_annotated
    from i3d_deploy.predictions import Explanation

    options = CheckpointOptions(**reading)
    drawn = {"--annotate": annotate, "--explain": explain, "--explain-class": explain_class}
    streaming.check(videos, {**drawn, "--flow": flow, "--flow-cache": flow_cache})
    bulk.check({"--stream": streaming.stream, "--json": as_json, **drawn, **dict.fromkeys(options.given, True)})
    if streaming.stream is not None:
        with _load(
            artifact, None, options, device=device, threads=threads, precision=precision, flow_cache=None
        ) as loaded:
            for note in loaded.notes:
                click.echo(f"Note: {note}", err=True)
            stream_predictions(
                loaded,
                streaming,
                clips=clips or 1,
                crops=int(crops or 1),
                batch=batch,
                min_decoded_share=min_decoded,
                top=top,
                as_json=as_json,
            )
        return
    sources = [found.source for found in expand(videos)]
    _check_copies(sources, annotate=annotate, explain=explain, explain_class=explain_class)
    settings = {
        "clips": clips,
        "crops": None if crops is None else int(crops),
        "batch": batch,
        "min_decoded_share": min_decoded,
    }
    if bulk.ray:
        where = {"flow": flow, "flow_cache": flow_cache, "device": device, "threads": threads, "precision": precision}
        bulk_predictions(artifact, sources, bulk, {**settings, **where, "top": top})
        return
    has_failed = False
    bar = _Bar(sources)
    with ExitStack() as opened:
        recognizer = opened.enter_context(
            _load(
                artifact,
                flow,
                options,
                device=device,
                threads=threads,
                precision=precision,
                flow_cache=flow_cache,
            )
        )
        for note in recognizer.notes:
            click.echo(f"Note: {note}", err=True)
        if explain is None:
            results = _predicted(recognizer, sources, settings, bar)
        else:
            results = _explained(recognizer, sources, settings, bar, label=explain_class)
        opened.enter_context(closing(results))
        for source, result in zip(sources, results, strict=True):
            bar.hide()
            if isinstance(result, VideoError):
                has_failed = True
                _print_error(source, result, as_json=as_json)
                continue
            prediction = result.prediction if isinstance(result, Explanation) else result
            _print(source, prediction, recognizer, top=top, as_json=as_json)
            if annotate is not None:
                write_annotated(Path(source), prediction, annotate, count=min(top, 3))
                click.echo(f"{annotate} written", err=True)
            if explain is not None and isinstance(result, Explanation):
                _write_explained(source, result, explain, count=top)
    if has_failed:
        raise SystemExit(1)


def _check_copies(
    sources: Sequence[str], *, annotate: Path | None, explain: Path | None, explain_class: str | None
) -> None:
    """Tell before any work whether the copies of a video can be written."""
    from i3d_deploy import annotate as annotating
    from i3d_deploy import explain as explaining

    for option, output, check in (
        ("--annotate", annotate, annotating.check),
        ("--explain", explain, explaining.check),
    ):
        if output is not None:
            if len(sources) != 1:
                raise click.UsageError(f"{option} takes one video, not {len(sources)}")
            check(sources[0], output)
    if annotate is not None and explain is not None and annotate.resolve() == explain.resolve():
        raise click.UsageError(f"--annotate and --explain cannot both write {explain}")
    if explain_class is not None and explain is None:
        raise click.UsageError("--explain-class goes with --explain OUT.mp4")


def _load(
    path: Path,
    flow: Path | None,
    options: CheckpointOptions,
    *,
    device: str,
    threads: int | None,
    precision: Precision | None,
    flow_cache: Path | None,
) -> Recognizer:
    """Load one network, or the two streams of one."""
    from i3d_deploy import two_stream
    from i3d_deploy.recognizer import Recognizer
    from i3d_deploy.runners import TwoStreamRunner

    if flow is not None:
        two_stream.check_single(path)
    given = [(path, options)] if flow is None else [(path, options.of_rgb), (flow, options.of_flow)]
    with ExitStack() as opened:
        runners = [
            opened.enter_context(_open(*each, device=device, threads=threads, precision=precision)) for each in given
        ]
        runner = runners[0] if flow is None else TwoStreamRunner(*runners)
        recognizer = Recognizer(runner, flow_cache=flow_cache)
        opened.pop_all()
    return recognizer


def _open(
    path: Path, options: CheckpointOptions, *, device: str, threads: int | None, precision: Precision | None
) -> Runner:
    """Open an engine, or a checkpoint with the options put on its card."""
    from i3d_deploy import artifact, runners

    if artifact.identify(path).kind not in ("safetensors", "checkpoint"):
        if options.given:
            verb = "is" if len(options.given) == 1 else "are"
            raise click.UsageError(f"{', '.join(options.given)} {verb} for checkpoints: {path} carries its card")
        return runners.open_runner(path, device=device, threads=threads, precision=precision)
    return runners.open_checkpoint(lambda: options.read(path), device=device, threads=threads, precision=precision)


def _predicted(
    recognizer: Recognizer, sources: Sequence[str], settings: dict[str, Any], bar: _Bar
) -> Generator[Prediction | Explanation | VideoError, None, None]:
    with closing(recognizer.predict_many(sources, **settings, on_views=bar.show)) as outcomes:
        for outcome in outcomes:
            yield outcome.result


def _explained(
    recognizer: Recognizer, sources: Sequence[str], settings: dict[str, Any], bar: _Bar, *, label: str | None
) -> Generator[Prediction | Explanation | VideoError, None, None]:
    for number, source in enumerate(sources):
        try:
            yield recognizer.explain(source, label, **settings, on_views=partial(bar.show, number))
        except VideoError as error:
            yield error


def _write_explained(source: str, explanation: Explanation, output: Path, *, count: int) -> None:
    from i3d_deploy import explain

    for note in explanation.notes:
        click.echo(f"Note: {note}", err=True)
    explain.write(Path(source), explanation, output, count=count)
    for path in (output, explain.chart_path(output)):
        click.echo(f"{path} written", err=True)


class _Bar:
    """A bar on stderr over all videos, where stderr is a terminal; gone whenever something is printed."""

    def __init__(self, sources: Sequence[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
        self._names = [Path(source).name for source in sources]
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("", total=len(sources))

    def show(self, number: int, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` views of a video are through."""
        text = f"{self._names[number]} ({number + 1} of {len(self._names)}), view {done} of {total}"
        self._progress.update(self._task, completed=number + done / total, description=text)
        self._progress.start()

    def hide(self) -> None:
        """Make room for lines."""
        self._progress.stop()


def _print(source: str, prediction: Prediction, recognizer: Recognizer, *, top: int, as_json: bool) -> None:
    if as_json:
        record = {
            "video": source,
            "top": prediction.entries(top),
            "views": prediction.views,
            "frames": prediction.frames,
            "warnings": list(prediction.warnings),
        }
        click.echo(json.dumps(record, ensure_ascii=False, allow_nan=False))
        return
    from i3d_deploy.benchmark.wording import counted

    frames, views = counted(prediction.frames, "frame"), counted(prediction.views, "view")
    click.echo(f"{source}  ({frames}, {views}, {recognizer.info})")
    for label, probability in prediction.top(top):
        click.echo(f"  {probability:7.2%}  {label}")
    for warning in prediction.warnings:
        click.echo(f"Warning: {source}: {warning}", err=True)


def _print_error(source: str, error: VideoError, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"video": source, "error": str(error)}, ensure_ascii=False))
    else:
        click.echo(f"Error: {error}", err=True)
