"""Writing files so that a crash leaves the old one or the new one, never half of either; and their SHA-256."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(*targets: Path) -> Iterator[tuple[Path, ...]]:
    """Write one or several files that belong together.

    The block writes to temporary siblings of ``targets``; when it ends, they are flushed to the disk and renamed in the
    order given, so the last target is the one that marks the set as whole. When it raises, nothing of it remains.

    Args:
        *targets: The files, all in one folder, which is made if need be.

    Yields:
        A path to write to for each target, with the same suffix.
    """
    folder = targets[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-", ignore_cleanup_errors=True) as scratch:
        written = tuple(Path(scratch) / target.name for target in targets)
        yield written
        for path in written:
            _flush(path)
        for path, target in zip(written, targets, strict=True):
            path.replace(target)
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def what_is_wrong(path: Path) -> str | None:
    """Why a path is no file to read from; None where it is one."""
    if path.is_dir():
        return "is a folder, give one file"
    try:
        size_bytes = path.stat().st_size
    except FileNotFoundError:
        return "no such file"
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        return getattr(error, "strerror", None) or str(error)
    return None if size_bytes > 0 else "the file is empty"


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
