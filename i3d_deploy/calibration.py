"""The views that a quantised engine is calibrated on: a few of every clip, decoded as the card says.

Eight bits cover a range of numbers, and which range a layer needs shows only on real clips: noise and drawings saturate
a network differently. The views are spread evenly over the videos and, within a video, over its clips and crops, so
that a list sorted by class gives views of every class. The same videos give the same views.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import files, video, views
from i3d_deploy.card import Calibration, Card
from i3d_deploy.errors import InputError, VideoError

DEFAULT_VIEWS = 32
"""Few are enough, because a view gives each layer hundreds of thousands of values: 8 to 256 views of a trained network
give the same divergence within a third, 4 give twice as much."""


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Videos to calibrate on, and how many views of them.

    Attributes:
        paths: The videos that views are cut from, in order.
        num_views: Views in all, at least one per video.
        left_out: Why other videos are not among them, one line each.
    """

    paths: tuple[Path, ...]
    num_views: int
    left_out: tuple[str, ...] = ()

    def views(self, card: Card, *, on_views: Callable[[int, int], None] | None = None) -> Iterator[NDArray[np.uint8]]:
        """Decode and cut, one video in memory at a time.

        Args:
            card: Whose pipeline.
            on_views: Called with (views given, views in all) after each view.

        Yields:
            (1, T, H, W, 3) uint8.

        Raises:
            VideoError: A video cannot be decoded.
        """
        given = 0
        counts = shares(self.num_views, len(self.paths))
        for number, (path, count) in enumerate(zip(self.paths, counts, strict=True)):
            prepared = views.prepare(path, card)
            wanted = spread(count, len(prepared), turn=number)
            for place, view in enumerate(prepared.batches(1)):
                if place not in wanted:
                    continue
                yield view
                given += 1
                if on_views is not None:
                    on_views(given, self.num_views)

    def described(self) -> Calibration:
        """What the card says of them."""
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(bytes.fromhex(files.sha256(path)))
        return Calibration(num_videos=len(self.paths), num_views=self.num_views, sha256=digest.hexdigest())


def choose(source: Path, *, num_views: int = DEFAULT_VIEWS, views_per_video: int) -> Clips:
    """Choose videos of a list or folder, evenly spread over it.

    Args:
        source: A folder, searched through and through; a ``.txt`` list of videos, one a line, with or without their
            labels, its paths starting from its folder; or one video.
        num_views: Views wanted in all.
        views_per_video: Views that a video has; of few videos there are fewer views in all.

    Raises:
        InputError: ``source`` names no video.
        VideoError: None of its videos can be opened.
    """
    if num_views < 1:
        raise InputError(f"calibration views ({num_views}) must be > 0")
    found = find(source)
    taken = [found[index] for index in spread(num_views, len(found), turn=0)]
    paths, left_out = [], []
    for path in taken:
        try:
            video.check(path)
        except VideoError as error:
            left_out.append(f"calibration leaves out a video: {error}")
        else:
            paths.append(path)
    if not paths:
        raise VideoError(f"{source}: none of {len(taken)} videos to calibrate on can be opened; {left_out[0]}")
    return Clips(paths=tuple(paths), num_views=min(num_views, len(paths) * views_per_video), left_out=tuple(left_out))


def find(source: Path) -> tuple[Path, ...]:
    """The videos of a list or folder, or a video itself, as for :func:`choose`."""
    if source.is_dir():
        found = tuple(sorted(path for path in source.rglob("*") if path.suffix.lower() in video.VIDEO_SUFFIXES))
        if not found:
            raise InputError(f"{source}: the folder holds no video to calibrate on")
        return found
    problem = files.what_is_wrong(source)
    if problem is not None:
        raise InputError(f"{source}: {problem}; give a list or a folder of videos to calibrate on")
    return _listed(source) if source.suffix.lower() == ".txt" else (source,)


def _listed(path: Path) -> tuple[Path, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file with one video a line") from error
    found = tuple(_without_labels(path.parent, line.strip()) for line in lines if line.strip())
    if not found:
        raise InputError(f"{path}: the list names no video to calibrate on")
    return found


def _without_labels(root: Path, line: str) -> Path:
    """The video of a line; numbers behind it are labels unless they belong to the name of a file."""
    name = line
    while not (root / name).exists() and name.rpartition(" ")[2].isdecimal() and " " in name:
        name = name.rpartition(" ")[0].rstrip()
    return root / name


def shares(num_views: int, num_videos: int) -> tuple[int, ...]:
    """Views of each video: as equal as can be, the larger numbers spread evenly."""
    ends = [number * num_views // num_videos for number in range(num_videos + 1)]
    return tuple(end - start for start, end in itertools.pairwise(ends))


def spread(count: int, total: int, *, turn: int) -> tuple[int, ...]:
    """Choose some of a number of things, evenly over all of them.

    Args:
        count: How many; more than ``total`` are ``total``.
        total: Things there are.
        turn: Where to begin, so that the first of one video, the second of the next is taken and so on.

    Returns:
        Ascending, in [0, total).
    """
    count = min(count, total)
    return tuple(sorted((number * total // count + turn) % total for number in range(count)))
