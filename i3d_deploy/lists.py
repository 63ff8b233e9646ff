"""Lists of labelled videos: the text and JSON files that say what a data set holds.

=============================== ===========================================
kind                            a line
=============================== ===========================================
video                           ``path label``
video, several labels           ``path label label ...``
frames                          ``folder num_frames label``
frames, several labels          ``folder num_frames label label ...``
frames, offset                  ``folder offset num_frames label``
JSON                            a list of ``{"filename" or "frame_dir": ..., "label": ..., "total_frames": ...}``
=============================== ===========================================

Source: mmaction2 0.24.1 ``VideoDataset``, ``RawframeDataset`` and ``BaseDataset.load_json_annotations``. Unlike there,
the path of a video with one label may hold spaces.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from i3d_deploy import files, images
from i3d_deploy.errors import InputError
from i3d_deploy.images import FrameFolder

ListKind = Literal["video", "frames"]


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One labelled video of a list.

    Attributes:
        name: Its path as the list has it.
        source: The file, or the folder of frames, under the list's root.
        labels: The numbers of its classes; one, or several where the list has several a video.
    """

    name: str
    source: Path | FrameFolder
    labels: tuple[int, ...]


def read(
    path: Path,
    *,
    kind: ListKind,
    root: Path,
    num_classes: int,
    with_offset: bool = False,
    multi_class: bool = False,
    image_name: str = images.NAME,
) -> tuple[Annotation, ...]:
    """Read a list.

    Args:
        path: A text file, or a ``.json`` file.
        kind: Whether it names video files or folders of frames.
        root: Folder that the paths in it start from.
        num_classes: Labels must be in [0, num_classes).
        with_offset: Lines have an offset before the number of frames: how many frames of the folder come first.
        multi_class: Lines have one or more labels.
        image_name: Names of the frames, as for ``str.format``; numbered from 1.

    Raises:
        InputError: The file cannot be read, is empty, or a line is malformed; the message names the line.
    """
    text = files.read_text(path, called=f"list {path}")
    if with_offset and kind == "video":
        raise InputError(f"list {path}: only lists of frames have offsets, not lists of videos")
    try:
        if path.suffix.lower() == ".json":
            rows = _json_rows(text, kind=kind)
        else:
            rows = _text_rows(text, kind=kind, with_offset=with_offset, multi_class=multi_class)
        annotations = tuple(
            _annotation(row, kind=kind, root=root, num_classes=num_classes, image_name=image_name) for row in rows
        )
        several = next((entry for entry in annotations if len(entry.labels) > 1 and not multi_class), None)
    except _MalformedError as error:
        raise InputError(f"list {path}: {error}") from error
    if several is not None:
        raise InputError(f"list {path}: {several.name} has several labels, and multi_class is not set")
    if not annotations:
        raise InputError(f"list {path} names no video: write one a line")
    return annotations


def find(path: Path, *, root: Path) -> tuple[Path, ...]:
    """The videos of a list of any kind, for work that needs neither labels nor numbers of frames.

    Args:
        path: As for :func:`read`; labels may also be missing, and other numbers follow.
        root: Folder that the paths in it start from.

    Returns:
        Files and folders, which need not exist.

    Raises:
        InputError: The file cannot be read, names no video, or an entry is malformed.
    """
    text = files.read_text(path, called=f"list {path}")
    try:
        if path.suffix.lower() == ".json":
            names = [_json_name(number, entry) for number, entry in enumerate(_json_entries(text))]
        else:
            names = [_without_numbers(root, line.strip()) for line in text.splitlines() if line.strip()]
    except _MalformedError as error:
        raise InputError(f"list {path}: {error}") from error
    if not names:
        raise InputError(f"list {path} names no video: write one a line")
    return tuple(root / name for name in names)


def to_text(rows: Iterable[tuple[str, int]] | Iterable[tuple[str, int, int]]) -> str:
    """The text of a list: fields of a row separated by spaces, one row a line."""
    return "".join(" ".join(map(str, row)) + "\n" for row in rows)


def _without_numbers(root: Path, line: str) -> str:
    """What a line names: numbers behind it are no part of it, unless there is a file of that name."""
    fields = line.rsplit(maxsplit=1)
    while len(fields) == 2 and fields[1].isdecimal() and not _exists(root / line):
        line = fields[0]
        fields = line.rsplit(maxsplit=1)
    return line


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a line longer than any name
        return False


class _MalformedError(Exception):
    """A row is not of its form."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    where: str
    name: str
    labels: tuple[Any, ...]
    num_frames: Any = None
    offset: Any = 0


def _text_rows(text: str, *, kind: ListKind, with_offset: bool, multi_class: bool) -> Iterator[_Row]:
    numbers = 0 if kind == "video" else 2 if with_offset else 1  # between the path and the labels
    form = {0: "path label", 1: "folder num_frames label", 2: "folder offset num_frames label"}[numbers]
    form += " ..." if multi_class else ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        # From the right, so that a path may hold spaces where the number of fields is known.
        fields = line.split() if multi_class else line.rsplit(maxsplit=numbers + 1)
        if len(fields) < numbers + 2:
            raise _MalformedError(f"line {number} is {line.strip()!r} instead of {form!r}")
        name, *middle = fields[: numbers + 1]
        yield _Row(
            where=f"line {number}",
            name=name.strip(),
            labels=tuple(fields[numbers + 1 :]),
            num_frames=middle[-1] if middle else None,
            offset=middle[0] if numbers == 2 else 0,
        )


def _json_name(number: int, entry: Any) -> str:
    names = [entry[key] for key in ("filename", "frame_dir") if key in entry] if isinstance(entry, dict) else []
    if not names or not isinstance(names[0], str):
        raise _MalformedError(f"entry {number} has neither a 'filename' nor a 'frame_dir'")
    return names[0]


def _json_entries(text: str) -> list[Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _MalformedError(f"no JSON document: {error}") from error
    if not isinstance(document, list):
        raise _MalformedError(f"holds a {type(document).__name__} instead of a list of objects")
    return document


def _json_rows(text: str, *, kind: ListKind) -> Iterator[_Row]:
    key = "filename" if kind == "video" else "frame_dir"
    for number, entry in enumerate(_json_entries(text)):
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str) or "label" not in entry:
            raise _MalformedError(f"entry {number} has no {key!r} with a 'label'")
        label = entry["label"]
        yield _Row(
            where=f"entry {number}",
            name=entry[key],
            labels=tuple(label) if isinstance(label, list) else (label,),
            num_frames=entry.get("total_frames"),
            offset=entry.get("offset", 0),
        )


def _annotation(row: _Row, *, kind: ListKind, root: Path, num_classes: int, image_name: str) -> Annotation:
    classes = tuple(_number(label, row, what="label", low=0, high=num_classes - 1) for label in row.labels)
    if not classes:
        raise _MalformedError(f"{row.where} has no label")
    source: Path | FrameFolder = root / row.name
    if kind == "frames":
        source = FrameFolder(
            path=root / row.name,
            num_frames=_number(row.num_frames, row, what="number of frames", low=1),
            offset=_number(row.offset, row, what="offset", low=0),
            image_name=image_name,
        )
    return Annotation(name=row.name, source=source, labels=classes)


def _number(given: Any, row: _Row, *, what: str, low: int, high: int | None = None) -> int:
    try:
        number = int(given) if isinstance(given, (str, int)) and not isinstance(given, bool) else None
    except ValueError:
        number = None
    if number is None or number < low or (high is not None and number > high):
        allowed = f"a number from {low}" if high is None else f"a number from {low} to {high}"
        raise _MalformedError(f"{row.where} ({row.name}) has the {what} {given!r}: give {allowed}")
    return number
