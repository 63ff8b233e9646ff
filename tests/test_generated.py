"""The generated clip: the same everywhere, moving, and readable as a video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from i3d_deploy import generated, video
from i3d_deploy.errors import InputError


def test_frames_have_the_size_asked_for() -> None:
    drawn = list(generated.frames(num_frames=5, height=30, width=44))
    assert [(frame.shape, frame.dtype) for frame in drawn] == [((30, 44, 3), np.dtype(np.uint8))] * 5


def test_a_seed_means_the_same_frames() -> None:
    first, again, other = (
        np.stack(list(generated.frames(num_frames=3, height=40, width=40, seed=seed))) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9


def test_clip_moves_and_has_structure() -> None:
    drawn = np.stack(list(generated.frames(num_frames=16, height=64, width=80))).astype(np.float64)
    # Noise of -6..6 changes a pixel by 4.3 on average: mean distance of two equally likely values out of 13.
    assert np.abs(drawn[8] - drawn[0]).mean() > 8
    # Neighbours differ by little more than the noise, so the picture itself is smooth.
    assert np.abs(np.diff(drawn[0], axis=1)).mean() < 20
    assert drawn[0].std() > 30


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 90), (2, 90, 3)])
def test_smallest_sizes_are_drawn(size: tuple[int, int, int]) -> None:
    num_frames, height, width = size
    drawn = list(generated.frames(num_frames=num_frames, height=height, width=width))
    assert [frame.shape for frame in drawn] == [(height, width, 3)] * num_frames


@pytest.mark.parametrize("size", [(0, 8, 8), (8, 0, 8), (8, 8, -1)])
def test_sizes_out_of_range_are_refused(size: tuple[int, int, int]) -> None:
    num_frames, height, width = size
    with pytest.raises(InputError, match=r"num_frames, height and width \(.*\) must be > 0"):
        next(generated.frames(num_frames=num_frames, height=height, width=width))


def test_written_clip_decodes_to_nearly_its_frames(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "clip.mp4"
    generated.write_clip(path, num_frames=12, height=64, width=80, seed=3)
    frames = video.collect(path, choose=lambda count, _: np.arange(count)[None], transform=lambda frame: frame)
    assert (frames.num_frames, frames.warnings) == (12, ())
    drawn = np.stack(list(generated.frames(num_frames=12, height=64, width=80, seed=3)))
    decoded = np.stack([frames.by_index[number] for number in range(12)])
    # MPEG-4 halves the colour resolution and drops the noise. Red and blue exchanged would give about 60.
    assert np.abs(decoded.astype(np.float64) - drawn).mean() < 12
    assert list(path.parent.iterdir()) == [path]


def test_clip_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "clip.unknown"
    path.write_bytes(b"old")
    with pytest.raises(InputError, match=r"clip\.unknown: videos are written as \.mp4"):
        generated.write_clip(path, num_frames=2, height=16, width=16)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
