"""``i3d-predict --stream``: labels for what comes in, as it comes."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from i3d_deploy.commands.options import INTERRUPTED

if TYPE_CHECKING:
    from i3d_deploy.predictions import Prediction
    from i3d_deploy.recognizer import Recognizer
    from i3d_deploy.stream_sources import StreamSource
    from i3d_deploy.streams import WindowPrediction

P = ParamSpec("P")
R = TypeVar("R")

_MAX_LABELS_OF_A_LINE = 3

_PIPE = (
    "standard input carries raw rgb24 frames: say --size WIDTHxHEIGHT and --frames-per-second, as in ffmpeg -i INPUT "
    "-f rawvideo -pix_fmt rgb24 -s 340x256 -r 25 - | i3d-predict ARTIFACT --stream - --size 340x256 "
    "--frames-per-second 25"
)


def stream_options(function: Callable[P, R]) -> Callable[P, R]:
    """The options of a stream, given on as one :class:`StreamOptions`."""
    options = [
        click.option(
            "--stream",
            metavar="CAMERA|URL|FILE|-",
            help="Predict what comes in as it comes, in place of VIDEOS: the number of a camera, a URL (rtsp://, "
            "http://), a file at its own pace, or - for raw rgb24 frames on standard input.",
        ),
        click.option("--window-seconds", type=float, help="Of a stream.  [default: what a clip spans]"),
        click.option(
            "--every-seconds",
            type=float,
            help="From the beginning of a window to that of the next.  [default: one after the other]",
        ),
        click.option(
            "--frames-per-second",
            type=float,
            help="Rate of frames on standard input; of a stream that does not say its rate, where the card has none.",
        ),
        click.option("--size", metavar="WIDTHxHEIGHT", help="Of frames on standard input."),
        click.option(
            "--drop/--no-drop",
            default=True,
            help="Leave out windows of a stream that come while another is computed, or fall behind and read a file as "
            "fast as it goes.  [default: drop]",
        ),
    ]

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        given: dict[str, Any] = {field.name: kwargs.pop(field.name) for field in fields(StreamOptions)}
        kwargs["streaming"] = StreamOptions(**given)
        return function(*args, **kwargs)

    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """The values of :func:`stream_options`."""

    stream: str | None
    window_seconds: float | None
    every_seconds: float | None
    frames_per_second: float | None
    size: str | None
    drop: bool

    def check(self, videos: tuple[str, ...], others: dict[str, Any]) -> None:
        """Tell what does not go together.

        Args:
            videos: What was given to be predicted whole.
            others: Options that are for whole videos, with their values.

        Raises:
            click.UsageError: Something does not.
        """
        if self.stream is None:
            names = ("window_seconds", "every_seconds", "frames_per_second", "size")
            given = [name for name in names if getattr(self, name) is not None]
            given += [] if self.drop else ["no_drop"]
            if given:
                raise click.UsageError(f"--{given[0].replace('_', '-')} goes with --stream")
            if not videos:
                raise click.UsageError("give VIDEOS, or --stream and a camera, URL, file or -")
            return
        if not self.stream:
            raise click.UsageError("--stream takes a camera, URL, file or -, not an empty name")
        if videos:
            raise click.UsageError(f"--stream {self.stream} is predicted in place of VIDEOS: {videos[0]!r} is too much")
        for name, value in others.items():
            if value is not None:
                raise click.UsageError(f"{name} does not go with --stream")
        if (self.stream == "-") != (self.size is not None):
            raise click.UsageError(_PIPE if self.stream == "-" else "--size goes with --stream -")
        if self.stream == "-" and self.frames_per_second is None:
            raise click.UsageError(_PIPE)

    @property
    def source(self) -> StreamSource:
        """What the library reads."""
        from i3d_deploy.stream_sources import RawVideo, parse_size

        assert self.stream is not None, "there is a stream"
        if self.stream == "-":
            assert self.size is not None and self.frames_per_second is not None, "checked before"
            width, height = parse_size(self.size)
            if sys.stdin is None:
                raise click.UsageError("standard input is closed: --stream - reads frames from it")
            return RawVideo(file=sys.stdin.buffer, width=width, height=height, frames_per_second=self.frames_per_second)
        return self.stream

    @property
    def name(self) -> str:
        """What records call it."""
        from i3d_deploy.video_files import without_password

        return without_password(self.stream or "")


def predict(
    recognizer: Recognizer,
    options: StreamOptions,
    *,
    clips: int,
    crops: int,
    batch: int | None,
    min_decoded_share: float,
    top: int,
    as_json: bool,
) -> None:
    """Print a line for each window until the stream ends or Ctrl-C, and what it was altogether to stderr."""
    from i3d_deploy.errors import VideoError

    latest: WindowPrediction[Prediction] | None = None
    count = 0
    warned: set[str] = set()
    predictions = recognizer.stream(
        options.source,
        window_seconds=options.window_seconds,
        every_seconds=options.every_seconds,
        clips=clips,
        crops=crops,
        batch=batch,
        frames_per_second=None if options.stream == "-" else options.frames_per_second,
        drop=options.drop,
        min_decoded_share=min_decoded_share,
        on_notice=lambda notice: click.echo(notice, err=True),
    )
    try:
        with closing(predictions):
            for latest in predictions:
                count += 1
                click.echo(_json(options.name, latest, top=top) if as_json else _line(latest, top=top))
                for warning in latest.prediction.warnings:
                    if warning not in warned:
                        click.echo(f"Warning: {options.name}: {warning}", err=True)
                    warned.add(warning)
    except KeyboardInterrupt:
        _summarize("stopped", count, latest)
        raise SystemExit(INTERRUPTED) from None
    except VideoError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"stream": options.name, "error": str(error)}, ensure_ascii=False))
        raise SystemExit(1) from None
    _summarize("ended", count, latest)


def _json(stream: str, found: WindowPrediction[Prediction], *, top: int) -> str:
    record = {
        "stream": stream,
        "start_seconds": round(found.start_seconds, 6),
        "end_seconds": round(found.end_seconds, 6),
        "top": found.prediction.entries(top),
        "lag_seconds": round(found.lag_seconds, 6),
        "dropped_windows": found.dropped_windows,
        "dropped_frames": found.dropped_frames,
        "reconnects": found.reconnects,
        "warnings": list(found.prediction.warnings),
    }
    return json.dumps(record, ensure_ascii=False, allow_nan=False)


def _line(found: WindowPrediction[Prediction], *, top: int) -> str:
    labels = ", ".join(
        f"{label} {probability:.1%}" for label, probability in found.prediction.top(min(top, _MAX_LABELS_OF_A_LINE))
    )
    dropped = f", {found.dropped_windows} dropped" if found.dropped_windows else ""
    times = f"{found.start_seconds:8.2f} - {found.end_seconds:.2f} s"
    return f"{times}  {labels}  (lag {found.lag_seconds:.2f} s{dropped})"


def _summarize(how: str, count: int, latest: WindowPrediction[Prediction] | None) -> None:
    from i3d_deploy.benchmark.wording import counted

    if latest is None:
        click.echo(f"{how} before the first prediction", err=True)
        return
    click.echo(
        f"{how}: {counted(count, 'prediction')} of {latest.end_seconds:.2f} s, "
        f"{counted(latest.dropped_windows, 'window')} ({counted(latest.dropped_frames, 'frame')}) dropped, "
        f"{counted(latest.reconnects, 'reconnection')}",
        err=True,
    )
