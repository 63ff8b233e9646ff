"""The frames wanted of a video: which, what is done to them, and who follows while they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from i3d_deploy.sampling import Indices

Frame = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""

Resized = NDArray[np.uint8 | np.float32]
"""(H, W, C) values of 0 to 255: a frame after a transform, which may not round."""

Choose = Callable[[int, float | None], Indices]
"""From the number of frames, and of frames per second where that is known, to the indices wanted, (clips, clip_len)."""


@dataclass(frozen=True, kw_only=True)
class Frames:
    """The frames wanted of a video.

    Attributes:
        indices: (clips, clip_len) what was wanted, in [0, num_frames).
        by_index: Each unique frame, RGB, after the transform.
        num_frames: Frames that decode.
        frames_per_second: As the container says; None where it does not, or there is none.
        counted: (N,) of flow: the frame of the video that each number stands for; None: numbers are those of frames.
        warnings: What was wrong with the source, one line each.
    """

    indices: Indices
    by_index: dict[int, Resized]
    num_frames: int
    frames_per_second: float | None = None
    counted: Indices | None = None
    warnings: tuple[str, ...] = ()


class Watcher(Protocol):
    """Follows a source while it is read, in the thread that reads; what a method raises ends the reading."""

    def planned(self, indices: Indices) -> None:
        """Learn what will be read; once more where the count proved wrong, and all that came before is void.

        Args:
            indices: (clips, clip_len), from the count that the source promises.
        """

    def before_frame(self) -> None:
        """Called before each frame of the source, wanted or not."""

    def decoded(self, index: int, frame: Resized) -> None:
        """Take a wanted frame, after the transform; they come in ascending order."""


class Nobody:
    """A watcher of nothing."""

    def planned(self, indices: Indices) -> None: ...

    def before_frame(self) -> None: ...

    def decoded(self, index: int, frame: Resized) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is done with the frames of any kind of source.

    Attributes:
        choose: Which frames are wanted.
        transform: Applied to each unique frame as it is decoded, so that large frames are never kept.
        watcher: Told of the frames as they come.
    """

    choose: Choose
    transform: Callable[[Frame], Resized]
    watcher: Watcher

    def planned(self, num_frames: int, frames_per_second: float | None = None) -> Indices:
        """Choose, and tell the watcher."""
        indices = self.choose(num_frames, frames_per_second)
        self.watcher.planned(indices)
        return indices

    def collect(
        self, num_frames: int, read: Callable[[int], Frame], *, frames_per_second: float | None = None
    ) -> Frames:
        """Read what is wanted of frames whose number is known and of which each can be had by its index.

        Args:
            num_frames: Frames there are.
            read: Gives the frame of an index.
            frames_per_second: Their rate, where it is known.
        """
        indices = self.planned(num_frames, frames_per_second)
        by_index: dict[int, Resized] = {}
        for index in unique(indices):
            self.watcher.before_frame()
            by_index[index] = self.transform(read(index))
            self.watcher.decoded(index, by_index[index])
        return Frames(indices=indices, by_index=by_index, num_frames=num_frames, frames_per_second=frames_per_second)


def unique(indices: Indices) -> list[int]:
    """Each index once, in ascending order."""
    return [int(index) for index in np.unique(indices)]


def too_few(num_frames: int, than: str) -> str:
    """Say that frames are repeated, since there are fewer than what is given in words."""
    return (
        f"1 frame is fewer than {than}: it is repeated"
        if num_frames == 1
        else f"{num_frames} frames are fewer than {than}: they are repeated"
    )
