"""What overlapping views share of the stem, from numbers alone.

The stem is the only layer on raw frames. Of its temporal kernel it sees a clip as windows: 8 of 5 frames for 32 frames,
stride 4 and a padding of 2, whose first one has 2 frames of zeros before its 3. Clips that overlap and whose starts
agree modulo the distance of windows (8 raw frames for 32x2) have windows in common; crops of one frame have columns in
common.

Note [Shared columns]
    The stem convolution and its pool have stride 2 each. Crops that start an even number of columns from each other
    take the same columns of one convolution over all of them; whether that number is 0 or 2 modulo 4 decides between
    two pools over it. The zeros beside a crop make the difference: where it starts inside the frame its first two
    pooled columns, and where it ends inside its last one, are computed once more from a strip of 10, or 9, pixels.
    Crops an odd number of columns apart have nothing in common but windows. Of portrait frames all this holds of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from i3d_deploy.geometry import Box

LEFT_STRIP, RIGHT_STRIP = 10, 9
"""Pixels that the two pooled columns at a left border, and the one at a right border, look at."""

_LEFT_COLUMNS, _RIGHT_COLUMNS = 4, 3
"""Columns that the convolution makes of the two strips."""
_SIDE_UNIT = 4
"""Pixels for each pooled column."""
_SMALLEST_SIDE = 16
"""4 pooled columns: 2 and 1 at the borders, and one inside."""


@dataclass(frozen=True)
class Window:
    """Frames that the stem sees at once.

    Attributes:
        first: Frames of zeros before them, which stand for those before the clip.
        frames: Their numbers; fewer than the kernel has where the clip begins or ends.
    """

    first: int
    frames: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Temporal:
    """The stem in time: kernel, stride (its pool's included), and zeros before and after a clip."""

    kernel: int
    stride: int
    before: int
    after: int

    def windows(self, clip: Sequence[int]) -> tuple[Window, ...]:
        """The windows of a clip, in order.

        Args:
            clip: Numbers of its frames.
        """
        starts = range(-self.before, len(clip) + self.after - self.kernel + 1, self.stride)
        return tuple(
            Window(max(-start, 0), tuple(clip[max(start, 0) : max(start + self.kernel, 0)])) for start in starts
        )


@dataclass(frozen=True, kw_only=True)
class Region:
    """Crops that are convolved together.

    Attributes:
        start: First column (row, in portrait) of all of them.
        stop: The one after the last.
        crops: Their places in the order of crops.
    """

    start: int
    stop: int
    crops: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How the crops of a frame lie, seen along the side in which they differ.

    Attributes:
        is_portrait: They lie one above the other: "columns" are rows.
        height: Rows of every crop.
        spans: (start, stop) of the columns of each crop, counted from the first column that a crop has.
        regions: What is convolved together, counted so too.
        origin: First row and first column that a crop has.
    """

    is_portrait: bool
    height: int
    spans: tuple[tuple[int, int], ...]
    regions: tuple[Region, ...]
    origin: tuple[int, int] = field(compare=False)

    @property
    def side(self) -> int:
        """Of a crop along the columns."""
        return self.spans[0][1] - self.spans[0][0]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the part of a frame that the crops have, upright."""
        width = max(stop for _, stop in self.spans)
        return (width, self.height) if self.is_portrait else (self.height, width)

    @property
    def columns(self) -> int:
        """Columns that the convolution makes of one window."""
        return sum(self._columns(region) for region in self.regions)

    def starts(self, region: Region) -> list[int]:
        """Where crops start inside the region."""
        return sorted({self.spans[crop][0] for crop in region.crops} - {region.start})

    def stops(self, region: Region) -> list[int]:
        """Where crops end inside the region."""
        return sorted({self.spans[crop][1] for crop in region.crops} - {region.stop})

    def _columns(self, region: Region) -> int:
        borders = len(self.starts(region)) * _LEFT_COLUMNS + len(self.stops(region)) * _RIGHT_COLUMNS
        return (region.stop - region.start) // 2 + borders


def shape_of(boxes: Sequence[Box]) -> Shape | None:
    """Find what crops have in common: Note [Shared columns].

    Args:
        boxes: The crops, all of one size.

    Returns:
        None where this module knows no way to share: crops that differ in rows and in columns, or whose sides are not
        multiples of 4 pixels, which would end in another half of a pool's stride, or below 16.
    """
    rows = {(box.top, box.bottom) for box in boxes}
    columns = {(box.left, box.right) for box in boxes}
    sides = {stop - start for start, stop in rows | columns}
    if min(len(rows), len(columns)) > 1 or any(side % _SIDE_UNIT or side < _SMALLEST_SIDE for side in sides):
        return None
    is_portrait = len(rows) > 1
    across, along = (columns, rows) if is_portrait else (rows, columns)
    first = min(along)[0]
    edges = [(box.top, box.bottom) if is_portrait else (box.left, box.right) for box in boxes]
    spans = tuple((start - first, stop - first) for start, stop in edges)
    top_or_left, stop = across.pop()
    return Shape(
        is_portrait=is_portrait,
        height=stop - top_or_left,
        spans=spans,
        regions=tuple(_regions(spans)),
        origin=(first, top_or_left) if is_portrait else (top_or_left, first),
    )


def _regions(spans: Sequence[tuple[int, int]]) -> Iterator[Region]:
    for parity in (0, 1):
        crops = tuple(number for number, (start, _) in enumerate(spans) if start % 2 == parity)
        unique = {spans[crop] for crop in crops}
        start, stop = min((start for start, _ in unique), default=0), max((stop for _, stop in unique), default=0)
        if stop - start < sum(stop - start for start, stop in unique) or len(unique) == 1:
            yield Region(start=start, stop=stop, crops=crops)
            continue
        for crop in crops:
            yield Region(start=spans[crop][0], stop=spans[crop][1], crops=(crop,))


def saved_share(windows: Sequence[Sequence[Window]], shape: Shape) -> float:
    """Share of the stem's multiply-accumulates that need not be done; negative where there would be more.

    Args:
        windows: Of each clip.
        shape: Of the crops.
    """
    per_view = [window for of_clip in windows for window in of_clip]
    plain = _frames(per_view) * len(shape.spans) * (shape.side // 2)
    return 1 - _frames(set(per_view)) * shape.columns / plain


def _frames(windows: Sequence[Window] | set[Window]) -> int:
    return sum(len(window.frames) for window in windows)
