"""``i3d-verify``: the proof of an export, later or on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from i3d_deploy.commands.options import CheckpointOptions, checkpoint_options, device_option, reports_errors, steps


@click.command(epilog="Example: i3d-verify i3d_r50_fp32.onnx --against i3d_r50.pth clip.mp4")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("videos", type=click.Path(path_type=Path), nargs=-1)
@click.option("--against", type=click.Path(path_type=Path), required=True, help="Checkpoint it was made from.")
@click.option("--clips", type=click.IntRange(min=1), help="Clips of each video to compare.  [default: the card's]")
@device_option
@click.option("--record", is_flag=True, help="Store the figures on the card in ARTIFACT.")
@checkpoint_options
@reports_errors
def main(
    artifact: Path,
    videos: tuple[Path, ...],
    against: Path,
    clips: int | None,
    device: str,
    record: bool,
    **reading: Any,
) -> None:
    """Prove that ARTIFACT answers as its checkpoint does, on VIDEOS or on a generated one.

    Exit code 1 when it does not.
    """
    from i3d_deploy import export as exporting
    from i3d_deploy.artifact import read_card
    from i3d_deploy.commands.export import print_proofs

    card = read_card(artifact)
    source = CheckpointOptions(**reading).read(against)
    with steps() as on_step:
        figures = exporting.verify(artifact, source, videos=videos, num_clips=clips, device=device, on_step=on_step)
    for note in source.notes:
        click.echo(f"Note: {note}", err=True)
    made_from = card.provenance.sha256
    if made_from is not None and source.card.provenance.sha256 not in (None, made_from):
        click.echo(
            f"Note: {against} is not the file that {artifact} was made from (SHA-256 {made_from[:8]}...)", err=True
        )
    print_proofs([(artifact, card.replaced(parity=(figures,), gate=None))])
    if record:
        exporting.record(artifact, figures)
    if figures.status == "failed":
        raise SystemExit(1)
