"""Resizing frames: bilinear with half-pixel centers and without antialiasing, as OpenCV's INTER_LINEAR."""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from i3d_deploy import geometry
from i3d_deploy.errors import VideoError
from i3d_deploy.frames import Frame, Resized
from i3d_deploy.preprocessing import Spatial

Value = TypeVar("Value", np.uint8, np.float32)

MAX_ASPECT = 16
"""Longest side of a frame in shorter ones: a damaged header may claim a frame that fills the memory once resized."""


def by_card(frame: Frame, spatial: Spatial) -> Resized:
    """Resize a frame as a card says, aspect ratio kept.

    Args:
        frame: (H, W, C) uint8.
        spatial: The card's; it says whether the result is rounded to uint8 or stays float32.

    Raises:
        VideoError: The frame is too narrow to show anything.
    """
    check_aspect(*frame.shape[:2])
    height, width = spatial.size(*frame.shape[:2])
    if spatial.dtype == "uint8":
        return to_size(frame, height=height, width=width)
    return to_size(frame.astype(np.float32), height=height, width=width)


def by_short_side(frame: Frame, *, short_side: int) -> Frame:
    """Resize a frame, aspect ratio kept, result rounded to uint8.

    Args:
        frame: (H, W, C) uint8.
        short_side: Pixels of the shorter side afterwards.

    Raises:
        VideoError: The frame is too narrow to show anything.
    """
    check_aspect(*frame.shape[:2])
    height, width = geometry.short_side_size(*frame.shape[:2], short_side=short_side)
    return to_size(frame, height=height, width=width)


def check_aspect(height: int, width: int) -> None:
    """Refuse frames that would fill the memory once their shorter side is resized.

    Raises:
        VideoError: The frame is too narrow to show anything.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise VideoError(f"frames of {width}x{height} are narrower than 1:{MAX_ASPECT}")


def to_size(frame: NDArray[Value], *, height: int, width: int) -> NDArray[Value]:
    """Resize a frame to any size; one that has it is given back as it is.

    Args:
        frame: (H, W, C).
        height: Rows afterwards.
        width: Columns afterwards.
    """
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR), frame.dtype)
