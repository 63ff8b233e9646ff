"""Views: what the network sees, cut from the unique frames of a video as uint8 and handed over in batches.

The order is crop-major: all clips under the left crop, then the right one, then the center. Source: mmaction2 0.24.1
``ThreeCrop`` and ``FormatShape``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from i3d_deploy import geometry, video
from i3d_deploy.card import Card, Sampling, Spatial
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.geometry import Box
from i3d_deploy.sampling import Indices
from i3d_deploy.video import Frame

MAX_ASPECT = 16
"""Longest side of a frame in shorter ones: a damaged header may claim a frame that fills the memory once resized."""


def resize_short_side(frame: Frame, *, short_side: int) -> Frame:
    """Resize a frame bilinearly, aspect ratio kept, result rounded to uint8.

    Args:
        frame: (H, W, 3) uint8.
        short_side: Pixels of the shorter side afterwards.

    Raises:
        VideoError: The frame is too narrow to show anything.
    """
    check_aspect(*frame.shape[:2])
    height, width = geometry.short_side_size(*frame.shape[:2], short_side=short_side)
    if (height, width) == frame.shape[:2]:
        return frame
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def check_aspect(height: int, width: int) -> None:
    """Refuse frames that would fill the memory once their shorter side is resized.

    Raises:
        VideoError: The frame is too narrow to show anything.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise VideoError(f"frames of {width}x{height} are narrower than 1:{MAX_ASPECT}")


@dataclass(frozen=True, kw_only=True)
class Views:
    """The views of one video, cut on demand.

    Attributes:
        indices: (clips, clip_len) frames of each clip.
        boxes: The crops, in order.
        by_index: The unique resized frames.
        num_frames: Frames of the video that decode.
        warnings: What was wrong with the video.
    """

    indices: Indices
    boxes: tuple[Box, ...]
    by_index: dict[int, Frame]
    num_frames: int
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.boxes) * len(self.indices)

    def batches(self, size: int) -> Iterator[NDArray[np.uint8]]:
        """Cut the views in order.

        Args:
            size: Views per batch; the last batch may be smaller.

        Yields:
            (N, T, H, W, 3) uint8, contiguous, owned by the receiver.
        """
        for first in range(0, len(self), size):
            yield np.stack([self._cut(number) for number in range(first, min(first + size, len(self)))])

    def _cut(self, number: int) -> NDArray[np.uint8]:
        box = self.boxes[number // len(self.indices)]
        clip = self.indices[number % len(self.indices)]
        return np.stack([self.by_index[int(index)][box.top : box.bottom, box.left : box.right] for index in clip])


def prepare(
    source: video.Source,
    card: Card,
    *,
    clips: int | None = None,
    crops: int | None = None,
    min_decoded_share: float = video.MIN_DECODED_SHARE,
) -> Views:
    """Do to a video what the card says, up to the network.

    Args:
        source: What :func:`i3d_deploy.video.collect` takes.
        card: The card.
        clips: Another number of clips than the card's.
        crops: Another number of crops than the card's: 1 or 3.
        min_decoded_share: What a damaged stream must still give.

    Raises:
        VideoError: No usable frame.
        InputError: ``clips`` or ``crops`` is out of range.
    """
    return cut(
        source,
        sampling=card.sampling,
        spatial=card.spatial,
        clips=clips,
        crops=crops,
        min_decoded_share=min_decoded_share,
    )


def cut(
    source: video.Source,
    *,
    sampling: Sampling,
    spatial: Spatial,
    clips: int | None = None,
    crops: int | None = None,
    min_decoded_share: float = video.MIN_DECODED_SHARE,
) -> Views:
    """Do to a video what the two parts of a card say; arguments as for :func:`prepare`."""
    if clips is not None and clips < 1:
        raise InputError(f"clips ({clips}) must be > 0")
    if crops not in (None, 1, 3):
        raise InputError(f"crops ({crops}) must be 1 or 3")
    frames = video.collect(
        source,
        choose=lambda num_frames: sampling.frame_indices(num_frames, num_clips=clips),
        transform=lambda frame: resize_short_side(frame, short_side=spatial.short_side),
        min_decoded_share=min_decoded_share,
    )
    sizes = {frame.shape[:2] for frame in frames.by_index.values()}
    if len(sizes) > 1:
        raise VideoError(f"{source}: the frames have different sizes ({len(sizes)} of them)")
    height, width = sizes.pop()
    span = (sampling.clip_len - 1) * sampling.frame_interval + 1
    short = f"{frames.num_frames} frames are fewer than the {span} that a clip spans: they are repeated"
    return Views(
        indices=frames.indices,
        boxes=spatial.boxes(height, width, num_crops=crops),
        by_index=frames.by_index,
        num_frames=frames.num_frames,
        warnings=frames.warnings if frames.num_frames >= span else (*frames.warnings, short),
    )
