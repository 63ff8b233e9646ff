"""Videos as folders of JPEG frames or flow images, and windows of a few long videos to fine-tune on.

A folder of images is written beside its place and renamed when it is whole, so that a run that was interrupted goes on
with the videos that are missing.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from i3d_deploy import (
    files,
    flow,
    flow_images,
    geometry,
    images,
    lists,
    preparation,
    prepared_flow,
    resizing,
    sampling,
    video_files,
)
from i3d_deploy.card import FlowMethod
from i3d_deploy.errors import InputError
from i3d_deploy.frames import Frame
from i3d_deploy.lists import Annotation
from i3d_deploy.preparation import Finding, Limits, OnFile, Report
from i3d_deploy.sampling import Indices

_FRAMES_RECORD = "frames.json"
_MAX_CLASSES = 65536


@dataclass(frozen=True, kw_only=True)
class Resize:
    """What is done to frames before they are stored.

    Attributes:
        short_side: The shorter side gets this many pixels, aspect ratio kept.
        size: Width and height, aspect ratio or not. At most one of the two is given.
    """

    short_side: int | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.short_side is not None and self.size is not None:
            raise InputError("give the short side or the size of the frames, not both")
        if min(self.short_side or 1, *(self.size or (1, 1))) < 1:
            raise InputError(f"short_side ({self.short_side}) and size ({self.size}) must be > 0")

    def apply(self, frame: Frame) -> Frame:
        """The frame, (H, W, 3) uint8, in the wanted size; bilinear."""
        if self.short_side is not None:
            height, width = geometry.short_side_size(*frame.shape[:2], short_side=self.short_side)
        elif self.size is not None:
            width, height = self.size
        else:
            return frame
        return resizing.to_size(frame, height=height, width=width)


@dataclass(frozen=True, kw_only=True)
class Flow:
    """What flow is extracted.

    Attributes:
        method: How it is computed.
        frames_per_second: Between frames of this rate; None: between all frames of a video.
        with_rgb: Whether these frames are stored beside it.
    """

    method: FlowMethod
    frames_per_second: float | None = 25.0
    with_rgb: bool = False

    def __post_init__(self) -> None:
        if self.frames_per_second is not None and not 0 < self.frames_per_second <= 1000:
            raise InputError(f"frames_per_second ({self.frames_per_second}) must be above 0, and 1000 at most")


def extract_all(videos: Path, *, output: Path, resize: Resize, limits: Limits, on_file: OnFile | None = None) -> Report:
    """Extract every video of a folder: ``a/b.avi`` becomes ``a/b/img_00001.jpg`` and so on, beside ``report.json``.

    Args:
        videos: Folder that is searched with its subfolders, or one video file.
        output: Folder for the frames. Videos whose frames are there already are left out.
        resize: What is done to frames.
        limits: What a video needs; too short ones are not extracted.
        on_file: Told the progress.

    Raises:
        InputError: There is no video, two would get the same folder, or ``output`` has frames of another size.
        OSError: A frame cannot be written.
    """
    names = _videos_in(videos)
    folders = {name: output / Path(name).with_suffix("") for name in names}
    judged = _extract_frames(names, folders, output=output, resize=resize, limits=limits, on_file=on_file)
    report = Report(findings=judged)
    preparation.write(report, output=output, texts={})
    return report


def _is_list(path: Path) -> bool:
    return not path.is_dir() and path.suffix.lower() not in video_files.SUFFIXES


def _videos_in(path: Path) -> dict[str, Path]:
    """The videos of a folder and its subfolders, by their path under it; or one video by its name."""
    if not path.is_dir() and path.suffix.lower() in video_files.SUFFIXES:
        if not path.exists():
            raise InputError(f"{path}: no such file")
        return {path.name: path}
    found = video_files.below(path)
    if not found:
        raise InputError(f"{path}: no videos: give the folder of the videos")
    return {str(video.relative_to(path)): video for video in found}


def extract_flow(
    sources: Sequence[Path],
    *,
    output: Path,
    wanted: Flow,
    resize: Resize,
    limits: Limits,
    root: Path | None = None,
    on_file: OnFile | None = None,
) -> Report:
    """Extract the optical flow of videos: ``a/b.avi`` becomes ``a/b/x_00001.jpg``, ``a/b/y_00001.jpg`` and so on.

    Who computed it is in ``flow.json``. Of each list of videos a list of the same name is written (``folder num_flows
    label``, paths starting from ``output``), with the ``labels.txt`` that lies beside the lists.

    Args:
        sources: Video files, folders that are searched with their subfolders, and lists of labelled video files.
        output: Folder. Videos whose flow is there already are left out.
        wanted: What flow.
        resize: What is done to frames before the flow is computed.
        limits: What a video needs; too short ones are not extracted.
        root: Folder that the paths in lists start from; None: that of each list.
        on_file: Told the progress.

    Raises:
        InputError: There is no video, a list is malformed, two videos would get the same folder, or ``output`` has
            other flow or would lose a list.
        MissingExtraError: Nothing that is installed computes the flow.
        OSError: An image cannot be written.
    """
    implementation = flow.implementation(wanted.method)
    listed = {path: _read_list(path, root=root or path.parent) for path in sources if _is_list(path)}
    _check_lists(list(listed), output=output)
    names: dict[str, Path] = {}
    for found in [*(_videos_in(path) for path in sources if not _is_list(path)), *map(_sources_of, listed.values())]:
        other = next((name for name in found if names.get(name, found[name]) != found[name]), None)
        if other is not None:
            raise InputError(f"{names[other]} and {found[other]} would get the same folder: extract them into two")
        names |= found
    folders = {name: output / Path(name).with_suffix("") for name in names}
    for folder in folders.values():
        if folder.exists() and not flow_images.is_flow_folder(folder):
            raise InputError(f"{folder} is there and holds no flow images: give another folder")
    judged = _extract(
        names,
        folders,
        output=output,
        record=(prepared_flow.NAME, {**asdict(wanted), "implementation": implementation, **asdict(resize)}),
        function=partial(extract_flow_of, wanted=wanted, resize=resize, limits=limits),
        limits=limits,
        on_file=on_file,
    )
    return _write_flow_lists(listed, judged, output=output)


def _read_list(path: Path, *, root: Path) -> tuple[Annotation, ...]:
    entries = lists.read(path, kind="video", root=root, num_classes=_MAX_CLASSES)
    paths = (Path(entry.name) for entry in entries)
    outside = next((path for path in paths if path.is_absolute() or ".." in path.parts), None)
    if outside is not None:
        raise InputError(f"list {path}: {outside} is not below the folder that paths start from: give that with --root")
    return entries


def _sources_of(entries: Sequence[Annotation]) -> dict[str, Path]:
    return {entry.name: entry.source for entry in entries if isinstance(entry.source, Path)}


def _check_lists(paths: Sequence[Path], *, output: Path) -> None:
    """Lists are written under their names."""
    names = [path.with_suffix(".txt").name for path in paths]
    if len(set(names)) < len(names):
        raise InputError(f"two lists have the same name ({', '.join(names)}): extract them into two folders")
    if any(path.parent.resolve() == output.resolve() for path in paths):
        raise InputError(f"the lists in {output} would be replaced by those of the flow: give another folder")


def _write_flow_lists(
    listed: Mapping[Path, tuple[Annotation, ...]], judged: Sequence[Finding], *, output: Path
) -> Report:
    usable = {finding.name: finding for finding in judged if finding.verdict == "ok"}
    rows = {
        path.with_suffix(".txt").name: [
            (str(Path(entry.name).with_suffix("")), usable[entry.name].num_frames, *entry.labels)
            for entry in entries
            if entry.name in usable
        ]
        for path, entries in listed.items()
    }
    texts = {name: "".join(" ".join(map(str, row)) + "\n" for row in some) for name, some in rows.items()}
    labels = next((path.parent / preparation.LABELS for path in listed), None)
    if labels is not None and labels.is_file():
        texts[preparation.LABELS] = labels.read_text(encoding="utf-8")
    report = Report(findings=tuple(judged), lists={name: len(some) for name, some in rows.items()})
    preparation.write(report, output=output, texts=texts)
    return report


def write_windows(
    videos: Sequence[Path],
    *,
    output: Path,
    train_share: float = 0.6,
    window: int = 64,
    stride: int = 16,
    resize: Resize,
    limits: Limits,
    on_file: OnFile | None = None,
) -> Report:
    """Cut a few long videos, each of a class of its own, into windows: the beginning to train on, the rest to test on.

    Writes the frames of each video into a folder of its name, ``train.txt`` and ``test.txt`` (``folder offset
    num_frames label``, paths starting from ``output``), ``labels.txt`` and ``report.json``. A bad video is left out
    with its class.

    Args:
        videos: Files with different names, which are the labels.
        output: Folder.
        train_share: Share of each video that is trained on.
        window: Frames a window.
        stride: Frames from one window to the next.
        resize: What is done to frames.
        limits: What a video needs.
        on_file: Told the progress.

    Raises:
        InputError: A number is out of range, two videos have the same name, or ``output`` has frames of another size.
        OSError: A frame cannot be written.
    """
    windows = partial(window_starts, train_share=train_share, window=window, stride=stride)
    windows(0)  # refuses numbers out of range before the work
    names = {path.name: path for path in videos}
    if len(names) < len(videos):
        raise InputError("two videos have the same name, which is their class: rename one")
    folders = {name: output / path.stem for name, path in names.items()}
    extracted = _extract_frames(names, folders, output=output, resize=resize, limits=limits, on_file=on_file)
    judged = [_judge_windows(finding, windows(finding.num_frames), window=window) for finding in extracted]
    usable = [
        (folders[finding.name].name, windows(finding.num_frames)) for finding in judged if finding.verdict == "ok"
    ]
    parts = {
        f"{part}.txt": [
            f"{name} {offset} {window} {label}\n"
            for label, (name, starts) in enumerate(usable)
            for offset in starts[number]
        ]
        for number, part in enumerate(("train", "test"))
    }
    texts = {name: "".join(lines) for name, lines in parts.items()}
    report = Report(findings=tuple(judged), lists={name: len(lines) for name, lines in parts.items()})
    preparation.write(report, output=output, texts={**texts, "labels.txt": "".join(f"{name}\n" for name, _ in usable)})
    return report


def _judge_windows(finding: Finding, starts: tuple[list[int], list[int]], *, window: int) -> Finding:
    if finding.verdict != "ok" or all(starts):
        return finding
    part = "test" if starts[0] else "training"
    reason = f"{finding.num_frames} frames leave no window of {window} for {part}"
    return dataclasses.replace(finding, verdict="short", reason=reason)


def window_starts(num_frames: int, *, train_share: float, window: int, stride: int) -> tuple[list[int], list[int]]:
    """Where the windows of a video begin.

    Args:
        num_frames: Its length.
        train_share: Share of its frames, from the first one, that is trained on.
        window: Frames a window.
        stride: Frames from one window to the next.

    Returns:
        Offsets of windows that lie wholly in that share, and of those wholly in the rest.

    Raises:
        InputError: A number is out of range.
    """
    if not 0 < train_share < 1 or min(window, stride) < 1:
        raise InputError(
            f"train_share ({train_share}) must be between 0 and 1, window and stride ({window}, {stride}) > 0"
        )
    # Rounded first: 0.29 * 100 is 28.999999999999996.
    border = int(round(num_frames * train_share, 6))
    train = list(range(0, border - window + 1, stride))
    test = list(range(border, num_frames - window + 1, stride))
    return train, test


def _extract_frames(
    names: dict[str, Path],
    folders: dict[str, Path],
    *,
    output: Path,
    resize: Resize,
    limits: Limits,
    on_file: OnFile | None,
) -> tuple[Finding, ...]:
    return _extract(
        names,
        folders,
        output=output,
        record=(_FRAMES_RECORD, asdict(resize)),
        function=partial(extract, resize=resize, limits=limits),
        limits=limits,
        on_file=on_file,
    )


def _extract(
    names: dict[str, Path],
    folders: dict[str, Path],
    *,
    output: Path,
    record: tuple[str, dict[str, Any]],
    function: Callable[[str, Path, Path], Finding],
    limits: Limits,
    on_file: OnFile | None,
) -> tuple[Finding, ...]:
    owners: dict[Path, str] = {}
    for name, folder in folders.items():
        if folder in owners:
            raise InputError(f"{owners[folder]} and {name} would get the same folder of frames: rename one")
        owners[folder] = name
    for folder, name in owners.items():
        inside = next((owners[parent] for parent in folder.parents if parent in owners), None)
        if inside is not None:
            raise InputError(f"the frames of {name} would lie among those of {inside}: rename one")
    _record(output, *record)
    calls = [(name, source, folders[name]) for name, source in names.items()]
    found = tuple(preparation.findings(function, calls, limits=limits, on_file=on_file))
    for finding in found:
        if finding.verdict != "ok":
            shutil.rmtree(_scratch(folders[finding.name]), ignore_errors=True)  # of a process that was killed
    return found


def _scratch(folder: Path) -> Path:
    """Where a folder of images is written until it is whole."""
    return folder.with_name(f".writing-{folder.name}")


@contextmanager
def _writing(folder: Path) -> Iterator[Path]:
    """Write a folder of images, which is there when it is whole."""
    scratch = _scratch(folder)
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    scratch.mkdir(parents=True)
    try:
        yield scratch
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _record(output: Path, name: str, document: dict[str, Any]) -> None:
    """Note how the images are made, so that a later run cannot mix them with others."""
    path = output / name
    text = json.dumps(document) + "\n"
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            what = "frames of another size" if name == _FRAMES_RECORD else "flow that was made in another way"
            raise InputError(f"{output} has {what} ({name}): give another folder or remove this one")
        return
    with files.replacing(path) as (target,):
        target.write_text(text, encoding="utf-8")


def extract(name: str, source: Path, folder: Path, resize: Resize, limits: Limits) -> Finding:
    """Extract one video.

    Args:
        name: What to call it.
        source: The file.
        folder: For its frames; where it is there, it is whole and left as it is.
        resize: What is done to frames.
        limits: What the video needs.

    Raises:
        OSError: A frame cannot be written.
    """
    if (folder / images.NAME.format(1)).is_file():
        return preparation.of_length(name, sum(1 for _ in folder.glob("img_*.jpg")), limits=limits)
    judged = _judge(name, source, limits)
    if judged.verdict != "ok":
        return judged
    count = 0
    with _writing(folder) as scratch:
        for count, frame in enumerate(video_files.read(source), 1):
            (scratch / images.NAME.format(count)).write_bytes(images.to_jpeg(resize.apply(frame)))
    return preparation.of_length(name, count, limits=limits)


def extract_flow_of(name: str, source: Path, folder: Path, wanted: Flow, resize: Resize, limits: Limits) -> Finding:
    """Extract the flow of one video.

    Args:
        name: What to call it.
        source: The file.
        folder: For its images; where it is there, it is whole and left as it is.
        wanted: What flow.
        resize: What is done to frames.
        limits: What the video needs.

    Returns:
        What became of it, with the number of pairs.

    Raises:
        OSError: An image cannot be written.
    """
    if flow_images.is_flow_folder(folder):
        return preparation.of_pairs(name, sum(1 for _ in folder.glob("x_*.jpg")), limits=limits)
    judged = _judge(name, source, limits)
    if judged.verdict != "ok":
        return judged
    speed = sampling.speed(video_files.frame_rate(source), counted_at=wanted.frames_per_second)
    counted = sampling.frames_at_rate(judged.num_frames, speed=speed)
    found = preparation.of_pairs(name, len(counted) - 1, limits=limits)
    if found.verdict != "ok" or not found.num_frames:
        return dataclasses.replace(found, verdict="short", reason=found.reason or "1 frame has no flow")
    try:
        with _writing(folder) as scratch:
            frames = map(resize.apply, _chosen(video_files.read(source), counted))
            _write_flow(scratch, frames, wanted)
    except InputError as error:  # frames of several sizes, or too small ones
        return Finding(name=name, verdict="broken", reason=str(error))
    return found


def _judge(name: str, source: Path, limits: Limits) -> Finding:
    return dataclasses.replace(preparation.judge(source.name, source.parent, "video", limits), name=name)


def _chosen(frames: Iterable[Frame], counted: Indices) -> Iterator[Frame]:
    """The frames of some numbers, which ascend and may be equal."""
    left = iter(counted.tolist())
    wanted = next(left, None)
    for number, frame in enumerate(frames):
        while wanted == number:
            yield frame
            wanted = next(left, None)


def _write_flow(folder: Path, frames: Iterable[Frame], wanted: Flow) -> None:
    def kept() -> Iterator[Frame]:
        for number, frame in enumerate(frames, 1):
            if wanted.with_rgb:
                (folder / images.NAME.format(number)).write_bytes(images.to_jpeg(frame))
            yield frame

    for number, found in enumerate(flow.between(kept(), method=wanted.method), 1):
        x, y = flow_images.encode(found)
        (folder / flow_images.image_name("x", number)).write_bytes(x)
        (folder / flow_images.image_name("y", number)).write_bytes(y)
