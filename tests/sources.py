"""Small videos of every kind, and what was read of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from i3d_deploy import video
from i3d_deploy.frames import Frames
from i3d_deploy.sampling import Indices

HEIGHT, WIDTH = 48, 64


def noise(num_frames: int, height: int = HEIGHT, width: int = WIDTH, *, seed: int = 0) -> NDArray[np.uint8]:
    """Frames of which no two are alike."""
    return np.random.RandomState(seed).randint(0, 256, (num_frames, height, width, 3)).astype(np.uint8)


def every_frame(num_frames: int, _: float | None) -> Indices:
    """One clip of all frames."""
    return np.arange(num_frames)[None]


def collect_all(source: Any, **options: Any) -> Frames:
    """Every frame of a source, as it is."""
    return video.collect(source, choose=every_frame, transform=lambda frame: frame, **options)


def assert_frames_are(frames: Frames, expected: NDArray[np.uint8]) -> None:
    assert frames.num_frames == len(expected)
    assert sorted(frames.by_index) == list(range(len(expected)))
    for number, frame in enumerate(expected):
        np.testing.assert_array_equal(frames.by_index[number], frame)


def write_images(folder: Path, frames: NDArray[np.uint8], *, suffix: str = "png", first: int = 1) -> None:
    folder.mkdir()
    for number, frame in enumerate(frames, first):
        assert cv2.imwrite(str(folder / f"img_{number:05d}.{suffix}"), frame[..., ::-1])


IS_CUT_AT_PROMISE = pytest.mark.skipif(
    tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 11),
    reason="OpenCV 4.10 ends at one frame more than the container promises",
)
