"""From a video to what a network sees: which frames, which pixels, and how these are scaled.

These are the parts of the card that every runtime executes. The arithmetic is in :mod:`i3d_deploy.sampling` and
:mod:`i3d_deploy.geometry`; here is which of it a network wants.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from i3d_deploy import geometry, sampling
from i3d_deploy.document import Count, Part
from i3d_deploy.errors import InputError

Scheme = Literal["uniform", "dense", "whole"]
Formula = Literal["mmaction2-0.x", "mmaction2-1.x", "slowfast"]
SpatialFormula = Literal["mmaction2", "slowfast"]

PerChannel = Annotated[tuple[float, ...], Field(min_length=2, max_length=5)]


class Sampling(Part):
    """Which frames make the clips of a video.

    Attributes:
        scheme: "uniform" spreads the clips, "dense" draws them from overlapping windows, "whole" makes one clip of all
            frames, however many there are.
        formula: Whose formula places uniform clips; accuracies under them differ. SlowFast's counts in seconds.
        clip_len: T, frames per clip; of whole videos, of one of the usual length.
        frame_interval: Distance of two frames of a clip.
        num_clips: Clips per video.
        sample_range: Frames per window of the dense scheme.
        min_clip_len: Whole videos that have fewer frames are repeated.
        frames_per_second: The rate that the frames are counted at: of a video of another rate frames are left out or
            repeated, and SlowFast's windows are longer or shorter. None: whatever rate a video has.
        out_of_bound: What follows the last frame of a short video.
    """

    scheme: Scheme = "uniform"
    formula: Formula = "mmaction2-0.x"
    clip_len: Count = 32
    frame_interval: Count = 2
    num_clips: Count = 10
    sample_range: Count = 64
    min_clip_len: Count = 1
    frames_per_second: Annotated[float, Field(gt=0, le=1000)] | None = None
    out_of_bound: sampling.OutOfBound = "loop"

    @model_validator(mode="after")
    def _check_whole(self) -> Sampling:
        if self.scheme == "whole" and self.num_clips != 1:
            raise ValueError(f"a whole video is one clip: num_clips ({self.num_clips}) must be 1")
        return self

    def frame_indices(
        self, num_frames: int, frames_per_second: float | None = None, *, num_clips: int | None = None
    ) -> sampling.Indices:
        """Choose the frames of a video.

        Args:
            num_frames: Its length.
            frames_per_second: Its rate; None where it is not known: that of the card.
            num_clips: Another number of clips than the card's.

        Returns:
            (clips, clip_len) int64 in [0, num_frames).

        Raises:
            InputError: Several clips are asked of a whole video.
            VideoError: A video is too long to be taken whole.
        """
        num_clips = self.num_clips if num_clips is None else num_clips
        speed = sampling.speed(frames_per_second, counted_at=self.frames_per_second)
        if self._counts_in_seconds:
            return sampling.slowfast_indices(
                num_frames,
                clip_len=self.clip_len,
                frame_interval=self.frame_interval,
                num_clips=num_clips,
                speed=speed,
            )
        counted = sampling.frames_at_rate(num_frames, speed=speed)
        indices = self._counted_indices(len(counted), num_clips=num_clips)
        return np.asarray(counted[indices])

    def flow_indices(
        self, num_frames: int, frames_per_second: float | None = None, *, num_clips: int | None = None
    ) -> tuple[sampling.Indices, sampling.Indices]:
        """Choose the flow frames of a video: each leads from one counted frame to the next.

        Args:
            num_frames: As for :meth:`frame_indices`.
            frames_per_second: As for :meth:`frame_indices`.
            num_clips: As for :meth:`frame_indices`.

        Returns:
            (clips, clip_len) int64, numbers of flow frames from 0; and (flow frames + 1,) int64, the frames of the
            video that they lie between.

        Raises:
            VideoError: There is one frame only; or as :meth:`frame_indices`.
        """
        speed = sampling.speed(frames_per_second, counted_at=self.frames_per_second)
        counted = sampling.frames_at_rate(num_frames, speed=speed)
        sampling.check_flow(counted, num_frames=num_frames, rate_of="card")
        num_clips = self.num_clips if num_clips is None else num_clips
        return self._counted_indices(len(counted) - 1, num_clips=num_clips), counted

    @property
    def least_clip_len(self) -> int:
        """T of the shortest clip: all have ``clip_len``, or those of whole videos ``min_clip_len`` and more."""
        return self.min_clip_len if self.scheme == "whole" else self.clip_len

    def span(self, frames_per_second: float | None = None, *, of_flow: bool = False) -> int:
        """Frames that a clip spans, from its first to its last one: in a shorter video they are repeated.

        Args:
            frames_per_second: As for :meth:`frame_indices`.
            of_flow: Of a clip of flow frames, whose last one leads to one more frame.

        Returns:
            Frames of the video, as many as have a clip's among them when they are counted at the card's rate.
        """
        speed = sampling.speed(frames_per_second, counted_at=self.frames_per_second)
        steps = (self.least_clip_len - 1) * self.frame_interval
        if self._counts_in_seconds and not of_flow:
            return int(steps * speed) + 1
        return sampling.least_frames(steps + (2 if of_flow else 1), speed=speed)

    @property
    def window_frames(self) -> int:
        """Frames, at the card's rate, of the shortest video of which a clip repeats none; of whole videos, of a clip of
        the usual length."""
        if self._counts_in_seconds:
            return self.clip_len * self.frame_interval
        return (self.clip_len - 1) * self.frame_interval + 1

    @property
    def _counts_in_seconds(self) -> bool:
        return self.scheme == "uniform" and self.formula == "slowfast"

    def _counted_indices(self, num_frames: int, *, num_clips: int) -> sampling.Indices:
        clip_len, interval = self.clip_len, self.frame_interval
        if self.scheme == "whole":
            if num_clips != 1:
                raise InputError(
                    f"clips ({num_clips}) must be 1: a whole video is one clip; "
                    "export it with --sampling uniform for more"
                )
            return sampling.whole_indices(num_frames, frame_interval=interval, min_clip_len=self.min_clip_len)
        if self.scheme == "dense":
            starts = sampling.dense_starts(
                num_frames, num_clips=1, sample_range=self.sample_range, num_positions=num_clips
            )
        elif self.formula == "mmaction2-1.x":
            starts = sampling.uniform_starts_1x(
                num_frames, clip_len=clip_len, frame_interval=interval, num_clips=num_clips
            )
        else:
            starts = sampling.uniform_starts(
                num_frames, clip_len=clip_len, frame_interval=interval, num_clips=num_clips
            )
        return sampling.frame_indices(
            starts, num_frames=num_frames, clip_len=clip_len, frame_interval=interval, out_of_bound=self.out_of_bound
        )


class Spatial(Part):
    """Which pixels make the crops of a clip.

    Attributes:
        formula: Whose arithmetic. "mmaction2" rounds the longer side, and the resized pixels to uint8; its three crops
            are left, right, center. "slowfast" cuts off the longer side's fraction and does not round pixels; its crops
            are left, center, right.
        short_side: The shorter side is resized to this many pixels, aspect ratio kept.
        interpolation: Bilinear with half-pixel centers and no antialiasing (OpenCV's INTER_LINEAR).
        num_crops: 3 (those of portrait frames are top, bottom, center in the same order) or 1 (center).
        crop_size: Side of a crop.
    """

    formula: SpatialFormula = "mmaction2"
    short_side: Count = 256
    interpolation: Literal["bilinear"] = "bilinear"
    num_crops: Literal[1, 3] = 3
    crop_size: Count = 256

    @model_validator(mode="after")
    def _check_sides(self) -> Spatial:
        if self.crop_size > self.short_side:
            raise ValueError(f"crop_size ({self.crop_size}) must be <= short_side ({self.short_side})")
        if self.num_crops == 3 and self.crop_size != self.short_side:
            raise ValueError(f"three crops need crop_size ({self.crop_size}) == short_side ({self.short_side})")
        return self

    def check_crops(self, num_crops: int | None) -> None:
        """Refuse a number of crops in place of the card's that it cannot have.

        Args:
            num_crops: The number; None: the card's.

        Raises:
            InputError: It is neither 1 nor 3; or 3, and mmaction2's, which lie along the longer side, would leave a
                part of the shorter one.
        """
        if num_crops not in (None, 1, 3):
            raise InputError(f"crops ({num_crops}) must be 1 or 3")
        if num_crops == 3 and self.formula == "mmaction2" and self.crop_size != self.short_side:
            raise InputError(
                f"crops (3) need a crop_size equal to short_side, and the card has crop_size {self.crop_size} and "
                f"short_side {self.short_side}: give 1, or export the checkpoint with --short-side {self.crop_size}"
            )

    def boxes(self, height: int, width: int, *, num_crops: int | None = None) -> tuple[geometry.Box, ...]:
        """Cut a resized frame.

        Args:
            height: Rows after the resize.
            width: Columns after the resize.
            num_crops: Another number of crops than the card's: 1 or 3.

        Raises:
            InputError: As :meth:`check_crops`, or the crops do not fit the frame.
        """
        self.check_crops(num_crops)
        num_crops = self.num_crops if num_crops is None else num_crops
        if self.formula == "slowfast":
            crops = geometry.slowfast_crops(height, width, size=self.crop_size)
            return crops if num_crops == 3 else (crops[1],)
        if num_crops == 1:
            return (geometry.center_crop(height, width, size=self.crop_size),)
        return geometry.three_crops(height, width, size=self.crop_size)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a frame after the resize."""
        if self.formula == "slowfast":
            return geometry.slowfast_size(height, width, short_side=self.short_side)
        return geometry.short_side_size(height, width, short_side=self.short_side)

    @property
    def dtype(self) -> Literal["uint8", "float32"]:
        """Type of resized pixels; either way 0 to 255."""
        return "float32" if self.formula == "slowfast" else "uint8"


class Pixels(Part):
    """What a value of 0 to 255 becomes before the network: (value - mean) / std per channel, in ``color`` order.

    Attributes:
        color: "rgb", "xy" of optical flow (the displacement to the right and downwards, in 8 bits), or both.
        mean: One number per channel.
        std: One number per channel.
    """

    color: Literal["rgb", "xy", "rgbxy"] = "rgb"
    mean: PerChannel = (123.675, 116.28, 103.53)
    std: PerChannel = (58.395, 57.12, 57.375)

    @model_validator(mode="after")
    def _check_channels(self) -> Pixels:
        if not len(self.mean) == len(self.std) == len(self.color):
            raise ValueError(f"mean {self.mean} and std {self.std} must have a number for each channel of {self.color}")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be > 0")
        return self


def normalize(views: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Turn views into what a float engine takes.

    Args:
        views: (N, T, H, W, C) uint8 or float32, values of 0 to 255.
        pixels: The card's scaling.

    Returns:
        (N, C, T, H, W) float32, contiguous.
    """
    mean, std = (np.array(values, np.float32) for values in (pixels.mean, pixels.std))
    scaled = (views.astype(np.float32) - mean) * (1 / std.astype(np.float64)).astype(np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 4, 1, 2, 3))
