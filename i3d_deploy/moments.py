"""A video moment by moment: its frames at a rate, resized, the optical flow from each to the next, or both.

Nothing is kept but the frames between which flow is being computed, so that a video may have any length.

Note [Frames of the flow]
    n frames have n - 1 flow frames, each from a frame to the next one. Where both are wanted, the last frame of the
    video is left out: there is one flow frame for each frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from i3d_deploy import flow_cache, flow_images, resizing, sampling, video
from i3d_deploy.card import FlowMethod
from i3d_deploy.errors import VideoError
from i3d_deploy.flow_cache import FlowCache
from i3d_deploy.flow_images import StoredFlow
from i3d_deploy.frames import Frame, Resized
from i3d_deploy.images import FrameFolder
from i3d_deploy.preprocessing import Spatial
from i3d_deploy.video import Source

Rate = float | Literal["source"]
"""Frames per second, or "source": all frames of a video, whatever its rate."""

Moment = tuple[Resized, ...]
"""A frame, (H, W, 3), or a flow frame, (H, W, 2), or one of each."""


@dataclass(frozen=True, kw_only=True)
class MomentsWanted:
    """What is wanted of a video.

    Attributes:
        spatial: How frames are resized.
        rate: What frames are counted at.
        has_rgb: Whether frames are wanted.
        flow_method: How their flow is computed; None: it is not wanted.
        flow_cache: Where flow is kept; None: nowhere.
    """

    spatial: Spatial
    rate: Rate
    has_rgb: bool
    flow_method: FlowMethod | None
    flow_cache: FlowCache | None = None


@dataclass(frozen=True, kw_only=True)
class Moments:
    """The moments of a video that is open.

    Attributes:
        moments: In order, each computed when it is asked for; to be gone through once.
        frames_per_second: The rate that they are counted at; None where that of the video is not known.
        warnings: What was wrong with the video, one line each; complete once the moments have ended.
    """

    moments: Iterator[Moment]
    frames_per_second: float | None
    warnings: list[str]


@contextmanager
def opened(
    source: Source, wanted: MomentsWanted, *, min_decoded_share: float = video.MIN_DECODED_SHARE
) -> Iterator[Moments]:
    """Open a video.

    Args:
        source: What :func:`i3d_deploy.video.stream` takes; where flow is wanted, also a folder of flow images, listed
            or not.
        wanted: What of it.
        min_decoded_share: As for :func:`i3d_deploy.video.stream`.

    Raises:
        VideoError: There is no usable frame, or frames have different sizes.
        InputError: An array or frame has the wrong shape or type.
        MissingExtraError: Nothing that is installed computes the flow.
    """
    stored = flow_images.find(source) if wanted.flow_method is not None else None
    if stored is not None:
        _, rate, warnings = _speed(None, wanted.rate)
        yield Moments(moments=_stored(stored, wanted), frames_per_second=rate, warnings=warnings)
        return
    with video.stream(source, min_decoded_share=min_decoded_share) as stream:
        speed, rate, warnings = _speed(stream.frames_per_second, wanted.rate)
        stream.warnings.extend(warnings)
        counted = sampling.stream_at_rate(stream.frames, speed=speed)
        frames = _resized(counted, wanted.spatial, name=name_of(source))
        yield Moments(moments=_shown(frames, wanted), frames_per_second=rate, warnings=stream.warnings)


def name_of(source: Source) -> str:
    """What a source is called in messages."""
    return str(source) if isinstance(source, (str, Path, FrameFolder)) else "the frames given"


def _speed(found: float | None, wanted: Rate) -> tuple[float, float | None, list[str]]:
    """The video's rate over the one wanted, the rate that frames are counted at, and what had to be assumed."""
    if isinstance(wanted, str):
        return 1.0, found, []
    if found is None:
        return 1.0, wanted, [video.assumed_rate(wanted)]
    return found / wanted, wanted, []


def _resized(frames: Iterable[Frame], spatial: Spatial, *, name: str) -> Iterator[Resized]:
    size: tuple[int, ...] | None = None
    for frame in frames:
        resized = resizing.by_card(frame, spatial)
        if size not in (None, resized.shape):
            raise VideoError(f"{name}: the frames have different sizes")
        size = resized.shape
        yield resized


def _shown(frames: Iterator[Resized], wanted: MomentsWanted) -> Iterator[Moment]:
    """What is wanted of each moment: Note [Frames of the flow]."""
    if wanted.flow_method is None:
        return ((frame,) for frame in frames)
    compute = partial(flow_cache.compute_each, method=wanted.flow_method, cache=wanted.flow_cache)
    if not wanted.has_rgb:
        return ((found,) for found in compute(itertools.pairwise(frames)))
    starts, ends = itertools.tee(frames)  # the flow is a few frames ahead
    return zip(starts, compute(itertools.pairwise(ends)), strict=False)


def _stored(stored: StoredFlow, wanted: MomentsWanted) -> Iterator[Moment]:
    """Flow that was computed before, with the frames beside it where they are wanted."""
    resize = partial(resizing.by_card, spatial=wanted.spatial)
    for number in range(stored.num_flows):
        if wanted.has_rgb:
            yield stored.read_with_frame(number, resize=resize)
        else:
            yield (stored.read(number, resize=resize),)
