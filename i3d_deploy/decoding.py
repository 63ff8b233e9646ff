"""The frames wanted of a file or URL.

Frames are counted by decoding: containers are often wrong, and the frames of a clip follow from the count. The file is
read in one forward pass without seeking; only when the container's count proves wrong is it read a second time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from i3d_deploy.errors import VideoError
from i3d_deploy.frames import Frame, Frames, Resized, Wish, unique
from i3d_deploy.video_files import (
    frames_of,
    is_web,
    opened,
    promised_frames,
    promised_rate,
    retrieved,
    without_password,
)

# FFmpeg reads such a file to its end for the index, and cannot go back to the frames. Others have no frame either.
_NO_RANGE = (
    "if it is an MP4 with its index at the end, and the server sends no parts of files (HTTP Range): download it "
    "first, or move the index with ffmpeg -i IN.mp4 -c copy -movflags +faststart OUT.mp4"
)


def collect(
    address: str, wish: Wish, *, min_decoded_share: float, trust_count: bool = False, threads: int | None = None
) -> Frames:
    """Read the frames wanted.

    Args:
        address: What :func:`i3d_deploy.video_files.opened` takes.
        wish: Which frames, and what is done to them.
        min_decoded_share: A damaged stream needs at least this share of the frames that its container promises.
        trust_count: Stop after the last frame wanted, whatever the container promises.
        threads: Threads that decode; None: one per core.

    Raises:
        VideoError: It cannot be opened, or too few frames decode.
    """
    with opened(address, threads=threads) as capture:
        found = _first_pass(capture, wish, trust_count=trust_count)
    if isinstance(found, _WrongCount):
        return _second_pass(address, wish, found, min_decoded_share=min_decoded_share, threads=threads)
    return found


@dataclass(frozen=True, kw_only=True)
class _WrongCount:
    """Frames that decode, and those that the container promises: 0 or less where it does not say."""

    num_frames: int
    promised: int


def _first_pass(capture: cv2.VideoCapture, wish: Wish, *, trust_count: bool) -> Frames | _WrongCount:
    promised, rate = promised_frames(capture), promised_rate(capture)
    indices = wish.planned(promised, rate) if promised > 0 else np.empty((0, 0), np.int64)
    wanted = unique(indices)
    by_index, num_frames = _decode(capture, wish, wanted=wanted, to_the_end=not trust_count or promised <= 0)
    if trust_count and promised > 0 and len(by_index) == len(wanted):
        num_frames = promised
    if num_frames != promised or num_frames == 0:
        return _WrongCount(num_frames=num_frames, promised=promised)
    return Frames(indices=indices, by_index=by_index, num_frames=num_frames, frames_per_second=rate)


def _second_pass(
    address: str, wish: Wish, count: _WrongCount, *, min_decoded_share: float, threads: int | None
) -> Frames:
    num_frames, promised = count.num_frames, count.promised
    _check_count(address, num_frames, promised, min_decoded_share=min_decoded_share)
    with opened(address, threads=threads) as capture:
        rate = promised_rate(capture)
        indices = wish.planned(num_frames, rate)
        by_index, recount = _decode(capture, wish, wanted=unique(indices), to_the_end=True)
    if recount < num_frames:
        called = without_password(address)
        raise VideoError(f"{called}: {num_frames} frames decoded at first, {recount} the second time")
    return Frames(
        indices=indices,
        by_index=by_index,
        num_frames=num_frames,
        frames_per_second=rate,
        warnings=(_wrong_count(num_frames, promised),),
    )


def _check_count(address: str, num_frames: int, promised: int, *, min_decoded_share: float) -> None:
    called = without_password(address)
    if num_frames == 0:
        why = f", {promised} are promised; {_NO_RANGE}" if promised > 0 and is_web(address) else ""
        raise VideoError(f"{called}: no frame could be decoded{why}")
    if num_frames < promised * min_decoded_share:
        raise VideoError(
            f"{called}: only {num_frames} of {promised} frames decode, fewer than {min_decoded_share:.0%}: "
            "the file is damaged; min_decoded_share (--min-decoded) sets how much is enough"
        )


def _wrong_count(num_frames: int, promised: int) -> str:
    says = f"the container says {promised} frames" if promised > 0 else "the container does not say how many frames"
    return f"{says}, {num_frames} decode"


def _decode(
    capture: cv2.VideoCapture, wish: Wish, *, wanted: list[int], to_the_end: bool
) -> tuple[dict[int, Resized], int]:
    """One pass over the frames, past the last one wanted on request."""
    kept = iter(wanted)
    next_wanted = next(kept, None)
    by_index: dict[int, Resized] = {}
    count = 0
    while to_the_end or next_wanted is not None:
        wish.watcher.before_frame()
        if not capture.grab():
            break
        if count == next_wanted:
            frame = retrieved(capture)
            if frame is None:
                break
            by_index[count] = wish.transform(frame)
            wish.watcher.decoded(count, by_index[count])
            next_wanted = next(kept, None)
        count += 1
    return by_index, count


def counted(
    capture: cv2.VideoCapture, address: str, warnings: list[str], *, min_decoded_share: float
) -> Iterator[Frame]:
    """All frames one by one; after the last one their number is held against what the container promises.

    Args:
        capture: The open file or URL.
        address: What it is called in messages.
        warnings: Gets a line where the number is another one.
        min_decoded_share: As for :func:`collect`.

    Raises:
        VideoError: There are too few.
    """
    promised, num_frames = promised_frames(capture), 0
    for frame in frames_of(capture):
        num_frames += 1
        yield frame
    _check_count(address, num_frames, promised, min_decoded_share=min_decoded_share)
    if num_frames != promised:
        warnings.append(_wrong_count(num_frames, promised))
