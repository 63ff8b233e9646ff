"""Flow that was computed once, kept on the disk without loss.

A video gives the same prediction with a cache and without one: entries are exact, and belong to all that the flow
depends on. What a crash or a full disk has damaged is noticed and computed again.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import cv2
import numpy as np

from i3d_deploy import files
from i3d_deploy.errors import InputError
from i3d_deploy.flow import FlowFrame

VERSION = 1
"""Of the form of entries: another number makes other keys."""

_DIGEST_BYTES = 32


def key(video_sha256: str, *, implementation: str, height: int, width: int) -> str:
    """Name what the flow of a video depends on.

    The version of OpenCV is part of it as well: that decodes the video and resizes its frames.

    Args:
        video_sha256: Of the file, see :func:`i3d_deploy.files.sha256`.
        implementation: See :func:`i3d_deploy.flow.implementation`.
        height: Rows of the frames between which the flow is computed.
        width: Columns.

    Returns:
        64 hex digits.
    """
    parts = (str(VERSION), video_sha256, implementation, f"{width}x{height}", cv2.__version__)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class FlowCache:
    """A folder of flows, one file each, such as ``<key>/00000.png``: x above y, then the SHA-256 of the image.

    Nothing is kept in memory. Several threads and processes may use one folder. Nothing is ever removed: whoever wants
    the space back deletes the folder, or that of a key.

    Args:
        folder: Made if need be.

    Raises:
        InputError: ``folder`` is a file.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: flow is cached in a folder, and this is a file")
        self._folder = folder

    def get(self, key: str, index: int) -> FlowFrame | None:
        """The flow of a pair of frames; None where it is not there, or damaged.

        Args:
            key: See :func:`key`.
            index: Of the first frame of the pair, from 0.

        Returns:
            (H, W, 2) uint8, as it was put.
        """
        try:
            data = self._path(key, index).read_bytes()
        except OSError:
            return None
        image, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if hashlib.sha256(image).digest() != digest:
            return None
        planes = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE)
        x, y = np.split(np.asarray(planes, np.uint8), 2)
        return np.stack((x, y), axis=-1)

    def put(self, key: str, index: int, flow: FlowFrame) -> None:
        """Keep the flow of a pair of frames, in place of a former entry.

        It is not flushed to the disk: an entry that a crash has cut short is found out by its SHA-256.

        Args:
            key: See :func:`key`.
            index: Of the first frame of the pair, from 0.
            flow: (H, W, 2) uint8.

        Raises:
            InputError: ``flow`` has the wrong shape or type, or ``index`` is negative.
            OSError: It cannot be written.
        """
        if flow.ndim != 3 or flow.shape[2] != 2 or flow.dtype != np.uint8 or 0 in flow.shape:
            raise InputError(f"flow must be uint8 of shape (H, W, 2), not {flow.dtype} of shape {flow.shape}")
        if index < 0:
            raise InputError(f"index ({index}) must be >= 0")
        is_encoded, encoded = cv2.imencode(".png", np.concatenate((flow[..., 0], flow[..., 1])))
        assert is_encoded
        image = encoded.tobytes()
        path = self._path(key, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=files.SCRATCH_PREFIX) as scratch:
            written = Path(scratch) / path.name
            written.write_bytes(image + hashlib.sha256(image).digest())
            written.replace(path)

    def _path(self, key: str, index: int) -> Path:
        return self._folder / key / f"{index:05}.png"
