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

from i3d_deploy import files, images, lists, video_files, views
from i3d_deploy.card import Card
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.frames import Resized
from i3d_deploy.measurements import Calibration
from i3d_deploy.preprocessing import Sampling, Spatial

DEFAULT_VIEWS = 32
"""Few are enough, because a view gives each layer hundreds of thousands of values: 8 to 256 views of a trained network
give the same divergence within a third, 4 give twice as much."""

_LIST_SUFFIXES = (".json", ".txt")
_ONE_CLIP = Sampling(num_clips=1)


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Videos to calibrate on, and how many views of them.

    Attributes:
        paths: The videos that views are cut from, in order.
        num_views: Views in all, at least one per video.
        num_wanted: Views that were asked for.
        unreadable: Why other videos are not among them, one line each.
    """

    paths: tuple[Path, ...]
    num_views: int
    num_wanted: int = 0
    unreadable: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of an export that is calibrated on these, one line each."""
        left_out = tuple(f"calibration leaves out a video: {reason}" for reason in self.unreadable)
        if self.num_views >= self.num_wanted:
            return left_out
        return (*left_out, f"calibration views are {self.num_views} instead of {self.num_wanted}: give more videos")

    def views(self, card: Card, *, on_views: Callable[[int, int], None] | None = None) -> Iterator[Resized]:
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
            for place in spread(count, len(prepared), turn=number):
                yield prepared.fill(np.empty((1, *prepared.view_shape), prepared.dtype), [place])
                given += 1
                if on_views is not None:
                    on_views(given, self.num_views)

    def described(self) -> Calibration:
        """What the card says of them."""
        digest = hashlib.sha256()
        for path in self.paths:
            for file in _files_of(path):
                digest.update(bytes.fromhex(files.sha256(file)))
        return Calibration(num_videos=len(self.paths), num_views=self.num_views, sha256=digest.hexdigest())


def choose(source: Path, *, num_views: int = DEFAULT_VIEWS, views_per_video: int) -> Clips:
    """Choose videos of a list or folder, evenly spread over it, and decode each once to see that it can be.

    Args:
        source: A folder, searched through and through; a ``.txt`` or ``.json`` list of videos or folders of frames, as
            in :mod:`i3d_deploy.lists` but with or without labels, its paths starting from its folder; or one video.
        num_views: Views wanted in all.
        views_per_video: Views that a video has; of few videos there are fewer views in all.

    Raises:
        InputError: ``source`` names no video.
        VideoError: None of its videos can be read.
    """
    if num_views < 1:
        raise InputError(f"calibration views ({num_views}) must be > 0")
    found = find(source)
    taken = [found[index] for index in spread(num_views, len(found), turn=0)]
    paths, unreadable = [], []
    for path in taken:
        try:
            views.cut(path, sampling=_ONE_CLIP, spatial=Spatial())
        except VideoError as error:
            unreadable.append(str(error))
        else:
            paths.append(path)
    if not paths:
        raise VideoError(f"{source}: none of {len(taken)} videos to calibrate on can be read: {unreadable[0]}")
    there_are = min(num_views, len(paths) * views_per_video)
    return Clips(paths=tuple(paths), num_views=there_are, num_wanted=num_views, unreadable=tuple(unreadable))


def find(source: Path) -> tuple[Path, ...]:
    """The videos of a list or folder, or a video itself, as for :func:`choose`."""
    if images.is_image_folder(source):
        return (source,)
    if source.is_dir():
        found = tuple(video_files.below(source))
        if not found:
            raise InputError(f"{source}: the folder holds no video to calibrate on")
        return found
    problem = files.what_is_wrong(source)
    if problem is not None:
        raise InputError(f"{source}: {problem}; give a list or a folder of videos to calibrate on")
    return lists.find(source, root=source.parent) if source.suffix.lower() in _LIST_SUFFIXES else (source,)


def _files_of(path: Path) -> list[Path]:
    """A video file, or the images of a folder of frames in order."""
    if not path.is_dir():
        return [path]
    return sorted(entry for entry in path.iterdir() if entry.name.lower().startswith("img_") and entry.is_file())


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
