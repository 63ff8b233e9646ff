"""What a long evaluation has found so far, on the disk, so that a killed one goes on where it stopped.

A journal is a folder with one text file per process. The first line of a file says what is evaluated; every other line
is one video. A line is complete once its line feed is there: the rest of a killed process is cut off.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from i3d_deploy.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One video of the list.

    Attributes:
        index: Its place in the list, from 0.
        rows: (R, K) float32: one row of scores, or one per view; None where it could not be read.
        warnings: What was wrong with it, one line each.
        error: Why it could not be read.
    """

    index: int
    rows: NDArray[np.float32] | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()
    error: str | None = None

    def to_line(self) -> str:
        """The entry as one line of JSON; a float32 survives the way over float64."""
        document: dict[str, Any] = {"index": self.index}
        if self.rows is None:
            document["error"] = self.error
        else:
            document["rows"] = self.rows.tolist()
        if self.warnings:
            document["warnings"] = self.warnings
        return json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_line(cls, line: bytes) -> Entry:
        """Read what :meth:`to_line` wrote."""
        document = json.loads(line)
        rows = document.get("rows")
        return cls(
            index=document["index"],
            rows=None if rows is None else np.array(rows, np.float32),
            warnings=tuple(document.get("warnings", ())),
            error=document.get("error"),
        )


class Journal:
    """The folder of one evaluation.

    Args:
        folder: Made when first written to.
        identity: What is evaluated, as JSON: a journal of anything else is refused.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self._identity = dict(identity)

    def read(self) -> dict[int, Entry]:
        """What all processes have found, by the video's index. A video that was read once counts as read.

        Raises:
            InputError: The journal is of another evaluation, or damaged.
        """
        found: dict[int, Entry] = {}
        for path in self._files():
            for entry in self._entries(path):
                if entry.index not in found or found[entry.index].rows is None:
                    found[entry.index] = entry
        return found

    @contextmanager
    def writing(self, rank: int) -> Iterator[Writer]:
        """Add to the file of one process.

        Raises:
            InputError: Another process has it open.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with appending(self.folder / f"rank_{rank}.jsonl", called="evaluation") as writer:
            if writer.is_empty:
                writer.write(json.dumps(self._identity, ensure_ascii=False) + "\n")
            yield writer

    def remove(self) -> None:
        """Remove the files and, when nothing else is in it, the folder."""
        for path in self._files():
            path.unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("rank_*.jsonl"))

    def _entries(self, path: Path) -> Iterator[Entry]:
        with path.open("rb") as stream:
            first = stream.readline()
            if not first.endswith(b"\n"):
                return
            self._check_identity(first, path)
            for number, line in enumerate(stream, 2):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield Entry.from_line(line)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise InputError(
                        f"{path}: line {number} is damaged: remove {self.folder}, or give --fresh"
                    ) from error

    def _check_identity(self, line: bytes, path: Path) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise InputError(f"{path} is no journal of an evaluation: remove it, or give --fresh")
        ours = json.loads(json.dumps(self._identity))
        different = [name for name in ours if found.get(name) != ours[name]]
        if different or found.keys() != ours.keys():
            raise InputError(
                f"{self.folder} is left from another evaluation ({', '.join(different) or 'version'} differ): "
                "remove it, or give --fresh to start anew"
            )


class Writer:
    """The open file of one process, which no other process can open meanwhile."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written yet."""
        return self._stream.tell() == 0

    def add(self, entry: Entry) -> None:
        """Append a video; after this it survives the death of the process."""
        self.write(entry.to_line())

    def write(self, line: str) -> None:
        """Append a line."""
        self._stream.write(line.encode())
        self._stream.flush()

    def clear(self) -> None:
        """Take out all lines."""
        self._stream.truncate(0)
        self._stream.seek(0)


@contextmanager
def appending(path: Path, *, called: str) -> Iterator[Writer]:
    """Add lines to a file, made if need be; a line that was left torn is cut off.

    Args:
        path: The file.
        called: What else could be writing it, for the message.

    Raises:
        InputError: Another process has it open.
    """
    with path.open("a+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have put another file in its place.
            is_free = path.exists() and os.path.samestat(os.fstat(stream.fileno()), path.stat())
        except BlockingIOError:
            is_free = False
        if not is_free:
            raise InputError(f"{path} is being written by another {called}: wait for it")
        _cut_torn_line(stream)
        yield Writer(stream)


def _cut_torn_line(stream: BinaryIO) -> None:
    """Cut off what follows the last line feed, and go to the end."""
    size = stream.seek(0, os.SEEK_END)
    block, end = 1 << 16, 0
    for start in range((size - 1) // block * block, -1, -block):
        stream.seek(start)
        last = stream.read(block).rfind(b"\n")
        if last >= 0:
            end = start + last + 1
            break
    if end < size:
        stream.truncate(end)
    stream.seek(0, os.SEEK_END)
