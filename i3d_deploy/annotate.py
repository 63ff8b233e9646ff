"""A copy of a video with the prediction drawn on its frames."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from i3d_deploy import files
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.recognizer import Prediction

MAX_SHORT_SIDE = 720
DEFAULT_FRAMES_PER_SECOND = 25.0
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def annotate(video: Path, prediction: Prediction, output: Path, *, count: int = 3) -> None:
    """Write a video with the most probable labels in a band at its top.

    Args:
        video: The video file that was predicted.
        prediction: What was predicted.
        output: An ``.mp4`` file, replaced as a whole; frames larger than 720 rows are made smaller.
        count: Labels to draw.

    Raises:
        InputError: ``output`` is no ``.mp4``, or is the video itself.
        VideoError: The video cannot be read.
    """
    if output.suffix.lower() != ".mp4":
        raise InputError(f"{output}: annotated videos are written as .mp4")
    if output.exists() and output.samefile(video):
        raise InputError(f"{output} is the video itself: give another file")
    capture = cv2.VideoCapture(str(video.absolute()), cv2.CAP_FFMPEG)
    try:
        has_frame, frame = capture.read()
        if not has_frame:
            raise VideoError(f"{video}: no frame could be decoded")
        frames_per_second = capture.get(cv2.CAP_PROP_FPS) or DEFAULT_FRAMES_PER_SECOND
        with files.replacing(output) as (target,):
            height, width = _size(*frame.shape[:2])
            writer = cv2.VideoWriter(str(target), cv2.VideoWriter.fourcc(*"mp4v"), frames_per_second, (width, height))
            if not writer.isOpened():
                raise InputError(f"{output}: OpenCV cannot write a {width}x{height} video")
            while has_frame:
                writer.write(draw(np.asarray(cv2.resize(frame, (width, height)), np.uint8), prediction, count=count))
                has_frame, frame = capture.read()
            writer.release()
    finally:
        capture.release()


def draw(frame: NDArray[np.uint8], prediction: Prediction, *, count: int) -> NDArray[np.uint8]:
    """Draw the labels on a copy of one frame of any channel order.

    Args:
        frame: (H, W, 3) uint8.
        prediction: What to draw.
        count: Labels to draw.
    """
    scale = max(frame.shape[0] / 512, 0.4)
    line_height = int(28 * scale)
    top = prediction.top(count)
    band = line_height * len(top) + int(12 * scale)
    drawn = frame.copy()
    drawn[:band] = (drawn[:band] * 0.35).astype(np.uint8)
    for number, (label, probability) in enumerate(top):
        text = f"{probability:6.1%}  {label}"
        origin = (int(10 * scale), line_height * (number + 1))
        color = (255, 255, 255) if number == 0 else (190, 190, 190)
        cv2.putText(drawn, text, origin, _FONT, 0.7 * scale, color, max(1, round(1.4 * scale)), cv2.LINE_AA)
    return drawn


def _size(height: int, width: int) -> tuple[int, int]:
    """Even sides, as video codecs want them, and not larger than needed."""
    factor = min(1.0, MAX_SHORT_SIDE / min(height, width))
    return int(height * factor) // 2 * 2, int(width * factor) // 2 * 2
