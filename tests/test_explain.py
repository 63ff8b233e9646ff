"""Copies of a video that show what speaks for a class."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from i3d_deploy import explain, video_files
from i3d_deploy.errors import InputError, MissingExtraError
from i3d_deploy.predictions import Explanation
from tests import explained

SIZE = 256, 320


@pytest.fixture
def corner() -> Explanation:
    """Frames 4 to 11 of 16 are seen; the lower left speaks for "run" in the second half of them."""
    maps = np.zeros((1, 2, 4, 5))
    maps[0, 1, 3, 0] = 10
    maps[0, 0, 0, 4] = -30
    found = explained.evidence(maps, indices=[list(range(4, 12))], num_frames=16, frame_size=SIZE)
    return explained.explanation(found)


def drawn(explanation: Explanation) -> list[np.ndarray]:
    """Its frames over a grey video."""
    frames = (np.full((*SIZE, 3), 120, np.uint8) for _ in range(16))
    return [frame.astype(int) for frame in explain.draw(frames, explanation, count=1)]


def colour(frame: np.ndarray) -> np.ndarray:
    """How colourful each pixel is, without the bands at the top and the bottom."""
    return np.asarray((frame.max(2) - frame.min(2))[30:-30])


def test_the_corner_that_speaks_for_the_class_is_brightest_in_its_frames(corner: Explanation) -> None:
    frames = drawn(corner)
    by_frame = [colour(frame).max() for frame in frames]
    assert by_frame[:5] == [0] * 5
    assert by_frame[12:] == [0] * 4
    # Positions look at the frames 5.5 and 9.5; the last colours are bright and not more colourful.
    assert (np.diff(by_frame[5:10]) > 0).all()
    row, column = np.argwhere(colour(frames[10]) == colour(frames[10]).max()).mean(0)
    assert row + 30 > 0.75 * SIZE[0]
    assert column < 0.2 * SIZE[1]
    assert colour(frames[10])[:, 160:].max() == 0
    assert frames[10].sum(2)[215, 20] > frames[7].sum(2)[215, 20]


def test_what_no_view_saw_is_hatched(corner: Explanation) -> None:
    frames = drawn(corner)
    # 120 of 255 lies between 32 and 132 at 79; half as bright where row and column add up to 204 to 209, and so on.
    for unseen in (frames[0], frames[15]):
        assert unseen[100, 100:124, 0].tolist() == [79] * 4 + [39] * 6 + [79] * 6 + [39] * 6 + [79] * 2
    assert frames[4][100, 100:124].tolist() == [[79] * 3] * 24


def test_what_speaks_against_a_class_is_not_drawn() -> None:
    found = explained.evidence(np.full((1, 1, 2, 2), -1), indices=[list(range(16))], num_frames=16, frame_size=SIZE)
    assert max(colour(frame).max() for frame in drawn(explained.explanation(found))) == 0


def test_colours_grow_with_strength_and_hide_the_frame() -> None:
    frame = np.full((40, 60, 3), (200, 30, 30), np.uint8)
    strength = np.array([[np.nan, -1, 0, 0.5, 1, 2]], np.float32)
    shown = explain.overlay(frame, np.repeat(strength, 10, axis=1).repeat(40, axis=0)).astype(int)
    unseen, against, none, half, most, more = shown[20, 5::10]
    gray = 63  # 0.299 * 200 + 0.701 * 30 is 81, and 32 + 81 * 100 / 255 as bright
    assert against.tolist() == none.tolist() == [gray] * 3
    assert unseen.tolist() == [gray // 2] * 3
    # 0.8 of the last colour of inferno, (252, 255, 164).
    np.testing.assert_allclose(most, 0.8 * np.array([252, 255, 164]) + 0.2 * gray, atol=1.5)
    assert more.tolist() == most.tolist()
    assert none.sum() < half.sum() < most.sum()
    assert (frame == (200, 30, 30)).all()


def test_the_copy_has_every_frame_and_a_chart_beside_it(corner: Explanation, tmp_path: Path) -> None:
    clip, output = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    video_files.write(clip, (np.full((*SIZE, 3), 120, np.uint8) for _ in range(16)), frames_per_second=10)
    explain.write(clip, corner, output)
    copy = list(video_files.read(output))
    assert len(copy) == 16
    assert copy[0].shape == (*SIZE, 3)
    np.testing.assert_allclose(copy[10][100:200], drawn(corner)[10][100:200], atol=40)  # encoded once more
    assert cv2.imread(str(tmp_path / "out.png")) is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "out.mp4", "out.png"]


def test_long_labels_fit_into_narrow_frames(corner: Explanation) -> None:
    frame = np.full((300, 256, 3), 120, np.uint8)
    (shown,) = explain.draw(iter([frame]), corner, count=1)
    text = shown[-26:, 60:].max(2) > 150
    assert text.any()
    assert not text[:, -8:].any()


def test_misuse_is_explained(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"out\.gif: explained videos are written as \.mp4, with a \.png beside it"):
        explain.check(clip, tmp_path / "out.gif")
    with pytest.raises(InputError, match=r"missing\.mp4: only a video file can be explained"):
        explain.check("missing.mp4", tmp_path / "out.mp4")
    with pytest.raises(InputError, match="is the video itself"):
        explain.check(clip, clip)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'i3d-deploy\[report\]'"):
        explain.check(clip, tmp_path / "out.mp4")
