"""A generated clip, for machines without videos: a real MPEG-4 file with moving structure.

A network that is fed noise saturates differently from one that is fed pictures, so the clip has what videos have:
smooth background, a textured patch that moves and turns over it, and sensor noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from i3d_deploy import video_files
from i3d_deploy.errors import InputError
from i3d_deploy.frames import Frame

FRAMES_PER_SECOND = 25.0


def frames(*, num_frames: int = 96, height: int = 256, width: int = 340, seed: int = 0) -> Iterator[Frame]:
    """Draw the clip.

    Args:
        num_frames: T.
        height: Rows.
        width: Columns.
        seed: Any integer from 0; the same seed gives the same frames.

    Yields:
        T frames, (H, W, 3) uint8 RGB.
    """
    if min(num_frames, height, width) < 1:
        raise InputError(f"num_frames, height and width ({num_frames}, {height}, {width}) must be > 0")
    random = np.random.RandomState(seed)
    background = texture(random, (height, width), cells=6)
    side = max(8, min(height, width) // 3)
    patch = texture(random, (side, side), cells=8)
    for number in range(num_frames):
        angle = 2 * np.pi * number / num_frames
        center = (width * (0.5 + 0.3 * np.cos(angle)), height * (0.5 + 0.3 * np.sin(angle)))
        turn = cv2.getRotationMatrix2D((side / 2, side / 2), np.degrees(2 * angle), 1.0)
        turn = turn + np.array([[0, 0, center[0] - side / 2], [0, 0, center[1] - side / 2]])
        frame = background.copy()
        cv2.warpAffine(patch, turn, (width, height), dst=frame, borderMode=cv2.BORDER_TRANSPARENT)
        noise = random.randint(-6, 7, frame.shape)
        yield np.clip(frame.astype(np.int16) + noise, 0, 255).astype(np.uint8)


def write_clip(path: Path, *, num_frames: int = 96, height: int = 256, width: int = 340, seed: int = 0) -> None:
    """Write the clip as an MPEG-4 file, replaced as a whole.

    Args:
        path: An ``.mp4`` file.
        num_frames: T.
        height: Rows.
        width: Columns.
        seed: As for :func:`frames`.
    """
    drawn = frames(num_frames=num_frames, height=height, width=width, seed=seed)
    video_files.write(path, drawn, frames_per_second=FRAMES_PER_SECOND)


def texture(random: np.random.RandomState, size: tuple[int, int], *, cells: int) -> Frame:
    """Draw smooth colours.

    Args:
        random: Where the colours come from.
        size: Rows and columns.
        cells: Colours a side, between which the picture is interpolated.

    Returns:
        (H, W, 3) uint8.
    """
    coarse = random.randint(0, 256, (cells, cells, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
