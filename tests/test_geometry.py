"""Sizes and boxes against the original implementation."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from i3d_deploy import geometry
from i3d_deploy.errors import InputError
from i3d_deploy.geometry import Box, LazyWindow
from tests import goldens

GEOMETRY = goldens.load_json("geometry.json")
RESIZE = [case for case in GEOMETRY["resize"] if case["keep_ratio"]]
# The originals' defaults where a case is silent.
MULTI_SCALE_OPTIONS = ("scales", "max_wh_scale_gap", "num_fixed_crops", "random_crop")


@pytest.mark.parametrize("case", RESIZE, ids=str)
def test_resized_sizes_equal_the_original(case: dict[str, Any]) -> None:
    width, height = case["in_wh"]
    small, large = min(case["scale"]), max(case["scale"])
    if small == -1:
        size = geometry.short_side_size(height, width, short_side=large)
    else:
        size = geometry.fit_size(height, width, long_side=large, short_side=small)
    assert list(size) == case["out_hw"]


@pytest.mark.parametrize("case", GEOMETRY["three_crop_256"], ids=str)
def test_three_crops_equal_the_original(case: dict[str, Any]) -> None:
    boxes = geometry.three_crops(*case["resized_hw"], size=256)
    assert list(boxes) == [Box(*edges) for edges in case["boxes"]]


@pytest.mark.parametrize("case", GEOMETRY["center_crop_224"], ids=str)
def test_center_crop_equals_the_original(case: dict[str, Any]) -> None:
    assert geometry.center_crop(*case["resized_hw"], size=224) == Box(*case["box"])


@pytest.mark.parametrize("case", GEOMETRY["multi_scale_crop"], ids=str)
def test_multi_scale_crop_draws_as_the_original(case: dict[str, Any]) -> None:
    options = {name: case[name] for name in MULTI_SCALE_OPTIONS if name in case}
    box = geometry.multi_scale_crop(*case["in_hw"], size=224, random=random.Random(case["seed"]), **options)
    assert box == Box(*case["box"])


@pytest.mark.parametrize("case", GEOMETRY["random_resized_crop"], ids=str)
def test_random_resized_crop_draws_as_the_original(case: dict[str, Any]) -> None:
    seed = case["seed"]
    box = geometry.random_resized_crop(
        *case["in_hw"], random=random.Random(seed), numpy_random=np.random.RandomState(seed)
    )
    assert box == Box(*case["box"])


@pytest.mark.parametrize("case", GEOMETRY["lazy_center_crop"], ids=str)
def test_lazy_center_crop_cuts_what_the_original_cuts(case: dict[str, Any]) -> None:
    width, height = case["in_wh"]
    resized = geometry.short_side_size(height, width, short_side=256)
    window = LazyWindow.whole(height, width).resize(*resized).crop(geometry.center_crop(*resized, size=224))
    edges = [window.left, window.top, window.right, window.bottom]
    np.testing.assert_array_equal(np.array(edges, np.float32), np.array(case["lazy_crop_bbox_float"], np.float32))
    assert window.source_box() == Box(*case["rounded"])
    assert [window.height, window.width] == case["img_shape"]


def test_three_crops_of_a_frame_with_another_short_side_are_refused() -> None:
    with pytest.raises(InputError, match="shorter side is 256, not 340x240"):
        geometry.three_crops(240, 340, size=256)


def test_center_crop_larger_than_the_frame_is_refused() -> None:
    with pytest.raises(InputError, match="center crop of 224 does not fit into 100x300"):
        geometry.center_crop(300, 100, size=224)


def test_corner_crops_touch_both_sides() -> None:
    expected = [(0, 0, 224, 224), (116, 0, 340, 224), (0, 32, 224, 256), (116, 32, 340, 256)]
    assert geometry.corner_crops(256, 340, size=224) == tuple(Box(*edges) for edges in expected)
    assert set(geometry.corner_crops(8, 8, size=8)) == {Box(0, 0, 8, 8)}
    with pytest.raises(InputError, match="crops of 257 do not fit into 340x256"):
        geometry.corner_crops(256, 340, size=257)


def test_a_random_crop_reaches_every_place() -> None:
    draws = random.Random(0)
    found = {geometry.random_crop(5, 6, size=4, random=draws) for _ in range(200)}
    assert found == {Box(left, top, left + 4, top + 4) for left in range(3) for top in range(2)}
    assert geometry.random_crop(4, 4, size=4, random=draws) == Box(0, 0, 4, 4)
    with pytest.raises(InputError, match="a crop of 7 does not fit into 8x6"):
        geometry.random_crop(6, 8, size=7, random=draws)
