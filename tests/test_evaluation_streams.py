"""Testing networks of optical flow and two-stream pairs on a list: rows of ``training/test.py``, its cache, refusals.

Expected rows come from flow between frames that are resized here, cut into views by hand.
"""

from __future__ import annotations

import functools
import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from i3d_deploy import (
    checkpoint,
    evaluation,
    files,
    flow,
    flow_images,
    generated,
    limits,
    model,
    to_onnx,
    two_stream,
    video_files,
)
from i3d_deploy.card import Card, Engine, Provenance
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import InputError
from i3d_deploy.network import ResNet, i3d_inception_flow
from i3d_deploy.preprocessing import Pixels, Sampling, Spatial
from i3d_deploy.results import Plan
from i3d_deploy.training.clips import TrainViews
from i3d_deploy.training.recipe import Data, Recipe, Test
from i3d_deploy.two_stream import Pair
from tests import goldens, narrowed
from tests.evaluating import assert_one_line, run

Kind = Literal["rgb", "flow"]
Images = NDArray[np.uint8]
Rows = NDArray[np.float32]

NAMES = ("run", "jump", "fly", "swim", "sit")
LENGTHS = (24, 9, 31)
LABELS = (1, 4, 2)
SAMPLING = Sampling(clip_len=8, frame_interval=2, num_clips=2)
SPATIAL = Spatial(short_side=32, crop_size=32)
STARTS = {23: (2, 6), 8: (0, 0), 30: (3, 11)}
"""Of both clips by the number N of flow frames: half of (N - 15) / 2 and as much again thrice, cut off; 0 where N is
less than the 16 of a clip, which then goes round."""
PIXELS: dict[Kind, Pixels] = {
    "rgb": Pixels(mean=(127.5,) * 3, std=(127.5,) * 3),
    "flow": Pixels(color="xy", mean=(127.0,) * 2, std=(64.0,) * 2),
}


@functools.cache
def stream(kind: Kind, *, num_classes: int = 5, names: tuple[str, ...] = NAMES) -> Checkpoint:
    """A small network of one stream with seeded weights; its logits tell views apart, and are 0 of a grey one."""
    numbers = narrowed.small("i3d_inception_rgb", num_classes)
    if kind == "flow":
        numbers = ResNet(name="small", num_classes=num_classes, in_channels=2, width=8, temporal_kernels=((3,),))
    net = model.build(numbers)
    model.randomize(net, seed=3)
    with torch.no_grad():
        net.fc.weight.mul_({"rgb": 10, "flow": 100}[kind])
        net.fc.bias.sub_(net(torch.zeros(1, numbers.in_channels, 8, 32, 32))[0])
    card = Card(
        network=numbers,
        label_set="custom",
        labels=names,
        modality=kind,
        flow_method="dis" if kind == "flow" else None,
        sampling=SAMPLING,
        spatial=SPATIAL,
        pixels=PIXELS[kind],
        averaging="logits" if kind == "rgb" else "probabilities",
        provenance=Provenance(origin="random weights"),
    )
    return Checkpoint(model=net, card=card)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks, pairs of them, clips with their list and a recipe of each stream."""
    folder = tmp_path_factory.mktemp("streams")
    others = {"four": stream("flow", num_classes=4, names=NAMES[:4]), "other": stream("flow", names=NAMES[::-1])}
    for name, source in {"rgb": stream("rgb"), "flow": stream("flow"), **others}.items():
        checkpoint.save(source, folder / f"{name}.safetensors")
    source = stream("flow")
    engine = to_onnx.convert(source.model, source.card, Engine())
    to_onnx.write(engine, source.card.replaced(engine=Engine()), folder / "flow.onnx")
    for name, second in {"pair": "flow", "four_pair": "four", "other_pair": "other"}.items():
        write_pair(folder / f"{name}.json", "rgb.safetensors", f"{second}.safetensors")
    write_pair(folder / "mixed.json", "rgb.safetensors", "flow.onnx")
    write_pair(folder / "swapped.json", "flow.onnx", "rgb.safetensors")
    for number, num_frames in enumerate(LENGTHS):
        generated.write_clip(folder / f"{number}.mp4", num_frames=num_frames, height=40, width=52, seed=number)
    (folder / "list.txt").write_text("".join(f"{number}.mp4 {label}\n" for number, label in enumerate(LABELS)))
    (folder / "labels.txt").write_text("\n".join(NAMES))
    for kind in kinds_of_streams():
        (folder / f"{kind}_recipe.json").write_text(recipe_of(stream(kind), folder).to_json())
    return folder


def kinds_of_streams() -> tuple[Kind, Kind]:
    return "rgb", "flow"


def write_pair(path: Path, rgb: str, flow: str) -> None:
    two_stream.write(path, Pair(rgb=path.parent / rgb, flow=path.parent / flow))


def recipe_of(source: Checkpoint, folder: Path) -> Recipe:
    lists = {f"{split}_list": "list.txt" for split in ("train", "val", "test")}
    return Recipe(
        network=source.card.network,
        data=Data(kind="video", folder=str(folder), labels="labels.txt", flow_method=source.card.flow_method, **lists),
        train=TrainViews(clip_len=8, short_side=32, crop_size=32),
        test=Test(sampling=SAMPLING, spatial=SPATIAL),
        pixels=source.card.pixels,
    )


@pytest.fixture(scope="module")
def frames(folder: Path) -> list[Images]:
    """The frames of each clip, 32x42."""
    return [
        np.stack([cv2.resize(frame, (42, 32)) for frame in video_files.read(folder / f"{number}.mp4")]).astype(np.uint8)
        for number in range(3)
    ]


@pytest.fixture(scope="module")
def flows(frames: list[Images]) -> list[Images]:
    """The flow between them, one less."""
    return [
        np.stack([flow.to_uint8(flow.compute(*pair, method="dis")) for pair in itertools.pairwise(clip)])
        for clip in frames
    ]


def expected_logits(kind: Kind, images: Images) -> Rows:
    """What a network says of the views that are cut from the first N frames, or from N frames of flow."""
    count = len(images)
    clips = [[(start + 2 * number) % count for number in range(8)] for start in STARTS[count]]
    # Left, right and center crop of 42 columns.
    cut = np.stack([images[clip, :, left : left + 32] for left in (0, 10, 5) for clip in clips])
    scaled = (cut.astype(np.float32) - PIXELS[kind].mean[0]) / PIXELS[kind].std[0]
    with torch.inference_mode():
        return np.asarray(stream(kind).model(torch.from_numpy(scaled).movedim(-1, 1)), np.float32)


def summed_logits(frames: Sequence[Images], flows: Sequence[Images]) -> list[Rows]:
    """Those of a pair: each flow frame goes with the frame that it starts from."""
    return [
        expected_logits("rgb", colours[: len(moves)]) + expected_logits("flow", moves)
        for colours, moves in zip(frames, flows, strict=True)
    ]


def softmax(logits: Rows) -> Rows:
    exponentials = np.exp(logits)
    return np.asarray(exponentials / exponentials.sum(1, keepdims=True), np.float32)


def probabilities(logits: Sequence[Rows]) -> Rows:
    return np.stack([softmax(views).mean(0) for views in logits])


def evaluated(out: Path, *arguments: object) -> Rows:
    """The rows of a result."""
    result = run(*arguments, "--out", out)
    assert result.exit_code == 0, result.output
    return np.array(json.loads(out.read_text()), np.float32)


def assert_near(found: Rows, expected: Rows) -> None:
    limit = limits.logits_limit(stream("flow").card, expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("name", "averaging"), [("flow.safetensors", "none"), ("flow.safetensors", "prob"), ("flow.onnx", "score")]
)
def test_flow_is_computed_of_the_videos_of_a_list(
    folder: Path, flows: list[Images], tmp_path: Path, name: str, averaging: str
) -> None:
    found = evaluated(
        tmp_path / "r.json", folder / "flow_recipe.json", folder / name, "--average-clips", averaging, "--batch", 4
    )
    logits = [expected_logits("flow", clip) for clip in flows]
    means = {"prob": probabilities(logits), "score": np.stack([views.mean(0) for views in logits])}
    assert_near(found, means.get(averaging, np.concatenate(logits)))


@pytest.fixture(scope="module")
def flow_folder(flows: list[Images], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same clips as folders of flow images, which the list counts in pairs."""
    folder = tmp_path_factory.mktemp("flow")
    for number, clip in enumerate(flows):
        assert flow_images.write_pairs(folder / str(number), clip, quality=100) == LENGTHS[number] - 1
    (folder / "list.txt").write_text("".join(f"{number} {len(clip)} 0\n" for number, clip in enumerate(flows)))
    return folder


def folders_of(folder: Path) -> list[object]:
    """Options that take the folders of frames or flow in the place of the videos."""
    settings = ("kind=frames", f"test_list={folder / 'list.txt'}", f"test_root={folder}", "image_name={}.png")
    return [word for setting in settings for word in ("--set", f"data.{setting}")]


def read_flow(folder: Path) -> list[Images]:
    """All pairs of each clip."""
    found = []
    for number in range(3):
        x, y = (sorted((folder / str(number)).glob(f"{axis}_*.jpg")) for axis in "xy")
        planes = [[cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths] for paths in (x, y)]
        found.append(np.moveaxis(np.array(planes, np.uint8), 0, -1))
    return found


def test_flow_is_read_where_a_list_names_folders_of_it(
    folder: Path, flows: list[Images], flow_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "compute", None)
    options = folders_of(flow_folder)
    found = evaluated(tmp_path / "r.json", folder / "flow_recipe.json", folder / "flow.safetensors", *options)
    assert_near(found, probabilities([expected_logits("flow", clip) for clip in read_flow(flow_folder)]))
    # JPEG changes the levels a little, and so the rows.
    computed = probabilities([expected_logits("flow", clip) for clip in flows])
    np.testing.assert_allclose(found, computed, rtol=0, atol=0.01)


def test_a_pair_takes_the_frames_beside_the_flow(
    folder: Path, frames: list[Images], flow_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(flow_folder, tmp_path / "both")
    for number in range(3):
        for count, frame in enumerate(video_files.read(folder / f"{number}.mp4"), 1):
            cv2.imwrite(str(tmp_path / f"both/{number}/{count}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    options = folders_of(tmp_path / "both")
    found = evaluated(tmp_path / "r.json", folder / "rgb_recipe.json", folder / "pair.json", *options)
    assert_near(found, probabilities(summed_logits(frames, read_flow(flow_folder))))


@pytest.mark.parametrize("kind", ["rgb", "flow"])
@pytest.mark.parametrize("name", ["pair.json", "mixed.json"])
def test_a_pair_adds_up_logits_under_the_recipe_of_either_stream(
    folder: Path, frames: list[Images], flows: list[Images], tmp_path: Path, kind: Kind, name: str
) -> None:
    expected = probabilities(summed_logits(frames, flows))
    arguments = [folder / f"{kind}_recipe.json", folder / name, "--out", tmp_path / "r.json", "--eval"]
    result = run(*arguments, "top_k_accuracy")
    assert result.exit_code == 0, result.output
    assert_near(np.array(json.loads((tmp_path / "r.json").read_text()), np.float32), expected)
    # Two of three are right, and none is what the flow alone says.
    predicted = expected.argmax(1).tolist()
    assert predicted == [1, 4, 0]
    assert result.stdout.startswith("top1_acc: 0.6667\n")
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == [NAMES[index] for index in predicted]


def test_views_and_averaging_of_the_recipe_are_those_of_both_streams(
    folder: Path, frames: list[Images], flows: list[Images], tmp_path: Path
) -> None:
    # The engine keeps its card; the checkpoint beside it takes the recipe's views.
    arguments = [folder / "flow_recipe.json", folder / "mixed.json", "--out", tmp_path / "r.json"]
    result = run(*arguments, "--set", "test.spatial.num_crops=1", "--set", "test.averaging=logits")
    assert result.exit_code == 0, result.output
    found = np.array(json.loads((tmp_path / "r.json").read_text()), np.float32)
    # The last two of six views are those of the center.
    assert_near(found, np.stack([logits[4:].mean(0) for logits in summed_logits(frames, flows)]))
    notes = [line for line in result.stderr.splitlines() if line.startswith("Note: ")][1:]
    assert notes[:2] == [
        "Note: spatial.num_crops is 1 as the recipe says; the card says 3",
        "Note: averaging is over logits; the card says probabilities",
    ]


def test_a_cache_of_flow_is_filled_and_then_used(
    folder: Path, flows: list[Images], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ["--flow-cache", tmp_path / "cache"]
    evaluated(tmp_path / "first.json", folder / "rgb_recipe.json", folder / "pair.json", *cache)
    # Flow frames 2, 4 ... 20; 0, 2, 4 and 6; 3, 5 ... 25.
    assert len(list((tmp_path / "cache").rglob("*.png"))) == 10 + 4 + 12
    monkeypatch.setattr(flow, "compute", None)
    evaluated(tmp_path / "second.json", folder / "rgb_recipe.json", folder / "pair.json", *cache)
    assert (tmp_path / "second.json").read_bytes() == (tmp_path / "first.json").read_bytes()
    found = evaluated(tmp_path / "r.json", folder / "flow_recipe.json", folder / "flow.safetensors", *cache)
    assert_near(found, probabilities([expected_logits("flow", clip) for clip in flows]))


def test_a_stopped_evaluation_of_a_pair_goes_on_where_nothing_has_changed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{folder / '0.mp4'} 0\n{folder / '1.mp4'} 1\n{tmp_path / '2.mp4'} 2\n")
    arguments = [folder / "flow_recipe.json", folder / "pair.json", "--set", f"data.test_list={tmp_path / 'list.txt'}"]
    stopped = [*arguments, "--out", tmp_path / "r.json"]
    assert_one_line(run(*stopped), "1 of 3 videos cannot be read")
    refused = run(*stopped, "--set", "data.flow_method=tvl1")
    assert_one_line(refused, "r.json.partial is left from another evaluation (videos differ)")
    refused = run(stopped[0], folder / "mixed.json", *stopped[2:])
    assert_one_line(refused, "r.json.partial is left from another evaluation (artifact differ)")
    (tmp_path / "2.mp4").write_bytes((folder / "2.mp4").read_bytes())
    evaluated(tmp_path / "whole.json", *arguments)
    result = run(*stopped)
    assert result.exit_code == 0, result.output
    assert "2 of 3 videos are in" in result.stderr
    assert (tmp_path / "r.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_an_identity_names_both_streams(folder: Path) -> None:
    recipe = recipe_of(stream("rgb"), folder)
    found = Plan.of(recipe).identity(folder / "mixed.json")["artifact"]
    names = {".json": "mixed.json", "rgb.safetensors": "rgb.safetensors", "flow.onnx": "flow.onnx"}
    assert found == {part: files.sha256(folder / name) for part, name in names.items()}


def test_an_identity_says_who_computes_the_flow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_frames, of_flow = (Plan.of(recipe_of(stream(kind), folder)) for kind in kinds_of_streams())
    assert "flow" not in of_frames.identity(folder / "rgb.safetensors")
    monkeypatch.setattr(flow, "implementation", {"dis": "one", "tvl1": "two"}.get)
    computed = {"images": [], "computed": {"dis": "one", "tvl1": "two"}}
    assert of_flow.identity(folder / "flow.safetensors")["flow"] == computed
    assert of_frames.identity(folder / "pair.json")["flow"] == computed


def test_flow_images_are_told_from_flow_that_is_computed(folder: Path, tmp_path: Path) -> None:
    # Who computes flow here does not matter where it is read: it is the list's that is told from the card's.
    flow_images.write_pairs(tmp_path / "a", [np.full((40, 52, 2), 127, np.uint8)] * 20)
    record = {"method": "dis", "frames_per_second": 25.0, "implementation": "the list's", "short_side": 32}
    (tmp_path / "flow.json").write_text(json.dumps(record))
    (tmp_path / "list.txt").write_text("a 20 0\n")
    source = replace(stream("flow"), card=stream("flow").card.replaced(flow_implementation="the card's"))
    checkpoint.save(source, tmp_path / "flow.safetensors")
    data = recipe_of(source, folder).data.replaced(
        kind="frames", folder=str(tmp_path), labels=str(folder / "labels.txt")
    )
    recipe = recipe_of(source, folder).replaced(data=data)
    plan = Plan.of(recipe)
    assert plan.identity(tmp_path / "flow.safetensors")["flow"] == {"images": ["the list's"], "computed": {}}
    with evaluation.open_recognizer(tmp_path / "flow.safetensors", recipe, plan) as recognizer:
        (note,) = (note for note in recognizer.notes if "computed by" in note)
        assert note == "the flow of the list was computed by the list's; the card's was computed by the card's"
    (tmp_path / "flow.json").write_text(json.dumps({**record, "short_side": 64}))
    with pytest.raises(InputError, match=r"a short side of 64, and test\.spatial\.short_side is 32"):
        Plan.of(recipe)


def test_a_checkpoint_without_a_card_takes_the_flow_of_the_recipe(folder: Path, tmp_path: Path) -> None:
    keys = goldens.load_json("keys_inception_i3d_flow.json")
    torch.save({name: torch.zeros(shape, dtype=getattr(torch, kind)) for name, shape, kind in keys}, tmp_path / "z.pt")
    data = recipe_of(stream("flow"), folder).data.replaced(folder=str(tmp_path), test_list=str(folder / "list.txt"))
    data = data.replaced(labels="kinetics400")
    recipe = Recipe(network=i3d_inception_flow(), data=data, pixels=PIXELS["flow"])
    with evaluation.open_recognizer(tmp_path / "z.pt", recipe, Plan.of(recipe)) as recognizer:
        assert recognizer.flow is not None
        assert recognizer.flow.method == "dis"
        assert recognizer.card.pixels == PIXELS["flow"]
        assert recognizer.notes == ()


PLAIN = "--fresh"
LONGER = "--set=test.sampling.clip_len=16"
SLOWFAST = "--set=test.spatial.formula=slowfast"


@pytest.mark.parametrize(
    ("kind", "name", "option", "message"),
    [
        ("rgb", "flow.onnx", LONGER, "flow.onnx is shown flow, the network of the recipe rgb: take the recipe that it"),
        ("flow", "rgb.safetensors", PLAIN, "rgb.safetensors is shown rgb, the network of the recipe flow: take the"),
        ("rgb", "swapped.json", PLAIN, "swapped.json: its rgb stream flow.onnx is shown flow: export the pair again"),
        ("rgb", "four_pair.json", PLAIN, "four.safetensors has 4 classes, the recipe has 5: take the recipe that both"),
        (
            "flow",
            "four.safetensors",
            PLAIN,
            "four.safetensors has 4 classes, the recipe has 5: take the recipe that",
        ),
        ("flow", "other_pair.json", PLAIN, "other_pair.json: the two streams differ in labels ("),
        (
            "flow",
            "flow.onnx",
            LONGER,
            "flow.onnx takes views of 8 frames of 32x32, the recipe makes views of 16",
        ),
        (
            "rgb",
            "mixed.json",
            LONGER,
            "flow.onnx takes views of 8 frames of 32x32, the recipe makes views of 16",
        ),
        ("flow", "mixed.json", "--set=pixels.std=[9.0,9.0]", "flow.onnx scales pixels by mean (127.0, 127.0) and std"),
        ("flow", "flow.safetensors", SLOWFAST, "test.spatial.formula is slowfast, and flow is kept in 8 bits: give"),
        (
            "rgb",
            "pair.json",
            SLOWFAST,
            "flow.safetensors cannot take the views of the recipe: flow is stored in 8",
        ),
        ("rgb", "mixed.json", SLOWFAST, "flow.onnx cannot take the views of the recipe: engine.input uint8_nthwc does"),
        ("flow", "flow.onnx", "--flow-cache={folder}/0.mp4", "0.mp4: flow is cached in a folder, and this is a file"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(
    folder: Path, tmp_path: Path, kind: Kind, name: str, option: str, message: str
) -> None:
    options = [option.format(folder=folder), "--out", tmp_path / "r.json"]
    assert_one_line(run(folder / f"{kind}_recipe.json", folder / name, *options), message)
    assert not list(tmp_path.glob("r.json*"))


@pytest.mark.parametrize(("kind", "name"), [("rgb", "rgb.safetensors"), ("rgb", "pair.json"), ("flow", "pair.json")])
def test_flow_alone_is_refused_where_frames_are_shown(
    folder: Path, flow_folder: Path, tmp_path: Path, kind: Kind, name: str
) -> None:
    options = [*folders_of(flow_folder), "--out", tmp_path / "r.json"]
    message = f"list.txt: its folders hold flow images and no frames, which {folder / name} is shown: take a list of"
    result = run(folder / f"{kind}_recipe.json", folder / name, *options)
    assert_one_line(result, message, "training/prepare.py flow --rgb")
    assert not list(tmp_path.glob("r.json*"))


def test_a_folder_that_lacks_frames_among_others_is_a_broken_video(
    folder: Path, flow_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "still").mkdir()
    for number in range(1, 10):
        cv2.imwrite(str(tmp_path / f"still/{number}.png"), np.zeros((32, 42, 3), np.uint8))
    (tmp_path / "list.txt").write_text(f"{flow_folder / '1'} 8 0\nstill 9 0\n")
    options = [*folders_of(tmp_path), "--out", tmp_path / "r.json"]
    result = run(folder / "rgb_recipe.json", folder / "pair.json", *options)
    assert_one_line(result, f"1 of 2 videos cannot be read, so there is no result: {flow_folder / '1'};")
    assert f"Broken: {flow_folder / '1' / '1.png'}: no such file" in result.stderr
