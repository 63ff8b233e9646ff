"""Two loaded networks as one: views of five channels in, the sum of both networks' logits out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from i3d_deploy.errors import InputError
from i3d_deploy.frames import Resized
from i3d_deploy.runners.runner import Runner, RunnerInfo
from i3d_deploy.two_stream import combine


class TwoStreamRunner(Runner):
    """A network of frames and one of optical flow.

    Args:
        rgb: The network of frames; closed with this one.
        flow: The network of flow; closed with this one.

    Raises:
        InputError: They do not go together.
    """

    def __init__(self, rgb: Runner, flow: Runner) -> None:
        super().__init__()
        self.rgb, self.flow = rgb, flow
        self.card = combine(rgb.card, flow.card)
        self.notes = tuple(dict.fromkeys((*rgb.notes, *flow.notes)))
        self.preferred_batch = min(rgb.preferred_batch, flow.preferred_batch)
        first, second = rgb.info, flow.info
        self.info = RunnerInfo(
            backend=_joined(first.backend, second.backend),
            device=_joined(first.device, second.device),
            provider=_joined(first.provider, second.provider),
            precision=_joined(first.precision, second.precision),
            threads=max(first.threads, second.threads),
        )

    @property
    def streams(self) -> tuple[Runner, ...]:
        """The network of frames, then that of flow."""
        return self.rgb, self.flow

    def feature_maps(self, views: Resized) -> NDArray[np.float32]:
        """Refuse: each of the two networks has its own."""
        raise InputError("two streams have no feature maps in common: give one of them alone, RGB or flow")

    def classifier(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Refuse, as :meth:`feature_maps`."""
        raise InputError("two streams are not explained together: give one of them alone, RGB or flow")

    def transfer(self, views: Resized) -> None:
        """Copy to the device what both networks take."""
        with self.turn():
            for runner, of_stream in zip(self.streams, _streams(views), strict=True):
                runner.transfer(of_stream)

    def _run(self, inputs: Resized) -> NDArray[np.float32]:
        frames, flow = _streams(inputs)
        return np.asarray(self.rgb.infer(frames) + self.flow.infer(flow), np.float32)

    def _free(self) -> None:
        self.rgb.close()
        self.flow.close()


def _streams(views: Resized) -> tuple[Resized, Resized]:
    """The frames of (N, T, H, W, 5) views, and their flow."""
    return np.ascontiguousarray(views[..., :3]), np.ascontiguousarray(views[..., 3:])


def _joined(first: str, second: str) -> str:
    return first if first == second else f"{first} + {second}"
