"""What an artifact is held against before it appears: its source's answers, computed once for all artifacts.

Three questions, of which the last two are asked where clips to calibrate on, or a labelled list, were given: does it
answer as its source does (``parity``), does it agree with it on the calibration clips (``agreement``), and is it as
accurate (``accuracy``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import accuracy, agreement, doctor, parity, views
from i3d_deploy.calibration import Clips
from i3d_deploy.card import Card
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import ArtifactError, DeviceError, MissingExtraError
from i3d_deploy.flow_cache import FlowCache
from i3d_deploy.frames import Nobody, Resized
from i3d_deploy.measurements import Accuracy, Gate, Parity, Status
from i3d_deploy.parity import Answer, Clip
from i3d_deploy.recognizer import Recognizer, load
from i3d_deploy.results import Plan
from i3d_deploy.runners.torch_runner import TorchRunner
from i3d_deploy.sampling import Indices

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """The source's answers on the calibration clips.

    Attributes:
        clips: The clips.
        logits: (V, K) float32.
    """

    clips: Clips
    logits: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Standard:
    """What the source reaches on a labelled list.

    Attributes:
        plan: What is evaluated.
        max_drop: Percentage points of top-1 that an artifact may lose.
        accuracy: The source's.
    """

    plan: Plan
    max_drop: float
    accuracy: Accuracy


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The source's side.

    Attributes:
        clips: The videos.
        references: The source's answers on them.
        num_clips: Clips of each video that were compared.
        flow_cache: Where the optical flow of the videos is, so that it is computed once for all.
        calibrated: Its answers on the calibration clips, if there are any.
        standard: Its accuracy, if a list was given.
    """

    clips: tuple[Clip, ...]
    references: tuple[Answer, ...]
    num_clips: int | None
    flow_cache: FlowCache | None = None
    calibrated: Calibrated | None = None
    standard: Standard | None = None


def answer(
    source: Checkpoint,
    *,
    clips: Sequence[Clip],
    num_clips: int | None,
    on_step: Report,
    flow_cache: FlowCache | None = None,
) -> Proof:
    """Run the source on the videos of the proof.

    Args:
        source: The checkpoint.
        clips: The videos.
        num_clips: Clips of each video; None: as many as the card has.
        on_step: Called with a line as views are done.
        flow_cache: Where the optical flow of the videos is kept.
    """
    if source.card.sampling.scheme == "whole":
        num_clips = None
    # On the CPU, the same on every machine.
    recognizer = Recognizer(TorchRunner(source, device="cpu"))
    references = []
    for clip in clips:
        report = views_report(on_step, f"PyTorch float32 on {clip.path.name}")
        watcher = _FlowReport(on_step, f"optical flow by {source.card.flow_method} of {clip.path.name}")
        prepared = views.prepare(
            clip.path,
            source.card,
            clips=num_clips,
            flow_cache=flow_cache,
            watcher=None if source.card.flow_method is None else watcher,
        )
        references.append(parity.answer(recognizer, prepared, on_views=report))
    return Proof(clips=tuple(clips), references=tuple(references), num_clips=num_clips, flow_cache=flow_cache)


class _FlowReport(Nobody):
    """Tells how many flow frames are computed, of which one may take a second."""

    def __init__(self, on_step: Report, text: str) -> None:
        self._on_step = on_step
        self._text = text
        self._done = self._total = 0

    def planned(self, indices: Indices) -> None:
        """Begin to count."""
        self._done, self._total = 0, len(np.unique(indices))

    def decoded(self, index: int, frame: Resized) -> None:
        """Count one."""
        self._done += 1
        self._on_step(f"{self._text}: {self._done} of {self._total} frames")


def extend(
    proof: Proof, source: Checkpoint, *, calibrate: Clips | None, plan: Plan | None, max_drop: float, on_step: Report
) -> Proof:
    """Run the source on what else an artifact is held against, on the GPU where there is one.

    Args:
        proof: From :func:`answer`.
        source: The checkpoint.
        calibrate: The calibration clips.
        plan: The labelled list.
        max_drop: Percentage points of top-1 that an artifact may lose.
        on_step: Called with a line as views and videos are done.
    """
    if calibrate is None and plan is None:
        return proof
    # A copy, because the source is written and traced where it is.
    recognizer = Recognizer(TorchRunner(replace(source, model=copy.deepcopy(source.model)), device="auto"))
    if calibrate is not None:
        report = views_report(on_step, "PyTorch float32 on the calibration clips")
        logits = agreement.answers(recognizer, calibrate, source.card, on_views=report)
        if not np.isfinite(logits).all():
            raise ArtifactError("logits of the checkpoint on the calibration clips are not finite: it is damaged")
        proof = replace(proof, calibrated=Calibrated(clips=calibrate, logits=logits))
    if plan is not None:
        reached = accuracy.evaluate(recognizer, plan, on_step=on_step)
        proof = replace(proof, standard=Standard(plan=plan, max_drop=max_drop, accuracy=reached))
    return proof


def examine(path: Path, card: Card, *, proof: Proof, on_step: Report) -> Card:
    """Hold an artifact against its source, if this machine can run it.

    Args:
        path: The artifact.
        card: Its card.
        proof: The source's side.
        on_step: Called with a line as views and videos are done.

    Returns:
        The card with what was found. An artifact that fails a question is not asked the next ones.
    """
    try:
        recognizer = load(path)
    except (DeviceError, MissingExtraError) as error:
        return _unmeasured(card, proof, reason=doctor.without_places(str(error).replace(f"{path.parent}/", "")))
    with recognizer:
        report = views_report(on_step, f"{recognizer.info.backend} on {path.name}")
        figures = parity.compare(
            proof.references,
            recognizer,
            proof.clips,
            num_clips=proof.num_clips,
            flow_cache=proof.flow_cache,
            on_views=report,
        )
        card = card.model_copy(update={"parity": (figures,)})
        if figures.status == "failed":
            return card
        card = _with_agreement(card, recognizer, proof.calibrated, on_step=on_step)
        if has_failed(card):
            return card
        return _with_accuracy(card, recognizer, proof.standard, on_step=on_step)


def has_failed(card: Card) -> bool:
    """Whether an artifact failed any question (not having been measured is no failure)."""
    statuses = [entry.status for entry in card.parity]
    return "failed" in statuses or (card.gate is not None and card.gate.status == "failed")


def _unmeasured(card: Card, proof: Proof, *, reason: str) -> Card:
    figures = Parity(runner="none", status="not measured here", reason=reason)
    card = card.model_copy(update={"parity": (figures,)})
    return card if proof.standard is None else _without_accuracy(card, proof.standard, "not measured here", reason)


def _without_accuracy(card: Card, standard: Standard, status: Status, reason: str) -> Card:
    """The source's accuracy alone, and why there is none of the artifact."""
    reached = standard.accuracy
    assert reached.top1 is not None, "lists of the gate have one label a video"
    gate = Gate(data=reached.data, status=status, reason=reason, max_drop=standard.max_drop, source_top1=reached.top1)
    return card.model_copy(update={"accuracy": (*card.accuracy, reached), "gate": gate})


def _with_agreement(card: Card, recognizer: Recognizer, calibrated: Calibrated | None, *, on_step: Report) -> Card:
    if calibrated is None:
        return card
    report = views_report(on_step, f"{recognizer.info.backend} on the calibration clips")
    try:
        logits = agreement.answers(recognizer, calibrated.clips, card, on_views=report)
        found = agreement.compare(calibrated.logits, logits, runner=recognizer.ran_by)
    except ArtifactError as error:
        # An agreement has no status: an artifact without an answer on real clips fails the proof.
        failed = {"status": "failed", "reason": doctor.without_places(str(error))}
        return card.model_copy(update={"parity": tuple(entry.model_copy(update=failed) for entry in card.parity)})
    return card.model_copy(update={"agreement": (found,)})


def _with_accuracy(card: Card, recognizer: Recognizer, standard: Standard | None, *, on_step: Report) -> Card:
    if standard is None:
        return card
    try:
        reached = accuracy.evaluate(recognizer, standard.plan, on_step=on_step)
    except ArtifactError as error:
        return _without_accuracy(card, standard, "failed", doctor.without_places(str(error)))
    gate = accuracy.judge(standard.accuracy, reached, max_drop=standard.max_drop)
    return card.model_copy(update={"accuracy": (*card.accuracy, standard.accuracy, reached), "gate": gate})


def views_report(on_step: Report, what: str) -> Callable[[int, int], None]:
    """A line for every view that is done."""
    return lambda done, total: on_step(f"{what}: view {done} of {total}")
