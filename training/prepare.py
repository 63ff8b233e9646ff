"""Make the lists and label files that recipes read: from official splits, from folders of videos, or generated."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from i3d_deploy.commands.options import min_decoded_option, reports_errors

if TYPE_CHECKING:
    from i3d_deploy.card import FlowMethod
    from i3d_deploy.extraction import Resize
    from i3d_deploy.preparation import Kind, Limits, OnFile, Part, Report

Command = Callable[..., None]

MOST_SHOWN = 10
"""Bad videos that are named on the screen; the report names all."""


@click.group()
def main() -> None:
    """Make the lists and label files that recipes read.

    Every video is decoded to its end. Bad ones are left out of the lists and named in a report. Where a list has none
    left, the exit code is 1, and older lists stay as they were.
    """


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator."""

    def decorated(function: Command) -> Command:
        for option in reversed(options):
            function = option(function)
        return function

    return decorated


def path_option(name: str, help_text: str, *, required: bool = True) -> Callable[[Command], Command]:
    """An option that takes a path."""
    return click.option(name, type=click.Path(path_type=Path), required=required, help=help_text)


def limit_options(*, timeout_seconds: int) -> Callable[[Command], Command]:
    """The options that say what a video needs."""
    return together(
        click.option(
            "--min-frames", type=click.IntRange(min=1), default=16, show_default=True, help="Shorter ones go."
        ),
        min_decoded_option,
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=timeout_seconds,
            show_default=True,
            help="Seconds for each file, after which its process is killed.",
        ),
        click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one per CPU core]"),
    )


resize_options = together(
    click.option("--short-side", type=click.IntRange(min=1), help="Resize the shorter side, aspect ratio kept."),
    click.option("--size", metavar="WxH", help="Resize to 340x256, for example, whatever the aspect ratio."),
)
videos_option = path_option("--videos", "Folder of the videos; paths in the lists start from it.")
list_options = together(
    path_option("--output", "Folder for lists, labels.txt and reports."),
    click.option(
        "--kind",
        type=click.Choice(["video", "frames", "flow"]),
        default="video",
        show_default=True,
        help="What the folder holds: files, or folders of frames img_00001.jpg and so on, or of flow images "
        "x_00001.jpg, y_00001.jpg and so on.",
    ),
    limit_options(timeout_seconds=60),
)


@main.command(epilog="Example: prepare.py ucf101 --splits ucfTrainTestlist --videos UCF-101 --output data/ucf101")
@path_option("--splits", "Folder ucfTrainTestlist.")
@videos_option
@list_options
@reports_errors
def ucf101(splits: Path, videos: Path, **options: Any) -> None:
    """Lists of UCF101, all splits."""
    from i3d_deploy import official_splits
    from i3d_deploy.preparation import Part

    official = official_splits.ucf101(splits)
    _make_lists([Part(lists=official.lists, videos=videos)], class_names=official.labels, **options)


@main.command(
    epilog="Example: prepare.py hmdb51 --splits testTrainMulti_7030_splits --videos hmdb51_org --output data/hmdb51"
)
@path_option("--splits", "Folder testTrainMulti_7030_splits.")
@videos_option
@list_options
@reports_errors
def hmdb51(splits: Path, videos: Path, **options: Any) -> None:
    """Lists of HMDB51, all splits. Videos are in a folder per class."""
    from i3d_deploy import official_splits
    from i3d_deploy.preparation import Part

    official = official_splits.hmdb51(splits)
    _make_lists([Part(lists=official.lists, videos=videos)], class_names=official.labels, **options)


@main.command(
    epilog="Example: prepare.py kinetics --train-csv train.csv --val-csv val.csv --train-videos k400/videos_train "
    "--val-videos k400/videos_val --output k400"
)
@path_option("--train-csv", "Official list of the videos to train on.", required=False)
@path_option("--val-csv", "Official list of the videos to validate on.", required=False)
@path_option("--train-videos", "Folder of the videos to train on; paths in their list start from it.", required=False)
@path_option("--val-videos", "Folder of the videos to validate on; paths in their list start from it.", required=False)
@path_option("--videos", "One folder of both, in place of --train-videos and --val-videos.", required=False)
@click.option(
    "--name",
    default="kinetics400",
    show_default=True,
    help="First word of the lists' names. Classes of kinetics400 have the official numbers; others are numbered "
    "in alphabetical order.",
)
@list_options
@reports_errors
def kinetics(
    train_csv: Path | None,
    val_csv: Path | None,
    train_videos: Path | None,
    val_videos: Path | None,
    videos: Path | None,
    name: str,
    **options: Any,
) -> None:
    """Lists of Kinetics, each with a report of its own.

    Videos are named ID_000001_000011.mp4 or ID.mp4, in one folder or in a folder per label.
    """
    from i3d_deploy import official_splits
    from i3d_deploy.preparation import Part

    folders = _kinetics_folders(
        csvs={"train": train_csv, "val": val_csv}, own={"train": train_videos, "val": val_videos}, shared=videos
    )
    official = official_splits.kinetics(train=train_csv, val=val_csv, name=name)
    lists = {part: f"{name}_{part}_list" for part in folders}
    parts = [
        Part(lists={lists[part]: official.lists[lists[part]]}, videos=folder, report=f"{name}_{part}_report.json")
        for part, folder in folders.items()
    ]
    _make_lists(parts, class_names=official.labels, **options)


def _kinetics_folders(
    *, csvs: Mapping[str, Path | None], own: Mapping[str, Path | None], shared: Path | None
) -> dict[str, Path]:
    """The folder of videos of each part that has a CSV file."""
    if shared is not None and any(own.values()):
        raise click.UsageError("give --videos, or --train-videos and --val-videos, not both")
    folders = {}
    for part, csv in csvs.items():
        folder = own[part] or shared
        if csv is None and own[part] is not None:
            raise click.UsageError(f"--{part}-videos needs --{part}-csv")
        if csv is not None and folder is None:
            raise click.UsageError(f"--{part}-csv needs --{part}-videos, or --videos where one folder holds all")
        if csv is not None and folder is not None:
            folders[part] = folder
    return folders


@main.command(epilog="Example: prepare.py frames --videos UCF-101 --output data/ucf101/frames --short-side 256")
@path_option("--videos", "Folder that is searched for videos, with its subfolders; or one video file.")
@path_option("--output", "Folder for the folders of frames.")
@resize_options
@limit_options(timeout_seconds=600)
@reports_errors
def frames(videos: Path, output: Path, short_side: int | None, size: str | None, **limits: Any) -> None:
    """Extract videos into folders of frames img_00001.jpg; a run that was interrupted goes on where it was."""
    from i3d_deploy import extraction

    resize = _resize(short_side, size)
    with _bar("videos") as on_file:
        report = extraction.extract_all(videos, output=output, resize=resize, limits=_limits(**limits), on_file=on_file)
    _summarise({"report.json": report}, output)


@main.command(
    epilog="Example: prepare.py flow data/motion/train.txt data/motion/val.txt data/motion/test.txt --method dis "
    "--short-side 64 --output data/motion_flow"
)
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@path_option("--output", "Folder for the folders of flow images; paths in the lists start from it.")
@click.option(
    "--method",
    type=click.Choice(["tvl1", "dis"]),
    required=True,
    help="tvl1 as in the I3D paper, or dis, about a hundred times as fast.",
)
@path_option("--root", "Folder that the paths in lists start from.  [default: the list's]", required=False)
@click.option("--fps", type=click.FloatRange(0, 1000, min_open=True), default=25.0, show_default=True, help="Rate.")
@click.option("--every-frame", is_flag=True, help="Flow between all frames, whatever rate a video has.")
@click.option("--rgb", is_flag=True, help="Store the frames beside the flow, img_00001.jpg and so on.")
@resize_options
@limit_options(timeout_seconds=3600)
@reports_errors
def flow(
    videos: tuple[Path, ...],
    output: Path,
    method: FlowMethod,
    root: Path | None,
    fps: float,
    every_frame: bool,
    rgb: bool,
    short_side: int | None,
    size: str | None,
    **limits: Any,
) -> None:
    """Extract the optical flow of VIDEOS (files, folders or lists) into folders of images x_00001.jpg and y_00001.jpg.

    A list gives a list to train from. Flow is computed between frames with a short side of 256, unless --short-side or
    --size say otherwise. A run that was interrupted goes on where it was.
    """
    from i3d_deploy import extraction

    if short_side is None and size is None:
        short_side = 256
    resize = _resize(short_side, size)
    wanted = extraction.Flow(method=method, frames_per_second=None if every_frame else fps, with_rgb=rgb)
    with _bar("videos") as on_file:
        report = extraction.extract_flow(
            videos,
            output=output,
            wanted=wanted,
            resize=resize,
            limits=_limits(**limits),
            root=root,
            on_file=on_file,
        )
    _summarise({"report.json": report}, output)


@main.command(
    epilog="Example: prepare.py windows knead.mp4 slice.mp4 --train-share 0.6 --short-side 256 --output data/kitchen"
)
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@path_option("--output", "Folder for frames and lists; paths in the lists start from it.")
@click.option(
    "--train-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.6,
    show_default=True,
    help="Share of each video, from its beginning, that is trained on.",
)
@click.option("--window", type=click.IntRange(min=1), default=64, show_default=True, help="Frames a window.")
@click.option("--stride", type=click.IntRange(min=1), default=16, show_default=True, help="Frames between windows.")
@resize_options
@limit_options(timeout_seconds=3600)
@reports_errors
def windows(
    videos: tuple[Path, ...],
    output: Path,
    train_share: float,
    window: int,
    stride: int,
    short_side: int | None,
    size: str | None,
    **limits: Any,
) -> None:
    """Cut a few long VIDEOS, one per class, into windows: frame lists with offsets to fine-tune on."""
    from i3d_deploy import extraction

    resize = _resize(short_side, size)
    with _bar("videos") as on_file:
        report = extraction.write_windows(
            videos,
            output=output,
            train_share=train_share,
            window=window,
            stride=stride,
            resize=resize,
            limits=_limits(**limits),
            on_file=on_file,
        )
    _summarise({"report.json": report}, output, what="windows")


@main.command(epilog="Example: prepare.py motion --output data/motion")
@path_option("--output", "Folder for videos and lists; paths in the lists start from it.")
@click.option("--train", type=click.IntRange(min=1), default=2400, show_default=True, help="Videos to train on.")
@click.option("--val", type=click.IntRange(min=1), default=400, show_default=True, help="Videos to validate on.")
@click.option("--test", type=click.IntRange(min=1), default=400, show_default=True, help="Videos to test on.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another one, other videos.")
@reports_errors
def motion(output: Path, train: int, val: int, test: int, seed: int) -> None:
    """Draw small videos of eight motions, of which pairs differ in the direction of time alone."""
    from i3d_deploy import motion as generator

    with _bar("videos") as on_video:
        drawn = generator.write_dataset(output, train=train, val=val, test=test, seed=seed, on_video=on_video)
    there = f"{train + val + test - drawn} were there" if drawn else "all were there"
    click.echo(f"{train + val + test} videos and their lists are in {output}; {there}", err=True)


def _make_lists(
    parts: Sequence[Part],
    *,
    class_names: tuple[str, ...],
    output: Path,
    kind: Kind,
    **limits: Any,
) -> None:
    from i3d_deploy import preparation

    with _bar("videos") as on_file:
        reports = preparation.prepare(
            parts, class_names=class_names, output=output, kind=kind, limits=_limits(**limits), on_file=on_file
        )
    _summarise(reports, output)


def _limits(*, min_frames: int, min_decoded: float, timeout: float, workers: int | None) -> Limits:
    from i3d_deploy.preparation import Limits

    return Limits(min_frames=min_frames, min_decoded_share=min_decoded, timeout_seconds=timeout, workers=workers)


def _resize(short_side: int | None, size: str | None) -> Resize:
    from i3d_deploy.extraction import Resize

    if short_side is not None and size is not None:
        raise click.UsageError("give --short-side or --size, not both")
    match = re.fullmatch(r"(\d+)x(\d+)", size) if size is not None else None
    if size is not None and match is None:
        raise click.BadParameter(f"{size!r} is not width x height, such as 340x256", param_hint="--size")
    return Resize(short_side=short_side, size=None if match is None else (int(match[1]), int(match[2])))


@contextmanager
def _bar(what: str) -> Iterator[OnFile]:
    """A bar on stderr, where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _summarise(reports: Mapping[str, Report], output: Path, *, what: str = "videos") -> None:
    """Say what became of the videos; fails where none is left."""
    for name, report in reports.items():
        # The same name may be in two folders.
        where = f"{', '.join(report.lists)}: " if len(reports) > 1 else ""
        for finding in report.bad[:MOST_SHOWN]:
            click.echo(f"Warning: {where}{finding.name}: {finding.verdict}: {finding.reason}", err=True)
        if len(report.bad) > MOST_SHOWN:
            click.echo(f"Warning: {where}{len(report.bad) - MOST_SHOWN} more are in {output / name}", err=True)
        counts = ", ".join(f"{count} {verdict}" for verdict, count in report.counts.items())
        click.echo(f"{where}{len(report.findings)} videos: {counts or 'none'}", err=True)
    _fail_where_none_is_left(reports, output)
    for report in reports.values():
        for name, count in report.lists.items():
            click.echo(f"{output / name}: {count} {what}", err=True)


def _fail_where_none_is_left(reports: Mapping[str, Report], output: Path) -> None:
    bad = {name: report for name, report in reports.items() if report.empty or "ok" not in report.counts}
    if not bad:
        return
    see = f"see {' and '.join(str(output / name) for name in bad)}: is it the right folder of videos?"
    if not any("ok" in report.counts for report in reports.values()):
        raise click.ClickException(f"no video is usable, {see}")
    empty = ", ".join(name for report in bad.values() for name in report.empty)
    raise click.ClickException(f"no usable video is left for {empty}, so no list was written, {see}")


if __name__ == "__main__":
    main()
