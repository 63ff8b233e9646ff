"""Evidence that is worked out by hand, for tests of what is drawn of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from i3d_deploy.class_maps import Head
from i3d_deploy.evidence import Evidence
from i3d_deploy.geometry import Box
from i3d_deploy.network import Window
from i3d_deploy.predictions import Explanation, Prediction, average_views

LABELS = ("run", "jump")


def evidence(
    maps: np.ndarray,
    *,
    indices: Sequence[Sequence[int]],
    num_frames: int,
    frame_size: tuple[int, int] = (4, 6),
    boxes: tuple[Box, ...] | None = None,
    window: Window | None = None,
    frames_per_second: float | None = 10.0,
) -> Evidence:
    """Evidence of maps of one channel, (V, T', H', W'): for "run" the maps themselves, for "jump" the opposite.

    Positions look at the middles of equal parts of a view.
    """
    weights = np.array([[1.0], [-1.0]], np.float32)
    head = Head(weights=weights, biases=np.zeros(2, np.float32), window=window, positions="logits")
    boxes = boxes or (Box(0, 0, frame_size[1], frame_size[0]),)
    sizes = len(indices[0]), boxes[0].bottom, boxes[0].right - boxes[0].left
    middles = [(np.arange(n) + 0.5) * size / n - 0.5 for size, n in zip(sizes, maps.shape[1:], strict=True)]
    return Evidence(
        head=head,
        class_maps=head.class_maps(maps[:, None].astype(np.float32)),
        centers=(middles[0], middles[1], middles[2]),
        indices=np.array(indices, np.int64),
        boxes=boxes,
        frame_size=frame_size,
        num_frames=num_frames,
        frames_per_second=frames_per_second,
    )


def explanation(found: Evidence, *, index: int = 0) -> Explanation:
    """What evidence explains."""
    prediction = Prediction(
        labels=LABELS,
        logits=found.logits,
        probabilities=average_views(found.logits, over="probabilities"),
        frames=found.num_frames,
    )
    return Explanation(prediction=prediction, index=index, evidence=found, averaging="probabilities")
