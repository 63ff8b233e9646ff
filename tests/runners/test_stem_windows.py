"""What views share, against lists worked out by hand."""

from __future__ import annotations

import pytest

from i3d_deploy.geometry import Box
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.runners import stem_windows
from i3d_deploy.runners.stem_windows import Region, Shape, Temporal, Window

R50 = Temporal(kernel=5, stride=4, before=2, after=2)


def boxes(height: int, width: int) -> tuple[Box, ...]:
    return Spatial().boxes(height, width)


def shape(height: int, width: int) -> Shape:
    found = stem_windows.shape_of(boxes(height, width))
    assert found is not None
    return found


def windows(num_frames: int) -> list[tuple[Window, ...]]:
    return [R50.windows(clip) for clip in Sampling().frame_indices(num_frames).tolist()]


def test_the_first_window_of_a_clip_begins_with_zeros() -> None:
    assert R50.windows(range(100, 116, 2)) == (Window(2, (100, 102, 104)), Window(0, (104, 106, 108, 110, 112)))


def test_a_stem_without_stride_also_sees_zeros_after_the_clip() -> None:
    assert Temporal(kernel=5, stride=1, before=2, after=2).windows(range(6)) == (
        Window(2, (0, 1, 2)),
        Window(1, (0, 1, 2, 3)),
        Window(0, (0, 1, 2, 3, 4)),
        Window(0, (1, 2, 3, 4, 5)),
        Window(0, (2, 3, 4, 5)),
        Window(0, (3, 4, 5)),
    )


@pytest.mark.parametrize(
    ("num_frames", "unique"),
    [
        # Clips start at 11, 35, 59 (3 modulo 8), 82, 106, 130, 154 (2) and 177, 201, 225 (1). Every clip has a first
        # window of its own: 10. Seven follow, 8 frames apart, of which a clip has all but 3 in common with the one
        # 24 frames before it: 7 + 3 + 3, 7 + 3 + 3 + 3 and 7 + 3 + 3.
        (300, 52),
        # (280 - 64 + 1) / 10 = 21.7 frames from clip to clip: no two that overlap agree modulo 8.
        (280, 80),
        (18000, 80),
        # Shorter than a clip: all clips are one, and that repeats itself after 40 frames. Windows that begin 4, 12, 20,
        # 28 and 36 frames after its start, and the first one.
        (40, 6),
    ],
)
def test_windows_that_clips_share_are_counted_once(num_frames: int, unique: int) -> None:
    found = windows(num_frames)
    assert sum(len(of_clip) for of_clip in found) == 80
    assert len({window for of_clip in found for window in of_clip}) == unique


def test_crops_an_even_number_of_columns_apart_are_convolved_together() -> None:
    assert shape(256, 340) == Shape(
        is_portrait=False,
        height=256,
        spans=((0, 256), (84, 340), (42, 298)),
        regions=(Region(start=0, stop=340, crops=(0, 1, 2)),),
        origin=(0, 0),
    )


def test_a_crop_an_odd_number_of_columns_away_is_convolved_by_itself() -> None:
    # 455 columns: steps of (455 - 256) // 2 = 99.
    assert shape(256, 455).regions == (
        Region(start=0, stop=454, crops=(0, 1)),
        Region(start=99, stop=355, crops=(2,)),
    )


def test_crops_that_do_not_overlap_are_convolved_by_themselves() -> None:
    # 1000 columns: steps of 372, so that 744 pixels are between the outer crops and 116 between neighbours.
    assert [(region.start, region.stop) for region in shape(256, 1000).regions] == [(0, 256), (744, 1000), (372, 628)]


def test_of_portrait_frames_rows_are_shared() -> None:
    assert shape(340, 256).regions == shape(256, 340).regions
    assert (shape(340, 256).size, shape(256, 340).size) == ((340, 256), (256, 340))


def test_one_crop_is_seen_without_the_rest_of_the_frame() -> None:
    found = stem_windows.shape_of([Box(42, 16, 266, 240)])
    assert found is not None
    assert (found.size, found.origin, found.spans) == ((224, 224), (16, 42), ((0, 224),))


@pytest.mark.parametrize(
    "crops",
    [
        [Box(0, 0, 30, 30)],
        [Box(0, 0, 32, 32), Box(2, 2, 34, 34)],
        [Box(0, 0, 12, 12)],
    ],
    ids=["a side that is no multiple of 4", "crops apart in both directions", "smaller than two borders"],
)
def test_what_is_not_known_to_be_equal_is_left_alone(crops: list[Box]) -> None:
    assert stem_windows.shape_of(crops) is None


@pytest.mark.parametrize(
    ("num_frames", "size", "saved"),
    [
        # 170 columns of the whole frame, 4 at each of two left borders, 3 at each of two right ones: not 3 * 128.
        (280, (256, 340), 1 - 184 / 384),
        # 10 windows of 3 frames and 42 of 5 are left of 10 of 3 and 70 of 5.
        (300, (256, 340), 1 - (240 / 380) * (184 / 384)),
        # 227 + 4 + 3 columns, and 128 of the crop that lies at an odd column.
        (280, (455, 256), 1 - 362 / 384),
        # The same crop three times.
        (280, (256, 256), 1 - 1 / 3),
    ],
)
def test_the_work_saved_is_counted_in_frames_and_columns(num_frames: int, size: tuple[int, int], saved: float) -> None:
    assert stem_windows.saved_share(windows(num_frames), shape(*size)) == pytest.approx(saved)
