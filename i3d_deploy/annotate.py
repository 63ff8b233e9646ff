"""A copy of a video with the prediction drawn on its frames."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from i3d_deploy import video_files
from i3d_deploy.errors import InputError
from i3d_deploy.frames import Frame
from i3d_deploy.predictions import Prediction

MIN_SHORT_SIDE, MAX_SHORT_SIDE = 256, 720
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def check(source: str | Path, output: Path) -> None:
    """Tell before any work whether a video can be annotated.

    Raises:
        InputError: ``output`` is no ``.mp4`` or is the video itself, or the source is no file.
    """
    if output.suffix.lower() != ".mp4":
        raise InputError(f"{output}: annotated videos are written as .mp4")
    check_source(source, output, done="annotated")


def check_source(source: str | Path, output: Path, *, done: str) -> None:
    """Tell whether a video can be copied, with something drawn on its frames.

    Args:
        source: The video.
        output: The copy.
        done: What is done to the video, for messages.

    Raises:
        InputError: The source is no file, or the copy is the video itself.
    """
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{source}: only a video file can be {done}")
    if output.exists() and output.samefile(path):
        raise InputError(f"{output} is the video itself: give another file")


def annotate(source: Path, prediction: Prediction, output: Path, *, count: int = 3) -> None:
    """Write a video with the most probable labels in a band at its top.

    Args:
        source: The video file that was predicted.
        prediction: What was predicted.
        output: An ``.mp4`` file, replaced as a whole; frames whose shorter side exceeds 720 are made smaller, below
            256 larger, so that the labels can be read.
        count: Labels to draw.

    Raises:
        InputError: As :func:`check`.
        VideoError: The video cannot be read.
        OSError: Not all frames reached the disk.
    """
    check(source, output)
    frames = (draw(fitted(frame), prediction, count=count) for frame in video_files.read(source))
    video_files.write(output, frames, frames_per_second=video_files.frame_rate(source))


def draw(frame: Frame, prediction: Prediction, *, count: int) -> Frame:
    """Draw the labels on a copy of one frame of any channel order.

    Args:
        frame: (H, W, 3) uint8.
        prediction: What to draw.
        count: Labels to draw.
    """
    scale = max(min(frame.shape[:2]) / 512, 0.4)  # labels are long, and portrait frames narrow
    line_height = int(28 * scale)
    top = prediction.top(count)
    band = line_height * len(top) + int(12 * scale)
    drawn = frame.copy()
    drawn[:band] = (drawn[:band] * 0.35).astype(np.uint8)
    font, thickness, left = 0.7 * scale, max(1, round(1.4 * scale)), int(10 * scale)
    widths = [cv2.getTextSize(percent(probability), _FONT, font, thickness)[0][0] for _, probability in top]
    for number, ((label, probability), width) in enumerate(zip(top, widths, strict=True)):
        color = (255, 255, 255) if number == 0 else (190, 190, 190)
        column = left + max(widths)
        for text, place in ((percent(probability), column - width), (label, column + left)):
            origin = (place, line_height * (number + 1))
            cv2.putText(drawn, text, origin, _FONT, font, color, thickness, cv2.LINE_AA)
    return drawn


def fitted(frame: Frame) -> Frame:
    """Resize a frame to even sides, as video codecs want them: large enough for labels and not larger than needed.

    Args:
        frame: (H, W, 3) uint8.
    """
    height, width = frame.shape[:2]
    short_side = min(height, width)
    factor = min(max(short_side, MIN_SHORT_SIDE), MAX_SHORT_SIDE) / short_side
    size = (int(width * factor) // 2 * 2, int(height * factor) // 2 * 2)
    return np.asarray(cv2.resize(frame, size), np.uint8)


def percent(probability: float) -> str:
    """A probability as it is drawn: two digits at least, but for the smallest."""
    if probability < 0.0001:
        return "< 0.01 %"
    return f"{100 * probability:.{1 if probability >= 0.00995 else 2}f} %"
