"""What the parts of the card make of a video: frames, crops and scaled pixels."""

from __future__ import annotations

import numpy as np
import pytest

from i3d_deploy import preprocessing
from i3d_deploy.errors import InputError
from i3d_deploy.preprocessing import Pixels, Sampling, Spatial
from tests import goldens


def test_sampling_of_the_card_gives_the_golden_frames() -> None:
    golden = goldens.load_npz("end_to_end.npz")
    uniform = Sampling().frame_indices(280)
    dense = Sampling(scheme="dense").frame_indices(280)
    np.testing.assert_array_equal(uniform.ravel(), golden["i3d_r50/uniform/arm_wrestling/frame_inds"])
    np.testing.assert_array_equal(dense.ravel(), golden["i3d_r50/dense/arm_wrestling/frame_inds"])


def test_an_odd_number_of_crops_is_refused() -> None:
    with pytest.raises(InputError, match=r"crops \(2\) must be 1 or 3"):
        Spatial().boxes(256, 340, num_crops=2)


def test_normalize_is_channelwise_and_ncthw() -> None:
    views = np.zeros((1, 2, 4, 4, 3), np.uint8)
    views[..., 1] = 10
    scaled = preprocessing.normalize(views, Pixels(mean=(1, 2, 3), std=(2, 4, 8)))
    assert scaled.shape == (1, 3, 2, 4, 4)
    assert scaled[0, :, 0, 0, 0].tolist() == [-0.5, 2.0, -0.375]
