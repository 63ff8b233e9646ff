"""The same network as others would run it on this device, beside ours: one process, in turns.

mmaction2 itself is not among them: its packages need an environment of their own. Its network is the project's
``i3d_r50``, which the golden tests hold against it, and whose weights everybody gets here. Each takes the uint8 views
of a video from page-locked memory, normalises them on the device, and gives averaged probabilities in host memory.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gpu_subjects.clock import wait_for
from gpu_subjects.setting import R50, Setting
from gpu_subjects.sheet import NotHereError, Sheet
from i3d_deploy.benchmark import timing
from i3d_deploy.card import Precision
from i3d_deploy.errors import MissingExtraError
from i3d_deploy.frames import Resized
from i3d_deploy.fused.plain import PlainSteps
from i3d_deploy.fused.stacking import Source, of_views
from i3d_deploy.predictions import average_views
from i3d_deploy.training.learner import ClipsToLogits

sys.path.append(str(Path(__file__).parents[1] / "peers"))

Probabilities = NDArray[np.float32]
Run = Callable[[Resized], Probabilities]

COMPILE_SECONDS = 120
"""That a contestant may take until its first answer."""
MAX_ROUNDS = 7


@dataclass(kw_only=True)
class Contestant:
    """One that takes turns.

    Attributes:
        name: In tables.
        prepare: Makes what runs a video.
        is_ours: Whether it is the project's way.
        run: That, once it is prepared.
        seconds_to_prepare: Until its first answer.
        rounds: Seconds of each video of each turn.
    """

    name: str
    prepare: Callable[[], Run]
    is_ours: bool = False
    run: Run | None = None
    seconds_to_prepare: float = 0.0
    rounds: list[list[float]] = field(default_factory=list)


def run(setting: Setting, sheet: Sheet) -> None:
    """Prepare all, compare their answers, let them take turns."""
    card, views = setting.card(R50), setting.sizes.views
    given = setting.runner(R50, setting.precisions[0]).allocate((views, *card.view_shape), np.uint8)
    given[:] = setting.views(card, views)
    sheet.protocol(
        views=views,
        batch=views,
        weights="random, seed 0",
        mmaction2="its network, as this project has it; not it itself",
    )
    ready, reference, left_out = [], None, []
    table = sheet.table("answers")
    for contestant in _all(setting):
        if setting.seconds_left < 0:
            left_out.append(f"{contestant.name}: out of time")
            continue
        began = time.perf_counter()
        try:
            with at_most(min(COMPILE_SECONDS, max(1.0, setting.seconds_left))):
                contestant.run = contestant.prepare()
                answer = contestant.run(given)
        except Exception as error:  # whatever a compiler or a library raises
            kind = "" if isinstance(error, NotHereError) else f"{type(error).__name__}: "
            left_out.append(f"{contestant.name}: not measured: {kind}{' '.join(str(error).split())[:300]}")
            continue
        contestant.seconds_to_prepare = time.perf_counter() - began
        reference = answer if reference is None else reference
        table.row(
            contestant=contestant.name,
            seconds_to_first_answer=contestant.seconds_to_prepare,
            largest_difference_of_a_probability=float(np.abs(answer - reference).max()),
        )
        ready.append(contestant)
    for reason in left_out:
        sheet.note(reason)
    _take_turns(setting, ready, given)
    _show(sheet, ready)


def _take_turns(setting: Setting, contestants: list[Contestant], given: Resized) -> None:
    for number in range(MAX_ROUNDS if not setting.is_small else 2):
        if number >= 3 and setting.seconds_left < 0:
            return
        for contestant in contestants:
            assert contestant.run is not None, "those that were not prepared take no turns"
            contestant.run(given)  # the cache of the one before is cold
            contestant.rounds.append([])
            began = time.perf_counter()
            while not contestant.rounds[-1] or time.perf_counter() - began < setting.sizes.seconds:
                wait_for(setting.device)
                start = time.perf_counter()
                contestant.run(given)
                contestant.rounds[-1].append(time.perf_counter() - start)


def _show(sheet: Sheet, contestants: list[Contestant]) -> None:
    ours = [entry for entry in contestants if entry.is_ours]
    if not ours:
        raise NotHereError("none of ours was prepared")
    best = min(ours, key=_median)
    table = sheet.table("videos a second: uint8 views in host memory to probabilities there, rounds in turns")
    for entry in contestants:
        median = _median(entry)
        ratio = timing.ratio(best.name, best.rounds, entry.name, entry.rounds)
        table.row(
            contestant=entry.name,
            videos_per_s=1 / median,
            ms=median * 1e3,
            spread=timing.spread_of([float(np.median(turn)) for turn in entry.rounds]),
            our_best_is_times_as_fast=ratio.ratio,
            is_noisy=ratio.is_noisy,
        )
    others = [entry for entry in contestants if not entry.is_ours]
    if others:
        fastest = min(others, key=_median)
        sheet.note(f"{best.name} beside the best of the others, {fastest.name}: {_median(fastest) / _median(best):.2f}")


def _median(contestant: Contestant) -> float:
    return float(np.median([value for turn in contestant.rounds for value in turn]))


def _all(setting: Setting) -> Iterator[Contestant]:
    """Ours first; what compiles for long last."""

    def ours(precision: Precision) -> Callable[[], Run]:
        return lambda: _ours(setting, precision)

    for precision in setting.precisions:
        yield Contestant(name=f"i3d-deploy, {precision}", prepare=ours(precision), is_ours=True)
    yield Contestant(name="PyTorch eager, float32 (TF32 as by default)", prepare=lambda: _eager(setting, "fp32"))
    halves: tuple[Precision, ...] = ("fp16", "bf16") if setting.device.type == "cuda" else ("bf16",)
    for precision in halves:
        yield Contestant(
            name=f"PyTorch eager, autocast {precision}, channels_last_3d, cudnn.benchmark",
            prepare=lambda precision=precision: _eager(setting, precision),  # type: ignore[misc]
        )
    yield Contestant(name="torch.onnx in ONNX Runtime, CUDA, float32", prepare=lambda: _onnx(setting))
    yield Contestant(name="torch.compile, autocast bf16", prepare=lambda: _compiled(setting))
    yield Contestant(name="torch.compile of the fused network, bf16", prepare=lambda: _compiled_fused(setting))


def _ours(setting: Setting, precision: Precision) -> Run:
    runner = setting.runner(R50, precision)
    return lambda views: average_views(runner.infer(views), over=runner.card.averaging)


def _module(setting: Setting, precision: str) -> ClipsToLogits:
    source = setting.checkpoint(R50)
    is_half = precision != "fp32"
    if is_half:
        source.model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    module = ClipsToLogits(source.model, source.card.pixels, autocast=precision, channels_last=is_half)
    return module.to(setting.device).eval()


def _eager(setting: Setting, precision: str) -> Run:
    return _by(setting, _module(setting, precision), is_benchmarked=precision != "fp32")


def _compiled(setting: Setting) -> Run:
    compiled: Any = torch.compile(_module(setting, "bf16"), **_how(setting))
    return _by(setting, compiled, is_benchmarked=True)


def _compiled_fused(setting: Setting) -> Run:
    network, steps = setting.network(R50, "bf16"), PlainSteps()

    def logits(pixels: torch.Tensor, origins: torch.Tensor, pitch: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return network.logits(steps, Source(pixels=pixels, origins=origins, pitch=pitch, size=size))

    def module(views: torch.Tensor) -> torch.Tensor:
        source = of_views(views)
        if not is_compiled:
            return logits(source.pixels, source.origins, source.pitch, source.size)
        found: torch.Tensor = compiled(source.pixels, source.origins, source.pitch, source.size)
        return found

    is_compiled = False
    made = _by(setting, module, is_benchmarked=True)
    made(setting.views(setting.card(R50), 1))  # arranges the weights
    compiled: Any = torch.compile(logits, **_how(setting))
    is_compiled = True
    return made


def _how(setting: Setting) -> dict[str, Any]:
    """Small networks are traced, not compiled."""
    return {"backend": "aot_eager"} if setting.is_small else {"mode": "max-autotune"}


def _by(setting: Setting, module: Callable[[torch.Tensor], torch.Tensor], *, is_benchmarked: bool) -> Run:
    """Views to probabilities by a module that takes uint8 clips on the device."""
    backend = torch.backends.cudnn

    def compute(views: Resized) -> Probabilities:
        clips = torch.from_numpy(views).to(setting.device, non_blocking=True)
        with torch.inference_mode(), backend.flags(enabled=True, benchmark=is_benchmarked, allow_tf32=True):
            probabilities = module(clips).float().softmax(1).mean(0)
        return np.asarray(probabilities.cpu().numpy(), np.float32)

    return compute


def _onnx(setting: Setting) -> Run:
    if setting.device.type != "cuda":
        raise NotHereError("needs a GPU")
    try:
        from plain_onnx import PlainOnnxRunner
    except ImportError as error:
        raise MissingExtraError("onnxruntime-gpu", extra="gpu", cause=error) from error
    source = setting.checkpoint(R50)
    runner = PlainOnnxRunner(source, device=str(setting.device), views_per_run=setting.sizes.views)
    mean, std = (
        torch.tensor(values, device=setting.device) for values in (source.card.pixels.mean, source.card.pixels.std)
    )

    def compute(views: Resized) -> Probabilities:
        clips = torch.from_numpy(views).to(setting.device, non_blocking=True)
        normalised = ((clips.float() - mean) / std).permute(0, 4, 1, 2, 3).contiguous()
        return average_views(runner.infer_on_device(normalised), over=source.card.averaging)

    return compute


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError within the block once the time is over, as soon as Python runs again."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
