"""Latency and memory of the C++ library beside Python, on the same artifact and frames.

The two take turns, each in a process of its own that loads the artifact, predicts frames that are in memory a few times
and reports the seconds of each; the first one of a process is not counted. Both load with as many threads, and Python
runs each view by itself as C++ does, without sharing work between views.

    python bench/cpp.py i3d_r50.xml clip.mp4 --program export/cpp/build/openvino/i3d_predict_cpp --json record.json
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np

from i3d_deploy import files, video_files
from i3d_deploy.benchmark import meters

PREDICT = """
import sys, time
import numpy as np
import i3d_deploy as i3d
artifact, raw, height, width, repeats, threads, clips, crops = sys.argv[1:]
with i3d.load(artifact, device="cpu", threads=int(threads)) as recognizer:
    runner = recognizer._runner
    runner.least_saved = 2.0
    frames = np.fromfile(raw, np.uint8).reshape(-1, int(height), int(width), 3)
    for _ in range(int(repeats) + 1):
        start = time.perf_counter()
        prediction = recognizer.predict(frames, clips=int(clips) or None, crops=int(crops) or None)
        print(f"{time.perf_counter() - start:.6f} s", file=sys.stderr)
    for label, probability in prediction.top(5):
        print(f"{probability:.6f}  {label}")
"""


@dataclass(frozen=True)
class Run:
    """One process.

    Attributes:
        seconds: Of each counted prediction.
        peak_bytes: Resident size at the most.
        answer: What it printed.
    """

    seconds: list[float]
    peak_bytes: int
    answer: str


def run(command: Sequence[str | Path]) -> Run:
    """Run a process and read its seconds from standard error."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        lines = err.read().splitlines()
        if process.returncode != 0:
            raise click.ClickException("\n".join(lines[-3:]))
        seconds = [float(line.removesuffix(" s")) for line in lines if line.endswith(" s")]
        return Run(seconds=seconds[1:], peak_bytes=usage.ru_maxrss * 1024, answer=out.read())


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path, exists=True))
@click.argument("video", type=click.Path(path_type=Path, exists=True))
@click.option("--program", type=click.Path(path_type=Path, exists=True), required=True, help="i3d_predict_cpp.")
@click.option("--rounds", type=int, default=3, show_default=True, help="Processes of each, in turns.")
@click.option("--repeats", type=int, default=5, show_default=True, help="Counted predictions of a process.")
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--clips", type=int, default=1, show_default=True)
@click.option("--crops", type=int, default=1, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(
    artifact: Path,
    video: Path,
    program: Path,
    rounds: int,
    repeats: int,
    threads: int,
    clips: int,
    crops: int,
    json_path: Path | None,
) -> None:
    """Measure predictions of VIDEO by ARTIFACT in C++ and in Python."""
    frames = np.stack(list(video_files.read(video)))
    _, height, width, _ = frames.shape
    runs: dict[str, list[Run]] = {"C++": [], "Python": []}
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "frames.rgb"
        frames.tofile(raw)
        options = ["--threads", threads, "--clips", clips, "--crops", crops, "--repeat", repeats + 1]
        commands: dict[str, list[str | Path]] = {
            "C++": [program, raw, artifact, "--raw", f"{width}x{height}", *map(str, options)],
            "Python": [
                *(sys.executable, "-c", PREDICT, artifact, raw),
                *map(str, (height, width, repeats, threads, clips, crops)),
            ],
        }
        for _ in range(rounds):
            for name, command in commands.items():
                runs[name].append(run(command))
    answers = {entry.answer for entries in runs.values() for entry in entries}
    medians = {
        name: statistics.median(seconds for entry in entries for seconds in entry.seconds)
        for name, entries in runs.items()
    }
    peaks = {name: max(entry.peak_bytes for entry in entries) for name, entries in runs.items()}
    for name in runs:
        each = [statistics.median(entry.seconds) for entry in runs[name]]
        spread = (max(each) - min(each)) / medians[name]
        click.echo(f"{name:8} {medians[name]:.4f} s  spread {spread:.1%}  peak {peaks[name] / 2**20:.0f} MiB")
    click.echo(
        f"C++ / Python: time {medians['C++'] / medians['Python']:.3f}, memory {peaks['C++'] / peaks['Python']:.3f}"
    )
    click.echo("same answer to six digits" if len(answers) == 1 else f"answers differ: {answers}")
    if json_path is not None:
        record = {
            "machine": meters.machine().model_dump(mode="json"),
            "versions": {name: version(name) for name in ("openvino", "onnxruntime", "numpy")},
            "protocol": {
                "artifact": artifact.name,
                "video": video.name,
                "frames": list(frames.shape),
                **{"clips": clips, "crops": crops, "threads": threads, "rounds": rounds, "repeats": repeats},
            },
            "results": {name: [asdict(entry) for entry in entries] for name, entries in runs.items()},
        }
        with files.replacing(json_path) as (target,):
            target.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if len(answers) != 1:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
