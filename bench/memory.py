"""Peak memory of a 30-view prediction against the length of the video.

Each row is a process of its own that loads the artifact, predicts once from the file and reports its peak resident
size.

    python bench/memory.py i3d_r50_fp32.onnx i3d_r50_fp32.xml --frames 300 --frames 3000 --json memory.json
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import click

from i3d_deploy import files, generated
from i3d_deploy.benchmark import meters

PREDICT = """
import json, resource, sys
import i3d_deploy as i3d
with i3d.load(sys.argv[1], device="cpu") as recognizer:
    prediction = recognizer.predict(sys.argv[2])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"runner": str(recognizer.info), "views": prediction.views, "peak_mib": peak / 1024}))
"""


@click.command()
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--frames", "lengths", type=int, multiple=True, default=(300, 3000, 18000), show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(artifacts: tuple[Path, ...], lengths: tuple[int, ...], json_path: Path | None) -> None:
    """Measure ARTIFACTS on generated videos of several lengths (25 frames a second, 340x256)."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for length in lengths:
            video = Path(folder) / f"{length}.mp4"
            generated.write_clip(video, num_frames=length)
            for artifact in artifacts:
                command = [sys.executable, "-c", PREDICT, str(artifact), str(video)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                row = {"artifact": artifact.name, "frames": length, **json.loads(done.stdout)}
                click.echo(f"{row['artifact']:32} {length:6} frames  {row['peak_mib']:6.0f} MiB  {row['runner']}")
                rows.append(row)
    if json_path is not None:
        record = {
            "machine": meters.machine().model_dump(mode="json"),
            "opencv": version("opencv-python"),
            "results": rows,
        }
        with files.replacing(json_path) as (target,):
            target.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
