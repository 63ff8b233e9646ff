"""An uncompressed video file written by hand, so that its pixels are known without any codec.

RIFF AVI of device-independent bitmaps: rows from bottom to top, padded to four bytes; blue first.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from i3d_deploy.frames import Frame

_HAS_INDEX = 0x10
_KEY_FRAME = 0x10


def write_avi(
    path: Path,
    frames: Sequence[Frame] | Frame,
    *,
    promised: int | None = None,
    bits: int = 32,
    num_empty: int = 0,
    rate: tuple[int, int] = (25, 1),
) -> None:
    """Write frames as they are.

    Args:
        path: An ``.avi`` file.
        frames: (H, W, 3) uint8 RGB each, all of one size.
        promised: The number of frames that the header claims; default: the truth.
        bits: Of a pixel: 24, or 32 of which 8 are unused.
        num_empty: Frames of no bytes before the others, which decoders leave out: the first one comes so much later.
        rate: Frames, and the seconds that they take.
    """
    height, width, _ = frames[0].shape
    images = [b""] * num_empty + [_bitmap(frame, num_bytes=bits // 8) for frame in frames]
    count = len(frames) if promised is None else promised
    size_bytes = len(images[-1])
    num_frames, seconds = rate
    main = struct.pack("<14I", 40_000, 0, 0, _HAS_INDEX, count, 0, 1, size_bytes, width, height, 0, 0, 0, 0)
    times = seconds, num_frames, 0, count
    stream = struct.pack("<4s4sIHHIIIIIIIIHHHH", b"vids", b"DIB ", *[0] * 4, *times, size_bytes, *[0] * 6)
    bitmap = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, size_bytes, 0, 0, 0, 0)
    header = _list(b"hdrl", _chunk(b"avih", main) + _list(b"strl", _chunk(b"strh", stream) + _chunk(b"strf", bitmap)))
    movie = _list(b"movi", b"".join(_chunk(b"00db", image) for image in images))
    offsets = itertools.accumulate((8 + len(image) for image in images), initial=4)
    index = b"".join(
        struct.pack("<4sIII", b"00db", _KEY_FRAME, offset, len(image))
        for offset, image in zip(offsets, images, strict=False)
    )
    body = b"AVI " + header + movie + _chunk(b"idx1", index)
    path.write_bytes(_chunk(b"RIFF", body))


def _bitmap(frame: Frame, *, num_bytes: int) -> bytes:
    pixels = np.pad(frame[::-1, :, ::-1], ((0, 0), (0, 0), (0, num_bytes - 3)))
    rows = pixels.reshape(len(frame), -1)
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4))).tobytes()


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data


def _list(name: bytes, data: bytes) -> bytes:
    return _chunk(b"LIST", name + data)
