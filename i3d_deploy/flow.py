"""Optical flow: how far each pixel moves from one frame to the next, and its form in 8 bits.

Two methods:

- ``tvl1``, as the I3D paper used (its parameters were not published). OpenCV's ``DualTVL1OpticalFlow`` with its own
  defaults where ``cv2`` has the contributed modules, scikit-image's ``optical_flow_tvl1`` elsewhere (extra ``flow``).
  Their answers differ; :func:`implementation` says whose they are.
- ``dis``, OpenCV's dense inverse search in its preset "medium": many times as fast. Of the presets it is the slowest,
  and follows turns, growth and borders between motions best (``bench/flow.py``, bench/README.md).

Note [Contributed modules]
    ``opencv-contrib-python`` and ``opencv-python``, and their headless forms, install the same folder ``cv2``: of two,
    the later one overwrites the earlier. Whoever wants OpenCV's TV-L1 installs one of the former last, of the same
    version.

Note [Intensities]
    OpenCV's TV-L1 weighs the data by 0.15 with intensities from 0 to 255, its ``lambda``. scikit-image calls it
    ``attachment`` and wants intensities from 0 to 1, for which the same weight is 0.15 * 255: both then minimise the
    same sum.

Note [Mirrored flow]
    In a mirrored clip what moved to the right moves to the left, so x becomes 255 - x; y stays. The inversion is
    mmaction2's ``Flip``, which leaves it out of its lazy form. No motion, which is stored as 127, becomes 128: -0.08
    pixels become 0.08.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from i3d_deploy.card import FlowMethod
from i3d_deploy.errors import InputError, MissingExtraError
from i3d_deploy.frames import Frame

Method = FlowMethod
METHODS: tuple[Method, ...] = get_args(Method)

Displacement = NDArray[np.float32]
"""(H, W, 2) float32: pixels to the right, then pixels down."""

FlowFrame = NDArray[np.uint8]
"""(H, W, 2) uint8: x, then y, as :func:`to_uint8` makes it."""

LIMIT = 20.0
"""Pixels a frame, beyond which displacements are clipped."""

MIN_SIDE = 16
"""Pixels. OpenCV 5.0's dense inverse search ends the process over some smaller frames, such as 12x48."""

ATTACHMENT = 0.15 * 255
"""Of scikit-image's TV-L1, see Note [Intensities]."""

_Gray = NDArray[np.uint8]
_Value = TypeVar("_Value", bound=np.uint8 | np.float32)


@dataclass(frozen=True, kw_only=True)
class _Implementation:
    """Who computes, by name, and the computation."""

    name: str
    solve: Callable[[_Gray, _Gray], Displacement]


def implementation(method: Method) -> str:
    """Who computes a method on this machine: package, version, algorithm and what differs from its defaults.

    Two machines that say the same compute the same up to rounding.

    Raises:
        InputError: There is no such method.
        MissingExtraError: Nothing that is installed computes it.
    """
    return _implementation(method).name


def compute(first: Frame, second: Frame, *, method: Method) -> Displacement:
    """Estimate where each pixel of a frame is in the next one.

    Every call has an algorithm of its own: OpenCV's keep their buffers and are not safe in several threads.

    Args:
        first: (H, W, 3) uint8 RGB, with sides of 16 pixels at least; only its brightness counts.
        second: Likewise, of the same size.
        method: How.

    Returns:
        (H, W, 2) float32: pixels to the right, then pixels down, not clipped.

    Raises:
        InputError: A frame has the wrong shape or type, or there is no such method.
        MissingExtraError: Nothing that is installed computes the method.
    """
    grays = list(_to_grays((first, second)))
    return _implementation(method).solve(*grays)


def between(frames: Iterable[Frame], *, method: Method) -> Iterator[FlowFrame]:
    """Estimate the flow from each frame to the next, in 8 bits.

    Two frames are in memory at a time. Several iterators may run in threads of their own; one is for one thread.

    Args:
        frames: (H, W, 3) uint8 RGB, all of one size, with sides of 16 pixels at least.
        method: How.

    Yields:
        (H, W, 2) uint8, see :func:`to_uint8`: one less than there are frames, so none for a single frame.

    Raises:
        InputError: A frame has the wrong shape or type, or there is no such method.
        MissingExtraError: Nothing that is installed computes the method.
    """
    solve = _implementation(method).solve
    before: _Gray | None = None
    for gray in _to_grays(frames):
        if before is not None:
            yield to_uint8(solve(before, gray))
        before = gray


def to_uint8(flow: Displacement) -> FlowFrame:
    """Clip to 20 pixels and keep 8 bits: ``(clip(f, -20, 20) + 20) * 255 / 40``, cut off and not rounded.

    No motion becomes 127, which reads back as -0.078 pixels (127.5 would be 0). Networks were trained on data with this
    bias, so it is kept. They scale ``v / 255 * 2 - 1`` themselves.

    Args:
        flow: (H, W, 2) float32, pixels.

    Source:
        The data of the I3D paper, Carreira and Zisserman 2017: clipped to [-20, 20]; 8-bit JPEG files were cut off.
    """
    scaled = (np.clip(flow, -LIMIT, LIMIT) + LIMIT) * 255 / (2 * LIMIT)
    return np.asarray(scaled.astype(np.uint8))


def from_uint8(flow: FlowFrame) -> Displacement:
    """Pixels of a flow in 8 bits: ``v / 255 * 40 - 20``, up to 0.157 too small by :func:`to_uint8`.

    Args:
        flow: (H, W, 2) uint8.

    Returns:
        (H, W, 2) float32, in [-20, 20].
    """
    return np.asarray(flow.astype(np.float32) / 255 * (2 * LIMIT) - LIMIT, np.float32)


def mirrored(frame: NDArray[_Value]) -> NDArray[_Value]:
    """Turn left and right of a frame, or of flow: Note [Mirrored flow].

    Args:
        frame: (H, W, 3) RGB, or (H, W, 2) flow in 8 bits.

    Returns:
        A new array of the same shape and type.
    """
    turned = np.asarray(cv2.flip(np.ascontiguousarray(frame), 1), frame.dtype)
    if turned.shape[2] == 2:
        turned[..., 0] = 255 - turned[..., 0]
    return turned


def _to_grays(frames: Iterable[Frame]) -> Iterator[_Gray]:
    shape: tuple[int, ...] | None = None
    for number, frame in enumerate(frames):
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise InputError(
                f"frame {number} must be uint8 of shape (H, W, 3), not {frame.dtype} of shape {frame.shape}"
            )
        if min(frame.shape[:2]) < MIN_SIDE:
            raise InputError(f"frame {number} has shape {frame.shape}: its sides must have {MIN_SIDE} pixels at least")
        if shape is not None and frame.shape != shape:
            raise InputError(f"frame {number} has shape {frame.shape}, those before it {shape}")
        shape = frame.shape
        yield np.asarray(cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY), np.uint8)


def _implementation(method: Method) -> _Implementation:
    if method not in METHODS:
        raise InputError(f"there is no flow method {method!r}: give one of {', '.join(METHODS)}")
    if method == "dis":
        algorithm = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        return _opencv(algorithm, name="DISOpticalFlow medium")
    contributed: Any = getattr(cv2, "optflow", None)  # Note [Contributed modules]
    if contributed is not None:
        return _opencv(contributed.DualTVL1OpticalFlow_create(), name="DualTVL1OpticalFlow")
    return _scikit_image()


def _opencv(algorithm: Any, *, name: str) -> _Implementation:
    def solve(first: _Gray, second: _Gray) -> Displacement:
        return np.asarray(algorithm.calc(first, second, None), np.float32)

    return _Implementation(name=f"OpenCV {cv2.__version__} {name}", solve=solve)


def _scikit_image() -> _Implementation:
    try:
        import skimage
        from skimage.registration import optical_flow_tvl1
    except ImportError as error:
        raise MissingExtraError("skimage", extra="flow", cause=error) from error

    def solve(first: _Gray, second: _Gray) -> Displacement:
        intensities = (gray.astype(np.float32) / 255 for gray in (first, second))
        down, right = optical_flow_tvl1(*intensities, attachment=ATTACHMENT, dtype=np.float32)
        return np.stack((right, down), axis=-1)

    name = f"scikit-image {skimage.__version__} optical_flow_tvl1 attachment={ATTACHMENT:g}"
    return _Implementation(name=name, solve=solve)
