"""``i3d-features``: a vector for each window of a video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from i3d_deploy.commands.options import (
    INTERRUPTED,
    CheckpointOptions,
    device_option,
    min_decoded_option,
    reading_options,
    reports_errors,
    steps,
    threads_option,
)
from i3d_deploy.commands.sources import Found, expand
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.windows import Last

if TYPE_CHECKING:
    from i3d_deploy.card import FlowMethod
    from i3d_deploy.feature_files import Basis
    from i3d_deploy.features import Settings
    from i3d_deploy.flow_cache import FlowCache
    from i3d_deploy.runners import Runner

CHECKPOINTS = ("safetensors", "checkpoint")
STREAMS = {"rgb": ("rgb",), "flow": ("flow",), "both": ("rgb", "flow")}

# Source: READMEs of happyharrycn/actionformer_release (with FAQ.md and configs/anet_i3d.yaml); issues of
# sujoyp/wtalc-pytorch, tianyu0207/RTFM and yabufarha/ms-tcn by their numbers; extract_features.py of
# GowthamGottimukkala/I3D_Feature_Extraction_resnet; extractor_lazy.py and LazyLoader.cpp of
# ahsaniqbal/Kinetics-FeatureExtractor.
EPILOG = """
Example: i3d-features rgb_imagenet.pt videos/ --flow flow_imagenet.pt --output features

Settings of features in common use, where they were published, and what differs here. FLOW is the checkpoint of the
flow network. Features also depend on the weights, on how frames were resized, and on who computed the flow: expect the
same kind of features, not the same numbers. Where it is not published what became of the last frames, drop is shown,
which adds nothing.

\b
Temporal action detection, THUMOS14 (ActionFormer, README and FAQ)
  --window 16 --stride 4 --fps source --flow FLOW --last drop
  Its features stand for the middle of their windows:
  (start_seconds + end_seconds) / 2.

\b
Temporal action detection, ActivityNet 1.3 (ActionFormer, README)
  --window 16 --stride 16 --fps 25 --flow FLOW --last drop
  Its configuration (anet_i3d.yaml) stretches the features of each video to
  192; here they are as many as there are windows.

\b
Weakly supervised detection, THUMOS14 (W-TALC, issue 9)
  --window 16 --stride 16 --fps 25 --flow FLOW --last drop

\b
Anomaly detection, UCF-Crime and ShanghaiTech (RTFM, issues 2, 7, 31, 33)
  --window 16 --stride 16 --fps source --crops 10 --crop-size 224 --last drop
  with a ResNet-50 as ARTIFACT: (windows, 10, 2048). Crops are in the order of
  torchvision's TenCrop, which it used. The rate and the crop size are those
  of a rewrite by readers (issue 13, I3D_Feature_Extraction_resnet), which
  squeezes frames to 340x256 and scales them to [-1, 1]; here the aspect ratio
  is kept, and the scaling is the checkpoint's. Several readers report that
  they did not arrive at its features (issues 52, 63, 95).

\b
Action segmentation, 50Salads, GTEA, Breakfast (MS-TCN, issues 3, 16, 34)
  --window 21 --stride 1 --fps source --flow FLOW --last drop
  There each frame has the feature of the 21 frames around it, and the video
  is filled at both ends (with zeros in issue 34, with its first and last
  frame in the code that issue 16 names). Here windows lie within the video:
  feature i is of frame i + 10, and the first 10 and last 11 frames have none.
  Its arrays are (2048, frames): transpose. Its layer is pool, which differs
  from mixed_5c at 21 frames.
"""


def _rate(context: click.Context, option: click.Parameter, value: str | None) -> float | str | None:
    """Read frames per second, or "source"."""
    if value is None or value == "source":
        return value
    try:
        return float(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is neither a number nor source") from error


@click.command(epilog=EPILOG)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("videos", nargs=-1, required=True)
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="DIR", required=True, help="Folder for the features."
)
@click.option("--window", type=click.IntRange(min=1), default=16, show_default=True, help="Frames a window.")
@click.option(
    "--stride", type=click.IntRange(min=1), default=16, show_default=True, help="Frames from one window to the next."
)
@click.option(
    "--layer",
    type=click.Choice(["pool", "mixed_5c"]),
    default="pool",
    show_default=True,
    help="pool: the vector that is classified. mixed_5c: the mean over the last feature maps, which are Mixed_5c of an "
    "Inception and layer4 of a ResNet. They differ where the window of the head fits the maps several times: an "
    "Inception with more than 16 frames or crops of more than 224 pixels, a ResNet of SlowFast or pytorchvideo with "
    "more than 9 frames or crops of more than 224 pixels.",
)
@click.option(
    "--crops",
    type=click.Choice(["1", "10"]),
    default="1",
    show_default=True,
    help="1: the center. 10: top left, top right, bottom left, bottom right, center, then the same of the mirrored "
    "frame; the array has a dimension for them.",
)
@click.option("--crop-size", type=click.IntRange(min=1), help="Side of a crop in pixels.  [default: the card's]")
@click.option(
    "--last",
    type=click.Choice(get_args(Last)),
    default="repeat",
    show_default=True,
    help="What becomes of frames after the last full window. repeat: one more window, filled with the last frame. "
    "loop: filled with the video from its beginning. shift: one that ends with the last frame, so that it overlaps "
    "the one before (a video shorter than a window: as repeat). drop: they are left out, and a video shorter than a "
    "window is an error.",
)
@click.option(
    "--stream",
    type=click.Choice(list(STREAMS)),
    help="Which networks: both writes the RGB features followed by the flow features. n frames have n - 1 flow "
    "frames, so that both leaves out the last frame.  [default: those given]",
)
@click.option(
    "--flow",
    type=click.Path(path_type=Path),
    metavar="ARTIFACT",
    help="The network of optical flow, where ARTIFACT is that of RGB frames.",
)
@click.option(
    "--flow-cache",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where optical flow is kept, so that it is computed once.",
)
@click.option(
    "--fps",
    "frames_per_second",
    callback=_rate,
    metavar="RATE|source",
    help="Rate that the frames are counted at: of a video of another rate frames are left out or repeated. source: "
    "all frames, whatever the rate.  [default: the card's]",
)
@click.option("--overwrite", is_flag=True, help="Compute what is there already, whatever its settings.")
@device_option
@threads_option
@click.option("--batch", type=click.IntRange(min=1), help="Crops of windows per run of a network.")
@min_decoded_option
@reading_options
@reports_errors
def main(
    artifact: Path,
    videos: tuple[str, ...],
    output: Path,
    crops: str,
    stream: str | None,
    flow: Path | None,
    flow_cache: Path | None,
    overwrite: bool,
    device: str,
    threads: int | None,
    batch: int | None,
    min_decoded: float,
    model: str | None,
    origin: str | None,
    flow_method: FlowMethod | None,
    allow_hash_mismatch: bool,
    **chosen: Any,
) -> None:
    """Compute features of VIDEOS with ARTIFACT, a checkpoint (.safetensors, .pth, .pt, .pyth, .pkl, .ckpt) or the .json
    of two streams in safetensors.

    VIDEOS are as for i3d-predict: files, URLs, folders of videos, folders of frames (img_00001.jpg ...) or of optical
    flow (x_00001.jpg, y_00001.jpg ...), or text files (.txt) with one of these a line. Each gets DIR/NAME.npy, float32
    (windows, C) or (windows, 10, C), and DIR/NAME.json with the settings, the beginning and end of each window in
    frames and seconds, how many frames the last window was filled with, and what was wrong with the video. Folders keep
    their structure below DIR. What is there already with the same settings is left as it is, so that a run that was
    stopped goes on. A video that cannot be read is reported, the others go on, and the exit code is 1.
    """
    from i3d_deploy.features import Settings, check
    from i3d_deploy.flow_cache import FlowCache

    settings = Settings(crops=int(crops), **chosen)
    found = list({entry.source: entry for entry in expand(videos)}.values())
    reading = CheckpointOptions(
        model=model, origin=origin, flow_method=flow_method, allow_hash_mismatch=allow_hash_mismatch
    )
    with ExitStack() as opened:
        paths = _files(artifact, flow)
        first = reading if len(paths) == 1 else reading.of_rgb
        given = [
            _open(path, reading.of_flow if number else first, device=device, threads=threads)
            for number, path in enumerate(paths)
        ]
        for network in given:
            opened.enter_context(network.runner)
        streams = _choose(given, stream)
        check([network.runner for network in streams], settings)
        jobs = _plan(found, streams, settings, output=output, overwrite=overwrite)
        cache = None if flow_cache is None else FlowCache(flow_cache)
        done: list[bool] = []
        try:
            for number, job in enumerate(jobs, 1):
                done.append(_run(job, number, len(jobs), batch, min_decoded, cache))
        except KeyboardInterrupt:
            count = len(found) - len(jobs) + sum(done)
            _tell_stopped(count, len(found), overwrite=overwrite)
            raise SystemExit(INTERRUPTED) from None
    if not all(done):
        raise SystemExit(1)


def _tell_stopped(count: int, total: int, *, overwrite: bool) -> None:
    """Say how far a run has come that was interrupted."""
    from i3d_deploy.benchmark.wording import counted

    command = "the same command without --overwrite" if overwrite else "the same command"
    verb = "is" if total == 1 else "are"
    click.echo(f"stopped: {count} of {counted(total, 'video')} {verb} done; {command} goes on", err=True)


@dataclass(frozen=True, kw_only=True)
class _Network:
    """A loaded network and the SHA-256 of its file."""

    path: Path
    runner: Runner
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One video whose features are wanted; ``basis`` reads it, to say what they depend on."""

    source: str
    target: Path
    basis: Callable[[], Basis]
    runners: list[Runner]
    settings: Settings


def _files(path: Path, flow: Path | None) -> list[Path]:
    """The files of a pair of streams, or those given."""
    from i3d_deploy import artifact, two_stream

    if flow is not None:
        two_stream.check_single(path)
        return [path, flow]
    if artifact.identify(path).kind != "two-stream":
        return [path]
    pair = two_stream.read(path)
    if not all(artifact.identify(file).kind in CHECKPOINTS for file in (pair.rgb, pair.flow)):
        raise InputError(
            f"{path} is a pair of engines, which give logits alone: give the checkpoints, RGB --flow FLOW, or a pair "
            "exported with --to safetensors"
        )
    return [pair.rgb, pair.flow]


def _open(path: Path, reading: CheckpointOptions, *, device: str, threads: int | None) -> _Network:
    """Load a checkpoint and say what had to be assumed about it."""
    from i3d_deploy import artifact, files

    if artifact.identify(path).kind not in CHECKPOINTS:
        raise InputError(f"{path} is an engine, which gives logits alone: give the checkpoint that it was made from")
    from i3d_deploy.runners.torch_runner import TorchRunner

    checkpoint = reading.read(path)
    for note in checkpoint.notes:
        if not note.startswith(("labels ", "sampling ")):  # which features do without
            click.echo(f"Note: {note}", err=True)
    sha256 = files.sha256(path) if path.is_file() else checkpoint.card.provenance.sha256
    return _Network(path=path, runner=TorchRunner(checkpoint, device=device, threads=threads), sha256=sha256)


def _choose(given: Sequence[_Network], stream: str | None) -> list[_Network]:
    """The networks of the streams that are wanted, RGB first."""
    by_modality: dict[str, _Network] = {network.runner.card.modality: network for network in given}
    wanted = STREAMS[stream] if stream is not None else tuple(sorted(by_modality, reverse=True))
    missing = [modality for modality in wanted if modality not in by_modality]
    if missing:
        has = " and ".join(f"{network.path} is a network of {modality}" for modality, network in by_modality.items())
        place = "with --flow" if missing == ["flow"] else "as ARTIFACT"
        raise click.UsageError(f"--stream {stream} takes a network of {missing[0]}, and {has}: give one {place}")
    return [by_modality[modality] for modality in wanted]


def _plan(
    found: Sequence[Found], streams: Sequence[_Network], settings: Settings, *, output: Path, overwrite: bool
) -> list[_Job]:
    """The videos whose features are not there yet."""
    from i3d_deploy import feature_files
    from i3d_deploy.benchmark.wording import counted

    settings = settings.on_card(streams[0].runner.card)
    files_of = [(network.runner.card, network.sha256) for network in streams]
    targets = feature_files.targets({entry.source: entry.name for entry in found}, output=output)
    jobs = [
        _Job(
            source=entry.source,
            target=targets[entry.source],
            basis=partial(feature_files.basis, entry.source, entry.name, files_of, settings),
            runners=[network.runner for network in streams],
            settings=settings,
        )
        for entry in found
    ]
    left = [
        job
        for job in jobs
        if overwrite
        or not feature_files.is_there(job.target)  # asked first: the video need not be read for it
        or not feature_files.is_done(job.target, job.basis())
    ]
    if len(left) < len(jobs):
        click.echo(f"{counted(len(jobs) - len(left), 'video')} done before, with the same settings", err=True)
    return left


def _run(
    job: _Job, number: int, count: int, batch: int | None, min_decoded: float, flow_cache: FlowCache | None
) -> bool:
    """Compute and write the features of a video; False where it cannot be read."""
    from i3d_deploy import feature_files
    from i3d_deploy.benchmark.wording import counted
    from i3d_deploy.features import extract

    where = f"{Path(job.source).name} ({number} of {count})"
    try:
        with steps() as tell:
            tell(where)
            found = extract(
                job.source,
                job.runners,
                job.settings,
                batch=batch,
                min_decoded_share=min_decoded,
                flow_cache=flow_cache,
                on_windows=lambda windows: tell(f"{where}: {counted(windows, 'window')}"),
            )
    except VideoError as error:
        click.echo(f"Error: {error}", err=True)
        return False
    feature_files.write(job.target, found, job.basis())
    rate = "" if found.frames_per_second is None else f" at {found.frames_per_second:g} a second"
    filled = f", the last filled with {counted(found.padded_frames, 'frame')}" if found.padded_frames else ""
    windows = counted(len(found), "window")
    click.echo(f"{job.target}  {found.values.shape}: {counted(found.num_frames, 'frame')}{rate}, {windows}{filled}")
    for warning in found.warnings:
        click.echo(f"Warning: {job.source}: {warning}", err=True)
    return True
