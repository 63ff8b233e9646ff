"""The motion data set: what the classes are, and that a frame alone does not give them away."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from i3d_deploy import lists, motion, video, video_files
from i3d_deploy.errors import InputError
from i3d_deploy.motion import Kind, Size

TINY = Size(num_frames=6, height=32, width=40)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set of full-size videos."""
    folder = tmp_path_factory.mktemp("motion") / "new"
    assert motion.write_dataset(folder, train=18, val=8, test=3) == 29
    return folder


def modified(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_videos_decode_to_nearly_what_was_drawn(dataset: Path) -> None:
    decoded = np.stack(list(video_files.read(dataset / "val" / "00005.mp4")))
    assert decoded.shape == (24, 64, 80, 3)
    assert video_files.frame_rate(dataset / "val" / "00005.mp4") == 25
    drawn = motion.frames(5, split="val")
    # MPEG-4 drops noise and halves the colour resolution. The frames of another video differ by about 50.
    assert np.abs(decoded.astype(np.float64) - drawn).mean(axis=(1, 2, 3)).max() < 12


def test_lists_name_every_video_with_its_class(dataset: Path) -> None:
    assert (dataset / "val.txt").read_text() == "".join(f"val/0000{number}.mp4 {number}\n" for number in range(8))
    assert (dataset / "test.txt").read_text() == "test/00000.mp4 0\ntest/00001.mp4 1\ntest/00002.mp4 2\n"
    assert (dataset / "labels.txt").read_text() == (
        "move left\nmove right\nmove up\nmove down\nrotate clockwise\nrotate counterclockwise\ngrow\nshrink\n"
    )
    entries = lists.read(dataset / "train.txt", kind="video", root=dataset, num_classes=8)
    assert sorted(entry.labels[0] for entry in entries) == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]
    for entry in entries:
        assert isinstance(entry.source, Path)
        video.check(entry.source)
    assert sorted(path.name for path in dataset.iterdir()) == [
        *("labels.txt", "motion.json", "test", "test.txt", "train", "train.txt", "val", "val.txt"),
    ]


def test_seed_split_and_index_mean_the_same_frames() -> None:
    first = motion.frames(3, split="train", seed=1, size=TINY)
    assert (first.shape, first.dtype) == ((6, 32, 40, 3), np.dtype(np.uint8))
    np.testing.assert_array_equal(first, motion.frames(3, split="train", seed=1, size=TINY))
    for other in (
        motion.frames(3, split="val", seed=1, size=TINY),
        motion.frames(3, split="train", seed=2, size=TINY),
        motion.frames(11, split="train", seed=1, size=TINY),
    ):
        assert (first != other).mean() > 0.9


# What Farneback's optical flow of each class adds up to. Rows count downwards: what turns clockwise on the screen goes
# down (v > 0) where it is right of its center (x > 0).
FLOWS = {
    "move left": ("u", -1),
    "move right": ("u", 1),
    "move up": ("v", -1),
    "move down": ("v", 1),
    "rotate clockwise": ("x v - y u", 1),
    "rotate counterclockwise": ("x v - y u", -1),
    "grow": ("x u + y v", 1),
    "shrink": ("x u + y v", -1),
}


def flow_sum(before: NDArray[np.uint8], after: NDArray[np.uint8], what: str) -> float:
    """A sum over the optical flow between two frames, where pixels change by more than the noise.

    Moments are about the middle of the frame, which is as good as any other center: the flow of what turns or grows in
    place has no mean.
    """
    first, second = (cv2.GaussianBlur(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (5, 5), 0) for frame in (before, after))
    start = np.zeros((*first.shape, 2), np.float32)
    flow = np.asarray(cv2.calcOpticalFlowFarneback(first, second, start, 0.5, 2, 11, 5, 5, 1.1, 0))
    u, v = flow[..., 0], flow[..., 1]
    y, x = np.mgrid[: first.shape[0], : first.shape[1]] - np.array(first.shape)[:, None, None] / 2
    # No patch moves by 5 pixels: there it has come in on the other side.
    moving = (np.abs(after.astype(np.float64) - before).mean(axis=2) > 12) & (np.hypot(u, v) < 5)
    sums = {"u": u, "v": v, "x v - y u": x * v - y * u, "x u + y v": x * u + y * v}
    return float(sums[what][moving].sum())


@pytest.mark.parametrize("label", range(8))
def test_optical_flow_shows_the_class(label: int) -> None:
    what, sign = FLOWS[motion.LABELS[label]]
    directions = []
    for index in range(label, 160, 8):
        drawn = motion.frames(index, split="train")[4:20]
        # The median, since what comes in on the other side or starts over moves the other way for a moment.
        sums = [flow_sum(before, after, what) for before, after in itertools.pairwise(drawn)]
        directions.append(float(np.sign(np.median(sums))))
    assert directions.count(sign) >= 19, directions


@pytest.mark.parametrize(
    ("kind", "attribute", "period"),
    [("horizontal", "x", 80), ("vertical", "y", 64), ("turn", "degrees", 360)],
)
def test_places_and_angles_are_uniform_at_every_time(kind: Kind, attribute: str, period: float) -> None:
    random = np.random.RandomState(0)
    patches = [patch for _ in range(1500) for patch in motion.draw_patches(random, kind=kind, size=Size())]
    values = np.stack([getattr(patch, attribute) for patch in patches])
    steps = np.diff(values, axis=1)
    assert (np.sign(steps) == (1 if kind == "turn" else -1)).all()
    # The mean of n unit vectors in uniformly distributed directions is 1 / sqrt(n) long or so.
    for harmonic in (1, 2):
        mean = np.exp(2j * np.pi * harmonic * values / period).mean(axis=0)
        assert np.abs(mean).max() < 4 / np.sqrt(len(values))


def test_sizes_have_one_distribution_at_every_time() -> None:
    random = np.random.RandomState(0)
    sides = np.stack(
        [patch.side for _ in range(1500) for patch in motion.draw_patches(random, kind="zoom", size=Size())]
    )
    # From 0.16 to 0.2 times 64 rows, up to four times as large, and uniform in the logarithm: the geometric mean is
    # twice the smallest one's, which is 64 * 0.1796 (the geometric mean of a uniform variable in [0.16, 0.2]).
    logs = np.log2(sides / (64 * 0.1796))
    # Uniform in [0, 2] has a variance of 1/3, to which the smallest size adds less than 0.01.
    assert np.abs(logs.mean(axis=0) - 1).max() < 4 * np.sqrt(0.34 / len(sides))
    assert np.abs(logs.std(axis=0) - np.sqrt(1 / 3)).max() < 0.04
    grows = np.diff(sides, axis=1) > 0
    # Once in 24 to 36 frames it starts over.
    assert 1 - grows.mean() == pytest.approx(np.log(36 / 24) / 12, abs=0.004)


def statistics(label: int, *, count: int) -> NDArray[np.float64]:
    """(videos, T, 4): contrast of each frame, and where and how far spread its edges are."""
    found = []
    for index in range(label, 8 * count, 8):
        grey = motion.frames(index, split="train").astype(np.float64).mean(axis=3)
        edges = np.abs(np.diff(grey, axis=2))[:, :-1] + np.abs(np.diff(grey, axis=1))[:, :, :-1]
        columns, rows = edges.mean(axis=1), edges.mean(axis=2)
        x, y = (side @ np.arange(side.shape[1]) / side.sum(axis=1) for side in (columns, rows))
        found.append(np.stack([grey.std(axis=(1, 2)), edges.mean(axis=(1, 2)), x, y], axis=1))
    return np.stack(found)


@pytest.mark.parametrize("pair", range(4))
def test_single_frames_of_a_pair_look_alike_at_every_time(pair: int) -> None:
    first, second = (statistics(2 * pair + side, count=100) for side in (0, 1))
    error = np.sqrt(first.var(axis=0) / 100 + second.var(axis=0) / 100)
    # 24 times and 4 statistics: the largest of 96 normal deviates stays below 4.5 in all but 1 of 1500 draws.
    assert (np.abs(first.mean(axis=0) - second.mean(axis=0)) / error).max() < 4.5


class StoppedError(Exception):
    """What a test stops a run with."""


def test_interrupted_run_leaves_no_list_and_goes_on_where_it_was(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 24
        if done == 5:
            raise StoppedError

    with pytest.raises(StoppedError, match=r"^$"):
        motion.write_dataset(tmp_path, train=8, val=8, test=8, size=TINY, on_video=stop)
    before = {path: when for path, when in modified(tmp_path).items() if path.suffix == ".mp4"}
    assert 5 <= len(before) < 24
    assert not list(tmp_path.glob("*.txt"))
    seen: list[tuple[int, int]] = []
    drawn = motion.write_dataset(
        tmp_path, train=8, val=8, test=8, size=TINY, on_video=lambda *given: seen.append(given)
    )
    assert drawn == 24 - len(before)
    assert seen == [(done, 24) for done in range(len(before) + 1, 25)]
    after = modified(tmp_path)
    assert before.items() <= after.items()
    assert len(list(tmp_path.glob("*.txt"))) == 4


def test_same_data_set_is_reused_and_mended(tmp_path: Path) -> None:
    assert motion.write_dataset(tmp_path, train=8, val=1, test=1, size=TINY) == 10
    before = {path: when for path, when in modified(tmp_path).items() if path.suffix == ".mp4"}
    assert motion.write_dataset(tmp_path, train=8, val=1, test=1, size=TINY) == 0
    assert before.items() <= modified(tmp_path).items()
    lost = tmp_path / "train" / "00003.mp4"
    data = lost.read_bytes()
    lost.unlink()
    assert motion.write_dataset(tmp_path, train=8, val=1, test=1, size=TINY) == 1
    assert lost.read_bytes() == data


def test_data_set_of_other_parameters_is_replaced(tmp_path: Path) -> None:
    motion.write_dataset(tmp_path, train=3, val=1, test=1, size=TINY)
    old = (tmp_path / "train" / "00000.mp4").read_bytes()
    assert motion.write_dataset(tmp_path, train=2, val=1, test=1, seed=1, size=TINY) == 4
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == ["00000.mp4", "00001.mp4"]
    assert (tmp_path / "train.txt").read_text() == "train/00000.mp4 0\ntrain/00001.mp4 1\n"
    assert (tmp_path / "train" / "00000.mp4").read_bytes() != old


def test_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else than a motion data set: give a new or empty folder"):
        motion.write_dataset(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["train.txt"]


def test_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train, val and test \(0, 1, 1\) must be 1 to 100000, seed \(0\)"):
        motion.write_dataset(tmp_path, train=0, val=1, test=1)
    with pytest.raises(InputError, match=r"index and seed \(-1, 0\) must be >= 0"):
        motion.frames(-1, split="train")
    with pytest.raises(InputError, match="24 frames of 80x16: give at least one, of at least 32x32"):
        Size(height=16)
    assert not list(tmp_path.iterdir())
