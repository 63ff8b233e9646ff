"""From official splits and a folder of videos to lists that training can rely on.

Every video is decoded to its end in processes of their own, since one damaged file in a hundred thousand can crash a
decoder or never end: a process that gives no answer in time is killed and replaced. Lists go on without the bad videos,
and a report names them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as NoAnswerError
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import cv2
import numpy as np

from i3d_deploy import files, labels, lists, video, video_files
from i3d_deploy.errors import InputError, MissingExtraError, VideoError
from i3d_deploy.flow_images import FlowFolder
from i3d_deploy.images import FrameFolder
from i3d_deploy.official_splits import Entry

T = TypeVar("T")

Kind = Literal["video", "frames", "flow"]
"""What a folder of videos holds: files, or folders of frames or of flow images."""

Verdict = Literal["ok", "missing", "broken", "short", "no answer in time"]
OnFile = Callable[[int, int], None]
"""Called with (files judged, files in all)."""

Source = tuple[str, Path]
"""A path under a folder of videos, and that folder; the same path may be in several."""

REPORT = "report.json"
LABELS = "labels.txt"

_ENDINGS: dict[Kind, str] = {"video": "videos", "frames": "rawframes", "flow": "flow"}
"""Last words of the lists' names."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a video needs to be used.

    Attributes:
        min_frames: Frames that decode.
        min_decoded_share: A damaged file needs at least this share of the frames that its container promises.
        timeout_seconds: Time for each file, after which its process is killed.
        workers: Processes; None: one per CPU core.
    """

    min_frames: int = 16
    min_decoded_share: float = video.MIN_DECODED_SHARE
    timeout_seconds: float = 60.0
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.min_frames < 1 or self.timeout_seconds <= 0 or (self.workers is not None and self.workers < 1):
            raise InputError(
                f"min_frames ({self.min_frames}) and workers ({self.workers}) must be at least 1, "
                f"timeout_seconds ({self.timeout_seconds}) above 0"
            )


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is known of one video.

    Attributes:
        name: Its path under the folder of videos.
        verdict: Whether it is used, and if not, why.
        reason: The same in words; empty where it is ok.
        num_frames: Frames that decode, or pairs of flow images; 0 where that is not known.
    """

    name: str
    verdict: Verdict
    reason: str = ""
    num_frames: int = 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of the videos of a data set.

    Attributes:
        findings: One per video.
        lists: Videos that each list has left, by file name. Where one has none, no list is written.
    """

    findings: tuple[Finding, ...]
    lists: Mapping[str, int] = field(default_factory=dict)

    @property
    def counts(self) -> dict[Verdict, int]:
        """Videos by verdict, those that occur."""
        found = [finding.verdict for finding in self.findings]
        order: tuple[Verdict, ...] = ("ok", "missing", "broken", "short", "no answer in time")
        return {verdict: found.count(verdict) for verdict in order if verdict in found}

    @property
    def bad(self) -> tuple[Finding, ...]:
        """The videos that are not used."""
        return tuple(finding for finding in self.findings if finding.verdict != "ok")

    @property
    def empty(self) -> tuple[str, ...]:
        """The lists that have no video left."""
        return tuple(name for name, count in self.lists.items() if count == 0)

    def to_json(self) -> str:
        """The report as a file: counts, lists and the bad videos."""
        bad = [{key: value for key, value in asdict(finding).items() if key != "num_frames"} for finding in self.bad]
        document = {"videos": len(self.findings), "counts": self.counts, "lists": dict(self.lists), "bad": bad}
        # ASCII, because the name of a bad file may be no text.
        return json.dumps(document, indent=2) + "\n"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Lists of a data set whose videos are in one folder.

    Attributes:
        lists: As in :class:`i3d_deploy.official_splits.OfficialSplits`.
        videos: Folder that the paths in these lists start from.
        report: Name of the report over these lists.
    """

    lists: Mapping[str, Sequence[Entry]]
    videos: Path
    report: str = REPORT


def prepare(
    parts: Sequence[Part],
    *,
    class_names: tuple[str, ...],
    output: Path,
    kind: Kind,
    limits: Limits,
    on_file: OnFile | None = None,
) -> dict[str, Report]:
    """Check the videos of a data set and write its lists, ``labels.txt`` and reports, all of them or none.

    Args:
        parts: Which video is in which list, and in which folder.
        class_names: By label.
        output: Folder for the lists.
        kind: Whether the folders of videos hold "video" files, folders of "frames" named ``img_00001.jpg`` and so on,
            or folders of "flow" images named ``x_00001.jpg``, ``y_00001.jpg`` and so on.
        limits: What a video needs to be used.
        on_file: Told the progress.

    Returns:
        What became of each video, by the report's name; also where a list has none left, when reports alone are
        written.

    Raises:
        InputError: There is no such folder of videos, or ``labels.txt`` is there and has other classes.
    """
    for part in parts:
        if not part.videos.is_dir():
            raise InputError(f"{part.videos}: no such folder: give the folder of the videos")
    _check_labels(output / LABELS, class_names)
    located = [_locate(part, kind=kind) for part in parts]
    present = dict.fromkeys(source for names in located for source in names.values() if source is not None)
    judged = judge_all(list(present), kind=kind, limits=limits, on_file=on_file)
    reports: dict[str, Report] = {}
    texts = {LABELS: "".join(f"{name}\n" for name in class_names)}
    for part, names in zip(parts, located, strict=True):
        found = {
            wanted: _missing(wanted, kind=kind) if source is None else judged[source]
            for wanted, source in names.items()
        }
        ending = _ENDINGS[kind]
        rows = {f"{name}_{ending}.txt": _rows(entries, found, kind=kind) for name, entries in part.lists.items()}
        counts = {name: len(listed) for name, listed in rows.items()}
        reports[part.report] = Report(findings=tuple(found.values()), lists=counts)
        texts |= {name: lists.to_text(listed) for name, listed in rows.items()}
    _write(reports, output=output, texts=texts)
    return reports


def write(report: Report, *, output: Path, texts: Mapping[str, str]) -> None:
    """Write lists, labels and ``report.json``, which comes last; the report alone where a list has no video left.

    Args:
        report: Of the videos in the lists.
        output: Folder.
        texts: Lists and labels by file name.
    """
    _write({REPORT: report}, output=output, texts=texts)


def _write(reports: Mapping[str, Report], *, output: Path, texts: Mapping[str, str]) -> None:
    whole = {name: report.to_json() for name, report in reports.items()}
    if not any(report.empty for report in reports.values()):
        whole = {**texts, **whole}
    with files.replacing(*(output / name for name in whole)) as targets:
        for target in targets:
            target.write_text(whole[target.name], encoding="utf-8")


def _check_labels(path: Path, class_names: tuple[str, ...]) -> None:
    """Lists that are there already have the numbers of these labels."""
    if path.exists() and labels.read(path) != class_names:
        raise InputError(
            f"{path} has other classes than these lists: make all lists of a data set in one run, or in another folder"
        )


def _locate(part: Part, *, kind: Kind) -> dict[tuple[str, ...], Source | None]:
    """Where each video is; None where it is missing."""
    folder = _Folder(part.videos, kind=kind)
    wanted = dict.fromkeys(entry.names for entries in part.lists.values() for entry in entries)
    found = {names: folder.find(names) for names in wanted}
    return {names: None if name is None else (name, part.videos) for names, name in found.items()}


def _missing(wanted: tuple[str, ...], *, kind: Kind) -> Finding:
    what = "no such file" if kind == "video" else f"no such folder of {kind}"
    others = f", nor under {len(wanted) - 1} other names" if len(wanted) > 1 else ""
    return Finding(name=wanted[0], verdict="missing", reason=what + others)


def _rows(
    entries: Sequence[Entry], found: Mapping[tuple[str, ...], Finding], *, kind: Kind
) -> list[tuple[str, int]] | list[tuple[str, int, int]]:
    usable = [(entry, found[entry.names]) for entry in entries if found[entry.names].verdict == "ok"]
    if kind == "video":
        return [(finding.name, entry.label) for entry, finding in usable]
    return [(finding.name, finding.num_frames, entry.label) for entry, finding in usable]


class _Folder:
    """A folder of videos, or of folders of images, in which names are looked up; each folder is listed once."""

    def __init__(self, root: Path, *, kind: Kind) -> None:
        self._root = root
        self._kind = kind
        self._listed: dict[PurePosixPath, dict[str, str]] = {}

    def find(self, names: tuple[str, ...]) -> str | None:
        """The first of the names that is there, with its true ending."""
        for name in names:
            path = PurePosixPath(name)
            if path.parent not in self._listed:
                self._listed[path.parent] = self._list(path.parent)
            listed = self._listed[path.parent]
            found = listed.get(path.name) or listed.get(_without_suffix(path.name))
            if found is not None:
                return str(path.with_name(found))
        return None

    def _list(self, folder: PurePosixPath) -> dict[str, str]:
        """File names by themselves and by what stands before their ending; of images, names of folders."""
        if not (self._root / folder).is_dir():
            return {}
        names = sorted(entry.name for entry in os.scandir(self._root / folder) if self._is_wanted(entry))
        stems = {_without_suffix(name): name for name in reversed(names)} if self._kind == "video" else {}
        return stems | {name: name for name in names}

    def _is_wanted(self, entry: os.DirEntry[str]) -> bool:
        if self._kind != "video":
            return entry.is_dir()
        return PurePosixPath(entry.name).suffix.lower() in video_files.SUFFIXES


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in video_files.SUFFIXES else name


def judge_all(
    sources: Sequence[Source], *, kind: Kind, limits: Limits, on_file: OnFile | None = None
) -> dict[Source, Finding]:
    """Decode videos to their end, in parallel.

    Args:
        sources: Each once.
        kind: Whether they are "video" files, or folders of "frames" or "flow".
        limits: What a video needs.
        on_file: Told the progress.

    Returns:
        One finding by source, in the order of the sources.
    """
    calls = [(name, root, kind, limits) for name, root in sources]
    return dict(zip(sources, findings(judge, calls, limits=limits, on_file=on_file), strict=True))


def judge(name: str, root: Path, kind: Kind, limits: Limits) -> Finding:
    """Decode one video, a path under ``root``, to its end; the rest as for :func:`judge_all`."""
    path = root / name
    try:
        num_frames = _count(path, kind, limits)
    except (VideoError, cv2.error) as error:
        # Without the folder: reports are passed on.
        reason = str(error).replace(str(path.absolute()), name).replace(str(path), name).removeprefix(f"{name}: ")
        return Finding(name=name, verdict="broken", reason=" ".join(reason.split()))
    return of_pairs(name, num_frames, limits=limits) if kind == "flow" else of_length(name, num_frames, limits=limits)


def _count(path: Path, kind: Kind, limits: Limits) -> int:
    if kind == "video":
        return _count_video(path, limits)
    return _count_images(path) if kind == "frames" else _count_flow(path)


def of_pairs(name: str, num_flows: int, *, limits: Limits) -> Finding:
    """What is known of a video by its flow, which leads from each of its frames to the next."""
    return replace(of_length(name, num_flows + 1, limits=limits), num_frames=num_flows)


def of_length(name: str, num_frames: int, *, limits: Limits) -> Finding:
    """What is known of a video that decodes."""
    if num_frames < limits.min_frames:
        reason = f"{num_frames} frames, {limits.min_frames} are needed"
        return Finding(name=name, verdict="short", reason=reason, num_frames=num_frames)
    return Finding(name=name, verdict="ok", num_frames=num_frames)


def _count_video(path: Path, limits: Limits) -> int:
    return video.collect(
        path,
        choose=lambda num_frames, _: np.empty((0, 0), np.int64),
        transform=lambda frame: frame,
        min_decoded_share=limits.min_decoded_share,
    ).num_frames


def _count_images(path: Path) -> int:
    """Decode all images of a folder, which must be numbered from 1 without a gap."""
    count = sum(1 for _ in path.glob("img_*.jpg"))
    if count == 0:
        raise VideoError(f"{path}: no frames named img_00001.jpg and so on")
    video.collect(
        FrameFolder(path=path, num_frames=count),
        choose=lambda num_frames, _: np.arange(num_frames)[None],
        transform=lambda frame: frame[:1, :1].copy(),
    )
    return count


def _count_flow(path: Path) -> int:
    """Decode all pairs of a folder, which must be numbered from 1 without a gap."""
    folder = FlowFolder(path)
    for index in range(folder.num_flows):
        folder.read(index)
    return folder.num_flows


def findings(
    function: Callable[..., Finding],
    calls: Sequence[tuple[Any, ...]],
    *,
    limits: Limits,
    on_file: OnFile | None = None,
) -> Iterator[Finding]:
    """Call a function in processes that are killed and replaced where it does not return in time.

    Args:
        function: Of a module, since it is sent to other processes.
        calls: Its arguments for each call; the first is the video's name.
        limits: Time and number of processes.
        on_file: Told the progress.

    Yields:
        What the function returned, or that it did not, in the order of the calls.

    Raises:
        MissingExtraError: Package pebble is not installed.
        Exception: What the function raised.
    """
    try:
        from pebble import ProcessExpired, ProcessPool
    except ImportError as error:
        raise MissingExtraError("pebble", extra="train", cause=error) from error
    workers = min(limits.workers or len(os.sched_getaffinity(0)), max(1, len(calls)))
    # Fork would copy the locks of the caller's threads in whatever state they are.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(max_workers=workers, initializer=cv2.setNumThreads, initargs=(1,), context=context)
    try:
        jobs = [pool.schedule(function, args=call, timeout=limits.timeout_seconds) for call in calls]
        for done, (job, call) in enumerate(zip(jobs, calls, strict=True), 1):
            try:
                yield job.result()
            except NoAnswerError:
                reason = f"no answer within {limits.timeout_seconds:g} seconds"
                yield Finding(name=call[0], verdict="no answer in time", reason=reason)
            except ProcessExpired as error:
                reason = f"the decoder ended its process (exit code {error.exitcode})"
                yield Finding(name=call[0], verdict="broken", reason=reason)
            if on_file is not None:
                on_file(done, len(calls))
    finally:
        pool.stop()  # type: ignore[no-untyped-call]
        pool.join()
