"""What is evaluated on a labelled list, and what came of it: the zoo's result files and metrics.

Source: mmaction2 0.24.1 tools/test.py and ``BaseRecognizer.average_clip``.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import __version__, artifact, files, flow, metrics
from i3d_deploy.card import Averaging
from i3d_deploy.errors import InputError, MissingExtraError, VideoError
from i3d_deploy.journal import Entry
from i3d_deploy.lists import Annotation
from i3d_deploy.predictions import average_views
from i3d_deploy.prepared_flow import Prepared
from i3d_deploy.preprocessing import Pixels, Sampling, Spatial
from i3d_deploy.training.recipe import Recipe, Split

AverageClips = Literal["prob", "score", "none"]
"""The zoo's words: the mean of the views' probabilities, the mean of their logits, or a row for each view."""

RESULT_SUFFIXES = (".json", ".pkl")

_OF_THE_ZOO: dict[Averaging, AverageClips] = {"probabilities": "prob", "logits": "score"}
OF_THE_CARD: dict[AverageClips, Averaging] = {"prob": "probabilities", "score": "logits"}
"""What a card calls the zoo's words."""

_OF_THE_VIDEOS = {"kind", "with_offset", "multi_class", "image_name", "flow_method"}
"""What else of a recipe's data decides about the videos."""

_MAX_NAMED_VIDEOS = 10


def average(logits: NDArray[np.float32], *, over: AverageClips) -> NDArray[np.float32]:
    """Turn the logits of a video's views into its rows of the result.

    Args:
        logits: (V, K) float32.
        over: "prob": mean of the softmax of each view. "score": mean of the logits, without a softmax. "none": the
            logits themselves.

    Returns:
        (1, K) float32, or (V, K) for "none".
    """
    if over == "none":
        return logits
    if over == "score":
        return np.asarray(logits.mean(axis=0, dtype=np.float64, keepdims=True), np.float32)
    return average_views(logits, over="probabilities")[None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is evaluated and how, apart from the network.

    Attributes:
        annotations: The videos.
        labels: K class names.
        sampling: Which frames of a video.
        spatial: Which pixels.
        pixels: Their scaling.
        averaging: What becomes of its views.
        listed: The list that the videos are from.
        source: What else decides about the videos, as JSON.
        prepared: The flow images of the list; None where it is not said whether there are any.
    """

    annotations: tuple[Annotation, ...] = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)
    sampling: Sampling
    spatial: Spatial
    pixels: Pixels
    averaging: AverageClips
    listed: Path
    source: dict[str, Any]
    prepared: Prepared | None = None

    @classmethod
    def of(cls, recipe: Recipe, *, split: Split = "test", averaging: AverageClips | None = None) -> Plan:
        """What a recipe's test does.

        Args:
            recipe: The recipe.
            split: Which of its lists; the views are those of ``recipe.test`` for any.
            averaging: Another averaging than the recipe's.

        Raises:
            InputError: The list or the labels cannot be read, or do not fit the recipe's number of classes; or its flow
                was made in another way than the recipe says.
        """
        data = recipe.data
        annotations = data.read(split, num_classes=recipe.network.num_classes)
        return cls(
            annotations=annotations,
            labels=recipe.card().labels,
            sampling=recipe.test.sampling,
            spatial=recipe.test.spatial,
            pixels=recipe.pixels,
            averaging=averaging or _OF_THE_ZOO[recipe.test.averaging],
            listed=data.list_path(split),
            source={
                "root": str(data.root(split)),
                **data.model_dump(mode="json", include=_OF_THE_VIDEOS),
            },
            prepared=recipe.prepared_flow(annotations),
        )

    @property
    def view_shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of one view; of whole videos, T is that of one of the usual length."""
        return (self.sampling.clip_len, self.spatial.crop_size, self.spatial.crop_size, len(self.pixels.mean))

    @property
    def num_views(self) -> int:
        """Views per video."""
        return self.sampling.num_clips * self.spatial.num_crops

    def pipeline(self) -> dict[str, Any]:
        """What is done to a video, as JSON."""
        return {part: getattr(self, part).model_dump(mode="json") for part in ("sampling", "spatial", "pixels")}

    def identity(self, path: Path) -> dict[str, Any]:
        """Everything that the result depends on, for a file with a network: equal ones give equal results."""
        is_of_flow = self.source.get("flow_method") is not None or path.suffix.lower() == ".json"
        return {
            **({"flow": self._flow_by()} if is_of_flow else {}),
            "artifact": {name: files.sha256(file) for name, file in artifact.parts(path)},
            "list": files.sha256(self.listed),
            "videos": self.source,
            "pipeline": self.pipeline(),
            "averaging": self.averaging,
            "i3d-deploy": __version__,
        }

    def _flow_by(self) -> dict[str, Any]:
        """Who computed the flow images of the list, and who computes flow here: not all methods may be installed."""
        prepared = self.prepared
        images = () if prepared is None else {record.implementation for record in prepared.records.values()}
        here: dict[str, str | None] = {}
        if prepared is None or not prepared.is_all_read:
            for method in flow.METHODS:
                try:
                    here[method] = flow.implementation(method)
                except MissingExtraError:
                    here[method] = None
        return {"images": sorted(images), "computed": here}

    def check(self, names: Sequence[str], *, confusion: bool = False) -> None:
        """Whether what is wanted of the result can be had, before hours are spent on it.

        Args:
            names: Metrics.
            confusion: Whether a confusion matrix is wanted.

        Raises:
            InputError: Views are not averaged, a video has several labels, or as :func:`i3d_deploy.metrics.check`.
        """
        labels = [annotation.labels for annotation in self.annotations]
        metrics.check(names, labels)
        if self.averaging == "none" and (names or confusion):
            raise InputError(
                "metrics and confusion matrices need one row per video, and average_clips none leaves one for each of "
                f"{self.num_views} views: take prob or score"
            )
        if confusion and max(map(len, labels)) > 1:
            raise InputError(f"a confusion matrix needs one label per video, and some of {self.listed} have several")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a network says about all videos of a list.

    Attributes:
        plan: What was evaluated.
        entries: One per video, in the list's order.
    """

    plan: Plan
    entries: tuple[Entry, ...] = field(repr=False)

    @property
    def readable(self) -> tuple[Entry, ...]:
        """The videos that could be read."""
        return tuple(entry for entry in self.entries if entry.rows is not None)

    @property
    def broken(self) -> tuple[Entry, ...]:
        """Those that could not."""
        return tuple(entry for entry in self.entries if entry.rows is None)

    def require_all(self, *, kept_in: Path) -> None:
        """Refuse a result with gaps.

        Raises:
            VideoError: Videos could not be read; the message names them.
        """
        if not self.broken:
            return
        names = [self.plan.annotations[entry.index].name for entry in self.broken]
        shown = ", ".join(names[:_MAX_NAMED_VIDEOS])
        if len(names) > _MAX_NAMED_VIDEOS:
            shown += f" and {len(names) - _MAX_NAMED_VIDEOS} more"
        raise VideoError(
            f"{len(names)} of {len(self.entries)} videos cannot be read, so there is no result: {shown}; mend them and "
            f"run this again, which goes on from {kept_in}, or give --skip-broken"
        )

    def metrics(self, names: Sequence[str]) -> dict[str, float]:
        """Metrics over the videos that could be read, as :func:`i3d_deploy.metrics.evaluate`.

        Raises:
            InputError: No video could be read, or as there, or the views are not averaged.
        """
        self.plan.check(names)
        readable = self.readable
        if not readable:
            raise InputError("no video could be read, so there are no metrics")
        rows = [entry.rows[0] for entry in readable if entry.rows is not None]
        labels = [self.plan.annotations[entry.index].labels for entry in readable]
        return metrics.evaluate(np.stack(rows), labels, names)

    def predictions(self) -> tuple[list[int], list[int]]:
        """The predicted and the true classes of the videos that could be read.

        Raises:
            InputError: Views are not averaged, or a video has several labels.
        """
        self.plan.check([], confusion=True)
        pairs = [
            (int(entry.rows[0].argmax()), self.plan.annotations[entry.index].labels[0])
            for entry in self.readable
            if entry.rows is not None
        ]
        return [predicted for predicted, _ in pairs], [true for _, true in pairs]

    def write(self, path: Path) -> None:
        """Write the result as the zoo does, and beside it a ``.jsonl`` with one object per video.

        The result is a list of rows in the list's order, without names: one row of K scores per video, or one per view
        where these are not averaged. Rows of videos that could not be read are zeros.

        Args:
            path: ``.json``: rows as lists of doubles that are the float32 numbers. ``.pkl``: float32 arrays.

        Raises:
            InputError: Another suffix.
        """
        check_out(path)
        with files.replacing(path.with_suffix(".jsonl"), path) as (described, scores):
            with described.open("w", encoding="utf-8") as stream:
                stream.writelines(
                    json.dumps(self._describe(entry), ensure_ascii=False) + "\n" for entry in self.entries
                )
            if path.suffix.lower() == ".pkl":
                scores.write_bytes(pickle.dumps(list(self._rows())))
                return
            with scores.open("w", encoding="utf-8") as stream:
                _write_rows(stream, self._rows())

    def _rows(self) -> Iterator[NDArray[np.float32]]:
        count = self.plan.num_views if self.plan.averaging == "none" else 1
        for entry in self.entries:
            yield from np.zeros((count, len(self.plan.labels)), np.float32) if entry.rows is None else entry.rows

    def _describe(self, entry: Entry) -> dict[str, Any]:
        annotation = self.plan.annotations[entry.index]
        document: dict[str, Any] = {"video": annotation.name, "labels": list(annotation.labels)}
        if entry.rows is None:
            return {**document, "error": entry.error}
        if self.plan.averaging == "none":
            return {**document, "views": len(entry.rows), "warnings": list(entry.warnings)}
        index = int(entry.rows[0].argmax())
        value = "probability" if self.plan.averaging == "prob" else "score"
        return {
            **document,
            "label": self.plan.labels[index],
            "index": index,
            value: float(entry.rows[0, index]),
            "views": self.plan.num_views,
            "warnings": list(entry.warnings),
        }


def _write_rows(stream: IO[str], rows: Iterator[NDArray[np.float32]]) -> None:
    """A list of lists, row by row, so that the text of a large result is never whole in memory."""
    stream.write("[")
    for number, row in enumerate(rows):
        stream.write((", " if number else "") + json.dumps(row.tolist()))
    stream.write("]")


def check_out(path: Path) -> None:
    """Whether a result can be written to a path.

    Raises:
        InputError: It is a folder, or has a suffix that is neither ``.json`` nor ``.pkl``.
    """
    if path.suffix.lower() not in RESULT_SUFFIXES:
        raise InputError(f"{path}: results are written as {' or '.join(RESULT_SUFFIXES)}")
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the file to write")
