"""Validation during training: the network as it stands, over the views of a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from i3d_deploy import metrics
from i3d_deploy.card import Averaging
from i3d_deploy.errors import TrainingError
from i3d_deploy.flow_frames import FlowWanted
from i3d_deploy.lists import Annotation
from i3d_deploy.predictions import average_views
from i3d_deploy.training import dataset
from i3d_deploy.training.clips import ValidationViews
from i3d_deploy.training.dataset import Failure, ValidationDataset
from i3d_deploy.training.distributed import Process


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a list says of a network.

    Attributes:
        percents: Metrics by name, in percent: top1, top5 and mean_class, or mean_average_precision where videos have
            several classes.
        num_videos: Videos that were read.
        views_per_video: Views averaged.
        failures: Videos that could not be read and are left out.
    """

    percents: dict[str, float]
    num_videos: int
    views_per_video: int
    failures: tuple[Failure, ...]

    @property
    def main(self) -> float:
        """The metric that the best checkpoint is chosen by, in percent."""
        return next(iter(self.percents.values()))


def validate(
    network: nn.Module,
    entries: Sequence[Annotation],
    spec: ValidationViews,
    *,
    flow: FlowWanted | None = None,
    averaging: Averaging,
    multi_class: bool,
    max_failed: float,
    batch: int,
    workers: int,
    process: Process,
) -> Validation:
    """Evaluate a network; each process takes a share of the list, and all get the result.

    Args:
        network: From (N, T, H, W, C) uint8 to logits (N, K); put into eval mode.
        entries: The list.
        spec: The views.
        flow: The optical flow that is wanted in place of the frames.
        averaging: What is averaged over the views.
        multi_class: Whether videos have several classes.
        max_failed: Share of the list that may fail to read.
        batch: Views per forward pass.
        workers: Processes that read videos.
        process: This process.

    Raises:
        TrainingError: Too many videos cannot be read.
    """
    network.eval()
    share = range(process.rank, len(entries), process.world_size)
    # Whole videos are as long as they are.
    videos_at_once = 1 if spec.sampling.scheme == "whole" else max(1, batch // spec.num_views)
    groups = dataset.read(
        ValidationDataset(entries, spec, flow=flow),
        batches=[list(share[first : first + videos_at_once]) for first in range(0, len(share), videos_at_once)],
        collate=list,
        name=lambda index: entries[index].name,
        workers=workers,
    )
    rows: dict[int, NDArray[np.float32]] = {}
    failures: list[Failure] = []
    for group in groups:
        failures += [views for _, views in group if isinstance(views, Failure)]
        read = {index: views for index, views in group if not isinstance(views, Failure)}
        if read:
            logits = _logits(network, np.concatenate(list(read.values())), batch=batch, process=process)
            for index, some in zip(read, np.split(logits, len(read)), strict=True):
                rows[index] = average_views(some, over=averaging)
    gathered = process.gather((rows, failures))
    rows = {index: row for some, _ in gathered for index, row in some.items()}
    failures = [failure for _, some in gathered for failure in some]
    if len(failures) > max_failed * len(entries) or not rows:
        raise TrainingError(
            f"{len(failures)} of the {len(entries)} videos to validate on cannot be read, more than data.max_failed "
            f"({max_failed:.0%}), the first one because of {failures[0].reason}: training/prepare.py checks lists"
        )
    return Validation(
        percents=_percents(rows, entries, multi_class=multi_class),
        num_videos=len(rows),
        views_per_video=spec.num_views,
        failures=tuple(failures),
    )


def _logits(network: nn.Module, views: NDArray[np.uint8], *, batch: int, process: Process) -> NDArray[np.float32]:
    cudnn = torch.backends.cudnn
    # TF32 has ten bits of mantissa: not for accuracies that say fp32.
    exact = cudnn.flags(enabled=True, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False)
    with torch.inference_mode(), exact:
        parts = [
            network(torch.from_numpy(views[first : first + batch]).to(process.device)).float().cpu()
            for first in range(0, len(views), batch)
        ]
    return np.asarray(torch.cat(parts).numpy(), np.float32)


def _percents(
    rows: dict[int, NDArray[np.float32]], entries: Sequence[Annotation], *, multi_class: bool
) -> dict[str, float]:
    order = sorted(rows)
    scores = np.stack([rows[index] for index in order])
    labels = [entries[index].labels for index in order]
    if multi_class:
        found = metrics.evaluate(scores, labels, ["mean_average_precision"])
        return {"mean_average_precision": 100 * found["mean_average_precision"]}
    found = metrics.evaluate(scores, labels, ["top_k_accuracy", "mean_class_accuracy"])
    return {
        "top1": 100 * found["top1_acc"],
        "top5": 100 * found["top5_acc"],
        "mean_class": 100 * found["mean_class_accuracy"],
    }
