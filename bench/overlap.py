"""What it gains to decode the next video while this one is computed, and with how many threads.

One artifact, a stream of videos, and every way to run it in turns within each round:

    python bench/overlap.py i3d_r50_bf16.xml arm_wrestling.mp4 --videos 3 --rounds 5 --json overlap.json

Each figure is seconds per video from the file to probabilities; the ratio says how many times as fast as one after the
other. With ``--waits 5`` the network is replaced by 5 ms of waiting per view: a GPU, as the cores see it. A turn in
which other processes used more than a tenth of the processor is taken again, ``--patience`` times.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from numpy.typing import NDArray

import i3d_deploy as i3d
from i3d_deploy import artifact, doctor, files, reading
from i3d_deploy.benchmark import meters
from i3d_deploy.benchmark.schedule import BUSY
from i3d_deploy.card import Card
from i3d_deploy.commands.options import reports_errors
from i3d_deploy.predictions import average_views
from i3d_deploy.reading import Cutting
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.runners import Runner, RunnerInfo


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to run a stream of videos.

    Attributes:
        is_ahead: Whether views are handed over and the next video is decoded while the engine runs.
        decoder_threads: Threads that decode; None: one per core.
        opencv_threads: Threads with which OpenCV converts and resizes; None: one per core.
    """

    is_ahead: bool
    decoder_threads: int | None = None
    opencv_threads: int | None = None

    def __str__(self) -> str:
        order = "overlapped" if self.is_ahead else "one after the other"
        threads = f"{self.decoder_threads or 'all'} decoder, {self.opencv_threads or 'all'} OpenCV"
        return f"{order}, {threads} threads"


WAYS = (
    Way(is_ahead=False),
    Way(is_ahead=True),
    Way(is_ahead=True, decoder_threads=1),
    Way(is_ahead=True, decoder_threads=1, opencv_threads=1),
)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A stream of videos run in one way.

    Attributes:
        seconds: Per video.
        others: Share of the machine that other processes used; 0 where that cannot be told.
    """

    seconds: float
    others: float


class WaitingRunner(Runner):
    """Leaves the cores alone for some time, as a GPU does, and answers zeros.

    Args:
        card: Its card.
        seconds: Of one view.
    """

    is_comparable = False

    def __init__(self, card: Card, *, seconds: float) -> None:
        super().__init__()
        self.card, self._seconds = card, seconds
        self.info = RunnerInfo(backend="none", device="cpu", provider=f"{seconds * 1e3:g} ms a view", precision="fp32")

    def _run(self, inputs: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(self._seconds * len(inputs))
        return np.zeros((len(inputs), self.card.network.num_classes), np.float32)


def opened(path: Path, *, device: str, wait_ms: float | None) -> Recognizer:
    """The artifact, or a runner that waits."""
    if wait_ms is None:
        return i3d.load(path, device=device)
    return Recognizer(WaitingRunner(artifact.read_card(path), seconds=wait_ms / 1e3))


def run(recognizer: Recognizer, videos: Sequence[Path], way: Way) -> float:
    """Seconds per video of a stream."""
    card = recognizer.card
    cutting = Cutting(sampling=card.sampling, spatial=card.spatial, decoder_threads=way.decoder_threads)
    cv2.setNumThreads(way.opencv_threads or doctor.usable_cores())
    start = time.perf_counter()
    if way.is_ahead:
        with closing(reading.one_ahead(videos, cutting)) as started:
            for being_read in started:
                average_views(recognizer.logits(being_read), over=card.averaging)
    else:
        for path in videos:
            average_views(recognizer.logits(cutting.cut(path)), over=card.averaging)
    return (time.perf_counter() - start) / len(videos)


def take_turn(recognizer: Recognizer, videos: Sequence[Path], way: Way, *, patience: int) -> Turn:
    """Run a stream in one way; the quietest of the attempts where all were disturbed."""
    turns = []
    for _ in range(patience + 1):
        meter = meters.Meter("cpu")
        with meter.running():
            seconds = run(recognizer, videos, way)
        others = (meter.others_seconds or 0.0) / meter.wall_seconds / doctor.usable_cores()
        turns.append(Turn(seconds=seconds, others=round(others, 3)))
        if others <= BUSY:
            break
    return min(turns, key=lambda turn: turn.others)


def measure(recognizer: Recognizer, videos: Sequence[Path], *, first: int, patience: int) -> list[Turn]:
    """A turn of every way, beginning with another one each round."""
    order = [(first + number) % len(WAYS) for number in range(len(WAYS))]
    found = {number: take_turn(recognizer, videos, WAYS[number], patience=patience) for number in order}
    return [found[number] for number in range(len(WAYS))]


def report(rounds: Sequence[Sequence[Turn]]) -> list[dict[str, Any]]:
    """A row for each way: median seconds, and the median of its ratios to the first way, round by round.

    Of quiet rounds alone, or, where there is none, of all, which the row then says.
    """
    rows = []
    for number, way in enumerate(WAYS):
        quiet = [turns for turns in rounds if max(turns[0].others, turns[number].others) <= BUSY]
        counted = quiet or rounds
        ratios = [turns[0].seconds / turns[number].seconds for turns in counted]
        seconds = statistics.median(turns[number].seconds for turns in counted)
        row = {"way": str(way), "rounds": len(counted), "seconds": seconds, "ratio": statistics.median(ratios)}
        rows.append({**row, "ratios": ratios, "is_quiet": bool(quiet)})
    return rows


@click.command()
@click.argument("path", metavar="ARTIFACT", type=click.Path(path_type=Path, exists=True))
@click.argument("paths", metavar="VIDEO...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--videos", type=click.IntRange(min=1), default=3, show_default=True, help="Length of the stream.")
@click.option("--rounds", "num_rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--patience", type=click.IntRange(min=0), default=2, show_default=True, help="Repeats of a busy turn.")
@click.option("--device", default="auto", show_default=True)
@click.option("--waits", "wait_ms", type=float, metavar="MS", help="Wait this long per view instead of computing.")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
@reports_errors
def main(
    path: Path,
    paths: tuple[Path, ...],
    videos: int,
    num_rounds: int,
    patience: int,
    device: str,
    wait_ms: float | None,
    json_path: Path | None,
) -> None:
    """Run ARTIFACT over a stream of VIDEOs, repeated to its length, in every way."""
    stream = list(itertools.islice(itertools.cycle(paths), videos))
    with opened(path, device=device, wait_ms=wait_ms) as recognizer:
        run(recognizer, stream[:1], WAYS[0])
        rounds = []
        for number in range(num_rounds):
            rounds.append(measure(recognizer, stream, first=number, patience=patience))
            turns = "  ".join(f"{turn.seconds:.3f} (others {turn.others:.0%})" for turn in rounds[-1])
            click.echo(f"round {number + 1}: {turns}", err=True)
        runner = str(recognizer.info)
    rows = report(rounds)
    click.echo(f"{path.name}, {runner}; {videos} videos")
    for row in rows:
        rounds_text = f"{row['rounds']} {'quiet' if row['is_quiet'] else 'DISTURBED'} rounds"
        click.echo(f"{row['way']:55} {row['seconds']:8.3f} s/video  {row['ratio']:6.3f}  {rounds_text}")
    if json_path is not None:
        record = {
            "machine": meters.machine().model_dump(mode="json"),
            "opencv": version("opencv-python"),
            "artifact": path.name,
            "runner": runner,
            "videos": [entry.name for entry in stream],
            "rounds": [[asdict(turn) for turn in turns] for turns in rounds],
            "results": rows,
        }
        with files.replacing(json_path) as (target,):
            target.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
