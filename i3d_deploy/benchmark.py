"""Videos per second, model only, by the protocol of mmaction2's zoo without its slips.

One video is V views of uint8 in host memory; the clock runs from there to averaged probabilities in host memory,
transfers and synchronisation included, decoding and cropping not. For 320x3 V is 30: 10 clips of 32 frames under 3
crops.

Several artifacts are measured in turns (A B C A B C ...), so that a drift of the machine meets all of them alike; only
figures of one run may be compared.

Source: mmaction2 0.24.1 tools/analysis/benchmark.py. It counts the last video twice and gives one mean; here every
    video
counts once, and the median and spread are given.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import __version__, generated, views
from i3d_deploy.errors import InputError
from i3d_deploy.recognizer import average_views
from i3d_deploy.runners import Runner, open_runner

NOISY_SPREAD = 0.05
"""Above this spread a run is marked as noisy."""

JSON_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is measured.

    Attributes:
        frames: Frames per video; 320 are 10 clips of 32.
        crops: Crops per clip: 1 or 3.
        batch: Views per run of the engine; None: what suits each runner.
        videos: Videos timed per artifact.
        warmup_videos: Videos before that, not timed.
    """

    frames: int = 320
    crops: int = 3
    batch: int | None = None
    videos: int = 5
    warmup_videos: int = 1

    def __post_init__(self) -> None:
        for name in ("frames", "videos", "warmup_videos"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} ({getattr(self, name)}) must be > 0")
        if self.batch is not None and self.batch < 1:
            raise InputError(f"batch ({self.batch}) must be > 0")
        if self.crops not in (1, 3):
            raise InputError(f"crops ({self.crops}) must be 1 or 3")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One artifact's figures.

    Attributes:
        artifact: File name, without folder.
        runner: What really ran it.
        precision: Type of the convolutions that the backend reports.
        views: Views per video.
        batch: Views per run of the engine.
        seconds: One entry per timed video.
        difference: Largest difference of a logit from the first artifact's on the same views.
    """

    artifact: str
    runner: str
    precision: str
    views: int
    batch: int
    seconds: tuple[float, ...]
    difference: float

    @property
    def median_seconds(self) -> float:
        """Median time of a video."""
        return statistics.median(self.seconds)

    @property
    def videos_per_second(self) -> float:
        """Videos per second at the median."""
        return 1 / self.median_seconds

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median_seconds


def run(
    paths: Sequence[Path],
    protocol: Protocol,
    *,
    device: str = "auto",
    threads: int | None = None,
    on_step: Callable[[str], None] = lambda text: None,
) -> tuple[Measurement, ...]:
    """Measure artifacts in turns.

    Args:
        paths: Any files that :func:`i3d_deploy.load` takes, of one view shape.
        protocol: What to measure.
        device: Where to run them.
        threads: CPU threads of each.
        on_step: Called with a line as videos are done.

    Raises:
        InputError: No artifact, or they take views of different shapes or have different numbers of classes.
    """
    if not paths:
        raise InputError("nothing to measure: give at least one artifact")
    with ExitStack() as opened:
        runners = [opened.enter_context(open_runner(path, device=device, threads=threads)) for path in paths]
        kinds = {(*runner.card.view_shape, runner.card.network.num_classes) for runner in runners}
        if len(kinds) > 1:
            raise InputError(
                f"the artifacts take views or give classes of different numbers: {sorted(kinds)}; measure them apart"
            )
        video = _video(runners[0], protocol)
        for _ in range(protocol.warmup_videos):
            on_step("warming up")
            answers = [_answer(runner, video, batch=protocol.batch) for runner in runners]
        seconds: list[list[float]] = [[] for _ in runners]
        for number in range(protocol.videos):
            for path, runner, times in zip(paths, runners, seconds, strict=True):
                on_step(f"video {number + 1} of {protocol.videos}: {path.name}")
                times.append(_time(runner, video, batch=protocol.batch))
    return tuple(
        Measurement(
            artifact=path.name,
            runner=str(runner.info),
            precision=runner.info.precision,
            views=len(video),
            batch=protocol.batch or runner.preferred_batch,
            seconds=tuple(times),
            difference=float(np.abs(answer - answers[0]).max()),
        )
        for path, runner, times, answer in zip(paths, runners, seconds, answers, strict=True)
    )


def _video(runner: Runner, protocol: Protocol) -> NDArray[np.uint8]:
    """The views of the generated clip: (V, T, H, W, 3) uint8."""
    frames = np.stack(list(generated.frames()))
    clip_len = runner.card.sampling.clip_len
    if protocol.frames % clip_len:
        raise InputError(f"{protocol.frames} frames per video are no multiple of the clip's {clip_len}")
    prepared = views.prepare(frames, runner.card, clips=protocol.frames // clip_len, crops=protocol.crops)
    return next(prepared.batches(len(prepared)))


def _answer(runner: Runner, video: NDArray[np.uint8], *, batch: int | None) -> NDArray[np.float32]:
    size = batch or runner.preferred_batch
    return np.concatenate([runner.infer(video[first : first + size]) for first in range(0, len(video), size)])


def _time(runner: Runner, video: NDArray[np.uint8], *, batch: int | None) -> float:
    start = time.perf_counter()
    # The runners return host memory, so the device has finished when they do.
    average_views(_answer(runner, video, batch=batch), over=runner.card.averaging)
    return time.perf_counter() - start


def record(measurements: Sequence[Measurement], protocol: Protocol) -> dict[str, Any]:
    """The run as a JSON document: machine in words, versions, protocol and every timed second."""
    return {
        "version": JSON_VERSION,
        "i3d_deploy": __version__,
        "machine": machine(),
        "protocol": asdict(protocol),
        "results": [
            {
                **asdict(entry),
                "videos_per_second": entry.videos_per_second,
                "median_seconds": entry.median_seconds,
                "spread": entry.spread,
                "is_noisy": entry.spread > NOISY_SPREAD,
            }
            for entry in measurements
        ],
    }


def machine() -> dict[str, Any]:
    """The machine in words: processor, usable cores, system, Python; never its name or user."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
