"""Which pixels make which crop, from numbers alone.

Sizes are (height, width). A box is half open in pixels, x before y as OpenCV has it.

Source: mmaction2 0.24.1 ``Resize``, ``ThreeCrop``, ``CenterCrop``, ``MultiScaleCrop``, ``RandomResizedCrop`` and the
lazy forms of them; SlowFast ``datasets/transform.py`` ``random_short_side_scale_jitter`` and ``uniform_crop``. Random
draws take both generators that the originals use.
"""

from __future__ import annotations

import math
import random as python_random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from i3d_deploy.errors import InputError


@dataclass(frozen=True)
class Box:
    """A spatial window: columns [left, right) and rows [top, bottom), in pixels."""

    left: int
    top: int
    right: int
    bottom: int


def _scaled(height: int, width: int, factor: float) -> tuple[int, int]:
    return int(height * factor + 0.5), int(width * factor + 0.5)


def short_side_size(height: int, width: int, *, short_side: int) -> tuple[int, int]:
    """Size after scaling the shorter side to ``short_side`` with the aspect ratio kept."""
    if min(height, width) < 1 or short_side < 1:
        raise InputError(f"cannot resize {width}x{height} to a short side of {short_side}: sides must be > 0")
    return _scaled(height, width, short_side / min(height, width))


def fit_size(height: int, width: int, *, long_side: int, short_side: int) -> tuple[int, int]:
    """Largest size of the same aspect ratio that fits into a frame with the given sides, in either orientation."""
    factor = min(long_side / max(height, width), short_side / min(height, width))
    return _scaled(height, width, factor)


def three_crops(height: int, width: int, *, size: int) -> tuple[Box, Box, Box]:
    """Three square windows that span the longer side, in the order of the views: left, right, center.

    Of a portrait frame: top, bottom, center.

    Raises:
        InputError: The shorter side is not ``size``.
    """
    if min(height, width) != size:
        raise InputError(f"three crops of {size} need a frame whose shorter side is {size}, not {width}x{height}")
    if height == size:
        # An odd rest means that the "right" crop misses the last column: so in the original.
        step = (width - size) // 2
        left, right, center = (Box(x, 0, x + size, size) for x in (0, 2 * step, step))
        return left, right, center
    step = (height - size) // 2
    top, bottom, middle = (Box(0, y, size, y + size) for y in (0, 2 * step, step))
    return top, bottom, middle


def center_crop(height: int, width: int, *, size: int) -> Box:
    """The square window in the middle, rounded towards the upper left.

    Raises:
        InputError: The frame is smaller than the window.
    """
    if min(height, width) < size:
        raise InputError(f"a center crop of {size} does not fit into {width}x{height}")
    left, top = (width - size) // 2, (height - size) // 2
    return Box(left, top, left + size, top + size)


def corner_crops(height: int, width: int, *, size: int) -> tuple[Box, Box, Box, Box]:
    """The square windows in the corners: top left, top right, bottom left, bottom right.

    Raises:
        InputError: The frame is smaller than a window.
    """
    if min(height, width) < size:
        raise InputError(f"crops of {size} do not fit into {width}x{height}")
    right, bottom = width - size, height - size
    first, second, third, fourth = (Box(x, y, x + size, y + size) for y in (0, bottom) for x in (0, right))
    return first, second, third, fourth


def slowfast_size(height: int, width: int, *, short_side: int) -> tuple[int, int]:
    """Size after scaling the shorter side to ``short_side``, the fraction of the longer side cut off."""
    if min(height, width) < 1 or short_side < 1:
        raise InputError(f"cannot resize {width}x{height} to a short side of {short_side}: sides must be > 0")
    if width < height:
        return math.floor(height / width * short_side), short_side
    return short_side, math.floor(width / height * short_side)


def slowfast_crops(height: int, width: int, *, size: int) -> tuple[Box, Box, Box]:
    """Three square windows along the longer side: left, center, right, or top, center, bottom of a portrait frame.

    Raises:
        InputError: The frame is smaller than a window.
    """
    if min(height, width) < size:
        raise InputError(f"crops of {size} do not fit into {width}x{height}")
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    corners = (
        [(left, 0), (left, top), (left, height - size)]
        if height > width
        else [(0, top), (left, top), (width - size, top)]
    )
    first, second, third = (Box(x, y, x + size, y + size) for x, y in corners)
    return first, second, third


def multi_scale_crop(
    height: int,
    width: int,
    *,
    size: int,
    random: python_random.Random,
    scales: Sequence[float] = (1.0, 0.8),
    max_wh_scale_gap: int = 0,
    num_fixed_crops: int = 5,
    random_crop: bool = False,
) -> Box:
    """Draw a training window: a scale of the shorter side, then one of a few fixed positions.

    Args:
        height: Frame height.
        width: Frame width.
        size: Side the window will be resized to; a window within 3 pixels of it takes exactly this side.
        random: Source of the draws.
        scales: Shares of the shorter side.
        max_wh_scale_gap: How many steps in ``scales`` width and height may differ.
        num_fixed_crops: 5 (corners and center) or 13.
        random_crop: Draw the position freely instead.
    """
    if num_fixed_crops not in (5, 13):
        raise InputError(f"num_fixed_crops ({num_fixed_crops}) must be 5 or 13")
    sides = [int(min(height, width) * scale) for scale in scales]
    pairs = [
        (sides[j], sides[i]) for i in range(len(scales)) for j in range(len(scales)) if abs(i - j) <= max_wh_scale_gap
    ]
    crop_width, crop_height = (size if abs(side - size) < 3 else side for side in random.choice(pairs))
    if random_crop:
        left = random.randint(0, width - crop_width)
        top = random.randint(0, height - crop_height)
    else:
        step_x, step_y = (width - crop_width) // 4, (height - crop_height) // 4
        quarters = [(0, 0), (4, 0), (0, 4), (4, 4), (2, 2)]
        if num_fixed_crops == 13:
            quarters += [(0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3)]
        left, top = random.choice([(step_x * x, step_y * y) for x, y in quarters])
    return Box(left, top, left + crop_width, top + crop_height)


def random_crop(height: int, width: int, *, size: int, random: python_random.Random) -> Box:
    """Draw a square window anywhere, all places alike.

    Args:
        height: Frame height.
        width: Frame width.
        size: Side of the window.
        random: Source of the draws: the column, then the row.

    Raises:
        InputError: The frame is smaller than the window.
    """
    if min(height, width) < size:
        raise InputError(f"a crop of {size} does not fit into {width}x{height}")
    left, top = random.randint(0, width - size), random.randint(0, height - size)
    return Box(left, top, left + size, top + size)


def random_resized_crop(
    height: int,
    width: int,
    *,
    random: python_random.Random,
    numpy_random: np.random.RandomState,
    area_range: tuple[float, float] = (0.08, 1.0),
    aspect_range: tuple[float, float] = (3 / 4, 4 / 3),
    attempts: int = 10,
) -> Box:
    """Draw a window of random area and aspect ratio; after ``attempts`` misfits, the centered square.

    Args:
        height: Frame height.
        width: Frame width.
        random: Source of the position.
        numpy_random: Source of the shapes, drawn as vectors: all aspect ratios, then all areas.
        area_range: Smallest and largest share of the frame's area.
        aspect_range: Smallest and largest width / height.
        attempts: Shapes drawn.
    """
    low, high = np.log(aspect_range[0]), np.log(aspect_range[1])
    aspects = np.exp(numpy_random.uniform(low, high, size=attempts))
    areas = numpy_random.uniform(*area_range, size=attempts) * (height * width)
    widths = np.round(np.sqrt(areas * aspects)).astype(np.int32)
    heights = np.round(np.sqrt(areas / aspects)).astype(np.int32)
    for crop_width, crop_height in zip(widths.tolist(), heights.tolist(), strict=True):
        if crop_width <= width and crop_height <= height:
            left = random.randint(0, width - crop_width)
            top = random.randint(0, height - crop_height)
            return Box(left, top, left + crop_width, top + crop_height)
    return center_crop(height, width, size=min(height, width))


@dataclass(frozen=True)
class LazyWindow:
    """A window in source coordinates that follows resizes and crops without touching pixels.

    Attributes:
        left: Source column of the window's left edge; float32 arithmetic, as the original's.
        top: Source row of its upper edge.
        right: Source column of its right edge.
        bottom: Source row of its lower edge.
        height: Rows the window will have once it is cut out and resized.
        width: Columns it will have.
    """

    left: np.float32
    top: np.float32
    right: np.float32
    bottom: np.float32
    height: int
    width: int

    @classmethod
    def whole(cls, height: int, width: int) -> LazyWindow:
        """The whole source frame."""
        return cls(np.float32(0), np.float32(0), np.float32(width), np.float32(height), height, width)

    def resize(self, height: int, width: int) -> LazyWindow:
        """The same source pixels, to be resized to another size."""
        return LazyWindow(self.left, self.top, self.right, self.bottom, height, width)

    def crop(self, box: Box) -> LazyWindow:
        """A part of the window; ``box`` is in the window's current, resized, coordinates."""
        # Multiplied before divided, as the original does: float32 rounds otherwise.
        span_x, span_y = self.right - self.left, self.bottom - self.top
        return LazyWindow(
            np.float32(self.left + box.left * span_x / self.width),
            np.float32(self.top + box.top * span_y / self.height),
            np.float32(self.left + box.right * span_x / self.width),
            np.float32(self.top + box.bottom * span_y / self.height),
            box.bottom - box.top,
            box.right - box.left,
        )

    def source_box(self) -> Box:
        """The pixels to cut from the source: edges rounded, halves to the even number."""
        edges = np.array([self.left, self.top, self.right, self.bottom], dtype=np.float32).round().astype(int)
        return Box(*(int(edge) for edge in edges))
