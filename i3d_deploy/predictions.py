"""What a network says about videos: probabilities of classes, averaged over views, and what speaks for them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import video
from i3d_deploy.card import Averaging
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.evidence import Evidence


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network says about one video.

    Attributes:
        labels: K class names.
        logits: (V, K) float32, one row per view in view order.
        probabilities: (K,) float32, averaged over the views as the card says; sums to 1.
        frames: Frames of the video that decode.
        warnings: What was wrong with the video, one line each.
    """

    labels: tuple[str, ...] = field(repr=False)
    logits: NDArray[np.float32] = field(repr=False)
    probabilities: NDArray[np.float32] = field(repr=False)
    frames: int
    warnings: tuple[str, ...] = ()

    @property
    def views(self) -> int:
        """Number of views that were averaged."""
        return len(self.logits)

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes, best first, as (label, probability)."""
        return [(self.labels[index], float(self.probabilities[index])) for index in self.top_indices(count)]

    def entries(self, count: int = 5) -> list[dict[str, str | int | float]]:
        """The most probable classes, best first, as records have them: ``label``, ``index`` and ``probability``."""
        return [
            {"label": self.labels[index], "index": index, "probability": float(self.probabilities[index])}
            for index in self.top_indices(count)
        ]

    def top_indices(self, count: int = 5) -> list[int]:
        """The most probable classes, best first, by number; equal ones in their order."""
        if count < 1:
            raise InputError(f"top ({count}) must be > 0")
        return [int(index) for index in np.argsort(-self.probabilities, kind="stable")[:count]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one of many videos.

    Attributes:
        source: The video, as it was given.
        result: The prediction, or why the video cannot be read.
    """

    source: video.Source
    result: Prediction | VideoError


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What in a video speaks for a class.

    Attributes:
        prediction: What the network says about the video; logits are equal to those without an explanation up to
            rounding.
        index: The class.
        evidence: What each view says for each class, position by position of the last feature maps, in units of logits:
            :meth:`Evidence.of_class` gives (V, T', H', W') of a class, :meth:`Evidence.on_frames` (H, W) of a frame.
        averaging: How views become one prediction.
        notes: What to know when reading it, one line each.
    """

    prediction: Prediction
    index: int
    evidence: Evidence = field(repr=False)
    averaging: Averaging
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name of the class."""
        return self.prediction.labels[self.index]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probabilities of each row of (V, K) logits, in float64."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def average_views(logits: NDArray[np.float32], *, over: Averaging) -> NDArray[np.float32]:
    """Average the views of one video into one prediction.

    Args:
        logits: (V, K) float32, one row per view, in any order.
        over: Average "probabilities" (after softmax) or "logits" (before it).

    Returns:
        (K,) float32 probabilities that sum to 1.

    Raises:
        InputError: ``logits`` is not two-dimensional, or V is 0.

    Source:
        mmaction2 0.24.1 ``BaseRecognizer.average_clip``; "logits" is its "score", followed by a softmax.
    """
    if logits.ndim != 2 or len(logits) == 0:
        raise InputError(f"logits must be of shape (V, K) with V > 0, not {logits.shape}")
    if over == "logits":
        logits = logits.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32)
    return np.asarray(softmax(logits).mean(axis=0), np.float32)
