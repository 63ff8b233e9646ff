"""``i3d-verify``: the proof of an export, later or on another machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from i3d_deploy.commands.options import CheckpointOptions, checkpoint_options, device_option, reports_errors, steps

if TYPE_CHECKING:
    from i3d_deploy.checkpoint import Checkpoint
    from i3d_deploy.measurements import Parity


@click.command(epilog="Example: i3d-verify i3d_r50_fp32.onnx --against i3d_r50.pth clip.mp4")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("videos", type=click.Path(path_type=Path), nargs=-1)
@click.option("--against", type=click.Path(path_type=Path), required=True, help="Checkpoint it was made from.")
@click.option(
    "--flow",
    type=click.Path(path_type=Path),
    metavar="CHECKPOINT",
    help="Of the optical flow stream, where ARTIFACT is the .json of two streams and --against of the RGB stream.",
)
@click.option("--clips", type=click.IntRange(min=1), help="Clips of each video to compare.  [default: the card's]")
@device_option
@click.option("--record", is_flag=True, help="Store the figures on the card in ARTIFACT.")
@checkpoint_options
@reports_errors
def main(
    artifact: Path,
    videos: tuple[Path, ...],
    against: Path,
    flow: Path | None,
    clips: int | None,
    device: str,
    record: bool,
    **reading: Any,
) -> None:
    """Prove that ARTIFACT answers as its checkpoint does, on VIDEOS or on a generated one.

    Exit code 1 when it does not.
    """
    from i3d_deploy import artifact as artifacts
    from i3d_deploy import two_stream

    options = CheckpointOptions(**reading)
    pair = None
    if artifacts.identify(artifact).kind == "two-stream":
        if flow is None:
            raise click.UsageError(f"{artifact} has two streams: give the checkpoint of the second with --flow")
        pair = two_stream.read(artifact)
        streams = [(pair.rgb, against, options.of_rgb.read(against)), (pair.flow, flow, options.of_flow.read(flow))]
    elif flow is None:
        streams = [(artifact, against, options.read(against))]
    else:
        raise click.UsageError(f"--flow goes with the .json of two streams, and {artifact} is one network")
    verified = [_verify(*stream, videos=videos, clips=clips, device=device) for stream in streams]
    if record:
        from i3d_deploy import export as exporting

        for (path, _, _), figures in zip(streams, verified, strict=True):
            exporting.record(path, figures)
        if pair is not None:
            two_stream.write(artifact, pair)  # which knows its files by their SHA-256
    if any(figures.status == "failed" for figures in verified):
        raise SystemExit(1)


def _verify(
    path: Path, checkpoint: Path, source: Checkpoint, *, videos: Sequence[Path], clips: int | None, device: str
) -> Parity:
    """Compare one network with its checkpoint and print what was found."""
    from i3d_deploy import export as exporting
    from i3d_deploy.artifact import read_card
    from i3d_deploy.commands.export import print_proofs

    card = read_card(path)
    with steps() as on_step:
        figures = exporting.verify(path, source, videos=videos, num_clips=clips, device=device, on_step=on_step)
    for note in source.notes:
        click.echo(f"Note: {note}", err=True)
    made_from = card.provenance.sha256
    if made_from is not None and source.card.provenance.sha256 not in (None, made_from):
        click.echo(
            f"Note: {checkpoint} is not the file that {path} was made from (SHA-256 {made_from[:8]}...)", err=True
        )
    print_proofs([(path, card.replaced(parity=(figures,), gate=None))])
    return figures
