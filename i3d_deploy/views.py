"""Views: what the network sees, cut from the unique frames of a video and handed over in parts.

They are uint8 unless the card says that resized pixels are not rounded. The order is crop-major: all clips under the
left crop, then those under the next one. Source: mmaction2 0.24.1 ``ThreeCrop`` and ``FormatShape``.

Note [Sources without a rate]
    Arrays, iterables, folders of images and some files do not say how fast their frames follow each other. They are
    taken to have the card's rate, and a warning says so. There is none for flow that is read, which was made at a rate,
    and none for the folders of a list, whose rate is that of the whole data set: every line would have the same one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from i3d_deploy import flow_frames, resizing, video
from i3d_deploy.card import Card
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.flow_cache import FlowCache
from i3d_deploy.flow_frames import FlowWanted
from i3d_deploy.frames import Frames, Resized, Watcher, too_few, unique
from i3d_deploy.geometry import Box
from i3d_deploy.images import FrameFolder
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.sampling import MAX_CLIPS, Indices


@dataclass(frozen=True, kw_only=True)
class Part:
    """Views whose frames are there, not cut yet.

    Attributes:
        attempt: A higher one than before voids all parts before it.
        numbers: Which views, by their place in the order.
        views: All views of the video; those of ``numbers`` can be cut.
    """

    attempt: int
    numbers: list[int]
    views: Views


class Buffer:
    """Memory that one part after the other is cut into, made when first used."""

    def __init__(self) -> None:
        self._array: Resized = np.empty((0, 0, 0, 0, 0), np.uint8)

    def cut(self, part: Part) -> Resized:
        """Cut the views of a part.

        Args:
            part: N views.

        Returns:
            (N, T, H, W, C), which the next call overwrites.
        """
        size, view_shape, dtype = len(part.numbers), part.views.view_shape, part.views.dtype
        if self._array.shape[1:] != view_shape or len(self._array) < size or self._array.dtype != dtype:
            self._array = np.empty((size, *view_shape), dtype)
        return part.views.fill(self._array[:size], part.numbers)


@dataclass(frozen=True, kw_only=True)
class Views:
    """The views of one video, cut on demand.

    Attributes:
        indices: (clips, clip_len) keys of ``by_index``.
        boxes: The crops, in order.
        by_index: The unique resized frames.
        num_frames: Frames of the video that decode.
        frames_per_second: As the container says; None where it does not.
        counted: As of :class:`i3d_deploy.frames.Frames`.
        warnings: What was wrong with the video.
    """

    indices: Indices
    boxes: tuple[Box, ...]
    by_index: dict[int, Resized]
    num_frames: int
    frames_per_second: float | None = None
    counted: Indices | None = None
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.boxes) * len(self.indices)

    @property
    def frame_indices(self) -> Indices:
        """(clips, clip_len) frames of the video; of flow, the frames from which it leads."""
        return self.indices if self.counted is None else np.asarray(self.counted[self.indices])

    @property
    def view_shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of one view."""
        box = self.boxes[0]
        return self.indices.shape[1], box.bottom - box.top, box.right - box.left, self._a_frame.shape[2]

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or float32."""
        return self._a_frame.dtype

    @property
    def _a_frame(self) -> Resized:
        return next(iter(self.by_index.values()))

    def batches(self, size: int) -> Iterator[Resized]:
        """Cut the views in order, to be kept.

        Args:
            size: Views per batch; the last batch may be smaller.

        Yields:
            (N, T, H, W, C), contiguous, owned by the receiver: each batch is an array of its own.
        """
        for first in range(0, len(self), size):
            numbers = range(first, min(first + size, len(self)))
            yield self.fill(np.empty((len(numbers), *self.view_shape), self.dtype), numbers)

    def fill(self, batch: Resized, numbers: Sequence[int]) -> Resized:
        """Cut some views into an array of the caller's.

        Args:
            batch: (N, T, H, W, C) of the frames' type, overwritten.
            numbers: N views, by their place in the order.

        Returns:
            ``batch``.
        """
        for view, number in zip(batch, numbers, strict=True):
            crop, clip = divmod(number, len(self.indices))
            box = self.boxes[crop]
            for frame, index in zip(view, self.indices[clip].tolist(), strict=True):
                frame[...] = self.by_index[index][box.top : box.bottom, box.left : box.right]
        return batch

    def parts(self, size: int) -> Iterator[Part]:
        """All views in the order of :meth:`by_clip`.

        Args:
            size: Views per part; the last part may be smaller.

        Yields:
            Parts of attempt 1.
        """
        order = self.by_clip()
        for first in range(0, len(order), size):
            yield Part(attempt=1, numbers=order[first : first + size], views=self)

    def by_clip(self) -> list[int]:
        """All views, those first whose last frame comes first: the order in which they can be cut while decoding."""
        clips = np.argsort(self.indices.max(axis=1), kind="stable").tolist()
        return [crop * len(clips) + clip for clip in clips for crop in range(len(self.boxes))]


def prepare(
    source: video.Source,
    card: Card,
    *,
    clips: int | None = None,
    crops: int | None = None,
    min_decoded_share: float = video.MIN_DECODED_SHARE,
    flow_cache: FlowCache | None = None,
    watcher: Watcher | None = None,
) -> Views:
    """Do to a video what the card says, up to the network.

    Args:
        source: What :func:`i3d_deploy.video.collect` takes.
        card: The card.
        clips: Another number of clips than the card's.
        crops: Another number of crops than the card's: 1 or 3.
        min_decoded_share: What a damaged stream must still give.
        flow_cache: Where optical flow is kept, if the card wants any.
        watcher: As for :func:`i3d_deploy.video.collect`; it sees the resized frames.

    Raises:
        VideoError: No usable frame.
        InputError: ``clips`` or ``crops`` is out of range, or three crops do not go with the card.
    """
    return cut(
        source,
        sampling=card.sampling,
        spatial=card.spatial,
        flow=flow_frames.wanted_of(card, cache=flow_cache),
        clips=clips,
        crops=crops,
        min_decoded_share=min_decoded_share,
        watcher=watcher,
    )


def cut(
    source: video.Source,
    *,
    sampling: Sampling,
    spatial: Spatial,
    flow: FlowWanted | None = None,
    clips: int | None = None,
    crops: int | None = None,
    min_decoded_share: float = video.MIN_DECODED_SHARE,
    decoder_threads: int | None = None,
    watcher: Watcher | None = None,
) -> Views:
    """Do to a video what the two parts of a card say.

    Args:
        source: As for :func:`prepare`.
        sampling: Which frames.
        spatial: Which pixels.
        flow: The optical flow that is wanted in place of the frames, or with them.
        clips: As for :func:`prepare`.
        crops: As for :func:`prepare`.
        min_decoded_share: As for :func:`prepare`.
        decoder_threads: As for :func:`i3d_deploy.video.collect`.
        watcher: As for :func:`i3d_deploy.video.collect`; it sees the resized frames.

    Raises:
        VideoError: No usable frame.
        InputError: ``clips`` or ``crops`` is out of range, or three crops do not go with ``spatial``.
    """
    check_clips(clips)
    spatial.check_crops(crops)  # before anything is read
    if flow is not None:
        frames = flow_frames.collect(
            source,
            flow,
            choose=partial(sampling.flow_indices, num_clips=clips),
            resize=partial(resizing.by_short_side, short_side=spatial.short_side),
            min_decoded_share=min_decoded_share,
            decoder_threads=decoder_threads,
            watcher=watcher,
        )
    else:
        frames = video.collect(
            source,
            choose=lambda num_frames, rate: sampling.frame_indices(num_frames, rate, num_clips=clips),
            transform=lambda frame: resizing.by_card(frame, spatial),
            min_decoded_share=min_decoded_share,
            decoder_threads=decoder_threads,
            watcher=watcher,
        )
    sizes = {frame.shape[:2] for frame in frames.by_index.values()}
    if len(sizes) > 1:
        raise VideoError(f"{source}: the frames have different sizes ({len(sizes)} of them)")
    height, width = sizes.pop()
    return Views(
        indices=frames.indices,
        boxes=spatial.boxes(height, width, num_crops=crops),
        by_index=frames.by_index,
        num_frames=frames.num_frames,
        frames_per_second=frames.frames_per_second,
        counted=frames.counted,
        warnings=(*frames.warnings, *_of_time(source, frames, sampling, is_flow=flow is not None)),
    )


def of_resized(
    frames: Sequence[Resized], *, sampling: Sampling, spatial: Spatial, clips: int | None, crops: int | None
) -> Views:
    """The views of frames that were resized one by one before, and have the card's rate.

    Args:
        frames: (H, W, C) each, all of a video.
        sampling: Which of them.
        spatial: Which pixels, and how they were resized.
        clips: As for :func:`prepare`.
        crops: As for :func:`prepare`.

    Raises:
        VideoError: There are too many to be taken whole.
        InputError: As :func:`cut`.
    """
    check_clips(clips)
    indices = sampling.frame_indices(len(frames), num_clips=clips)
    return Views(
        indices=indices,
        boxes=spatial.boxes(*frames[0].shape[:2], num_crops=crops),
        by_index={index: frames[index] for index in unique(indices)},
        num_frames=len(frames),
        warnings=tuple(_of_length(len(frames), sampling.span())),
    )


def check_clips(clips: int | None) -> None:
    """Refuse a number of clips in place of the card's that nobody waits for.

    Raises:
        InputError: It is out of range.
    """
    if clips is not None and not 1 <= clips <= MAX_CLIPS:
        raise InputError(f"clips ({clips}) must be > 0 and <= {MAX_CLIPS}")


def _of_time(source: video.Source, frames: Frames, sampling: Sampling, *, is_flow: bool) -> Iterator[str]:
    """What had to be assumed of a video's rate, and whether it is too short."""
    has_a_rate_of_its_own = isinstance(source, FrameFolder) or (is_flow and frames.counted is None)
    is_unknown = frames.frames_per_second is None and not has_a_rate_of_its_own  # Note [Sources without a rate]
    if sampling.frames_per_second is not None and is_unknown:
        yield video.assumed_rate(sampling.frames_per_second)
    yield from _of_length(frames.num_frames, sampling.span(frames.frames_per_second, of_flow=is_flow))


def _of_length(num_frames: int, span: int) -> Iterator[str]:
    """Whether frames are too few for a clip."""
    if num_frames < span:
        yield too_few(num_frames, f"the {span} that a clip spans")
