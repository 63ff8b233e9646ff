"""Resized frames against the original's."""

from __future__ import annotations

import numpy as np
import pytest

from i3d_deploy import resizing
from tests.test_views import PIPELINES, SYNTHETIC, noise, synthetic_video


@pytest.mark.parametrize("name", SYNTHETIC)
def test_resize_equals_the_original(name: str) -> None:
    pixels = synthetic_video(name)
    np.testing.assert_array_equal(pixels.ravel()[:16], PIPELINES[f"{name}/raw_first16"])
    resized = resizing.by_short_side(pixels[0], short_side=256)
    np.testing.assert_array_equal(resized[::16, ::16], PIPELINES[f"{name}/resized_u8_strided"])


def test_frame_of_the_right_size_is_not_resampled() -> None:
    frame = noise(1, 32, 40)[0]
    assert resizing.by_short_side(frame, short_side=32) is frame
