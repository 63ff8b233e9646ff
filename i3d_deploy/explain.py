"""A copy of a video that shows what speaks for a class: evidence over the frames, with a strip chart beside it.

Note [Colours of evidence]
    Only what speaks for the class is drawn, in the colours of "inferno": they grow brighter evenly, for every kind of
    colour blindness. Stronger evidence hides more of the frame, which has no colours of its own and no bright parts,
    lest they be taken for evidence. One scale holds for the whole video, so that its frames can be compared: the
    brightest is the highest evidence on any frame that a clip takes. What no view saw is hatched.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from i3d_deploy import annotate, timeline, video_files
from i3d_deploy.benchmark import drawing
from i3d_deploy.errors import InputError
from i3d_deploy.frames import Frame
from i3d_deploy.predictions import Explanation

MAX_OPACITY = 0.8
DARKEST, BRIGHTEST = 32, 132
"""Of the frame below the colours."""
HATCH_BRIGHTNESS, HATCH_PIXELS = 0.5, 6
_LEVELS = np.arange(256, dtype=np.uint8)[:, None]
_COLORS = np.asarray(cv2.cvtColor(cv2.applyColorMap(_LEVELS, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB), np.uint8)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def chart_path(output: Path) -> Path:
    """Where the strip chart of a video is written.

    Args:
        output: The explained video.

    Returns:
        A ``.png`` of the same name beside it.
    """
    return output.with_suffix(".png")


def check(source: str | Path, output: Path) -> None:
    """Tell before any work whether a video can be explained.

    Raises:
        InputError: ``output`` is no ``.mp4`` or is the video itself, or the source is no file.
        MissingExtraError: matplotlib is not installed.
    """
    if output.suffix.lower() != ".mp4":
        raise InputError(f"{output}: explained videos are written as .mp4, with a .png beside it")
    annotate.check_source(source, output, done="explained")
    drawing.require()


def write(source: Path, explanation: Explanation, output: Path, *, count: int = 5) -> None:
    """Write a video with the evidence on its frames, and a strip chart of the classes beside it.

    Args:
        source: The video file that was explained; it is read once more.
        explanation: What speaks for the class.
        output: An ``.mp4`` file; the chart has its name with ``.png``. Each is replaced as a whole. Frames are resized
            as by :func:`i3d_deploy.annotate.annotate`.
        count: Classes of the chart; three of them are drawn on the frames.

    Raises:
        InputError: As :func:`check`.
        MissingExtraError: As :func:`check`.
        VideoError: The video cannot be read.
        OSError: Not all frames reached the disk.
    """
    check(source, output)
    frames = draw(video_files.read(source), explanation, count=min(count, 3))
    video_files.write(output, frames, frames_per_second=video_files.frame_rate(source))
    timeline.write(chart_path(output), explanation, title=source.name, count=count)


def draw(frames: Iterator[Frame], explanation: Explanation, *, count: int) -> Iterator[Frame]:
    """Draw evidence and labels on frames.

    Args:
        frames: The video from its first frame on, (H, W, 3) uint8 RGB.
        explanation: What to draw.
        count: Labels to draw.

    Yields:
        Frames of the size that :func:`i3d_deploy.annotate.fitted` gives them.
    """
    evidence = explanation.evidence.on_frames(explanation.index)
    highest = evidence.highest()
    probability = annotate.percent(explanation.prediction.probabilities[explanation.index])
    text = f"{'evidence for' if highest > 0 else 'nothing speaks for'} {explanation.label} ({probability})"
    for number, frame in enumerate(frames):
        fitted = annotate.fitted(frame)
        found = evidence.at(number)
        if found is None:
            found = np.full((1, 1), np.nan, np.float32)
        # Of a class that nothing speaks for, nothing is drawn.
        shown = overlay(fitted, found / highest if highest > 0 else np.minimum(found, 0))
        labelled = annotate.draw(shown, explanation.prediction, count=count)
        yield _legend(labelled, text, has_bar=highest > 0, has_unseen=not evidence.sees_everything)


def overlay(frame: Frame, strength: NDArray[np.float32]) -> Frame:
    """Colour a frame: Note [Colours of evidence].

    Args:
        frame: (H, W, 3) uint8 RGB.
        strength: Of any size: up to 1, where colours end; nothing is drawn from 0 down, NaN is hatched.

    Returns:
        A new frame.
    """
    size = frame.shape[1], frame.shape[0]
    is_unseen = np.isnan(strength)
    level = np.clip(np.where(is_unseen, 0, strength), 0, 1).astype(np.float32)
    level = np.asarray(cv2.resize(level, size, interpolation=cv2.INTER_LINEAR))
    gray = DARKEST + cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) * ((BRIGHTEST - DARKEST) / 255)
    if is_unseen.any():
        rows, columns = np.indices(gray.shape)
        is_line = (rows + columns) // HATCH_PIXELS % 2 == 0
        is_hatched = cv2.resize(is_unseen.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        gray = np.where(is_line & is_hatched, gray * HATCH_BRIGHTNESS, gray)
    return _coloured(gray, level)


def _coloured(gray: NDArray[np.floating[Any]], level: NDArray[np.float32]) -> Frame:
    """Lay the colours of levels from 0 to 1 over gray pixels from 0 to 255, both (H, W)."""
    opacity = MAX_OPACITY * level[..., None]
    colors = _COLORS[:, 0][(level * 255).astype(np.uint8)]
    return np.asarray(gray[..., None] * (1 - opacity) + colors * opacity, np.uint8)


def _legend(frame: Frame, text: str, *, has_bar: bool, has_unseen: bool) -> Frame:
    """Write in a band at the bottom what the colours mean, on the frame itself."""
    height, width = frame.shape[:2]
    scale = max(min(height, width) / 512, 0.4)
    line, margin, gap = int(24 * scale), int(10 * scale), int(8 * scale)
    band = 2 * line + gap
    frame[-band:] = (frame[-band:] * 0.35).astype(np.uint8)
    _write(frame, text, left=margin, bottom=height - line - gap, scale=scale)
    left = margin
    if has_bar:
        left = gap + _write(frame, "none", left=left, bottom=height - gap, scale=scale)
        levels = np.tile(np.linspace(0, 1, int(70 * scale), dtype=np.float32), (int(12 * scale), 1))
        rows, columns = levels.shape
        gray = np.full(levels.shape, (DARKEST + BRIGHTEST) / 2)
        frame[height - gap - rows : height - gap, left : left + columns] = _coloured(gray, levels)
        left = _write(frame, "most in this video", left=left + columns + gap, bottom=height - gap, scale=scale)
        left += 2 * gap
    if has_unseen:
        _write(frame, "hatched: not seen", left=left, bottom=height - gap, scale=scale)
    return frame


def _write(frame: Frame, text: str, *, left: int, bottom: int, scale: float) -> int:
    """Write a line, smaller where there is no room; says where it ends."""
    font, thickness = 0.55 * scale, max(1, round(1.2 * scale))
    (needed, _), _ = cv2.getTextSize(text, _FONT, font, thickness)
    room = frame.shape[1] - left - int(10 * scale)
    font *= min(1.0, room / needed)
    cv2.putText(frame, text, (left, bottom), _FONT, font, (230, 230, 230), thickness, cv2.LINE_AA)
    return int(left + min(needed, room))
