"""Averaging over views, and the order of classes."""

from __future__ import annotations

import numpy as np
import pytest

from i3d_deploy.errors import InputError
from i3d_deploy.predictions import Prediction, average_views, softmax
from tests import goldens


def test_averaging_probabilities_is_softmax_first() -> None:
    # softmax rows: (1/4, 3/4) and (1/2, 1/2)
    logits = np.log(np.array([[1, 3], [1, 1]], np.float32))
    np.testing.assert_allclose(average_views(logits, over="probabilities"), [0.375, 0.625], rtol=1e-6)
    # mean logits: (0, log(3)/2); e**that is sqrt(3)
    expected = np.array([1, 3**0.5]) / (1 + 3**0.5)
    np.testing.assert_allclose(average_views(logits, over="logits"), expected, rtol=1e-6)


@pytest.mark.parametrize("clip", ["arm_wrestling", "filling_eyebrows"])
def test_averaging_equals_the_original(clip: str) -> None:
    golden = goldens.load_npz("end_to_end.npz")
    logits = golden[f"i3d_r50/uniform/{clip}/logits_per_view"]
    found = average_views(logits, over="probabilities")
    np.testing.assert_allclose(found, golden[f"i3d_r50/uniform/{clip}/prob"], rtol=0, atol=1e-9)


def test_softmax_survives_large_logits() -> None:
    found = softmax(np.array([[1e4, 0.0]], np.float32))
    assert found.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("logits", [np.zeros((0, 3), np.float32), np.zeros(3, np.float32)])
def test_averaging_no_views_is_an_error(logits: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"logits must be of shape \(V, K\) with V > 0"):
        average_views(logits, over="logits")


def test_top_is_sorted_and_ties_keep_their_order() -> None:
    prediction = Prediction(
        labels=("a", "b", "c", "d"),
        logits=np.zeros((6, 4), np.float32),
        probabilities=np.array([0.2, 0.3, 0.2, 0.3], np.float32),
        frames=3,
    )
    assert [label for label, _ in prediction.top(3)] == ["b", "d", "a"]
    assert prediction.views == 6
    with pytest.raises(InputError, match=r"top \(0\) must be > 0"):
        prediction.top(0)
