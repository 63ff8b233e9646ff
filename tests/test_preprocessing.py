"""What the parts of the card make of a video: frames, crops and scaled pixels."""

from __future__ import annotations

from typing import Any

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


@pytest.mark.parametrize(
    ("changes", "rate", "of_flow", "frames"),
    [
        ({}, None, False, 63),  # 31 steps of 2, and the first frame
        ({}, 50.0, False, 63),  # a card of any rate counts all frames
        ({"frames_per_second": 25.0}, 25.0, False, 63),
        ({"frames_per_second": 25.0}, None, False, 63),
        # 125 frames at 50 are 62.5 at 25, rounded up; 124 are 62.
        ({"frames_per_second": 25.0}, 50.0, False, 125),
        # 31 frames at 12.5 are 62, 32 are 64.
        ({"frames_per_second": 25.0}, 12.5, False, 32),
        # 75 frames at 30 are 62.5 at 25, rounded up; 74 are 61.7.
        ({"frames_per_second": 25.0}, 30.0, False, 75),
        ({"scheme": "whole", "num_clips": 1, "min_clip_len": 9, "frame_interval": 1}, None, False, 9),
        ({"scheme": "whole", "num_clips": 1, "min_clip_len": 9, "frame_interval": 3}, None, False, 25),
        # Each flow frame leads to one more: 64 frames have 63 of them.
        ({}, None, True, 64),
        ({"frames_per_second": 25.0}, 50.0, True, 127),
        # Seven steps of 8 frames at 30 a second, which are 14 at 60.
        ({"formula": "slowfast", "clip_len": 8, "frame_interval": 8, "frames_per_second": 30.0}, 60.0, False, 113),
    ],
)
def test_a_clip_spans_frames_of_the_video(
    changes: dict[str, Any], rate: float | None, of_flow: bool, frames: int
) -> None:
    assert Sampling(**changes).span(rate, of_flow=of_flow) == frames


def test_an_odd_number_of_crops_is_refused() -> None:
    with pytest.raises(InputError, match=r"crops \(2\) must be 1 or 3"):
        Spatial().boxes(256, 340, num_crops=2)


def test_normalize_is_channelwise_and_ncthw() -> None:
    views = np.zeros((1, 2, 4, 4, 3), np.uint8)
    views[..., 1] = 10
    scaled = preprocessing.normalize(views, Pixels(mean=(1, 2, 3), std=(2, 4, 8)))
    assert scaled.shape == (1, 3, 2, 4, 4)
    assert scaled[0, :, 0, 0, 0].tolist() == [-0.5, 2.0, -0.375]
