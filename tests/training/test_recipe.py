"""Recipes: overriding fields, what is refused, and every recipe of the zoo taking a step."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from i3d_deploy import checkpoint, flow_images, labels, motion
from i3d_deploy.errors import InputError
from i3d_deploy.network import Inception, ResNet, TwoStream
from i3d_deploy.training import loop, recipe
from i3d_deploy.training.recipe import Recipe
from tests import narrowed

RECIPES = Path(__file__).parents[2] / "training" / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*.py"))


def load(name: str) -> Recipe:
    return recipe.load(name, folder=RECIPES)


def test_the_recipes_of_the_zoo_are_there() -> None:
    zoo = {
        "i3d_r50_32x2x1_100e_kinetics400_rgb",
        "i3d_r50_video_32x2x1_100e_kinetics400_rgb",
        "i3d_r50_dense_32x2x1_100e_kinetics400_rgb",
        "i3d_r50_lazy_32x2x1_100e_kinetics400_rgb",
        "i3d_nl_embedded_gaussian_r50_32x2x1_100e_kinetics400_rgb",
        "i3d_nl_gaussian_r50_32x2x1_100e_kinetics400_rgb",
        "i3d_nl_dot_product_r50_32x2x1_100e_kinetics400_rgb",
        "i3d_r50_heavy_8x8x1_100e_kinetics400_rgb",
    }
    assert zoo <= set(NAMES)


# Section by section what the zoo's plain configuration says.
ZOO = {
    "optimizer.kind": "sgd",
    "optimizer.lr": 0.01,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": False,
    "optimizer.weight_decay": 1e-4,
    "optimizer.clip_norm": 40.0,
    "schedule.kind": "step",
    "schedule.milestones": [40, 80],
    "schedule.gamma": 0.1,
    "schedule.warmup_epochs": 0.0,
    "epochs": 100,
    "batch.videos": 8,
    "batch.workers": 2,
    "dropout": 0.5,
    "validate_every": 5,
    "checkpoint_every": 5,
    "log_every": 20,
    "train.short_side": 256,
    "train.crop": "multi_scale",
    "train.scales": [1.0, 0.8],
    "train.crop_size": 224,
    "train.flip": 0.5,
    "validation.spatial.crop_size": 224,
    "test.sampling.num_clips": 10,
    "test.spatial.num_crops": 3,
    "test.spatial.crop_size": 256,
    "test.averaging": "probabilities",
}


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("100e_kinetics400_rgb")])
def test_zoo_recipes_have_the_numbers_of_the_zoo(name: str) -> None:
    found = dict(recipe.flat(load(name).model_dump(mode="json")))
    assert {field: found[field] for field in ZOO} == ZOO
    clip = [8, 8] if "8x8" in name else [32, 2]
    for part in ("train", "validation.sampling", "test.sampling"):
        assert [found[f"{part}.clip_len"], found[f"{part}.frame_interval"]] == clip
        assert found[f"{part}.scheme"] == ("dense" if "dense" in name else "uniform")
    assert found["validation.sampling.num_clips"] == (10 if "dense" in name else 1)
    assert found["train.lazy"] == found["validation.lazy"] == ("lazy" in name)
    assert found["data.kind"] == ("video" if "video" in name else "frames")


# Section 4 of the reference: kinetics-i3d's preprocessing and schedule, Carreira and Zisserman 2017.
AUTHORS = {
    "test.sampling.scheme": "whole",
    "test.sampling.frame_interval": 1,
    "test.sampling.num_clips": 1,
    "test.sampling.min_clip_len": 9,
    "test.sampling.frames_per_second": 25.0,
    "test.spatial.short_side": 256,
    "test.spatial.crop_size": 224,
    "test.spatial.num_crops": 1,
    "test.averaging": "logits",
    "train.clip_len": 64,
    "train.frame_interval": 1,
    "train.frames_per_second": 25.0,
    "train.short_side": 256,
    "train.crop": "random",
    "train.crop_size": 224,
    "optimizer.kind": "sgd",
    "optimizer.lr": 0.1,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-7,
    "optimizer.clip_norm": None,
    "batch.videos": 6,
    "batch.lr_reference": 384,  # 6 on each of 64 GPUs
    "schedule.kind": "table",
    "schedule.warmup_epochs": 0.0,
}
RATES = {
    "rgb": [(0, 0.1), (97_000, 0.01), (108_000, 0.001)],
    "flow": [(0, 0.1), (97_000, 0.01), (104_500, 0.001), (115_000, 0.1), (140_000, 0.01), (150_000, 0.001)],
}


@pytest.mark.parametrize(("stream", "steps", "channels"), [("rgb", 115_000, 3), ("flow", 155_000, 2)])
def test_the_original_i3d_is_trained_and_tested_as_its_authors_do(stream: str, steps: int, channels: int) -> None:
    spec = load(f"i3d_inception_{stream}_64x1x1_kinetics400")
    found = dict(recipe.flat(spec.model_dump(mode="json")))
    assert {field: found[field] for field in AUTHORS} == AUTHORS
    assert (spec.pixels.mean, spec.pixels.std) == ((127.5,) * channels, (127.5,) * channels)  # v / 255 * 2 - 1
    assert spec.data.flow_method == ("tvl1" if stream == "flow" else None)
    assert spec.steps == steps
    rates = [(step, share * spec.optimizer.lr) for step, share in spec.schedule.table]
    np.testing.assert_allclose(rates, RATES[stream], rtol=1e-12)


def test_epochs_are_refused_where_steps_decide(small_recipe: Recipe) -> None:
    spec = load("i3d_inception_rgb_64x1x1_kinetics400")
    message = r"^--set epochs=1: steps \(115000\) decides the length of the run: set steps, or steps=null as well$"
    with pytest.raises(InputError, match=message):
        spec.overridden(["epochs=1"])
    assert spec.overridden(["epochs=1", "steps=null"]).total_steps(625) == 625
    assert spec.overridden(["epochs=1", "steps=7"]).total_steps(625) == 7
    assert small_recipe.overridden(["epochs=2"]).total_steps(5) == 10


def test_both_streams_of_the_motion_data_are_shown_the_same_clips() -> None:
    frames, flow = load("motion_tiny"), load("motion_tiny_flow")
    assert frames.test == flow.test
    assert frames.train == flow.train


@pytest.mark.parametrize("split", [1, 2, 3])
@pytest.mark.parametrize("name", ["ucf101", "hmdb51"])
def test_fine_tuning_has_all_official_splits(name: str, split: int) -> None:
    found = load(f"i3d_r50_32x2x1_finetune_{name}_rgb").overridden([f"data.split={split}"])
    assert found.data.list_path("train").name == f"{name}_train_split_{split}_videos.txt"
    assert found.network.num_classes == labels.LABEL_SETS[name]


def example_data(spec: Recipe, folder: Path) -> list[str]:
    """A list of two examples of the recipe's kind, and the settings that point to it."""
    if spec.data.kind == "video":
        motion.write_dataset(folder, train=2, val=1, test=1)
        rows = ["train/00000.mp4 0", "train/00001.mp4 1"]
    else:
        pixels = np.random.RandomState(0).randint(0, 256, (20, 48, 64, 3)).astype(np.uint8)
        (folder / "clip").mkdir()
        if spec.network.stream == "flow":
            flow_images.write_pairs(folder / "clip", pixels[..., :2])
        else:
            for number, frame in enumerate(pixels, 1):
                assert cv2.imwrite(str(folder / "clip" / spec.data.image_name.format(number)), frame)
        offset = " 0" if spec.data.with_offset else ""
        rows = [f"clip{offset} 20 0", f"clip{offset} 20 1"]
    (folder / "list.txt").write_text("\n".join(rows) + "\n")
    # As training/prepare.py leaves them.
    is_shipped = spec.data.labels in labels.LABEL_SETS
    count = spec.network.num_classes
    names = labels.load(spec.data.labels) if is_shipped else [f"class {number}" for number in range(count)]
    (folder / "labels.txt").write_text("\n".join(names) + "\n")
    parts = ("train", "val", "test")
    roots = [f"data.{part}_root=." for part in parts]
    return [f"data.folder={folder}", *roots, *(f"data.{part}_list=list.txt" for part in parts)]


def few_channels(network: ResNet | Inception | TwoStream) -> list[str]:
    """Settings that narrow a recipe's network and leave its layers."""
    if isinstance(network, ResNet):
        return ["network.width=8"]
    numbers = narrowed.small(network.name, network.num_classes).model_dump(mode="json")
    return [f"network.{part}={json.dumps(numbers[part])}" for part in ("stem", "mixed")]


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_takes_a_step_on_an_example_list(name: str, tmp_path: Path) -> None:
    spec = load(name)
    settings = example_data(spec, tmp_path)
    # Whole but small: one step of two videos at the smallest crop that a non-local block takes, or an Inception, in few
    # channels.
    side, clip_len = (193, 9) if name.startswith("i3d_inception") else (64, spec.train.clip_len)
    settings += ["epochs=1", "steps=1", "batch.videos=2", "batch.workers=0", f"train.clip_len={clip_len}"]
    settings += [f"train.crop_size={side}", f"train.short_side={side + 8}", *few_channels(spec.network)]
    small = spec.overridden(settings)
    published = loop.train(small, loop.Options(work_dir=tmp_path / "run", seed=0))
    trained = checkpoint.load(published)
    assert trained.card.network == small.network
    assert (trained.card.modality, trained.card.flow_method) == (spec.network.stream, spec.data.flow_method)
    torch.manual_seed(0)
    with torch.inference_mode():
        logits = trained.model(torch.randn(1, spec.network.in_channels, clip_len, side, side))
    assert logits.shape == (1, spec.network.num_classes)
    assert torch.isfinite(logits).all()


def test_settings_override_named_fields(small_recipe: Recipe) -> None:
    changed = small_recipe.overridden(["optimizer.lr=1", "ema=null", "train.scales=[1.0, 0.5]", "data.split=3"])
    assert recipe.differences(small_recipe, changed) == [
        "data.split: 1 -> 3",
        "train.scales: [1.0, 0.8] -> [1.0, 0.5]",
        "optimizer.lr: 0.05 -> 1.0",
        "ema: 0.8 -> None",
    ]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimizer.lr", r"--set optimizer.lr: write name=value"),
        ("lr=0.1", r"--set lr=0.1: there is no lr; did you mean optimizer.lr\?"),
        ("optimiser.momentun=0.1", r"there is no optimiser.momentun; did you mean optimizer.momentum"),
        ("batch=3", r"there is no batch; did you mean batch\."),
        ("epochs=1.5", r"--set: epochs: Input should be a valid integer"),
        ("epochs=true", r"--set: epochs: Input should be a valid integer"),
        ("epochs=0", r"--set: epochs: .*greater than or equal to 1"),
        ("epochs=many", r"--set: epochs: Input should be a valid integer, not 'many'"),
        ("optimizer.kind=adam", r"--set: optimizer.kind: Input should be 'sgd' or 'adamw'"),
        ("data.labels=5", r"--set: data.labels: Input should be a valid string"),
        ("data.image_name=img.jpg", r"image_name 'img.jpg' has no place for the number"),
        ("train.clip_len=1", r"train: clip_len \(1\) is too short"),
        ("validation.spatial.crop_size=40", r"crop_size \(40\) must be <= short_side \(32\)"),
        (
            "validation.spatial.formula=slowfast",
            "validation: spatial.formula is slowfast, whose pixels are not rounded, and views of validation are uint8",
        ),
        ("train.scheme=whole", r"train.scheme: Input should be 'uniform' or 'dense'"),
        ("steps=0", r"--set: steps: .*greater than or equal to 1"),
        ("schedule.kind=table", r"schedule: the steps of table \[\] must begin with 0 and ascend"),
        ("network.in_channels=2", r"pixels.color rgb is not what small is shown: its 2 channels are xy, each with a"),
        ("data.flow_method=dis", r"data.flow_method is dis and small is shown rgb: leave it out"),
    ],
)
def test_wrong_settings_are_refused(small_recipe: Recipe, setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_recipe.overridden([setting])


def test_a_recipe_of_flow_says_how_it_is_computed() -> None:
    message = "data.flow_method is None and motion_tiny_flow is shown flow: say how: tvl1 or dis"
    with pytest.raises(InputError, match=message):
        load("motion_tiny_flow").overridden(["data.flow_method=null"])


def test_a_recipe_survives_its_json(small_recipe: Recipe) -> None:
    assert recipe.from_json(small_recipe.to_json(), where="here") == small_recipe
    assert json.loads(small_recipe.to_json())["epochs"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "assigns no Recipe"),
        ("1 / 0\n", "cannot be run: ZeroDivisionError"),
        ("def broken(:\n", "cannot be run: SyntaxError"),
        ("from i3d_deploy.training.recipe import Batch\nrecipe = Batch(videos=0)\n", "videos: Input should be greater"),
    ],
)
def test_a_broken_recipe_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        recipe.load(str(path), folder=RECIPES)


def test_an_unknown_recipe_lists_near_ones() -> None:
    with pytest.raises(InputError, match="recipe motion_tyni: no such file; did you mean motion_tiny"):
        load("motion_tyni")


def test_lists_prepared_for_other_classes_are_refused(small_recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("Archery\nBowling\n")
    subset = small_recipe.overridden([f"data.folder={tmp_path}", "data.labels=ucf101", "network.num_classes=101"])
    with pytest.raises(
        InputError, match=r"labels.txt has 2 other classes than the label set ucf101 .*--set data.labels"
    ):
        subset.card()


def test_a_missing_list_says_how_to_make_it(small_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train.txt: no such file: training/prepare.py makes it, --set data.folder"):
        small_recipe.overridden([f"data.folder={tmp_path}"]).data.read("train", num_classes=8)


def test_labels_that_do_not_fit_are_refused(small_recipe: Recipe) -> None:
    wrong = small_recipe.overridden(["data.labels=ucf101", "data.folder=elsewhere"])
    with pytest.raises(
        InputError, match=r"ucf101\) has 101 names for a network of 8 classes: --set network.num_classes"
    ):
        wrong.card()
