"""``i3d-export``: make an engine of a checkpoint and prove it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import click

from i3d_deploy.card import Card, Engine, EngineInput, Layout, Precision
from i3d_deploy.commands.options import CheckpointOptions, checkpoint_options, reports_errors, steps

if TYPE_CHECKING:
    from i3d_deploy.export import Exported

INPUTS: dict[str, EngineInput] = {"uint8": "uint8_nthwc", "float": "float32_ncthw"}


@click.command(
    epilog="Example: i3d-export i3d_r50.pth --to onnx --to openvino --precision fp32 --output engines",
)
@click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
@click.option("--describe", type=click.Path(path_type=Path), metavar="FILE", help="Print the card of a file and stop.")
@click.option(
    "--to",
    "targets",
    type=click.Choice(["onnx", "openvino", "tensorrt", "safetensors", "triton"]),
    multiple=True,
    help="Target; may be repeated. triton: a model repository, NAME_triton.",
)
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    default="fp32",
    show_default=True,
    help="Of the engine; int8 and fp8 need --calibrate.",
)
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path),
    metavar="LIST_OR_FOLDER",
    help="Videos that int8 and fp8 are calibrated on: a folder, or a list (.txt, .json) of them or of frame folders.",
)
@click.option(
    "--calibration-views",
    type=click.IntRange(min=1),
    help="Views of them, evenly spread.  [default: 32]",
)
@click.option(
    "--accuracy",
    type=click.Path(path_type=Path),
    metavar="LIST",
    help="Labelled videos ('path label' a line): fail when an engine is less accurate on them than PyTorch.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    help="Percentage points of top-1 that --accuracy lets an engine lose.  [default: 0.5]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    show_default=True,
    help="Folder of the files, made if need be.",
)
@click.option(
    "--flow",
    type=click.Path(path_type=Path),
    metavar="CHECKPOINT",
    help="The optical flow stream of a two-stream network: both are exported, and NAME.json puts them together.",
)
@click.option("--name", help="File name without ending.  [default: CHECKPOINT_PRECISION]")
@click.option(
    "--input",
    "engine_input",
    type=click.Choice(list(INPUTS)),
    default="uint8",
    show_default=True,
    help="Engine input: uint8 NTHWC frames, normalised inside, or normalised float32 NCTHW.",
)
@click.option(
    "--optimize/--no-optimize",
    default=True,
    show_default=True,
    help="Leave out work that changes nothing in the answer, in the layout that is fastest.",
)
@click.option(
    "--layout",
    type=click.Choice(["2d", "3d"]),
    help="Of the convolutions; the answer is the same.  [default: what is fastest; both where only a GPU can tell]",
)
@click.option(
    "--profile",
    type=click.IntRange(min=1, max=65536),
    nargs=3,
    default=(1, 30, 30),
    show_default=True,
    metavar="MIN BEST MAX",
    help="Views per run of the engine.",
)
@click.option(
    "--video",
    "videos",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Video to prove the export on; may be repeated.  [default: a generated one]",
)
@click.option(
    "--proof-clips",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Clips of each video to compare; 0: as many as the card has.",
)
@click.option("--random-weights", is_flag=True, help="With --model and no checkpoint: seeded weights, for speed only.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random weights.")
@click.option("--tensorrt-flavor", type=click.Choice(["tensorrt", "tensorrt_rtx"]), help="Package to build with.")
@click.option("--compute-capability", metavar="X.Y", help="GPU to build for: 8.9, current, or 8.0+ (tensorrt_rtx).")
@click.option("--timing-cache", type=click.Path(path_type=Path), help="Kernel timings to reuse (tensorrt).")
@click.option("--workspace-mib", type=click.IntRange(min=1), help="Device memory a layer may use for itself.")
@click.option(
    "--triton-backend",
    type=click.Choice(["onnx", "openvino", "tensorrt"]),
    help="Engine of a Triton repository.  [default: onnx]",
)
@click.option(
    "--triton-device",
    type=click.Choice(["cpu", "gpu"]),
    help="What Triton runs it on.  [default: gpu for tensorrt, otherwise cpu]",
)
@click.option("--triton-instances", type=click.IntRange(min=1), help="Instances of each model in Triton.  [default: 1]")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace a Triton repository that is there of another checkpoint. Files are replaced in any case.",
)
@checkpoint_options
@reports_errors
def main(
    checkpoint: Path | None,
    describe: Path | None,
    targets: tuple[str, ...],
    precision: Precision,
    calibrate: Path | None,
    calibration_views: int | None,
    accuracy: Path | None,
    max_drop: float | None,
    output: Path,
    flow: Path | None,
    name: str | None,
    engine_input: str,
    optimize: bool,
    layout: Layout | None,
    profile: tuple[int, int, int],
    videos: tuple[Path, ...],
    proof_clips: int,
    random_weights: bool,
    seed: int,
    tensorrt_flavor: Any,
    compute_capability: str | None,
    timing_cache: Path | None,
    workspace_mib: int | None,
    triton_backend: Literal["onnx", "openvino", "tensorrt"] | None,
    triton_device: Literal["cpu", "gpu"] | None,
    triton_instances: int | None,
    overwrite: bool,
    **reading: Any,
) -> None:
    """Export CHECKPOINT (.safetensors, .pth, .pt, .pyth, .pkl, .ckpt) to engines and prove that they answer as it does.

    The proof runs PyTorch in float32 and the engine on the same video, from the file on: frame indices, views, logits,
    averaged probabilities. The figures are stored on the card in the file. Exit code 1 when a proof fails, or top-1
    drops on the list of --accuracy; that file is kept aside as NAME.failed.SUFFIX.
    """
    if describe is not None:
        from i3d_deploy.artifact import read_card

        click.echo(read_card(describe).to_json(indent=2))
        return
    _check_usage(click.get_current_context().params)

    from i3d_deploy import builders, calibration, two_stream
    from i3d_deploy import export as exporting
    from i3d_deploy.accuracy import DEFAULT_MAX_DROP, Wanted
    from i3d_deploy.to_tensorrt import EngineOptions
    from i3d_deploy.triton_repository import Serving

    options = CheckpointOptions(**reading)
    first = options if flow is None else options.of_rgb
    sources = [first.make_random(seed=seed) if checkpoint is None else first.read(checkpoint)]
    if flow is not None:
        sources.append(options.of_flow.read(flow))
        two_stream.combine(sources[0].card, sources[1].card)  # whether they go together, before the long steps
    for note in dict.fromkeys(note for source in sources for note in source.notes):
        click.echo(f"Note: {note}", err=True)
    clips = None
    if calibrate is not None:
        num_views = calibration_views or calibration.DEFAULT_VIEWS
        clips = calibration.choose(calibrate, num_views=num_views, views_per_video=sources[0].card.num_views)
    gate = None
    if accuracy is not None:
        gate = Wanted(listed=accuracy, max_drop=DEFAULT_MAX_DROP if max_drop is None else max_drop)
    serving = None
    if "triton" in targets:
        serving = Serving(backend=triton_backend or "onnx", device=triton_device, instances=triton_instances or 1)
    stem = checkpoint.stem if checkpoint is not None else sources[0].card.network.name
    name = name or f"{stem}_{precision}"
    names = [name] if flow is None else [f"{name}_rgb", f"{name}_flow"]
    with steps() as on_step:
        export = partial(
            exporting.export,
            targets=[builders.as_target(target) for target in targets if target != "triton"],
            output=output,
            engine=Engine(input=INPUTS[engine_input], precision=precision, profile=profile),
            optimization=builders.Optimization(is_on=optimize, layout=layout),
            videos=videos,
            proof_clips=proof_clips or None,
            calibrate=clips,
            gate=gate,
            tensorrt=EngineOptions(
                flavor=tensorrt_flavor,
                compute_capability=compute_capability,
                timing_cache=timing_cache,
                workspace_bytes=None if workspace_mib is None else workspace_mib << 20,
            ),
            serving=serving,
            overwrite=overwrite,
            on_step=on_step,
        )
        by_stream = [export(source, name=each) for source, each in zip(sources, names, strict=True)]
    exported = [entry for entries in by_stream for entry in entries]
    for entry in exported:
        for note in entry.notes:
            click.echo(f"Note: {entry.path.name}: {note}", err=True)
        for warning in entry.warnings:
            click.echo(f"Warning: {entry.path.name}: {warning}", err=True)
    for entry in exported:
        print_proofs([(entry.path, entry.card)])
        print_accuracy(entry.card)
    for entry in exported:
        if entry.has_failed and entry.wanted.exists():
            click.echo(f"Note: {entry.wanted}, which was there before, is left as it was", err=True)
    if any(entry.has_failed for entry in exported):
        raise SystemExit(1)
    if flow is not None:
        _write_pairs(output / name, by_stream)


def _write_pairs(stem: Path, by_stream: Sequence[Sequence[Exported]]) -> None:
    """Put the two streams of each target together: NAME.json, or one for each kind of file."""
    from i3d_deploy import two_stream

    pairs = list(zip(*by_stream, strict=True))
    for rgb, flow in pairs:
        ending = rgb.path.name.removeprefix(f"{stem.name}_rgb").replace(".", "_") if len(pairs) > 1 else ""
        path = stem.with_name(f"{stem.name}{ending}.json")
        two_stream.write(path, two_stream.Pair(rgb=rgb.path, flow=flow.path))
        click.echo(f"{path}  {rgb.path.name} and {flow.path.name}, logits added up")


def _check_usage(given: Mapping[str, Any]) -> None:
    """Tell what does not go together.

    Args:
        given: The command's parameters.

    Raises:
        click.UsageError: Something does not.
    """
    targets, profile = given["targets"], given["profile"]
    if not targets:
        raise click.UsageError("say what to make with --to onnx, openvino, tensorrt, safetensors or triton")
    if "safetensors" in targets and given["precision"] != "fp32":
        raise click.UsageError("safetensors keeps the float32 weights: leave --precision at fp32, or make it apart")
    if list(profile) != sorted(profile):
        raise click.UsageError(f"--profile {profile[0]} {profile[1]} {profile[2]} must ascend")
    if given["checkpoint"] is not None and given["random_weights"]:
        raise click.UsageError("give a checkpoint or --random-weights, not both")
    if given["checkpoint"] is None and not (given["random_weights"] and given["model"]):
        raise click.UsageError("give a checkpoint, or --model NAME --random-weights to measure speed only")
    if given["calibration_views"] is not None and given["calibrate"] is None:
        raise click.UsageError("--calibration-views is for the clips of --calibrate: give them")
    if given["max_drop"] is not None and given["accuracy"] is None:
        raise click.UsageError("--max-drop is for the list of --accuracy: give it")
    if given["flow"] is not None and given["checkpoint"] is None:
        raise click.UsageError("--flow is the second stream beside a CHECKPOINT of RGB: give both")
    if given["flow"] is not None and "triton" in targets:
        raise click.UsageError("a Triton repository serves one network: export each stream without --flow")
    of_triton = [name for name, value in given.items() if name.startswith("triton_") and value is not None]
    if of_triton and "triton" not in targets:
        raise click.UsageError("--triton-backend, --triton-device and --triton-instances are for --to triton: give it")
    if given["overwrite"] and "triton" not in targets:
        raise click.UsageError("--overwrite is for --to triton: files are replaced in any case")


def print_proofs(entries: Sequence[tuple[Path, Card]]) -> None:
    """Print what the proof found, a few lines per file that fit any terminal."""
    for path, card in entries:
        for entry in card.parity:
            has_lost = card.gate is not None and card.gate.status == "failed"
            click.echo(f"{path}  {_size_bytes(path) / 2**20:.1f} MiB  {'failed' if has_lost else entry.status}")
            if entry.max_logits is not None and entry.max_logits_allowed is not None:
                click.echo(
                    f"    logits differ by at most {entry.max_logits:.1e} (allowed {entry.max_logits_allowed:.1e}), "
                    f"probabilities by {entry.max_probabilities:.1e}"
                )
                click.echo(f"    same first class in {entry.top1_agreement:.0%} of {entry.num_views} views")
            if entry.reason is not None:
                click.echo(f"    {entry.reason}")
            if entry.status != "not measured here":
                click.echo(f"    by {entry.runner}")


def print_accuracy(card: Card) -> None:
    """Print how a quantised engine agrees with its source, and what the gate on accuracy found."""
    for found in card.agreement:
        click.echo(
            f"    on the calibration views ({found.num_views}): same first class in {found.top1:.1f} %, "
            f"KL divergence {found.kl_divergence:.1e} nats"
        )
    gate = card.gate
    if gate is None:
        return
    reached = gate.status if gate.top1 is None else f"{gate.top1:.2f} %"
    click.echo(f"    top-1 on {gate.data}: {reached}, PyTorch float32 {gate.source_top1:.2f} %")
    if gate.status != "passed":
        click.echo(f"    {gate.status}: {gate.reason}")


def _size_bytes(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    weights = path.with_suffix(".bin") if path.suffix == ".xml" else path
    return weights.stat().st_size
