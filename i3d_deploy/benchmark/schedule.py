"""One run: check that all artifacts answer alike, then time them in turns.

One video is V views of uint8 in host memory; the clock runs from there to averaged probabilities in host memory,
transfers and synchronisation included, decoding and cropping not. For 320x3 V is 30: 10 clips of 32 frames under 3
crops. Given a video file, predictions from the file are timed as well.

Artifacts take turns (A B C A B C ...), so that a drift of the machine meets all of them alike; only figures of one run
may be compared.

Source: mmaction2 0.24.1 tools/analysis/benchmark.py. It counts the last video twice and gives one mean; here every
    video counts once, and the median and spread are given.
"""

from __future__ import annotations

import datetime
import itertools
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from i3d_deploy import __version__, doctor, video
from i3d_deploy.benchmark import ceilings, meters, sweeps, timing
from i3d_deploy.benchmark.admission import Admitted, Entrant, admit
from i3d_deploy.benchmark.plan import Plan
from i3d_deploy.benchmark.record import (
    Ceiling,
    EndToEnd,
    Failure,
    Layer,
    Ratio,
    Record,
    Result,
    Roofline,
    Stages,
    Sweep,
    Timing,
)
from i3d_deploy.benchmark.roofline import roofline
from i3d_deploy.benchmark.turns import Turns, take_turns
from i3d_deploy.benchmark.workers import Subject, Worker
from i3d_deploy.errors import I3DError, InputError

Report = Callable[[str], None]

_PROFILE_RUNS = 3
_SLOWEST_LAYERS = 10


def run(subjects: Sequence[Subject], plan: Plan, *, on_step: Report = lambda text: None) -> Record:
    """Measure artifacts in turns.

    Args:
        subjects: What to measure; answers are compared with the first one's.
        plan: What to measure of them.
        on_step: Called with a line as it goes on.

    Returns:
        The record. What does not run here, or answers otherwise, is among its failures.

    Raises:
        InputError: Nothing to measure, or a plan that does not fit the artifacts.
        VideoError: The video of the plan cannot be read.
        I3DError: No artifact runs here.
    """
    if not subjects:
        raise InputError("nothing to measure: give at least one artifact")
    if plan.video is not None:
        video.check(plan.video)
    clock = meters.clock_mhz()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        admitted = admit(subjects, plan, stack=stack, scratch=scratch, on_step=on_step)
        measured = _measure(admitted, plan, scratch=scratch, on_step=on_step)
    return _record(admitted, plan, measured, clock_at_start=clock)


@dataclass(kw_only=True)
class _Measured:
    """What was measured, by the artifacts' names."""

    model: dict[str, Timing] = field(default_factory=dict)
    rounds: dict[str, list[list[float]]] = field(default_factory=dict)
    end_to_end: dict[str, EndToEnd] = field(default_factory=dict)
    memory: dict[str, dict[str, int | None]] = field(default_factory=dict)
    layers: dict[str, tuple[Layer, ...]] = field(default_factory=dict)
    sweeps: tuple[Sweep, ...] = ()
    ceilings: tuple[Ceiling, ...] = ()
    failures: dict[str, str] = field(default_factory=dict)


def _measure(admitted: Admitted, plan: Plan, *, scratch: Path, on_step: Report) -> _Measured:
    measured = _Measured()
    # Before and after: the machine may have drifted, and a ceiling is what it did at its best.
    before = _ceilings(admitted, plan, on_step)
    _measure_model(admitted, plan, measured, on_step)
    if plan.video is not None:
        _measure_end_to_end(admitted, plan, plan.video, measured, on_step)
    for sweep in plan.sweeps:
        measured.sweeps += sweeps.measure(admitted, sweep, plan, scratch=scratch, on_step=on_step)
    if plan.profiles:
        _profile(admitted, plan, measured, on_step)
    measured.ceilings = ceilings.higher(before, _ceilings(admitted, plan, on_step))
    return measured


def _ceilings(admitted: Admitted, plan: Plan, on_step: Report) -> tuple[Ceiling, ...]:
    if plan.ceiling_seconds == 0:
        return ()
    on_step("measuring what the machine can do")
    devices = dict.fromkeys(entrant.opened.info.device for entrant in admitted.entrants)
    known = [device for device in devices if device.startswith(("cpu", "cuda"))]
    threads = max(entrant.opened.info.threads for entrant in admitted.entrants) or None
    return tuple(
        itertools.chain.from_iterable(ceilings.measure_apart(device, threads, plan.ceiling_seconds) for device in known)
    )


def _measure_model(admitted: Admitted, plan: Plan, measured: _Measured, on_step: Report) -> None:
    views, count = str(admitted.views), admitted.protocol.views

    def once(entrant: Entrant, seconds: float) -> list[float]:
        times: list[float] = entrant.worker.ask("time", views=views, count=count, batch=plan.batch, seconds=seconds)
        return times

    turns = _turns(admitted, once, plan, what="model", on_step=on_step)
    for entrant, own in zip(admitted.entrants, turns, strict=True):
        if own.reason is not None:
            measured.failures[entrant.name] = own.reason
            continue
        measured.rounds[entrant.name] = own.rounds
        measured.model[entrant.name] = _timing(entrant, own, "model", views=count)
        measured.memory[entrant.name] = entrant.worker.ask("memory")


def _turns(
    admitted: Admitted, once: Callable[[Entrant, float], list[float]], plan: Plan, *, what: str, on_step: Report
) -> list[Turns]:
    return take_turns(
        admitted.entrants,
        once,
        min_rounds=plan.min_rounds,
        min_seconds=plan.min_seconds,
        max_warmup=plan.max_warmup,
        on_turn=lambda entrant, text: on_step(f"timing, {what}: {text}, {entrant.name}"),
    )


def _timing(entrant: Entrant, own: Turns, kind: str, *, views: int) -> Timing:
    usage = timing.Usage(**entrant.worker.ask("usage", kind=kind))
    return timing.summarize(own.rounds, views=views, warmup=own.warmup, usage=usage)


def _measure_end_to_end(admitted: Admitted, plan: Plan, path: Path, measured: _Measured, on_step: Report) -> None:
    protocol = admitted.protocol
    wanted = {"video": str(path), "clips": protocol.clips, "crops": protocol.crops, "batch": plan.batch}
    stages: dict[str, list[Stages]] = {entrant.name: [] for entrant in admitted.entrants}

    def once(entrant: Entrant, seconds: float) -> list[float]:
        times: list[float] = entrant.worker.ask("predict", **wanted, seconds=seconds)
        # In the same turn, so that a drift of the machine meets both.
        stages[entrant.name].append(Stages(**entrant.worker.ask("stages", **wanted)))
        return times

    turns = _turns(admitted, once, plan, what="from the file", on_step=on_step)
    for entrant, own in zip(admitted.entrants, turns, strict=True):
        on_step(f"timing a cold start: {entrant.name}")
        try:
            if own.reason is not None:
                raise I3DError(own.reason)
            with Worker(entrant.worker.subject) as fresh:
                opened = fresh.opened.seconds
                (first,) = fresh.ask("predict", **wanted, seconds=0)
            found = _timing(entrant, own, "end_to_end", views=protocol.views)
        except I3DError as error:
            entrant.notes.append(f"not measured from the file: {error}")
            continue
        timed_stages = stages[entrant.name][len(own.warmup) :]
        measured.end_to_end[entrant.name] = EndToEnd(
            video=path.name,
            frames=admitted.video_frames,
            open=opened,
            first=first,
            timing=found,
            stages=timing.median_stages(timed_stages),
            overlap=timing.overlap(timed_stages, own.rounds),
        )


def _profile(admitted: Admitted, plan: Plan, measured: _Measured, on_step: Report) -> None:
    for entrant in admitted.entrants:
        on_step(f"profiling: {entrant.name}")
        batch = min(entrant.batch(plan), admitted.protocol.views)
        try:
            measured.layers[entrant.name] = entrant.worker.slowest_layers(
                admitted.views, batch=batch, runs=_PROFILE_RUNS, count=_SLOWEST_LAYERS
            )
        except I3DError as error:
            entrant.notes.append(f"not profiled: {error}")


def _record(admitted: Admitted, plan: Plan, measured: _Measured, *, clock_at_start: float | None) -> Record:
    timed = (entrant for entrant in admitted.entrants if entrant.name in measured.model)
    results = tuple(_result(entrant, admitted, plan, measured) for entrant in timed)
    failures = admitted.failures + tuple(
        Failure(artifact=name, reason=reason) for name, reason in measured.failures.items()
    )
    if not results:
        raise I3DError(f"nothing was measured: {'; '.join(f'{entry.artifact}: {entry.reason}' for entry in failures)}")
    return Record(
        i3d_deploy=__version__,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=meters.machine(clock_at_start=clock_at_start),
        versions=doctor.installed_versions(),
        protocol=admitted.protocol,
        videos_per_second=max(result.videos_per_second for result in results),
        results=results,
        ratios=_ratios(measured),
        failures=failures,
        ceilings=measured.ceilings,
        sweeps=measured.sweeps,
    )


def _ratios(measured: _Measured) -> tuple[Ratio, ...]:
    """Of every pair, the later one of the two against the earlier one."""
    pairs = itertools.combinations(measured.rounds.items(), 2)
    return tuple(timing.ratio(name, rounds, against, others) for (against, others), (name, rounds) in pairs)


def _result(entrant: Entrant, admitted: Admitted, plan: Plan, measured: _Measured) -> Result:
    opened, info = entrant.opened, entrant.opened.info
    model, memory = measured.model[entrant.name], measured.memory[entrant.name]
    host = memory["host"]
    assert host is not None, "the system always tells the peak of the host"
    return Result(
        artifact=entrant.name,
        runner=opened.runner,
        backend=info.backend,
        provider=info.provider,
        device=info.device,
        precision=info.precision,
        threads=info.threads,
        batch=entrant.batch(plan),
        network=opened.card.network.name,
        card_sha256=opened.card_sha256,
        difference=entrant.difference,
        difference_allowed=entrant.difference_allowed,
        videos_per_second=model.videos_per_second,
        model=model,
        end_to_end=measured.end_to_end.get(entrant.name),
        peak_host_bytes=host,
        peak_device_bytes=memory["device"],
        roofline=_roofline(entrant, admitted, model, measured.ceilings),
        slowest_layers=measured.layers.get(entrant.name, ()),
        notes=tuple(entrant.notes),
    )


def _roofline(entrant: Entrant, admitted: Admitted, model: Timing, found: tuple[Ceiling, ...]) -> Roofline | None:
    if entrant.opened.work is None:
        return None
    return roofline(
        entrant.opened.work,
        precision=entrant.opened.info.precision,
        views=admitted.protocol.views,
        seconds=model.median,
        ceilings=ceilings.on_device(found, entrant.opened.info.device),
    )
