"""From a video to the optical flow wanted of it: computed from its frames, or read from a folder of flow images.

Flow is computed between frames that were resized as the card says, since that is how the data of two-stream networks
was made, and in 8 bits. A folder with ``x_00001.jpg``, ``y_00001.jpg`` and so on holds flow that was computed before;
where colours are wanted too, ``img_00001.jpg`` and so on lie beside it. Of such a folder a list gives the number of
pairs.

Values are pixels of the frames that the flow was computed between. They stay as they are when flow is resized, so what
a network is trained on should be as large as what it will be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from i3d_deploy import flow, flow_cache, flow_images, video
from i3d_deploy.card import Card, FlowMethod
from i3d_deploy.flow_cache import FlowCache
from i3d_deploy.flow_images import StoredFlow
from i3d_deploy.frames import Frame, Frames, Nobody, Resized, Watcher
from i3d_deploy.sampling import Indices
from i3d_deploy.video import Source

Choose = Callable[[int, float | None], tuple[Indices, Indices]]
"""From the number of frames, and of frames per second where that is known, to the flow frames wanted and the frames
that these lie between: :meth:`i3d_deploy.preprocessing.Sampling.flow_indices`."""


@dataclass(frozen=True, kw_only=True)
class FlowWanted:
    """What flow is wanted.

    Attributes:
        method: How it is computed.
        with_rgb: Whether each flow frame has the colours of the frame that it starts from before it, in 5 channels.
        cache: Where it is kept; None: nowhere.
    """

    method: FlowMethod
    with_rgb: bool = False
    cache: FlowCache | None = None


def wanted_of(card: Card, *, cache: FlowCache | None = None) -> FlowWanted | None:
    """The flow that a card wants; None where it wants none.

    Args:
        card: The card.
        cache: Where it is kept.
    """
    if card.flow_method is None:
        return None
    return FlowWanted(method=card.flow_method, with_rgb=card.modality == "rgb+flow", cache=cache)


def collect(
    source: Source,
    wanted: FlowWanted,
    *,
    choose: Choose,
    resize: Callable[[Frame], Frame],
    transform: Callable[[Frame], Frame] | None = None,
    min_decoded_share: float = video.MIN_DECODED_SHARE,
    trust_count: bool = False,
    decoder_threads: int | None = None,
    watcher: Watcher | None = None,
) -> Frames:
    """Read or compute the flow frames wanted of a source.

    Args:
        source: What :func:`i3d_deploy.video.collect` takes, or a folder of flow images, listed or not.
        wanted: What flow.
        choose: Which frames. N flow images are those of N + 1 frames of unknown rate.
        resize: Applied to the frames before the flow is computed, and to flow images.
        transform: Applied to flow that was computed, and to flow images in place of ``resize``; None: nothing is.
        min_decoded_share: As for :func:`i3d_deploy.video.collect`.
        trust_count: As for :func:`i3d_deploy.video.collect`; flow is then computed in one thread as well.
        decoder_threads: As for :func:`i3d_deploy.video.collect`.
        watcher: Told of the flow frames as they come.

    Returns:
        ``by_index`` has (H, W, 2) or (H, W, 5) uint8 by number of the flow frame; ``num_frames`` counts the frames that
        the flow lies between, one more than the pairs of a folder. ``counted`` is None where flow was read.

    Raises:
        VideoError: No usable frame, or only one.
        MissingExtraError: Nothing that is installed computes the flow.
    """
    watcher = watcher or Nobody()
    listed = flow_images.find(source)
    if listed is not None:
        return _read(listed, wanted, choose, transform or resize, watcher=watcher)
    flow.implementation(wanted.method)  # before the long steps
    plan = _Plan(choose)
    frames = video.collect(
        source,
        choose=plan.choose,
        transform=resize,
        min_decoded_share=min_decoded_share,
        trust_count=trust_count,
        decoder_threads=decoder_threads,
        watcher=_Stopping(watcher),
    )
    watcher.planned(plan.indices)
    by_index: dict[int, Resized] = {}
    numbers = np.unique(plan.indices).tolist()
    workers = 1 if trust_count else None
    for number, computed in zip(numbers, _computed(frames, plan, numbers, wanted, workers=workers), strict=True):
        watcher.before_frame()
        colours = [np.asarray(frames.by_index[int(plan.counted[number])], np.uint8)] if wanted.with_rgb else []
        found = np.concatenate([*colours, computed], axis=2) if colours else computed
        by_index[number] = found if transform is None else transform(found)
        watcher.decoded(number, by_index[number])
    return Frames(
        indices=plan.indices,
        by_index=by_index,
        num_frames=frames.num_frames,
        frames_per_second=frames.frames_per_second,
        counted=plan.counted,
        warnings=frames.warnings,
    )


class _Plan:
    """The flow frames wanted, once the frames of the video are counted."""

    def __init__(self, choose: Choose) -> None:
        self._choose = choose
        self.indices: Indices = np.empty((0, 0), np.int64)
        self.counted: Indices = np.empty(0, np.int64)

    def choose(self, num_frames: int, frames_per_second: float | None) -> Indices:
        """The frames between which flow is wanted: one line for each end."""
        self.indices, self.counted = self._choose(num_frames, frames_per_second)
        numbers = np.unique(self.indices)
        return np.stack([self.counted[numbers], self.counted[numbers + 1]])


@dataclass(frozen=True)
class _Stopping:
    """Lets a watcher stop the reading of the frames, of which it learns nothing else."""

    inner: Watcher

    def planned(self, indices: Indices) -> None: ...

    def before_frame(self) -> None:
        self.inner.before_frame()

    def decoded(self, index: int, frame: Resized) -> None: ...


def _computed(
    frames: Frames, plan: _Plan, numbers: list[int], wanted: FlowWanted, *, workers: int | None
) -> Iterator[flow.FlowFrame]:
    """The flow frames of some numbers, in order."""
    places = ([int(plan.counted[number + end]) for end in (0, 1)] for number in numbers)
    pairs = ((frames.by_index[first], frames.by_index[second]) for first, second in places)
    return flow_cache.compute_each(pairs, method=wanted.method, cache=wanted.cache, workers=workers)


def _read(
    listed: StoredFlow,
    wanted: FlowWanted,
    choose: Choose,
    resize: Callable[[Frame], Frame],
    *,
    watcher: Watcher,
) -> Frames:
    """Read flow that was computed before; its rate is not known, and it is taken as it is."""
    indices, _ = choose(listed.num_flows + 1, None)
    watcher.planned(indices)
    by_index: dict[int, Resized] = {}
    for number in np.unique(indices).tolist():
        watcher.before_frame()
        if wanted.with_rgb:
            by_index[number] = np.concatenate(listed.read_with_frame(number, resize=resize), axis=2)
        else:
            by_index[number] = listed.read(number, resize=resize)
        watcher.decoded(number, by_index[number])
    return Frames(indices=indices, by_index=by_index, num_frames=listed.num_flows + 1)
