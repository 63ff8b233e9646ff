"""Which frames make which clip, from numbers alone.

A clip is ``clip_len`` frames taken every ``frame_interval`` frames. Three schemes place the clips of a video:

- *uniform* spreads ``num_clips`` clips over the video. The formulas of mmaction2 0.x, of 1.x and of SlowFast differ, so
  that the same weights score differently under them; the card says which one a checkpoint was evaluated with.
- *dense* draws clips from windows of ``sample_range`` frames, as in the non-local networks paper.
- *whole* makes one clip of all frames, as the original I3D was tested.

Random draws take a ``numpy.random.RandomState``: the originals use NumPy's legacy generator, and with the same seed
these functions give the same frames.

Source: mmaction2 0.24.1 ``SampleFrames`` and ``DenseSampleFrames``; 1.x ``SampleFrames._get_test_clips``; SlowFast
``datasets/decoder.py`` ``get_start_end_idx`` and ``temporal_sampling``.

Note [Window of a clip]
    0.x reserves ``clip_len * frame_interval`` frames for a clip (64 for 32x2), although it spans only
    ``(clip_len - 1) * frame_interval + 1`` (63); 1.x uses the span. Neither is a slip to mend: published accuracies
    depend on it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from i3d_deploy.errors import InputError, VideoError

OutOfBound = Literal["loop", "repeat_last"]
Starts = NDArray[np.float64]
Indices = NDArray[np.int64]
T = TypeVar("T")

MAX_WHOLE_FRAMES = 1500
"""Of a video that is taken whole: a minute at 25 frames per second, with which a network fills several GiB."""

MAX_CLIPS = 1000
"""Of a video: published protocols have 10, and the views of many more take hours."""


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise InputError(f"{name} ({number}) must be > 0")


def uniform_starts(
    num_frames: int, *, clip_len: int, frame_interval: int, num_clips: int, twice: bool = False
) -> Starts:
    """Place clips for testing or validation with the formula of mmaction2 0.x.

    Args:
        num_frames: Length of the video.
        clip_len: Frames per clip.
        frame_interval: Distance of two frames of a clip.
        num_clips: Clips per video.
        twice: Append the same clips without the half-step shift (2 * num_clips clips).

    Returns:
        (num_clips,) first frame of each clip; fractions are cut when indices are made. All zero, and never doubled,
        where the video is shorter than a window.
    """
    _check_positive(num_frames=num_frames, clip_len=clip_len, frame_interval=frame_interval, num_clips=num_clips)
    window = clip_len * frame_interval  # Note [Window of a clip]
    mean_step = (num_frames - window + 1) / num_clips
    if num_frames < window:
        return np.zeros(num_clips)
    unshifted = np.arange(num_clips) * mean_step
    starts = np.trunc(unshifted + mean_step / 2)
    return np.concatenate([starts, unshifted]) if twice else starts


def uniform_starts_1x(num_frames: int, *, clip_len: int, frame_interval: int, num_clips: int) -> Starts:
    """Place clips for testing or validation with the formula of mmaction2 1.x: first to last frame.

    Arguments and result as for :func:`uniform_starts`.
    """
    _check_positive(num_frames=num_frames, clip_len=clip_len, frame_interval=frame_interval, num_clips=num_clips)
    if clip_len == 1:
        mean_step = num_frames / num_clips
        return np.asarray(np.trunc(np.arange(num_clips) * mean_step + mean_step / 2))
    span = (clip_len - 1) * frame_interval + 1
    last_start = max(num_frames - span, 0)
    if num_clips == 1:
        return np.array([last_start // 2], dtype=np.float64)
    return np.round(np.arange(num_clips) * (last_start / (num_clips - 1)))  # halves go to the even number


def uniform_train_starts(
    num_frames: int,
    *,
    clip_len: int,
    frame_interval: int,
    num_clips: int,
    random: np.random.RandomState,
    keep_tail_frames: bool = False,
) -> Starts:
    """Place clips for training: one at random in each of ``num_clips`` equal parts of the video.

    Args:
        num_frames: Length of the video.
        clip_len: Frames per clip.
        frame_interval: Distance of two frames of a clip.
        num_clips: Clips per video.
        random: Source of the draws.
        keep_tail_frames: Let the parts have fractional length, so that the last frames can be drawn too.

    Returns:
        (num_clips,) first frame of each clip.
    """
    _check_positive(num_frames=num_frames, clip_len=clip_len, frame_interval=frame_interval, num_clips=num_clips)
    window = clip_len * frame_interval
    num_starts = num_frames - window + 1
    if keep_tail_frames:
        if num_starts <= 0:
            return np.zeros(num_clips)
        mean_step = num_starts / num_clips
        return np.trunc(np.arange(num_clips) * mean_step + random.uniform(0, mean_step, num_clips))
    step = num_starts // num_clips
    if step > 0:
        return (np.arange(num_clips) * step + random.randint(step, size=num_clips)).astype(np.float64)
    if num_frames > max(num_clips, window):
        return np.sort(random.randint(num_starts, size=num_clips).astype(np.float64))
    if step == 0:
        return np.round(np.arange(num_clips) * (num_starts / num_clips))
    return np.zeros(num_clips)


def dense_starts(num_frames: int, *, num_clips: int, sample_range: int = 64, num_positions: int = 10) -> Starts:
    """Place clips for testing by dense sampling: ``num_positions`` windows, ``num_clips`` clips in each.

    Args:
        num_frames: Length of the video.
        num_clips: Clips per window.
        sample_range: Frames per window.
        num_positions: Windows per video, evenly spread.

    Returns:
        (num_positions * num_clips,) first frame of each clip, window after window.
    """
    _check_positive(num_frames=num_frames, num_clips=num_clips, sample_range=sample_range, num_positions=num_positions)
    last_position = max(1, 1 + num_frames - sample_range) - 1
    positions = np.trunc(np.linspace(0, last_position, num_positions))
    within = np.arange(num_clips) * (sample_range // num_clips)
    return np.asarray((positions[:, None] + within) % num_frames, np.float64).ravel()


def dense_train_starts(
    num_frames: int, *, num_clips: int, random: np.random.RandomState, sample_range: int = 64
) -> Starts:
    """Place clips for training by dense sampling: one window at a random position.

    Args:
        num_frames: Length of the video.
        num_clips: Clips in the window.
        random: Source of the one draw.
        sample_range: Frames per window.

    Returns:
        (num_clips,) first frame of each clip.
    """
    _check_positive(num_frames=num_frames, num_clips=num_clips, sample_range=sample_range)
    num_positions = max(1, 1 + num_frames - sample_range)
    # The exclusive bound means that the last position is never drawn: so in the original.
    position = 0 if num_positions == 1 else int(random.randint(0, num_positions - 1))
    within = np.arange(num_clips) * (sample_range // num_clips)
    return np.asarray((within + position) % num_frames, np.float64)


def frame_indices(
    starts: Starts,
    *,
    num_frames: int,
    clip_len: int,
    frame_interval: int,
    out_of_bound: OutOfBound = "loop",
    jitter: np.random.RandomState | None = None,
) -> Indices:
    """Turn first frames into the frames of each clip.

    Args:
        starts: (clips,) first frames, as the functions above give them.
        num_frames: Length of the video.
        clip_len: Frames per clip.
        frame_interval: Distance of two frames of a clip.
        out_of_bound: What follows the last frame: the first one again ("loop"), or the last index of the clip that is
            inside the video, repeated ("repeat_last").
        jitter: Source of a random offset below ``frame_interval``, added to each frame of each clip.

    Returns:
        (clips, clip_len) int64 in [0, num_frames).
    """
    _check_positive(num_frames=num_frames, clip_len=clip_len, frame_interval=frame_interval)
    offsets = np.arange(clip_len) * frame_interval
    indices = starts[:, None] + offsets
    if jitter is not None:
        indices = indices + jitter.randint(frame_interval, size=indices.shape)
    if out_of_bound == "loop":
        return np.mod(indices, num_frames).astype(np.int64)
    inside = indices < num_frames
    last_inside = np.max(np.where(inside, indices, 0), axis=1, keepdims=True)
    return np.where(inside, indices, last_inside).astype(np.int64)


def speed(frames_per_second: float | None, *, counted_at: float | None) -> float:
    """How much faster the frames of a video follow each other than those that are counted.

    Args:
        frames_per_second: Of the video; None where it is not known: the rate that is counted at.
        counted_at: That rate; None: the video's.
    """
    return 1.0 if frames_per_second is None or counted_at is None else frames_per_second / counted_at


def frames_at_rate(num_frames: int, *, speed: float) -> Indices:
    """The frames of a video as if it had another rate: of each moment the nearest one.

    Args:
        num_frames: Length of the video.
        speed: Its rate over the one wanted: 2 leaves out every other frame, 0.5 takes each twice.

    Returns:
        (frames,) int64, ascending in [0, num_frames); at least one.

    Raises:
        InputError: There is no frame, or ``speed`` is not positive.
    """
    _check_positive(num_frames=num_frames)
    if not speed > 0:
        raise InputError(f"speed ({speed}) must be > 0")
    if speed == 1:
        return np.arange(num_frames, dtype=np.int64)
    count = _count_at_rate(num_frames, speed=speed)
    nearest = np.floor(np.arange(count) * speed + 0.5).astype(np.int64)
    return np.asarray(np.minimum(nearest, num_frames - 1))


def _count_at_rate(num_frames: int, *, speed: float) -> int:
    return max(1, int(num_frames / speed + 0.5))


def least_frames(count: int, *, speed: float) -> int:
    """How long a video must be for :func:`frames_at_rate` to choose so many frames of it.

    Args:
        count: Frames that are chosen.
        speed: As for :func:`frames_at_rate`.

    Returns:
        The least number of frames, at least 1.

    Raises:
        InputError: ``count`` or ``speed`` is not positive.
    """
    _check_positive(count=count)
    if not speed > 0:
        raise InputError(f"speed ({speed}) must be > 0")
    if count == 1:
        return 1  # however fast
    least = max(1, int((count - 0.5) * speed) - 1)  # one less than it may be: the products are rounded
    while _count_at_rate(least, speed=speed) < count:
        least += 1
    return least


def check_flow(counted: Indices, *, num_frames: int, rate_of: str) -> None:
    """Refuse a video that has no optical flow.

    Args:
        counted: Its frames at the rate wanted, as from :func:`frames_at_rate`.
        num_frames: All of its frames.
        rate_of: Who says the rate, for the message.

    Raises:
        VideoError: There is one frame only.
    """
    if len(counted) < 2:
        frames = "1 frame" if num_frames == 1 else f"{num_frames} frames"
        raise VideoError(f"a video of {frames} has no optical flow: it takes two at the {rate_of}'s rate")


def stream_at_rate(frames: Iterable[T], *, speed: float) -> Iterator[T]:
    """The frames that :func:`frames_at_rate` chooses of a video whose length is not known before its end.

    Args:
        frames: All frames of the video, in order; any kind of thing.
        speed: Its rate over the one wanted.

    Yields:
        Those chosen, each as soon as it is sure: about ``speed / 2`` frames later. None where there is no frame.

    Raises:
        InputError: ``speed`` is not positive.
    """
    if not speed > 0:
        raise InputError(f"speed ({speed}) must be > 0")
    waiting: deque[T] = deque()
    num_frames = num_given = 0
    for num_frames, frame in enumerate(frames, 1):
        while math.floor((num_given + len(waiting)) * speed + 0.5) == num_frames - 1:
            waiting.append(frame)
        while waiting and num_given < int(num_frames / speed + 0.5):
            yield waiting.popleft()
            num_given += 1
    for _ in range(num_given, max(1, int(num_frames / speed + 0.5)) if num_frames else 0):
        yield waiting.popleft() if waiting else frame


def whole_indices(num_frames: int, *, frame_interval: int, min_clip_len: int) -> Indices:
    """One clip of a whole video.

    Args:
        num_frames: Length of the video.
        frame_interval: Distance of two frames of the clip.
        min_clip_len: Frames of the clip at least: a shorter video is repeated.

    Returns:
        (1, frames) int64 in [0, num_frames).

    Raises:
        InputError: There is no frame, or an argument is not positive.
        VideoError: The clip would have more than :data:`MAX_WHOLE_FRAMES` frames.
    """
    _check_positive(num_frames=num_frames, frame_interval=frame_interval, min_clip_len=min_clip_len)
    count = max(-(-num_frames // frame_interval), min_clip_len)
    if count > MAX_WHOLE_FRAMES:
        raise VideoError(
            f"{count} frames are too many for a whole video at once, which may have {MAX_WHOLE_FRAMES}: "
            "take clips of it (--sampling uniform), or a part of the video"
        )
    return np.asarray(np.mod(np.arange(count) * frame_interval, num_frames)[None])


def slowfast_indices(
    num_frames: int, *, clip_len: int, frame_interval: int, num_clips: int, speed: float = 1.0
) -> Indices:
    """Place clips for testing as SlowFast does: windows of a duration, frames spread over each from end to end.

    A window has ``clip_len * frame_interval * speed`` frames; the last one does not reach the end of the video. Frames
    beyond the end are the last one.

    Args:
        num_frames: Length of the video.
        clip_len: Frames per clip.
        frame_interval: Distance of two frames of a clip if there were one more of them: 8 frames of 8 at 30 frames per
            second are 9 frames apart.
        num_clips: Clips per video.
        speed: Frames per second of the video over those that the windows are counted in.

    Returns:
        (clips, clip_len) int64 in [0, num_frames).
    """
    _check_positive(num_frames=num_frames, clip_len=clip_len, frame_interval=frame_interval, num_clips=num_clips)
    window = max(1.0, clip_len * frame_interval * speed)
    room = max(num_frames - window, 0)
    starts = [room * number / num_clips for number in range(num_clips)]
    # Rounded to float32 before it is cut, as there: fractions just below a whole number become that number.
    clips = [np.linspace(start, start + window - 1, clip_len, dtype=np.float32) for start in starts]
    return np.clip(np.stack(clips), 0, num_frames - 1).astype(np.int64)
