"""What the harness itself costs: a runner that does nothing beside a real artifact, in turns, in one run.

    python bench/overhead.py engines/i3d_r50.onnx

The idle runner takes the same views, one by one unless ``--batch`` says otherwise, and answers zeros at once, so that
its time is the harness's own: cutting batches, checking them, joining logits and averaging them.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from i3d_deploy import artifact
from i3d_deploy.benchmark import schedule, workers
from i3d_deploy.benchmark.plan import Plan, frames_and_crops
from i3d_deploy.benchmark.worker import OpenRequest, serve
from i3d_deploy.commands.options import reports_errors, steps
from i3d_deploy.runners import Runner, RunnerInfo

IDLE = "idle runner"
SERVE = "--serve"


class IdleRunner(Runner):
    """Answers zeros at once, for an artifact's card."""

    is_comparable = False

    def __init__(self, request: OpenRequest) -> None:
        super().__init__()
        self.card = artifact.read_card(request.path)
        self.info = RunnerInfo(backend="none", device="cpu", provider="idle", precision="fp32")

    def _run(self, inputs: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        return np.zeros((len(inputs), self.card.network.num_classes), np.float32)


@click.command()
@click.argument("path", metavar="ARTIFACT", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--protocol", default="320x3", show_default=True, metavar="FRAMESxCROPS")
@click.option("--batch", type=click.IntRange(min=1), help="Views per run of both.")
@click.option("--videos", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), metavar="FILE", help="Write the whole record.")
@reports_errors
def main(path: Path, protocol: str, batch: int | None, videos: int, json_path: Path | None) -> None:
    """Measure ARTIFACT and a runner that does nothing, and print the share of the one's time that the other takes."""
    frames, crops = frames_and_crops(protocol)
    plan = Plan(frames=frames, crops=crops, batch=batch, min_rounds=videos, ceiling_seconds=0)
    (real,) = workers.subjects([path])
    idle = dataclasses.replace(real, name=IDLE, command=(sys.executable, str(Path(__file__).absolute()), SERVE))
    with steps() as on_step:
        found = schedule.run([real, idle], plan, on_step=on_step)
    ours, theirs = (result.model for result in found.results)
    noisy = " (noisy)" if ours.is_noisy or theirs.is_noisy else ""
    share = f"{theirs.median / ours.median:.4%} of it{noisy}"
    click.echo(f"{path.name}: {ours.median:.4f} s/video; {IDLE}: {theirs.median:.6f} s/video, {share}")
    if json_path is not None:
        found.write(json_path)


if __name__ == "__main__":
    if sys.argv[1:] == [SERVE]:
        serve(IdleRunner)
    else:
        main()
