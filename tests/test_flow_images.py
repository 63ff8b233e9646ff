"""Flow in pairs of JPEG files: names, numbers, and what is wrong with a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from i3d_deploy import flow_images
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.flow_images import FlowFolder


def flows(count: int, *, height: int = 24, width: int = 32) -> NDArray[np.uint8]:
    """(count, H, W, 2): one level an image, which JPEG keeps exactly: 10, 11, ... for x, and 200, 201, ... for y."""
    levels = np.arange(count)[:, None] + [10, 200]
    return np.broadcast_to(levels[:, None, None, :], (count, height, width, 2)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three pairs."""
    flow_images.write_pairs(tmp_path / "flow", flows(3))
    return tmp_path / "flow"


def test_pairs_are_numbered_from_one(folder: Path) -> None:
    names = ["x_00001.jpg", "x_00002.jpg", "x_00003.jpg", "y_00001.jpg", "y_00002.jpg", "y_00003.jpg"]
    assert sorted(path.name for path in folder.iterdir()) == names
    image = cv2.imread(str(folder / "y_00003.jpg"), cv2.IMREAD_UNCHANGED)
    assert image is not None
    np.testing.assert_array_equal(image, np.full((24, 32), 202))


def test_names_grow_beyond_five_digits() -> None:
    assert flow_images.image_name("x", 7) == "x_00007.jpg"
    assert flow_images.image_name("y", 123456) == "y_123456.jpg"


def test_what_is_written_is_read(folder: Path) -> None:
    read = FlowFolder(folder)
    assert (read.num_flows, read.size) == (3, (24, 32))
    np.testing.assert_array_equal([read.read(index) for index in range(3)], flows(3))


def test_quality_decides_how_near_it_is(tmp_path: Path) -> None:
    # Noise about the middle, smoothed as flow is.
    levels = 127 + 40 * np.random.RandomState(0).standard_normal((1, 64, 64, 2))
    flow = np.clip(cv2.blur(levels[0], (9, 9)), 0, 255).astype(np.uint8)[None]
    errors, sizes = [], []
    for quality in (95, 60):
        assert flow_images.write_pairs(tmp_path / str(quality), flow, quality=quality) == 1
        difference = FlowFolder(tmp_path / str(quality)).read(0).astype(int) - flow[0]
        errors.append(abs(difference).mean())
        sizes.append((tmp_path / str(quality) / "x_00001.jpg").stat().st_size)
    assert errors[0] < 0.8 < 2 * errors[0] < errors[1]
    assert sizes[0] > sizes[1]


def test_flows_may_come_from_an_iterator_and_be_views(tmp_path: Path) -> None:
    backwards = iter(flows(2)[::-1, ::-1, ::2])
    assert flow_images.write_pairs(tmp_path, backwards) == 2
    assert FlowFolder(tmp_path).size == (24, 16)
    assert FlowFolder(tmp_path).read(0)[0, 0].tolist() == [11, 201]


def test_a_shorter_flow_takes_the_place_of_a_longer_one(folder: Path) -> None:
    (folder / "img_00003.jpg").write_bytes(b"a frame")
    flow_images.write_pairs(folder, flows(2)[::-1])
    names = ["img_00003.jpg", "x_00001.jpg", "x_00002.jpg", "y_00001.jpg", "y_00002.jpg"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert FlowFolder(folder).read(1)[0, 0].tolist() == [10, 200]


def test_an_interrupted_run_leaves_the_first_pairs_whole(tmp_path: Path) -> None:
    def interrupted() -> Iterator[NDArray[np.uint8]]:
        yield from flows(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flow_images.write_pairs(tmp_path, interrupted())
    assert FlowFolder(tmp_path).num_flows == 2
    assert len(list(tmp_path.iterdir())) == 4


def test_flow_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"quality \(0\) must be 1 to 100"):
        flow_images.write_pairs(tmp_path, flows(1), quality=0)
    with pytest.raises(InputError, match=r"flow 0 must be uint8 of shape \(H, W, 2\), not float32 of shape"):
        flow_images.write_pairs(tmp_path, [flows(1)[0].astype(np.float32)])
    with pytest.raises(InputError, match=r"flow 1 has shape \(20, 32, 2\), those before it \(24, 32, 2\)"):
        flow_images.write_pairs(tmp_path, [flows(1)[0], flows(1, height=20)[0]])
    with pytest.raises(InputError, match="no flow to write: a video of one frame has none"):
        flow_images.write_pairs(tmp_path / "none", [])


def test_other_files_and_names_do_not_matter(folder: Path) -> None:
    for name in ("img_00009.jpg", "x_4.jpg", "x_00004.png", "x_000004.jpg", "flow_x_00004.jpg", "notes.txt"):
        (folder / name).write_bytes(b"")
    assert FlowFolder(folder).num_flows == 3


def test_a_folder_without_flow_says_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"no flow images named x_00001.jpg, y_00001.jpg and so on"):
        FlowFolder(tmp_path)
    with pytest.raises(VideoError, match="nowhere: no such folder"):
        FlowFolder(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(VideoError, match="file: Not a directory"):
        FlowFolder(tmp_path / "file")


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        (["y_00002.jpg"], "y_00002.jpg missing; flow images are numbered from 1 to 3 here"),
        (["x_00003.jpg"], "x_00003.jpg missing"),
        (["x_00001.jpg", "y_00001.jpg"], "x_00001.jpg and y_00001.jpg missing"),
        (["x_00002.jpg", "y_00002.jpg"], "x_00002.jpg and y_00002.jpg missing"),
    ],
    ids=["no y", "no x", "starts at 2", "gap"],
)
def test_what_is_missing_is_named(folder: Path, removed: list[str], message: str) -> None:
    for name in removed:
        (folder / name).unlink()
    with pytest.raises(VideoError, match=f"flow: {message}"):
        FlowFolder(folder)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_that_is_cut_off_cannot_be_decoded(tmp_path: Path, share: float) -> None:
    noise = np.random.RandomState(0).randint(0, 256, (2, 24, 32, 2)).astype(np.uint8)
    flow_images.write_pairs(tmp_path, noise)
    path = tmp_path / "y_00002.jpg"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    read = FlowFolder(tmp_path)
    assert read.read(0).shape == (24, 32, 2)
    with pytest.raises(VideoError, match=r"y_00002.jpg: the image cannot be decoded"):
        read.read(1)


def test_a_damaged_first_file_is_found_when_the_folder_is_opened(folder: Path) -> None:
    (folder / "x_00001.jpg").write_bytes(b"\x89PNG")
    with pytest.raises(VideoError, match=r"x_00001.jpg: the image cannot be decoded"):
        FlowFolder(folder)


@pytest.mark.parametrize(("axis", "index"), [("y", 0), ("x", 2)])
def test_images_of_another_size_are_found(tmp_path: Path, folder: Path, axis: str, index: int) -> None:
    flow_images.write_pairs(tmp_path / "other", flows(1, height=20))
    name = f"{axis}_{index + 1:05}.jpg"
    (tmp_path / "other" / f"{axis}_00001.jpg").replace(folder / name)
    with pytest.raises(VideoError, match=f"{name}: the image is 32x20, but x_00001.jpg is 32x24"):
        FlowFolder(folder).read(index)


@pytest.mark.parametrize("index", [-1, 3])
def test_only_flows_that_are_there_can_be_read(folder: Path, index: int) -> None:
    with pytest.raises(InputError, match=f"flow {index} of 3: they are counted from 0"):
        FlowFolder(folder).read(index)


def test_a_file_that_vanishes_is_told(folder: Path) -> None:
    read = FlowFolder(folder)
    (folder / "y_00002.jpg").unlink()
    with pytest.raises(VideoError, match=r"y_00002.jpg: no such file"):
        read.read(1)
