"""Flow as pairs of 8-bit grayscale JPEG files in a folder, as data sets of two-stream networks keep it.

``x_00001.jpg`` and ``y_00001.jpg`` are the flow from the first frame to the second, and so on. The frames themselves
may lie beside them, as ``img_00001.jpg`` and so on; other files of the folder do not matter.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import files, images
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.flow import FlowFrame
from i3d_deploy.frames import Frame, Resized
from i3d_deploy.images import FrameFolder
from i3d_deploy.video import Source

Axis = Literal["x", "y"]

QUALITY = 95
"""Of the JPEG files: on flow of a real video, it changes 0.05 of the 256 levels on average, and 90 twice as much."""

_NAME = re.compile(r"([xy])_(\d{5,})\.jpg")


def image_name(axis: Axis, number: int) -> str:
    """The name of one file.

    Args:
        axis: "x" for the motion to the right, "y" for that down.
        number: From 1.
    """
    return f"{axis}_{number:05}.jpg"


def is_flow_folder(path: Path) -> bool:
    """Whether a path is a folder that holds flow images."""
    return path.is_dir() and (path / image_name("x", 1)).exists()


def write_pairs(folder: Path, flows: Iterable[FlowFrame], *, quality: int = QUALITY) -> int:
    """Write the flow of a video.

    Pairs are written one by one, each as a whole, so an interrupted run leaves the first ones. What a longer flow has
    left in the folder is removed in the end.

    Args:
        folder: Made if need be.
        flows: (H, W, 2) uint8, all of one size, as from :func:`i3d_deploy.flow.between`.
        quality: Of the JPEG files, 1 to 100.

    Returns:
        Pairs that were written.

    Raises:
        InputError: ``quality`` is out of range, there is no flow, or one has the wrong shape or type.
        OSError: A file cannot be written.
    """
    if not 1 <= quality <= 100:
        raise InputError(f"quality ({quality}) must be 1 to 100")
    shape: tuple[int, ...] | None = None
    count = 0
    for flow in flows:
        if flow.ndim != 3 or flow.shape[2] != 2 or flow.dtype != np.uint8 or 0 in flow.shape:
            raise InputError(f"flow {count} must be uint8 of shape (H, W, 2), not {flow.dtype} of shape {flow.shape}")
        if shape is not None and flow.shape != shape:
            raise InputError(f"flow {count} has shape {flow.shape}, those before it {shape}")
        shape = flow.shape
        count += 1
        x_and_y = (folder / image_name("x", count), folder / image_name("y", count))
        with files.replacing(*x_and_y) as targets:
            for data, target in zip(encode(flow, quality=quality), targets, strict=True):
                target.write_bytes(data)
    if count == 0:
        raise InputError(f"{folder}: no flow to write: a video of one frame has none")
    _remove_later(folder, count)
    return count


def encode(flow: FlowFrame, *, quality: int = QUALITY) -> tuple[bytes, bytes]:
    """The two JPEG files of a flow, x and y.

    Args:
        flow: (H, W, 2) uint8.
        quality: 1 to 100.
    """
    return images.to_jpeg(flow[..., 0], quality=quality), images.to_jpeg(flow[..., 1], quality=quality)


class FlowFolder:
    """The flow of a video, read pair by pair.

    Args:
        path: A folder with ``x_00001.jpg``, ``y_00001.jpg`` and so on.
        num_flows: Pairs in it, as a list says; None: the folder is searched, and none may be missing.

    Attributes:
        path: The folder.
        num_flows: Pairs in it.
        size: Height and width of every pair.

    Raises:
        VideoError: There is no pair, one is not complete, numbers are missing, or the first pair cannot be read.
    """

    def __init__(self, path: Path, *, num_flows: int | None = None) -> None:
        self.path = path
        self.num_flows = _count(path) if num_flows is None else num_flows
        first = images.read_gray(path / image_name("x", 1))
        self.size = (first.shape[0], first.shape[1])

    def read(self, index: int) -> FlowFrame:
        """The flow from frame ``index`` to the next one.

        Args:
            index: From 0; it is in the files whose number is one more.

        Returns:
            (H, W, 2) uint8: x, then y.

        Raises:
            InputError: There is no such flow.
            VideoError: A file cannot be decoded, or has another size.
        """
        if not 0 <= index < self.num_flows:
            raise InputError(f"{self.path}: flow {index} of {self.num_flows}: they are counted from 0")
        return np.stack([self._plane(self.path / image_name(axis, index + 1)) for axis in ("x", "y")], axis=-1)

    def _plane(self, path: Path) -> NDArray[np.uint8]:
        plane = images.read_gray(path)
        if plane.shape != self.size:
            (height, width), (expected_height, expected_width) = plane.shape, self.size
            raise VideoError(
                f"{path}: the image is {width}x{height}, but {image_name('x', 1)} is {expected_width}x{expected_height}"
            )
        return plane


@dataclass(frozen=True, kw_only=True)
class StoredFlow:
    """A run of flow images, with the frames that they start from where these lie beside them.

    Attributes:
        folder: The images.
        num_flows: Length of the run, in pairs.
        offset: Pairs of the folder before the run.
        image_name: Names of the frames, as for ``str.format``; numbered from 1.
    """

    folder: FlowFolder
    num_flows: int
    offset: int = 0
    image_name: str = images.NAME

    def read(self, number: int, *, resize: Callable[[Frame], Resized]) -> Resized:
        """Read the flow from a frame to the next one.

        Args:
            number: Of the run, from 0.
            resize: Applied to it.

        Returns:
            (H, W, 2) as ``resize`` makes it: x, then y.

        Raises:
            VideoError: A file cannot be decoded, or has another size than the first one.
        """
        return resize(self.folder.read(self.offset + number))

    def read_with_frame(self, number: int, *, resize: Callable[[Frame], Resized]) -> tuple[Resized, Resized]:
        """Read a frame and the flow from it to the next one.

        Args:
            number: As for :meth:`read`.
            resize: Applied to both.

        Returns:
            (H, W, 3) RGB and (H, W, 2) of flow, as ``resize`` makes them.

        Raises:
            VideoError: As for :meth:`read`, or they have different shapes.
        """
        flow = self.read(number, resize=resize)
        place = self.offset + number + 1
        frame = resize(images.read(self.folder.path / self.image_name.format(place)))
        if frame.shape[:2] != flow.shape[:2]:
            raise VideoError(f"{self.folder.path}: flow {place} and its frame have different shapes")
        return frame, flow


def find(source: Source) -> StoredFlow | None:
    """The flow images that a source is; None where it is something else.

    Args:
        source: Anything that is read as a video. Of a folder that a list names, the list counts pairs.

    Raises:
        VideoError: A folder that a list names has neither flow images nor frames, or fewer pairs than the list says;
            or as for :class:`FlowFolder`.
    """
    if isinstance(source, FrameFolder):
        return _find_listed(source)
    if isinstance(source, (str, Path)) and is_flow_folder(Path(source)):
        folder = FlowFolder(Path(source))
        return StoredFlow(folder=folder, num_flows=folder.num_flows)
    return None


def _find_listed(listed: FrameFolder) -> StoredFlow | None:
    first, last = (listed.offset + number for number in (1, listed.num_frames))
    if is_flow_folder(listed.path):
        if not (listed.path / image_name("x", last)).exists():
            raise VideoError(
                f"{listed.path}: {image_name('x', last)}, the last one by the list, is missing: it counts pairs of "
                "flow images, one less than frames"
            )
        return StoredFlow(
            folder=FlowFolder(listed.path, num_flows=last),
            num_flows=listed.num_frames,
            offset=listed.offset,
            image_name=listed.image_name,
        )
    frame = listed.path / listed.image_name.format(first)
    if not frame.exists():
        raise VideoError(
            f"{listed.path}: neither flow images ({image_name('x', 1)}, {image_name('y', 1)} ...) nor frames "
            f"({frame.name} ...)"
        )
    return None


def _count(folder: Path) -> int:
    numbers = _numbers(folder)
    if not any(numbers.values()):
        raise VideoError(f"{folder}: no flow images named {image_name('x', 1)}, {image_name('y', 1)} and so on")
    last = max(itertools.chain(*numbers.values()))
    for number in range(1, last + 1):
        missing = [image_name(axis, number) for axis in ("x", "y") if number not in numbers[axis]]
        if missing:
            raise VideoError(
                f"{folder}: {' and '.join(missing)} missing; flow images are numbered from 1 to {last} here"
            )
    return last


def _numbers(folder: Path) -> dict[Axis, set[int]]:
    """The numbers of the files of each axis."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except FileNotFoundError as error:
        raise VideoError(f"{folder}: no such folder") from error
    except OSError as error:
        raise VideoError(f"{folder}: {error.strerror}") from error
    numbers: dict[Axis, set[int]] = {"x": set(), "y": set()}
    for match in filter(None, map(_NAME.fullmatch, names)):
        axis: Axis = "x" if match[1] == "x" else "y"
        if match[0] == image_name(axis, int(match[2])):
            numbers[axis].add(int(match[2]))
    return numbers


def _remove_later(folder: Path, count: int) -> None:
    """Remove the files after ``count``, the last ones first, so that no gap is left when this is interrupted."""
    later = {(number, axis) for axis, numbers in _numbers(folder).items() for number in numbers if number > count}
    for number, axis in sorted(later, reverse=True):
        (folder / image_name(axis, number)).unlink()
