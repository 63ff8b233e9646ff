"""Features of a video: a vector for each of its windows, as temporal detection and segmentation take them.

The frames are counted at the card's rate, resized as the card says and cut into windows; each crop of a window goes
through the network up to its head, and its last feature maps are averaged into one vector.

Note [Two averages]
    ``pool`` is the vector that the network classifies. The head of an Inception averages windows of 2x7x7 and moves
    them by one position: where its maps are larger, as those of 21 frames are (3x7x7), positions in the middle are in
    more windows and count more. ``mixed_5c`` is the plain mean over all positions of the maps that this endpoint, the
    last one of an Inception, gives; of another network, the mean over its last maps (a ResNet's ``layer4``). Both are
    the same where the head's window fits once, as it does for 9 to 16 frames of 224 pixels, and for networks whose head
    averages over everything.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import class_maps, flow, geometry, moments, video, windows
from i3d_deploy.card import Card
from i3d_deploy.errors import ArtifactError, InputError, VideoError
from i3d_deploy.flow_cache import FlowCache
from i3d_deploy.frames import Resized
from i3d_deploy.geometry import Box
from i3d_deploy.moments import Moment, MomentsWanted, Rate
from i3d_deploy.network import TwoStream
from i3d_deploy.network import Window as HeadWindow
from i3d_deploy.preprocessing import Spatial
from i3d_deploy.runners.runner import Runner
from i3d_deploy.video import Source
from i3d_deploy.windows import Last, Window

Layer = Literal["pool", "mixed_5c"]
LAYERS: tuple[Layer, ...] = get_args(Layer)
T = TypeVar("T")
Streams = Sequence[Runner]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What features depend on, beside the networks and the video.

    Attributes:
        window: Frames a window.
        stride: Frames from the first one of a window to that of the next.
        layer: "pool" or "mixed_5c": Note [Two averages].
        crops: 1, the center; or 10: top left, top right, bottom left, bottom right, center, then the same of the
            mirrored frame.
        last: What becomes of frames after the last full window: :data:`i3d_deploy.windows.Last`.
        frames_per_second: The rate that frames are counted at; None: the card's, or "source" where it has none.
        crop_size: Side of a crop in pixels; None: the card's.
    """

    window: int = 16
    stride: int = 16
    layer: Layer = "pool"
    crops: int = 1
    last: Last = "repeat"
    frames_per_second: Rate | None = None
    crop_size: int | None = None

    def __post_init__(self) -> None:
        windows.check(window=self.window, stride=self.stride, last=self.last)
        if self.layer not in LAYERS:
            raise InputError(f"layer ({self.layer!r}) is not one of {', '.join(LAYERS)}")
        if self.crops not in (1, 10):
            raise InputError(f"crops ({self.crops}) must be 1 or 10")
        rate = self.frames_per_second
        if rate is not None and rate != "source" and (isinstance(rate, str) or not 0 < rate <= 1000):
            raise InputError(f'frames_per_second ({rate}) must be "source", or a number > 0 and <= 1000')
        if self.crop_size is not None and self.crop_size < 1:
            raise InputError(f"crop_size ({self.crop_size}) must be > 0")

    def on_card(self, card: Card) -> Settings:
        """The same with the card's values where None was given."""
        return replace(
            self,
            frames_per_second=self.frames_per_second or card.sampling.frames_per_second or "source",
            crop_size=self.crop_size or card.spatial.crop_size,
        )


@dataclass(frozen=True, kw_only=True)
class Features:
    """The features of one video.

    Attributes:
        values: (windows, C) float32, or (windows, 10, C) of ten crops; of two streams, C is that of the RGB network
            followed by that of the flow network.
        start_frames: (windows,) int64, the first frame of each window, as counted.
        end_frames: (windows,) int64, the one after its last own frame.
        padded_frames: Frames that the last window was filled with.
        num_frames: Frames counted, of the flow where there is a flow stream.
        frames_per_second: Rate that they were counted at; None where that of the video is not known.
        warnings: What was wrong with the video, one line each.
    """

    values: NDArray[np.float32]
    start_frames: NDArray[np.int64]
    end_frames: NDArray[np.int64]
    padded_frames: int
    num_frames: int
    frames_per_second: float | None
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    @property
    def start_seconds(self) -> NDArray[np.float64] | None:
        """(windows,) float64, from the beginning of the video; None where the rate is not known."""
        return None if self.frames_per_second is None else self.start_frames / self.frames_per_second

    @property
    def end_seconds(self) -> NDArray[np.float64] | None:
        """(windows,) float64; None where the rate is not known."""
        return None if self.frames_per_second is None else self.end_frames / self.frames_per_second


def extract(
    source: Source,
    streams: Streams,
    settings: Settings,
    *,
    batch: int | None = None,
    min_decoded_share: float = video.MIN_DECODED_SHARE,
    flow_cache: FlowCache | None = None,
    on_windows: Callable[[int], None] | None = None,
) -> Features:
    """Compute the features of a video, in memory that grows with their number alone.

    Args:
        source: What :func:`i3d_deploy.moments.opened` takes.
        streams: One network, or one of frames and one of flow, in that order.
        settings: What is computed.
        batch: Crops of windows per run of a network; default: what suits the device. Only rounding depends on it.
        min_decoded_share: A damaged file needs at least this share of the frames that its container promises.
        flow_cache: Where optical flow is kept, if a network takes any.
        on_windows: Called with the number of windows that are done.

    Raises:
        VideoError: No usable frame, or too few for a window.
        InputError: The networks do not go together, or do not take such windows.
        ArtifactError: A network's answer is not finite.
    """
    spatial = check(streams, settings)
    settings = settings.on_card(streams[0].card)
    size = batch or streams[0].preferred_batch
    wanted = _wanted(streams, settings, spatial, flow_cache)
    with moments.opened(source, wanted, min_decoded_share=min_decoded_share) as opened:
        counted = _Counted(opened.moments)
        cut = windows.slide(counted, window=settings.window, stride=settings.stride, last=settings.last)
        places: list[Window[Moment]] = []
        rows: list[NDArray[np.float32]] = []
        for group in _grouped(cut, max(1, size // settings.crops)):
            rows.append(_vectors(group, streams, settings, spatial, batch=size))
            places += [replace(window, frames=()) for window in group]
            padded_frames = group[-1].padded_frames
            if on_windows is not None:
                on_windows(len(places))
    if not rows:
        raise VideoError(f"{moments.name_of(source)}: {_why_none(counted.count, streams, settings)}")
    return Features(
        values=np.concatenate(rows),
        start_frames=np.array([place.start_frame for place in places], np.int64),
        end_frames=np.array([place.end_frame for place in places], np.int64),
        padded_frames=padded_frames,
        num_frames=counted.count,
        frames_per_second=opened.frames_per_second,
        warnings=(*opened.warnings, *_of_gaps(places, settings, counted.count)),
    )


def check(streams: Streams, settings: Settings) -> Spatial:
    """Check that networks go together and take the windows; say which pixels they are shown.

    Args:
        streams: As for :func:`extract`.
        settings: As for :func:`extract`.

    Raises:
        InputError: They do not; the message says why.
        MissingExtraError: Nothing that is installed computes the flow.
    """
    cards = [runner.card for runner in streams]
    modalities = [card.modality for card in cards]
    if modalities not in (["rgb"], ["flow"], ["rgb", "flow"]):
        raise InputError(f"features are of an rgb network, a flow network or one of each, not of {modalities}")
    spatial = _spatial(cards[0], settings)
    wanted = [
        {"frames_per_second": settings.on_card(card).frames_per_second, **_spatial(card, settings).model_dump()}
        for card in cards
    ]
    for name, value in wanted[0].items():
        if wanted[-1][name] != value:
            raise InputError(
                f"both streams are shown the same frames, but {name} is {value} of {cards[0].network.name} and "
                f"{wanted[-1][name]} of {cards[-1].network.name}: make their cards agree"
            )
    for card in cards:
        problem = card.network.what_is_too_small(settings.window, spatial.crop_size)
        if problem is not None:
            raise InputError(problem.replace("clip_len", "window"))  # a window is the clip here
        if card.flow_method is not None:
            flow.implementation(card.flow_method)
    return spatial


def _spatial(card: Card, settings: Settings) -> Spatial:
    return card.spatial.replaced(num_crops=1, crop_size=settings.crop_size or card.spatial.crop_size)


def _wanted(streams: Streams, settings: Settings, spatial: Spatial, flow_cache: FlowCache | None) -> MomentsWanted:
    modalities = [runner.card.modality for runner in streams]
    return MomentsWanted(
        spatial=spatial,
        rate=settings.frames_per_second or "source",
        has_rgb="rgb" in modalities,
        flow_method=streams[-1].card.flow_method,
        flow_cache=flow_cache,
    )


def pool(maps: NDArray[np.float32], *, layer: Layer, head_window: HeadWindow | None) -> NDArray[np.float32]:
    """Average feature maps: Note [Two averages].

    Args:
        maps: (N, C, T', H', W').
        layer: Which average.
        head_window: Of the network's head; None: all of the maps.

    Returns:
        (N, C) float32.
    """
    sizes = maps.shape[2:]
    window = sizes if layer == "mixed_5c" or head_window is None else head_window
    shares = [class_maps.shares_along(size, span) for size, span in zip(sizes, window, strict=True)]
    return np.asarray(np.einsum("ncthw,t,h,w->nc", maps, *shares, optimize=True), np.float32)


def crop(frames: Sequence[Resized], boxes: Sequence[Box], *, crops: int) -> Resized:
    """Cut the crops of a window.

    Args:
        frames: (H, W, C), T of them.
        boxes: The crops.
        crops: 10: the same boxes of the mirrored frames follow; their flow points the other way.

    Returns:
        (crops, T, size, size, C).
    """
    faces = [np.stack(frames)]
    if crops == 10:
        faces.append(np.stack([flow.mirrored(frame) for frame in frames]))
    return np.stack([face[:, box.top : box.bottom, box.left : box.right] for face in faces for box in boxes])


class _Counted(Iterable[T]):
    """Things that are counted as they go by."""

    def __init__(self, things: Iterable[T]) -> None:
        self.count = 0
        self._things = things

    def __iter__(self) -> Iterator[T]:
        for thing in self._things:
            self.count += 1
            yield thing


def _grouped(things: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(things)
    while group := list(itertools.islice(rest, size)):
        yield group


def _vectors(
    group: Sequence[Window[Moment]], streams: Streams, settings: Settings, spatial: Spatial, *, batch: int
) -> NDArray[np.float32]:
    """The features of some windows, (windows, C) or (windows, 10, C)."""
    height, width = group[0].frames[0][0].shape[:2]
    boxes = list(spatial.boxes(height, width, num_crops=1))
    if settings.crops == 10:
        boxes = [*geometry.corner_crops(height, width, size=spatial.crop_size), *boxes]
    of_streams = []
    for number, runner in enumerate(streams):
        shown = [[moment[number] for moment in window.frames] for window in group]
        cut = np.concatenate([crop(frames, boxes, crops=settings.crops) for frames in shown])
        of_streams.append(_run(runner, cut, layer=settings.layer, batch=batch))
    values = np.concatenate(of_streams, axis=1)
    return values if settings.crops == 1 else values.reshape(len(group), settings.crops, -1)


def _run(runner: Runner, cut: Resized, *, layer: Layer, batch: int) -> NDArray[np.float32]:
    network = runner.card.network
    assert not isinstance(network, TwoStream), "streams are single networks"
    parts = (runner.feature_maps(cut[first : first + batch]) for first in range(0, len(cut), batch))
    values = np.concatenate([pool(maps, layer=layer, head_window=network.head_window) for maps in parts])
    if not np.isfinite(values).all():
        raise ArtifactError(f"features of {network.name} are not finite: the weights are damaged")
    return values


def _of_gaps(places: Sequence[Window[Moment]], settings: Settings, num_frames: int) -> Iterator[str]:
    """Whether frames are in no window, because the stride is longer than one."""
    count = windows.between(places, stride=settings.stride, num_frames=num_frames)
    if count:
        lie = "1 frame lies" if count == 1 else f"{count} frames lie"
        yield f"{lie} between the windows: the stride ({settings.stride}) is longer than a window ({settings.window})"


def _why_none(num_frames: int, streams: Streams, settings: Settings) -> str:
    if num_frames == 0:
        is_flow = streams[-1].card.modality == "flow"
        return "optical flow takes two frames or more" if is_flow else "there is no frame"
    return (
        f"{num_frames} frames are fewer than a window of {settings.window}, and what does not fill one is dropped: "
        "repeat, loop or shift (--last) makes one of them"
    )
