"""Is it worth computing the stem once per frame window instead of once per view? Measured in OpenVINO, on real videos.

Views overlap: crops share columns, clips whose starts agree modulo 8 frames share windows of 5 frames. Two forms of the
same network answer the same views, in turns within each round, from prepared uint8 frames to averaged probabilities:

- **plain**: every view through the whole network. The stem already skips the frames that its pool would drop (temporal
  stride 4, the pool without one), and pixels are normalised with their channels last, which needs no reordering.
- **shared**: a first graph takes each window of frames once, over the whole width of the frame, as a 2D convolution
  over 15 channels (9 for the first window of a clip, whose first two frames are padding). The border columns of a crop
  that starts or ends inside the frame see zeros there: they are computed once more from narrow strips, with rows and
  columns swapped so that the long side is the inner one. The graph gives pooled maps per crop, channels last, in the
  precision of the network. A second graph takes the 8 maps of a view where they lie and does the rest.
- **shared, crops only**: the same with no window shared between clips, as in a video so long that its clips do not
  overlap.

    python bench/shared_stem.py video.mp4 --rounds 5 --json shared_stem.json

The weights are random, seeded. Logits are held against PyTorch's on one view per crop, and those of the forms against
each other on all views. Memory is that of a fresh process for each form: peak while it loads and answers one video,
above what it held before, frames included there. Videos whose crops start at an odd column cannot share the stem's
spatial stride of 2 and are refused.
"""

from __future__ import annotations

import copy
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from i3d_deploy import files, model, to_onnx, untracked, views
from i3d_deploy.benchmark import meters, wording
from i3d_deploy.card import Pixels, Sampling, Spatial
from i3d_deploy.commands.options import reports_errors, steps
from i3d_deploy.errors import InputError
from i3d_deploy.geometry import Box
from i3d_deploy.model import I3DResNet
from i3d_deploy.network import Network, i3d_r50
from i3d_deploy.views import Views

with untracked.imports():
    import openvino

Array = NDArray[np.float32]
Window = tuple[int, ...]

PLAIN, SHARED, CROPS_ONLY = FORMS = ("plain", "shared", "shared, crops only")
HINTS = {"fp32": "f32", "bf16": "bf16"}
STEM_FRAMES, STEM_STRIDE, STEM_PADDING = 5, 4, 2
CONV_PADDING = 3
LEFT_STRIP, RIGHT_STRIP = 10, 9
"""Pixels that the two pooled columns at a left border, and the one at a right border, look at."""

MAX_DIFFERENCE = 1e-4
"""Of a float32 logit from PyTorch's."""

MEASURE_MEMORY = "--measure-memory"


# What is shared: numbers alone.


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The frame windows of a video.

    Attributes:
        frames: The frames of each window; fewer than 5 where the first ones are padding.
        of_clip: Per clip, its windows in order.
    """

    frames: tuple[Window, ...]
    of_clip: tuple[tuple[int, ...], ...]


def find_windows(clips: Sequence[Sequence[int]], *, is_shared: bool = True) -> Windows:
    """Find the windows that the stem convolution sees.

    Args:
        clips: Frames of each clip.
        is_shared: Count a window that several clips have once.
    """
    numbers: dict[tuple[int, Window], int] = {}
    of_clip = []
    for place, clip in enumerate(clips):
        starts = range(-STEM_PADDING, len(clip) + STEM_PADDING - STEM_FRAMES + 1, STEM_STRIDE)
        found = [tuple(clip[max(start, 0) : start + STEM_FRAMES]) for start in starts]
        keys = [(0 if is_shared else place, window) for window in found]
        of_clip.append(tuple(numbers.setdefault(key, len(numbers)) for key in keys))
    return Windows(frames=tuple(window for _, window in numbers), of_clip=tuple(of_clip))


def check_boxes(boxes: Sequence[Box]) -> None:
    """Refuse crops whose stem outputs are not those of the whole frame.

    Raises:
        InputError: A crop starts at an odd column, or the frames are portrait.
    """
    if any(box.top != boxes[0].top for box in boxes):
        raise InputError("the frames are portrait: this script shares columns alone, give a landscape video")
    odd = [box.left for box in boxes if box.left % 2]
    if odd:
        raise InputError(f"a crop starts at column {odd[0]}: the stem has stride 2, so only even columns can be shared")


# The graphs.


class Plain(nn.Module):
    """Frames (1, T, H, W, 3) uint8 to logits."""

    def __init__(self, net: I3DResNet, pixels: Pixels) -> None:
        super().__init__()
        self.net = net
        self.normalise = Normalise(pixels, num_frames=1)

    def forward(self, frames: Tensor) -> Tensor:
        """Run the whole network."""
        logits: Tensor = self.net(self.normalise(frames).permute(0, 4, 1, 2, 3))
        return logits


class Normalise(nn.Module):
    """Pixels to network input, channels last; several frames side by side in the channels."""

    def __init__(self, pixels: Pixels, *, num_frames: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(pixels.mean * num_frames))
        self.register_buffer("std", torch.tensor(pixels.std * num_frames))

    def forward(self, frames: Tensor) -> Tensor:
        """(..., C) uint8 to float32."""
        normalised: Tensor = (frames.float() - self.mean) / self.std
        return normalised


class Stem(nn.Module):
    """One window of frames, each (1, H, W, 3) uint8, to pooled maps (1, H', W', C), one per crop."""

    def __init__(self, net: I3DResNet, pixels: Pixels, *, num_frames: int, boxes: Sequence[Box]) -> None:
        super().__init__()
        self.boxes = boxes
        self.right_edge = max(box.right for box in boxes)
        self.starts = sorted({box.left for box in boxes if box.left > 0})
        self.ends = sorted({box.right for box in boxes if box.right < self.right_edge})
        weight = net.conv1.weight.detach()[:, :, -num_frames:]  # C 3 T 7 7, without the frames that are padding
        weight = weight.transpose(1, 2).flatten(1, 2).clone()  # C 3*T 7 7
        self.weight, self.swapped_weight = nn.Parameter(weight), nn.Parameter(weight.transpose(2, 3).contiguous())
        assert net.conv1.bias is not None
        self.bias = nn.Parameter(net.conv1.bias.detach().clone())
        self.normalise = Normalise(pixels, num_frames=num_frames)

    def forward(self, *frames: Tensor) -> tuple[Tensor, ...]:
        """Convolve and pool the whole frame and the border strips, and put the maps of the crops together."""
        x = self.normalise(torch.cat(frames).permute(1, 2, 0, 3).flatten(2).unsqueeze(0))  # 1 H W 3*T
        maps = functional.conv2d(x.permute(0, 3, 1, 2), self.weight, self.bias, 2, CONV_PADDING).relu()
        # A crop's pool windows start at even or at odd columns of the maps.
        parities = sorted({box.left // 2 % 2 for box in self.boxes})
        pooled = {odd: functional.max_pool2d(maps, 3, 2, (1, 1 - odd)).permute(0, 2, 3, 1) for odd in parities}
        lefts = [x[:, :, start : start + LEFT_STRIP] for start in self.starts]
        rights = [x[:, :, end - RIGHT_STRIP : end] for end in self.ends]
        at_start = dict(zip(self.starts, self._borders(lefts, pads=(CONV_PADDING, 0), pool_pad=1), strict=True))
        at_end = dict(zip(self.ends, self._borders(rights, pads=(0, 2), pool_pad=0), strict=True))
        return tuple(self._crop(box, pooled, at_start.get(box.left), at_end.get(box.right)) for box in self.boxes)

    def _borders(self, strips: list[Tensor], *, pads: tuple[int, int], pool_pad: int) -> Sequence[Tensor]:
        """Pooled columns (1, H', 1 or 2, C) at the border of each strip, all in one convolution."""
        if not strips:
            return ()
        swapped = torch.cat(strips).permute(0, 3, 2, 1)  # N 3*T W H
        padded = functional.pad(swapped, (0, 0, *pads))
        maps = functional.conv2d(padded, self.swapped_weight, self.bias, 2, (0, CONV_PADDING)).relu()
        pooled = functional.max_pool2d(maps, 3, 2, (pool_pad, 1)).permute(0, 3, 2, 1)
        return [pooled[place : place + 1] for place in range(len(strips))]

    @staticmethod
    def _crop(box: Box, pooled: dict[int, Tensor], at_start: Tensor | None, at_end: Tensor | None) -> Tensor:
        first = box.left // 2
        left, right = first // 2, first // 2 + (box.right - box.left) // 4
        whole = pooled[first % 2]
        inside = whole[:, :, left + (at_start is not None) * 2 : right - (at_end is not None)]
        return torch.cat([part for part in (at_start, inside, at_end) if part is not None], 2)


class Trunk(nn.Module):
    """The pooled maps of one view, each (1, H', W', C), to logits."""

    def __init__(self, net: I3DResNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, *maps: Tensor) -> Tensor:
        """Run the network from its first stage on."""
        x = torch.stack(maps, 1).permute(0, 4, 1, 2, 3)  # 1 C T' H' W'
        x = self.net.pool2(self.net.get_submodule("layer1")(x))
        for stage in range(1, self.net.num_stages):
            x = self.net.get_submodule(f"layer{stage + 1}")(x)
        logits: Tensor = self.net.fc(self.net.pool(x))
        return logits


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the graphs are made for.

    Attributes:
        boxes: The crops.
        width: Columns of a frame, up to the last one that a crop has.
        clip_len: Frames of a clip.
        channels: C of the stem.
    """

    boxes: tuple[Box, ...]
    width: int
    clip_len: int
    channels: int

    @property
    def side(self) -> int:
        """Of a crop."""
        return self.boxes[0].bottom - self.boxes[0].top


def skip_dropped_frames(net: I3DResNet) -> I3DResNet:
    """A copy whose stem makes only the frames that its pool keeps."""
    skipping = copy.deepcopy(net)
    skipping.conv1.stride = (STEM_STRIDE, 2, 2)
    skipping.maxpool.stride = (1, 2, 2)
    return skipping


def write_graphs(net: I3DResNet, setting: Setting, folder: Path) -> None:
    """Export all graphs to OpenVINO's files, in float32."""
    pixels, folded = Pixels(), to_onnx.fold_batch_norms(net)
    frame = torch.zeros(1, setting.side, setting.width, 3, dtype=torch.uint8)
    view = torch.zeros(1, setting.clip_len, setting.side, setting.side, 3, dtype=torch.uint8)
    side = setting.side // 4
    maps = [torch.zeros(1, side, side, setting.channels) for _ in range(setting.clip_len // STEM_STRIDE)]
    write_graph(Plain(skip_dropped_frames(folded), pixels), [view], folder / "plain.xml")
    write_graph(Trunk(folded), maps, folder / "trunk.xml")
    for num_frames in (STEM_FRAMES, STEM_FRAMES - STEM_PADDING):
        stem = Stem(folded, pixels, num_frames=num_frames, boxes=setting.boxes)
        write_graph(stem, [frame] * num_frames, folder / f"stem{num_frames}.xml")


def write_graph(module: nn.Module, example: list[Tensor], path: Path) -> None:
    """Export one module, through ONNX."""
    with quiet():
        program = torch.onnx.export(
            module.eval(),
            tuple(tensor.clone() for tensor in example),
            dynamo=True,
            opset_version=18,
            verbose=False,
        )
    assert program is not None
    graph = openvino.Core().read_model(program.model_proto.SerializeToString())
    openvino.save_model(graph, path, compress_to_fp16=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the exporter says to its own developers."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


# Running them.


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a form says of a video, and how long it took.

    Attributes:
        logits: (V, K) per view.
        probabilities: (K,) averaged.
        seconds: From frames to probabilities.
        stem_seconds: Of the first graph; 0 where there is none.
    """

    logits: Array
    probabilities: Array
    seconds: float
    stem_seconds: float = 0.0


class Engine:
    """One graph, compiled, with enough requests to keep it busy while the next inputs are made ready."""

    def __init__(self, path: Path, *, precision: str, streams: int, has_maps: Sequence[str] = ()) -> None:
        core = openvino.Core()
        graph = core.read_model(path)
        maps_type = openvino.Type.bf16 if precision == "bf16" else openvino.Type.f32
        preparation = openvino.preprocess.PrePostProcessor(graph)
        if "in" in has_maps:
            for place in range(len(graph.inputs)):
                preparation.input(place).tensor().set_element_type(maps_type)
        if "out" in has_maps:
            for place in range(len(graph.outputs)):
                preparation.output(place).tensor().set_element_type(maps_type)
        hint = "LATENCY" if streams == 1 else "THROUGHPUT"
        options = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": hint, "NUM_STREAMS": streams}
        self.compiled = core.compile_model(preparation.build(), "CPU", options)
        self.requests = [self.compiled.create_infer_request() for _ in range(streams + 1)]
        self.maps_type = maps_type

    def run(self, count: int, prepare: Callable[[Any, int], None], collect: Callable[[Any, int], None]) -> None:
        """Run ``count`` times; ``prepare`` sets the tensors of a request, ``collect`` is called when it is done."""
        for number in range(count + len(self.requests)):
            request = self.requests[number % len(self.requests)]
            done = number - len(self.requests)
            if 0 <= done < count:
                request.wait()
                collect(request, done)
            if number < count:
                prepare(request, number)
                request.start_async()


def softmax_mean(logits: Array) -> Array:
    """Average of the views' probabilities."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray((exponentials / exponentials.sum(axis=1, keepdims=True)).mean(axis=0), np.float32)


class PlainForm:
    """Every view through the whole network."""

    def __init__(self, folder: Path, *, precision: str, streams: int) -> None:
        self.engine = Engine(folder / "plain.xml", precision=precision, streams=streams)
        shape = list(self.engine.compiled.input(0).shape)
        for request in self.engine.requests:
            request.set_input_tensor(openvino.Tensor(openvino.Type.u8, shape))

    def answer(self, video: Views) -> Answer:
        """Cut, run and average the views of a video."""
        start = time.perf_counter()
        found: list[Array] = []

        def prepare(request: Any, number: int) -> None:
            video.fill(request.get_input_tensor().data, [number])

        self.engine.run(
            len(video),
            prepare,
            lambda request, _: found.append(request.get_output_tensor().data[0].copy()),
        )
        logits = np.stack(found)
        return Answer(logits=logits, probabilities=softmax_mean(logits), seconds=time.perf_counter() - start)


class SharedForm:
    """The stem once per window, the rest once per view."""

    def __init__(self, folder: Path, *, precision: str, streams: int) -> None:
        options: dict[str, Any] = {"precision": precision, "streams": streams}
        lengths = (STEM_FRAMES, STEM_FRAMES - STEM_PADDING)
        self.stems = {length: Engine(folder / f"stem{length}.xml", **options, has_maps=["out"]) for length in lengths}
        self.trunk = Engine(folder / "trunk.xml", **options, has_maps=["in"])
        self._maps: list[list[Any]] = []

    def answer(self, video: Views, *, is_shared: bool = True) -> Answer:
        """Run both graphs and average the views of a video."""
        start = time.perf_counter()
        windows = find_windows(video.indices.tolist(), is_shared=is_shared)
        self._run_stems(video, windows)
        stem_seconds = time.perf_counter() - start
        logits = self._run_trunk(len(video.boxes), windows)
        return Answer(
            logits=logits,
            probabilities=softmax_mean(logits),
            seconds=time.perf_counter() - start,
            stem_seconds=stem_seconds,
        )

    def _run_stems(self, video: Views, windows: Windows) -> None:
        self._make_room(len(windows.frames))
        right_edge = max(box.right for box in video.boxes)
        frames = {
            index: openvino.Tensor(np.ascontiguousarray(frame[None, :, :right_edge]), shared_memory=True)
            for index, frame in video.by_index.items()
        }
        for length, engine in self.stems.items():
            numbers = [number for number, window in enumerate(windows.frames) if len(window) == length]

            def prepare(request: Any, place: int, numbers: list[int] = numbers) -> None:
                for port, index in enumerate(windows.frames[numbers[place]]):
                    request.set_input_tensor(port, frames[index])
                for port, maps in enumerate(self._maps[numbers[place]]):
                    request.set_output_tensor(port, maps)

            engine.run(len(numbers), prepare, lambda request, place: None)

    def _run_trunk(self, crops: int, windows: Windows) -> Array:
        found: list[Array] = []

        def prepare(request: Any, number: int) -> None:
            crop, clip = divmod(number, len(windows.of_clip))
            for port, window in enumerate(windows.of_clip[clip]):
                request.set_input_tensor(port, self._maps[window][crop])

        self.trunk.run(
            crops * len(windows.of_clip),
            prepare,
            lambda request, _: found.append(request.get_output_tensor().data[0].copy()),
        )
        return np.stack(found)

    def _make_room(self, count: int) -> None:
        """Maps are kept from video to video: fresh memory costs page faults."""
        some = self.stems[STEM_FRAMES]
        while len(self._maps) < count:
            self._maps.append([openvino.Tensor(some.maps_type, list(port.shape)) for port in some.compiled.outputs])


class Forms:
    """All forms in one precision."""

    def __init__(self, folder: Path, *, precision: str, streams: int) -> None:
        self.plain = PlainForm(folder, precision=precision, streams=streams)
        self.shared = SharedForm(folder, precision=precision, streams=streams)

    def answer(self, form: str, video: Views) -> Answer:
        """Let a form answer."""
        return self.plain.answer(video) if form == PLAIN else self.shared.answer(video, is_shared=form == SHARED)


# Work.


def stem_share(folder: Path, *, precision: str, runs: int = 5) -> float:
    """Share of a view's time, in the plain form, that is spent up to and in the pool after the stem."""
    options = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True}
    request = openvino.Core().compile_model(folder / "plain.xml", "CPU", options).create_infer_request()
    pixels = np.random.default_rng(0).integers(0, 256, request.get_input_tensor().data.shape, np.uint8)
    shares = []
    for _ in range(runs + 1):
        request.infer([pixels])
        executed = [node for node in request.profiling_info if node.status == openvino.ProfilingInfo.Status.EXECUTED]
        seconds = [node.real_time.total_seconds() for node in executed]
        pool = next(place for place, node in enumerate(executed) if "Pool" in node.node_type)
        shares.append(sum(seconds[: pool + 1]) / sum(seconds))
    return float(statistics.median(shares[1:]))


def count_macs(net: I3DResNet, view: Tensor) -> tuple[int, int]:
    """Multiply-accumulates of one view: of the stem as its pool needs it, and of the rest."""
    found: dict[nn.Module, int] = {}

    def note(module: nn.Module, _: object, output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        found[module] = output[0].numel() * weight[0].numel()

    skipping = skip_dropped_frames(net)
    layers = [module for module in skipping.modules() if isinstance(module, nn.Conv3d | nn.Linear)]
    for layer in layers:
        layer.register_forward_hook(note)
    with torch.no_grad():
        skipping(view)
    stem = found.pop(skipping.conv1)
    return stem, sum(found.values())


def shared_stem_macs(setting: Setting, windows: Windows) -> int:
    """Multiply-accumulates of the first graph for all windows of a video."""
    columns = -(-setting.width // 2)
    columns += sum(4 for left in {box.left for box in setting.boxes} if left > 0)
    columns += sum(3 for right in {box.right for box in setting.boxes} if right < setting.width)
    taps = 3 * 7 * 7 * sum(len(window) for window in windows.frames)
    return taps * setting.channels * columns * (setting.side // 2)


# Measuring.


@dataclass(frozen=True, kw_only=True)
class Row:
    """One form in one precision.

    Attributes:
        precision: Of the network.
        form: Its name.
        rounds: Seconds of each round.
        stem_seconds: Median seconds of its first graph.
        gmacs_per_view: Multiply-accumulates of a view, shared ones in equal parts.
        ratios: Seconds of the plain form over its own, round by round.
        memory_bytes: Peak while loading and answering, above what the process held before.
        difference: Largest difference of a logit from the plain form's.
        reference_difference: Largest difference of a logit from PyTorch's.
    """

    precision: str
    form: str
    rounds: tuple[float, ...]
    stem_seconds: float
    gmacs_per_view: float
    ratios: tuple[float, ...]
    memory_bytes: int | None
    difference: float
    reference_difference: float

    def text(self) -> str:
        """A line of the table."""
        median, ratio = statistics.median(self.rounds), statistics.median(self.ratios)
        around = f"{min(self.ratios):.3f}-{max(self.ratios):.3f}"
        memory = wording.DASH if self.memory_bytes is None else wording.memory(self.memory_bytes)
        differences = f"{self.difference:9.1e}  {self.reference_difference:9.1e}"
        return (
            f"{self.precision:9}  {self.form:18}  {self.gmacs_per_view:9.3g}  {median:7.3f}  {self.stem_seconds:7.3f}"
            f"  {ratio:6.3f}  {around:12}  {memory:>8}  {differences}"
        )


HEADER = (
    f"{'precision':9}  {'form':18}  {'GMAC/view':>9}  {'s/video':>7}  {'of stem':>7}  {'ratio':>6}"
    f"  {'of rounds':12}  {'memory':>8}  {'to plain':>9}  {'to torch':>9}"
)


def references(net: I3DResNet, video: Views) -> dict[int, Array]:
    """PyTorch's logits of one view per crop, each of another clip."""
    clips = len(video.indices)
    numbers = [crop * clips + (crop * clips // len(video.boxes)) for crop in range(len(video.boxes))]
    found = {}
    for number in numbers:
        with torch.no_grad():
            found[number] = net(as_input(video, number))[0].numpy()
    return found


def as_input(video: Views, number: int) -> Tensor:
    """One view as PyTorch's network takes it."""
    pixels = Pixels()
    view = torch.from_numpy(video.fill(np.empty((1, *video.view_shape), np.uint8), [number]))
    return ((view.float() - torch.tensor(pixels.mean)) / torch.tensor(pixels.std)).permute(0, 4, 1, 2, 3)


def peak_memory(folder: Path, video: Path, options: Sequence[str], *, form: str, precision: str) -> int:
    """Measure one form in a process of its own."""
    command = [sys.executable, __file__, MEASURE_MEMORY, str(folder), form, precision, str(video), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)


def measure_memory(folder: Path, form: str, precision: str, video: Path, clips: int, side: int, streams: int) -> int:
    """Peak resident memory of loading a form and answering one video, above what this process held before."""
    prepared = cut(video, clips=clips, side=side)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5): sets the peak to what is held now
    before = meters.peak_memory_bytes()
    one = PlainForm if form == PLAIN else SharedForm
    loaded = one(folder, precision=precision, streams=streams)
    loaded.answer(prepared, **({"is_shared": False} if form == CROPS_ONLY else {}))
    return meters.peak_memory_bytes() - before


def cut(video: Path, *, clips: int, side: int) -> Views:
    """Decode and resize the frames of a video."""
    return views.cut(video, sampling=Sampling(num_clips=clips), spatial=Spatial(short_side=side, crop_size=side))


def small_network() -> Network:
    """A network to try this script with."""
    return Network(name="small", num_classes=7, width=16, temporal_kernels=((3, 1), (1,)))


@click.command()
@click.argument("videos", metavar="VIDEO...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--precision", "precisions", type=click.Choice(list(HINTS)), multiple=True, default=tuple(HINTS))
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--warmup", type=click.IntRange(min=0), default=1, show_default=True, help="Rounds before those counted.")
@click.option("--streams", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at the same time.")
@click.option("--clips", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--side", type=int, default=256, show_default=True, help="Pixels of a crop; a multiple of 4.")
@click.option("--small", is_flag=True, help="A network of few weights, to try the script.")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
@reports_errors
def main(
    videos: tuple[Path, ...],
    precisions: tuple[str, ...],
    rounds: int,
    warmup: int,
    streams: int,
    clips: int,
    side: int,
    small: bool,
    json_path: Path | None,
) -> None:
    """Measure I3D R50 with and without a shared stem on each VIDEO."""
    net = model.build(small_network() if small else i3d_r50())
    model.randomize(net, seed=0)
    results = []
    for path in videos:
        with tempfile.TemporaryDirectory() as folder:
            trial = Trial(net, path, Path(folder), clips=clips, side=side, streams=streams)
            results.append(trial.run(precisions, rounds=rounds, warmup=warmup))
    if json_path is not None:
        record = {"machine": meters.machine().model_dump(mode="json"), "openvino": openvino.__version__}
        with files.replacing(json_path) as (target,):
            target.write_text(json.dumps({**record, "videos": results}, indent=2) + "\n", encoding="utf-8")
    worst = max(
        row["reference_difference"] for result in results for row in result["rows"] if row["precision"] == "fp32"
    )
    if worst > MAX_DIFFERENCE:
        raise InputError(f"a float32 logit is {worst:.1e} from PyTorch's, allowed is {MAX_DIFFERENCE:.0e}")


class Trial:
    """One video under all forms."""

    def __init__(self, net: I3DResNet, path: Path, folder: Path, *, clips: int, side: int, streams: int) -> None:
        self.net, self.path, self.folder, self.streams = net, path, folder, streams
        self.options = [str(number) for number in (clips, side, streams)]
        self.video = cut(path, clips=clips, side=side)
        check_boxes(self.video.boxes)
        self.setting = Setting(
            boxes=self.video.boxes,
            width=max(box.right for box in self.video.boxes),
            clip_len=self.video.indices.shape[1],
            channels=net.network.width,
        )
        write_graphs(net, self.setting, folder)

    def run(self, precisions: Sequence[str], *, rounds: int, warmup: int) -> dict[str, Any]:
        """Measure, print and give what goes into the record."""
        shares = {precision: stem_share(self.folder, precision=precision) for precision in precisions}
        loaded = {precision: Forms(self.folder, precision=precision, streams=self.streams) for precision in precisions}
        answers: dict[tuple[str, str], list[Answer]] = {}
        with steps() as on_step:
            for number in range(warmup + rounds):
                on_step(f"{self.path.name}, round {number + 1} of {warmup + rounds}")
                for precision, forms in loaded.items():
                    for form in FORMS:
                        answers.setdefault((precision, form), []).append(forms.answer(form, self.video))
        del loaded
        macs, expected = self._macs(), references(self.net, self.video)
        rows = [self._row(key, answers, macs=macs[key[1]], expected=expected, warmup=warmup) for key in answers]
        self._print(rows, shares)
        return {
            "video": self.path.name,
            "frames": self.video.num_frames,
            "views": len(self.video),
            "streams": self.streams,
            "stem_share_of_plain": shares,
            "rows": [asdict(row) for row in rows],
        }

    def _macs(self) -> dict[str, float]:
        """Per view."""
        stem, rest = count_macs(self.net, as_input(self.video, 0))
        clips, count = self.video.indices.tolist(), len(self.video)
        shared, crops_only = (
            shared_stem_macs(self.setting, find_windows(clips, is_shared=is_shared)) / count
            for is_shared in (True, False)
        )
        return {PLAIN: stem + rest, SHARED: shared + rest, CROPS_ONLY: crops_only + rest}

    def _row(
        self,
        key: tuple[str, str],
        answers: dict[tuple[str, str], list[Answer]],
        *,
        macs: float,
        expected: dict[int, Array],
        warmup: int,
    ) -> Row:
        precision, form = key
        own, plain = answers[key][warmup:], answers[precision, PLAIN][warmup:]
        logits = own[-1].logits
        return Row(
            precision=precision,
            form=form,
            rounds=tuple(answer.seconds for answer in own),
            stem_seconds=statistics.median(answer.stem_seconds for answer in own),
            gmacs_per_view=macs / 1e9,
            ratios=tuple(theirs.seconds / ours.seconds for theirs, ours in zip(plain, own, strict=True)),
            memory_bytes=peak_memory(self.folder, self.path, self.options, form=form, precision=precision)
            if sys.platform == "linux"
            else None,
            difference=float(np.abs(logits - plain[-1].logits).max()),
            reference_difference=max(float(np.abs(logits[view] - row).max()) for view, row in expected.items()),
        )

    def _print(self, rows: list[Row], shares: dict[str, float]) -> None:
        windows = find_windows(self.video.indices.tolist())
        of_all = sum(len(numbers) for numbers in windows.of_clip)
        click.echo(
            f"{self.path.name}: {self.video.num_frames} frames, {len(self.video)} views, "
            f"{len(windows.frames)} of {of_all} windows are unique, {self.streams} at a time"
        )
        for precision, share in shares.items():
            click.echo(f"stem, its pool and the pixels before it, of a plain {precision} view: {share:.1%}")
        click.echo(HEADER)
        for row in rows:
            click.echo(row.text())


if __name__ == "__main__":
    if sys.argv[1:2] == [MEASURE_MEMORY]:
        _, _, of_folder, of_form, of_precision, of_video, *numbers = sys.argv
        print(measure_memory(Path(of_folder), of_form, of_precision, Path(of_video), *map(int, numbers)))
    else:
        main()
