"""How probable classes are in the course of a video: the figures, and a strip chart of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import files
from i3d_deploy.annotate import percent
from i3d_deploy.benchmark import drawing, wording
from i3d_deploy.evidence import Evidence
from i3d_deploy.predictions import Explanation, average_views

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CLASSES = 6
"""Rows of a chart, beside that of the class which is explained."""

_WIDTH = 7.2
_LEFT, _TOP, _RIGHT = 0.8, 0.36, 0.2
_ROW = 0.66
_CURVE = (0.4, 0.96)
"""Where in a row its curve is; the name is above."""

_CAPTIONS = {
    "clip": "A line is what one clip says, over the frames that it spans; the area is the mean of these clips.",
    "step": "A line is what a part of the clip says, over its frames; the area is the mean of these parts.",
}


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Probabilities of all classes in the course of a video.

    Attributes:
        of: What a span is: a "clip" of several, or of the only one a "step" of the head's window in time.
        start_frames: (S,) first frame of each span.
        end_frames: (S,) the one after its last frame.
        probabilities: (S, K), averaged over the crops as the card says.
    """

    of: Literal["clip", "step"]
    start_frames: NDArray[np.int64]
    end_frames: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    def means(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The mean of all spans at each moment.

        Returns:
            (E + 1,) frames at which a span begins or ends, and (E, K) probabilities between them; NaN where there is no
            span.
        """
        edges = np.unique([self.start_frames, self.end_frames])
        is_in = (self.start_frames <= edges[:-1, None]) & (self.end_frames >= edges[1:, None])  # E S
        with np.errstate(invalid="ignore"):
            means = is_in @ self.probabilities.astype(np.float64) / is_in.sum(axis=1, keepdims=True)
        return edges, means


def of(explanation: Explanation) -> Timeline:
    """Probabilities in the course of a video: of each clip or, where there is one clip only, of its steps."""
    evidence = explanation.evidence
    clips, clip_len = evidence.indices.shape
    if clips > 1:
        by_crop = evidence.logits.reshape(len(evidence.boxes), clips, -1)
        spans = [(int(frames.min()), int(frames.max()) + 1) for frames in evidence.indices]
    else:
        by_crop = evidence.head.step_logits(evidence.class_maps)
        spans = _steps(evidence, clip_len)
    starts, ends = np.array(spans).T
    rows = [average_views(by_crop[:, span], over=explanation.averaging) for span in range(by_crop.shape[1])]
    return Timeline(
        of="clip" if clips > 1 else "step",
        start_frames=starts,
        end_frames=ends,
        probabilities=np.stack(rows),
    )


def _steps(evidence: Evidence, clip_len: int) -> list[tuple[int, int]]:
    """The frames from which to which the steps of the only clip go: each position of the maps stands for as many.

    A step reaches to the first frame of the next position, but where the clip begins the video anew.
    """
    positions, step_frames = evidence.class_maps.shape[2], evidence.head.step_frames()
    edges = np.arange(positions + 1) * clip_len / positions
    firsts, lasts = np.floor(edges[:-1]).astype(int), np.ceil(edges[1:]).astype(int)
    spans = []
    for step in range(positions - step_frames + 1):
        frames = evidence.indices[0, firsts[step] : lasts[step + step_frames - 1]]
        following = [int(evidence.indices[0, first]) for first in firsts[step + step_frames :][:1]]
        spans.append((int(frames.min()), max([int(frames.max()) + 1, *following])))
    return spans


def write(path: Path, explanation: Explanation, *, title: str, count: int = 5) -> None:
    """Draw the most probable classes, and the one that is explained, in the course of a video.

    Args:
        path: A ``.png`` file, replaced as a whole.
        explanation: What to draw.
        title: Name of the video.
        count: Classes, at most :data:`MAX_CLASSES`.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OSError: The file cannot be written.
    """
    prediction, timeline = explanation.prediction, of(explanation)
    top = prediction.top_indices(min(count, MAX_CLASSES))
    classes = [explanation.index, *(index for index in top if index != explanation.index)]
    height = _TOP + len(classes) * _ROW + drawing.SCALE + 2 * drawing.LINE

    def paint(figure: Figure) -> None:
        drawing.heading(figure, heading(explanation, title=title))
        axes = _axes(figure, explanation, rows=len(classes))
        scale = _scale(timeline.probabilities[:, classes])
        _label_scale(axes, scale, rows=len(classes))
        for row, index in enumerate(classes):
            is_explained = index == explanation.index
            right = percent(prediction.probabilities[index])
            name = prediction.labels[index]
            drawing.row_text(axes, row + 0.22, f"{name}, drawn on the frames" if is_explained else name, right)
            color = drawing.PALETTE[0] if is_explained else drawing.MUTED
            _draw(axes, timeline, index, row=row, scale=scale, color=color, rate=_rate(explanation))
        caption = f"{_CAPTIONS[timeline.of]}\nGaps were not seen. At the right: all that was seen."
        figure.text(_LEFT / _WIDTH, 0.06 / height, caption, fontsize=drawing.SMALL, color=drawing.MUTED, va="bottom")

    with files.replacing(path) as (target,):
        drawing.png(target, paint, width=_WIDTH, height=height)


def heading(explanation: Explanation, *, title: str) -> str:
    """The most probable class and, where it is another, the one that is explained.

    Args:
        explanation: What is drawn.
        title: Name of the video; shortened.
    """
    best = explanation.prediction.top_indices(1)[0]
    if explanation.index == best:
        return wording.short(f"{wording.short(title, 40)}: {_named(explanation, best)}", 80)
    names = f"{_named(explanation, best)}; drawn: {_named(explanation, explanation.index)}"
    return wording.short(f"{wording.short(title, 24)}: {names}", 80)


def _named(explanation: Explanation, index: int) -> str:
    prediction = explanation.prediction
    return f"{prediction.labels[index]}, {percent(prediction.probabilities[index])}"


def _rate(explanation: Explanation) -> float:
    """Frames in a unit of the scale."""
    return explanation.evidence.frames_per_second or 1.0


def _axes(figure: Figure, explanation: Explanation, *, rows: int) -> Axes:
    axes = drawing.place(figure, left=_LEFT, top=_TOP, width=_WIDTH - _LEFT - _RIGHT, height=rows * _ROW)
    axes.set_ylim(rows, 0)
    axes.set_xlim(0, explanation.evidence.num_frames / _rate(explanation))
    axes.spines["left"].set_visible(False)
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    is_timed = explanation.evidence.frames_per_second is not None
    axes.set_xlabel("time (s)" if is_timed else "time (frames)")
    axes.set_ylabel("probability", labelpad=2)
    return axes


def _scale(probabilities: NDArray[np.float32]) -> float:
    """The least round number that no probability exceeds."""
    highest = float(probabilities.max())
    power = 10.0 ** np.floor(np.log10(highest))
    return float(next(step * power for step in (1, 2, 5, 10) if step * power >= highest * (1 - 1e-6)))


def _label_scale(axes: Axes, scale: float, *, rows: int) -> None:
    top, bottom = _CURVE
    places = [row + place for row in range(rows) for place in (bottom, top)]
    axes.set_yticks(places, labels=["0", f"{100 * scale:g} %"] * rows)
    for row in range(rows):
        axes.axhline(row + top, color=drawing.GRID, linewidth=0.7, zorder=0.5)
        axes.axhline(row + bottom, color=drawing.MUTED, linewidth=0.8, zorder=2)


def _draw(axes: Axes, timeline: Timeline, index: int, *, row: int, scale: float, color: str, rate: float) -> None:
    top, bottom = _CURVE

    def height(probabilities: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(row + bottom - (bottom - top) * probabilities / scale, np.float64)

    edges, means = timeline.means()
    area = height(means[:, index])
    axes.stairs(area, edges / rate, baseline=row + bottom, fill=True, color=color, alpha=0.35, linewidth=0)
    levels = height(timeline.probabilities[:, index])
    starts, ends = timeline.start_frames / rate, timeline.end_frames / rate
    axes.hlines(levels, starts, ends, color=color, linewidth=1.2)
