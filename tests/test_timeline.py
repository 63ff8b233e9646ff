"""Probabilities in the course of a video."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from i3d_deploy import timeline
from i3d_deploy.errors import MissingExtraError
from i3d_deploy.geometry import Box
from tests import explained


def sigmoid(value: float) -> float:
    """The softmax of two opposite logits, ``value`` / 2 and the opposite."""
    return float(1 / (1 + np.exp(-value)))


def test_clips_are_averaged_over_their_crops() -> None:
    boxes = Box(0, 0, 4, 4), Box(2, 0, 6, 4)
    maps = np.array([1, -1, 3, 0]).reshape(4, 1, 1, 1)
    found = explained.evidence(maps, indices=[[0, 2, 4], [3, 5, 7]], num_frames=10, boxes=boxes)
    course = timeline.of(explained.explanation(found))
    assert course.of == "clip"
    assert course.start_frames.tolist() == [0, 3]
    assert course.end_frames.tolist() == [5, 8]
    run = [(sigmoid(2) + sigmoid(6)) / 2, (sigmoid(-2) + sigmoid(0)) / 2]
    np.testing.assert_allclose(course.probabilities, np.stack([run, 1 - np.array(run)], 1), rtol=1e-6)


def test_one_clip_is_shown_step_by_step() -> None:
    maps = np.array([1, 2, 6]).reshape(1, 3, 1, 1)
    found = explained.evidence(maps, indices=[list(range(12))], num_frames=12, window=(2, 1, 1))
    course = timeline.of(explained.explanation(found))
    assert course.of == "step"
    assert course.start_frames.tolist() == [0, 4]
    assert course.end_frames.tolist() == [8, 12]
    np.testing.assert_allclose(course.probabilities[:, 0], [sigmoid(3), sigmoid(8)], rtol=1e-6)


def test_steps_of_a_head_that_averages_everything_are_frames_of_the_maps() -> None:
    found = explained.evidence(np.array([2, -4]).reshape(1, 2, 1, 1), indices=[[5, 7, 9]], num_frames=12)
    course = timeline.of(explained.explanation(found))
    # A position stands for one and a half of the three frames.
    assert course.start_frames.tolist() == [5, 7]
    assert course.end_frames.tolist() == [8, 10]
    np.testing.assert_allclose(course.probabilities[:, 0], [sigmoid(4), sigmoid(-8)], rtol=1e-6)


def test_between_steps_there_is_no_gap_but_where_the_video_begins_anew() -> None:
    maps = np.ones((1, 3, 1, 1))
    on, around = (
        timeline.of(explained.explanation(explained.evidence(maps, indices=[indices], num_frames=12)))
        for indices in ([0, 2, 4, 6, 8, 10], [0, 2, 4, 6, 0, 2])
    )
    assert (on.start_frames.tolist(), on.end_frames.tolist()) == ([0, 4, 8], [4, 8, 11])
    assert (around.start_frames.tolist(), around.end_frames.tolist()) == ([0, 4, 0], [4, 7, 3])


@pytest.mark.parametrize(
    ("index", "expected"), [(0, "a.mp4: run, 88.1 %"), (1, "a.mp4: run, 88.1 %; drawn: jump, 11.9 %")]
)
def test_the_heading_names_the_class_that_is_drawn(index: int, expected: str) -> None:
    # sigmoid(2) is 0.8808
    found = explained.evidence(np.ones((1, 1, 1, 1)), indices=[[0]], num_frames=1)
    explanation = explained.explanation(found, index=index)
    assert timeline.heading(explanation, title="a.mp4") == expected
    long = timeline.heading(explanation, title=f"{'a' * 80}.mp4")
    assert len(long) <= 80
    assert long.endswith(expected.removeprefix("a.mp4"))


def test_the_area_is_the_mean_of_the_clips_at_a_moment() -> None:
    course = timeline.Timeline(
        of="clip",
        start_frames=np.array([0, 2, 8]),
        end_frames=np.array([4, 6, 9]),
        probabilities=np.array([[0.2], [0.6], [1.0]], np.float32),
    )
    edges, means = course.means()
    assert edges.tolist() == [0, 2, 4, 6, 8, 9]
    np.testing.assert_allclose(means[:, 0], [0.2, 0.4, 0.6, np.nan, 1.0], rtol=1e-6)


@pytest.mark.parametrize("frames_per_second", [10.0, None])
def test_the_chart_is_a_picture_that_is_the_same_each_time(tmp_path: Path, frames_per_second: float | None) -> None:
    found = explained.evidence(
        np.array([1, -1]).reshape(2, 1, 1, 1),
        indices=[[0, 2, 4], [3, 5, 7]],
        num_frames=10,
        frames_per_second=frames_per_second,
    )
    path, again = tmp_path / "out.png", tmp_path / "again.png"
    for target in (path, again):
        timeline.write(target, explained.explanation(found, index=1), title="clip $x_1$.mp4", count=1)
    picture = cv2.imread(str(path))
    assert picture is not None
    assert picture.shape[1] == 1152
    assert path.read_bytes() == again.read_bytes()
    # Blue of the class that is explained, whose row comes first: the others' are grey.
    blue = (np.abs(picture.astype(int) - (178, 114, 0)).sum(2) < 30).any(1).nonzero()[0]
    assert 60 < blue.min() <= blue.max() < 170


def test_clips_with_gaps_between_them_have_areas(tmp_path: Path) -> None:
    found = explained.evidence(np.ones((3, 1, 1, 1)), indices=[[0, 1], [4, 5], [8, 9]], num_frames=10)
    timeline.write(tmp_path / "out.png", explained.explanation(found), title="clip.mp4", count=1)
    picture = cv2.imread(str(tmp_path / "out.png"))
    assert picture is not None
    # Axes begin 0.8 inches from the left and end 0.2 from the right, 160 pixels each.
    middles = [round(160 * (0.8 + 6.2 * (place + 0.5) / 10)) for place in range(10)]
    is_light_blue = np.abs(picture.astype(int) - (227, 205, 165)).sum(2) < 12
    has_area = is_light_blue.sum(0)[np.array(middles)] > 20
    assert has_area.tolist() == [True, True, False, False, True, True, False, False, True, True]


def test_a_missing_extra_gives_the_pip_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = explained.evidence(np.ones((1, 1, 1, 1)), indices=[[0]], num_frames=1)
    with pytest.raises(MissingExtraError, match=r"pip install 'i3d-deploy\[report\]'"):
        timeline.write(tmp_path / "out.png", explained.explanation(found), title="clip.mp4")
    assert list(tmp_path.iterdir()) == []
