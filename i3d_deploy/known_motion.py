"""Pairs of frames whose optical flow is known exactly, to measure methods that estimate it.

The picture is a formula, a sum of waves that is calm in places, so that it is evaluated where the motion leads and
nothing is interpolated: what a method is wrong by is its own. Rounding to grey levels is all that is lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from i3d_deploy.errors import InputError
from i3d_deploy.frames import Frame

_NUM_WAVES = 40
_SHORTEST_WAVE, _LONGEST_WAVE = 5.0, 80.0
"""Pixels: from what a method just sees to what fills a small frame."""

_MIN_SLOPE = 3.0
"""Grey levels a pixel, from which on a place counts as textured."""

_Plane = NDArray[np.complex128]
"""(H, W) points, or differences of points, x + iy: turning and growing is then one multiplication."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What happens from the first frame to the second.

    Attributes:
        shift: Pixels to the right and down.
        degrees: Turn about the middle of the frame, clockwise on the screen.
        scale: Growth from the middle of the frame.
        noise: Standard deviation in grey levels of what a sensor would add to each frame.
        gain: Brightness of the second frame, as a multiple of the first one's.
        radius: Pixels; only a disk about the middle moves, over a picture that stays. None: all moves.
    """

    shift: tuple[float, float] = (0.0, 0.0)
    degrees: float = 0.0
    scale: float = 1.0
    noise: float = 0.0
    gain: float = 1.0
    radius: float | None = None

    def __post_init__(self) -> None:
        if min(self.scale, self.gain) <= 0 or self.noise < 0:
            raise InputError(f"scale and gain ({self.scale}, {self.gain}) must be > 0, noise ({self.noise}) at least 0")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Two frames and the truth about them.

    Attributes:
        first: (H, W, 3) uint8 RGB.
        second: Likewise.
        flow: (H, W, 2) float32, from each pixel of ``first`` to its place in ``second``: pixels right, then down.
        is_counted: (H, W) bool: whether the pixel is in sight in both frames and there is texture to follow.
    """

    first: Frame
    second: Frame
    flow: NDArray[np.float32]
    is_counted: NDArray[np.bool_]

    def errors(self, flow: NDArray[np.float32]) -> NDArray[np.float32]:
        """Endpoint errors of an estimate: the distances in pixels between where it leads and the truth.

        Args:
            flow: (H, W, 2) float32.

        Returns:
            (N,), one for each pixel that counts.
        """
        distances = np.linalg.norm(flow - self.flow, axis=-1)
        return np.asarray(distances[self.is_counted], np.float32)


def draw(motion: Motion, *, height: int = 256, width: int = 340, seed: int = 0) -> Scene:
    """Draw a scene.

    Args:
        motion: What moves.
        height: Rows.
        width: Columns.
        seed: Any integer from 0; the same seed gives the same pictures and noise.

    Returns:
        Two grey frames of ``height`` times ``width``, the flow from the first to the second, and where it counts.

    Raises:
        InputError: ``height`` or ``width`` is not positive.
    """
    if min(height, width) < 1:
        raise InputError(f"height and width ({height}, {width}) must be > 0")
    random = np.random.RandomState(seed)
    moving, still = _Picture(random), _Picture(random)
    rows, columns = np.mgrid[:height, :width]
    points = columns + 1j * rows
    middle = (width - 1) / 2 + 1j * (height - 1) / 2
    turn = motion.scale * np.exp(1j * math.radians(motion.degrees))
    shift = complex(*motion.shift)
    radius = math.inf if motion.radius is None else motion.radius

    moves = abs(points - middle) < radius
    flow = np.where(moves, middle + shift + turn * (points - middle) - points, 0)
    first = np.where(moves, moving.at(points), still.at(points))
    origins = middle + (points - middle - shift) / turn
    is_moved = abs(origins - middle) < radius  # where the second frame shows what moves
    second = motion.gain * np.where(is_moved, moving.at(origins), still.at(points))

    ends = points + flow
    is_inside = (ends.real >= 0) & (ends.real <= width - 1) & (ends.imag >= 0) & (ends.imag <= height - 1)
    return Scene(
        first=_to_frame(first, random, noise=motion.noise),
        second=_to_frame(second, random, noise=motion.noise),
        flow=np.stack((flow.real, flow.imag), axis=-1).astype(np.float32),
        is_counted=is_inside & (moves | ~is_moved) & _is_textured(first),
    )


class _Picture:
    """Grey levels at any point of the plane: waves in all directions, the longer the higher, calm at a distance."""

    def __init__(self, random: np.random.RandomState) -> None:
        lengths = np.exp(random.uniform(math.log(_SHORTEST_WAVE), math.log(_LONGEST_WAVE), _NUM_WAVES))
        self._directions = 2 * np.pi / lengths * np.exp(1j * random.uniform(0, 2 * np.pi, _NUM_WAVES))
        self._phases = random.uniform(0, 2 * np.pi, _NUM_WAVES)
        heights = lengths**0.7
        self._heights = 50 * heights / np.sqrt((heights**2).sum() / 2)  # a standard deviation of 50 in all

    def at(self, points: _Plane) -> NDArray[np.float64]:
        waves = np.zeros(points.shape)
        for direction, phase, height in zip(self._directions, self._phases, self._heights, strict=True):
            waves += height * np.cos((direction.conjugate() * points).real + phase)
        contrast = np.clip(0.6 + np.cos(points.real / 47) * np.cos(points.imag / 39), 0, 1)
        return np.asarray(128 + waves * contrast, np.float64)


def _to_frame(levels: NDArray[np.float64], random: np.random.RandomState, *, noise: float) -> Frame:
    noisy = levels + noise * random.normal(size=levels.shape)
    grey = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _is_textured(levels: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where the levels change within 7x7 pixels, on average, from one pixel to the next."""
    slopes = np.hypot(
        cv2.Sobel(levels, cv2.CV_64F, 1, 0, scale=1 / 8), cv2.Sobel(levels, cv2.CV_64F, 0, 1, scale=1 / 8)
    )
    return np.asarray(cv2.blur(slopes, (7, 7)) > _MIN_SLOPE, np.bool_)
