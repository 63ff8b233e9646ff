"""Optical flow against motion that is known, its form in 8 bits, and who computes it."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from i3d_deploy import flow, known_motion
from i3d_deploy.errors import InputError, MissingExtraError
from i3d_deploy.flow import Displacement, Method
from i3d_deploy.known_motion import Motion

HEIGHT, WIDTH = 96, 128

# Motion, and the mean endpoint error in pixels that is allowed. A level of the 8-bit form is 0.16 pixels. The worst
# method is at about two thirds of it over several seeds, but for "still", which is exact.
LIMITS = {
    "still": (Motion(), 1e-3),
    "shift": (Motion(shift=(2.3, -1.4)), 0.08),
    "turn": (Motion(degrees=5), 0.3),
    "growth": (Motion(scale=1.08), 0.25),
    "noise": (Motion(shift=(2.3, -1.4), noise=6), 0.35),
    "disk": (Motion(shift=(4, -3), radius=30), 0.4),
}


@pytest.fixture(params=["dis", "tvl1 of OpenCV", "tvl1 of scikit-image"])
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Method:
    """Each method by each of its implementations; OpenCV's TV-L1 where this machine has it."""
    if request.param == "dis":
        return "dis"
    if request.param == "tvl1 of OpenCV":
        if not hasattr(cv2, "optflow"):
            pytest.skip("needs opencv-contrib-python in place of opencv-python")
    else:
        without_optflow(monkeypatch)
    return "tvl1"


def without_optflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "optflow", raising=False)


def noise(num_frames: int, height: int = 32, width: int = 40) -> NDArray[np.uint8]:
    return np.random.RandomState(0).randint(0, 256, (num_frames, height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("kind", LIMITS)
def test_known_motion_is_found(method: Method, kind: str) -> None:
    motion, limit = LIMITS[kind]
    scene = known_motion.draw(motion, height=HEIGHT, width=WIDTH)
    found = flow.compute(scene.first, scene.second, method=method)
    assert found.shape == (HEIGHT, WIDTH, 2)
    assert found.dtype == np.float32
    assert scene.errors(found).mean() < limit


def test_motion_of_a_tenth_of_the_frame_is_found() -> None:
    # By dis alone: of frames so small, TV-L1's coarsest ones do not show what moved.
    scene = known_motion.draw(Motion(shift=(12.5, -9)), height=HEIGHT, width=WIDTH)
    assert scene.errors(flow.compute(scene.first, scene.second, method="dis")).mean() < 0.15


def test_frames_without_texture_have_no_motion(method: Method) -> None:
    gray = np.full((32, 40, 3), 100, np.uint8)
    np.testing.assert_array_equal(flow.compute(gray, gray, method=method), np.zeros((32, 40, 2)))


def test_only_brightness_counts(method: Method) -> None:
    # ITU-R BT.601: red is 0.299 of the brightness, blue 0.114; 100 of one is 30, 263 of the other would be.
    scene = known_motion.draw(Motion(shift=(1, 0)), height=32, width=40)
    red, gray = np.zeros_like(scene.first), np.zeros_like(scene.first)
    red[..., 0] = scene.first[..., 0]
    gray[...] = np.rint(0.299 * scene.first[..., :1])
    np.testing.assert_allclose(
        flow.compute(red, red[:, ::-1], method=method), flow.compute(gray, gray[:, ::-1], method=method), atol=1e-6
    )


def test_the_same_frames_give_the_same_flow_on_any_number_of_threads(method: Method) -> None:
    scene = known_motion.draw(Motion(degrees=5, noise=6), height=HEIGHT, width=WIDTH)
    before = cv2.getNumThreads()
    found = []
    try:
        for threads in (1, 2, 3):
            cv2.setNumThreads(threads)
            found.append(flow.compute(scene.first, scene.second, method=method))
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_threads_do_not_disturb_each_other() -> None:
    pixels = [noise(6, 64, 64 + 16 * number) for number in range(3)]
    expected = [np.stack(list(flow.between(frames, method="dis"))) for frames in pixels]
    found: dict[int, NDArray[np.uint8]] = {}

    def run(number: int) -> None:
        found[number] = np.stack(list(flow.between(pixels[number], method="dis")))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(3):
        np.testing.assert_array_equal(found[number], expected[number])


# (f + 20) * 255 / 40 = (f + 20) * 6.375 by hand, and cut off.
@pytest.mark.parametrize(
    ("pixels", "level"),
    [
        (-20.0, 0),  # 0
        (-19.9, 0),  # 0.6375, which rounding would make 1
        (-1.0, 121),  # 121.125
        (-0.08, 126),  # 126.99
        (0.0, 127),  # 127.5, which rounding would make 128
        (0.08, 128),  # 128.01
        (1.0, 133),  # 133.875
        (12.0, 204),  # 204
        (19.9, 254),  # 254.3625
        (20.0, 255),  # 255
        (20.1, 255),
        (-1e6, 0),
        (np.inf, 255),
    ],
)
def test_pixels_are_clipped_and_cut_off(pixels: float, level: int) -> None:
    assert flow.to_uint8(np.full((1, 1, 2), pixels, np.float32)).tolist() == [[[level, level]]]


@pytest.mark.parametrize(
    ("level", "pixels"), [(0, -20.0), (51, -12.0), (127, -0.0784314), (128, 0.0784314), (204, 12.0), (255, 20.0)]
)
def test_levels_are_pixels(level: int, pixels: float) -> None:
    found = flow.from_uint8(np.full((1, 1, 2), level, np.uint8))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.full((1, 1, 2), pixels), atol=2e-6)


def test_between_gives_the_flow_from_each_frame_to_the_next() -> None:
    frames = [known_motion.draw(Motion(shift=(2.0 * number, 0)), height=64, width=80).second for number in range(4)]
    found = list(flow.between(iter(frames), method="dis"))
    assert [entry.shape for entry in found] == [(64, 80, 2)] * 3
    assert all(entry.dtype == np.uint8 for entry in found)
    for number, entry in enumerate(found):
        np.testing.assert_array_equal(
            entry, flow.to_uint8(flow.compute(frames[number], frames[number + 1], method="dis"))
        )
        # 2 pixels to the right are (2 + 20) * 6.375 = 140.25.
        assert np.median(entry[..., 0]) == pytest.approx(140, abs=1)
        assert np.median(entry[..., 1]) == pytest.approx(127, abs=1)


def test_between_asks_for_a_frame_when_it_needs_it() -> None:
    taken = 0

    def frames() -> Iterator[NDArray[np.uint8]]:
        nonlocal taken
        for frame in noise(4):
            taken += 1
            yield frame

    found = flow.between(frames(), method="dis")
    next(found)
    assert taken == 2


@pytest.mark.parametrize("num_frames", [0, 1])
def test_less_than_two_frames_have_no_flow(num_frames: int) -> None:
    assert list(flow.between(noise(num_frames), method="dis")) == []


def test_any_view_of_frames_is_taken(method: Method) -> None:
    first, second = noise(2, 32, 80)[:, ::-1, ::2, ::-1]
    np.testing.assert_array_equal(
        flow.compute(first, second, method=method), flow.compute(first.copy(), second.copy(), method=method)
    )


@pytest.mark.parametrize("size", [(16, 16), (16, 300), (300, 16), (17, 33)])
def test_small_and_narrow_frames_are_taken(method: Method, size: tuple[int, int]) -> None:
    first, second = noise(2, *size)
    assert np.isfinite(flow.compute(first, second, method=method)).all()


def test_frames_that_do_not_fit_are_refused() -> None:
    first = noise(1)[0]
    with pytest.raises(InputError, match=r"frame 1 has shape \(32, 20, 3\), those before it \(32, 40, 3\)"):
        flow.compute(first, first[:, :20], method="dis")
    with pytest.raises(InputError, match=r"frame 0 must be uint8 of shape \(H, W, 3\), not uint8 of shape \(32, 40\)"):
        flow.compute(first[..., 0], first, method="dis")
    with pytest.raises(InputError, match=r"frame 1 must be uint8 of shape \(H, W, 3\), not float64"):
        list(flow.between([first, first / 255], method="dis"))
    # Over 12x48, OpenCV 5.0.0 ends the process: https://github.com/opencv/opencv/issues/14554
    with pytest.raises(InputError, match=r"frame 0 has shape \(12, 48, 3\): its sides must have 16 pixels at least"):
        flow.compute(*noise(2, 12, 48), method="dis")


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InputError, match="there is no flow method 'farneback': give one of tvl1, dis"):
        flow.implementation("farneback")  # type: ignore[arg-type]


def test_the_implementation_is_told_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert flow.implementation("dis") == f"OpenCV {cv2.__version__} DISOpticalFlow medium"
    without_optflow(monkeypatch)
    import skimage

    # 0.15 * 255 = 38.25
    assert flow.implementation("tvl1") == f"scikit-image {skimage.__version__} optical_flow_tvl1 attachment=38.25"


def test_opencv_goes_first_where_it_has_tvl1(monkeypatch: pytest.MonkeyPatch) -> None:
    class Algorithm:
        def calc(self, first: NDArray[np.uint8], second: NDArray[np.uint8], flow: None) -> Displacement:
            assert first.shape == second.shape == (32, 40)
            return np.full((32, 40, 2), 3, np.float32)

    optflow = types.SimpleNamespace(DualTVL1OpticalFlow_create=Algorithm)
    monkeypatch.setattr(cv2, "optflow", optflow, raising=False)
    assert flow.implementation("tvl1") == f"OpenCV {cv2.__version__} DualTVL1OpticalFlow"
    assert (flow.compute(*noise(2), method="tvl1") == 3).all()


def test_without_either_package_the_pip_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    without_optflow(monkeypatch)
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingExtraError, match=r"skimage .*pip install 'i3d-deploy\[flow\]'"):
        flow.compute(*noise(2), method="tvl1")
    assert flow.compute(*noise(2), method="dis").shape == (32, 40, 2)


def test_mirrored_flow_points_the_other_way() -> None:
    shown = np.array([[[1, 2], [3, 4]]], np.uint8)
    assert flow.mirrored(shown).tolist() == [[[252, 4], [254, 2]]]
    assert shown.tolist() == [[[1, 2], [3, 4]]]


def test_mirrored_frames_keep_their_colours() -> None:
    shown = np.array([[[1, 2, 3], [4, 5, 6.5]]], np.float32)
    np.testing.assert_array_equal(flow.mirrored(shown), np.array([[[4, 5, 6.5], [1, 2, 3]]], np.float32), strict=True)
