"""Agreement without labels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from i3d_deploy import agreement
from i3d_deploy.errors import ArtifactError


def test_the_divergence_is_that_of_the_definition() -> None:
    # Probabilities 1/2, 1/2 against 1/4, 3/4, the second ones shifted as logits may be.
    reference = np.array([[0.0, 0.0]], np.float32)
    logits = np.array([[5.0, 5.0 + math.log(3)]], np.float32)
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert agreement.kl_divergence(reference, logits) == pytest.approx([expected], rel=1e-6)
    assert agreement.kl_divergence(reference, reference) == pytest.approx([0])


def test_large_logits_overflow_nothing() -> None:
    reference = np.array([[1000.0, 0.0]], np.float32)
    logits = np.array([[0.0, 1000.0]], np.float32)
    assert agreement.kl_divergence(reference, logits) == pytest.approx([1000])


def test_agreement_counts_first_classes() -> None:
    reference = np.eye(4, dtype=np.float32)
    logits = reference.copy()
    logits[3] = [2, 0, 0, 1]
    found = agreement.compare(reference, logits, runner="some runner")
    assert (found.num_views, found.top1, found.runner) == (4, 75.0, "some runner")
    assert found.kl_divergence > 0
    assert agreement.compare(reference, reference, runner="same").kl_divergence == 0


def test_infinite_logits_are_refused() -> None:
    with pytest.raises(ArtifactError, match=r"1 logits on the calibration clips are not finite"):
        agreement.compare(np.zeros((1, 2), np.float32), np.array([[0, np.inf]], np.float32), runner="r")
