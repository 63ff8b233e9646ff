"""What the views of a video say for a class, put back where it comes from: on the frames and pixels of the video.

Evidence is what a position of the last feature maps adds to a logit. Over the positions of a view, it and the bias sum
up to the logit, so that evidence tells by how much each part of the video made the class what it is.

Note [Evidence on frames]
    A frame of the video shows the mean over all views that saw it, each interpolated between the centers of its
    positions, in time and in space. Of crops that overlap, one counts for more the further a pixel is from its edge:
    then no edge of a crop shows, which might be taken for one of the evidence.
    A clip has seen the frames from its first to its last one, also those between two that it takes; a video that is
    repeated to fill a clip is seen several times. A frame or pixel that lies in no view has no evidence: nobody looked
    there, and the nearest frame that was seen may show something else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from i3d_deploy.class_maps import Head
from i3d_deploy.geometry import Box
from i3d_deploy.network import TwoStream
from i3d_deploy.receptive_fields import Centers, centers, interpolation
from i3d_deploy.runners.runner import Runner
from i3d_deploy.sampling import Indices
from i3d_deploy.views import Views


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the views of a video say for each class.

    Attributes:
        head: The end of the network.
        class_maps: (V, K, T', H', W') float32, from :meth:`i3d_deploy.class_maps.Head.class_maps`.
        centers: Where in a view their frames, rows and columns are.
        indices: (clips, clip_len) frames of each clip; views are crop by crop, each with all clips.
        boxes: The crops, in the resized frame.
        frame_size: Height and width of the resized frame.
        num_frames: Frames of the video.
        frames_per_second: Of the video; None where it is not known.
    """

    head: Head
    class_maps: NDArray[np.float32]
    centers: tuple[Centers, Centers, Centers]
    indices: Indices
    boxes: tuple[Box, ...]
    frame_size: tuple[int, int]
    num_frames: int
    frames_per_second: float | None = None

    @property
    def is_exact(self) -> bool:
        """Whether evidence sums up to the logits; where probabilities are averaged, to the mean of several logits."""
        return self.head.is_linear(self.class_maps.shape[2:])

    @property
    def logits(self) -> NDArray[np.float32]:
        """(V, K), those of the network up to rounding."""
        return self.head.logits(self.class_maps)

    def of_class(self, index: int) -> NDArray[np.float64]:
        """Evidence for a class.

        Args:
            index: The class.

        Returns:
            (V, T', H', W'). Its sum over a view and the class's bias are the view's logit.
        """
        return self.class_maps[:, index] * self.head.shares(self.class_maps.shape[2:])

    def on_frames(self, index: int) -> FrameEvidence:
        """The same on the frames of the video: Note [Evidence on frames]."""
        return FrameEvidence(self, index)


class FrameEvidence:
    """Evidence for one class on the frames of a video: Note [Evidence on frames].

    Attributes:
        sees_everything: Whether every pixel of every frame was seen.
    """

    def __init__(self, evidence: Evidence, index: int) -> None:
        height, width = evidence.frame_size
        self._seen = sightings(evidence.indices)
        self._frames = evidence.centers[0]
        of_class = evidence.of_class(index).astype(np.float32)
        self._by_crop = of_class.reshape(len(evidence.boxes), len(evidence.indices), *of_class.shape[1:])
        box = evidence.boxes[0]
        rows, columns = box.bottom - box.top, box.right - box.left
        self._rows = interpolation(evidence.centers[1], np.arange(rows, dtype=np.float64))
        self._columns = interpolation(evidence.centers[2], np.arange(columns, dtype=np.float64))
        self._boxes = evidence.boxes
        self._crop_weights = np.outer(_tent(rows), _tent(columns))
        self._weights = np.zeros((height, width), np.float32)
        for box in evidence.boxes:
            self._weights[box.top : box.bottom, box.left : box.right] += self._crop_weights
        self._sampled = np.unique(evidence.indices).tolist()
        self.sees_everything = bool(self._weights.all()) and len(self._seen) >= evidence.num_frames

    def at(self, frame: int) -> NDArray[np.float32] | None:
        """Evidence on a frame.

        Args:
            frame: Its number.

        Returns:
            (H, W) of the resized frame, NaN where no crop is; None where no clip saw the frame.
        """
        seen = self._seen.get(frame)
        if seen is None:
            return None
        total = np.zeros_like(self._weights)
        in_time = interpolation(self._frames, np.array([place for _, place in seen]))  # S T'
        clips = [clip for clip, _ in seen]
        for box, by_clip in zip(self._boxes, self._by_crop, strict=True):
            mean = np.einsum("st,sthw->hw", in_time, by_clip[clips]) / len(seen)
            in_crop = self._rows @ mean @ self._columns.T
            total[box.top : box.bottom, box.left : box.right] += self._crop_weights * in_crop
        with np.errstate(invalid="ignore"):
            return np.asarray(total / self._weights)

    def highest(self) -> float:
        """The highest evidence on any frame that a clip takes; 0 or less where none speaks for the class."""
        return max(float(np.nanmax(found)) for frame in self._sampled if (found := self.at(frame)) is not None)


def _tent(length: int) -> NDArray[np.float32]:
    """1 at either end, and one more with every step towards the middle."""
    return np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1)).astype(np.float32)


def sightings(indices: Indices) -> dict[int, list[tuple[int, float]]]:
    """When the clips saw the frames of the video.

    Args:
        indices: (clips, clip_len) frames of each clip.

    Returns:
        For each frame that was seen, clips and the place in each, from 0 and with fractions between two of its frames.
    """
    seen = defaultdict(list)
    for clip, frames in enumerate(indices.tolist()):
        for place, (frame, following) in enumerate(zip(frames, [*frames[1:], -1], strict=True)):
            seen[frame].append((clip, float(place)))
            for between in range(frame + 1, following):
                seen[between].append((clip, place + (between - frame) / (following - frame)))
    return dict(seen)


def gather(
    runner: Runner, prepared: Views, *, batch: int | None = None, on_views: Callable[[int, int], None] | None = None
) -> Evidence:
    """Run a network over the views of a video up to its head.

    Args:
        runner: Of a checkpoint.
        prepared: The views.
        batch: Views per run; default: what suits the device.
        on_views: Called with (views done, views in all) after each run.

    Raises:
        InputError: The runner gives logits alone.
    """
    head, network = head_of(runner), runner.card.network
    assert not isinstance(network, TwoStream)
    class_maps: list[NDArray[np.float32]] = []
    done = 0
    for views in prepared.batches(batch or runner.preferred_batch):
        # Of hundreds of classes as well, smaller than the feature maps of a ResNet.
        class_maps.append(head.class_maps(runner.feature_maps(views)))
        done += len(views)
        if on_views is not None:
            on_views(done, len(prepared))
    frames, rows, columns, _ = prepared.view_shape
    height, width = next(iter(prepared.by_index.values())).shape[:2]
    return Evidence(
        head=head,
        class_maps=np.concatenate(class_maps),
        centers=centers(network, (frames, rows, columns)),
        indices=prepared.frame_indices,
        boxes=prepared.boxes,
        frame_size=(height, width),
        num_frames=prepared.num_frames,
        frames_per_second=prepared.frames_per_second,
    )


def head_of(runner: Runner) -> Head:
    """The end of a network.

    Raises:
        InputError: The runner gives logits alone.
    """
    weights, biases = runner.classifier()
    network = runner.card.network
    assert not isinstance(network, TwoStream), "two networks have no classifier in common"
    return Head(weights=weights, biases=biases, window=network.head_window, positions=network.positions)
