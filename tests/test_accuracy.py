"""The gate on accuracy."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from i3d_deploy import (
    accuracy,
    artifact,
    builders,
    calibration,
    checkpoint,
    export,
    generated,
    parity,
    proof,
    video_files,
)
from i3d_deploy.accuracy import Wanted
from i3d_deploy.card import Engine
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import ArtifactError, InputError, VideoError
from i3d_deploy.measurements import Accuracy
from i3d_deploy.preprocessing import normalize
from i3d_deploy.recognizer import Recognizer, load
from i3d_deploy.runners.torch_runner import TorchRunner
from tests import narrowed


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
        video_files.write(folder / f"{number}.mp4", iter([frame] * 20), frames_per_second=25.0)
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
    listed.write_text("good.mp4 0\nvanishing.mp4 1\n")
    shutil.copy(tmp_path / "good.mp4", tmp_path / "vanishing.mp4")
    planned = accuracy.plan(sure_checkpoint.card, listed)
    (tmp_path / "vanishing.mp4").unlink()
    message = r"1 of 2 videos of .*list\.txt cannot be read, .*: vanishing\.mp4; mend them .*vanishing\.mp4: no such"
    with (
        Recognizer(TorchRunner(sure_checkpoint, device="cpu")) as recognizer,
        pytest.raises(VideoError, match=message),
    ):
        accuracy.evaluate(recognizer, planned)
    with pytest.raises(VideoError, match=message):
        accuracy.plan(sure_checkpoint.card, listed)


def test_a_video_that_does_not_open_ends_an_export_before_the_work(
    sure_checkpoint: Checkpoint, videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "list.txt").write_text(f"{videos / '0.mp4'} 0\nbroken.mp4 1\n")
    with pytest.raises(VideoError, match=r"1 of 2 videos of .*list\.txt cannot be read.*: broken\.mp4; mend"):
        export.export(
            sure_checkpoint,
            targets=["onnx"],
            output=tmp_path / "out",
            name="tiny",
            gate=Wanted(listed=tmp_path / "list.txt"),
        )
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def overflowing_checkpoint(sure_checkpoint: Checkpoint) -> Checkpoint:
    """A network with a weight beyond float16's 65504, which the ReLU behind it hides on dark videos."""
    model = copy.deepcopy(narrowed.resnet(sure_checkpoint.model))
    kernel = model.conv1.weight
    with torch.no_grad():
        kernel[0] = 0
        frames, rows, columns = (size // 2 for size in kernel.shape[2:])  # the tap that never lies on the padding
        kernel[0, 0, frames, rows, columns] = 1e6
    return dataclasses.replace(sure_checkpoint, model=model)


PLAIN = builders.Optimization(is_on=False)


def test_an_engine_without_an_answer_on_the_list_is_kept_aside_alone(
    overflowing_checkpoint: Checkpoint, videos: Path, tmp_path: Path
) -> None:
    bad, good = export.export(
        overflowing_checkpoint,
        targets=["onnx", "safetensors"],
        output=tmp_path,
        name="tiny",
        engine=Engine(precision="fp16"),
        optimization=PLAIN,
        videos=[videos / "1.mp4"],
        gate=Wanted(listed=videos / "right.txt", max_drop=100),
    )
    assert (bad.path, bad.has_failed) == (tmp_path / "tiny.failed.onnx", True)
    assert bad.card.parity[0].status == "passed"
    assert bad.card.gate is not None
    assert (bad.card.gate.status, bad.card.gate.top1) == ("failed", None)
    assert (bad.card.gate.reason or "").startswith("0.mp4: 42 logits are not finite")
    assert [entry.runner.partition(" ")[0] for entry in bad.card.accuracy] == ["torch"]
    assert artifact.read_card(bad.path) == bad.card
    assert (good.path, good.has_failed) == (tmp_path / "tiny.safetensors", False)


def test_an_engine_without_an_answer_on_the_calibration_clips_fails(
    overflowing_checkpoint: Checkpoint, videos: Path, tmp_path: Path
) -> None:
    (made,) = export.export(
        overflowing_checkpoint,
        targets=["onnx"],
        output=tmp_path,
        name="tiny",
        engine=Engine(precision="fp16"),
        optimization=PLAIN,
        videos=[videos / "1.mp4"],
    )
    assert not made.has_failed
    answered = proof.extend(
        proof.answer(
            overflowing_checkpoint,
            clips=parity.given_clips([videos / "1.mp4"]),
            num_clips=1,
            on_step=lambda text: None,
        ),
        overflowing_checkpoint,
        calibrate=calibration.choose(videos / "0.mp4", num_views=1, views_per_video=6),
        plan=accuracy.plan(overflowing_checkpoint.card, videos / "right.txt"),
        max_drop=100,
        on_step=lambda text: None,
    )
    card = proof.examine(made.path, made.card, proof=answered, on_step=lambda text: None)
    assert proof.has_failed(card)
    assert card.parity[0].reason == "7 logits on the calibration clips are not finite"
    assert (card.agreement, card.gate) == ((), None)


def test_a_damaged_checkpoint_has_no_answer_to_agree_with(sure_checkpoint: Checkpoint, videos: Path) -> None:
    model = copy.deepcopy(narrowed.resnet(sure_checkpoint.model))
    with torch.no_grad():
        model.fc.bias[0] = float("inf")
    with pytest.raises(ArtifactError, match=r"checkpoint on the calibration clips are not finite"):
        proof.extend(
            proof.Proof(clips=(), references=(), num_clips=1),
            dataclasses.replace(sure_checkpoint, model=model),
            calibrate=calibration.choose(videos / "0.mp4", num_views=1, views_per_video=6),
            plan=None,
            max_drop=0.5,
            on_step=lambda text: None,
        )


def test_what_an_earlier_export_found_does_not_travel(
    sure_checkpoint: Checkpoint, videos: Path, tmp_path: Path
) -> None:
    trained = entry(62.5)
    gated = entry(100).model_copy(update={"data": "right"})
    source = dataclasses.replace(sure_checkpoint, card=sure_checkpoint.card.replaced(accuracy=(trained,)))
    (weights,) = export.export(
        source, targets=["safetensors"], output=tmp_path, name="one", gate=Wanted(listed=videos / "right.txt")
    )
    assert weights.card.gate is not None and weights.card.gate.status == "passed"
    assert [found.data for found in weights.card.accuracy] == ["test", "right", "right"]
    (engine,) = export.export(checkpoint.load(weights.path), targets=["onnx"], output=tmp_path, name="two")
    assert (engine.card.gate, engine.card.accuracy, engine.card.agreement) == (None, (trained,), ())
    # Of a file that had failed, the next export fails only for reasons of its own.
    failed = accuracy.judge(gated, gated.model_copy(update={"top1": 0.0}), max_drop=0.5)
    found = checkpoint.load(weights.path)
    found = dataclasses.replace(found, card=found.card.replaced(gate=failed))
    checkpoint.save(found, tmp_path / "one.failed.safetensors")
    again = checkpoint.load(tmp_path / "one.failed.safetensors")
    (engine,) = export.export(again, targets=["onnx"], output=tmp_path, name="three")
    assert (engine.path, engine.has_failed, engine.card.gate) == (tmp_path / "three.onnx", False, None)


def test_what_does_not_fit_is_refused_first(sure_checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"max_drop \(-1\) must be 0 to 100 percentage points"):
        Wanted(listed=tmp_path, max_drop=-1)
    (tmp_path / "list.txt").write_text("a.mp4 7\n")
    with pytest.raises(InputError, match=r"label '7': give a number from 0 to 6"):
        accuracy.plan(sure_checkpoint.card, tmp_path / "list.txt")
