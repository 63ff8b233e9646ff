"""Writing files so that a crash leaves no half of one, why one cannot be read, and SHA-256."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from i3d_deploy.errors import InputError

SCRATCH_PREFIX = ".writing-"
"""Beginning of the names of folders in which files are written; a process that was killed leaves one."""


@contextmanager
def replacing(*targets: Path) -> Iterator[tuple[Path, ...]]:
    """Write one or several files that belong together.

    The block writes to temporary siblings of ``targets``; when it ends, they are flushed to the disk and renamed in the
    order given. The last target marks a set as whole: of several files, its old form goes first and its new one comes
    last, so that a crash in between leaves a set that is seen to be incomplete, never a mixed one. When the block
    raises, everything is as before.

    Args:
        *targets: The files, all in one folder, which is made if need be. A symbolic link is followed.

    Yields:
        A path to write to for each target, with the same name.

    Raises:
        OSError: A target exists and is no regular file, or cannot be written.
    """
    targets = tuple(target.resolve() for target in targets)
    for target in targets:
        if target.exists() and not target.is_file():
            raise OSError(errno.EINVAL, "not a regular file, so it cannot be replaced", str(target))
    folder = targets[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH_PREFIX, ignore_cleanup_errors=True) as scratch:
        written = tuple(Path(scratch) / target.name for target in targets)
        yield written
        mode = _usual_mode(Path(scratch))
        for path in written:
            path.chmod(mode)  # some libraries make their files for the owner alone
            _flush(path)
        if len(targets) > 1:
            targets[-1].unlink(missing_ok=True)
        for path, target in zip(written, targets, strict=True):
            path.replace(target)
    _flush(folder)


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """Write a folder of files that belong together.

    The block writes into a temporary sibling of ``target``; when it ends, what it wrote is flushed to the disk and
    takes the place of ``target``. When the block raises, everything is as before; a process that is killed between the
    two renames leaves the earlier folder, whole, in a sibling whose name begins with :data:`SCRATCH_PREFIX`.

    Args:
        target: The folder; its parents are made if need be. What it held before is gone afterwards.

    Yields:
        A folder to write into, with the same name.

    Raises:
        OSError: The target exists and is no folder, or cannot be written.
    """
    target = target.resolve()
    if target.exists() and not target.is_dir():
        raise OSError(errno.ENOTDIR, "not a folder, so it cannot be replaced", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=SCRATCH_PREFIX, ignore_cleanup_errors=True) as scratch:
        written, earlier = (Path(scratch) / part / target.name for part in ("new", "earlier"))
        written.mkdir(parents=True)
        earlier.parent.mkdir()
        yield written
        for path in (*written.rglob("*"), written):
            _flush(path)
        if target.exists():
            target.rename(earlier)
        try:
            written.rename(target)
        except OSError:
            if earlier.exists():
                earlier.rename(target)
            raise
    _flush(target.parent)


def _usual_mode(folder: Path) -> int:
    """The mode that this process gives to a new file."""
    probe = folder / ".mode"
    probe.touch()
    return probe.stat().st_mode & 0o777


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def what_is_wrong(path: Path) -> str | None:
    """Why a path is no file to read from; None where it is one."""
    try:
        if path.is_dir():
            return "is a folder, give one file"
        size_bytes = path.stat().st_size
    except FileNotFoundError:
        return "no such file"
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        return getattr(error, "strerror", None) or str(error)
    return None if size_bytes > 0 else "the file is empty"


def read_text(path: Path, *, called: str) -> str:
    """Read a text file, UTF-8 with or without a byte order mark.

    Args:
        path: The file.
        called: What it is called in messages.

    Raises:
        InputError: It is no file to read from, or no text.
    """
    problem = what_is_wrong(path)
    if problem is not None:
        raise InputError(f"{called}: {problem}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{called}: not a text file") from error


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
