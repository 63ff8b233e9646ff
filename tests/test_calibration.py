"""Which views of which clips an engine is calibrated on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from i3d_deploy import calibration, generated, views
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import InputError, VideoError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos in two folders, a text file, and two lists of the videos with and without labels."""
    root = tmp_path_factory.mktemp("clips")
    (root / "inner").mkdir()
    for number, name in enumerate(("b.mp4", "inner/a 1.mp4", "c.mp4")):
        generated.write_clip(root / name, num_frames=20, height=32, width=48, seed=number)
    (root / "notes.md").write_text("no video")
    (root / "plain.txt").write_text("c.mp4\ninner/a 1.mp4\n\n")
    (root / "labelled.txt").write_text("c.mp4 3\ninner/a 1.mp4 0 2\n")
    return root


def test_a_folder_is_searched_through_and_through(folder: Path) -> None:
    assert calibration.find(folder) == (folder / "b.mp4", folder / "c.mp4", folder / "inner/a 1.mp4")


@pytest.mark.parametrize("name", ["plain.txt", "labelled.txt"])
def test_a_list_starts_from_its_folder_and_may_have_labels(folder: Path, name: str) -> None:
    assert calibration.find(folder / name) == (folder / "c.mp4", folder / "inner/a 1.mp4")


def test_one_video_is_enough(folder: Path) -> None:
    assert calibration.find(folder / "b.mp4") == (folder / "b.mp4",)


def test_no_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the folder holds no video to calibrate on"):
        calibration.find(tmp_path)
    with pytest.raises(InputError, match=r"nothing: no such file; give a list or a folder of videos"):
        calibration.find(tmp_path / "nothing")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match=r"empty\.txt: the list names no video"):
        calibration.find(tmp_path / "empty.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.txt: not a text file"):
        calibration.find(tmp_path / "binary.txt")
    with pytest.raises(InputError, match=r"calibration views \(0\) must be > 0"):
        calibration.choose(tmp_path, num_views=0, views_per_video=1)


@pytest.mark.parametrize(
    ("count", "total", "turn", "expected"),
    [
        (3, 9, 0, (0, 3, 6)),
        (3, 9, 2, (2, 5, 8)),
        (3, 9, 4, (1, 4, 7)),
        (1, 3, 5, (2,)),
        (5, 3, 0, (0, 1, 2)),
        (2, 5, 0, (0, 2)),
    ],
)
def test_what_is_chosen_is_spread_evenly(count: int, total: int, turn: int, expected: tuple[int, ...]) -> None:
    assert calibration.spread(count, total, turn=turn) == expected


@pytest.mark.parametrize(
    ("num_views", "num_videos", "expected"),
    [(6, 3, (2, 2, 2)), (7, 3, (2, 2, 3)), (2, 2, (1, 1)), (5, 4, (1, 1, 1, 2))],
)
def test_videos_share_the_views(num_views: int, num_videos: int, expected: tuple[int, ...]) -> None:
    assert calibration.shares(num_views, num_videos) == expected


def test_of_more_videos_than_views_each_gives_one(folder: Path) -> None:
    clips = calibration.choose(folder, num_views=2, views_per_video=6)
    assert clips.paths == (folder / "b.mp4", folder / "c.mp4")
    assert clips.num_views == 2


def test_few_videos_give_no_more_views_than_they_have(folder: Path) -> None:
    clips = calibration.choose(folder, num_views=100, views_per_video=6)
    assert (len(clips.paths), clips.num_views) == (3, 18)


def test_the_views_are_those_of_the_card(folder: Path, tiny_checkpoint: Checkpoint) -> None:
    card = tiny_checkpoint.card  # 2 clips under 3 crops: 6 views a video
    clips = calibration.choose(folder / "plain.txt", num_views=4, views_per_video=card.num_views)
    progress: list[tuple[int, int]] = []
    found = list(clips.views(card, on_views=lambda done, total: progress.append((done, total))))
    first, second = (list(views.prepare(folder / name, card).batches(1)) for name in ("c.mp4", "inner/a 1.mp4"))
    # Two of six are 0 and 3; the second video begins one further on.
    expected = [first[0], first[3], second[1], second[4]]
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_card_names_the_clips_by_their_contents(folder: Path) -> None:
    found = calibration.choose(folder / "plain.txt", num_views=4, views_per_video=6).described()
    digests = [hashlib.sha256((folder / name).read_bytes()).digest() for name in ("c.mp4", "inner/a 1.mp4")]
    assert (found.num_videos, found.num_views) == (2, 4)
    assert found.sha256 == hashlib.sha256(b"".join(digests)).hexdigest()


def test_what_cannot_be_opened_is_left_out_and_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    listed = tmp_path / "list.txt"
    listed.write_text(f"broken.mp4\n{folder / 'b.mp4'}\n")
    clips = calibration.choose(listed, num_views=4, views_per_video=6)
    assert clips.paths == (folder / "b.mp4",)
    (told,) = clips.left_out
    assert "leaves out" in told
    assert "broken.mp4" in told
    listed.write_text("broken.mp4\nmissing.mp4\n")
    with pytest.raises(VideoError, match=r"none of 2 videos to calibrate on can be opened"):
        calibration.choose(listed, num_views=4, views_per_video=6)
