"""What each position of the last feature maps says for each class: class-activation maps, from numbers alone.

The head of these networks averages the maps and is linear after that, so that a logit is a sum over positions, and no
gradient is needed to take it apart.

Letters: N views, C channels, T frames, H rows, W columns of the maps, P places of the head's window, K classes.

Source: Zhou et al. 2016, https://arxiv.org/abs/1512.04150, for averages over everything; windows that fit several times
follow from :class:`i3d_deploy.head.I3D`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from i3d_deploy.network import Positions, Window


@dataclass(frozen=True, kw_only=True)
class Head:
    """The end of a network in numbers.

    Attributes:
        weights: (K, C) float32 of the classifier.
        biases: (K,) float32.
        window: Over which positions the head averages; None: over all.
        positions: What is averaged where the window fits several times.
    """

    weights: NDArray[np.float32]
    biases: NDArray[np.float32]
    window: Window | None
    positions: Positions

    def class_maps(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Weigh the channels as the classifier does, position by position.

        Args:
            maps: (N, C, T, H, W), the last feature maps.

        Returns:
            (N, K, T, H, W): the logits that each position would give if all were like it, less the biases.
        """
        return np.moveaxis(np.tensordot(maps, self.weights, axes=(1, 1)), -1, 1)

    def is_linear(self, size: tuple[int, ...]) -> bool:
        """Whether logits are a sum over positions, plus the biases.

        Args:
            size: (T, H, W) of the maps.
        """
        return self.positions == "logits" or self._window(size) == size

    def shares(self, size: tuple[int, ...]) -> NDArray[np.float64]:
        """How much each position counts: by the number of places at which the window covers it.

        Args:
            size: (T, H, W) of the maps.

        Returns:
            (T, H, W), in all 1.
        """
        frames, rows, columns = map(shares_along, size, self._window(size))
        return frames[:, None, None] * rows[:, None] * columns

    def logits(self, class_maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, K) of class maps (N, K, T, H, W): those of the network up to rounding."""
        return self._answers(class_maps, self._window(class_maps.shape[2:])).astype(np.float32)[:, 0]

    def step_logits(self, class_maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of each place in time of the head's window; of a head that averages over everything, of each frame.

        Args:
            class_maps: (N, K, T, H, W).

        Returns:
            (N, steps, K). Where logits are averaged, their mean over the steps is that of the view.
        """
        frames, *sides = self._window(class_maps.shape[2:])
        frames = frames if self.window else 1
        steps = [
            self._answers(class_maps[:, :, first : first + frames], (frames, *sides))
            for first in range(class_maps.shape[2] - frames + 1)
        ]
        return np.concatenate(steps, axis=1).astype(np.float32)

    def step_frames(self) -> int:
        """Frames of the maps that one step spans."""
        return self.window[0] if self.window else 1

    def _window(self, size: tuple[int, ...]) -> tuple[int, ...]:
        return self.window or size

    def _answers(self, class_maps: NDArray[np.float32], window: tuple[int, ...]) -> NDArray[np.float64]:
        """Logits (N, 1, K) of averages over a window, all its places together."""
        windows = sliding_window_view(class_maps, window, axis=(2, 3, 4))
        places = windows.mean((-3, -2, -1), dtype=np.float64) + self.biases[:, None, None, None]  # N K *places
        places = places.reshape(*places.shape[:2], 1, -1)  # N K 1 P
        if self.positions == "logits":
            together = places.mean(-1)
        else:
            # The softmax of these is the mean of the places' softmaxes.
            normalized = places - _log_sum_exp(places, axis=1)
            together = _log_sum_exp(normalized, axis=3)[..., 0] - math.log(places.shape[-1])
        return np.moveaxis(together, 1, 2)


def shares_along(size: int, span: int) -> NDArray[np.float64]:
    """How much each position of one axis counts in the mean over all places of the mean over a window.

    Args:
        size: Positions of the axis.
        span: Those that the window covers, at most ``size``.

    Returns:
        (size,), in all 1.
    """
    places = size - span + 1
    return np.convolve(np.ones(places), np.ones(span)) / (places * span)


def _log_sum_exp(values: NDArray[Any], *, axis: int) -> NDArray[np.float64]:
    highest = values.max(axis, keepdims=True)
    return np.asarray(highest + np.log(np.exp(values - highest).sum(axis, keepdims=True)))
