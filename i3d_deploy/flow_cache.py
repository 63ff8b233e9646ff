"""Flow that was computed once, kept on the disk without loss.

A video gives the same prediction with a cache and without one: entries are exact, and belong to the two frames between
which they lead, whatever these came from. What a crash or a full disk has damaged is noticed and computed again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from i3d_deploy import files, flow
from i3d_deploy.card import FlowMethod
from i3d_deploy.errors import InputError
from i3d_deploy.flow import FlowFrame
from i3d_deploy.frames import Frame, Resized

VERSION = 2
"""Of the form of entries: another number makes other keys."""

_DIGEST_BYTES = 32


def compute(first: Frame, second: Frame, *, method: FlowMethod, cache: FlowCache | None = None) -> FlowFrame:
    """Take the flow between two frames out of a cache, or compute it and put it there.

    Args:
        first: (H, W, 3) uint8 RGB.
        second: Of the same shape.
        method: How it is computed.
        cache: Where it is kept; None: nowhere.

    Returns:
        (H, W, 2) uint8.

    Raises:
        MissingExtraError: Nothing that is installed computes the flow.
        OSError: It cannot be kept.
    """
    if cache is None:
        return flow.to_uint8(flow.compute(first, second, method=method))
    place = key(first, second, implementation=flow.implementation(method))
    found = cache.get(place)
    if found is None:
        found = flow.to_uint8(flow.compute(first, second, method=method))
        cache.put(place, found)
    return found


def compute_each(
    pairs: Iterable[tuple[Resized, Resized]],
    *,
    method: FlowMethod,
    cache: FlowCache | None = None,
    workers: int | None = None,
) -> Iterator[FlowFrame]:
    """Take the flow of pairs of frames out of a cache or compute it, a few pairs at a time.

    Args:
        pairs: As for :func:`compute`, with values of 0 to 255; one pair more than there are workers is asked for ahead.
        method: How it is computed.
        cache: Where it is kept; None: nowhere.
        workers: Threads; None: as many as there are cores for this process.

    Yields:
        (H, W, 2) uint8, in the order of the pairs.

    Raises:
        MissingExtraError: Nothing that is installed computes the flow.
        OSError: It cannot be kept.
    """
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    begun: deque[Future[FlowFrame]] = deque()
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="i3d-flow") as pool:
        for pair in pairs:
            first, second = (np.asarray(frame, np.uint8) for frame in pair)
            begun.append(pool.submit(compute, first, second, method=method, cache=cache))
            if len(begun) > workers:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def key(first: Frame, second: Frame, *, implementation: str) -> str:
    """Name all that a flow depends on. The version of OpenCV, which makes the frames gray, is part of it as well.

    Args:
        first: (H, W, 3) uint8 RGB.
        second: Of the same shape.
        implementation: See :func:`i3d_deploy.flow.implementation`.

    Returns:
        64 hex digits.
    """
    digest = hashlib.sha256(f"{VERSION}\n{implementation}\n{cv2.__version__}\n{first.shape}\n".encode())
    for frame in (first, second):
        digest.update(np.ascontiguousarray(frame).data)
    return digest.hexdigest()


class FlowCache:
    """A folder of flows, one file each, by the digits of their keys: x above y as PNG, then its SHA-256.

    Nothing is kept in memory. Several threads and processes may use one folder. Nothing is ever removed: whoever wants
    the space back deletes the folder.

    Args:
        folder: Made if need be.

    Raises:
        InputError: ``folder`` is a file.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: flow is cached in a folder, and this is a file")
        self._folder = folder

    def get(self, key: str) -> FlowFrame | None:
        """The flow of a pair of frames; None where it is not there, or damaged.

        Args:
            key: See :func:`key`.

        Returns:
            (H, W, 2) uint8, as it was put.
        """
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        image, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if hashlib.sha256(image).digest() != digest:
            return None
        planes = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE)
        x, y = np.split(np.asarray(planes, np.uint8), 2)
        return np.stack((x, y), axis=-1)

    def put(self, key: str, flow: FlowFrame) -> None:
        """Keep the flow of a pair of frames, in place of a former entry.

        It is not flushed to the disk: an entry that a crash has cut short is found out by its SHA-256.

        Args:
            key: See :func:`key`.
            flow: (H, W, 2) uint8.

        Raises:
            InputError: ``flow`` has the wrong shape or type.
            OSError: It cannot be written.
        """
        if flow.ndim != 3 or flow.shape[2] != 2 or flow.dtype != np.uint8 or 0 in flow.shape:
            raise InputError(f"flow must be uint8 of shape (H, W, 2), not {flow.dtype} of shape {flow.shape}")
        is_encoded, encoded = cv2.imencode(".png", np.concatenate((flow[..., 0], flow[..., 1])))
        assert is_encoded
        image = encoded.tobytes()
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=files.SCRATCH_PREFIX) as scratch:
            written = Path(scratch) / path.name
            written.write_bytes(image + hashlib.sha256(image).digest())
            written.replace(path)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key[2:]}.png"
