"""The gate on accuracy."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from i3d_deploy import accuracy, artifact, builders, calibration, export, generated, proof, video
from i3d_deploy.accuracy import Wanted
from i3d_deploy.card import Accuracy, Engine, normalize
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.recognizer import Recognizer, load
from i3d_deploy.runners.torch_runner import TorchRunner


@pytest.fixture(scope="module")
def sure_checkpoint(tiny_checkpoint: Checkpoint) -> Checkpoint:
    """A network that tells bright videos (class 0) from dark ones (class 1) by far."""
    model = copy.deepcopy(tiny_checkpoint.model)
    frames = np.stack([np.full((1, *tiny_checkpoint.card.view_shape), value, np.uint8) for value in (230, 25)])
    with torch.inference_mode():
        bright, dark = (
            model.pool(model.features(torch.from_numpy(normalize(view, tiny_checkpoint.card.pixels))))[0]
            for view in frames
        )
        direction, middle = (bright - dark) / (bright - dark).norm() ** 2, (bright + dark) / 2
        model.fc.weight.zero_()
        model.fc.bias.fill_(-100)
        for label, sign in ((0, 1), (1, -1)):
            model.fc.weight[label] = sign * 10 * direction
            model.fc.bias[label] = -sign * 10 * direction @ middle
    return dataclasses.replace(tiny_checkpoint, model=model)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four bright and dark videos, and a list that is wrong about one."""
    folder = tmp_path_factory.mktemp("videos")
    rows = []
    for number, value in enumerate((230, 25, 230, 25)):
        frame = np.full((32, 48, 3), value, np.uint8)
        video.write(folder / f"{number}.mp4", iter([frame] * 20), frames_per_second=25.0)
        rows.append(f"{number}.mp4 {number % 2}")
    (folder / "right.txt").write_text("\n".join(rows))
    (folder / "list.txt").write_text("\n".join([*rows[:3], "3.mp4 0"]))
    return folder


def test_the_source_is_evaluated_as_the_card_says(sure_checkpoint: Checkpoint, videos: Path) -> None:
    planned = accuracy.plan(sure_checkpoint.card, videos / "list.txt")
    lines: list[str] = []
    with Recognizer(TorchRunner(sure_checkpoint, device="cpu")) as recognizer:
        found = accuracy.evaluate(recognizer, planned, on_step=lines.append)
    assert (found.data, found.num_videos, found.views_per_video) == ("list", 4, 6)
    assert found.top1 == pytest.approx(75)
    assert found.runner.startswith("torch ")
    assert len(lines) == 4


def entry(top1: float) -> Accuracy:
    return Accuracy(data="test", runner="r", num_videos=400, views_per_video=1, top1=top1)


@pytest.mark.parametrize(
    ("source", "engine", "status"),
    [(90.0, 89.5, "passed"), (90.0, 89.25, "failed"), (90.0, 95.0, "passed"), (70.3, 69.8, "passed")],
)
def test_a_drop_beyond_the_allowance_fails(source: float, engine: float, status: str) -> None:
    found = accuracy.judge(entry(source), entry(engine), max_drop=0.5)
    assert (found.status, found.source_top1, found.top1) == (status, source, engine)
    if status == "failed":
        assert found.reason == "top-1 on test drops by 0.75 points from 90.00 % to 89.25 %, allowed 0.5"


def test_both_accuracies_are_on_the_card(sure_checkpoint: Checkpoint, videos: Path, tmp_path: Path) -> None:
    exported = export.export(
        sure_checkpoint,
        targets=["onnx", "openvino"],
        output=tmp_path,
        name="tiny",
        engine=Engine(precision="int8"),
        calibrate=calibration.choose(videos / "right.txt", num_views=4, views_per_video=6),
        gate=Wanted(listed=videos / "right.txt", max_drop=100),
    )
    planned = accuracy.plan(sure_checkpoint.card, videos / "right.txt")
    assert [entry.path.name for entry in exported] == ["tiny.onnx", "tiny.xml"]
    for made in exported:
        card = artifact.read_card(made.path)
        assert not made.has_failed
        assert card.engine is not None and card.engine.calibration is not None and card.gate is not None
        assert (card.engine.calibration.num_videos, card.engine.calibration.num_views) == (4, 4)
        source, ours = card.accuracy
        with load(made.path) as recognizer:
            assert ours == accuracy.evaluate(recognizer, planned)
        assert source.top1 == 100
        assert source.runner.startswith("torch ")
        assert "int8" in ours.runner
        assert (card.gate.status, card.gate.max_drop, card.gate.data) == ("passed", 100, "right")
        assert (card.gate.source_top1, card.gate.top1) == (100, ours.top1)
        # The views of a video of one colour are all the same, so views agree where videos are right.
        (agreed,) = card.agreement
        assert (agreed.num_views, agreed.top1) == (4, ours.top1)


def test_an_export_that_loses_accuracy_is_kept_aside(
    sure_checkpoint: Checkpoint, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A network that takes bright for dark is proven equal to itself and held against the accuracy of the right one.
    good = export.export(sure_checkpoint, targets=["onnx"], output=tmp_path, name="tiny")[0]
    before = good.path.read_bytes()
    answered = proof.answer(sure_checkpoint, clips=[], num_clips=1, on_step=lambda text: None)
    planned = accuracy.plan(sure_checkpoint.card, videos / "right.txt")
    extended = proof.extend(
        answered, sure_checkpoint, calibrate=None, plan=planned, max_drop=0.5, on_step=lambda text: None
    )
    assert extended.standard is not None and extended.standard.accuracy.top1 == 100
    turned = copy.deepcopy(sure_checkpoint.model)
    with torch.no_grad():
        turned.fc.weight[:2] = turned.fc.weight[:2].flip(0)
        turned.fc.bias[:2] = turned.fc.bias[:2].flip(0)
    monkeypatch.setattr(proof, "extend", lambda given, *_, **__: dataclasses.replace(given, standard=extended.standard))
    (bad,) = export.export(
        dataclasses.replace(sure_checkpoint, model=turned),
        targets=["onnx"],
        output=tmp_path,
        name="tiny",
        gate=Wanted(listed=videos / "right.txt"),
    )
    assert bad.has_failed
    assert bad.path == tmp_path / "tiny.failed.onnx"
    assert bad.card.gate is not None and bad.card.gate.status == "failed"
    assert "drops by 100.00 points from 100.00 % to 0.00 %" in (bad.card.gate.reason or "")
    assert good.path.read_bytes() == before


def test_what_cannot_run_here_is_not_measured(sure_checkpoint: Checkpoint, videos: Path, tmp_path: Path) -> None:
    (made,) = export.export(
        sure_checkpoint,
        targets=["onnx"],
        output=tmp_path,
        name="tiny",
        engine=Engine(precision="bf16"),
        optimization=builders.Optimization(layout="3d"),
        gate=Wanted(listed=videos / "right.txt"),
    )
    assert made.card.gate is not None
    assert (made.card.gate.status, made.card.gate.top1, made.card.gate.source_top1) == ("not measured here", None, 100)
    assert not made.has_failed


def test_videos_that_cannot_be_read_are_named(sure_checkpoint: Checkpoint, videos: Path, tmp_path: Path) -> None:
    generated.write_clip(tmp_path / "good.mp4", num_frames=20, height=32, width=48)
    listed = tmp_path / "list.txt"
    listed.write_text("good.mp4 0\nmissing.mp4 1\n")
    with (
        Recognizer(TorchRunner(sure_checkpoint, device="cpu")) as recognizer,
        pytest.raises(VideoError, match=r"1 of 2 videos of .*list\.txt cannot be read, .*: missing\.mp4; mend them"),
    ):
        accuracy.evaluate(recognizer, accuracy.plan(sure_checkpoint.card, listed))


def test_what_does_not_fit_is_refused_first(sure_checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"max_drop \(-1\) must be 0 to 100 percentage points"):
        Wanted(listed=tmp_path, max_drop=-1)
    (tmp_path / "list.txt").write_text("a.mp4 7\n")
    with pytest.raises(InputError, match=r"label '7': give a number from 0 to 6"):
        accuracy.plan(sure_checkpoint.card, tmp_path / "list.txt")
