"""The annotated copy of a video."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from i3d_deploy import annotate, generated
from i3d_deploy.errors import InputError
from i3d_deploy.predictions import Prediction


@pytest.fixture
def prediction() -> Prediction:
    """Three classes, the second one certain."""
    return Prediction(
        labels=("run", "jump", "wave"),
        logits=np.zeros((1, 3), np.float32),
        probabilities=np.array([0.01, 0.98, 0.01], np.float32),
        frames=40,
    )


def frames_of(path: Path) -> list[np.ndarray]:
    """All frames of a file, by OpenCV alone."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(np.asarray(read[1]))
    capture.release()
    return frames


def test_every_frame_is_kept_and_only_the_band_changes(prediction: Prediction, tmp_path: Path) -> None:
    clip, output = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    generated.write_clip(clip, num_frames=40, height=256, width=340)
    annotate.annotate(clip, prediction, output, count=1)
    before, after = frames_of(clip), frames_of(output)
    assert len(after) == len(before) == 40
    assert after[0].shape == before[0].shape
    below = slice(60, None)
    assert np.abs(after[5][below].astype(int) - before[5][below]).mean() < 8  # encoded once more
    assert after[5][:10].mean() < 0.6 * before[5][:10].mean()


@pytest.mark.parametrize(("height", "width", "shape"), [(48, 64, (256, 340, 3)), (960, 1280, (720, 960, 3))])
def test_frames_are_made_large_enough_to_read_and_no_larger_than_needed(
    prediction: Prediction, tmp_path: Path, height: int, width: int, shape: tuple[int, int, int]
) -> None:
    clip, output = tmp_path / "clip.mp4", tmp_path / "out.mp4"
    generated.write_clip(clip, num_frames=2, height=height, width=width)
    annotate.annotate(clip, prediction, output)
    assert frames_of(output)[0].shape == shape


def test_the_text_is_drawn_on_a_copy(prediction: Prediction) -> None:
    frame = np.full((256, 340, 3), 100, np.uint8)
    drawn = annotate.draw(frame, prediction, count=2)
    assert (frame == 100).all()
    assert drawn.max() > 200
    assert (drawn[100:] == 100).all()


def test_other_endings_are_refused(clip: Path, prediction: Prediction, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"out\.gif: annotated videos are written as \.mp4"):
        annotate.annotate(clip, prediction, tmp_path / "out.gif")


def test_the_video_itself_is_not_overwritten(clip: Path, prediction: Prediction) -> None:
    before = clip.read_bytes()
    with pytest.raises(InputError, match="is the video itself"):
        annotate.annotate(clip, prediction, clip)
    assert clip.read_bytes() == before


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (1.0, "100.0 %"),
        (0.1234, "12.3 %"),
        (0.01, "1.0 %"),
        (0.00996, "1.0 %"),
        (0.00434, "0.43 %"),
        (0.0001, "0.01 %"),
        (1e-9, "< 0.01 %"),
    ],
)
def test_a_small_probability_is_not_drawn_as_none(probability: float, text: str) -> None:
    assert annotate.percent(probability) == text
