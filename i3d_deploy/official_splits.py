"""The official split files of UCF101, HMDB51 and Kinetics: which video is in which list, with which label.

Parsing alone; :mod:`i3d_deploy.preparation` looks for the videos. Labels count from 0, in the order of the shipped
label sets.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from i3d_deploy import files, labels
from i3d_deploy.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One video of a list.

    Attributes:
        names: Paths under the folder of videos where it may be, the likeliest first. Where a name has no video's
            ending, any will do.
        label: Number of its class.
    """

    names: tuple[str, ...]
    label: int


@dataclass(frozen=True, kw_only=True)
class OfficialSplits:
    """The lists of a data set.

    Attributes:
        labels: Class names by number.
        lists: Videos by the list's name as in mmaction2's zoo, without the ending: "ucf101_train_split_1".
    """

    labels: tuple[str, ...]
    lists: Mapping[str, tuple[Entry, ...]]


def ucf101(folder: Path) -> OfficialSplits:
    """Read ``ucfTrainTestlist``.

    Args:
        folder: With ``classInd.txt`` (``1 ApplyEyeMakeup``), ``trainlist01.txt``
            (``ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1``), ``testlist01.txt`` (without number), and so on.

    Raises:
        InputError: A file is missing or malformed; the message names the line.
    """
    names = _class_index(folder / "classInd.txt")
    numbers = {name: number for number, name in enumerate(names)}
    splits = sorted(match[1] for path in _entries(folder) if (match := re.fullmatch(r"trainlist(\d+)\.txt", path.name)))
    if not splits:
        raise InputError(f"{folder}: no trainlist01.txt: give the folder ucfTrainTestlist")
    lists = {}
    for split in splits:
        for part, name in (("train", f"trainlist{split}.txt"), ("val", f"testlist{split}.txt")):
            lists[f"ucf101_{part}_split_{int(split)}"] = tuple(_ucf101_entries(folder / name, numbers))
    return OfficialSplits(labels=_in_shipped_order(names, where=folder / "classInd.txt"), lists=lists)


def _class_index(path: Path) -> tuple[str, ...]:
    names: list[str] = []
    for where, line in _lines(path):
        number, _, name = line.partition(" ")
        if number != str(len(names) + 1) or not name.strip():
            raise InputError(f"{where} is {line!r} instead of '{len(names) + 1} NameOfTheClass'")
        names.append(name.strip())
    return tuple(names)


def _ucf101_entries(path: Path, numbers: Mapping[str, int]) -> Iterator[Entry]:
    for where, line in _lines(path):
        name, _, number = line.partition(" ")
        label = numbers.get(PurePosixPath(name).parent.name)
        if label is None:
            raise InputError(f"{where} ({name}) is in the folder of no class of classInd.txt")
        if number.strip() not in ("", str(label + 1)):
            raise InputError(f"{where} ({name}) has the number {number.strip()}, classInd.txt says {label + 1}")
        yield Entry(names=(name,), label=label)


_HMDB51_NAME = re.compile(r"(.+)_test_split(\d+)\.txt")
_HMDB51_PART = {"1": "train", "2": "val"}


def hmdb51(folder: Path) -> OfficialSplits:
    """Read ``testTrainMulti_7030_splits``.

    Args:
        folder: With files ``<class>_test_split<k>.txt`` of lines ``video.avi 1``: 1 is trained on, 2 tested on, 0
            unused.

    Raises:
        InputError: A file is missing or malformed; the message names the line.
    """
    found = [match for path in _entries(folder) if (match := _HMDB51_NAME.fullmatch(path.name))]
    if not found:
        raise InputError(f"{folder}: no files <class>_test_split1.txt: give the folder testTrainMulti_7030_splits")
    names = tuple(sorted({match[1] for match in found}))
    splits = sorted({int(match[2]) for match in found})
    lists: dict[str, tuple[Entry, ...]] = {}
    for split in splits:
        parts: dict[str, list[Entry]] = {"train": [], "val": []}
        for label, name in enumerate(names):
            for part, entry in _hmdb51_entries(folder / f"{name}_test_split{split}.txt", class_name=name, label=label):
                parts[part].append(entry)
        lists |= {f"hmdb51_{part}_split_{split}": tuple(entries) for part, entries in parts.items()}
    return OfficialSplits(labels=_in_shipped_order(names, where=folder), lists=lists)


def _hmdb51_entries(path: Path, *, class_name: str, label: int) -> Iterator[tuple[str, Entry]]:
    for where, line in _lines(path):
        name, _, part = line.rpartition(" ")
        if not name or part not in ("0", "1", "2"):
            raise InputError(f"{where} is {line!r} instead of 'video.avi 0', 1 (train) or 2 (test)")
        if part in _HMDB51_PART:
            yield _HMDB51_PART[part], Entry(names=(f"{class_name}/{name.strip()}",), label=label)


def kinetics(*, train: Path | None, val: Path | None, name: str = "kinetics400") -> OfficialSplits:
    """Read the CSV files of Kinetics: ``label,youtube_id,time_start,time_end,split`` and perhaps ``is_cc``.

    Labels are those of the shipped set of that name, whole and in its order, even where the files lack some of its
    classes. Where there is no such set, or a class is not in it, the classes of both files together count in
    alphabetical order.

    Args:
        train: Of the videos to train on.
        val: Of those to validate on.
        name: First word of the lists' names, and name of the shipped set: "kinetics400".

    Raises:
        InputError: None is given, or one is missing or malformed; the message names the line.
    """
    rows = {part: tuple(_kinetics_rows(path)) for part, path in (("train", train), ("val", val)) if path is not None}
    if not rows:
        raise InputError("give the CSV file of the training or of the validation videos, or both")
    names = _kinetics_classes({label for part in rows.values() for label, _ in part}, name=name)
    numbers = {label: number for number, label in enumerate(names)}
    lists = {
        f"{name}_{part}_list": tuple(
            Entry(names=_kinetics_names(label, stems), label=numbers[label]) for label, stems in listed
        )
        for part, listed in rows.items()
    }
    return OfficialSplits(labels=names, lists=lists)


def _kinetics_classes(found: set[str], *, name: str) -> tuple[str, ...]:
    if name not in labels.LABEL_SETS:
        return tuple(sorted(found))
    shipped = labels.load(name)
    foreign = sorted(found.difference(shipped))
    if foreign:
        others = f", nor are {len(foreign) - 1} others" if foreign[1:] else ""
        raise InputError(
            f"{foreign[0]!r} is no class of {name}{others}: correct it, or give the data set another --name, under "
            "which its classes are numbered by themselves"
        )
    return shipped


def _kinetics_rows(path: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Each row's label and the names that its video may have."""
    reader = csv.reader(files.read_text(path, called=str(path)).splitlines())
    header = [field.strip() for field in next(reader)]
    columns = {field: number for number, field in enumerate(header)}
    if "label" not in columns:
        raise InputError(f"{path} has no column 'label', as the test set has none: give the train or validation file")
    missing = [field for field in ("youtube_id", "time_start", "time_end") if field not in columns]
    if missing:
        raise InputError(f"{path} has no column {missing[0]!r}: its first line is {','.join(header)!r}")
    for row in filter(None, reader):
        try:
            label, video, start, end = (
                row[columns[field]].strip() for field in ("label", "youtube_id", "time_start", "time_end")
            )
            stem = f"{video}_{int(start):06}_{int(end):06}"
        except (IndexError, ValueError) as error:
            raise InputError(
                f"{path} line {reader.line_num} is {','.join(row)!r} instead of 'label,youtube_id,0,10,...'"
            ) from error
        if not label or not video:
            raise InputError(f"{path} line {reader.line_num} has an empty label or youtube_id")
        yield label, (stem, video)


def _kinetics_names(label: str, stems: tuple[str, str]) -> tuple[str, ...]:
    folders = ("", f"{label}/", f"{label.replace(' ', '_')}/")
    return tuple(dict.fromkeys(folder + stem for stem in stems for folder in folders))


def _in_shipped_order(names: tuple[str, ...], *, where: Path) -> tuple[str, ...]:
    """The names, unless they are a shipped set in another order: labels would mean other classes than in the zoo."""
    for name in labels.LABEL_SETS:
        shipped = labels.load(name)
        if names != shipped and sorted(names) == sorted(shipped):
            raise InputError(f"{where} has the classes of {name} in another order than the official one")
    return names


def _entries(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    return folder.iterdir()


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line that is not blank, and where it is."""
    for number, line in enumerate(files.read_text(path, called=str(path)).splitlines(), 1):
        if line.strip():
            yield f"{path} line {number}", line.strip()
