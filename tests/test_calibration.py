"""Which views of which clips an engine is calibrated on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from i3d_deploy import calibration, generated, video, video_files, views
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


def test_tabs_come_before_labels_too(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{folder}/c.mp4\t3\n{folder}/inner/a 1.mp4\t 0\t2 \n")
    assert calibration.find(tmp_path / "list.txt") == (folder / "c.mp4", folder / "inner/a 1.mp4")


def test_a_list_may_be_json(folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.json"
    listed.write_text('[{"filename": "c.mp4", "label": 3}, {"frame_dir": "frames", "total_frames": 9}]')
    assert calibration.find(listed) == (tmp_path / "c.mp4", tmp_path / "frames")
    listed.write_text('[{"filename": "c.mp4"}, {"label": 3}]')
    with pytest.raises(InputError, match=r"list\.json: entry 1 has neither a 'filename' nor a 'frame_dir'"):
        calibration.find(listed)
    listed.write_text("[]")
    with pytest.raises(InputError, match=r"list\.json names no video: write one a line"):
        calibration.find(listed)


def test_a_line_longer_than_any_name_is_a_missing_video(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("x" * 5000 + " 3\n")
    with pytest.raises(VideoError, match=r"none of 1 videos .* name too long"):
        calibration.choose(listed, num_views=1, views_per_video=6)


def test_folders_of_frames_are_videos(folder: Path, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    (tmp_path / "none").mkdir()
    for number, frame in enumerate(video_files.read(folder / "b.mp4"), 1):
        cv2.imwrite(str(tmp_path / f"frames/img_{number:05}.png"), frame[..., ::-1])
    (tmp_path / "list.txt").write_text("frames 20 3\nnone 20 3\n")
    clips = calibration.choose(tmp_path / "list.txt", num_views=2, views_per_video=6)
    assert clips.paths == (tmp_path / "frames",)
    assert calibration.find(tmp_path / "frames") == clips.paths
    (reason,) = clips.unreadable
    assert reason.endswith("none: a folder with neither videos nor frames named img_00001.jpg and so on")
    card = tiny_checkpoint.card
    expected = list(views.prepare(folder / "b.mp4", card).batches(1))
    assert all(np.array_equal(ours, expected[n]) for ours, n in zip(clips.views(card), (0, 3), strict=True))
    digests = [hashlib.sha256((tmp_path / f"frames/img_{n:05}.png").read_bytes()).digest() for n in range(1, 21)]
    assert clips.described().sha256 == hashlib.sha256(b"".join(digests)).hexdigest()


def test_one_video_is_enough(folder: Path) -> None:
    assert calibration.find(folder / "b.mp4") == (folder / "b.mp4",)


def test_no_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the folder holds no video to calibrate on"):
        calibration.find(tmp_path)
    with pytest.raises(InputError, match=r"nothing: no such file; give a list or a folder of videos"):
        calibration.find(tmp_path / "nothing")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match=r"empty\.txt names no video: write one a line"):
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
    broken = tmp_path / "broken.mp4"
    assert clips.unreadable == (f"{broken}: no video stream that can be decoded",)
    assert clips.warnings[:1] == (f"calibration leaves out a video: {broken}: no video stream that can be decoded",)
    listed.write_text("broken.mp4\nmissing.mp4\n")
    with pytest.raises(VideoError, match=r"none of 2 videos to calibrate on can be read: /.*/broken\.mp4: no video"):
        calibration.choose(listed, num_views=4, views_per_video=6)


def test_what_opens_but_does_not_decode_is_left_out(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "b.mp4").read_bytes()
    start = whole.index(b"mdat") + 4
    # The index of the frames is behind them, so that the file opens and says that it has 20.
    (tmp_path / "empty.mp4").write_bytes(whole[:start] + bytes(whole.index(b"moov") - 4 - start) + _rest(whole))
    video.check(tmp_path / "empty.mp4")
    (tmp_path / "whole.mp4").write_bytes(whole)
    clips = calibration.choose(tmp_path, num_views=4, views_per_video=6)
    assert clips.paths == (tmp_path / "whole.mp4",)
    assert clips.unreadable == (f"{tmp_path / 'empty.mp4'}: no frame could be decoded",)


def _rest(whole: bytes) -> bytes:
    return whole[whole.index(b"moov") - 4 :]
