"""Validation against a plain loop over the same views, and against hits and averages worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from i3d_deploy import lists, model
from i3d_deploy.card import Averaging
from i3d_deploy.lists import Annotation
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.training import clips
from i3d_deploy.training.clips import ValidationViews
from i3d_deploy.training.dataset import Failure
from i3d_deploy.training.distributed import Process
from i3d_deploy.training.learner import ClipsToLogits
from i3d_deploy.training.recipe import Recipe
from i3d_deploy.training.validation import Validation, validate
from tests.raw_avi import write_avi

ALONE = Process(rank=0, world_size=1, device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Many small convolutions: threads wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def views_of(*, clip_len: int, num_clips: int, num_crops: int) -> ValidationViews:
    return ValidationViews(
        sampling=Sampling(clip_len=clip_len, frame_interval=1, num_clips=num_clips),
        spatial=Spatial(short_side=32, crop_size=32, num_crops=num_crops),
    )


ONE_VIEW = views_of(clip_len=8, num_clips=1, num_crops=1)
SIX_VIEWS = views_of(clip_len=4, num_clips=2, num_crops=3)


def run(
    network: nn.Module, entries: Sequence[Annotation], spec: ValidationViews = ONE_VIEW, **options: Any
) -> Validation:
    defaults = {"averaging": "probabilities", "multi_class": False, "max_failed": 1.0, "batch": 4, "workers": 0}
    defaults["process"] = ALONE
    return validate(network, entries, spec, **{**defaults, **options})


@pytest.fixture(scope="module")
def entries(motion_data: Path) -> tuple[Annotation, ...]:
    """Eight videos."""
    return lists.read(motion_data / "val.txt", kind="video", root=motion_data, num_classes=8)


@pytest.fixture
def network(small_recipe: Recipe) -> nn.Module:
    """The small network with weights that tell videos apart; still in the mode of training, as in a run."""
    net = model.build(small_recipe.network)
    model.randomize(net, seed=2)
    return ClipsToLogits(net, small_recipe.pixels, autocast="fp32", channels_last=True).train()


def plain_probabilities(
    network: nn.Module, entries: Sequence[Annotation], spec: ValidationViews, *, averaging: Averaging
) -> Tensor:
    """(N, K) predictions of a loop that takes one view at a time."""
    network.eval()
    rows = []
    for entry in entries:
        views = torch.from_numpy(clips.validation_views(entry.source, spec))
        with torch.no_grad():
            logits = torch.cat([network(view[None]) for view in views])
        rows.append(logits.softmax(1).mean(0) if averaging == "probabilities" else logits.mean(0).softmax(0))
    return torch.stack(rows)


def plain_percents(probabilities: Tensor, entries: Sequence[Annotation]) -> dict[str, float]:
    """The metrics of videos of one class each, in operations of PyTorch."""
    labels = torch.tensor([entry.labels[0] for entry in entries])
    ranked = probabilities.argsort(1, descending=True)
    is_right = (ranked[:, 0] == labels).double()
    # A class that is predicted and is no label counts as 0.
    shares = [is_right[labels == label].mean() for label in set(labels.tolist())]
    num_classes = len({*labels.tolist(), *ranked[:, 0].tolist()})
    return {
        "top1": 100 * float(is_right.mean()),
        "top5": 100 * float((ranked[:, :5] == labels[:, None]).any(1).double().mean()),
        "mean_class": 100 * float(torch.stack(shares).sum()) / num_classes,
    }


def relabelled(entries: Sequence[Annotation], probabilities: Tensor) -> list[Annotation]:
    """The videos with labels that are most probable for the first three, and of falling probability for the others."""
    ranked = probabilities.argsort(1, descending=True).tolist()
    places = (0, 0, 0, 1, 2, 4, 5, 7)
    return [replace(entry, labels=(row[place],)) for entry, row, place in zip(entries, ranked, places, strict=True)]


@pytest.mark.parametrize("averaging", ["probabilities", "logits"])
@pytest.mark.parametrize("spec", [ONE_VIEW, SIX_VIEWS], ids=["one view", "six views"])
def test_validation_equals_a_plain_loop(
    network: nn.Module, entries: tuple[Annotation, ...], spec: ValidationViews, averaging: Averaging
) -> None:
    probabilities = plain_probabilities(network, entries, spec, averaging=averaging)
    labelled = relabelled(entries, probabilities)
    found = run(network.train(), labelled, spec, averaging=averaging)
    assert found.percents == pytest.approx(plain_percents(probabilities, labelled), rel=1e-12)
    assert (found.percents["top1"], found.percents["top5"]) == (37.5, 75.0)
    assert found.main == 37.5
    assert (found.num_videos, found.views_per_video, found.failures) == (8, spec.num_views, ())
    assert not network.training


@pytest.mark.parametrize(("batch", "workers"), [(1, 0), (4, 0), (7, 1), (100, 2)])
def test_neither_batch_size_nor_workers_change_the_result(
    network: nn.Module, entries: tuple[Annotation, ...], batch: int, workers: int
) -> None:
    probabilities = plain_probabilities(network, entries, SIX_VIEWS, averaging="probabilities")
    labelled = relabelled(entries, probabilities)
    sizes: list[int] = []
    network.register_forward_hook(lambda module, arguments, logits: sizes.append(len(logits)))
    found = run(network, labelled, SIX_VIEWS, batch=batch, workers=workers)
    assert found.percents == pytest.approx(plain_percents(probabilities, labelled), rel=1e-12)
    assert sum(sizes) == 8 * 6
    assert max(sizes) <= batch


def test_videos_that_cannot_be_read_are_left_out_and_reported(
    network: nn.Module, entries: tuple[Annotation, ...], tmp_path: Path
) -> None:
    probabilities = plain_probabilities(network, entries, ONE_VIEW, averaging="probabilities")
    labelled = relabelled(entries, probabilities)
    (tmp_path / "text.mp4").write_text("no video")
    lost = [Annotation(name=f"{number}.mp4", source=tmp_path / f"{number}.mp4", labels=(7,)) for number in range(2)]
    text = Annotation(name="text.mp4", source=tmp_path / "text.mp4", labels=(7,))
    # Two make a whole batch of nothing, the third one is among others.
    mixed = [*labelled[:2], *lost, *labelled[2:5], text, *labelled[5:]]
    found = run(network, mixed, batch=2)
    assert found.num_videos == 8
    assert found.percents == run(network, labelled).percents
    assert found.failures[:2] == tuple(
        Failure(name=entry.name, reason=f"{entry.source}: no such file") for entry in lost
    )
    assert [failure.name for failure in found.failures[2:]] == ["text.mp4"]
    assert str(tmp_path / "text.mp4") in found.failures[2].reason


class Palette(nn.Module):
    """Takes the number of a row of logits from the colour of a view, which is ten times the number."""

    def __init__(self, *rows: Sequence[float]) -> None:
        super().__init__()
        self.rows = torch.tensor(rows)

    def forward(self, views: Tensor) -> Tensor:
        """Map (N, T, H, W, 3) uint8 to logits (N, K)."""
        return self.rows[(views.float().mean((1, 2, 3, 4)) / 10).round().long()]


def painted(folder: Path, *numbers: int, name: str, labels: tuple[int, ...]) -> Annotation:
    """A video of one frame in the colour of each number, without loss."""
    frames = np.zeros((len(numbers), 32, 32, 3), np.uint8)
    frames[:] = 10 * np.array(numbers)[:, None, None, None]
    write_avi(folder / name, frames)
    return Annotation(name=name, source=folder / name, labels=labels)


def test_metrics_worked_out_by_hand(tmp_path: Path) -> None:
    rows = [
        [9.0, 1, 2, 3, 4, 5],  # label 0: hit
        [0.0, 9, 2, 3, 4, 5],  # label 0: the last of six; class 1 is taken for it
        [0.0, 9, 2, 3, 4, 5],  # label 1: hit
        [0.0, 9, 8, 3, 4, 5],  # label 2: the second
        [3.0, 4, 5, 2, 9, 0],  # label 3: the fifth; class 4, which is no label, is taken for it
    ]
    entries = [
        painted(tmp_path, *([number] * 4), name=f"{number}.avi", labels=(label,))
        for number, label in enumerate((0, 0, 1, 2, 3))
    ]
    found = run(Palette(*rows), entries, views_of(clip_len=4, num_clips=1, num_crops=1), batch=2)
    # Classes 0 to 4 have shares of 1/2, 1, 0, 0, 0.
    assert found.percents == pytest.approx({"top1": 40, "top5": 80, "mean_class": 30}, rel=1e-12)


@pytest.mark.parametrize(("averaging", "label"), [("logits", 0), ("probabilities", 1)])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_views_are_averaged_after_or_before_softmax(
    tmp_path: Path, averaging: Averaging, label: int, batch: int
) -> None:
    # One view is sure of class 0, two prefer class 1. Logits: (10 + 0 + 0) / 3 = 3.3 against (0 + 3 + 3) / 3 = 2.
    # Probabilities of class 0: 1.00, 0.05 and 0.05, together 1.1 / 3 < 1/2.
    network = Palette([10.0, 0.0], [0.0, 3.0])
    spec = views_of(clip_len=2, num_clips=3, num_crops=1)
    for right in (0, 1):
        entry = painted(tmp_path, 0, 0, 1, 1, 1, 1, name="a.avi", labels=(right,))
        found = run(network, [entry], spec, averaging=averaging, batch=batch)
        assert found.views_per_video == 3
        assert found.percents["top1"] == (100 if right == label else 0)


def test_videos_of_several_classes_have_a_mean_average_precision(tmp_path: Path) -> None:
    # By class 0 the order is 0 1 2 3, by class 1 it is 3 2 1 0, by class 2 video 3 comes first.
    rows = [[3.0, 0, -20], [2.0, 0, -20], [1.0, 0, -20], [0.0, 0, -10]]
    labels = [(0, 1), (1,), (0,), (2,)]
    entries = [
        painted(tmp_path, number, number, name=f"{number}.avi", labels=some) for number, some in enumerate(labels)
    ]
    spec = views_of(clip_len=2, num_clips=1, num_crops=1)
    found = run(Palette(*rows), entries, spec, multi_class=True)
    # Precision where each true video comes: class 0 (1/1 + 2/3) / 2, class 1 (1/3 + 2/4) / 2, class 2 1/1.
    assert found.percents == pytest.approx({"mean_average_precision": 100 * (5 / 6 + 5 / 12 + 1) / 3}, rel=1e-12)
    assert found.main == pytest.approx(75, rel=1e-12)
