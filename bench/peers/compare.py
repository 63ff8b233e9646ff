"""i3d-deploy beside what a user would pick instead: one run, in turns, on the same views with the same weights.

    make peers

Contestants run in an environment of their own, ``.venv-peers``; one that is missing there is named in the table. The
weights are filled by the rule of the golden tests, so that no download is needed and everybody has the same.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import click
import numpy as np
import torch
from contestants import CONTESTANTS
from rich.console import Console

from i3d_deploy import checkpoint, export
from i3d_deploy.benchmark import record as records
from i3d_deploy.benchmark import schedule, table, timing, wording, workers
from i3d_deploy.benchmark.plan import Plan, frames_and_crops
from i3d_deploy.benchmark.record import Record, Result
from i3d_deploy.benchmark.workers import Subject
from i3d_deploy.card import Engine
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.commands.options import reports_errors, steps
from i3d_deploy.errors import I3DError
from i3d_deploy.origins import MMACTION2

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
NAME = "i3d_r50"


@click.command()
@click.option(
    "--output", type=click.Path(path_type=Path), default=ROOT / "peers-output", help="Folder of our artifacts."
)
@click.option("--protocol", default="320x3", show_default=True, metavar="FRAMESxCROPS")
@click.option("--videos", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--warmup", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(tuple(CONTESTANTS)), help="Of the contestants; all otherwise.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), metavar="FILE", help="Write the whole record.")
@click.option(
    "--from", "given", type=click.Path(path_type=Path), metavar="FILE", help="Print a record, measure nothing."
)
@reports_errors
def main(
    output: Path,
    protocol: str,
    videos: int,
    warmup: int,
    only: tuple[str, ...],
    json_path: Path | None,
    given: Path | None,
) -> None:
    """Measure our artifacts and the contestants, and print how many times as fast ours are."""
    if given is not None:
        click.echo(report(records.read(given)))
        return
    frames, crops = frames_and_crops(protocol)
    plan = Plan(frames=frames, crops=crops, min_rounds=videos, min_seconds=0, max_warmup=warmup)
    with steps() as on_step:
        ours = make_artifacts(output, on_step=on_step)
        subjects = (*workers.subjects(ours, devices=["cpu"]), *contestants(ours[0], only or tuple(CONTESTANTS)))
        found = schedule.run(subjects, plan, on_step=on_step)
    if json_path is not None:
        found.write(json_path)
    table.show(found, Console(width=200))
    click.echo("\n" + report(found))
    if any(failure.is_wrong for failure in found.failures):
        raise SystemExit(1)


def make_artifacts(output: Path, *, on_step: export.Report) -> tuple[Path, ...]:
    """Our artifacts, the checkpoint first; those that are there are taken as they are."""
    source = output / f"{NAME}.safetensors"
    wanted = [source, output / f"{NAME}_fp32.onnx", output / f"{NAME}_fp32.xml", output / f"{NAME}_bf16.xml"]
    if not all(path.is_file() for path in wanted):
        output.mkdir(parents=True, exist_ok=True)
        made = fill(checkpoint.random(NAME, seed=0))
        export.export(made, targets=["safetensors"], output=output, name=NAME, on_step=on_step)
        export.export(made, targets=["onnx", "openvino"], output=output, name=f"{NAME}_fp32", on_step=on_step)
        half = Engine(precision="bf16")
        export.export(made, targets=["openvino"], output=output, name=f"{NAME}_bf16", engine=half, on_step=on_step)
    return tuple(wanted)


def fill(made: Checkpoint) -> Checkpoint:
    """Fill a network by the rule of the golden tests: each tensor from its name in mmaction2 and its shape."""
    with torch.no_grad():
        for name, tensor in made.model.state_dict().items():
            original = MMACTION2.entry(name)
            random = np.random.RandomState(zlib.crc32(original.encode()))
            if name.endswith("num_batches_tracked"):
                values = np.zeros(tuple(tensor.shape))
            elif name.endswith(("bias", "running_mean")):
                values = 0.1 * random.standard_normal(tuple(tensor.shape))
            elif name.endswith("running_var"):
                values = 1 + 0.5 * random.random_sample(tuple(tensor.shape))
            elif tensor.dim() == 1:
                values = 1 + 0.1 * random.standard_normal(tuple(tensor.shape))
            else:
                values = random.standard_normal(tuple(tensor.shape)) / np.sqrt(np.prod(tensor.shape[1:]))
            tensor.copy_(torch.from_numpy(np.asarray(values)))
    return made


def contestants(source: Path, names: tuple[str, ...]) -> tuple[Subject, ...]:
    """The others, each with the weights of our checkpoint."""
    script = str(Path(__file__).with_name("worker.py"))
    return tuple(Subject(name=name, path=source, device="cpu", command=(str(PYTHON), script, name)) for name in names)


def report(found: Record) -> str:
    """A Markdown table: how many times as fast as each contestant ours are."""
    ours = [result for result in found.results if result.artifact not in CONTESTANTS]
    if not ours:
        raise I3DError("the record has none of our artifacts to compare with")
    best = max(ours, key=lambda result: result.videos_per_second)
    lines = [
        "| contestant | what ran | videos/s | spread | like for like | ratio | our best | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for result in found.results:
        if result.artifact in CONTESTANTS:
            lines.append(_row(result, like=_like(result, ours), best=best))
    lines += [
        f"| {failure.artifact} | not measured: {failure.reason} | | | | | | |"
        for failure in found.failures
        if failure.artifact in CONTESTANTS
    ]
    return "\n".join(lines)


def _like(peer: Result, ours: list[Result]) -> Result | None:
    """Ours of the same backend and precision; of PyTorch, for whatever else runs in it."""
    package = peer.backend.split()[0]
    package = package if package in ("onnxruntime", "openvino") else "torch"
    alike = (entry for entry in ours if entry.backend.split()[0] == package and entry.precision == peer.precision)
    return next(alike, None)


def _row(peer: Result, *, like: Result | None, best: Result) -> str:
    cells = [
        peer.artifact,
        f"{peer.backend}, {peer.precision}, batch {peer.batch}",
        wording.significant(peer.videos_per_second),
        wording.spread(peer.model.spread, is_noisy=peer.model.is_noisy),
        *(("-", "-") if like is None else (like.artifact, _ratio(like, peer))),
        best.artifact,
        _ratio(best, peer),
    ]
    return f"| {' | '.join(cells)} |"


def _ratio(one: Result, other: Result) -> str:
    ratio = timing.ratio(one.artifact, one.model.rounds, other.artifact, other.model.rounds)
    return f"{ratio.ratio:.2f}{' (noisy)' if ratio.is_noisy else ''}"


if __name__ == "__main__":
    main()
