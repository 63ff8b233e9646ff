"""``i3d-bench``: videos per second."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from i3d_deploy.commands.options import reports_errors, steps

if TYPE_CHECKING:
    from i3d_deploy.benchmark import Measurement, Protocol


@click.command(epilog="Example: i3d-bench i3d_r50_fp32.onnx i3d_r50_fp32.xml --videos 5 --json bench.json")
@click.argument("artifacts", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--protocol",
    default="320x3",
    show_default=True,
    metavar="FRAMESxCROPS",
    help="Frames and crops per video; 320x3 is 10 clips of 32 frames under 3 crops.",
)
@click.option("--videos", type=click.IntRange(min=1), default=5, show_default=True, help="Timed videos per artifact.")
@click.option("--warmup", type=click.IntRange(min=1), default=1, show_default=True, help="Videos before that.")
@click.option(
    "--batch", type=click.IntRange(min=1), help="Views per run of the engine.  [default: as suits the device]"
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the backend's choice]")
@click.option("--json", "json_path", type=click.Path(path_type=Path), metavar="FILE", help="Write the whole record.")
@reports_errors
def main(
    artifacts: tuple[Path, ...],
    protocol: str,
    videos: int,
    warmup: int,
    batch: int | None,
    device: str,
    threads: int | None,
    json_path: Path | None,
) -> None:
    """Measure videos per second of ARTIFACTS in turns, model only.

    The clock runs from uint8 views in host memory to averaged probabilities in host memory. Only figures of one run may
    be compared: machines drift.
    """
    from i3d_deploy import benchmark, files

    match = re.fullmatch(r"(\d+)x([13])", protocol)
    if match is None:
        raise click.UsageError(f"--protocol {protocol} must be FRAMESxCROPS with 1 or 3 crops, such as 320x3")
    measured = benchmark.Protocol(
        frames=int(match[1]), crops=int(match[2]), batch=batch, videos=videos, warmup_videos=warmup
    )
    if json_path is not None and (json_path.is_dir() or not json_path.absolute().parent.is_dir()):
        raise click.UsageError(f"--json {json_path}: give a file in a folder that exists")
    with steps() as on_step:
        measurements = benchmark.run(artifacts, measured, device=device, threads=threads, on_step=on_step)
    _print(measurements, measured)
    if json_path is not None:
        with files.replacing(json_path) as (target,):
            target.write_text(json.dumps(benchmark.record(measurements, measured), indent=2) + "\n", encoding="utf-8")


def _print(measurements: Sequence[Measurement], protocol: Protocol) -> None:
    from rich.console import Console
    from rich.table import Table

    from i3d_deploy import benchmark

    machine = benchmark.machine()
    terminal = Console()
    # Where it goes to a file or a pipe, a row stays a line.
    console = terminal if terminal.is_terminal else Console(width=200)
    console.print(
        f"{protocol.frames}x{protocol.crops}: {measurements[0].views} views per video, model only, {protocol.videos} "
        f"timed videos after {protocol.warmup_videos}, on {machine['cpu']} ({machine['cores']} cores)"
    )
    table = Table(box=None, pad_edge=False)
    for heading in ("artifact", "videos/s", "s/video", "spread", "ratio", "batch", "max diff"):
        table.add_column(heading, overflow="fold")
    for entry in measurements:
        noisy = " noisy" if entry.spread > benchmark.NOISY_SPREAD else ""
        table.add_row(
            entry.artifact,
            f"{entry.videos_per_second:.3g}",
            f"{entry.median_seconds:.3f}",
            f"{entry.spread:.0%}{noisy}" if len(entry.seconds) > 1 else "-",
            f"{measurements[0].median_seconds / entry.median_seconds:.2f}",
            str(entry.batch),
            f"{entry.difference:.1e}",
        )
    console.print(table)
    console.print("\nratio: to the first artifact; max diff: of a logit, from the first artifact's")
    for entry in measurements:
        console.print(f"{entry.artifact}: {entry.runner}")
