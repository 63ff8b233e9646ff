"""``motion``: small labelled videos whose classes differ in the direction of time alone, to test training as a whole.

Textured patches move over a textured background, with sensor noise. The eight classes are four pairs; the second class
of a pair is the first one played backwards.

Note [Frames say nothing]
    A network that looks at frames one by one must not tell the classes of a pair apart, or the set would not test
    temporal kernels. So every motion is periodic with a uniformly distributed start: patches that leave the frame come
    in on the other side, turns start at any angle, and a patch that has grown to its largest size starts over at its
    smallest one. Then a frame has the same distribution at every time, in either direction: neither a frame nor its
    place in the file (the first of every twelve is coded apart and sharper) nor a set of frames without order gives the
    direction away.

Training on it must not mirror clips: that exchanges "move left" and "move right".
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from i3d_deploy import files, lists, video_files
from i3d_deploy.errors import InputError
from i3d_deploy.frames import Frame
from i3d_deploy.generated import texture

Split = Literal["train", "val", "test"]
Kind = Literal["horizontal", "vertical", "turn", "zoom"]

LABELS = (
    "move left",
    "move right",
    "move up",
    "move down",
    "rotate clockwise",
    "rotate counterclockwise",
    "grow",
    "shrink",
)
"""The classes; each pair of neighbours is one motion and the same played backwards."""

KINDS: tuple[Kind, ...] = ("horizontal", "vertical", "turn", "zoom")
"""The motion of each pair."""

FRAMES_PER_SECOND = 25.0
VERSION = 1
"""Of the drawing: another number means other pixels."""

_PARAMETERS = "motion.json"
_TEXTURE_SIDE = 32
_NOISE = 6
_VIDEO_NAME = re.compile(r"\d{5}\.mp4")


@dataclass(frozen=True, kw_only=True)
class Size:
    """Extent of the videos.

    Attributes:
        num_frames: T.
        height: Rows.
        width: Columns.
    """

    num_frames: int = 24
    height: int = 64
    width: int = 80

    def __post_init__(self) -> None:
        if self.num_frames < 1 or min(self.height, self.width) < 32:
            raise InputError(
                f"{self.num_frames} frames of {self.width}x{self.height}: give at least one, of at least 32x32"
            )


@dataclass(frozen=True, kw_only=True)
class Patch:
    """How a patch moves through the first class of a pair: one state at each time.

    Attributes:
        pixels: (32, 32, 3) uint8, its texture.
        x: (T,) column of its center; it is the same place every ``width``.
        y: (T,) row of its center; the same place every ``height``.
        degrees: (T,) its angle, clockwise on the screen.
        side: (T,) its side in pixels.
    """

    pixels: Frame
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    degrees: NDArray[np.float64]
    side: NDArray[np.float64]


DEFAULT_SIZE = Size()


def label_of(index: int) -> int:
    """The class of a video: every eight videos hold each class once."""
    return index % len(LABELS)


def frames(index: int, *, split: Split, seed: int = 0, size: Size = DEFAULT_SIZE) -> NDArray[np.uint8]:
    """Draw a video.

    Args:
        index: Its number in its part of the data, from 0.
        split: The part.
        seed: Any integer from 0. The same three give the same frames.
        size: Extent.

    Returns:
        (T, H, W, 3) uint8 RGB.

    Raises:
        InputError: ``index`` or ``seed`` is negative.
    """
    if min(index, seed) < 0:
        raise InputError(f"index and seed ({index}, {seed}) must be >= 0")
    words = np.random.SeedSequence([seed, zlib.crc32(split.encode()), index]).generate_state(4)
    random = np.random.RandomState(words)
    label = label_of(index)
    # Quieter than the patches, so that they stand out.
    background = texture(random, (size.height, size.width), cells=6) // 2 + np.uint8(64)
    patches = draw_patches(random, kind=KINDS[label // 2], size=size)
    noise = random.randint(-_NOISE, _NOISE + 1, (size.num_frames, size.height, size.width, 3), dtype=np.int8)
    drawn = np.stack([_frame(background, patches, time) for time in range(size.num_frames)])
    noisy = np.clip(drawn.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    return noisy if label % 2 == 0 else np.ascontiguousarray(noisy[::-1])


def draw_patches(random: np.random.RandomState, *, kind: Kind, size: Size) -> tuple[Patch, ...]:
    """Choose one or two patches and how they move in the first class of a pair: left, up, clockwise, growing.

    Args:
        random: Where the choices come from.
        kind: What changes with time.
        size: Extent of the video.
    """
    count = random.randint(1, 3)
    return tuple(_patch(random, kind=kind, size=size, place=(number, count)) for number in range(count))


def _patch(random: np.random.RandomState, *, kind: Kind, size: Size, place: tuple[int, int]) -> Patch:
    number, count = place
    times = np.arange(size.num_frames, dtype=np.float64)
    steady = np.zeros(size.num_frames)
    # Side by side, so that one does not hide the other; what moves is then anywhere.
    x = steady + size.width * (number + random.uniform(0.3, 0.7)) / count
    y = steady + size.height * random.uniform(0.3, 0.7)
    degrees = steady + random.uniform(0, 360)
    side = steady + size.height * random.uniform(0.3, 0.5)
    if kind == "horizontal":
        y = steady + size.height * (number + random.uniform(0.3, 0.7)) / count
        x = random.uniform(0, size.width) - random.uniform(1, 3) * times
    elif kind == "vertical":
        y = random.uniform(0, size.height) - random.uniform(1, 3) * times
    elif kind == "turn":
        degrees = degrees + random.uniform(5, 12) * times
    else:
        # Four times as large within 24 to 36 frames, the same share in each.
        phase = (random.uniform(0, 1) + times / random.uniform(24, 36)) % 1
        side = size.height * random.uniform(0.16, 0.2) * 4**phase
    pixels = texture(random, (_TEXTURE_SIDE, _TEXTURE_SIDE), cells=4)
    return Patch(pixels=pixels, x=x, y=y, degrees=degrees, side=side)


def _frame(background: Frame, patches: tuple[Patch, ...], time: int) -> Frame:
    canvas = background.copy()
    height, width = canvas.shape[:2]
    for patch in patches:
        scale = float(patch.side[time]) / _TEXTURE_SIDE
        middle = (_TEXTURE_SIDE - 1) / 2
        # OpenCV counts angles counterclockwise.
        turn = cv2.getRotationMatrix2D((middle, middle), -float(patch.degrees[time]), scale)
        reach = float(patch.side[time]) * np.sqrt(0.5) + 1
        for x in _copies(float(patch.x[time]), width, reach=reach):
            for y in _copies(float(patch.y[time]), height, reach=reach):
                moved = turn + np.array([[0, 0, x - middle], [0, 0, y - middle]])
                cv2.warpAffine(patch.pixels, moved, (width, height), dst=canvas, borderMode=cv2.BORDER_TRANSPARENT)
    return canvas


def _copies(center: float, extent: int, *, reach: float) -> Iterator[float]:
    """Where a patch shows on an axis whose ends are joined."""
    for copy in (center % extent - extent, center % extent, center % extent + extent):
        if -reach < copy < extent - 1 + reach:
            yield copy


def write_dataset(
    folder: Path,
    *,
    train: int = 2400,
    val: int = 400,
    test: int = 400,
    seed: int = 0,
    size: Size = DEFAULT_SIZE,
    on_video: Callable[[int, int], None] | None = None,
) -> int:
    """Write the data set on all CPU cores: ``train/00000.mp4`` ..., ``train.txt``, ``labels.txt`` and so on.

    The lists come last, so that an interrupted run leaves no data set that looks whole; the next run goes on where it
    was. A data set of the same parameters is reused, one of others is replaced.

    Args:
        folder: New, empty, or holding such a data set. Paths in the lists start from it.
        train: Videos to train on.
        val: Videos to validate on.
        test: Videos to test on.
        seed: Any integer from 0.
        size: Extent of the videos.
        on_video: Called with (videos there, videos in all) after each video.

    Returns:
        Videos that were drawn: 0 where all were there.

    Raises:
        InputError: A number is out of range, or the folder holds something else.
        OSError: A file cannot be written.
    """
    counts: dict[Split, int] = {"train": train, "val": val, "test": test}
    if min(counts.values()) < 1 or max(counts.values()) > 100_000 or seed < 0:
        raise InputError(f"train, val and test ({train}, {val}, {test}) must be 1 to 100000, seed ({seed}) at least 0")
    _take_over(folder, _parameters(counts, seed=seed, size=size))
    wanted = [(split, index) for split, count in counts.items() for index in range(count)]
    missing = [(split, index) for split, index in wanted if not (folder / _name(split, index)).is_file()]
    if missing:
        _remove_lists(folder)
        done = len(wanted) - len(missing)
        for _ in _drawn(folder, missing, seed=seed, size=size):
            done += 1
            if on_video is not None:
                on_video(done, len(wanted))
    _write_lists(folder, counts)
    return len(missing)


def _name(split: Split, index: int) -> str:
    return f"{split}/{index:05}.mp4"


def _parameters(counts: Mapping[Split, int], *, seed: int, size: Size) -> str:
    document = {"version": VERSION, "seed": seed, "videos": dict(counts), "size": asdict(size)}
    return json.dumps(document, indent=2) + "\n"


def _take_over(folder: Path, parameters: str) -> None:
    """Make the folder one of these parameters, without the videos of others."""
    record = folder / _PARAMETERS
    if record.is_file():
        if record.read_text(encoding="utf-8") == parameters:
            return
        _remove_lists(folder)
        for path in (path for split in ("train", "val", "test") for path in (folder / split).glob("*.mp4")):
            if _VIDEO_NAME.fullmatch(path.name):
                path.unlink()
    elif folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InputError(f"{folder} holds something else than a motion data set: give a new or empty folder")
    with files.replacing(record) as (target,):
        target.write_text(parameters, encoding="utf-8")


def _remove_lists(folder: Path) -> None:
    for name in ("train", "val", "test", "labels"):
        (folder / f"{name}.txt").unlink(missing_ok=True)


def _write_lists(folder: Path, counts: Mapping[Split, int]) -> None:
    texts = {
        f"{split}.txt": lists.to_text((_name(split, index), label_of(index)) for index in range(count))
        for split, count in counts.items()
    }
    texts["labels.txt"] = "".join(f"{label}\n" for label in LABELS)
    with files.replacing(*(folder / name for name in texts)) as targets:
        for target in targets:
            target.write_text(texts[target.name], encoding="utf-8")


def _drawn(folder: Path, missing: list[tuple[Split, int]], *, seed: int, size: Size) -> Iterator[None]:
    workers = min(len(os.sched_getaffinity(0)), len(missing))
    # Fork would copy the locks of the caller's threads in whatever state they are.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,))
    try:
        jobs = [pool.submit(_write_video, folder, split, index, seed, size) for split, index in missing]
        for job in as_completed(jobs):
            yield job.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _write_video(folder: Path, split: Split, index: int, seed: int, size: Size) -> None:
    drawn = frames(index, split=split, seed=seed, size=size)
    video_files.write(folder / _name(split, index), iter(drawn), frames_per_second=FRAMES_PER_SECOND)
