"""The proof: does an artifact answer as its source does, from the video file on?

The source is the PyTorch network in float32, before any folding. Both sides start from the file and follow their own
card, and they are compared stage by stage: labels, scaling and averaging on the cards (equal), frame indices (equal),
uint8 views (equal), logits (within a limit, as the runner takes a video, one view by itself and several at once), and
averaged probabilities (within half of that limit: a probability p moves by at most 2p(1-p) times the largest change of
a logit).

Note [Lengths]
    An engine of open length works out its paddings from the length, which the network halves three times. So of a whole
    video its first 9, 10, ... 16 frames are compared as well: every way in which three halvings can leave a rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import files, generated, limits, views
from i3d_deploy.card import Card
from i3d_deploy.errors import ArtifactError, InputError
from i3d_deploy.flow_cache import FlowCache
from i3d_deploy.measurements import Parity
from i3d_deploy.predictions import average_views
from i3d_deploy.recognizer import Recognizer

LENGTHS = 8
"""Beginnings of a whole video that are compared: Note [Lengths]."""

SEVERAL = 3
"""Views that the proof also runs at once; a video of the smallest proof has as many."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A video file that the proof runs on.

    Attributes:
        path: The file.
        name: What the card calls it: "generated" or "given" and the file's SHA-256; never its path.
    """

    path: Path
    name: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one side makes of one clip.

    Attributes:
        card: Its card.
        prepared: Indices, boxes and frames.
        logits: (V, K) float32.
        probabilities: (K,) float32.
        of_lengths: (L, K) float32, logits of the beginnings of a whole video: Note [Lengths]; none of clips.
    """

    card: Card
    prepared: views.Views
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    of_lengths: NDArray[np.float32]


def given_clips(paths: Sequence[Path]) -> tuple[Clip, ...]:
    """Name video files by their contents.

    Raises:
        InputError: One of them is a folder.
    """
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path} is a folder: the proof runs on video files")
    return tuple(Clip(path=path, name=f"given {files.sha256(path)}") for path in paths)


def generated_clip(folder: Path) -> Clip:
    """Write the generated clip into a folder."""
    path = folder / "generated.mp4"
    generated.write_clip(path)
    return Clip(path=path, name=f"generated {files.sha256(path)}")


def answer(
    recognizer: Recognizer,
    prepared: views.Views,
    *,
    on_views: Callable[[int, int], None] | None = None,
) -> Answer:
    """Run one side on prepared views.

    Args:
        recognizer: Source or artifact.
        prepared: What its card makes of a video.
        on_views: Called with (views done, views in all).
    """
    logits = recognizer.logits(prepared, on_views=on_views)
    return Answer(
        card=recognizer.card,
        prepared=prepared,
        logits=logits,
        probabilities=average_views(logits, over=recognizer.card.averaging),
        of_lengths=_of_lengths(recognizer, prepared),
    )


def _of_lengths(recognizer: Recognizer, prepared: views.Views) -> NDArray[np.float32]:
    """Logits of beginnings of a whole video: Note [Lengths]."""
    card = recognizer.card
    if card.has_fixed_length:
        return np.empty((0, card.network.num_classes), np.float32)
    view = next(prepared.batches(1))
    shortest = min(card.sampling.min_clip_len, view.shape[1])
    lengths = range(shortest, min(shortest + LENGTHS, view.shape[1] + 1))
    return np.concatenate([recognizer.infer(np.ascontiguousarray(view[:, :length])) for length in lengths])


def compare(
    references: Sequence[Answer],
    recognizer: Recognizer,
    clips: Sequence[Clip],
    *,
    num_clips: int | None = None,
    flow_cache: FlowCache | None = None,
    on_views: Callable[[int, int], None] | None = None,
) -> Parity:
    """Hold an artifact against its source's answers.

    Args:
        references: The source's answers, one per clip.
        recognizer: The artifact.
        clips: The clips that were answered.
        num_clips: As the references were made with.
        flow_cache: Likewise.
        on_views: Called with (views done, views in all).

    Returns:
        The figures, "passed" or "failed" with the first stage that failed. They are rounded up to two digits, so that
        the card says nothing that a repeated run would not.
    """
    found: list[Answer] = []
    failed = partial(Parity, runner=recognizer.ran_by, status="failed", clips=tuple(clip.name for clip in clips))
    for clip, reference in zip(clips, references, strict=True):
        problem = card_difference(reference.card, recognizer.card)
        if problem is not None:
            return failed(reason=problem)
        prepared = views.prepare(clip.path, recognizer.card, clips=num_clips, flow_cache=flow_cache)
        problem = _first_difference(reference, prepared)
        if problem is not None:
            return failed(reason=problem)
        found.append(answer(recognizer, prepared, on_views=on_views))
    first = references[0].logits
    of_lengths = [reference.of_lengths for reference in references]
    expected = np.concatenate(
        [*(reference.logits for reference in references), first[:1], first[:SEVERAL], *of_lengths]
    )
    try:
        alone = recognizer.infer(next(found[0].prepared.batches(1)))
    except ArtifactError as error:
        return failed(reason=f"one view by itself: {error}")
    try:
        together = _several_at_once(recognizer, found[0])
    except ArtifactError as error:
        return failed(reason=f"{SEVERAL} views at once: {error}")
    logits = np.concatenate([*(ours.logits for ours in found), alone, together, *(ours.of_lengths for ours in found)])
    limit = limits.logits_limit(recognizer.card, expected)
    if not np.isfinite(logits).all():
        unfinite = np.count_nonzero(~np.isfinite(logits))
        return failed(reason=f"logits: {unfinite} are not finite", max_logits_allowed=_up(limit))
    difference = float(np.abs(logits - expected).max())
    shift = max(_shift(ours, reference) for ours, reference in zip(found, references, strict=True))
    cosine = limits.smallest_cosine(logits, expected)
    is_eight_bits = limits.precision_of(recognizer.card) in limits.EIGHT_BITS
    reason = None
    if difference > limit:
        reason = f"logits: differ by {difference:.2g}, allowed {limit:.2g}"
    elif is_eight_bits and cosine < limits.EIGHT_BITS_COSINE:
        reason = f"logits: their cosine to the source's is {cosine:.3f}, at least {limits.EIGHT_BITS_COSINE} is needed"
    elif not is_eight_bits and shift > limit / 2:
        reason = f"probabilities: differ by {shift:.2g}, allowed {limit / 2:.2g}"
    return Parity(
        runner=recognizer.ran_by,
        status="passed" if reason is None else "failed",
        reason=reason,
        clips=tuple(clip.name for clip in clips),
        num_views=sum(len(ours.logits) for ours in found),
        max_logits=_up(difference),
        max_logits_allowed=_up(limit),
        cosine=cosine,
        top1_agreement=float((logits.argmax(1) == expected.argmax(1)).mean()),
        max_probabilities=_up(shift),
    )


def _shift(ours: Answer, reference: Answer) -> float:
    return float(np.abs(ours.probabilities - reference.probabilities).max())


def _several_at_once(recognizer: Recognizer, ours: Answer) -> NDArray[np.float32]:
    """The first views in one run of the engine, since runners on the CPU otherwise take them one by one."""
    engine = ours.card.engine
    size = SEVERAL if engine is None else min(SEVERAL, engine.profile[2])
    first = next(ours.prepared.batches(SEVERAL))
    return np.concatenate([recognizer.infer(first[start : start + size]) for start in range(0, len(first), size)])


def card_difference(source: Card, card: Card) -> str | None:
    """Why answers need not be compared: the cards are of different things.

    Args:
        source: The card of the checkpoint.
        card: The card of the artifact.

    Returns:
        One line; None where they agree.
    """
    if source.network.name != card.network.name:
        return f"card: the artifact is of {card.network.name}, the checkpoint of {source.network.name}"
    if source.flow_method != card.flow_method:
        return (
            f"card: the artifact's optical flow is by {card.flow_method}, the checkpoint's by {source.flow_method}: "
            "--flow-method says otherwise"
        )
    for part in ("network", "labels", "pixels", "averaging"):
        if getattr(source, part) != getattr(card, part):
            return f"card: the artifact's {part} is not the checkpoint's"
    return None


def _first_difference(reference: Answer, prepared: views.Views) -> str | None:
    if not np.array_equal(reference.prepared.indices, prepared.indices):
        return "indices: the artifact's card chooses other frames than the checkpoint's"
    if len(reference.prepared) != len(prepared):
        return f"views: {len(prepared)} instead of {len(reference.prepared)}"
    for expected, found in zip(reference.prepared.batches(1), prepared.batches(1), strict=True):
        if not np.array_equal(expected, found):
            return "views: the artifact's card cuts other pixels than the checkpoint's"
    return None


def _up(number: float) -> float:
    """Round up to two significant digits."""
    if number == 0 or not np.isfinite(number):
        return number
    unit = 10.0 ** (np.floor(np.log10(number)) - 1)
    return float(f"{np.ceil(number / unit) * unit:.1e}")
