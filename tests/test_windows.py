"""Windows of a video, worked out by hand."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import numpy as np
import pytest

from i3d_deploy import windows
from i3d_deploy.errors import InputError
from i3d_deploy.windows import Last


def cut(num_frames: int, *, window: int, stride: int, last: Last) -> list[tuple[str, int, int, int]]:
    """The windows of a video whose frames are its first letters: frames, own range, and how many were filled in."""
    frames = "abcdefghijklmnopqrstuvwxyz"[:num_frames]
    return [
        ("".join(found.frames), found.start_frame, found.end_frame, found.padded_frames)
        for found in windows.slide(frames, window=window, stride=stride, last=last)
    ]


FULL = [("abcd", 0, 4, 0), ("cdef", 2, 6, 0), ("efgh", 4, 8, 0)]


@pytest.mark.parametrize(
    ("last", "more"),
    [
        ("drop", []),
        ("repeat", [("ghii", 6, 9, 1)]),
        ("loop", [("ghia", 6, 9, 1)]),
        ("shift", [("fghi", 5, 9, 0)]),
    ],
)
def test_nine_frames_in_windows_of_four_every_two(last: Last, more: list[tuple[str, int, int, int]]) -> None:
    assert cut(9, window=4, stride=2, last=last) == FULL + more


@pytest.mark.parametrize("last", windows.LASTS)
def test_where_all_frames_are_in_full_windows_nothing_is_filled(last: Last) -> None:
    assert cut(8, window=4, stride=2, last=last) == FULL
    assert cut(8, window=4, stride=4, last=last) == [("abcd", 0, 4, 0), ("efgh", 4, 8, 0)]
    assert [frames for frames, *_ in cut(6, window=4, stride=1, last=last)] == ["abcd", "bcde", "cdef"]


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("drop", []),
        ("repeat", [("abccccc", 0, 3, 4)]),
        ("loop", [("abcabca", 0, 3, 4)]),
        ("shift", [("abccccc", 0, 3, 4)]),
    ],
)
def test_a_video_shorter_than_a_window(last: Last, expected: list[tuple[str, int, int, int]]) -> None:
    assert cut(3, window=7, stride=7, last=last) == expected


@pytest.mark.parametrize("last", windows.LASTS)
def test_frames_in_the_gaps_between_windows_make_none(last: Last) -> None:
    assert cut(9, window=4, stride=10, last=last) == [("abcd", 0, 4, 0)]


def test_a_window_after_a_gap_is_filled_or_moved_back() -> None:
    assert cut(12, window=4, stride=10, last="repeat")[1:] == [("klll", 10, 12, 2)]
    assert cut(12, window=4, stride=10, last="loop")[1:] == [("klab", 10, 12, 2)]
    assert cut(12, window=4, stride=10, last="shift")[1:] == [("ijkl", 8, 12, 0)]


@pytest.mark.parametrize("last", windows.LASTS)
def test_no_frame_makes_no_window(last: Last) -> None:
    assert cut(0, window=4, stride=2, last=last) == []


@pytest.mark.parametrize(("last", "most"), [("repeat", 5), ("shift", 5), ("loop", 9)])
def test_no_more_frames_are_kept_than_windows_need(last: Last, most: int) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    counts: list[int] = []

    def frames() -> Iterator[np.ndarray]:
        for number in range(500):
            frame = np.full(3, number)
            alive.append(weakref.ref(frame))
            counts.append(sum(reference() is not None for reference in alive))
            yield frame
            del frame

    firsts = [int(found.frames[0][0]) for found in windows.slide(frames(), window=4, stride=3, last=last)]
    assert firsts[:3] == [0, 3, 6]
    # The window that was handed over last, and the frame that is drawn.
    assert max(counts) <= most + 4


@pytest.mark.parametrize(
    ("num_frames", "last", "count"),
    [
        (3, "drop", 0),
        (20, "drop", 8),  # 4 to 6, 11 to 13, 18 and 19
        (16, "drop", 6),  # 14 and 15 are dropped
        (18, "repeat", 6),
        (13, "repeat", 5),  # 4 to 6, 11 and 12
        (16, "repeat", 6),  # 14 and 15 are in a window that is filled
        (16, "shift", 4),  # 4 to 6, and 11: the last window begins at 12
    ],
)
def test_frames_between_windows_of_four_every_seven(num_frames: int, last: Last, count: int) -> None:
    places = list(windows.slide(range(num_frames), window=4, stride=7, last=last))
    assert windows.between(places, stride=7, num_frames=num_frames) == count


@pytest.mark.parametrize("last", windows.LASTS)
def test_nothing_is_between_windows_that_touch(last: Last) -> None:
    for stride in (1, 3, 4):
        places = list(windows.slide(range(21), window=4, stride=stride, last=last))
        assert windows.between(places, stride=stride, num_frames=21) == 0


def test_a_window_that_fills_the_memory_is_refused() -> None:
    windows.check(window=1500, stride=1, last="drop")
    with pytest.raises(InputError, match=r"window \(1501\) must be <= 1500"):
        windows.check(window=1501, stride=1, last="drop")


@pytest.mark.parametrize(("window", "stride"), [(0, 1), (1, 0), (4, -1)])
def test_numbers_out_of_range(window: int, stride: int) -> None:
    with pytest.raises(InputError, match=rf"window \({window}\) and stride \({stride}\) must be > 0"):
        list(windows.slide("abc", window=window, stride=stride, last="drop"))


def test_an_unknown_choice_is_listed() -> None:
    with pytest.raises(InputError, match=r"last \('pad'\) is not one of drop, repeat, loop, shift"):
        windows.check(window=1, stride=1, last="pad")  # type: ignore[arg-type]
