"""A process that holds one artifact and times it on request.

Each artifact has a process of its own: its peak memory and processor time are then its own, its thread pools disturb no
other, and a crash costs one artifact and not the run. Programs from other environments take part in a run by calling
:func:`serve` with a function that opens their network.

Requests and answers are JSON objects, one a line, on standard input and output: ``{"do": NAME, ...arguments}`` is
answered by ``{"value": ...}``, or by ``{"error": one line}``. The clock is read here, so that the messages are not
timed. What libraries print on standard output goes to standard error.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import doctor, resizing, video, views
from i3d_deploy.benchmark import meters
from i3d_deploy.card import Precision
from i3d_deploy.errors import I3DError, VideoError
from i3d_deploy.frames import Frame, Resized
from i3d_deploy.measurements import Work
from i3d_deploy.predictions import average_views
from i3d_deploy.preprocessing import Spatial
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.runners import Runner, open_runner
from i3d_deploy.views import Buffer, Views

MAX_VIDEOS = 1000
"""Videos of one turn at most: more would say nothing new, and lengthen the record."""

MAX_GPUS = 16

Video = TypeVar("Video", str, NDArray[np.uint8])
"""A video file, or views that were cut from one."""


@dataclass(frozen=True, kw_only=True)
class OpenRequest:
    """What to open.

    Attributes:
        path: The artifact.
        device: "auto", "cpu", "cuda" or "cuda:1".
        threads: CPU threads; None: the backend's choice.
        precision: Of a checkpoint; None: as suits the device.
    """

    path: Path
    device: str = "auto"
    threads: int | None = None
    precision: Precision | None = None


@dataclass(frozen=True, kw_only=True)
class ViewsOf:
    """Which views of one video, and how they are cut from a file.

    Attributes:
        clips: Clips per video.
        crops: Crops per clip.
        batch: Views per run of the engine; None: what suits the runner.
    """

    clips: int
    crops: int
    batch: int | None = None


class Requests:
    """One opened artifact; each public method answers one request, with values that JSON holds.

    Args:
        open_subject: Opens it.
    """

    def __init__(self, open_subject: Callable[[OpenRequest], Runner]) -> None:
        self._open_subject = open_subject
        self._loaded: tuple[str, int] | None = None
        self._video: NDArray[np.uint8] = np.empty((0, 0, 0, 0, 3), np.uint8)

    def open(self, path: str, device: str, threads: int | None, precision: Precision | None) -> dict[str, Any]:
        """Open the artifact, its backend's import included in the time."""
        gpus = [f"cuda:{number}" for number in range(MAX_GPUS)]
        used = {gpu: meters.gpu_memory_used(gpu) for gpu in gpus}
        start = time.perf_counter()
        request = OpenRequest(path=Path(path), device=device, threads=threads, precision=precision)
        runner = self._open_subject(request)
        seconds = time.perf_counter() - start
        self._runner, self._path = runner, Path(path)
        self._gpu_memory_before = used.get(runner.info.device)
        self._meters = {kind: meters.Meter(runner.info.device) for kind in ("model", "end_to_end")}
        return {
            "info": asdict(runner.info),
            "runner": str(runner.info),
            "card": runner.card.model_dump(mode="json"),
            "card_sha256": hashlib.sha256(runner.card.to_json().encode()).hexdigest(),
            "preferred_batch": runner.preferred_batch,
            "is_comparable": runner.is_comparable,
            "notes": list(runner.notes),
            "seconds": seconds,
        }

    def work(self) -> dict[str, int] | None:
        """What one view costs; None where it is not known."""
        # Another network's work is not what the card says.
        found = work_of(self._runner, self._path) if self._runner.is_comparable else None
        return None if found is None else found.model_dump()

    def answer(self, views_path: str, count: int, batch: int | None, output: str) -> None:
        """Write the logits of the first ``count`` views of a ``.npy`` file into another."""
        np.save(output, infer_all(self._runner, self._load(views_path, count), batch=batch), allow_pickle=False)

    def time(self, views_path: str, count: int, batch: int | None, seconds: float, counts: bool) -> list[float]:
        """Seconds of one video after the other, model only, until ``seconds`` have passed; of one at least."""
        loaded = self._load(views_path, count)
        times = []
        with self._meters["model"].running() if counts else nullcontext():
            for again in _repeated(loaded, seconds):
                times.append(time_video(self._runner, again, batch=batch))
        return times

    def predict(
        self, video_path: str, clips: int, crops: int, batch: int | None, seconds: float, counts: bool
    ) -> list[float]:
        """Seconds of one prediction from the file after the other, until ``seconds`` have passed; of one at least.

        As a stream of videos: the next one is decoded while this one is computed.
        """
        times: list[float] = []
        recognizer, sources = Recognizer(self._runner), _repeated(video_path, seconds)
        outcomes = recognizer.predict_many(sources, clips=clips, crops=crops, batch=batch)
        with closing(outcomes), self._meters["end_to_end"].running() if counts else nullcontext():
            start = time.perf_counter()
            for outcome in outcomes:
                if isinstance(outcome.result, VideoError):
                    raise outcome.result
                now = time.perf_counter()
                times.append(now - start)
                start = now
        return times

    def stages(self, video_path: str, clips: int, crops: int, batch: int | None) -> dict[str, Any]:
        """Seconds of each stage of a prediction, each run alone, and whether its views share work."""
        return time_stages(self._runner, video_path, ViewsOf(clips=clips, crops=crops, batch=batch))

    def usage(self, kind: str) -> dict[str, Any]:
        """What the videos that count used: fields of :class:`i3d_deploy.benchmark.timing.Usage`."""
        meter = self._meters[kind]
        return {
            "wall_seconds": meter.wall_seconds,
            "cpu_seconds": meter.cpu_seconds,
            "cores": doctor.usable_cores(),
            "others_seconds": meter.others_seconds,
            "joules": meter.joules,
            "energy_source": meter.energy_source,
            "clock_mhz": statistics.median(meter.clocks_mhz) if meter.clocks_mhz else None,
        }

    def memory(self) -> dict[str, int | None]:
        """Peak bytes on the host, and what the GPU holds more than before opening."""
        before, after = self._gpu_memory_before, meters.gpu_memory_used(self._runner.info.device)
        device = after - before if before is not None and after is not None else None
        return {"host": meters.peak_memory_bytes(), "device": device}

    def profile(self, views_path: str, batch: int, runs: int) -> list[dict[str, Any]]:
        """Every layer with its seconds, slowest first; empty where the backend does not tell."""
        return [asdict(layer) for layer in self._runner.profile(self._load(views_path, batch), runs=runs)]

    def _load(self, path: str, count: int) -> NDArray[np.uint8]:
        if self._loaded != (path, count):
            self._video = self._video[:0].copy()  # both at once would count as peak memory
            self._video = read_views(Path(path), count=count, allocate=self._runner.allocate)
            self._loaded = (path, count)
        return self._video


def _repeated(subject: Video, seconds: float) -> Iterator[Video]:
    """The same video again and again until ``seconds`` have passed; once at least."""
    end = time.perf_counter() + seconds
    yield subject
    for _ in range(MAX_VIDEOS - 1):
        if time.perf_counter() >= end:
            return
        yield subject


def read_views(path: Path, *, count: int, allocate: Callable[..., Any] = np.empty) -> NDArray[np.uint8]:
    """Read the first views of a ``.npy`` file into memory of their own.

    Not through a mapping of the file, whose pages would count as memory of this process.

    Args:
        path: (V, T, H, W, 3) uint8.
        count: Views to read.
        allocate: Makes the memory, of a shape and type.
    """
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        views: NDArray[np.uint8] = allocate((min(count, shape[0]), *shape[1:]), dtype)
        file.readinto(views.data.cast("B"))
    return views


def work_of(runner: Runner, path: Path) -> Work | None:
    """What one view costs.

    Args:
        runner: The engine. Its card has what was counted from its graph at the export; a checkpoint has no graph, so
            that what PyTorch runs is counted.
        path: Its file. The graph of an ``.onnx`` whose card does not say is counted where onnx is installed.
    """
    engine = runner.card.engine
    if engine is None:
        from i3d_deploy import torch_work

        return torch_work.work_of_network(
            runner.card.network, runner.card.view_shape, skips_dropped_frames=runner.skips_dropped_frames
        )
    if engine.work is None and path.suffix == ".onnx" and importlib.util.find_spec("onnx") is not None:
        import onnx

        from i3d_deploy import work

        return work.count(onnx.load(path, load_external_data=False))
    return engine.work


def infer_all(runner: Runner, video: NDArray[np.uint8], *, batch: int | None) -> NDArray[np.float32]:
    """Run the engine over all views of a video.

    Args:
        runner: The engine.
        video: (V, T, H, W, 3) uint8.
        batch: Views per run; None: what suits the runner.

    Returns:
        (V, K) float32 logits in host memory.
    """
    size = batch or runner.preferred_batch
    return np.concatenate([runner.infer(video[first : first + size]) for first in range(0, len(video), size)])


def time_video(runner: Runner, video: NDArray[np.uint8], *, batch: int | None) -> float:
    """Seconds from uint8 views in host memory to averaged probabilities in host memory.

    The runners return host memory, so the device has finished when they do.
    """
    start = time.perf_counter()
    average_views(infer_all(runner, video, batch=batch), over=runner.card.averaging)
    return time.perf_counter() - start


class Resizing:
    """Resizes the frames of a video as a card says, and times it.

    Attributes:
        seconds: Of all frames so far.
    """

    def __init__(self, spatial: Spatial) -> None:
        self._spatial = spatial
        self.seconds = 0.0

    def apply(self, frame: Frame) -> Resized:
        """Resize one frame."""
        start = time.perf_counter()
        resized = resizing.by_card(frame, self._spatial)
        self.seconds += time.perf_counter() - start
        return resized


def time_stages(runner: Runner, source: str, wanted: ViewsOf) -> dict[str, Any]:
    """Time a prediction stage by stage.

    Args:
        runner: The engine.
        source: A video file.
        wanted: Which views.

    Returns:
        ``seconds``, the fields of :class:`i3d_deploy.benchmark.record.Stages`; and ``is_shared``, whether views share
        work.
    """
    card, resizing = runner.card, Resizing(runner.card.spatial)
    start = time.perf_counter()
    video.collect(
        source,
        choose=lambda num_frames, rate: card.sampling.frame_indices(num_frames, rate, num_clips=wanted.clips),
        transform=resizing.apply,
    )
    decode = time.perf_counter() - start - resizing.seconds
    start = time.perf_counter()
    prepared = views.prepare(source, card, clips=wanted.clips, crops=wanted.crops)
    shown = resizing.seconds
    if card.flow_method is not None:
        shown = max(0.0, time.perf_counter() - start - decode)  # with the flow; two passes over the file are compared
    size = wanted.batch or runner.preferred_batch
    is_shared = runner.shares(prepared, size=size)
    cut, transfer, compute = (_shared_stages if is_shared else _stages_of_views)(runner, prepared, size)
    seconds = {"decode": decode, "views": shown + cut, "transfer": transfer, "compute": compute}
    return {"seconds": seconds, "is_shared": is_shared}


def _shared_stages(runner: Runner, prepared: Views, size: int) -> tuple[float, float, float]:
    """As :func:`_stages_of_views`; what is shared is cut while it is computed."""
    start = time.perf_counter()
    rows = [logits for _, logits in runner.infer_parts(prepared.parts(size))]
    average_views(np.concatenate(rows), over=runner.card.averaging)
    return 0.0, 0.0, time.perf_counter() - start


def _stages_of_views(runner: Runner, prepared: Views, size: int) -> tuple[float, float, float]:
    """Seconds of cutting views, of copying them to the device, and of computing and averaging."""
    clock = time.perf_counter
    cut = transfer = infer = 0.0
    buffer, rows = Buffer(), []
    start = clock()
    for part in prepared.parts(size):
        batch = buffer.cut(part)
        cut += clock() - start
        start = clock()
        if runner.info.device != "cpu":
            runner.transfer(batch)
            transfer += clock() - start
        start = clock()
        rows.append(runner.infer(batch))
        infer += clock() - start
        start = clock()
    start = clock()
    average_views(np.concatenate(rows), over=runner.card.averaging)
    # What infer copies itself was just timed alone.
    return cut, transfer, max(0.0, infer - transfer) + clock() - start


def serve(open_subject: Callable[[OpenRequest], Runner]) -> None:
    """Answer requests until standard input ends.

    Args:
        open_subject: Opens what this process is to time.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run that asks is interrupted and ends this process
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests = Requests(open_subject)
    for line in sys.stdin:
        answer = json.dumps(_answered(requests, json.loads(line)))
        try:
            print(answer, file=answers, flush=True)
        except BrokenPipeError:  # the run has been killed
            os._exit(1)


def _answered(requests: Requests, request: dict[str, Any]) -> dict[str, Any]:
    method = getattr(requests, request.pop("do"))
    try:
        return {"value": method(**request)}
    except I3DError as error:
        return {"error": str(error)}
    except Exception as error:  # of a backend: it costs this artifact and not the run
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}


def open_artifact(request: OpenRequest) -> Runner:
    """Open a file that :func:`i3d_deploy.load` takes."""
    return open_runner(request.path, device=request.device, threads=request.threads, precision=request.precision)


if __name__ == "__main__":
    serve(open_artifact)
