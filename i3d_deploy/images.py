"""Frames as image files: one of them, and the numbered ones of a folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from i3d_deploy.errors import VideoError
from i3d_deploy.frames import Frame

NAME = "img_{:05}.jpg"
"""Of the frames in a folder, as for ``str.format``; numbered from 1."""

_NAME = re.compile(r"img_(\d+)\.(?:jpe?g|png)", re.IGNORECASE)
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


@dataclass(frozen=True, kw_only=True)
class FrameFolder:
    """A run of numbered images in a folder, whose length is known from a list.

    Attributes:
        path: The folder.
        num_frames: Length of the run.
        offset: Images of the folder before the run.
        image_name: Names of the images, as for ``str.format``; numbered from 1.
    """

    path: Path
    num_frames: int
    offset: int = 0
    image_name: str = NAME

    def __str__(self) -> str:
        return str(self.path)

    def image(self, index: int) -> Path:
        """The file of a frame of the run, counted from 0."""
        return self.path / self.image_name.format(self.offset + index + 1)


def is_image_folder(path: Path) -> bool:
    """Whether a folder holds frames named ``img_00001.jpg`` and so on."""
    return path.is_dir() and any(_NAME.fullmatch(entry.name) for entry in path.iterdir())


def run_of(folder: Path) -> list[Path]:
    """The frames of a folder, which may start at any number.

    Raises:
        VideoError: A number is missing or stands twice.
    """
    numbered = _numbered(folder)
    first = min(numbered)
    missing = next((number for number in range(first, first + len(numbered)) if number not in numbered), None)
    if missing is not None:
        raise VideoError(f"{folder}: frame {missing} is missing between {first} and {max(numbered)}")
    return [numbered[number] for number in sorted(numbered)]


def _numbered(folder: Path) -> dict[int, Path]:
    numbered: dict[int, Path] = {}
    for entry in sorted(folder.iterdir()):
        if match := _NAME.fullmatch(entry.name):
            number = int(match[1])
            if number in numbered:
                raise VideoError(f"{folder}: {numbered[number].name} and {entry.name} are both frame {number}")
            numbered[number] = entry
    return numbered


def read(path: Path) -> Frame:
    """Read an image file in colour.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        VideoError: There is no such file, or it cannot be decoded whole.
    """
    return np.asarray(cv2.cvtColor(_decoded(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)


def read_gray(path: Path) -> NDArray[np.uint8]:
    """Read an image file in levels of grey: (H, W) uint8; raises as :func:`read`."""
    return _decoded(path, cv2.IMREAD_GRAYSCALE)


def _decoded(path: Path, flags: int) -> NDArray[np.uint8]:
    try:
        if not path.is_file():
            raise VideoError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
        data = path.read_bytes()
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror or error}") from error
    # A JPEG file that is cut off decodes without complaint, grey where pixels are missing, and in a flow image grey is
    # no motion. Its last scan has no end.
    is_cut_off = data.startswith(_JPEG_START) and data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN)
    try:
        image = None if is_cut_off else cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # an empty file, or more pixels than OpenCV takes
        image = None
    if image is None:
        raise VideoError(f"{path}: the image cannot be decoded")
    return np.asarray(image, np.uint8)


def to_jpeg(image: NDArray[np.uint8], *, quality: int = 95) -> bytes:
    """The bytes of a JPEG file; unlike ``cv2.imwrite``, writing them says why it fails.

    Args:
        image: (H, W, 3) RGB, or (H, W) levels of grey.
        quality: 1 to 100.
    """
    stored = np.ascontiguousarray(image) if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    is_encoded, data = cv2.imencode(".jpg", stored, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert is_encoded
    return data.tobytes()
