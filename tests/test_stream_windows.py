"""Which frames make which window of a stream: times worked out by hand."""

from __future__ import annotations

import pytest

from i3d_deploy import sampling
from i3d_deploy.errors import InputError
from i3d_deploy.stream_windows import MAX_WINDOW_FRAMES, Cadence, Newest, Ring, StreamWindow


def ring(rate: float = 10, *, window: int = 4, every: float = 0.4) -> Ring[str, str]:
    cadence = Cadence(frames_per_second=rate, window_frames=window, every_seconds=every)
    return Ring(cadence, keep=lambda frame: frame)


def feed(ring: Ring[str, str], **seconds: float) -> list[StreamWindow[str]]:
    """Frames named by letters, with their times."""
    return [window for name, at in seconds.items() for window in ring.add(name, seconds=at)]


def shown(windows: list[StreamWindow[str]]) -> list[str]:
    return ["".join(window.frames) for window in windows]


def test_frames_at_the_rate_are_taken_as_they_are() -> None:
    windows = feed(ring(), a=0.0, b=0.1, c=0.2, d=0.3, e=0.4, f=0.5, g=0.6, h=0.7)
    assert shown(windows) == ["abcd", "efgh"]
    assert [(window.start_frame, window.end_frame) for window in windows] == [(0, 4), (4, 8)]
    assert [(window.start_seconds, window.end_seconds) for window in windows] == [(0, 0.4), (0.4, 0.8)]


def test_each_moment_shows_the_frame_that_is_nearest_in_time() -> None:
    # moments 0, 0.1, 0.2 and 0.3: b is 0.01 from the second; c is 0.06 from the third, and b 0.11
    assert shown(feed(ring(), a=0.0, b=0.09, c=0.26, d=0.3)) == ["abcd"]
    # c is 0.16 from the third moment, and b 0.1; c is 0.06 from the fourth
    assert shown(feed(ring(), a=0.0, b=0.1, c=0.36)) == ["abbc"]


def test_of_two_equally_near_frames_the_later_one_is_shown() -> None:
    assert shown(feed(ring(20), a=0.0, b=0.1, c=0.2)) == ["abbc"]


def test_a_moment_is_settled_when_a_frame_of_its_time_has_come() -> None:
    slow = ring()
    assert feed(slow, a=0.0, b=0.1, c=0.2) == []
    assert feed(slow, d=0.299) == []  # one at 0.3 may still come
    assert shown(feed(slow, e=0.4)) == ["abcd"]


def test_frames_beyond_the_rate_are_left_out() -> None:
    assert shown(feed(ring(5, window=3), a=0.0, b=0.1, c=0.2, d=0.3, e=0.4)) == ["ace"]


def test_times_may_begin_anywhere() -> None:
    windows = feed(ring(window=2, every=0.2), a=7.0, b=7.1)
    assert (windows[0].start_seconds, windows[0].end_seconds) == (7, 7.2)


@pytest.mark.parametrize(("source", "rate"), [(30, 25), (25, 30), (12.5, 25), (29.97, 30), (60, 25), (24, 24)])
def test_a_steady_source_gives_what_is_chosen_of_a_file(source: float, rate: float) -> None:
    chosen = sampling.frames_at_rate(50, speed=source / rate).tolist()
    whole = Cadence(frames_per_second=rate, window_frames=len(chosen), every_seconds=100)
    found: Ring[int, int] = Ring(whole, keep=lambda frame: frame)
    windows = [window for number in range(50) for window in found.add(number, seconds=3 + number / source)]
    windows += found.end(frame_seconds=1 / source)
    assert [list(window.frames) for window in windows] == [chosen]


def test_the_end_gives_no_more_than_there_is() -> None:
    three = ring(window=3)
    feed(three, a=0.0, b=0.1)
    assert three.end(frame_seconds=0.1) == []
    assert shown(three.end(frame_seconds=0.2)) == ["abb"]
    assert ring().end(frame_seconds=0.1) == []


def test_windows_overlap_and_leave_gaps() -> None:
    times = {name: number / 10 for number, name in enumerate("abcdefghij")}
    assert shown(feed(ring(every=0.2), **times)) == ["abcd", "cdef", "efgh", "ghij"]
    assert shown(feed(ring(window=2, every=0.5), **times)) == ["ab", "fg"]


def test_the_distance_of_windows_does_not_drift() -> None:
    cadence = Cadence(frames_per_second=10, window_frames=1, every_seconds=1 / 3)
    assert [cadence.first_frame(number) for number in (0, 1, 2, 3, 30, 300)] == [0, 3, 7, 10, 100, 1000]


def test_a_window_spans_no_gap_longer_than_itself() -> None:
    gap = ring(window=3, every=0.3)
    windows = feed(gap, a=0.0, b=0.1, c=0.2, d=0.3, e=0.4, f=0.71, g=0.8, h=0.92)  # a gap of 0.31
    assert shown(windows) == ["abc", "fgh"]
    assert [window.start_frame for window in windows] == [0, 5]
    assert windows[1].start_seconds == 0.71
    assert shown(feed(ring(window=3, every=0.3), a=0.0, b=0.3)) == ["aab"]  # as long as itself


def test_counting_begins_anew() -> None:
    again = ring(window=2, every=0.2)
    feed(again, a=0.0, b=0.1, c=0.2)
    again.restart()
    windows = feed(again, d=0.21, e=0.31)
    assert shown(windows) == ["de"]
    assert windows[0].start_frame == 3


def test_windows_hardly_a_frame_apart_never_end() -> None:
    cadence = Cadence(frames_per_second=30, window_frames=4, every_seconds=0.03333331)  # 0.9999993 frames
    first = [cadence.first_frame(number) for number in range(714_000, 715_000)]
    assert first == list(range(first[0], first[0] + 1000))


def test_gaps_make_no_more_windows() -> None:
    one: Ring[int, int] = Ring(
        Cadence(frames_per_second=25, window_frames=1, every_seconds=1), keep=lambda frame: frame
    )
    windows = [window for number in range(100) for window in one.add(number, seconds=number / 5)]
    assert [window.frames for window in windows] == [(number,) for number in range(0, 100, 5)]
    assert [window.start_seconds for window in windows] == list(range(20))


def test_a_window_that_a_gap_cut_is_begun_anew_at_once() -> None:
    cut = ring(window=3, every=1)
    windows = feed(cut, a=0.0, b=0.1, c=0.2, d=0.3, e=0.5, f=0.8, g=1.0, h=1.1, i=1.6, j=1.7, k=1.8)  # h to i: 0.5
    assert shown(windows) == ["abc", "ijk"]
    assert (cut.gaps, round(cut.widest_gap_seconds, 9)) == (1, 0.5)


def test_counting_anew_between_windows_keeps_their_distance() -> None:
    again = ring(window=2, every=0.5)
    windows = feed(again, a=0.0, b=0.1, c=0.2)
    again.restart()
    windows += feed(again, d=0.3, e=0.4, f=0.5, g=0.6, h=0.7)
    assert shown(windows) == ["ab", "fg"]
    assert [(window.start_frame, round(window.start_seconds, 9)) for window in windows] == [(0, 0), (5, 0.5)]


def test_times_that_went_back_are_not_waited_for() -> None:
    again = ring(window=2, every=0.2)
    assert shown(feed(again, a=900.0, b=900.1)) == ["ab"]
    again.restart()
    assert shown(feed(again, c=0.0, d=0.1)) == ["cd"]


def test_a_frame_is_prepared_once_and_only_if_it_is_in_a_window() -> None:
    prepared: list[str] = []

    def keep(frame: str) -> str:
        prepared.append(frame)
        return frame.upper()

    overlapping = Ring(Cadence(frames_per_second=20, window_frames=4, every_seconds=0.1), keep=keep)
    windows = [window for number, name in enumerate("abc") for window in overlapping.add(name, seconds=number / 10)]
    assert shown(windows) == ["ABBC"]
    assert prepared == ["a", "b", "c"]
    prepared.clear()
    sparse = Ring(Cadence(frames_per_second=10, window_frames=1, every_seconds=0.3), keep=keep)
    for number, name in enumerate("abcdef"):
        sparse.add(name, seconds=number / 10)
    assert prepared == ["a", "d"]


@pytest.mark.parametrize("seconds", [1.0, 0.9])
def test_times_must_ascend(seconds: float) -> None:
    found = ring()
    found.add("a", seconds=1.0)
    with pytest.raises(InputError, match=rf"a frame of {seconds:g} s follows one of 1 s: times must ascend"):
        found.add("b", seconds=seconds)


@pytest.mark.parametrize(
    ("rate", "window", "every", "message"),
    [
        (0, 4, 1, r"frames_per_second \(0\) must be > 0"),
        (25, 0, 1, r"a window of 0 frames \(25 a second\): it must have from 1 to 3000"),
        (25, MAX_WINDOW_FRAMES + 1, 1, "a window of 3001 frames"),
        (25, 4, 0.039, r"every_seconds \(0.039\) must be at least the time of a frame, 0.04 s at 25 a second"),
    ],
)
def test_numbers_out_of_range_are_refused(rate: float, window: int, every: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Cadence(frames_per_second=rate, window_frames=window, every_seconds=every)


def window(start: int, stop: int) -> StreamWindow[int]:
    frames = tuple(range(start, stop))
    return StreamWindow(frames=frames, shown_seconds=frames, start_frame=start, start_seconds=0, end_seconds=0)


def test_an_older_window_is_dropped_for_a_newer_one() -> None:
    newest: Newest[int] = Newest()
    assert newest.take() is None
    newest.put(window(0, 4))
    assert newest.take() == window(0, 4)
    for start in (2, 4, 6, 8):
        newest.put(window(start, start + 4))
    assert newest.take() == window(8, 12)
    # frames 0 to 3 and 8 to 11 were seen
    assert (newest.dropped_windows, newest.dropped_frames) == (3, 4)
    newest.put(window(10, 14))
    assert newest.take() == window(10, 14)
    assert (newest.dropped_windows, newest.dropped_frames) == (3, 4)


def test_frames_between_windows_are_not_dropped() -> None:
    newest: Newest[int] = Newest()
    newest.put(window(0, 2))
    newest.put(window(10, 12))
    assert newest.take() == window(10, 12)
    assert (newest.dropped_windows, newest.dropped_frames) == (1, 2)
