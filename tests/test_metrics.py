"""Metrics against the original's values on the goldens' scores, and small cases worked out by hand."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from i3d_deploy import metrics
from i3d_deploy.errors import InputError
from i3d_deploy.results import average
from tests import goldens

ARRAYS = goldens.load_npz("metrics.npz")
CASES = {case["tag"]: case for case in goldens.load_json("metrics.json")}
each_case = pytest.mark.parametrize("tag", sorted(CASES))


def scores_of(tag: str) -> NDArray[np.float32]:
    return ARRAYS[f"{tag}/avg"]


def labels_of(tag: str) -> list[int]:
    labels: list[int] = ARRAYS[f"{tag.partition('_')[0]}/labels"].tolist()
    return labels


def sets_of(tag: str) -> list[tuple[int, ...]]:
    return [tuple(np.flatnonzero(row).tolist()) for row in ARRAYS[f"{tag}/multi_labels"]]


@each_case
def test_averages_of_raw_scores_equal_the_original(tag: str) -> None:
    case = CASES[tag]
    shape = (case["n"], case["views"], case["classes"])
    raw = (3 * np.random.RandomState(case["seed"]).standard_normal((shape[0] * shape[1], shape[2]))).astype(np.float32)
    found = np.concatenate([average(video, over=case["mode"]) for video in raw.reshape(shape)])
    assert found.dtype == np.float32
    # The original sums up to 30 float32 numbers of magnitude 10 (logits) or 1 (probabilities) in float32.
    np.testing.assert_allclose(found, scores_of(tag), rtol=1e-6, atol=1e-6)


@each_case
def test_top_k_accuracy_equals_the_original(tag: str) -> None:
    expected = {int(k): share for k, share in CASES[tag]["top_k_accuracy"].items()}
    found = metrics.top_k_accuracy(scores_of(tag), labels_of(tag), k=tuple(expected))
    assert dict(zip(expected, found, strict=True)) == expected


@each_case
def test_mean_class_accuracy_equals_the_original(tag: str) -> None:
    assert metrics.mean_class_accuracy(scores_of(tag), labels_of(tag)) == CASES[tag]["mean_class_accuracy"]


@each_case
def test_mean_average_precisions_equal_the_original(tag: str) -> None:
    case, scores, matrix = CASES[tag], scores_of(tag), ARRAYS[f"{tag}/multi_labels"]
    assert metrics.mean_average_precision(scores, matrix) == pytest.approx(case["mean_average_precision"], rel=1e-14)
    expected = pytest.approx(case["mmit_mean_average_precision"], rel=1e-14)
    assert metrics.mmit_mean_average_precision(scores, matrix) == expected


@each_case
@pytest.mark.parametrize("normalize", [None, "true", "pred", "all"])
def test_confusion_matrix_equals_the_original(tag: str, normalize: Any) -> None:
    expected = ARRAYS.get(f"{tag}/confusion_{normalize}")
    if expected is None:
        assert CASES[tag]["classes"] == 400, "the goldens have matrices of few classes only"
        return
    found = metrics.confusion_matrix(scores_of(tag).argmax(axis=1), labels_of(tag), normalize)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@each_case
def test_evaluate_gives_the_zoos_keys(tag: str) -> None:
    case = CASES[tag]
    single = [(label,) for label in labels_of(tag)]
    assert metrics.evaluate(scores_of(tag), single, ["top_k_accuracy", "mean_class_accuracy"]) == {
        "top1_acc": case["top_k_accuracy"]["1"],
        "top5_acc": case["top_k_accuracy"]["5"],
        "mean_class_accuracy": case["mean_class_accuracy"],
    }
    names = ["mmit_mean_average_precision", "mean_average_precision"]
    found = metrics.evaluate(scores_of(tag), sets_of(tag), names)
    assert list(found) == names
    assert found == pytest.approx({name: case[name] for name in names}, rel=1e-14)


def test_labels_become_a_matrix() -> None:
    assert metrics.to_matrix([(2,), (0, 1)], num_classes=3).tolist() == [[0, 0, 1], [1, 1, 0]]


def test_more_than_all_classes_count_as_all() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]])
    assert metrics.top_k_accuracy(scores, [1, 2]) == (0.5, 1.0)
    assert metrics.top_k_accuracy(scores, [1, 2], k=(2, 3, 400)) == (0.5, 1.0, 1.0)


def test_class_that_is_only_predicted_counts_as_0() -> None:
    # Class 0: one of two right. Class 1: right. Class 2 is predicted once and never true.
    scores = np.eye(3)[[0, 2, 1]]
    assert metrics.mean_class_accuracy(scores, [0, 0, 1]) == pytest.approx((0.5 + 1 + 0) / 3)


def test_confusion_matrix_holds_the_classes_that_occur() -> None:
    predicted, true = [7, 2, 7], [2, 2, 400]
    assert metrics.occurring(predicted, true).tolist() == [2, 7, 400]
    assert metrics.confusion_matrix(predicted, true).tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 0]]
    shares = metrics.confusion_matrix(predicted, true, "true")
    assert shares.tolist() == [[0.5, 0.5, 0], [0, 0, 0], [0, 1, 0]]


def test_average_precision_of_equal_scores_is_their_share() -> None:
    # All four scores are one threshold: precision 1/4 at full recall.
    assert metrics.mmit_mean_average_precision(np.full((1, 4), 0.25), np.array([[0, 0, 1, 0]])) == 0.25
    # Right at ranks 1 and 3: (1/1 + 2/3) / 2.
    scores = np.array([[0.9, 0.8, 0.7, 0.1]])
    found = metrics.mmit_mean_average_precision(scores, np.array([[1, 0, 1, 0]]))
    assert found == pytest.approx(5 / 6)


def test_classes_that_no_video_shows_are_left_out_without_a_warning() -> None:
    scores, matrix = np.array([[0.9, 0.4], [0.2, 0.3]]), np.array([[1, 0], [0, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.mean_average_precision(scores, matrix) == 1
        assert metrics.mmit_mean_average_precision(scores, matrix) == 1


GOOD = np.array([[0.9, 0.1], [0.2, 0.8]])


@pytest.mark.parametrize(
    ("scores", "labels", "names", "message"),
    [
        (GOOD, [(0,), (1,)], ["top_1"], "metric 'top_1' is not one of top_k_accuracy, mean_class_accuracy, mean_av"),
        (GOOD, [(0,), (0, 1)], ["top_k_accuracy"], "top_k_accuracy needs one label per video, and one of these has 2"),
        (GOOD, [(0,), (0, 1)], ["mean_class_accuracy"], "take mean_average_precision or mmit_mean_average_precision"),
        (GOOD, [(0,), ()], ["mean_average_precision"], "video 1 has no label"),
        (GOOD, [(0,)], ["top_k_accuracy"], "2 rows of scores for the labels of 1 videos"),
        (GOOD, [(0,), (2,)], ["top_k_accuracy"], "label 2 is not one of 2 classes, which are numbered from 0"),
        (GOOD[:0], [], ["top_k_accuracy"], r"with N and K > 0, not \(0, 2\)"),
        (GOOD * np.nan, [(0,), (1,)], ["top_k_accuracy"], "4 scores are not finite"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(scores: Any, labels: Any, names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        metrics.evaluate(scores, labels, names)


def test_other_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"k \(0\) must be > 0"):
        metrics.top_k_accuracy(GOOD, [0, 1], k=(1, 0))
    with pytest.raises(InputError, match="2 predictions for 1 labels"):
        metrics.confusion_matrix([0, 1], [0])
    with pytest.raises(InputError, match="normalize 'rows' is not one of true, pred, all"):
        metrics.confusion_matrix([0], [0], "rows")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"scores of shape \(2, 2\) for labels of shape \(2, 3\)"):
        metrics.mean_average_precision(GOOD, np.ones((2, 3)))
    with pytest.raises(InputError, match="no class has a label"):
        metrics.mean_average_precision(GOOD, np.zeros((2, 2)))
