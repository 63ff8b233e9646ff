"""The proof: does an artifact answer as its source does, from the video file on?

The source is the PyTorch network in float32, before any folding. Both sides start from the file and follow their own
card, and they are compared stage by stage: frame indices (equal), uint8 views (equal), logits (within a limit), and
averaged probabilities.

Note [Limits on logits]
    Rounding errors are proportional to the size of what is rounded, so a limit holds for logits of standard deviation
    up to 1 and grows with it beyond; filled and random weights give 0.5 to 1, trained ones 2 to 3.

    ======== ======= =============================================================================================
    fp32     1e-4    sums in another order; R50 with filled weights measures 2e-6
    fp16     2e-2    11 bits of mantissa
    bf16     1.6e-1  8 bits of mantissa: three fewer than fp16, so 2**3 times its limit
    ======== ======= =============================================================================================

    Non-local networks compare positions by inner products whose softmax magnifies differences: their fp32 limits are
    those within which the original agrees with itself in float64 (goldens: dot_product and embedded_gaussian 1e-3,
    gaussian 5e-3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import files, generated, views
from i3d_deploy.card import Card, Parity, Precision
from i3d_deploy.network import NonLocalMode
from i3d_deploy.recognizer import Recognizer, average_views

LOGITS_LIMITS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1.6e-1}
NON_LOCAL_LIMITS: dict[NonLocalMode, float] = {"dot_product": 1e-3, "embedded_gaussian": 1e-3, "gaussian": 5e-3}


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
        prepared: Indices, boxes and frames.
        logits: (V, K) float32.
        probabilities: (K,) float32.
    """

    prepared: views.Views
    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]


def given_clips(paths: Sequence[Path]) -> tuple[Clip, ...]:
    """Name video files by their contents."""
    return tuple(Clip(path=path, name=f"given {files.sha256(path)}") for path in paths)


def generated_clip(folder: Path) -> Clip:
    """Write the generated clip into a folder."""
    path = folder / "generated.mp4"
    generated.write_clip(path)
    return Clip(path=path, name=f"generated {files.sha256(path)}")


def answer(
    recognizer: Recognizer,
    clip: Clip,
    *,
    num_clips: int | None = None,
    on_views: Callable[[int, int], None] | None = None,
) -> Answer:
    """Run one side from the file on.

    Args:
        recognizer: Source or artifact.
        clip: The video.
        num_clips: Fewer clips than the card's, to be quicker.
        on_views: Called with (views done, views in all).
    """
    prepared = views.prepare(clip.path, recognizer.card, clips=num_clips)
    logits = recognizer.logits(prepared, on_views=on_views)
    probabilities = average_views(logits, over=recognizer.card.averaging)
    return Answer(prepared=prepared, logits=logits, probabilities=probabilities)


def logits_limit(card: Card, reference: NDArray[np.float32]) -> float:
    """How far an artifact's logits may be from its source's: Note [Limits on logits].

    Args:
        card: The artifact's.
        reference: (V, K) logits of the source.
    """
    limit = LOGITS_LIMITS["fp32" if card.engine is None else card.engine.precision]
    if card.network.non_local_mode is not None:
        limit = max(limit, NON_LOCAL_LIMITS[card.network.non_local_mode])
    return limit * max(1.0, float(reference.std()))


def compare(
    references: Sequence[Answer],
    recognizer: Recognizer,
    clips: Sequence[Clip],
    *,
    num_clips: int | None = None,
    on_views: Callable[[int, int], None] | None = None,
) -> Parity:
    """Hold an artifact against its source's answers.

    Args:
        references: The source's answers, one per clip.
        recognizer: The artifact.
        clips: The clips that were answered.
        num_clips: As the references were made with.
        on_views: Called with (views done, views in all).

    Returns:
        The figures, "passed" or "failed" with the first stage that failed. They are rounded up to two digits, so that
        the card says nothing that a repeated run would not.
    """
    name = str(recognizer.info)
    clip_names = tuple(clip.name for clip in clips)
    found: list[Answer] = []
    for clip, reference in zip(clips, references, strict=True):
        ours = answer(recognizer, clip, num_clips=num_clips, on_views=on_views)
        problem = _first_difference(reference.prepared, ours.prepared)
        if problem is not None:
            return Parity(runner=name, status="failed", reason=problem, clips=clip_names)
        found.append(ours)
    expected = np.concatenate([reference.logits for reference in references])
    logits = np.concatenate([ours.logits for ours in found])
    limit = logits_limit(recognizer.card, expected)
    if not np.isfinite(logits).all():
        reason = f"logits: {np.count_nonzero(~np.isfinite(logits))} are not finite"
        return Parity(runner=name, status="failed", reason=reason, clips=clip_names, max_logits_allowed=_up(limit))
    difference = float(np.abs(logits - expected).max())
    has_passed = difference <= limit
    return Parity(
        runner=name,
        status="passed" if has_passed else "failed",
        reason=None if has_passed else f"logits: differ by {difference:.2g}, allowed {limit:.2g}",
        clips=clip_names,
        num_views=len(logits),
        max_logits=_up(difference),
        max_logits_allowed=_up(limit),
        cosine=_smallest_cosine(logits, expected),
        top1_agreement=float((logits.argmax(1) == expected.argmax(1)).mean()),
        max_probabilities=_up(
            max(
                float(np.abs(ours.probabilities - reference.probabilities).max())
                for ours, reference in zip(found, references, strict=True)
            )
        ),
    )


def _first_difference(reference: views.Views, ours: views.Views) -> str | None:
    if reference.indices.shape != ours.indices.shape or (reference.indices != ours.indices).any():
        return "indices: the artifact's card chooses other frames than the checkpoint's"
    if len(reference) != len(ours):
        return f"views: {len(ours)} instead of {len(reference)}"
    for expected, found in zip(reference.batches(1), ours.batches(1), strict=True):
        if expected.shape != found.shape or (expected != found).any():
            return "views: the artifact's card cuts other pixels than the checkpoint's"
    return None


def _smallest_cosine(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    ours, theirs = logits.astype(np.float64), expected.astype(np.float64)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = float(((ours * theirs).sum(axis=1) / np.maximum(norms, 1e-30)).min())
    return round(min(cosine, 1.0), 8)


def _up(number: float) -> float:
    """Round up to two significant digits."""
    if number == 0 or not np.isfinite(number):
        return number
    unit = 10.0 ** (np.floor(np.log10(number)) - 1)
    return float(f"{np.ceil(number / unit) * unit:.1e}")
