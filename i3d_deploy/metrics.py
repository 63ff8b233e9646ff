"""How well scores fit labels: the metrics of the zoo, with its names and its values.

All are fractions from 0 to 1. Scores are (N, K) floats, one row per video, of which only the order within a row counts
(within a column as well for :func:`mean_average_precision`).

Source: mmaction2 0.24.1 mmaction/core/evaluation/accuracy.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from i3d_deploy.errors import InputError

Scores = NDArray[np.floating[Any]]
"""(N, K), one row per video."""

Normalize = Literal["true", "pred", "all"]

METRICS = ("top_k_accuracy", "mean_class_accuracy", "mean_average_precision", "mmit_mean_average_precision")
"""Names that :func:`evaluate` takes."""

SINGLE_LABEL_METRICS = ("top_k_accuracy", "mean_class_accuracy")
"""Those that need one label per video."""


def evaluate(scores: Scores, labels: Sequence[tuple[int, ...]], names: Sequence[str]) -> dict[str, float]:
    """Compute several metrics.

    Args:
        scores: (N, K) finite.
        labels: The classes of each video, one or several, in [0, K).
        names: Of :data:`METRICS`.

    Returns:
        By name, in the order asked for; "top_k_accuracy" gives ``top1_acc`` and ``top5_acc``.

    Raises:
        InputError: A name is unknown or needs one label per video, or scores and labels do not fit each other.
    """
    check(names, labels)
    _check_scores(scores, len(labels))
    num_classes = scores.shape[1]
    outside = sorted({label for video in labels for label in video if not 0 <= label < num_classes})
    if outside:
        raise InputError(f"label {outside[0]} is not one of {num_classes} classes, which are numbered from 0")
    matrix_metrics: dict[str, Callable[[Scores, NDArray[np.uint8]], float]] = {
        "mean_average_precision": mean_average_precision,
        "mmit_mean_average_precision": mmit_mean_average_precision,
    }
    found: dict[str, float] = {}
    for name in names:
        if name == "top_k_accuracy":
            found["top1_acc"], found["top5_acc"] = top_k_accuracy(scores, [video[0] for video in labels])
        elif name == "mean_class_accuracy":
            found[name] = mean_class_accuracy(scores, [video[0] for video in labels])
        else:
            found[name] = matrix_metrics[name](scores, to_matrix(labels, num_classes=num_classes))
    return found


def check(names: Sequence[str], labels: Sequence[tuple[int, ...]]) -> None:
    """Whether metrics can be computed of labels, before hours are spent on the scores.

    Raises:
        InputError: A name is unknown, a video has no label, or several where the metric needs one.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise InputError(f"metric {unknown[0]!r} is not one of {', '.join(METRICS)}")
    if not all(labels):
        raise InputError(f"video {[bool(video) for video in labels].index(False)} has no label")
    several = max(map(len, labels), default=1)
    needing_one = [name for name in names if name in SINGLE_LABEL_METRICS]
    if several > 1 and needing_one:
        raise InputError(
            f"{needing_one[0]} needs one label per video, and one of these has {several}: take "
            f"{' or '.join(name for name in METRICS if name not in SINGLE_LABEL_METRICS)}"
        )


def to_matrix(labels: Sequence[tuple[int, ...]], *, num_classes: int) -> NDArray[np.uint8]:
    """Write labels as an (N, K) matrix of 0 and 1.

    Args:
        labels: The classes of each video, in [0, K).
        num_classes: K.
    """
    matrix = np.zeros((len(labels), num_classes), np.uint8)
    for row, video in zip(matrix, labels, strict=True):
        row[list(video)] = 1
    return matrix


def top_k_accuracy(scores: Scores, labels: Sequence[int], k: Sequence[int] = (1, 5)) -> tuple[float, ...]:
    """Share of videos whose label is among the k largest scores.

    Args:
        scores: (N, K).
        labels: N classes in [0, K).
        k: Each at least 1. More than K count as K: every label is then among them.

    Returns:
        One share per k. Of equal scores, the class of the higher number counts as the larger one.

    Raises:
        InputError: k is out of range, or scores and labels do not fit each other.
    """
    _check_scores(scores, len(labels))
    if min(k, default=1) < 1:
        raise InputError(f"k ({min(k)}) must be > 0")
    ascending = np.argsort(scores, axis=1, kind="stable")
    is_label = ascending == np.asarray(labels)[:, None]
    return tuple(float(is_label[:, -count:].any(axis=1).sum() / len(labels)) for count in k)


def mean_class_accuracy(scores: Scores, labels: Sequence[int]) -> float:
    """Mean of the classes' own shares of right videos, over the classes that occur as label or prediction.

    A class that is predicted and never occurs as label counts as 0, as in the original. Of equal scores the class of
    the lower number is the prediction.

    Args:
        scores: (N, K).
        labels: N classes in [0, K).

    Raises:
        InputError: Scores and labels do not fit each other.
    """
    _check_scores(scores, len(labels))
    return float(np.mean(np.diag(confusion_matrix(scores.argmax(axis=1), labels, normalize="true"))))


def occurring(predicted: Sequence[int] | NDArray[Any], true: Sequence[int] | NDArray[Any]) -> NDArray[Any]:
    """The classes that occur in either, ascending: the rows and columns of :func:`confusion_matrix`."""
    return np.unique(np.concatenate([np.asarray(predicted, np.int64), np.asarray(true, np.int64)]))


def confusion_matrix(
    predicted: Sequence[int] | NDArray[Any], true: Sequence[int] | NDArray[Any], normalize: Normalize | None = None
) -> NDArray[Any]:
    """Count which class was taken for which.

    Args:
        predicted: N classes.
        true: N classes.
        normalize: Divide by the sum of the row ("true"), of the column ("pred") or of the whole ("all"); where that is
            0, the result is 0. None: int64 counts.

    Returns:
        (C, C) with true classes as rows and predicted ones as columns, of the :func:`occurring` classes only.

    Raises:
        InputError: The two are not of one length, or ``normalize`` is unknown.
    """
    if len(predicted) != len(true):
        raise InputError(f"{len(predicted)} predictions for {len(true)} labels")
    classes = occurring(predicted, true)
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (np.searchsorted(classes, true), np.searchsorted(classes, predicted)), 1)
    if normalize is None:
        return counts
    if normalize not in ("true", "pred", "all"):
        raise InputError(f"normalize {normalize!r} is not one of true, pred, all")
    sums = counts.sum(axis={"true": 1, "pred": 0, "all": None}[normalize], keepdims=True)
    return np.asarray(counts / np.maximum(sums, 1))


def mean_average_precision(scores: Scores, matrix: NDArray[Any]) -> float:
    """Mean over the classes of the average precision of their videos.

    Args:
        scores: (N, K).
        matrix: (N, K) of 0 and 1: which classes each video shows. Classes that no video shows are left out.

    Raises:
        InputError: Scores and matrix do not fit each other, or no video shows any class.
    """
    _check_matrix(scores, matrix)
    return _mean_of_average_precisions(scores.T, matrix.T, what="class")


def mmit_mean_average_precision(scores: Scores, matrix: NDArray[Any]) -> float:
    """Mean over the videos of the average precision of their classes, as Multi-Moments in Time is evaluated.

    Args:
        scores: (N, K).
        matrix: (N, K) of 0 and 1: which classes each video shows. Videos that show none are left out.

    Raises:
        InputError: Scores and matrix do not fit each other, or no video shows any class.
    """
    _check_matrix(scores, matrix)
    return _mean_of_average_precisions(scores, matrix, what="video")


def _mean_of_average_precisions(scores: Scores, matrix: NDArray[Any], *, what: str) -> float:
    found = [_average_precision(row, is_true == 1) for row, is_true in zip(scores, matrix, strict=True)]
    shown = [precision for precision in found if precision is not None]
    if not shown:
        raise InputError(f"no {what} has a label, so there is no average precision")
    return float(np.mean(shown))


def _average_precision(scores: NDArray[Any], is_true: NDArray[np.bool_]) -> float | None:
    """Area under the step curve of precision over recall; None where nothing is true."""
    if not is_true.any():
        return None
    order = np.argsort(scores, kind="stable")[::-1]
    scores, is_true = scores[order], is_true[order]
    # Equal scores share a threshold: the curve has a point after the last of them.
    last_of_equal = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    hits = np.cumsum(is_true)[last_of_equal]
    precision = hits / (1 + last_of_equal)
    recall = hits / hits[-1]
    # From full recall downwards to none, in the original's order of summation.
    end = hits.searchsorted(hits[-1])
    return float(-np.sum(np.diff(np.append(recall[end::-1], 0)) * precision[end::-1]))


def _check_matrix(scores: Scores, matrix: NDArray[Any]) -> None:
    if scores.shape != matrix.shape:
        raise InputError(f"scores of shape {scores.shape} for labels of shape {matrix.shape}: they must be the same")


def _check_scores(scores: Scores, num_labels: int) -> None:
    if scores.ndim != 2 or scores.shape[1] == 0 or len(scores) == 0:
        raise InputError(f"scores must be of shape (N, K) with N and K > 0, not {scores.shape}")
    if len(scores) != num_labels:
        raise InputError(f"{len(scores)} rows of scores for the labels of {num_labels} videos")
    if not np.isfinite(scores).all():
        raise InputError(f"{np.count_nonzero(~np.isfinite(scores))} scores are not finite")
