"""Who takes part: artifacts that run here and answer as the first one does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import generated, limits, views
from i3d_deploy.benchmark.ceilings import base_precision
from i3d_deploy.benchmark.plan import Plan
from i3d_deploy.benchmark.record import Failure, Protocol
from i3d_deploy.benchmark.workers import Opened, Subject, Worker
from i3d_deploy.card import Card, Precision
from i3d_deploy.errors import I3DError


@dataclass(kw_only=True)
class Entrant:
    """An artifact that takes part.

    Attributes:
        worker: Its process.
        opened: What it is.
        difference: Largest difference of a logit from the first one's; None where it need not answer alike.
        difference_allowed: The limit.
        notes: What a reader of the record must know.
    """

    worker: Worker
    opened: Opened
    difference: float | None = None
    difference_allowed: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What the record calls it."""
        return self.worker.subject.name

    def batch(self, protocol: Protocol) -> int:
        """Views per run of its engine."""
        return min(protocol.batch or self.opened.preferred_batch, protocol.views)


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """The field of a run.

    Attributes:
        entrants: In the order given; the first is what the others were compared with.
        failures: Who does not run here, or answers otherwise.
        protocol: For the first one's card.
        views: ``.npy`` file of the views that all see.
        video_frames: Frames of the video that they were cut from.
        video_warnings: What was wrong with it.
    """

    entrants: tuple[Entrant, ...]
    failures: tuple[Failure, ...]
    protocol: Protocol
    views: Path
    video_frames: int
    video_warnings: tuple[str, ...] = ()


class WrongAnswerError(I3DError):
    """An artifact answers otherwise than the first one."""


def admit(
    subjects: Sequence[Subject],
    plan: Plan,
    *,
    stack: ExitStack,
    scratch: Path,
    on_step: Callable[[str], None],
) -> Admitted:
    """Open artifacts and hold their answers against the first one's.

    Args:
        subjects: What to open.
        plan: What will be measured.
        stack: Ends the processes.
        scratch: Folder for views and answers.
        on_step: Called with a line as it goes on.

    Raises:
        InputError: The plan does not fit the first artifact.
        VideoError: The video of the plan cannot be read.
        I3DError: Nothing runs here.
    """
    opened, failures = _open(subjects, stack=stack, on_step=on_step)
    card = _first(opened, failures).opened.card
    protocol = plan.protocol(card)
    file = scratch / "views.npy"
    prepared = _views(plan, card, protocol)
    np.save(file, next(prepared.batches(len(prepared))), allow_pickle=False)
    entrants, wrong = _check(opened, card, protocol, file=file, on_step=on_step)
    failures += wrong
    _first(entrants, failures)
    return Admitted(
        entrants=tuple(entrants),
        failures=tuple(failures),
        protocol=protocol,
        views=file,
        video_frames=prepared.num_frames,
        video_warnings=() if plan.video is None else prepared.warnings,
    )


def _open(
    subjects: Sequence[Subject], *, stack: ExitStack, on_step: Callable[[str], None]
) -> tuple[list[Entrant], list[Failure]]:
    entrants, failures = [], []
    for subject in subjects:
        on_step(f"opening: {subject.name}")
        try:
            worker = stack.enter_context(Worker(subject))
            entrants.append(Entrant(worker=worker, opened=worker.opened, notes=list(worker.opened.notes)))
        except I3DError as error:
            failures.append(Failure(artifact=subject.name, reason=str(error)))
    return entrants, failures


def _check(
    opened: Sequence[Entrant], card: Card, protocol: Protocol, *, file: Path, on_step: Callable[[str], None]
) -> tuple[list[Entrant], list[Failure]]:
    """Who answers as the first one does that should answer alike."""
    entrants, failures = [], []
    reference: tuple[Entrant, NDArray[np.float32]] | None = None
    for entrant in opened:
        on_step(f"checking the answer: {entrant.name}")
        try:
            logits = _answer(entrant, card, file, protocol)
            if entrant.opened.is_comparable and reference is not None:
                _compare(entrant, logits, *reference)
        except I3DError as error:
            is_wrong = isinstance(error, WrongAnswerError)
            failures.append(Failure(artifact=entrant.name, reason=str(error), is_wrong=is_wrong))
            entrant.worker.close()
            continue
        if entrant.opened.is_comparable and reference is None:
            reference = entrant, logits
        if protocol.batch is not None and protocol.batch > protocol.views:
            entrant.notes.append(f"a batch of {protocol.batch} was asked for, a video has {protocol.views} views")
        entrants.append(entrant)
    return entrants, failures


def _first(entrants: Sequence[Entrant], failures: Sequence[Failure]) -> Entrant:
    if not entrants:
        reasons = "; ".join(f"{failure.artifact}: {failure.reason}" for failure in failures)
        raise I3DError(f"nothing can be measured: {reasons}")
    return entrants[0]


def _views(plan: Plan, card: Card, protocol: Protocol) -> views.Views:
    """The views of the plan's video, or of the generated clip."""
    source = np.stack(list(generated.frames())) if plan.video is None else plan.video
    if not card.has_fixed_length:
        card = card.replaced(sampling=card.sampling.replaced(scheme="uniform"))
    return views.prepare(source, card, clips=protocol.clips, crops=protocol.crops)


def _answer(entrant: Entrant, card: Card, file: Path, protocol: Protocol) -> NDArray[np.float32]:
    own = entrant.opened.card
    shapes = [(*each.view_shape, each.network.num_classes) for each in (own, card)]
    if shapes[0] != shapes[1]:
        raise I3DError(
            f"it takes {_views_of(own)}, the first artifact takes {_views_of(card)}: measure it in another run"
        )
    output = file.with_name("logits.npy")
    asked = {"views_path": str(file), "count": protocol.views, "batch": protocol.batch, "output": str(output)}
    entrant.worker.ask("answer", **asked)
    logits = np.asarray(np.load(output, allow_pickle=False), np.float32)
    if not np.isfinite(logits).all():
        raise WrongAnswerError(f"{np.count_nonzero(~np.isfinite(logits))} of its logits are not finite")
    return logits


def _views_of(card: Card) -> str:
    frames, height, width, _ = card.view_shape
    return f"{card.modality} views of {frames}x{height}x{width} and gives {card.network.num_classes} classes"


def _compare(entrant: Entrant, logits: NDArray[np.float32], first: Entrant, reference: NDArray[np.float32]) -> None:
    # Each may be off by the limit of its own precision.
    limit = max(
        limits.logits_limit(each.opened.card, reference, computed_in=_computed_in(each)) for each in (first, entrant)
    )
    difference = float(np.abs(logits - reference).max())
    entrant.difference, entrant.difference_allowed = difference, limit
    if difference > limit:
        raise WrongAnswerError(
            f"it answers otherwise than the first artifact: logits differ by {difference:.2g}, allowed {limit:.2g}"
        )


def _computed_in(entrant: Entrant) -> Precision:
    """What it really computes in: other programs choose by themselves."""
    precision = base_precision(entrant.opened.info.precision)
    if precision == "tf32":
        return "fp16"  # as many bits of mantissa
    known: tuple[Precision, ...] = (*limits.LOGITS_LIMITS, *limits.EIGHT_BITS)
    return next((each for each in known if each == precision), "fp32")
