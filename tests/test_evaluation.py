"""Testing on a list: rows, files and metrics of ``training/test.py``, also when it is killed or shared."""

from __future__ import annotations

import csv
import json
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from i3d_deploy import evaluation, files, generated, limits, load, processes, views
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.journal import Journal
from i3d_deploy.network import i3d_r50
from i3d_deploy.preprocessing import Sampling, Spatial, normalize
from i3d_deploy.results import AverageClips, Plan
from i3d_deploy.training import recipe as recipes
from i3d_deploy.training.recipe import Recipe
from tests import goldens
from tests.evaluating import SCRIPT, assert_one_line, run

NAMES = ("run", "jump", 'say "hi"', "<wave> & go", "größer", "f", "g")
LABELS = (3, 0, 5, 1, 6)
SAMPLING = Sampling(clip_len=8, frame_interval=2, num_clips=3)
SPATIAL = Spatial(short_side=32, crop_size=32)
METRICS = ("top_k_accuracy", "mean_class_accuracy")

RECIPE = """
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.network import ResNet
from i3d_deploy.training.recipe import Data, Recipe, Test, TrainViews, ValidationViews

here = {here!r}
small = Spatial(short_side=32, crop_size=32)
recipe = Recipe(
    network=ResNet(
        name="tiny",
        num_classes=7,
        width=8,
        temporal_kernels=((3, 1), (3, 1)),
        non_local_mode="dot_product",
        non_local_blocks=((), (1,)),
    ),
    data=Data(
        kind="video",
        train_list=here + "/list.txt",
        val_list=here + "/val.txt",
        test_list=here + "/list.txt",
        train_root=here,
        val_root=here,
        test_root=here,
        labels=here + "/labels.txt",
    ),
    train=TrainViews(clip_len=8, short_side=32, crop_size=32),
    validation=ValidationViews(spatial=small),
    test=Test(sampling=Sampling(clip_len=8, frame_interval=2, num_clips=3), spatial=small),
)
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Five clips; the second is shorter than the 15 frames of an 8x2 clip."""
    folder = tmp_path_factory.mktemp("clips")
    for number, num_frames in enumerate((40, 9, 31, 24, 52)):
        path = folder / f"{number}.mp4"
        generated.write_clip(path, num_frames=num_frames, height=48, width=64, seed=number)
    return tuple(sorted(folder.iterdir()))


@pytest.fixture
def project(tmp_path: Path, clips: tuple[Path, ...]) -> Path:
    """A folder with a recipe, its lists and its labels."""
    (tmp_path / "recipe.py").write_text(RECIPE.format(here=str(tmp_path)))
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    write_list(tmp_path / "list.txt", clips, LABELS)
    write_list(tmp_path / "val.txt", clips[:2], LABELS)
    return tmp_path


def write_list(path: Path, clips: Sequence[Path], labels: Sequence[int]) -> None:
    path.write_text("".join(f"{clip} {label}\n" for clip, label in zip(clips, labels, strict=False)))


def make_recipe(project: Path, *settings: str) -> Recipe:
    return recipes.load(str(project / "recipe.py"), folder=project).overridden(settings)


def start(*arguments: object, processes: int = 1) -> subprocess.Popen[str]:
    """Start the script as a program, on one thread so that sums are in one order."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, SCRIPT, *arguments, "--threads", "1"]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], *, code: int = 0) -> tuple[str, str]:
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == code, stderr
    return stdout, stderr


def expected_logits(checkpoint: Checkpoint, clips: Sequence[Path]) -> list[NDArray[np.float32]]:
    """What the network itself says of the views, all of a video at once."""
    found = []
    for clip in clips:
        prepared = views.cut(clip, sampling=SAMPLING, spatial=SPATIAL)
        (batch,) = prepared.batches(len(prepared))
        with torch.inference_mode():
            found.append(checkpoint.model(torch.from_numpy(normalize(batch, checkpoint.card.pixels))).numpy())
    return found


def expected_rows(logits: NDArray[np.float32], averaging: AverageClips) -> NDArray[np.float32]:
    if averaging == "none":
        return logits
    wide = torch.from_numpy(logits)
    return (wide if averaging == "score" else wide.softmax(1)).mean(0, keepdim=True).numpy()


@pytest.mark.parametrize(
    ("suffix", "averaging"),
    [(".safetensors", "prob"), (".xml", "prob"), (".onnx", "prob"), (".onnx", "score"), (".onnx", "none")],
)
def test_every_backend_gives_the_networks_rows(
    tiny_exports: Path,
    tiny_checkpoint: Checkpoint,
    clips: tuple[Path, ...],
    project: Path,
    suffix: str,
    averaging: AverageClips,
) -> None:
    artifact = (tiny_exports / "tiny").with_suffix(suffix)
    result = run(project / "recipe.py", artifact, "--out", project / "result.json", "--average-clips", averaging)
    assert result.exit_code == 0, result.output
    logits = expected_logits(tiny_checkpoint, clips)
    expected = np.concatenate([expected_rows(video, averaging) for video in logits])
    found = np.array(json.loads((project / "result.json").read_text()))
    assert found.shape == (45 if averaging == "none" else 5, 7)
    limit = limits.logits_limit(tiny_checkpoint.card, np.concatenate(logits))
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit / 2 if averaging == "prob" else limit)
    assert not (project / "result.json.partial").exists()


def test_files_hold_float32_rows_and_a_line_per_video(
    tiny_exports: Path, tiny_checkpoint: Checkpoint, clips: tuple[Path, ...], project: Path
) -> None:
    for name in ("a/result.json", "a/b/result.pkl"):
        result = run(project / "recipe.py", tiny_exports / "tiny.onnx", "--out", project / name)
        assert result.exit_code == 0, result.output
    text = (project / "a" / "result.json").read_text()
    rows = json.loads(text)
    assert text == json.dumps(rows)
    assert np.array(rows, np.float32).tolist() == rows
    with (project / "a" / "b" / "result.pkl").open("rb") as stream:
        pickled = pickle.load(stream)  # noqa: S301 - written a line above
    assert [(row.dtype, row.shape) for row in pickled] == [(np.dtype(np.float32), (7,))] * 5
    assert [row.tolist() for row in pickled] == rows
    expected = [expected_rows(video, "prob")[0] for video in expected_logits(tiny_checkpoint, clips)]
    for described in ("a/result.jsonl", "a/b/result.jsonl"):
        lines = [json.loads(line) for line in (project / described).read_text().splitlines()]
        assert [line["video"] for line in lines] == [str(clip) for clip in clips]
        assert [line["labels"] for line in lines] == [[label] for label in LABELS]
        assert [line["index"] for line in lines] == [row.argmax() for row in expected]
        assert [line["label"] for line in lines] == [NAMES[row.argmax()] for row in expected]
        assert [line["probability"] for line in lines] == [max(row) for row in rows]
        assert [line["views"] for line in lines] == [9] * 5
        assert [len(line["warnings"]) for line in lines] == [0, 1, 0, 0, 0]


def test_metrics_are_printed_as_the_zoo_prints_them(
    tiny_exports: Path, tiny_checkpoint: Checkpoint, clips: tuple[Path, ...], project: Path
) -> None:
    predicted = [int(row.mean(0).argmax()) for row in expected_logits(tiny_checkpoint, clips)]
    # Two of the five are labelled as the network sees them, the others as the class after.
    labels = [(number + (place > 1)) % 7 for place, number in enumerate(predicted)]
    write_list(project / "list.txt", clips, labels)
    picture = project / "matrix.png"
    arguments = [project / "recipe.py", tiny_exports / "tiny.onnx", "--out", project / "r.json", "--confusion", picture]
    result = run(*arguments, "--eval", "top_k_accuracy", "mean_class_accuracy", "--average-clips", "score")
    assert result.exit_code == 0, result.output
    lines = dict(line.split(": ") for line in result.stdout.splitlines())
    assert list(lines) == ["top1_acc", "top5_acc", "mean_class_accuracy", "videos", "views"]
    assert lines["top1_acc"] == "0.4000"
    shares = {
        label: np.mean([mine == label for mine, true in zip(predicted, labels, strict=True) if true == label])
        for label in labels
    }
    occurring = set(labels) | set(predicted)
    assert lines["mean_class_accuracy"] == f"{sum(shares.values()) / len(occurring):.4f}"
    assert (lines["videos"], lines["views"]) == ("5 of 5", "9")
    with picture.with_suffix(".csv").open(newline="", encoding="utf-8") as stream:
        header, *rows = csv.reader(stream)
    assert header[1:] == [NAMES[number] for number in sorted(occurring)]
    assert sum(int(cell) for row in rows for cell in row[1:]) == 5
    assert sum(int(row[place + 1]) for place, row in enumerate(rows)) == 2
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize(
    "words",
    [
        ["--eval", "top_k_accuracy", "mean_class_accuracy"],
        ["--eval", "top_k_accuracy", "--eval", "mean_class_accuracy"],
        ["--eval=top_k_accuracy", "mean_class_accuracy"],
    ],
)
@pytest.mark.parametrize("are_first", [True, False])
def test_eval_takes_several_words(tiny_exports: Path, project: Path, words: list[str], are_first: bool) -> None:
    rest = [str(project / "recipe.py"), str(tiny_exports / "tiny.onnx"), "--out", str(project / "r.json")]
    result = run(*(words + rest if are_first else rest + words))
    assert result.exit_code == 0, result.output
    assert [line.partition(":")[0] for line in result.stdout.splitlines()][:3] == [
        "top1_acc",
        "top5_acc",
        "mean_class_accuracy",
    ]


def test_the_other_list_is_evaluated_on_request(tiny_exports: Path, project: Path) -> None:
    result = run(
        project / "recipe.py", tiny_exports / "tiny.onnx", "--out", project / "r.json", "--split", "val", "--batch", "4"
    )
    assert "videos: 2 of 2" in result.stdout
    assert len(json.loads((project / "r.json").read_text())) == 2


def test_several_labels_have_their_own_metrics(tiny_exports: Path, clips: tuple[Path, ...], project: Path) -> None:
    (project / "list.txt").write_text(f"{clips[0]} 0 1 2 3 4 5 6\n{clips[2]} 0 1 2 3 4 5 6\n")
    arguments = [project / "recipe.py", tiny_exports / "tiny.onnx", "--set", "data.multi_class=true"]
    arguments += ["--out", project / "r.json", "--eval"]
    # Every class is true of every video, so that each precision is 1.
    result = run(*arguments, "mean_average_precision", "mmit_mean_average_precision")
    assert result.stdout.splitlines()[:2] == ["mean_average_precision: 1.0000", "mmit_mean_average_precision: 1.0000"]
    assert_one_line(run(*arguments, "mean_class_accuracy"), "mean_class_accuracy needs one label per video")
    confusion = run(*arguments[:-1], "--confusion", project / "m.png")
    assert_one_line(confusion, "a confusion matrix needs one label per video, and some of", "list.txt have several")


def test_notes_say_where_the_recipe_overrules_the_card(tiny_exports: Path, project: Path) -> None:
    (project / "labels.txt").write_text("\n".join([*NAMES[:5], "other", "g"]))
    settings = ["test.sampling.frame_interval=1", "test.averaging=logits", "test.spatial.short_side=40"]
    recipe = make_recipe(project, *settings, "test.spatial.num_crops=1", "network.stem_stride=1")
    with evaluation.open_recognizer(tiny_exports / "tiny.xml", recipe, Plan.of(recipe)) as recognizer:
        assert recognizer.notes == (
            "network.stem_stride is 2 as the file says; the recipe says 1",
            "sampling.frame_interval is 1 as the recipe says; the card says 2",
            "sampling.num_clips is 3 as the recipe says; the card says 2",
            "spatial.short_side is 40 as the recipe says; the card says 32",
            "spatial.num_crops is 1 as the recipe says; the card says 3",
            "averaging is over logits; the card says probabilities",
            "labels are the recipe's; class 5 is 'other', on the card 'f'",
            "the weights are random: the time that this takes means something, the labels do not",
        )


def test_a_checkpoint_takes_the_views_of_the_recipe(tiny_exports: Path, project: Path) -> None:
    settings = ["test.sampling.clip_len=16", "test.spatial.short_side=48", "test.spatial.crop_size=48"]
    recipe = make_recipe(project, *settings, "pixels.mean=[0.0,0.0,0.0]")
    plan = Plan.of(recipe)
    with evaluation.open_recognizer(tiny_exports / "tiny.safetensors", recipe, plan) as recognizer:
        assert recognizer.card.view_shape == (16, 48, 48, 3)
        assert recognizer.card.pixels.mean == (0, 0, 0)
        assert "pixels.mean is (0.0, 0.0, 0.0) as the recipe says; the card says (123.675, 116.28, 103.53)" in (
            recognizer.notes
        )
        result = evaluation.evaluate(recognizer, plan, Journal(project / "j", {}))
        assert result is not None
        assert len(result.readable) == 5


def test_a_checkpoint_of_the_zoo_is_as_the_recipe_says(project: Path) -> None:
    state = goldens.filled_state(goldens.load_json("keys_mmaction_i3d_r50.json"))
    path = project / "zoo.pth"
    torch.save({"state_dict": {name: torch.from_numpy(np.asarray(value)) for name, value in state.items()}}, path)
    recipe = make_recipe(project, "data.labels=kinetics400", "test.averaging=logits", "network.num_classes=400")
    recipe = recipe.replaced(network=i3d_r50(), pixels=recipe.pixels.replaced(std=(1.0, 1.0, 1.0)))
    with evaluation.open_recognizer(path, recipe, Plan.of(recipe)) as recognizer:
        assert recognizer.card.sampling == SAMPLING
        assert recognizer.card.pixels.std == (1, 1, 1)
        assert recognizer.notes == ()
        (batch,) = np.zeros((1, 1, 8, 32, 32, 3), np.uint8)
        assert recognizer.infer(batch).shape == (1, 400)


class TestRefusals:
    """What does not fit is told in one line, before the work."""

    @pytest.mark.parametrize(
        ("settings", "parts"),
        [
            (
                ["test.sampling.clip_len=16"],
                ["takes views of 8 frames of 32x32, the recipe makes views of 16 frames of"],
            ),
            (["pixels.std=[1.0,1.0,1.0]"], ["scales pixels by mean (123.675, 116.28, 103.53)", "export one from"]),
            (["data.labels=hmdb51"], ["has 51 names for a network of 7 classes"]),
            (["test.clips=3"], ["there is no test.clips"]),
            (["data.test_list=none.txt"], ["list none.txt: no such file"]),
            (["data.labels=hmdb51", "network.num_classes=51"], ["has 7 classes, the recipe has 51"]),
        ],
    )
    def test_of_the_recipe(self, tiny_exports: Path, project: Path, settings: list[str], parts: list[str]) -> None:
        options = [word for setting in settings for word in ("--set", setting)]
        result = run(project / "recipe.py", tiny_exports / "tiny.onnx", "--out", project / "r.json", *options)
        assert_one_line(result, *parts)
        assert not list(project.glob("r.json*"))

    @pytest.mark.parametrize(
        ("options", "parts", "code"),
        [
            (["--out", "r.yaml"], ["r.yaml: results are written as .json or .pkl"], 1),
            (["--out", "{folder}/f.json"], ["f.json is a folder: give the file to write"], 1),
            (["--out", "r.json", "--eval", "top_k"], ["'top_k' is not one of 'top_k_accuracy'"], 2),
            (["--out", "r.json", "--eval", "top_k_accuracy", "mean_clas_accuracy"], ["'mean_clas_accuracy' is"], 2),
            (["--out", "r.json", "--eval", *METRICS, "--average-clips", "none"], ["leaves one for each of 9 views"], 1),
            (["--out", "r.json", "--confusion", "m.png", "--average-clips", "none"], ["leaves one for each of 9"], 1),
            (["--out", "r.json", "--confusion", "m.svg"], ["m.svg: the confusion matrix is drawn as .png"], 1),
            (["--eval", "top_k_accuracy"], ["Missing option '--out'"], 2),
        ],
    )
    def test_of_the_options(
        self, tiny_exports: Path, project: Path, options: list[str], parts: list[str], code: int
    ) -> None:
        (project / "f.json").mkdir()
        given = [option.format(folder=project) for option in options]
        assert_one_line(run(project / "recipe.py", tiny_exports / "tiny.onnx", *given), *parts, code=code)

    def test_of_the_files(self, project: Path) -> None:
        assert_one_line(run("no_recipe", project / "x.onnx", "--out", "r.json"), "recipe no_recipe: no such file")
        result = run(project / "recipe.py", project / "x.onnx", "--out", project / "r.json")
        assert_one_line(result, "x.onnx: no such file")


def test_help_comes_fast_and_ends_with_an_example() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert result.output.rstrip().endswith("result.json")
    assert "Example: python training/test.py" in result.output
    code = (
        f"import runpy, sys; main = runpy.run_path({str(SCRIPT)!r})['main']\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'cv2', 'matplotlib'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


class TestBrokenVideos:
    """A video that cannot be read stops no evaluation, and is not passed over either."""

    @pytest.fixture
    def broken(self, project: Path, clips: tuple[Path, ...]) -> Path:
        """The third of four videos is no video."""
        path = project / "broken.mp4"
        path.write_bytes(b"no video at all")
        write_list(project / "list.txt", [clips[0], clips[1], path, clips[3]], LABELS)
        return path

    def test_there_is_no_result_until_they_are_mended(
        self, tiny_exports: Path, clips: tuple[Path, ...], project: Path, broken: Path
    ) -> None:
        arguments = [project / "recipe.py", tiny_exports / "tiny.onnx", "--out", project / "r.json", "--eval", *METRICS]
        result = run(*arguments)
        assert_one_line(result, f"1 of 4 videos cannot be read, so there is no result: {broken}; mend them and run")
        assert f"Broken: {broken}: " in result.stderr
        assert sorted(path.name for path in project.glob("r.json*")) == ["r.json.partial"]
        broken.write_bytes(clips[2].read_bytes())
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        assert "3 of 4 videos are in" in result.stderr
        assert "videos: 4 of 4" in result.stdout
        assert run(*arguments[:3], project / "whole.json").exit_code == 0
        assert (project / "r.json").read_bytes() == (project / "whole.json").read_bytes()

    def test_skipped_ones_are_zeros_and_in_no_metric(
        self, tiny_exports: Path, tiny_checkpoint: Checkpoint, clips: tuple[Path, ...], project: Path, broken: Path
    ) -> None:
        readable = [clips[0], clips[1], clips[3]]
        predicted = [int(logits.mean(0).argmax()) for logits in expected_logits(tiny_checkpoint, readable)]
        # All readable ones are right.
        labels = [*predicted[:2], (predicted[0] + 1) % 7, predicted[2]]
        write_list(project / "list.txt", [*readable[:2], broken, readable[2]], labels)
        arguments = [project / "recipe.py", tiny_exports / "tiny.onnx", "--average-clips", "score", "--skip-broken"]
        result = run(*arguments, "--out", project / "r.json", "--eval", *METRICS)
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines()[:4] == [
            "top1_acc: 1.0000",
            "top5_acc: 1.0000",
            "mean_class_accuracy: 1.0000",
            "videos: 3 of 4",
        ]
        rows = json.loads((project / "r.json").read_text())
        assert [not any(row) for row in rows] == [False, False, True, False]
        lines = [json.loads(line) for line in (project / "r.jsonl").read_text().splitlines()]
        assert ["error" in line for line in lines] == [False, False, True, False]
        assert str(broken) in lines[2]["error"]

    def test_metrics_of_nothing_are_refused(self, tiny_exports: Path, project: Path) -> None:
        (project / "list.txt").write_text("gone.mp4 0\n")
        arguments = [project / "recipe.py", tiny_exports / "tiny.onnx", "--out", project / "r.json", "--skip-broken"]
        assert_one_line(run(*arguments, "--eval", *METRICS), "no video could be read, so there are no metrics")


class Heard:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.failures: list[str] = []
        self.videos: list[tuple[int, int, float | None]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def failure(self, text: str) -> None:
        self.failures.append(text)

    def video(self, done: int, total: int, top1: float | None) -> None:
        self.videos.append((done, total, top1))


def test_the_running_accuracy_is_over_the_videos_so_far(
    tiny_exports: Path, tiny_checkpoint: Checkpoint, clips: tuple[Path, ...], project: Path
) -> None:
    predicted = [int(logits.mean(0).argmax()) for logits in expected_logits(tiny_checkpoint, clips)]
    wrong = [(number + (place in (0, 3))) % 7 for place, number in enumerate(predicted)]
    write_list(project / "list.txt", clips, wrong)
    recipe = make_recipe(project, "test.averaging=logits")
    heard = Heard()
    evaluation.run(tiny_exports / "tiny.onnx", recipe, out=project / "r.json", listener=heard)
    assert heard.videos == [(1, 5, 0.0), (2, 5, 1 / 2), (3, 5, 2 / 3), (4, 5, 2 / 4), (5, 5, 3 / 5)]
    assert heard.failures == []
    assert heard.notes[0].startswith("videos: 5, views per video: 9, onnxruntime")


def test_a_journal_of_three_processes_is_finished_by_one(
    tiny_exports: Path, clips: tuple[Path, ...], project: Path
) -> None:
    plan = Plan.of(make_recipe(project))
    path, folder = tiny_exports / "tiny.onnx", project / "r.json.partial"
    journal = Journal(folder, plan.identity(path))
    with load(path) as recognizer:
        whole = evaluation.evaluate(recognizer, plan, journal)
    assert whole is not None
    first, *lines = (folder / "rank_0.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 5
    for rank, kept in enumerate(([lines[0]], [lines[1], lines[4][:40]], [lines[2]])):
        (folder / f"rank_{rank}.jsonl").write_text(first + "".join(kept))
    heard = Heard()
    result = evaluation.run(path, make_recipe(project), out=project / "r.json", listener=heard)
    assert result is not None
    assert [video[:2] for video in heard.videos] == [(4, 5), (5, 5)]
    for one, other in zip(result.entries, whole.entries, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("averaging", "averaging"),
        ("sampling", "pipeline"),
        ("list", "list"),
        ("artifact", "artifact"),
        ("root", "videos"),
    ],
)
def test_a_journal_of_something_else_is_refused(
    tiny_exports: Path, clips: tuple[Path, ...], project: Path, change: str, what: str
) -> None:
    (project / "list.txt").write_text(f"{clips[0]} 1\ngone.mp4 1\n")
    path, out = tiny_exports / "tiny.onnx", project / "r.json"
    assert run(project / "recipe.py", path, "--out", out).exit_code == 1
    options: list[str | Path] = []
    if change == "averaging":
        options = ["--average-clips", "score"]
    elif change == "sampling":
        options = ["--set", "test.sampling.num_clips=1"]
    elif change == "root":
        options = ["--set", "data.test_root=elsewhere"]
    elif change == "list":
        (project / "list.txt").write_text(f"{clips[0]} 1\ngone.mp4 2\n")
    else:
        path = tiny_exports / "tiny.safetensors"
    refused = run(project / "recipe.py", path, "--out", out, *options)
    assert_one_line(refused, f"r.json.partial is left from another evaluation ({what} differ): remove it, or give --fr")
    fresh = run(project / "recipe.py", path, "--out", out, *options, "--fresh", "--skip-broken")
    assert fresh.exit_code == 0, fresh.output
    assert len(json.loads(out.read_text())) == 2


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.xml", "tiny.safetensors"])
def test_an_identity_names_every_file_of_the_network(tiny_exports: Path, project: Path, name: str) -> None:
    path = tiny_exports / name
    found = Plan.of(make_recipe(project)).identity(path)["artifact"]
    assert found.pop(path.suffix) == files.sha256(path)
    assert found == ({".bin": files.sha256(tiny_exports / "tiny.bin")} if name == "tiny.xml" else {})


def long_list(project: Path, clips: tuple[Path, ...], count: int) -> list[str | Path]:
    """Arguments of an evaluation that takes some seconds."""
    write_list(
        project / "list.txt", [clips[number % 5] for number in range(count)], [number % 7 for number in range(count)]
    )
    return [project / "recipe.py", "--set", "test.sampling.num_clips=10", "--eval", *METRICS]


def test_a_killed_evaluation_goes_on_to_the_identical_result(
    tiny_exports: Path, clips: tuple[Path, ...], project: Path
) -> None:
    arguments = [*long_list(project, clips, 80), tiny_exports / "tiny.onnx"]
    expected, _ = finish(start(*arguments, "--out", project / "whole.json"))
    out = project / "killed.json"
    journal = project / "killed.json.partial" / "rank_0.jsonl"
    process = start(*arguments, "--out", out)
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_bytes().count(b"\n") < 5:
        assert time.monotonic() < deadline
        assert process.poll() is None
    process.kill()
    finish(process, code=-signal.SIGKILL)
    before = journal.read_bytes().count(b"\n") - 1
    assert 4 <= before < 80
    assert not out.exists()
    stdout, stderr = finish(start(*arguments, "--out", out))
    assert f"{before} of 80 videos are in" in stderr
    assert stdout == expected
    assert out.read_bytes() == (project / "whole.json").read_bytes()
    assert out.with_suffix(".jsonl").read_bytes() == (project / "whole.jsonl").read_bytes()
    assert not journal.parent.exists()


def test_two_processes_give_the_identical_result(tiny_exports: Path, clips: tuple[Path, ...], project: Path) -> None:
    arguments = [*long_list(project, clips, 11), tiny_exports / "tiny.safetensors"]
    expected, _ = finish(start(*arguments, "--out", project / "one.json"))
    stdout, stderr = finish(start(*arguments, "--out", project / "two.json", processes=2))
    assert stdout == expected
    assert "6 of 6 videos" in stderr
    assert (project / "two.json").read_bytes() == (project / "one.json").read_bytes()
    assert not (project / "two.json.partial").exists()


def test_a_dead_process_ends_the_others(tiny_exports: Path, clips: tuple[Path, ...], project: Path) -> None:
    arguments = [*long_list(project, clips, 11), tiny_exports / "tiny.onnx"]
    # The folder is in the way of the second process's journal.
    (project / "two.json.partial" / "rank_1.jsonl").mkdir(parents=True)
    _, stderr = finish(start(*arguments, "--out", project / "two.json", processes=2), code=1)
    assert "rank_1.jsonl: Is a directory" in stderr
    assert not (project / "two.json").exists()


def test_processes_each_take_their_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    third = processes.Processes(rank=6, world_size=8, local_rank=2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    choose: Any = evaluation._device
    assert [choose("auto", kind, third) for kind in ("tensorrt", "safetensors", "openvino")] == [
        "cuda:2",
        "cuda:2",
        "auto",
    ]
    assert [choose("cuda", kind, third) for kind in ("tensorrt", "onnx", "checkpoint")] == ["cuda:2"] * 3
    assert [choose(device, "onnx", third) for device in ("cpu", "cuda:5")] == ["cpu", "cuda:5"]
    assert choose("auto", "safetensors", processes.Processes()) == "auto"
