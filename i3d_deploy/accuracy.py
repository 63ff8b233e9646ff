"""The gate on accuracy: an engine may lose only so much of its source's top-1 on a labelled list.

Both are evaluated with the test pipeline of the card, from the video files on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from i3d_deploy import evaluation, lists, video
from i3d_deploy.card import Card
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.journal import Journal
from i3d_deploy.lists import Annotation
from i3d_deploy.measurements import Accuracy, Gate
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.results import OF_THE_CARD, Plan, Result

DEFAULT_MAX_DROP = 0.5
"""In percentage points."""

_MAX_NAMED_VIDEOS = 10

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What an export must reach.

    Attributes:
        listed: A list of labelled videos, ``path label`` a line, paths starting from the list's folder.
        max_drop: Percentage points of top-1 that an engine may lose.
    """

    listed: Path
    max_drop: float = DEFAULT_MAX_DROP

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 100:
            raise InputError(f"max_drop ({self.max_drop}) must be 0 to 100 percentage points")


def plan(card: Card, listed: Path) -> Plan:
    """What is evaluated: a list, as a card says.

    Args:
        card: The source's.
        listed: As for :class:`Wanted`.

    Raises:
        InputError: The list cannot be read, a label is not one of the card's classes, or a video has several.
        VideoError: Videos cannot be opened; the message names them.
    """
    annotations = lists.read(listed, kind="video", root=listed.parent, num_classes=card.network.num_classes)
    _check_videos(annotations, listed)
    averaging = next(ours for ours, theirs in OF_THE_CARD.items() if theirs == card.averaging)
    return Plan(
        annotations=annotations,
        labels=card.labels,
        sampling=card.sampling,
        spatial=card.spatial,
        pixels=card.pixels,
        averaging=averaging,
        listed=listed,
        source={"kind": "video"},
    )


def evaluate(recognizer: Recognizer, planned: Plan, *, on_step: Report = lambda text: None) -> Accuracy:
    """Evaluate a network on a list.

    Args:
        recognizer: The network.
        planned: From :func:`plan`.
        on_step: Called with a line after every video.

    Raises:
        VideoError: Videos cannot be read; the message names them.
        ArtifactError: The network's answer is not finite.
    """
    listener = _Steps(on_step, f"accuracy of {recognizer.info.backend} on {planned.listed.name}")
    with tempfile.TemporaryDirectory(prefix="i3d-accuracy-") as scratch:
        journal = Journal(Path(scratch) / "journal", {"list": planned.listed.name})
        result = evaluation.evaluate(recognizer, planned, journal, listener=listener)
    assert result is not None, "there is one process"
    _require_all(result)
    found = result.metrics(["top_k_accuracy", "mean_class_accuracy"])
    return Accuracy(
        data=planned.listed.stem,
        runner=recognizer.ran_by,
        num_videos=len(planned.annotations),
        views_per_video=planned.num_views,
        top1=100 * found["top1_acc"],
        top5=100 * found["top5_acc"],
        mean_class=100 * found["mean_class_accuracy"],
    )


def judge(source: Accuracy, engine: Accuracy, *, max_drop: float) -> Gate:
    """Hold an engine's accuracy against its source's.

    Args:
        source: Of the float32 source.
        engine: Of the engine, on the same list.
        max_drop: Percentage points of top-1 that it may lose.
    """
    assert source.top1 is not None and engine.top1 is not None
    # Percentages of counts: what is left of a difference below a billionth is rounding.
    drop = round(source.top1 - engine.top1, 9)
    reason = None
    if drop > max_drop:
        reason = (
            f"top-1 on {engine.data} drops by {drop:.2f} points from {source.top1:.2f} % to {engine.top1:.2f} %, "
            f"allowed {max_drop:g}"
        )
    return Gate(
        data=engine.data,
        status="passed" if reason is None else "failed",
        reason=reason,
        max_drop=max_drop,
        source_top1=source.top1,
        top1=engine.top1,
    )


def without_gate(card: Card) -> Card:
    """The card as it was before a gate: of the accuracies, only those that others measured stay."""
    gate = card.gate
    if gate is None:
        return card
    kept = (
        entry for entry in card.accuracy if entry.data != gate.data or entry.top1 not in (gate.source_top1, gate.top1)
    )
    return card.model_copy(update={"accuracy": tuple(kept), "gate": None})


def _check_videos(annotations: Sequence[Annotation], listed: Path) -> None:
    """Open every video, since it may take hours until its turn comes."""
    broken: list[tuple[str, str]] = []
    for entry in annotations:
        assert isinstance(entry.source, Path), "a list of videos names no folders of frames"
        try:
            video.check(entry.source)
        except VideoError as error:
            broken.append((entry.name, str(error)))
    _require_none(broken, of=len(annotations), listed=listed)


def _require_all(result: Result) -> None:
    broken = [(result.plan.annotations[entry.index].name, str(entry.error)) for entry in result.broken]
    _require_none(broken, of=len(result.entries), listed=result.plan.listed)


def _require_none(broken: Sequence[tuple[str, str]], *, of: int, listed: Path) -> None:
    """Refuse videos that cannot be read, each given with the reason."""
    if not broken:
        return
    names = [name for name, _ in broken]
    more = f" and {len(names) - _MAX_NAMED_VIDEOS} more" if len(names) > _MAX_NAMED_VIDEOS else ""
    raise VideoError(
        f"{len(names)} of {of} videos of {listed} cannot be read, so there is no accuracy: "
        f"{', '.join(names[:_MAX_NAMED_VIDEOS])}{more}; mend them or take them off the list "
        f"(the first: {broken[0][1]})"
    )


class _Steps:
    """Turns what an evaluation tells into lines."""

    def __init__(self, on_step: Report, what: str) -> None:
        self._on_step = on_step
        self._what = what

    def note(self, text: str) -> None:
        self._on_step(text)

    def failure(self, text: str) -> None:
        self._on_step(text)

    def video(self, done: int, total: int, top1: float | None) -> None:
        shown = "" if top1 is None else f", top-1 {top1:.1%}"
        self._on_step(f"{self._what}: video {done} of {total}{shown}")
