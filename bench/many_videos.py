"""What `i3d-predict --ray` costs and gains: the same videos by a plain loop, and by one and two actors of Ray.

    python bench/many_videos.py i3d_r50_bf16.xml arm_wrestling.mp4 --videos 24 --rounds 3 --json many_videos.json

Each way is a process of its own, and the ways take turns within each round:

    loop, 2  Recognizer.predict_many with two threads; the next video is decoded while this one is computed
    1 x 2    bulk.predict with one actor of two threads, and so on

Two figures of each: seconds of a video over the second half of the rows, when all actors are at work; and seconds
before the first row, where Python, the packages, Ray and the network are started. The ratio says how many times as fast
as the first way the videos went, round by round.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from i3d_deploy import doctor, files
from i3d_deploy.benchmark import meters
from i3d_deploy.commands.options import reports_errors

_LOOP = """
import sys, time
from pathlib import Path
import i3d_deploy as i3d
path, folder, clips, crops, threads = sys.argv[1:]
with i3d.load(path, device="cpu", threads=int(threads)) as recognizer:
    videos = sorted(Path(folder).iterdir())
    for outcome in recognizer.predict_many(videos, clips=int(clips), crops=int(crops)):
        outcome.result.top(1)
        print(time.time(), flush=True)
"""
_RAY = """
import sys, time
from pathlib import Path
from i3d_deploy import bulk
path, folder, clips, crops, threads, actors, output = sys.argv[1:]
bulk.predict(
    path, sorted(Path(folder).iterdir()), output, clips=int(clips), crops=int(crops), threads=int(threads),
    actors=int(actors), device="cpu", address="local", on_row=lambda row: print(time.time(), flush=True),
)
"""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to predict many videos.

    Attributes:
        actors: Of Ray; 0: a loop without Ray.
        threads: CPU threads of each.
    """

    actors: int
    threads: int

    def __str__(self) -> str:
        return f"{self.actors} x {self.threads}" if self.actors else f"loop, {self.threads}"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """All videos in one way.

    Attributes:
        start_seconds: Until the first row.
        seconds: Of a video, over the second half of the rows.
    """

    start_seconds: float
    seconds: float


def ways() -> list[str]:
    """The loop, one actor with all cores, one with half of them, and two with half each."""
    cores = doctor.usable_cores()
    half = max(cores // 2, 1)
    return [f"0x{cores}", f"1x{cores}", f"1x{half}", f"2x{half}"]


def parse(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> list[Way]:
    """Read ACTORSxTHREADS."""
    try:
        pairs = [[int(number) for number in text.split("x")] for text in texts]
        return [Way(actors=actors, threads=threads) for actors, threads in pairs]
    except ValueError as error:
        raise click.BadParameter(f"{' '.join(texts)} is not of the form 2x1") from error


def run(path: Path, folder: Path, way: Way, *, clips: int, crops: int) -> Turn:
    """Predict the videos of a folder in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        words = [str(path), str(folder), str(clips), str(crops), str(way.threads)]
        words += [str(way.actors), str(Path(scratch) / "table.parquet")] if way.actors else []
        command = [sys.executable, "-c", _RAY if way.actors else _LOOP, *words]
        # Ray's workers give way to all other processes, unless told otherwise; the loop does not.
        environment = {**os.environ, "RAY_worker_niceness": "0"}
        start = time.time()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    times = [float(line) for line in done.stdout.splitlines()]
    half = times[len(times) // 2 - 1 :]
    return Turn(start_seconds=times[0] - start, seconds=(half[-1] - half[0]) / (len(half) - 1))


def report(rounds: Sequence[Sequence[Turn]], chosen: Sequence[Way]) -> list[dict[str, Any]]:
    """A row for each way: medians, and the median of its ratios to the first way, round by round."""
    rows = []
    for number, way in enumerate(chosen):
        turns = [found[number] for found in rounds]
        ratios = [found[0].seconds / found[number].seconds for found in rounds]
        rows.append(
            {
                "way": str(way),
                "start_seconds": statistics.median(turn.start_seconds for turn in turns),
                "seconds": statistics.median(turn.seconds for turn in turns),
                "ratio": statistics.median(ratios),
                "ratios": ratios,
            }
        )
    return rows


@click.command()
@click.argument("path", metavar="ARTIFACT", type=click.Path(path_type=Path, exists=True))
@click.argument("paths", metavar="VIDEO...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--videos", type=click.IntRange(min=4), default=24, show_default=True, help="How many to predict.")
@click.option("--clips", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--crops", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--way", "chosen", multiple=True, default=ways, callback=parse, metavar="ACTORSxTHREADS")
@click.option("--rounds", "num_rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path))
@reports_errors
def main(
    path: Path,
    paths: tuple[Path, ...],
    videos: int,
    clips: int,
    crops: int,
    chosen: list[Way],
    num_rounds: int,
    json_path: Path | None,
) -> None:
    """Predict VIDEOs, repeated to their number, with ARTIFACT in every way."""
    rounds: list[list[Turn]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for number, video in zip(range(videos), itertools.cycle(paths)):
            (folder / f"{number:06}{video.suffix}").symlink_to(video.absolute())
        for number in range(num_rounds):
            order = [(number + place) % len(chosen) for place in range(len(chosen))]
            found = {place: run(path, folder, chosen[place], clips=clips, crops=crops) for place in order}
            rounds.append([found[place] for place in range(len(chosen))])
            turns = "  ".join(f"{turn.seconds:.3f}" for turn in rounds[-1])
            click.echo(f"round {number + 1}: {turns}", err=True)
    rows = report(rounds, chosen)
    click.echo(f"{path.name}, {videos} videos, {clips} clips x {crops} crops")
    for row in rows:
        click.echo(
            f"{row['way']:10} {row['seconds']:8.3f} s/video  {row['ratio']:6.3f}  first after "
            f"{row['start_seconds']:.1f} s"
        )
    if json_path is not None:
        record = {
            "machine": meters.machine().model_dump(mode="json"),
            "versions": {name: version(name) for name in ("ray", "opencv-python", "openvino", "onnxruntime")},
            "artifact": path.name,
            "videos": [entry.name for entry in paths],
            "num_videos": videos,
            "clips": clips,
            "crops": crops,
            "rounds": [[asdict(turn) for turn in turns] for turns in rounds],
            "results": rows,
        }
        with files.replacing(json_path) as (target,):
            target.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
