"""How well and how fast optical flow is estimated, by each method that this machine has.

How well: on pairs of frames whose motion is known exactly (``i3d_deploy.known_motion``), the distance between where the
estimate leads and where the pixel went, over the pixels that stay in sight and have texture: its mean and its 90th
percentile.

How fast: what ``i3d_deploy.flow.between`` does with a pair of frames, which is gray levels, the method and the 8-bit
form; the frames are decoded beforehand. Methods take turns within each round, after one pair to warm up. The figure is
the median of the rounds. A turn in which other processes used more than a tenth of the processor is taken again,
``--patience`` times; quiet turns alone count, where there are any.

    python bench/flow.py --json flow.json

OpenCV's TV-L1 takes part where ``opencv-contrib-python`` is installed in place of ``opencv-python``.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import skimage
from numpy.typing import NDArray
from skimage.registration import optical_flow_tvl1

from i3d_deploy import __version__, doctor, files, flow, generated, known_motion, video_files
from i3d_deploy.benchmark import meters
from i3d_deploy.benchmark.schedule import BUSY
from i3d_deploy.commands.options import reports_errors
from i3d_deploy.flow import Displacement
from i3d_deploy.frames import Frame
from i3d_deploy.known_motion import Motion, Scene

JSON_VERSION = 1
TURN_SECONDS = 0.5
"""A turn goes over the frames again until it has lasted so long: what other processes used is told in 1/100 s."""

MOTIONS = {
    "2.7 pixels": Motion(shift=(2.3, -1.4)),
    "2.7 pixels, noise of 6 levels": Motion(shift=(2.3, -1.4), noise=6),
    "2.7 pixels, 10 % brighter": Motion(shift=(2.3, -1.4), gain=1.1),
    "9.4 pixels": Motion(shift=(7.7, -5.4)),
    "17.9 pixels": Motion(shift=(15.5, -9)),
    "turn by 4 degrees": Motion(degrees=4),
    "growth by 6 %": Motion(scale=1.06),
    "disk moves 7.2 pixels": Motion(shift=(6, -4), radius=60),
}

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}

Solve = Callable[[NDArray[np.uint8], NDArray[np.uint8]], Displacement]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Some pairs of frames by one method.

    Attributes:
        seconds: Per pair.
        others: Share of the machine that other processes used; 0 where that cannot be told.
    """

    seconds: float
    others: float


def methods() -> dict[str, Solve]:
    """Each method by name; those that :mod:`i3d_deploy.flow` uses under the names that it tells."""
    found: dict[str, Solve] = {}
    for name, preset in PRESETS.items():
        found[f"OpenCV {cv2.__version__} DISOpticalFlow {name}"] = _opencv(cv2.DISOpticalFlow.create(preset))
    contributed: Any = getattr(cv2, "optflow", None)
    if contributed is not None:
        found[f"OpenCV {cv2.__version__} DualTVL1OpticalFlow"] = _opencv(contributed.DualTVL1OpticalFlow_create())
    for attachment in (15.0, flow.ATTACHMENT):
        name = f"scikit-image {skimage.__version__} optical_flow_tvl1 attachment={attachment:g}"
        found[name] = _scikit_image(attachment)
    used = {flow.implementation("dis"), flow.implementation("tvl1")}
    assert used <= found.keys()
    return found


def _opencv(algorithm: Any) -> Solve:
    return lambda first, second: np.asarray(algorithm.calc(first, second, None), np.float32)


def _scikit_image(attachment: float) -> Solve:
    def solve(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Displacement:
        intensities = (gray.astype(np.float32) / 255 for gray in (first, second))
        down, right = optical_flow_tvl1(*intensities, attachment=attachment, dtype=np.float32)
        return np.stack((right, down), axis=-1)

    return solve


def to_gray(frame: Frame) -> NDArray[np.uint8]:
    """The frame as methods want it."""
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)


def rate(solve: Solve, scenes: Sequence[Scene]) -> dict[str, float]:
    """Mean and 90th percentile of the endpoint errors of all scenes, in pixels."""
    errors = np.concatenate(
        [scene.errors(solve(to_gray(scene.first), to_gray(scene.second))) for scene in scenes], dtype=np.float64
    )
    return {"mean": float(errors.mean()), "p90": float(np.percentile(errors, 90))}


def run(solve: Solve, frames: Sequence[Frame]) -> None:
    """The flow from each frame to the next, as :func:`i3d_deploy.flow.between` makes it."""
    before = to_gray(frames[0])
    for frame in frames[1:]:
        gray = to_gray(frame)
        flow.to_uint8(solve(before, gray))
        before = gray


def take_turn(solve: Solve, frames: Sequence[Frame], *, patience: int) -> Turn:
    """Time the flow between frames; the quietest of the attempts where all were disturbed."""
    turns = []
    for _ in range(patience + 1):
        meter = meters.Meter("cpu")
        with meter.running():
            end = time.perf_counter() + TURN_SECONDS
            passes = 0
            while time.perf_counter() < end:
                run(solve, frames)
                passes += 1
        others = (meter.others_seconds or 0.0) / meter.wall_seconds / doctor.usable_cores()
        turns.append(Turn(seconds=meter.wall_seconds / passes / (len(frames) - 1), others=round(others, 3)))
        if others <= BUSY:
            break
    return min(turns, key=lambda turn: turn.others)


def measure(
    contestants: Mapping[str, Solve], frames: Sequence[Frame], *, rounds: int, patience: int
) -> dict[str, list[Turn]]:
    """A turn of every method in each round."""
    for solve in contestants.values():
        run(solve, frames[:2])
    turns: dict[str, list[Turn]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, solve in contestants.items():
            turns[name].append(take_turn(solve, frames, patience=patience))
        click.echo(f"round {number + 1}: " + "  ".join(f"{of[-1].seconds:.4f} s" for of in turns.values()), err=True)
    return turns


def report(turns: Sequence[Turn], errors: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The figures of a method. The spread is (slowest - fastest) / median of the turns that count."""
    quiet = [turn.seconds for turn in turns if turn.others <= BUSY]
    counted = quiet or [turn.seconds for turn in turns]
    median = statistics.median(counted)
    return {
        "errors": errors,
        "pairs_per_second": 1 / median,
        "spread": (max(counted) - min(counted)) / median,
        "is_quiet": bool(quiet),
        "turns": [asdict(turn) for turn in turns],
    }


def to_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table: errors of each motion as mean and 90th percentile, and the rate with its spread."""
    rows = [["method", *MOTIONS, "pairs a second"]]
    rows.append(["---"] * len(rows[0]))
    for name, result in results.items():
        errors = (result["errors"][motion] for motion in MOTIONS)
        rows.append([name, *(f"{entry['mean']:.2f}, {entry['p90']:.2f}" for entry in errors), _speed(result)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _speed(result: Mapping[str, Any]) -> str:
    disturbed = "" if result["is_quiet"] else ", DISTURBED"
    return f"{result['pairs_per_second']:.3g} ({result['spread']:.0%}{disturbed})"


@click.command()
@click.option(
    "--video", "path", type=click.Path(path_type=Path, exists=True), help="To time; default: a generated one."
)
@click.option("--pairs", type=click.IntRange(min=1), default=8, show_default=True, help="Of frames a turn.")
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--patience", type=click.IntRange(min=0), default=2, show_default=True, help="Repeats of a busy turn.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Pictures of each motion.")
@click.option("--size", type=(click.IntRange(min=16), click.IntRange(min=16)), default=(340, 256), show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path))
@reports_errors
def main(
    path: Path | None, pairs: int, rounds: int, patience: int, seeds: int, size: tuple[int, int], json_path: Path | None
) -> None:
    """Compare the methods on frames of a SIZE, width and height."""
    width, height = size
    source = video_files.read(path) if path else generated.frames(num_frames=pairs + 1, height=height, width=width)
    frames = [np.asarray(cv2.resize(frame, size), np.uint8) for frame in itertools.islice(source, pairs + 1)]
    contestants = methods()
    errors: dict[str, dict[str, dict[str, float]]] = {name: {} for name in contestants}
    for motion_name, motion in MOTIONS.items():
        scenes = [known_motion.draw(motion, height=height, width=width, seed=seed) for seed in range(seeds)]
        for name, solve in contestants.items():
            errors[name][motion_name] = rate(solve, scenes)
    turns = measure(contestants, frames, rounds=rounds, patience=patience)
    results = {name: report(turns[name], errors[name]) for name in contestants}
    click.echo(to_table(results))
    if json_path is not None:
        record = {
            "version": JSON_VERSION,
            "i3d_deploy": __version__,
            "machine": meters.machine().model_dump(mode="json"),
            "versions": {"opencv": cv2.__version__, "scikit-image": skimage.__version__, "numpy": np.__version__},
            "protocol": {
                "size": f"{width}x{height}",
                "motions": {name: asdict(motion) for name, motion in MOTIONS.items()},
                "seeds": seeds,
                "video": path.name if path else "generated",
                "pairs": len(frames) - 1,
                "rounds": rounds,
                "turn_seconds": TURN_SECONDS,
                "opencv_threads": cv2.getNumThreads(),
            },
            "used": {method: flow.implementation(method) for method in flow.METHODS},
            "results": results,
        }
        with files.replacing(json_path) as (target,):
            target.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
