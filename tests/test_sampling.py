"""Frame indices against the original implementation and against lists worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from i3d_deploy import sampling
from i3d_deploy.errors import InputError
from tests import goldens

CASES = goldens.load_json("sampling_cases.json")
INDICES = goldens.load_npz("sampling_indices.npz")


def sample(case: dict[str, Any], random: np.random.RandomState) -> sampling.Indices:
    """Run a golden case, whose arguments are those of the original class, through this library."""
    args, num_frames = dict(case["args"]), case["total_frames"]
    is_test = args.pop("test_mode", False)
    num_clips = args.pop("num_clips", 1)
    clip = {"clip_len": args.pop("clip_len"), "frame_interval": args.pop("frame_interval", 1)}
    out_of_bound = args.pop("out_of_bound_opt", "loop")
    jitter = random if args.pop("temporal_jitter", False) else None
    if case["cls"] == "DenseSampleFrames":
        dense = {"num_clips": num_clips, "sample_range": args.pop("sample_range", 64)}
        positions = args.pop("num_sample_positions", 10)
        starts = (
            sampling.dense_starts(num_frames, num_positions=positions, **dense)
            if is_test
            else sampling.dense_train_starts(num_frames, random=random, **dense)
        )
    elif is_test:
        twice = args.pop("twice_sample", False)
        args.pop("keep_tail_frames", None)
        starts = sampling.uniform_starts(num_frames, num_clips=num_clips, twice=twice, **clip)
    else:
        args.pop("twice_sample", None)
        keep = args.pop("keep_tail_frames", False)
        starts = sampling.uniform_train_starts(
            num_frames, num_clips=num_clips, random=random, keep_tail_frames=keep, **clip
        )
    assert not args, f"arguments without a counterpart: {args}"
    return sampling.frame_indices(starts, num_frames=num_frames, out_of_bound=out_of_bound, jitter=jitter, **clip)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["key"])
def test_indices_equal_the_original(case: dict[str, Any]) -> None:
    indices = sample(case, np.random.RandomState(case["seed"]))
    np.testing.assert_array_equal(indices.ravel() + case["start_index"], INDICES[case["key"]])


@pytest.mark.parametrize(
    ("num_frames", "starts"),
    [
        # reference: 300 frames, mean step 23.7; 280 frames, mean step 21.7
        (300, [11, 35, 59, 82, 106, 130, 154, 177, 201, 225]),
        (280, [10, 32, 54, 75, 97, 119, 141, 162, 184, 206]),
    ],
)
def test_ten_clips_start_half_a_step_inside(num_frames: int, starts: list[int]) -> None:
    found = sampling.uniform_starts(num_frames, clip_len=32, frame_interval=2, num_clips=10)
    assert found.tolist() == starts


@pytest.mark.parametrize(
    ("num_frames", "num_clips", "starts"),
    [
        # span 63: 280 - 63 = 217, 217 / 9 = 24.11
        (280, 10, [0, 24, 48, 72, 96, 121, 145, 169, 193, 217]),
        (280, 1, [108]),
        # 62 frames are fewer than a span
        (62, 3, [0, 0, 0]),
        # 65 - 63 = 2 over four steps of 0.5: halves go to the even number
        (65, 5, [0, 0, 1, 2, 2]),
    ],
)
def test_formula_of_1x_covers_first_to_last_frame(num_frames: int, num_clips: int, starts: list[int]) -> None:
    found = sampling.uniform_starts_1x(num_frames, clip_len=32, frame_interval=2, num_clips=num_clips)
    assert found.tolist() == starts


def test_repeat_last_repeats_the_last_index_of_its_own_clip() -> None:
    indices = sampling.frame_indices(
        np.array([0.0, 3.0]), num_frames=6, clip_len=4, frame_interval=2, out_of_bound="repeat_last"
    )
    assert indices.tolist() == [[0, 2, 4, 4], [3, 5, 5, 5]]


def test_a_non_positive_number_is_named() -> None:
    with pytest.raises(InputError, match=r"frame_interval \(0\) must be > 0"):
        sampling.uniform_starts(10, clip_len=4, frame_interval=0, num_clips=1)


@pytest.mark.parametrize("speed", [0.3, 0.5, 0.7, 1.0, 1.2, 29.97 / 25, 1.5, 2.0, 2.4, 3.0, 7.3])
def test_a_stream_gives_the_frames_of_a_video_of_known_length(speed: float) -> None:
    for num_frames in range(1, 60):
        found = list(sampling.stream_at_rate(range(num_frames), speed=speed))
        assert found == sampling.frames_at_rate(num_frames, speed=speed).tolist()


@pytest.mark.parametrize("speed", [0.3, 0.5, 0.7, 1.0, 1.2, 29.97 / 25, 1.5, 2.0, 2.4, 3.0, 7.3])
def test_the_least_video_that_has_so_many_frames(speed: float) -> None:
    for count in range(1, 60):
        least = next(length for length in range(1, 1000) if len(sampling.frames_at_rate(length, speed=speed)) >= count)
        assert sampling.least_frames(count, speed=speed) == least


def test_no_video_has_frames_at_no_speed() -> None:
    with pytest.raises(InputError, match=r"speed \(0\) must be > 0"):
        sampling.least_frames(3, speed=0)
    with pytest.raises(InputError, match=r"count \(0\) must be > 0"):
        sampling.least_frames(0, speed=1)


def test_a_stream_keeps_few_frames_back() -> None:
    given: list[int] = []

    def frames() -> Iterator[int]:
        for number in range(100):
            given.append(number)
            yield number

    for frame in sampling.stream_at_rate(frames(), speed=4.0):
        assert frame <= given[-1] <= frame + 3


def test_a_stream_of_nothing_is_empty() -> None:
    assert list(sampling.stream_at_rate([], speed=2.0)) == []
    with pytest.raises(InputError, match=r"speed \(0\) must be > 0"):
        list(sampling.stream_at_rate([1], speed=0))
