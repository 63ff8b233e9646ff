"""Videos as folders of JPEG frames, and windows of a few long videos to fine-tune on.

A folder of frames is written beside its place and renamed when it is whole, so that a run that was interrupted goes on
with the videos that are missing.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from i3d_deploy import files, geometry, preparation, video
from i3d_deploy.errors import InputError
from i3d_deploy.preparation import Finding, Limits, OnFile, Report
from i3d_deploy.video import Frame

_RECORD = "frames.json"


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
        size = self.size
        if self.short_side is not None:
            size = geometry.short_side_size(*frame.shape[:2], short_side=self.short_side)[::-1]
        if size is None or size == frame.shape[1::-1]:
            return frame
        return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def extract_all(videos: Path, *, output: Path, resize: Resize, limits: Limits, on_file: OnFile | None = None) -> Report:
    """Extract every video of a folder: ``a/b.avi`` becomes ``a/b/img_00001.jpg`` and so on, beside ``report.json``.

    Args:
        videos: Folder that is searched with its subfolders.
        output: Folder for the frames. Videos whose frames are there already are left out.
        resize: What is done to frames.
        limits: What a video needs; too short ones are not extracted.
        on_file: Told the progress.

    Raises:
        InputError: There is no video, two would get the same folder, or ``output`` has frames of another size.
        OSError: A frame cannot be written.
    """
    found = sorted(path for path in videos.rglob("*") if path.suffix.lower() in video.VIDEO_SUFFIXES)
    if not found:
        raise InputError(f"{videos}: no videos: give the folder of the videos")
    names = {str(path.relative_to(videos)): path for path in found}
    folders = {name: output / Path(name).with_suffix("") for name in names}
    judged = _extract(names, folders, output=output, resize=resize, limits=limits, on_file=on_file)
    report = Report(findings=judged)
    preparation.write(report, output=output, texts={})
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
    extracted = _extract(names, folders, output=output, resize=resize, limits=limits, on_file=on_file)
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


def _extract(
    names: dict[str, Path],
    folders: dict[str, Path],
    *,
    output: Path,
    resize: Resize,
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
    _record(output, resize)
    calls = [(name, source, folders[name], resize, limits) for name, source in names.items()]
    found = tuple(preparation.findings(extract, calls, limits=limits, on_file=on_file))
    for finding in found:
        if finding.verdict != "ok":
            shutil.rmtree(_scratch(folders[finding.name]), ignore_errors=True)  # of a process that was killed
    return found


def _scratch(folder: Path) -> Path:
    """Where a folder of frames is written until it is whole."""
    return folder.with_name(f".writing-{folder.name}")


def _record(output: Path, resize: Resize) -> None:
    """Note the size of the frames, so that a later run cannot mix sizes."""
    path = output / _RECORD
    text = json.dumps(asdict(resize)) + "\n"
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            raise InputError(f"{output} has frames of another size ({_RECORD}): give another folder or remove this one")
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
    if (folder / preparation.IMAGE_NAME.format(1)).is_file():
        return preparation.of_length(name, sum(1 for _ in folder.glob("img_*.jpg")), limits=limits)
    judged = preparation.judge(source.name, source.parent, "video", limits)
    if judged.verdict != "ok":
        return Finding(name=name, verdict=judged.verdict, reason=judged.reason, num_frames=judged.num_frames)
    scratch = _scratch(folder)
    shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
    scratch.mkdir(parents=True)
    try:
        count = 0
        for count, frame in enumerate(video.read(source), 1):
            _write_image(scratch / preparation.IMAGE_NAME.format(count), resize.apply(frame))
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return preparation.of_length(name, count, limits=limits)


def _write_image(path: Path, frame: Frame) -> None:
    is_encoded, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    assert is_encoded
    path.write_bytes(data.tobytes())  # unlike cv2.imwrite, says why it fails
