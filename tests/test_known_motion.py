"""The scenes do what they say: motions that need no interpolation move every pixel exactly."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from i3d_deploy import known_motion
from i3d_deploy.errors import InputError
from i3d_deploy.known_motion import Motion, Scene


def draw(motion: Motion, *, height: int = 41, width: int = 41) -> Scene:
    return known_motion.draw(motion, height=height, width=width)


def everywhere(shift: tuple[float, float], height: int, width: int) -> NDArray[np.float32]:
    """(H, W, 2): the same motion of every pixel."""
    return np.broadcast_to(np.array(shift, np.float32), (height, width, 2))


def test_a_shift_of_whole_pixels_shifts_the_frame() -> None:
    scene = draw(Motion(shift=(5, -3)), width=60)
    np.testing.assert_array_equal(scene.second[:-3, 5:], scene.first[3:, :-5])
    np.testing.assert_array_equal(scene.flow, everywhere((5, -3), 41, 60))


def test_a_quarter_turn_is_clockwise_on_the_screen() -> None:
    scene = draw(Motion(degrees=90))
    np.testing.assert_array_equal(scene.second, np.rot90(scene.first, -1))
    # From 7 pixels right of the middle to 7 below it.
    np.testing.assert_allclose(scene.flow[20, 27], [-7, 7], atol=1e-6)


def test_doubling_moves_every_pixel_to_twice_its_distance_from_the_middle() -> None:
    scene = draw(Motion(scale=2))
    np.testing.assert_array_equal(scene.second[::2, ::2], scene.first[10:31, 10:31])
    np.testing.assert_allclose(scene.flow[20 + 4, 20 - 6], [-6, 4], atol=1e-6)


def test_a_disk_moves_over_a_picture_that_stays() -> None:
    scene = draw(Motion(shift=(4, 0), radius=8))
    moves = np.hypot(*(np.mgrid[:41, :41] - 20)) < 8
    np.testing.assert_array_equal(scene.flow, everywhere((4, 0), 41, 41) * moves[..., None])
    np.testing.assert_array_equal(scene.second[20, 17:31], scene.first[20, 13:27])
    np.testing.assert_array_equal(scene.second[:, :10], scene.first[:, :10])


def test_pixels_that_are_covered_leave_the_frame_or_lie_in_calm_places_do_not_count() -> None:
    shifted = draw(Motion(shift=(4, 0))).is_counted
    assert not shifted[:, -4:].any()
    assert shifted[:, :-4].mean() > 0.95
    # The disk ends at column 27 and at 31 in the second frame.
    row = draw(Motion(shift=(4, 0), radius=8)).is_counted[20]
    assert row[:28].all()
    assert not row[28:32].any()
    assert row[32:].all()
    assert 0.5 < known_motion.draw(Motion()).is_counted.mean() < 0.9


def test_noise_and_gain_are_what_they_say() -> None:
    scene = draw(Motion(gain=1.1), height=200, width=200)
    between = (scene.first > 50) & (scene.first < 200)
    assert np.mean(scene.second[between] / scene.first[between]) == pytest.approx(1.1, abs=0.002)
    noisy, clean = (draw(Motion(noise=noise), height=200, width=200).first for noise in (6.0, 0.0))
    difference = (noisy.astype(int) - clean)[(clean > 40) & (clean < 215)]
    assert difference.std() == pytest.approx(6, rel=0.02)


def test_the_same_seed_gives_the_same_scene_and_another_one_another() -> None:
    first, again, other = (known_motion.draw(Motion(noise=3), height=20, width=20, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.second, again.second)
    assert (first.first != other.first).any()


def test_errors_are_distances_at_the_pixels_that_count() -> None:
    scene = draw(Motion(shift=(1, 2)))
    estimate = everywhere((4, 6), 41, 41)
    np.testing.assert_array_equal(scene.errors(estimate), np.full(scene.is_counted.sum(), 5, np.float32))


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"scale and gain \(0, 1.0\) must be > 0, noise \(0.0\) at least 0"):
        Motion(scale=0)
    with pytest.raises(InputError, match=r"height and width \(0, 41\) must be > 0"):
        draw(Motion(), height=0)
