"""What training and validation cut from a video: one random clip, or fixed views.

Whatever is random about a clip is a pure function of one seed, and the seed one of (run, epoch, video): any number of
workers and any resumed run see the same pixels.

The *lazy* forms cut the crop from the source frame first and resize once, so that fewer pixels are touched; the pixels
differ slightly from those of resizing first.

Optical flow goes the same ways as frames do, with two channels in place of three.

Source: mmaction2 0.24.1, the train and val pipelines of configs/recognition/i3d/*. With both of the original's
generators seeded alike, these functions give its tensors.
"""

from __future__ import annotations

import random as python_random
from functools import partial
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from i3d_deploy import flow_frames, geometry, resizing, sampling, video, views
from i3d_deploy.document import Count, Part
from i3d_deploy.errors import VideoError
from i3d_deploy.flow import mirrored
from i3d_deploy.flow_frames import FlowWanted
from i3d_deploy.frames import Frame
from i3d_deploy.geometry import Box, LazyWindow
from i3d_deploy.preprocessing import Sampling, Spatial

Probability = Annotated[float, Field(ge=0, le=1)]
Scale = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1000)]


class TrainViews(Part):
    """How one clip is drawn from a video for training.

    Attributes:
        scheme: "uniform" draws it anywhere, "dense" from windows of ``sample_range`` frames.
        clip_len: T, frames of the clip.
        frame_interval: Distance of two of its frames.
        sample_range: Frames per window of the dense scheme.
        frames_per_second: The rate that the frames of videos are counted at, as in :class:`Sampling`.
        out_of_bound: What follows the last frame of a short video.
        short_side: The shorter side is resized to this many pixels first.
        crop: "multi_scale": a share of the shorter side at one of five positions; "random_resized": any area and
            aspect ratio; "random": ``crop_size`` anywhere.
        scales: The shares of "multi_scale".
        crop_size: The crop is resized to a square of this side.
        flip: Probability of mirroring the whole clip, see Note [Mirrored flow] of
            :mod:`i3d_deploy.flow`. 0 where left and right mean something.
        lazy: Cut from the source and resize once.
    """

    scheme: Literal["uniform", "dense"] = "uniform"
    clip_len: Count = 32
    frame_interval: Count = 2
    sample_range: Count = 64
    frames_per_second: Rate | None = None
    out_of_bound: sampling.OutOfBound = "loop"
    short_side: Count = 256
    crop: Literal["multi_scale", "random_resized", "random"] = "multi_scale"
    scales: Annotated[tuple[Scale, ...], Field(min_length=1)] = (1.0, 0.8)
    crop_size: Count = 224
    flip: Probability = 0.5
    lazy: bool = False

    @model_validator(mode="after")
    def _check_crop(self) -> TrainViews:
        if self.crop == "random" and self.crop_size > self.short_side:
            raise ValueError(f"crop_size ({self.crop_size}) must be <= short_side ({self.short_side})")
        return self

    def shape(self, channels: int) -> tuple[int, int, int, int]:
        """(T, H, W, C) of the clip."""
        return (self.clip_len, self.crop_size, self.crop_size, channels)


class ValidationViews(Part):
    """The fixed views of a video that validation averages.

    Attributes:
        sampling: Which frames.
        spatial: Which pixels.
        lazy: Cut from the source and resize once; one crop only.
    """

    sampling: Sampling = Sampling(num_clips=1)
    spatial: Spatial = Spatial(num_crops=1, crop_size=224)
    lazy: bool = False

    @property
    def num_views(self) -> int:
        """V, views per video."""
        return self.sampling.num_clips * self.spatial.num_crops

    @model_validator(mode="after")
    def _check_lazy(self) -> ValidationViews:
        if self.lazy and self.spatial.num_crops != 1:
            raise ValueError(f"lazy views have one crop, not {self.spatial.num_crops}")
        return self

    @model_validator(mode="after")
    def _check_formula(self) -> ValidationViews:
        if self.spatial.dtype != "uint8":
            raise ValueError(
                f"spatial.formula is {self.spatial.formula}, whose pixels are not rounded, and views of validation are "
                "uint8: give mmaction2"
            )
        return self


def draw(source: video.Source, spec: TrainViews, *, seed: int, flow: FlowWanted | None = None) -> NDArray[np.uint8]:
    """Draw one clip for training.

    Args:
        source: What :func:`i3d_deploy.video.collect` or :func:`i3d_deploy.flow_frames.collect` takes.
        spec: How.
        seed: In [0, 2**32).
        flow: The optical flow that is wanted in place of the frames.

    Returns:
        (T, H, W, 3) uint8 RGB, or (T, H, W, 2) of flow.

    Raises:
        VideoError: No usable frame.
    """
    drawn = _Draw(spec, seed=seed)
    if flow is None:
        frames = video.collect(source, choose=drawn.choose, transform=drawn.cut, trust_count=True)
    else:
        frames = flow_frames.collect(
            source,
            flow,
            choose=drawn.choose_flow,
            resize=partial(resizing.by_short_side, short_side=spec.short_side),
            transform=drawn.cut,
            trust_count=True,
        )
    return np.stack([frames.by_index[int(index)] for index in frames.indices[0]])


def drawn_frames(num_frames: int, spec: TrainViews, *, seed: int) -> sampling.Indices:
    """The frames that :func:`draw` takes of a video, (1, T), in [0, num_frames)."""
    return _Draw(spec, seed=seed).choose(num_frames)


class _Draw:
    """The choices of one clip, made in the original's order: frames, crop, flip."""

    def __init__(self, spec: TrainViews, *, seed: int) -> None:
        self._spec = spec
        self._seed = seed

    def choose(self, num_frames: int, frames_per_second: float | None = None) -> sampling.Indices:
        """Choose the frames; called again where the container's count proved wrong, which starts over."""
        counted = self._count(num_frames, frames_per_second)
        return np.asarray(counted[self._draw_frames(len(counted))])

    def choose_flow(
        self, num_frames: int, frames_per_second: float | None = None
    ) -> tuple[sampling.Indices, sampling.Indices]:
        """Choose flow frames, as :meth:`i3d_deploy.preprocessing.Sampling.flow_indices`."""
        counted = self._count(num_frames, frames_per_second)
        sampling.check_flow(counted, num_frames=num_frames, rate_of="recipe")
        return self._draw_frames(len(counted) - 1), counted

    def _count(self, num_frames: int, frames_per_second: float | None) -> sampling.Indices:
        speed = sampling.speed(frames_per_second, counted_at=self._spec.frames_per_second)
        return sampling.frames_at_rate(num_frames, speed=speed)

    def _draw_frames(self, num_frames: int) -> sampling.Indices:
        spec = self._spec
        self._numpy = np.random.RandomState(self._seed)
        self._python = python_random.Random(self._seed)
        self._frame_shape: tuple[int, ...] | None = None
        if spec.scheme == "dense":
            starts = sampling.dense_train_starts(
                num_frames, num_clips=1, random=self._numpy, sample_range=spec.sample_range
            )
        else:
            starts = sampling.uniform_train_starts(
                num_frames,
                clip_len=spec.clip_len,
                frame_interval=spec.frame_interval,
                num_clips=1,
                random=self._numpy,
            )
        return sampling.frame_indices(
            starts,
            num_frames=num_frames,
            clip_len=spec.clip_len,
            frame_interval=spec.frame_interval,
            out_of_bound=spec.out_of_bound,
        )

    def cut(self, frame: Frame) -> Frame:
        """Cut the crop from one frame; the first frame decides where it is."""
        if self._frame_shape is None:
            self._frame_shape = frame.shape
            self._window = self._draw_window(*frame.shape[:2])
            self._is_flipped = bool(self._numpy.rand() < self._spec.flip)
        elif frame.shape != self._frame_shape:
            raise VideoError(f"the frames have different sizes: {self._frame_shape[:2]} and {frame.shape[:2]}")
        crop = _cut_lazily(frame, self._window) if self._spec.lazy else self._cut_resized(frame)
        return mirrored(crop) if self._is_flipped else crop

    def _draw_window(self, height: int, width: int) -> LazyWindow:
        """The crop, in coordinates of the resized frame and of the source."""
        spec = self._spec
        resized = _short_side_size(height, width, short_side=spec.short_side)
        if spec.crop == "multi_scale":
            self._box = geometry.multi_scale_crop(
                *resized, size=spec.crop_size, random=self._python, scales=spec.scales
            )
        elif spec.crop == "random":
            self._box = geometry.random_crop(*resized, size=spec.crop_size, random=self._python)
        else:
            self._box = geometry.random_resized_crop(*resized, random=self._python, numpy_random=self._numpy)
        window = LazyWindow.whole(height, width).resize(*resized).crop(self._box)
        return window.resize(spec.crop_size, spec.crop_size)

    def _cut_resized(self, frame: Frame) -> Frame:
        resized = resizing.by_short_side(frame, short_side=self._spec.short_side)
        return _resize(_crop(resized, self._box), self._spec.crop_size, self._spec.crop_size)


def validation_views(
    source: video.Source, spec: ValidationViews, *, flow: FlowWanted | None = None
) -> NDArray[np.uint8]:
    """Cut the fixed views of a video.

    Args:
        source: As for :func:`draw`.
        spec: Which.
        flow: As for :func:`draw`.

    Returns:
        (V, T, H, W, 3) uint8 RGB, or (V, T, H, W, 2) of flow, crop-major.

    Raises:
        VideoError: No usable frame.
    """
    if not spec.lazy:
        prepared = views.cut(source, sampling=spec.sampling, spatial=spec.spatial, flow=flow)
        return np.asarray(next(prepared.batches(len(prepared))), np.uint8)
    center = partial(_lazy_center, spatial=spec.spatial)
    if flow is None:
        frames = video.collect(source, choose=spec.sampling.frame_indices, transform=center)
    else:
        frames = flow_frames.collect(
            source,
            flow,
            choose=spec.sampling.flow_indices,
            resize=partial(resizing.by_short_side, short_side=spec.spatial.short_side),
            transform=center,
        )
    return np.stack([np.stack([frames.by_index[int(index)] for index in clip]) for clip in frames.indices])


def _lazy_center(frame: Frame, spatial: Spatial) -> Frame:
    height, width = frame.shape[:2]
    resized = _short_side_size(height, width, short_side=spatial.short_side)
    window = LazyWindow.whole(height, width).resize(*resized)
    return _cut_lazily(frame, window.crop(geometry.center_crop(*resized, size=spatial.crop_size)))


def _short_side_size(height: int, width: int, *, short_side: int) -> tuple[int, int]:
    resizing.check_aspect(height, width)
    return geometry.short_side_size(height, width, short_side=short_side)


def _cut_lazily(frame: Frame, window: LazyWindow) -> Frame:
    return _resize(_crop(frame, window.source_box()), window.height, window.width)


def _crop(frame: Frame, box: Box) -> Frame:
    return frame[box.top : box.bottom, box.left : box.right]


def _resize(frame: Frame, height: int, width: int) -> Frame:
    return np.ascontiguousarray(resizing.to_size(frame, height=height, width=width))


def seed_of(seed: int, *parts: int) -> int:
    """A seed that is a pure function of the run's seed and of what it is for.

    Args:
        seed: Of the run.
        *parts: Such as the epoch and the number of the video.

    Returns:
        A number in [0, 2**32). Parts that differ give unrelated streams; zeros at their end do not count.
    """
    return int(np.random.SeedSequence([seed, *parts]).generate_state(1)[0])
