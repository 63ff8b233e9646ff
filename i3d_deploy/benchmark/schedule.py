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

import dataclasses
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
from i3d_deploy.benchmark.turns import Once, Turns, take_turns
from i3d_deploy.benchmark.workers import Subject, Worker
from i3d_deploy.errors import I3DError, InputError

Report = Callable[[str], None]

BUSY = 0.1
"""Share of the processor used by others above which a figure says little."""

_SHARED = (
    "from the file, views that overlap share the stem, which is run once for them, and are cut in compute; model only, "
    "each is run whole"
)
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
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        admitted = admit(subjects, plan, stack=stack, scratch=scratch, on_step=on_step)
        measured = _measure(admitted, plan, scratch=scratch, on_step=on_step)
        return _record(measured)


@dataclass(kw_only=True)
class _Measured:
    """What was measured, by the artifacts' names."""

    admitted: Admitted
    model: dict[str, Timing] = field(default_factory=dict)
    rounds: dict[str, list[list[float]]] = field(default_factory=dict)
    end_to_end: dict[str, EndToEnd] = field(default_factory=dict)
    memory: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    layers: dict[str, tuple[Layer, ...]] = field(default_factory=dict)
    sweeps: tuple[Sweep, ...] = ()
    ceilings: tuple[Ceiling, ...] = ()
    failures: tuple[Failure, ...] = ()
    notes: list[str] = field(default_factory=list)


def _measure(admitted: Admitted, plan: Plan, *, scratch: Path, on_step: Report) -> _Measured:
    measured = _Measured(admitted=admitted)
    measured.notes += plan.departures(admitted.protocol)
    measured.notes += [f"the video: {warning}" for warning in admitted.video_warnings]
    # Before and after: the machine may have drifted, and a ceiling is what it did at its best.
    before = _ceilings(measured, plan, on_step)
    _measure_model(measured, plan, on_step)
    if plan.video is not None:
        _measure_end_to_end(measured, plan, plan.video, on_step)
    for sweep in plan.sweeps:
        try:
            measured.sweeps += sweeps.measure(measured.admitted, sweep, plan, scratch=scratch, on_step=on_step)
        except I3DError as error:  # what was measured before it is kept
            measured.notes.append(f"the sweep over {sweep.over} was not measured: {error}")
    if plan.profiles:
        _profile(measured, on_step)
    measured.ceilings = ceilings.higher(before, _ceilings(measured, plan, on_step))
    return measured


def _ceilings(measured: _Measured, plan: Plan, on_step: Report) -> tuple[Ceiling, ...]:
    if plan.ceiling_seconds == 0:
        return ()
    on_step("measuring what the machine can do")
    entrants = measured.admitted.entrants
    devices = dict.fromkeys(entrant.opened.info.device for entrant in entrants)
    threads = max(entrant.opened.info.threads for entrant in entrants) or None
    found: list[Ceiling] = []
    for device in devices:
        try:
            found += ceilings.measure_apart(device, threads, plan.ceiling_seconds)
        except I3DError as error:
            note = f"what {device} can do was not measured: {error}"
            measured.notes += [] if note in measured.notes else [note]
    return tuple(found)


def _measure_model(measured: _Measured, plan: Plan, on_step: Report) -> None:
    admitted, protocol = measured.admitted, measured.admitted.protocol
    asked = {"views_path": str(admitted.views), "count": protocol.views, "batch": protocol.batch}

    def once(entrant: Entrant, seconds: float, *, counts: bool) -> list[float]:
        times: list[float] = entrant.worker.ask("time", **asked, seconds=seconds, counts=counts)
        return times

    failures, remaining = [], []
    for entrant, own in zip(admitted.entrants, _turns(admitted, once, plan, "model", on_step), strict=True):
        try:
            _require(own)
            on_step(f"memory: {entrant.name}")
            with Worker(entrant.worker.subject) as fresh:
                _ = fresh.opened
                fresh.ask("time", **asked, seconds=0, counts=False)
                measured.memory[entrant.name] = fresh.memory()
            measured.model[entrant.name] = _timing(entrant, own, "model", views=protocol.views)
        except I3DError as error:
            failures.append(Failure(artifact=entrant.name, reason=str(error)))
            continue
        _note_others(entrant, measured.model[entrant.name])
        measured.rounds[entrant.name] = own.rounds
        remaining.append(entrant)
    measured.failures = (*admitted.failures, *failures)
    if not remaining:
        reasons = "; ".join(f"{entry.artifact}: {entry.reason}" for entry in measured.failures)
        raise I3DError(f"nothing was measured: {reasons}")
    measured.admitted = dataclasses.replace(admitted, entrants=tuple(remaining))


def _note_others(entrant: Entrant, model: Timing) -> None:
    """Steady figures of a busy machine look like good ones."""
    if model.others_utilisation is not None and model.others_utilisation > BUSY:
        share = f"{model.others_utilisation:.0%}"
        entrant.notes.append(f"other processes used {share} of the processor meanwhile: measure again without them")


def _require(own: Turns) -> None:
    """That somebody took all turns."""
    if own.reason is not None:
        raise I3DError(own.reason)


def _turns(admitted: Admitted, once: Once[Entrant], plan: Plan, what: str, on_step: Report) -> list[Turns]:
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


def _measure_end_to_end(measured: _Measured, plan: Plan, path: Path, on_step: Report) -> None:
    admitted, protocol = measured.admitted, measured.admitted.protocol
    wanted = {"video_path": str(path), "clips": protocol.clips, "crops": protocol.crops, "batch": protocol.batch}
    stages: dict[str, list[Stages]] = {entrant.name: [] for entrant in admitted.entrants}

    def once(entrant: Entrant, seconds: float, *, counts: bool) -> list[float]:
        times: list[float] = entrant.worker.ask("predict", **wanted, seconds=seconds, counts=counts)
        if counts:
            # In the same turn, so that a drift of the machine meets both.
            found = entrant.worker.ask("stages", **wanted)
            stages[entrant.name].append(Stages(**found["seconds"]))
            if found["is_shared"] and _SHARED not in entrant.notes:
                entrant.notes.append(_SHARED)
        return times

    for entrant, own in zip(admitted.entrants, _turns(admitted, once, plan, "from the file", on_step), strict=True):
        on_step(f"timing a cold start: {entrant.name}")
        try:
            _require(own)
            with Worker(entrant.worker.subject) as fresh:
                opened = fresh.opened.seconds
                (first,) = fresh.ask("predict", **wanted, seconds=0, counts=False)
            found = _timing(entrant, own, "end_to_end", views=protocol.views)
        except I3DError as error:
            entrant.notes.append(f"not measured from the file: {error}")
            continue
        measured.end_to_end[entrant.name] = EndToEnd(
            video=path.name,
            frames=admitted.video_frames,
            open=opened,
            first=first,
            timing=found,
            stages=timing.median_stages(stages[entrant.name]),
            overlap=timing.overlap(stages[entrant.name], own.rounds),
        )


def _profile(measured: _Measured, on_step: Report) -> None:
    admitted = measured.admitted
    for entrant in admitted.entrants:
        on_step(f"profiling: {entrant.name}")
        try:
            layers = entrant.worker.slowest_layers(
                admitted.views, batch=entrant.batch(admitted.protocol), runs=_PROFILE_RUNS, count=_SLOWEST_LAYERS
            )
        except I3DError as error:
            entrant.notes.append(f"not profiled: {error}")
            continue
        measured.layers[entrant.name] = layers
        if not layers:
            entrant.notes.append("not profiled: its backend does not tell the time of layers here")


def _record(measured: _Measured) -> Record:
    admitted = measured.admitted
    results = tuple(_result(entrant, measured) for entrant in admitted.entrants)
    comparable = [result for result in results if result.is_comparable] or results
    return Record(
        i3d_deploy=__version__,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=meters.machine(),
        versions=doctor.installed_versions(),
        protocol=admitted.protocol,
        videos_per_second=max(result.videos_per_second for result in comparable),
        results=results,
        ratios=_ratios(measured),
        failures=measured.failures,
        ceilings=measured.ceilings,
        sweeps=measured.sweeps,
        notes=tuple(measured.notes),
    )


def _ratios(measured: _Measured) -> tuple[Ratio, ...]:
    """Of every pair, the later one of the two against the earlier one."""
    pairs = itertools.combinations(measured.rounds.items(), 2)
    return tuple(timing.ratio(name, rounds, against, others) for (against, others), (name, rounds) in pairs)


def _result(entrant: Entrant, measured: _Measured) -> Result:
    opened, info = entrant.opened, entrant.opened.info
    model = measured.model[entrant.name]
    peak_host_bytes, peak_device_bytes = measured.memory[entrant.name]
    line = _roofline(entrant, measured, model)  # may leave a note
    return Result(
        artifact=entrant.name,
        runner=opened.runner,
        backend=info.backend,
        provider=info.provider,
        device=info.device,
        precision=info.precision,
        threads=info.threads,
        batch=entrant.batch(measured.admitted.protocol),
        network=opened.card.network.name,
        card_sha256=opened.card_sha256,
        is_comparable=opened.is_comparable,
        difference=entrant.difference,
        difference_allowed=entrant.difference_allowed,
        videos_per_second=model.videos_per_second,
        model=model,
        end_to_end=measured.end_to_end.get(entrant.name),
        peak_host_bytes=peak_host_bytes,
        peak_device_bytes=peak_device_bytes,
        roofline=line,
        slowest_layers=measured.layers.get(entrant.name, ()),
        notes=tuple(entrant.notes),
    )


def _roofline(entrant: Entrant, measured: _Measured, model: Timing) -> Roofline | None:
    try:
        work = entrant.worker.work()
    except I3DError as error:
        entrant.notes.append(f"its work was not counted: {error}")
        return None
    if work is None:
        return None
    return roofline(
        work,
        precision=entrant.opened.info.precision,
        views=measured.admitted.protocol.views,
        seconds=model.median,
        ceilings=ceilings.on_device(measured.ceilings, entrant.opened.info.device),
    )
