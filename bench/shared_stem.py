"""What it gains to compute the stem once for the views of a video that overlap.

Every artifact and video, from the file to probabilities of all views of the card, with the stem shared and without, in
turns within each round:

    python bench/shared_stem.py i3d_r50_bf16.xml i3d_r50_int8.xml --rounds 5 --json shared_stem.json

Videos are given with ``--video``, or generated: one so short that its clips overlap, one in which crops alone do, and
one in which clips overlap and crops hardly do.

The ratio says how many times as fast sharing is; "saved" is the share of the stem's work that it saves, by which the
runner decides (``OpenVINORunner.least_saved``, set aside here). Rounds in which other processes used more than a tenth
of the processor, or may have, are not counted, unless there is no other round.
"""

from __future__ import annotations

import datetime
import itertools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from i3d_deploy import __version__, doctor, files, generated
from i3d_deploy.benchmark import meters
from i3d_deploy.benchmark.schedule import BUSY
from i3d_deploy.commands.options import reports_errors
from i3d_deploy.errors import InputError
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.runners.openvino_runner import OpenVINORunner
from i3d_deploy.views import prepare

GENERATED = ((300, 340), (1000, 340), (300, 454))
"""Frames and width of the videos; they are 256 high, as is usual for prepared Kinetics."""
ALWAYS, NEVER = -math.inf, math.inf
"""Of a runner's ``least_saved``."""


def generate(folder: Path) -> Iterator[Path]:
    """Write the videos that are measured when none is given."""
    for num_frames, width in GENERATED:
        path = folder / f"{num_frames}_frames_{width}x256.mp4"
        generated.write_clip(path, num_frames=num_frames, width=width)
        yield path


def opened(path: Path, *, least_saved: float) -> Recognizer:
    """The artifact, with the stem shared or not."""
    runner = OpenVINORunner(path)
    runner.least_saved = least_saved
    return Recognizer(runner)


def saved_share(path: Path, video: Path) -> float:
    """Share of the stem's work that the views of a video have in common.

    Raises:
        InputError: The stem cannot be shared.
    """
    with OpenVINORunner(path) as runner:
        share = runner.saved_share(prepare(video, runner.card))
    if share is None:
        raise InputError(f"{path}: the views of {video} cannot share the stem")
    return share


def seconds(recognizer: Recognizer, video: Path) -> float:
    """From the file to probabilities."""
    start = time.perf_counter()
    recognizer.predict(video)
    return time.perf_counter() - start


def measure(path: Path, video: Path, *, rounds: int) -> dict[str, Any]:
    """Time both forms of an artifact on one video, in turns.

    Args:
        path: The artifact.
        video: The video.
        rounds: Turns of each form, after one that compiles it.

    Returns:
        A row of the record; times are in seconds.
    """
    saved, turns = saved_share(path, video), []
    with opened(path, least_saved=NEVER) as plain, opened(path, least_saved=ALWAYS) as shared:
        for number in range(rounds + 1):
            meter = meters.Meter("cpu")
            with meter.running():
                forms = [plain, shared] if number % 2 else [shared, plain]
                found = {form is shared: seconds(form, video) for form in forms}
            used = None if meter.others_seconds is None else meter.others_seconds / meter.wall_seconds
            others = None if used is None else round(used / doctor.usable_cores(), 3)
            turns.append({"plain": found[False], "shared": found[True], "others": others})
        runner = str(shared.info)
    turns = turns[1:]
    quiet = [turn for turn in turns if turn["others"] is not None and turn["others"] <= BUSY]
    counted = quiet or turns
    return {
        "artifact": path.name,
        "runner": runner,
        "video": video.name,
        "saved": saved,
        "rounds": turns,
        "quiet_rounds": len(quiet),
        "plain": statistics.median(turn["plain"] for turn in counted),
        "shared": statistics.median(turn["shared"] for turn in counted),
        "ratio": statistics.median(turn["plain"] / turn["shared"] for turn in counted),
    }


@click.command()
@click.argument("paths", metavar="ARTIFACT...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--video", "videos", multiple=True, type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path))
@reports_errors
def main(paths: tuple[Path, ...], videos: tuple[Path, ...], rounds: int, json_path: Path | None) -> None:
    """Run each ARTIFACT (``.xml``) over each video with the stem shared and without."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        videos = videos or tuple(generate(Path(folder)))
        for path, video in itertools.product(paths, videos):
            row = measure(path, video, rounds=rounds)
            results.append(row)
            click.echo(
                f"{path.name:24} {video.name:24} saved {row['saved']:5.1%}  plain {row['plain']:7.3f} s  "
                f"shared {row['shared']:7.3f} s  {row['ratio']:6.3f}  {row['quiet_rounds']}/{rounds} quiet rounds"
            )
    if json_path is not None:
        record = {
            "date": datetime.date.today().isoformat(),
            "i3d_deploy": __version__,
            "opencv": version("opencv-python"),
            "machine": meters.machine().model_dump(mode="json"),
            "results": results,
        }
        with files.replacing(json_path) as (target,):
            target.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
