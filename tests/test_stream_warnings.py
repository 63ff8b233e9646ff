"""What is told of windows whose frames came too seldom: times worked out by hand."""

from __future__ import annotations

import pytest

from i3d_deploy import stream_warnings
from i3d_deploy.stream_warnings import Breaks
from i3d_deploy.stream_windows import Cadence, Ring, StreamWindow


def window(times: list[float], *, rate: float, frames: int) -> StreamWindow[float]:
    """The first window of frames with these times."""
    ring: Ring[float, float] = Ring(
        Cadence(frames_per_second=rate, window_frames=frames, every_seconds=1), keep=lambda frame: frame
    )
    return next(found for seconds in times for found in ring.add(seconds, seconds=seconds))


def repeated(came: int, taken: int, rate: str) -> str:
    return f"{came} frames are fewer than the {taken} that are taken of a window at {rate} a second: they are repeated"


@pytest.mark.parametrize(
    ("source", "rate", "came"),
    [
        (12.5, 25, 13),  # each twice
        (15, 25, 15),  # three of five
        (20, 30, 17),  # two of three
        (20, 25, None),
        (25, 30, None),
        (24, 24, None),
        (60, 25, None),
    ],
)
def test_a_source_slower_than_it_is_counted_is_told(source: float, rate: float, came: int | None) -> None:
    found = window([number / source for number in range(99)], rate=rate, frames=25)
    expected = [] if came is None else [repeated(came, 25, f"{rate:g}")]
    assert list(stream_warnings.of_window(found, range(25))) == expected


def test_one_frame_is_told_in_the_singular() -> None:
    slow = window([number / 5 for number in range(9)], rate=10, frames=5)
    told = "1 frame is fewer than the 2 that are taken of a window at 10 a second: it is repeated"
    assert list(stream_warnings.of_window(slow, [1, 2])) == [told]


def test_frames_that_no_clip_takes_do_not_count() -> None:
    slow = window([number / 12.5 for number in range(99)], rate=25, frames=25)
    assert list(stream_warnings.of_window(slow, range(0, 25, 2))) == []  # every other one: all different
    assert list(stream_warnings.of_window(slow, [0])) == []


@pytest.mark.parametrize(("pause", "is_told"), [(0.48, False), (0.52, True)])
def test_a_pause_of_half_a_second_within_a_window_is_told(pause: float, is_told: bool) -> None:
    times = [number / 25 for number in range(50)]
    times += [times[-1] + pause + number / 25 for number in range(50)]
    found = window(times, rate=25, frames=75)
    told = f"no frame came for {pause:g} s of the window: those before and after are repeated"
    assert list(stream_warnings.of_window(found, range(75))) == ([told] if is_told else [])


def test_frames_far_apart_make_no_pause() -> None:
    steady = window([float(number) for number in range(20)], rate=1, frames=10)
    assert list(stream_warnings.of_window(steady, range(10))) == []
    uneven = window([0, 1, 2, 3, 6, 7, 8, 9, 10, 11], rate=1, frames=10)
    assert [line.split(" of ")[0] for line in stream_warnings.of_window(uneven, range(10))] == ["no frame came for 3 s"]


def test_breaks_are_told_once_each() -> None:
    breaks = Breaks(pause_seconds=7.0).followed_by(Breaks(sizes=("64x48", "32x24")))
    breaks = breaks.followed_by(Breaks(pause_seconds=5.25, is_lost=True)).followed_by(Breaks(sizes=("32x24", "64x48")))
    assert list(breaks.lines()) == [
        "no frame came for 7 s before the window, and none spans so long a pause",
        "the connection was lost before the window, and none spans that",
        "frames changed from 32x24 to 64x48 before the window, and none spans a change",
    ]
    assert list(Breaks().followed_by(Breaks()).lines()) == []
