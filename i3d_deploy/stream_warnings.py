"""What predictions of a stream say about how its frames came.

Note [Frames that came too seldom]
    A source that is slower than its frames are counted at shows frames more than once. That is told of a window where
    fewer than seven tenths of the frames that are taken of it are different: so it is of 15 frames a second counted at
    25 and of 20 at 30, and is not of 20 at 25 and of 25 at 30. A pause between two frames of a window is told from half
    a second on, where it is three times as long as frames are apart in the median.

Note [Breaks]
    No window spans a pause longer than itself, a lost connection or a change of size: counting begins anew after it.
    All of these that lay between the frames are told of the first window after them, with how long the longest pause
    was; where the caller's times may begin anywhere after a lost connection, as those given to libi3d may, that is not
    known, and the connection alone is told.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TypeVar

from i3d_deploy.frames import too_few
from i3d_deploy.stream_windows import StreamWindow

K = TypeVar("K")

_LEAST_SHARE = 0.7
_LEAST_PAUSE_SECONDS = 0.5
_LEAST_PAUSE_FRAMES = 3
"""Note [Frames that came too seldom]."""


def of_window(window: StreamWindow[K], taken: Collection[int]) -> Iterator[str]:
    """What frames that came too seldom did to a window, one line each: Note [Frames that came too seldom].

    Args:
        window: The window.
        taken: Those of its frames that its clips take, each once.
    """
    came = len({window.shown_seconds[index] for index in taken})
    if came < _LEAST_SHARE * len(taken):
        rate = len(window.frames) / (window.end_seconds - window.start_seconds)
        yield too_few(came, f"the {len(taken)} that are taken of a window at {rate:.4g} a second")
    shown = sorted(set(window.shown_seconds))
    distances = sorted(after - before for before, after in itertools.pairwise(shown))
    longest, usual = (distances[-1], distances[len(distances) // 2]) if distances else (0.0, 0.0)
    if longest >= max(_LEAST_PAUSE_SECONDS, _LEAST_PAUSE_FRAMES * usual):
        yield f"no frame came for {longest:.3g} s of the window: those before and after are repeated"


@dataclass(frozen=True, kw_only=True)
class Breaks:
    """What made counting begin anew before a window: Note [Breaks].

    Attributes:
        pause_seconds: The longest time that no frame came for, where that was longer than a window.
        is_lost: Whether the connection was lost.
        sizes: The latest change of the frames' size, as WIDTHxHEIGHT before and after.
    """

    pause_seconds: float = 0.0
    is_lost: bool = False
    sizes: tuple[str, str] | None = None

    def followed_by(self, later: Breaks) -> Breaks:
        """Both, in the order in which they came."""
        return Breaks(
            pause_seconds=max(self.pause_seconds, later.pause_seconds),
            is_lost=self.is_lost or later.is_lost,
            sizes=later.sizes or self.sizes,
        )

    def lines(self) -> Iterator[str]:
        """What is told of the first window after them, one line each."""
        if self.pause_seconds > 0:
            yield f"no frame came for {self.pause_seconds:.3g} s before the window, and none spans so long a pause"
        if self.is_lost:
            yield "the connection was lost before the window, and none spans that"
        if self.sizes is not None:
            yield f"frames changed from {self.sizes[0]} to {self.sizes[1]} before the window, and none spans a change"
