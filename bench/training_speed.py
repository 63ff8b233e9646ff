"""What data loading and the training loop cost on top of the network itself, and how fast videos are decoded.

Training: the real loop (``i3d_deploy.training.loop.train``) and a bare PyTorch loop take turns in one process, a block
of a few steps each (A B A B ...), so that a drift of the machine meets both alike. The figure is the ratio of their
times, round by round.

- The clock of the real loop runs over everything from a video file on: opening, decoding and augmenting it in worker
  processes, their way to the training process, the transfer to the device, the step of the optimiser, the progress bar
  and the record with which a block ends, in ``metrics.jsonl`` and TensorBoard. (A real run records every ``log_every``
  steps, 20 by default, so a little less often.) Not in it: start, validation, checkpoints.
- The clock of the bare loop runs over the same network built by ``i3d_deploy.model.build``, with the same scaling of
  uint8 clips, memory format, precision, loss, backward pass, clipping of gradients and step, on clips that are on the
  device already. It has no gradient scaler, no average of weights and no measurements.
- While the bare loop runs, the worker processes are stopped (SIGSTOP). So they neither take cores from it nor work
  ahead for the real loop: the queue of clips enters a block as the block before left it. Blocks until the queue filled
  at the start is used up are not counted, and the list is longer than the run, so that the workers never run dry.
- Data wait is the share of the real loop's time in which it waits for clips, as the loop itself records it.

Decoding: ``i3d_deploy.training.clips.draw`` in one process, from file to uint8 clip with the recipe's augmentation,
OpenCV's own threads switched off as in the workers. Clips a second are by the wall clock; figures per core are by the
processor time of the process with all threads that the decoder starts. Frames are those decoded: of a video all up to
the last one of the clip, of a folder of JPEG files only those of the clip. Every round draws the same clips, and the
sources take turns.

``training/train.py`` lets waiting threads sleep (OMP_WAIT_POLICY); so must whoever starts this.

Videos are generated (``i3d_deploy.generated``): MPEG-4 part 2 as OpenCV writes it, JPEG of quality 95. The videos have
a low bit rate (the record has their sizes); films in H.264 take longer to decode. All files have just been written, so
they come from the page cache, not from the disk.

    OMP_WAIT_POLICY=PASSIVE python bench/training_speed.py --set batch.videos=2 --rounds 8 --steps 4 --json speed.json
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import click
import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from i3d_deploy import __version__, files, generated, model
from i3d_deploy.benchmark import meters
from i3d_deploy.commands.options import reports_errors, steps
from i3d_deploy.images import FrameFolder
from i3d_deploy.training import clips, distributed, loop, optimization, recipe
from i3d_deploy.training.progress import Reporter, Values
from i3d_deploy.training.recipe import Data, Recipe

RECIPES = Path(__file__).parents[1] / "training" / "recipes"
JSON_VERSION = 1
DRAWS = 10
"""Clips that are drawn from each source in a round."""

_PREFETCHED = 2
"""Batches that the DataLoader lets each worker be ahead."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

Size = tuple[int, int]


def _to_sizes(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[Size, ...]:
    sizes = []
    for value in values:
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", value)
        if match is None:
            raise click.BadParameter(f"{value} must be WIDTHxHEIGHT, such as 340x256")
        sizes.append((int(match[1]), int(match[2])))
    return tuple(sizes)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is measured.

    Attributes:
        recipe: Its name.
        settings: What ``--set`` changed of it.
        videos_per_step: Videos that a step sees.
        clip: (T, H, W, 3) of a clip.
        autocast: Precision of the convolutions.
        device: What trains.
        threads: CPU threads of the training process.
        wait_policy: What ``OMP_WAIT_POLICY`` says: whether these threads spin while they wait for each other, which
            costs much where there are more threads and workers than cores.
        workers: Processes that read videos.
        videos_in_list: Different videos; the list repeats them.
        sizes: Width and height of the videos, in turn.
        frames: Frames per video.
        rounds: Blocks of each loop that count.
        steps: Steps per block.
        warmup_rounds: Rounds before that, not counted.
    """

    recipe: str
    settings: tuple[str, ...]
    videos_per_step: int
    clip: tuple[int, ...]
    autocast: str
    device: str
    threads: int
    wait_policy: str
    workers: int
    videos_in_list: int
    sizes: tuple[str, ...]
    frames: int
    rounds: int
    steps: int
    warmup_rounds: int


@dataclass(frozen=True, kw_only=True)
class Round:
    """A block of each loop.

    Attributes:
        real_seconds: Of the real loop.
        bare_seconds: Of the bare loop.
        data_wait: Share of ``real_seconds`` in which the loop waited for clips.
    """

    real_seconds: float
    bare_seconds: float
    data_wait: float

    @property
    def ratio(self) -> float:
        """Time of the real loop in times of the bare one."""
        return self.real_seconds / self.bare_seconds


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How fast clips are drawn from one source.

    Attributes:
        source: In words.
        size_bytes: Of the video, or of all files of the folder.
        frames: Decoded per round.
        seconds: Wall time of each round of ``DRAWS`` clips.
        core_seconds: Processor time of each round.
    """

    source: str
    size_bytes: int
    frames: int
    seconds: tuple[float, ...]
    core_seconds: tuple[float, ...]

    def figures(self) -> dict[str, float]:
        """Medians over the rounds, and the spread of the processor time."""
        core_seconds = statistics.median(self.core_seconds)
        return {
            "clips_per_second": DRAWS / statistics.median(self.seconds),
            "clips_per_second_per_core": DRAWS / core_seconds,
            "frames_per_second_per_core": self.frames / core_seconds,
            "spread": _spread(self.core_seconds),
        }


def _spread(values: Sequence[float]) -> float:
    """(largest - smallest) / median."""
    return (max(values) - min(values)) / statistics.median(values)


class _BareLoop:
    """The same network and optimiser without the loop around them.

    Args:
        spec: The recipe.
        batch: (N, T, H, W, 3) uint8, of one forward pass.
        device: Where to run it.
    """

    def __init__(self, spec: Recipe, batch: torch.Tensor, *, device: torch.device) -> None:
        self._spec, self._device = spec, device
        network = model.build(spec.network).train()
        network.dropout.p = spec.dropout
        if spec.norm.freeze:
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm3d):
                    module.eval()
        if spec.compute.channels_last:
            network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if spec.compute.compile:
            network.compile()
        self._network = network.to(device)
        self._optimizer = optimization.make_optimizer(network.parameters(), spec.optimizer)
        self._clips = batch.to(device)
        self._targets = torch.arange(len(batch), device=device) % spec.network.num_classes
        self._mean = torch.tensor(spec.pixels.mean, device=device)
        self._scale = 1 / torch.tensor(spec.pixels.std, device=device)

    def seconds(self, num_steps: int) -> float:
        """Take some steps and time them."""
        self._synchronize()
        began = time.perf_counter()
        for _ in range(num_steps):
            self._step()
        self._synchronize()
        return time.perf_counter() - began

    def _step(self) -> None:
        spec, dtype = self._spec, _DTYPES.get(self._spec.compute.autocast)
        for _ in range(spec.batch.accumulate):
            scaled = ((self._clips.float() - self._mean) * self._scale).permute(0, 4, 1, 2, 3)  # N 3 T H W
            with torch.autocast(self._device.type, dtype=dtype, enabled=dtype is not None):
                logits = self._network(scaled)
            loss = functional.cross_entropy(logits.float(), self._targets, label_smoothing=spec.label_smoothing)
            (loss / spec.batch.accumulate).backward()  # type: ignore[no-untyped-call]
        if spec.optimizer.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), spec.optimizer.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class _EnoughMeasuredError(Exception):
    """Ends the real loop after the last round."""


class _TurnTaker(Reporter):
    """The real loop's reporter, which gives the bare loop its turn whenever a block of steps has been recorded."""

    def __init__(
        self, *arguments: Any, bare: _BareLoop, protocol: Protocol, rounds: list[Round], **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._bare, self._protocol, self._rounds = bare, protocol, rounds
        self._began = time.perf_counter()

    def record(self, kind: Any, *, step: int, epoch: float, values: Values) -> None:
        super().record(kind, step=step, epoch=epoch, values=values)
        # The losses have been read for the record, so the device has finished.
        real_seconds = time.perf_counter() - self._began
        with _stopped_workers():
            bare_seconds = self._bare.seconds(self._protocol.steps)
        self._rounds.append(Round(real_seconds=real_seconds, bare_seconds=bare_seconds, data_wait=values["data_wait"]))
        if len(self._rounds) == self._protocol.warmup_rounds + self._protocol.rounds:
            raise _EnoughMeasuredError
        self._began = time.perf_counter()


@contextmanager
def _stopped_workers() -> Iterator[None]:
    workers = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    try:
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)


def measure_training(spec: Recipe, protocol: Protocol, *, folder: Path) -> list[Round]:
    """Let the real and the bare loop take turns.

    Args:
        spec: The recipe; its data are those of :func:`write_data`.
        protocol: How long.
        folder: Where the run is written.

    Returns:
        The rounds that count.
    """
    device = torch.device(protocol.device)
    entries = spec.data.read("train", num_classes=spec.network.num_classes)
    drawn = [clips.draw(entries[i % len(entries)].source, spec.train, seed=i) for i in range(spec.batch.videos)]
    bare = _BareLoop(spec, torch.from_numpy(np.stack(drawn)), device=device)
    rounds: list[Round] = []
    reporter = partial(_TurnTaker, bare=bare, protocol=protocol, rounds=rounds)
    options = loop.Options(work_dir=folder / "run", seed=0, device=protocol.device)
    with mock.patch.object(loop, "Reporter", reporter), suppress(_EnoughMeasuredError):
        loop.train(spec, options)
    return rounds[protocol.warmup_rounds :]


def measure_decoding(spec: Recipe, sources: dict[str, Path | FrameFolder], *, rounds: int) -> list[Decoding]:
    """Draw the same clips from each source in turns."""
    cv2.setNumThreads(0)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sources}
    for number in range(rounds + 1):
        for name, source in sources.items():
            wall, core = time.perf_counter(), time.process_time()
            for seed in range(DRAWS):
                clips.draw(source, spec.train, seed=seed)
            if number > 0:  # the first round warms up
                times[name].append((time.perf_counter() - wall, time.process_time() - core))
    return [
        Decoding(
            source=name,
            size_bytes=_size_bytes(source),
            frames=_count_decoded(source, spec),
            seconds=tuple(seconds for seconds, _ in times[name]),
            core_seconds=tuple(seconds for _, seconds in times[name]),
        )
        for name, source in sources.items()
    ]


def _size_bytes(source: Path | FrameFolder) -> int:
    paths = list(source.path.iterdir()) if isinstance(source, FrameFolder) else [source]
    return sum(path.stat().st_size for path in paths)


def _count_decoded(source: Path | FrameFolder, spec: Recipe) -> int:
    """Frames that a round decodes of a source."""
    if isinstance(source, FrameFolder):
        num_frames = source.num_frames
    else:
        capture = cv2.VideoCapture(str(source))
        num_frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
    chosen = [clips.drawn_frames(num_frames, spec.train, seed=seed) for seed in range(DRAWS)]
    if isinstance(source, FrameFolder):
        return sum(len(np.unique(indices)) for indices in chosen)
    return sum(int(indices.max()) + 1 for indices in chosen)


def write_frames(folder: Path, *, num_frames: int, size: Size, seed: int = 0) -> FrameFolder:
    """Write the generated clip as a folder of JPEG files."""
    folder.mkdir(parents=True)
    drawn = generated.frames(num_frames=num_frames, width=size[0], height=size[1], seed=seed)
    for number, frame in enumerate(drawn, 1):
        cv2.imwrite(str(folder / f"img_{number:05}.jpg"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    return FrameFolder(path=folder, num_frames=num_frames)


def write_data(spec: Recipe, protocol: Protocol, sizes: Sequence[Size], *, folder: Path) -> Data:
    """Write videos, or folders of frames where the recipe reads such, and a list longer than the run."""
    names = []
    for number in range(protocol.videos_in_list):
        width, height = sizes[number % len(sizes)]
        name = f"{number:05}.mp4" if spec.data.kind == "video" else f"{number:05} {protocol.frames}"
        path = folder / name.split()[0]
        if spec.data.kind == "video":
            generated.write_clip(path, num_frames=protocol.frames, width=width, height=height, seed=number)
        else:
            write_frames(path, num_frames=protocol.frames, size=(width, height), seed=number)
        names.append(name)
    num_steps = (protocol.warmup_rounds + protocol.rounds) * protocol.steps + _batches_ahead(protocol.workers) + 1
    rows = [
        f"{names[number % len(names)]} {number % spec.network.num_classes}\n"
        for number in range(num_steps * protocol.videos_per_step)
    ]
    (folder / "list.txt").write_text("".join(rows), encoding="utf-8")
    labels = "".join(f"class {number}\n" for number in range(spec.network.num_classes))
    (folder / "labels.txt").write_text(labels, encoding="utf-8")
    listed = {f"{split}_list": str(folder / "list.txt") for split in ("train", "val", "test")}
    roots = {f"{split}_root": str(folder) for split in ("train", "val", "test")}
    return Data(kind=spec.data.kind, labels=str(folder / "labels.txt"), **listed, **roots)


def _batches_ahead(workers: int) -> int:
    return _PREFETCHED * workers


def write_sources(sizes: Sequence[Size], *, num_frames: int, folder: Path) -> dict[str, Path | FrameFolder]:
    """Write what is decoded: a video of each size, and the same as a folder of JPEG files."""
    sources: dict[str, Path | FrameFolder] = {}
    for width, height in sizes:
        path = folder / f"{width}x{height}.mp4"
        generated.write_clip(path, num_frames=num_frames, width=width, height=height)
        sources[f"mp4, {width}x{height}, {num_frames} frames"] = path
    for width, height in sizes:
        frames = write_frames(folder / f"{width}x{height}", num_frames=num_frames, size=(width, height))
        sources[f"JPEG, {width}x{height}, {num_frames} frames"] = frames
    return sources


@click.command()
@click.option(
    "--recipe",
    "recipe_name",
    default="i3d_r50_video_32x2x1_100e_kinetics400_rgb",
    show_default=True,
    help="A name from training/recipes, or a file.",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Another value of the recipe; repeats.")
@click.option("--videos-in-list", type=click.IntRange(min=1), default=8, show_default=True, help="Different videos.")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    default=("340x256", "320x240"),
    show_default=True,
    metavar="WIDTHxHEIGHT",
    callback=_to_sizes,
    help="Of the videos, in turn; repeats.",
)
@click.option(
    "--decode-size",
    "decode_sizes",
    multiple=True,
    default=("320x240", "340x256", "640x480"),
    show_default=True,
    metavar="WIDTHxHEIGHT",
    callback=_to_sizes,
    help="Of what is only decoded; repeats.",
)
@click.option("--frames", type=click.IntRange(min=1), default=300, show_default=True, help="Per video.")
@click.option("--rounds", type=click.IntRange(min=1), default=8, show_default=True, help="Blocks of each loop.")
@click.option("--steps", "num_steps", type=click.IntRange(min=1), default=4, show_default=True, help="Per block.")
@click.option("--workers", type=click.IntRange(min=0), help="Processes that read videos.  [default: the recipe's]")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of both loops.  [default: PyTorch's choice]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), metavar="FILE", help="Write the whole record.")
@reports_errors
def main(
    recipe_name: str,
    settings: tuple[str, ...],
    videos_in_list: int,
    sizes: tuple[Size, ...],
    decode_sizes: tuple[Size, ...],
    frames: int,
    rounds: int,
    num_steps: int,
    workers: int | None,
    threads: int | None,
    device: str,
    json_path: Path | None,
) -> None:
    """Measure the training loop against a bare one, and the decoding of clips."""
    spec = recipe.load(recipe_name, folder=RECIPES).overridden(settings)
    if workers is not None:
        spec = spec.replaced(batch=spec.batch.replaced(workers=workers))
    if threads is not None:
        torch.set_num_threads(threads)
    # Blocks end with a record; one epoch, so that none ends in between. The learning rate, which no step's time depends
    # on, is one that keeps the loss of fresh weights finite.
    slow = spec.optimizer.replaced(lr=1e-5)
    spec = spec.replaced(epochs=1, steps=None, log_every=num_steps, checkpoint_steps=None, optimizer=slow)
    with distributed.joined(device) as process:
        device = str(process.device)
    protocol = Protocol(
        recipe=Path(recipe_name).stem,
        settings=settings,
        videos_per_step=spec.batch.videos * spec.batch.accumulate,
        clip=spec.train.shape(spec.network.in_channels),
        autocast=spec.compute.autocast,
        device=device,
        threads=torch.get_num_threads(),
        wait_policy=os.environ.get("OMP_WAIT_POLICY", "default"),
        workers=spec.batch.workers,
        videos_in_list=videos_in_list,
        sizes=tuple(f"{width}x{height}" for width, height in sizes),
        frames=frames,
        rounds=rounds,
        steps=num_steps,
        warmup_rounds=-(-(_batches_ahead(spec.batch.workers) + 1) // num_steps),
    )
    with tempfile.TemporaryDirectory() as name, steps() as on_step:
        folder = Path(name)
        on_step("writing videos")
        spec = spec.replaced(data=write_data(spec, protocol, sizes, folder=folder))
        sources = write_sources(decode_sizes, num_frames=frames, folder=folder / "decoding")
        on_step("training")
        trained = measure_training(spec, protocol, folder=folder)
        on_step("decoding")
        decoded = measure_decoding(spec, sources, rounds=rounds)
    _print(protocol, trained, decoded)
    if json_path is not None:
        with files.replacing(json_path) as (target,):
            target.write_text(json.dumps(_record(protocol, trained, decoded), indent=2) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    return {"torch": torch.__version__, "opencv": version("opencv-python"), "numpy": np.__version__}


def _machine(protocol: Protocol) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(protocol.device) if protocol.device.startswith("cuda") else None
    return {**meters.machine().model_dump(mode="json"), "gpu": gpu}


def _figures(protocol: Protocol, trained: Sequence[Round]) -> dict[str, float]:
    ratios = [entry.ratio for entry in trained]
    videos = protocol.steps * protocol.videos_per_step
    return {
        "ratio": statistics.median(ratios),
        "spread": _spread(ratios),
        "data_wait": statistics.median(entry.data_wait for entry in trained),
        "real_videos_per_second": videos / statistics.median(entry.real_seconds for entry in trained),
        "bare_videos_per_second": videos / statistics.median(entry.bare_seconds for entry in trained),
        "real_spread": _spread([entry.real_seconds for entry in trained]),
        "bare_spread": _spread([entry.bare_seconds for entry in trained]),
    }


def _record(protocol: Protocol, trained: Sequence[Round], decoded: Sequence[Decoding]) -> dict[str, Any]:
    """The run as a JSON document: machine in words, versions, protocol and every timed second."""
    return {
        "version": JSON_VERSION,
        "i3d_deploy": __version__,
        "machine": _machine(protocol),
        "versions": _versions(),
        "protocol": asdict(protocol),
        "training": {**_figures(protocol, trained), "rounds": [asdict(entry) for entry in trained]},
        "decoding": {
            "draws": DRAWS,
            "results": [{**asdict(entry), **entry.figures()} for entry in decoded],
        },
    }


def _print(protocol: Protocol, trained: Sequence[Round], decoded: Sequence[Decoding]) -> None:
    machine, versions = _machine(protocol), _versions()
    terminal = Console()
    # Where it goes to a file or a pipe, a row stays a line.
    console = terminal if terminal.is_terminal else Console(width=200)
    clip = "x".join(map(str, protocol.clip[:3]))
    console.print(
        f"{protocol.recipe}{''.join(f' --set {setting}' for setting in protocol.settings)}: {protocol.videos_per_step} "
        f"videos a step, clips of {clip}, {protocol.autocast}, {protocol.workers} workers, {protocol.threads} threads "
        f"(wait policy {protocol.wait_policy}); "
        f"{protocol.rounds} rounds of {protocol.steps} steps after {protocol.warmup_rounds}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    console.print(
        f"{protocol.videos_in_list} generated videos of {protocol.frames} frames, {', '.join(protocol.sizes)}; on "
        f"{machine['gpu'] or machine['cpu']} ({machine['cores']} cores), Python {machine['python']}, "
        + ", ".join(f"{name} {number}" for name, number in versions.items()),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    console.print()
    console.print(_training_table(_figures(protocol, trained)))
    console.print()
    console.print(_decoding_table(decoded))
    console.print("\nspread: (largest - smallest) / median over the rounds; per core: by processor time")


def _training_table(found: dict[str, float]) -> Table:
    table = Table("loop", "videos/s", "spread", "time ratio", "spread", "data wait", box=None, pad_edge=False)
    table.add_row("bare", f"{found['bare_videos_per_second']:.3g}", f"{found['bare_spread']:.1%}", "1", "-", "-")
    table.add_row(
        "real",
        f"{found['real_videos_per_second']:.3g}",
        f"{found['real_spread']:.1%}",
        f"{found['ratio']:.3f}",
        f"{found['spread']:.1%}",
        f"{found['data_wait']:.1%}",
    )
    return table


def _decoding_table(decoded: Sequence[Decoding]) -> Table:
    headings = ("source", "clips/s", "clips/s per core", "decoded frames/s per core", "spread")
    table = Table(*headings, box=None, pad_edge=False)
    for entry in decoded:
        found = entry.figures()
        table.add_row(
            entry.source,
            f"{found['clips_per_second']:.1f}",
            f"{found['clips_per_second_per_core']:.1f}",
            f"{found['frames_per_second_per_core']:.0f}",
            f"{found['spread']:.1%}",
        )
    return table


if __name__ == "__main__":
    main()
