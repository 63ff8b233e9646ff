"""Tables of predictions on the disk, a row for each video, and going on where a run stopped.

A row has the fields of ``i3d-predict --json`` and says what made it, and of which file. Rows are appended as they come;
each survives the death of the process once it is added, and none is ever there twice: a video is told by its path, and
a file that was replaced is another video.

========== ====================================================================================================
suffix     table
========== ====================================================================================================
.jsonl     One row a line.
.parquet   A folder of part files, each written as a whole. Rows are first in ``_journal.jsonl``, which readers of
           Parquet pass over by its name, and become the next part when there are many or the table is closed; where a
           process was killed, when it is opened again.
========== ====================================================================================================
"""

from __future__ import annotations

import json
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i3d_deploy import files, journal
from i3d_deploy.errors import InputError, MissingExtraError, VideoError
from i3d_deploy.journal import Writer
from i3d_deploy.predictions import Prediction
from i3d_deploy.video_files import is_url

if TYPE_CHECKING:
    import pyarrow

Row = dict[str, Any]
"""The fields of :class:`Origin`; ``top``, ``views``, ``frames`` and ``warnings``; ``error``, None where there are
predictions; those of :class:`Basis`, and ``ran_by``."""

JOURNAL = "_journal.jsonl"
ROWS_OF_A_PART = 10_000

_CALLED = "run"
_BEGINNING = b'{"video": '
_SAME_TIME_SECONDS = 1e-6  # such numbers are so exact today
_NO_ROW = "{path}: line {number} is no row of i3d-predict: give another --output, or --overwrite"


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What the rows of a table depend on.

    Attributes:
        artifact_sha256: Of the network: :func:`i3d_deploy.artifact.sha256`.
        settings: What was asked for, as text.
    """

    artifact_sha256: str
    settings: str

    def check(self, row: Row, path: Path) -> None:
        """See that a row was made in this way.

        Raises:
            InputError: It was not.
        """
        for name, value in asdict(self).items():
            if row.get(name) != value:
                raise InputError(
                    f"{path} holds rows that were made otherwise ({name} was {row.get(name)}, now {value}): give "
                    "another --output, or --overwrite"
                )


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Which video a row is about.

    Attributes:
        video: Its name as it was given.
        path: Its absolute path, or its URL; what a table tells videos by.
        size_bytes: Of the file; None for what is no file.
        modified_seconds: When the file, or the folder of frames, was changed, since 1970; None for a URL.
    """

    video: str
    path: str
    size_bytes: int | None
    modified_seconds: float | None

    @classmethod
    def of(cls, video: str, path: str, address: str) -> Origin:
        """Look at what an address, as :meth:`Recognizer.predict` takes it, shows now.

        What is not there, or is no file, has no size and no time. Of names that are not UTF-8, the path differs from
        the address.
        """
        size, modified = _state(address)
        return cls(video=video, path=path, size_bytes=size, modified_seconds=modified)


_NAMES = {*(field.name for field in fields(Origin)), "error"}


def predicted(origin: Origin, prediction: Prediction, *, top: int, basis: Basis, ran_by: str) -> Row:
    """The row of a video.

    Args:
        origin: Which.
        prediction: What the network says about it.
        top: How many classes.
        basis: What it depends on.
        ran_by: What ran the network.
    """
    return {
        **asdict(origin),
        "top": prediction.entries(top),
        "views": prediction.views,
        "frames": prediction.frames,
        "warnings": list(prediction.warnings),
        "error": None,
        **asdict(basis),
        "ran_by": ran_by,
    }


def failed(origin: Origin, error: VideoError, *, basis: Basis, ran_by: str) -> Row:
    """The row of a video that cannot be read; arguments as of :func:`predicted`."""
    return {
        **asdict(origin),
        "top": None,
        "views": 0,
        "frames": 0,
        "warnings": [],
        "error": str(error),
        **asdict(basis),
        "ran_by": ran_by,
    }


def _state(address: str) -> tuple[int | None, float | None]:
    """Size and time of a file, or the time of a folder."""
    try:
        found = None if is_url(address) else Path(address).stat()
    except (OSError, ValueError):
        found = None
    if found is None:
        return None, None
    return found.st_size if stat.S_ISREG(found.st_mode) else None, found.st_mtime_ns / 1e9


class Table(ABC):
    """An open table.

    Attributes:
        done: The paths of the videos that have a row.
        num_replaced: Rows that were taken out since their file is another one now.
    """

    done: set[str]
    num_replaced: int

    @abstractmethod
    def add(self, row: Row) -> None:
        """Add the row of a video; after this it survives the death of the process."""

    @abstractmethod
    def close(self) -> None:
        """Make the rows ready to be read by others."""


@contextmanager
def opened(
    path: Path, basis: Basis, *, wanted: Mapping[str, str] | None = None, overwrite: bool = False
) -> Iterator[Table]:
    """Open a table to add rows, made if need be; no other process can do so meanwhile.

    Args:
        path: ``.jsonl`` or ``.parquet``.
        basis: What the rows will depend on.
        wanted: Addresses, by their paths, of videos whose rows are taken out where they have an error, or the file is
            another one now: of another size or time. One that went away keeps its row.
        overwrite: Take out all rows, whatever they depend on.

    Raises:
        InputError: The suffix is another one, another process has the table open, its rows were made in another way, or
            it is damaged.
        MissingExtraError: Parquet needs a package that is not installed.
        OSError: It cannot be written.
    """
    kinds: dict[str, type[_JsonLines | _Parquet]] = {".jsonl": _JsonLines, ".parquet": _Parquet}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path}: a table is {' or '.join(kinds)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        table = kind(path, basis, _Kept(wanted or {}), stack, overwrite=overwrite)
        try:
            yield table
        finally:
            table.close()


class _JsonLines(Table):
    def __init__(self, path: Path, basis: Basis, kept: _Kept, stack: ExitStack, *, overwrite: bool) -> None:
        if path.exists() and not overwrite:
            _check_beginning(path)
        self._writer = stack.enter_context(journal.appending(path, called=_CALLED))
        if overwrite:
            self._writer.clear()
        self.done, retried = set(), False
        for row in _rows(path):
            basis.check(row, path)
            if kept.has(row):
                self.done.add(row["path"])
            else:
                retried = True
        self.num_replaced = kept.num_replaced
        if retried:
            self._writer = stack.enter_context(self._of_the_done(path))

    @contextmanager
    def _of_the_done(self, path: Path) -> Iterator[Writer]:
        """Replace the file by one without the rows to be tried again; it is held before it has its name."""
        with ExitStack() as stack:
            with files.replacing(path) as (target,):
                writer = stack.enter_context(journal.appending(target, called=_CALLED))
                for row in _rows(path):
                    if row["path"] in self.done:
                        writer.write(_line(row))
            yield writer

    def add(self, row: Row) -> None:
        self._writer.write(_line(row))
        self.done.add(row["path"])

    def close(self) -> None:
        pass  # each line is there already


class _Parquet(Table):
    def __init__(self, path: Path, basis: Basis, kept: _Kept, stack: ExitStack, *, overwrite: bool) -> None:
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise MissingExtraError("pyarrow", extra="ray", cause=error) from error
        if path.is_file():
            raise InputError(f"{path} is a file, and a table is a folder of part files: give another --output")
        path.mkdir(exist_ok=True)
        self._folder, self._journal = path, path / JOURNAL
        self._parquet = pyarrow.parquet
        self._writer = stack.enter_context(journal.appending(self._journal, called=_CALLED))
        self.done = set()
        if overwrite:
            self._writer.clear()
            for part in self._parts():
                part.unlink()
        for part in self._parts():
            self._read(part, basis, kept)
        left = list(_rows(self._journal))
        for row in left:
            basis.check(row, self._journal)
        # A process that was killed between the two steps of _seal leaves its rows in both places.
        self._seal([row for row in left if row["path"] not in self.done and kept.has(row)])
        self.num_replaced = kept.num_replaced

    def add(self, row: Row) -> None:
        self._writer.write(_line(row))
        self.done.add(row["path"])
        self._num_unsealed += 1
        if self._num_unsealed >= ROWS_OF_A_PART:
            self.close()

    def close(self) -> None:
        self._seal(list(_rows(self._journal)))

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("part-*.parquet"))

    def _read(self, part: Path, basis: Basis, kept: _Kept) -> None:
        """Note whose rows a part has, and take out those to be tried again."""
        import pyarrow

        names = [*_NAMES, *asdict(basis)]
        try:
            rows = self._parquet.read_table(part, columns=names).to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{part} is damaged: remove it, or give --overwrite") from error
        for row in rows:
            basis.check(row, part)
        done = {row["path"] for row in rows if kept.has(row)}
        self.done |= done
        if not done:
            part.unlink()
        elif len(done) < len(rows):
            self._write(part, [row for row in self._parquet.read_table(part).to_pylist() if row["path"] in done])

    def _seal(self, rows: list[Row]) -> None:
        """Make the rows of the journal the next part."""
        if rows:
            numbers = [int(part.stem.removeprefix("part-")) for part in self._parts()]
            self._write(self._folder / f"part-{max(numbers, default=-1) + 1:06}.parquet", rows)
            self.done.update(row["path"] for row in rows)
        self._writer.clear()
        self._num_unsealed = 0

    def _write(self, part: Path, rows: list[Row]) -> None:
        import pyarrow

        with files.replacing(part) as (target,):
            self._parquet.write_table(pyarrow.Table.from_pylist(rows, schema=_schema()), target)


def _schema() -> pyarrow.Schema:
    import pyarrow as pa

    entry = pa.struct([("label", pa.string()), ("index", pa.int32()), ("probability", pa.float32())])
    return pa.schema(
        [
            ("video", pa.string()),
            ("path", pa.string()),
            ("size_bytes", pa.int64()),
            ("modified_seconds", pa.float64()),
            ("top", pa.list_(entry)),
            ("views", pa.int32()),
            ("frames", pa.int64()),
            ("warnings", pa.list_(pa.string())),
            ("error", pa.string()),
            ("artifact_sha256", pa.string()),
            ("settings", pa.string()),
            ("ran_by", pa.string()),
        ]
    )


class _Kept:
    """Which rows stay, where some videos are wanted.

    Attributes:
        num_replaced: Rows that do not stay since their file is another one now.
    """

    def __init__(self, wanted: Mapping[str, str]) -> None:
        self._wanted = wanted
        self.num_replaced = 0

    def has(self, row: Row) -> bool:
        """Whether a row stays."""
        address = self._wanted.get(row["path"])
        if address is None:
            return True
        if row["error"] is not None:
            return False
        size, modified = _state(address)
        before = row["modified_seconds"]
        is_same_time = before is not None and modified is not None and abs(modified - before) < _SAME_TIME_SECONDS
        if modified is None or (is_same_time and size == row["size_bytes"]):
            return True
        self.num_replaced += 1
        return False


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _check_beginning(path: Path) -> None:
    """Refuse another file before its last line, which need not end with a line feed, is taken for a torn one."""
    with path.open("rb") as stream:
        found = stream.read(len(_BEGINNING))
    if not _BEGINNING.startswith(found):
        raise InputError(_NO_ROW.format(path=path, number=1))


def _rows(path: Path) -> Iterator[Row]:
    """The rows of a file of lines."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                row = json.loads(line)
                is_row = row.keys() >= _NAMES
            except (ValueError, AttributeError):
                is_row = False
            if not is_row:
                raise InputError(_NO_ROW.format(path=path, number=number))
            yield row
