"""Runs as a whole: killed and resumed, in several processes, with bad videos and bad numbers."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import i3d_deploy as i3d
from i3d_deploy import artifact, checkpoint, extraction, flow, lists, preparation
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import CheckpointError, InputError, TrainingError
from i3d_deploy.training import clips, loop, snapshots
from i3d_deploy.training.learner import Learner
from i3d_deploy.training.progress import read_records
from i3d_deploy.training.recipe import Recipe
from tests import goldens
from tests.training import forked_runs
from tests.training.conftest import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]
NUM_STEPS = 12
LAST = f"checkpoints/step_{NUM_STEPS:08}.pth"
COMMAND = ("--seed", "5", "--deterministic", "--validate")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The order of sums depends on the number of threads; the scripts run on one as well."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def options(work_dir: Path, **changes: Any) -> loop.Options:
    return loop.Options(**{"work_dir": work_dir, "seed": 5, "deterministic": True, "validate": True, **changes})


@pytest.fixture(scope="module")
def finished(small_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finished")
    loop.train(small_recipe, options(folder))
    torch.set_num_threads(threads)
    return folder


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = snapshots.read(path)["state_dict"]
    return state


def assert_bitwise_equal(one: Path, other: Path) -> None:
    ours, theirs = snapshots.read(one), snapshots.read(other)
    for part in ("state_dict", "ema"):
        assert ours[part].keys() == theirs[part].keys()
        for name, tensor in ours[part].items():
            assert torch.equal(tensor, theirs[part][name]), name


def test_a_run_leaves_what_is_needed(finished: Path, small_recipe: Recipe) -> None:
    assert {path.name for path in finished.iterdir()} == {
        "checkpoints",
        "curves.png",
        "metrics.jsonl",
        "model.safetensors",
        "recipe.json",
        "tensorboard",
    }
    # keep_every is 0: the last one and the best.
    names = {path.name for path in (finished / "checkpoints").iterdir()}
    last = Path(LAST).name
    assert names == {last, f"{last}.sha256", "best.pth", "best.pth.sha256"}
    card = artifact.read_card(finished / "model.safetensors")
    assert card.labels == tuple(Path(small_recipe.data.folder, "labels.txt").read_text().splitlines())
    assert (card.sampling, card.spatial) == (small_recipe.test.sampling, small_recipe.test.spatial)
    (accuracy,) = card.accuracy
    validated = [entry for entry in read_records(finished) if entry["kind"] == "val"]
    assert [entry["step"] for entry in validated] == [4, 8, 12]
    assert accuracy.top1 == max(entry["top1"] for entry in validated)
    assert (accuracy.num_videos, accuracy.views_per_video) == (8, 1)
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_published_model_predicts(finished: Path, motion_data: Path) -> None:
    with i3d.load(finished / "model.safetensors", device="cpu") as recognizer:
        prediction = recognizer.predict(motion_data / "test" / "00000.mp4")
    assert prediction.probabilities.shape == (8,)


def test_checkpoints_are_whole_and_hold_no_code(finished: Path) -> None:
    check = ["sha256sum", "--check", "--quiet", f"{Path(LAST).name}.sha256"]
    subprocess.run(check, cwd=finished / "checkpoints", check=True)
    state = torch.load(finished / LAST, weights_only=True)
    assert state["step"] == NUM_STEPS
    assert checkpoint.load(finished / "checkpoints" / "best.pth").card.network.name == "small"


@pytest.mark.parametrize(
    ("place", "count"),
    [
        ("i3d_deploy.training.learner:Learner.step", 1),  # before the first step
        ("i3d_deploy.training.learner:Learner.step", 8),  # within an epoch, with steps since the last checkpoint
        ("i3d_deploy.training.validation:_percents", 2),  # while validating
        ("torch:save", 4),  # before a checkpoint is written
        ("i3d_deploy.files:_flush", 10),  # while it is flushed to the disk
        ("pathlib:Path.replace", 7),  # between the renames
        ("pathlib:Path.replace", 8),
        ("i3d_deploy.checkpoint:save", 1),  # before it is published
    ],
)
def test_a_killed_run_ends_with_bitwise_the_same_weights(
    finished: Path, small_recipe: Recipe, tmp_path: Path, place: str, count: int
) -> None:
    work_dir = tmp_path / "run"
    forked_runs.kill(small_recipe, options(work_dir), place=place, count=count)
    assert not (work_dir / "model.safetensors").exists()
    loop.train(small_recipe, options(work_dir, resume=True))
    assert_bitwise_equal(work_dir / LAST, finished / LAST)
    assert (work_dir / "model.safetensors").read_bytes() == (finished / "model.safetensors").read_bytes()
    steps = [entry["step"] for entry in read_records(work_dir) if entry["kind"] == "train"]
    assert steps == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("settings", [["checkpoint_steps=3"], ["batch.workers=2"]], ids=["mid-epoch", "workers"])
def test_what_is_free_changes_no_weight(
    finished: Path, small_recipe: Recipe, tmp_path: Path, settings: list[str]
) -> None:
    loop.train(small_recipe.overridden(settings), options(tmp_path))
    assert_bitwise_equal(tmp_path / LAST, finished / LAST)


def test_a_run_killed_within_an_epoch_goes_on_there(finished: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    work_dir = tmp_path / "run"
    often = small_recipe.overridden(["checkpoint_steps=3"])
    forked_runs.kill(often, options(work_dir), place="i3d_deploy.training.learner:Learner.step", count=12)
    assert snapshots.Snapshots(work_dir / "checkpoints").steps == [9]
    # How often checkpoints are written may change.
    loop.train(small_recipe, options(work_dir, resume=True))
    assert_bitwise_equal(work_dir / LAST, finished / LAST)


def test_a_run_of_so_many_steps_by_a_table_goes_on_exactly(small_recipe: Recipe, tmp_path: Path) -> None:
    # Seven steps of four to the epoch; it is killed within the second, behind a row of the table.
    table = ["steps=7", "schedule.kind=table", "schedule.table=[[0,1],[3,0.1],[6,0.5]]", "schedule.warmup_epochs=0"]
    spec = small_recipe.overridden([*table, "checkpoint_steps=1", "log_every=1"])
    loop.train(spec, options(tmp_path / "whole"))
    forked_runs.kill(spec, options(tmp_path / "killed"), place="i3d_deploy.training.learner:Learner.step", count=5)
    loop.train(spec, options(tmp_path / "killed", resume=True))
    last = "checkpoints/step_00000007.pth"
    assert_bitwise_equal(tmp_path / "killed" / last, tmp_path / "whole" / last)
    for run in ("whole", "killed"):
        rates = [entry["lr"] for entry in read_records(tmp_path / run) if entry["kind"] == "train"]
        assert rates == pytest.approx([0.05, 0.05, 0.05, 0.005, 0.005, 0.005, 0.025], rel=1e-12)


def test_a_network_of_flow_trains_from_images_as_from_videos(
    small_recipe: Recipe, motion_data: Path, tmp_path: Path
) -> None:
    lists_of_videos = [motion_data / f"{name}.txt" for name in ("train", "val", "test")]
    wanted = extraction.Flow(method="dis")
    resize, limits = extraction.Resize(short_side=36), preparation.Limits(workers=1)
    extraction.extract_flow(lists_of_videos, output=tmp_path / "flow", wanted=wanted, resize=resize, limits=limits)
    of_flow = ["network.in_channels=2", "data.flow_method=dis", "pixels.color=xy", "steps=4"]
    scale = [f"pixels.{name}=[127.5,127.5]" for name in ("mean", "std")]
    spec = small_recipe.overridden([*of_flow, *scale, "validation.spatial.short_side=36", "test.spatial.short_side=36"])
    images = spec.overridden(["data.kind=frames", f"data.folder={tmp_path / 'flow'}"])
    losses = []
    for name, chosen in (("videos", spec), ("images", images)):
        published = loop.train(chosen, options(tmp_path / name, validate=name == "images"))
        card = artifact.read_card(published)
        assert (card.modality, card.flow_method, card.pixels.color, card.view_shape) == (
            "flow",
            "dis",
            "xy",
            (8, 32, 32, 2),
        )
        assert card.flow_implementation == flow.implementation("dis")
        assert all(entry.runner.endswith(f", flow by {flow.implementation('dis')}") for entry in card.accuracy)
        assert len(card.accuracy) == (name == "images")
        losses.append([entry["loss"] for entry in read_records(tmp_path / name) if entry["kind"] == "train"])
    # JPEG changes a flow by 0.05 of the 256 levels on average.
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.01)
    # The card says what the record beside the images says, and a recipe that says otherwise is refused.
    record = tmp_path / "flow" / "flow.json"
    record.write_text(record.read_text().replace("DISOpticalFlow", "AnotherFlow"))
    published = loop.train(images.overridden(["steps=1"]), options(tmp_path / "another", validate=False))
    by = artifact.read_card(published).flow_implementation
    assert by is not None and by == flow.implementation("dis").replace("DISOpticalFlow", "AnotherFlow")
    for setting, message in {
        "data.flow_method=tvl1": "made with method dis, and data.flow_method is tvl1",
        "test.spatial.short_side=40": r"a short side of 36, and test\.spatial\.short_side is 40",
        "test.sampling.frames_per_second=30": r"25 frames a second, and test\.sampling\.frames_per_second is 30",
    }.items():
        with pytest.raises(InputError, match=message):
            loop.train(images.overridden([setting]), options(tmp_path / "refused", validate=False))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_its_step_and_goes_on_there(
    finished: Path, small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    step = Learner.step

    def interrupting(learner: Learner, *arguments: Any, **kwargs: Any) -> Any:
        if kwargs["step"] == 5:
            os.kill(os.getpid(), number)
        return step(learner, *arguments, **kwargs)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", interrupting)
        with pytest.raises(
            TrainingError, match="interrupted after step 6, which is saved: --resume goes on from there"
        ):
            loop.train(small_recipe, options(tmp_path))
    assert signal.getsignal(number) == before
    assert snapshots.Snapshots(tmp_path / "checkpoints").steps == [6]
    loop.train(small_recipe, options(tmp_path, resume=True))
    assert_bitwise_equal(tmp_path / LAST, finished / LAST)


def test_a_run_that_was_refused_leaves_its_work_dir_usable(small_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nope.pth: no such file"):
        loop.train(small_recipe, options(tmp_path / "run", init=tmp_path / "nope.pth"))
    loop.train(small_recipe.overridden(["epochs=1"]), options(tmp_path / "run"))


def test_resuming_nothing_says_so(small_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop.train(small_recipe.overridden(["epochs=1"]), options(tmp_path, resume=True))
    assert "holds no checkpoint to go on from: starting at the beginning" in capsys.readouterr().err


def test_a_run_goes_on_where_its_data_have_moved(finished: Path, small_recipe: Recipe, tmp_path: Path) -> None:
    work_dir = tmp_path / "run"
    forked_runs.kill(small_recipe, options(work_dir), place="i3d_deploy.training.learner:Learner.step", count=6)
    shutil.copytree(small_recipe.data.folder, tmp_path / "moved")
    loop.train(small_recipe.overridden([f"data.folder={tmp_path / 'moved'}"]), options(work_dir, resume=True))
    assert_bitwise_equal(work_dir / LAST, finished / LAST)


def test_resuming_a_finished_run_changes_nothing(finished: Path, small_recipe: Recipe) -> None:
    before = (finished / LAST).read_bytes(), (finished / "model.safetensors").read_bytes()
    loop.train(small_recipe, options(finished, resume=True, seed=None))
    assert ((finished / LAST).read_bytes(), (finished / "model.safetensors").read_bytes()) == before


def test_a_damaged_checkpoint_is_passed_over(
    finished: Path, small_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keeping = small_recipe.overridden(["keep_every=1"])
    loop.train(keeping, options(tmp_path))
    newest = tmp_path / LAST
    newest.write_bytes(newest.read_bytes()[:-1])
    loop.train(keeping, options(tmp_path, resume=True))
    assert "step_00000012.pth is passed over: its SHA-256 is" in capsys.readouterr().err
    assert_bitwise_equal(newest, finished / LAST)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        ([], {"resume": False}, "holds a run: give --resume to go on with it, or another --work-dir"),
        (["optimizer.lr=0.1"], {}, r"of another recipe: optimizer.lr: 0.05 -> 0.1; give the recipe"),
        ([], {"seed": 6}, "has the seed 5, not 6"),
        (["batch.accumulate=2"], {}, "of another recipe: batch.accumulate: 1 -> 2"),
        (["data.train_list=val.txt"], {}, r"val.txt is not the list that the run began with"),
        ([], {"validate": False}, "the run began with --validate: resume it so"),
        ([], {"deterministic": False}, "the run began with --deterministic: resume it so"),
    ],
)
def test_a_work_dir_is_not_mixed_up(
    finished: Path, small_recipe: Recipe, settings: list[str], changes: dict[str, Any], message: str
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.pth")}
    with pytest.raises(TrainingError, match=message):
        loop.train(small_recipe.overridden(settings), options(finished, **{"resume": True, **changes}))
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.pth")} == before


def parameters_close(one: Path, other: Path) -> None:
    """Weights after the same steps in another number of processes: sums in another order, a few steps long."""
    ours, theirs = weights(one), weights(other)
    for name, tensor in ours.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-5)


def test_two_processes_train_as_one_that_accumulates(small_recipe: Recipe, tmp_path: Path, run_script: Run) -> None:
    two = small_recipe.overridden(["batch.videos=2"])
    (tmp_path / "two.json").write_text(two.to_json())
    done = run_script("train.py", tmp_path / "two.json", "--work-dir", tmp_path / "two", *COMMAND, processes=2)
    assert done.returncode == 0, done.stderr
    # Only the first process speaks.
    assert done.stderr.count("16 videos, 4 a step (2 x 1 passes x 2 processes)") == 1
    loop.train(two.overridden(["batch.accumulate=2"]), options(tmp_path / "one"))
    parameters_close(tmp_path / "two" / LAST, tmp_path / "one" / LAST)


def test_two_processes_with_shared_statistics_train_as_one(small_recipe: Recipe, tmp_path: Path) -> None:
    plain = small_recipe.overridden(["dropout=0", "ema=null"])
    two = plain.overridden(["batch.videos=2", "norm.sync=true"])
    forked_runs.train_together(two, options(tmp_path / "two"), processes=2)
    loop.train(plain, options(tmp_path / "one"))
    parameters_close(tmp_path / "two" / LAST, tmp_path / "one" / LAST)
    for name, tensor in weights(tmp_path / "one" / LAST).items():
        if "running" in name:
            torch.testing.assert_close(weights(tmp_path / "two" / LAST)[name], tensor, rtol=1e-3, atol=1e-4)


def test_the_loss_falls(small_recipe: Recipe, tmp_path: Path) -> None:
    longer = small_recipe.overridden(["epochs=12", "dropout=0", "ema=null", "validate_every=12", "checkpoint_every=12"])
    loop.train(longer, options(tmp_path, validate=False))
    losses = [entry["loss"] for entry in read_records(tmp_path) if entry["kind"] == "train"]
    # Chance is log(8) = 2.08.
    assert np.mean(losses[:6]) > 1.9
    assert np.mean(losses[-6:]) < 1.7


@pytest.mark.parametrize(
    "settings",
    [
        ["compute.autocast=bf16"],
        ["compute.channels_last=false"],
        pytest.param(
            ["compute.compile=true"],
            marks=[
                # PyTorch's own compiler still uses its old one.
                pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
                pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"),
            ],
        ),
        ["norm.precise_batches=2"],
        ["label_smoothing=0.1"],
        ["optimizer.kind=adamw", "optimizer.lr=0.001", "optimizer.clip_norm=null"],
        ["batch.accumulate=2", "batch.scale_lr=true"],
    ],
    ids=lambda settings: settings[0],
)
def test_every_way_of_training_ends_with_finite_weights(
    small_recipe: Recipe, tmp_path: Path, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    changed = small_recipe.overridden(["epochs=1", *settings])
    published = loop.train(changed, options(tmp_path))
    state = checkpoint.load(published).model.state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    if changed.batch.scale_lr:
        assert "learning rate 0.1 (scaled to the batch); the recipe's 0.05 is for 4 videos" in capsys.readouterr().err


def test_frozen_statistics_stay(small_recipe: Recipe, tmp_path: Path) -> None:
    published = loop.train(small_recipe.overridden(["epochs=1", "ema=null", "norm.freeze=true"]), options(tmp_path))
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.load(published).model.state_dict().values())
    state = weights(tmp_path / "checkpoints" / "step_00000004.pth")
    assert all(
        torch.equal(tensor, torch.zeros_like(tensor)) for name, tensor in state.items() if "running_mean" in name
    )


def test_a_loss_that_is_no_number_stops_with_its_videos(small_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss of step \d+ is (nan|inf), with the videos train/\d+.mp4, "):
        loop.train(small_recipe.overridden(["optimizer.lr=1e30", "optimizer.clip_norm=null"]), options(tmp_path))
    for path in tmp_path.rglob("step_*.pth"):
        assert all(torch.isfinite(tensor).all() for tensor in weights(path).values())


def with_broken_videos(spec: Recipe, folder: Path, *, count: int) -> Recipe:
    """The recipe on its list with ``count`` unreadable videos in the place of good ones."""
    entries = spec.data.read("train", num_classes=8)
    rows = []
    for number, entry in enumerate(entries):
        assert isinstance(entry.source, Path)
        name = entry.source
        if number < count:
            name = folder / f"broken{number}.mp4"
            name.write_bytes(b"no video")
        rows.append((str(name), entry.labels[0]))
    path = folder / "list.txt"
    path.write_text(lists.to_text(rows))
    return spec.overridden([f"data.train_list={path}", "data.train_root=/", "data.max_failed=0.2"])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_video_that_fails_is_replaced_and_reported(
    small_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    spec = with_broken_videos(small_recipe, tmp_path, count=2).overridden([f"batch.workers={workers}"])
    loop.train(spec, options(tmp_path / "run"))
    said = capsys.readouterr().err
    for number in range(2):
        assert said.count(f"replaced by another video: {tmp_path}/broken{number}.mp4") == 1
    failed = (tmp_path / "run" / "failed_videos.txt").read_text()
    assert [line.partition(": ")[0] for line in sorted(failed.splitlines())] == [
        f"{tmp_path}/broken{number}.mp4" for number in range(2)
    ]


def test_gradients_that_are_no_numbers_stop_before_a_checkpoint_is_written(
    small_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = torch.nn.functional.cross_entropy

    def infinite_slope(logits: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        # The square root is 0 at 0 and its slope infinite: a finite loss with gradients that are not.
        return forward(logits, *arguments, **options) + (logits.sum() * 0).abs().sqrt()

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", infinite_slope)
    with pytest.raises(TrainingError, match=r"the gradients of step 0 have the norm nan, with the videos train/"):
        loop.train(small_recipe.overridden(["checkpoint_steps=1"]), options(tmp_path))
    assert list(tmp_path.rglob("*.pth")) == []


def test_too_many_failing_videos_stop_the_run(small_recipe: Recipe, tmp_path: Path) -> None:
    spec = with_broken_videos(small_recipe, tmp_path, count=6)
    with pytest.raises(
        TrainingError, match=r"\d of 16 videos cannot be read, more than data.max_failed \(20%\): .*broken"
    ):
        loop.train(spec, options(tmp_path / "run"))
    assert "broken" in (tmp_path / "run" / "failed_videos.txt").read_text()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_list_of_nothing_but_broken_videos_stops(small_recipe: Recipe, tmp_path: Path, workers: int) -> None:
    spec = with_broken_videos(small_recipe, tmp_path, count=16).overridden([f"batch.workers={workers}"])
    with pytest.raises(TrainingError, match=r"^11 videos in turn cannot be read, the last one because of"):
        loop.train(spec, options(tmp_path / "run"))


def test_validation_videos_of_which_none_can_be_read_stop_the_run(small_recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "val.txt").write_text("broken.mp4 0\n")
    spec = small_recipe.overridden([f"data.val_list={tmp_path / 'val.txt'}", f"data.val_root={tmp_path}"])
    with pytest.raises(TrainingError, match=r"1 of the 1 videos to validate on cannot be read, more than"):
        loop.train(spec, options(tmp_path / "run"))


def test_videos_with_several_classes_train(small_recipe: Recipe, tmp_path: Path, motion_data: Path) -> None:
    text = "".join(f"train/{number:05}.mp4 {number % 8} {(number + 2) % 8}\n" for number in range(16))
    (tmp_path / "list.txt").write_text(text)
    settings = [f"data.{split}_list={tmp_path / 'list.txt'}" for split in ("train", "val", "test")]
    loop.train(small_recipe.overridden([*settings, "data.multi_class=true"]), options(tmp_path / "run"))
    (accuracy,) = artifact.read_card(tmp_path / "run" / "model.safetensors").accuracy
    assert accuracy.top1 is None
    assert accuracy.mean_average_precision is not None


def test_initial_weights_of_an_image_network_are_inflated(small_recipe: Recipe, tmp_path: Path) -> None:
    keys = [
        [name, list(tensor.shape[:2] + tensor.shape[3:] if tensor.dim() == 5 else tensor.shape)]
        for name, tensor in fresh(small_recipe).items()
        if not name.startswith("fc.")
    ]
    state = {name: torch.from_numpy(np.asarray(value)) for name, value in goldens.filled_state(keys).items()}
    torch.save(state, tmp_path / "image.pth")
    frozen = small_recipe.overridden(["epochs=1", "optimizer.lr=1e-30", "ema=null"])
    loop.train(frozen, options(tmp_path / "run", init=tmp_path / "image.pth", validate=False))
    found = weights(tmp_path / "run" / "checkpoints" / "step_00000004.pth")
    # A kernel over k frames holds the 2D kernel divided by k in each.
    torch.testing.assert_close(found["conv1.weight"].sum(2), state["conv1.weight"])
    torch.testing.assert_close(found["conv1.weight"][:, :, 0], state["conv1.weight"] / 5)
    torch.testing.assert_close(found["layer2.0.conv2.weight"][:, :, 0], state["layer2.0.conv2.weight"])


def fresh(spec: Recipe) -> dict[str, torch.Tensor]:
    from i3d_deploy import model

    return model.build(spec.network).state_dict()


@pytest.mark.parametrize("classes", [8, 5])
def test_initial_weights_of_a_checkpoint_keep_the_classifier_where_the_classes_agree(
    finished: Path, small_recipe: Recipe, tmp_path: Path, classes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.txt").write_text("\n".join("abcde") + "\n")
    (tmp_path / "list.txt").write_text("".join(f"train/{number:05}.mp4 {number % 5}\n" for number in range(16)))
    settings = ["epochs=1", "optimizer.lr=1e-30", "ema=null"]
    if classes == 5:
        settings += [f"data.labels={tmp_path / 'labels.txt'}", "network.num_classes=5"]
        settings += [f"data.train_list={tmp_path / 'list.txt'}"]
    init = finished / "model.safetensors"
    spec = small_recipe.overridden(settings)
    loop.train(spec, options(tmp_path / "run", init=init, validate=False))
    given, found = (
        checkpoint.load(init).model.state_dict(),
        weights(tmp_path / "run" / "checkpoints" / "step_00000004.pth"),
    )
    torch.testing.assert_close(found["layer1.0.conv1.weight"], given["layer1.0.conv1.weight"])
    assert found["fc.weight"].shape == (classes, 64)
    said = capsys.readouterr().err
    assert ("with its classifier" if classes == 8 else "a new classifier for 5 classes") in said
    if classes == 8:
        torch.testing.assert_close(found["fc.weight"], given["fc.weight"])


def test_initial_weights_that_do_not_fit_are_refused(
    small_recipe: Recipe, tmp_path: Path, tiny_checkpoint: Checkpoint
) -> None:
    checkpoint.save(tiny_checkpoint, tmp_path / "tiny.safetensors")
    with pytest.raises(CheckpointError, match=r"tiny.safetensors: the weights do not fit small: .*left over layer1.1"):
        loop.train(small_recipe, options(tmp_path / "run", init=tmp_path / "tiny.safetensors"))


def test_a_seed_is_drawn_where_none_is_given(small_recipe: Recipe, tmp_path: Path) -> None:
    short = small_recipe.overridden(["epochs=1"])
    seeds = set()
    for name in ("one", "two"):
        loop.train(short, options(tmp_path / name, seed=None, validate=False))
        seeds.add(snapshots.read(tmp_path / name / "checkpoints" / "step_00000004.pth")["seed"])
    assert len(seeds) == 2
    with pytest.raises(InputError, match=r"seed \(-1\) must be >= 0"):
        loop.train(short, options(tmp_path / "three", seed=-1))


def test_random_state_and_settings_are_left_alone(small_recipe: Recipe, tmp_path: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    loop.train(small_recipe.overridden(["epochs=1"]), options(tmp_path))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_script_prints_the_recipe_and_says_what_it_wrote(
    recipe_file: Path, tmp_path: Path, run_script: Run
) -> None:
    arguments = ("--work-dir", tmp_path / "run", "--seed", "1", "--set", "epochs=1")
    done = run_script("train.py", recipe_file, *arguments)
    assert done.returncode == 0, done.stderr
    assert "epochs=1" in done.stdout.splitlines()
    assert "optimizer.lr=0.05" in done.stdout.splitlines()
    assert done.stderr.rstrip().endswith("model.safetensors written")
    main = runpy.run_path(str(ROOT / "training" / "train.py"))["main"]
    again = CliRunner().invoke(main, [str(argument) for argument in (recipe_file, *arguments)])
    assert again.exit_code == 1
    assert again.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in again.stderr


def test_clips_of_an_epoch_do_not_depend_on_the_process(small_recipe: Recipe) -> None:
    entries = small_recipe.data.read("train", num_classes=8)
    first = clips.draw(entries[3].source, small_recipe.train, seed=clips.seed_of(5, 1, 3, 0))
    again = clips.draw(entries[3].source, small_recipe.train, seed=clips.seed_of(5, 1, 3, 0))
    np.testing.assert_array_equal(first, again)
