"""Checkpoints of every origin: names and shapes as the originals have them, recognised, read, and refused by name."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from i3d_deploy import artifact, checkpoint, model, network, origins
from i3d_deploy.card import Card
from i3d_deploy.errors import CheckpointError, InputError
from i3d_deploy.head import I3D
from i3d_deploy.preprocessing import normalize
from tests import goldens, narrowed
from tests.slowfast_dump import dump

State = dict[str, Tensor]
Keys = list[list[Any]]

# Golden key list, origin, network, gain of the fill rule.
FILES = [
    ("mmaction_i3d_r50", "mmaction2", "i3d_r50", 1.0),
    ("mmaction_i3d_nl_gaussian", "mmaction2", "i3d_r50_nl_gaussian", 1.0),
    ("mmaction_i3d_nl_dot_product", "mmaction2", "i3d_r50_nl_dot_product", 1.0),
    ("mmaction_i3d_nl_embedded_gaussian", "mmaction2", "i3d_r50_nl_embedded_gaussian", 1.0),
    ("pytorchvideo_i3d_r50", "pytorchvideo", "i3d_r50_8x8_pytorchvideo", 1.0),
    ("slowfast_i3d_8x8_r50", "slowfast", "i3d_r50_8x8_slowfast", 1.0),
    ("slowfast_i3d_nln_8x8_r50", "slowfast", "i3d_r50_8x8_nl_embedded_gaussian_slowfast", 1.0),
    ("inception_i3d_rgb", "pytorch-i3d", "i3d_inception_rgb", 2.0),
    ("inception_i3d_flow", "pytorch-i3d", "i3d_inception_flow", 2.0),
]
CAFFE2 = [
    ("i3d_8x8_r50", "slowfast_i3d_8x8_r50", "i3d_r50_8x8_slowfast"),
    ("i3d_nln_8x8_r50", "slowfast_i3d_nln_8x8_r50", "i3d_r50_8x8_nl_embedded_gaussian_slowfast"),
]


def filled(keys: str, gain: float = 1.0) -> State:
    """A state under its original names, by the goldens' rule."""
    found = goldens.filled_state(goldens.load_json(f"keys_{keys}.json"), gain=gain)
    return {name: torch.from_numpy(value) for name, value in found.items()}


def zeros(keys: str) -> State:
    """The same names and shapes over one stored zero, so that files are small."""
    return {
        name: torch.zeros((), dtype=getattr(torch, dtype.removeprefix("torch."))).expand(shape)
        for name, shape, dtype in goldens.load_json(f"keys_{keys}.json")
    }


def built(name: str) -> I3D:
    """A network without memory."""
    with torch.device("meta"):
        return model.build(network.NETWORKS[name](400))


@pytest.mark.parametrize(("keys", "origin", "name", "gain"), FILES, ids=lambda value: str(value))
def test_every_entry_of_the_original_has_a_place(keys: str, origin: str, name: str, gain: float) -> None:
    listed: Keys = goldens.load_json(f"keys_{keys}.json")
    net, theirs = built(name), origins.ORIGINS[origin]
    found = {
        theirs.entry(entry): list(theirs.shapes(entry, tuple(tensor.shape))[0])
        for entry, tensor in net.state_dict().items()
    }
    assert found == {entry: shape for entry, shape, _ in listed}


@pytest.mark.parametrize(("blobs", "keys", "name"), CAFFE2)
def test_every_blob_has_a_place(blobs: str, keys: str, name: str) -> None:
    net = built(name)
    slowfast, caffe2 = origins.ORIGINS["slowfast"], origins.ORIGINS["caffe2"]
    found = {caffe2.entry(entry): slowfast.entry(entry) for entry in net.state_dict() if caffe2.invents(entry) is None}
    assert found == {blob: entry for blob, _, entry in goldens.load_json("caffe2_names.json")[blobs]}


def test_every_variable_of_the_tensorflow_checkpoints_has_a_place() -> None:
    listed = goldens.load_json("tf_variables_inception_i3d.json")
    theirs = origins.ORIGINS["kinetics-i3d"]

    def variables(name: str, scope: str) -> dict[str, list[list[int]]]:
        return {
            scope + theirs.entry(entry): [list(shape) for shape in theirs.shapes(entry, tuple(tensor.shape))]
            for entry, tensor in built(name).state_dict().items()
            if theirs.invents(entry) is None
        }

    rgb = variables("i3d_inception_rgb", "RGB/inception_i3d/")
    assert {name: shapes[0] for name, shapes in rgb.items()} == dict(listed["rgb_imagenet"])
    flow = variables("i3d_inception_flow", "Flow/inception_i3d/")
    assert {name: flow[name][0] for name, _ in listed["flow_imagenet"]} == dict(listed["flow_imagenet"])
    bare = {name.removeprefix("RGB/inception_i3d/"): shapes for name, shapes in rgb.items()}
    for name, shape in listed["rgb_scratch_kin600_excluding_momentum"]:
        if not name.startswith("Logits"):
            assert shape in bare[name]


@pytest.mark.parametrize(("keys", "origin", "name", "gain"), FILES, ids=lambda value: str(value))
def test_files_are_recognised(tmp_path: Path, keys: str, origin: str, name: str, gain: float) -> None:
    suffix, wrap = _WRAPPED[origin]
    path = tmp_path / f"{name.removesuffix('_slowfast')}{suffix}"
    torch.save(wrap(zeros(keys)), path)
    found = checkpoint.load(path)
    assert (found.card.network.name, found.card.provenance.origin) == (name, origin)


_WRAPPED: dict[str, tuple[str, Callable[[State], Any]]] = {
    "mmaction2": (".pth", lambda state: {"meta": {}, "state_dict": state}),
    "pytorchvideo": (".pyth", lambda state: {"model_state": state}),
    "slowfast": (".pyth", lambda state: {"epoch": 195, "model_state": state, "optimizer_state": {}, "cfg": "TRAIN:\n"}),
    "pytorch-i3d": (".pt", lambda state: state),
}


@pytest.mark.parametrize(("keys", "origin", "name", "gain"), [FILES[index] for index in (0, 4, 6, 7)])
def test_weights_come_through_unchanged(keys: str, origin: str, name: str, gain: float) -> None:
    state = filled(keys, gain)
    net = checkpoint.build_from(state, network.NETWORKS[name](400), origins.ORIGINS[origin])
    theirs = origins.ORIGINS[origin]
    for entry, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[theirs.entry(entry)].reshape(tensor.shape))


def test_the_configuration_of_a_slowfast_file_tells_look_alikes_apart(tmp_path: Path) -> None:
    state = zeros("slowfast_i3d_nln_8x8_r50")
    for mode, name in (("softmax", "embedded_gaussian"), ("dot_product", "dot_product")):
        path = tmp_path / f"{mode[:3]}.pyth"
        torch.save({"model_state": state, "cfg": dump(INSTANTIATION=mode)}, path)
        assert checkpoint.load(path).card.network.name == f"i3d_r50_8x8_nl_{name}_slowfast"
    torch.save({"model_state": state}, tmp_path / "a.pyth")
    with pytest.raises(CheckpointError, match=r"fit i3d_r50_8x8_nl_embedded_gaussian_slowfast and .* say which with"):
        checkpoint.load(tmp_path / "a.pyth")


def test_a_slowfast_file_of_16x4_is_tested_as_it_was_trained(tmp_path: Path) -> None:
    document = {"model_state": zeros("slowfast_i3d_8x8_r50"), "cfg": dump(NUM_FRAMES="16", SAMPLING_RATE="4")}
    torch.save(document, tmp_path / "a.pyth")
    found = checkpoint.load(tmp_path / "a.pyth")
    assert (found.card.sampling.clip_len, found.card.sampling.frame_interval) == (16, 4)
    assert narrowed.resnet_numbers(found.card.network).head_window == (8, 7, 7)
    assert found.model.network == found.card.network
    torch.save({**document, "cfg": dump(HEAD_ACT="sigmoid")}, tmp_path / "a.pyth")
    with pytest.raises(CheckpointError, match=r"a\.pyth: its training configuration has MODEL\.HEAD_ACT sigmoid"):
        checkpoint.load(tmp_path / "a.pyth")


def test_files_of_old_pytorch_have_no_counters(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in zeros("inception_i3d_rgb").items() if "num_batches" not in name}
    torch.save(state, tmp_path / "rgb_imagenet.pt")
    found = checkpoint.load(tmp_path / "rgb_imagenet.pt")
    assert found.card.network.name == "i3d_inception_rgb"
    assert not any("sigmoid" in note for note in found.notes)
    assert int(found.model.get_buffer("conv1a.bn.num_batches_tracked")) == 0


def test_charades_has_157_classes(tmp_path: Path) -> None:
    state = zeros("inception_i3d_flow")
    state["logits.conv3d.weight"] = torch.zeros(()).expand(157, 1024, 1, 1, 1)
    state["logits.conv3d.bias"] = torch.zeros(157)
    torch.save(state, tmp_path / "flow_charades.pt")
    found = checkpoint.load(tmp_path / "flow_charades.pt")
    (note,) = (note for note in found.notes if "sigmoid" in note)
    assert note == (
        "the 157 classes are taken for those of Charades, of which a video has several: the network was trained with a "
        "sigmoid per class, and probabilities here are a softmax over all of them"
    )
    card = found.card
    assert (card.network.num_classes, card.modality, card.flow_method) == (157, "flow", "tvl1")


@pytest.mark.parametrize(
    ("keys", "entry"),
    [
        ("mmaction_i3d_r50", "backbone.conv1.conv.weight"),
        ("pytorchvideo_i3d_r50", "blocks.4.res_blocks.5.branch2.conv_b.weight"),
        ("slowfast_i3d_8x8_r50", "s1.pathway0_stem.conv.weight"),
        ("inception_i3d_rgb", "Mixed_5b.b2b.conv3d.weight"),
        ("inception_i3d_rgb", "logits.conv3d.bias"),
    ],
)
def test_one_wrong_entry_is_named(tmp_path: Path, keys: str, entry: str) -> None:
    path = tmp_path / "a.pth"

    def message(state: State) -> str:
        torch.save({"state_dict": state}, path)
        with pytest.raises(CheckpointError, match=r"a\.pth: the weights do not fit") as caught:
            checkpoint.load(path)
        return str(caught.value).partition(": the weights do not fit ")[2].partition(": ")[2]

    state = zeros(keys)
    tensor = state.pop(entry)
    assert message(state) == f"missing {entry}"
    assert message({**state, entry + "s": tensor}) == f"missing {entry}; left over {entry}s"
    wrong = torch.zeros(()).expand(*tensor.shape[:-1], tensor.shape[-1] + 1)
    said = message({**state, entry: wrong})
    if entry != "logits.conv3d.bias":  # which tells the number of classes, so that the weights are at fault
        assert said == f"{entry} has shape {list(wrong.shape)} instead of {list(tensor.shape)}"
    else:
        assert said == "logits.conv3d.weight has shape [400, 1024, 1, 1, 1] instead of [401, 1024, 1, 1, 1]"


def caffe2_file(path: Path, blobs: str, keys: str) -> dict[str, goldens.Array]:
    """A pickle as Caffe2's, with the goldens' weights and what the loader must pass over."""
    listed = goldens.load_json("caffe2_names.json")
    state = goldens.filled_state(goldens.load_json(f"keys_{keys}.json"))
    arrays = {blob: state[entry].reshape(shape) for blob, shape, entry in listed[blobs]}
    extra = {name: np.zeros(shape, np.float32) for name, shape in listed["ignored"]}
    path.write_bytes(pickle.dumps({"blobs": {**arrays, **extra}, "cfg": "MODEL:\n"}, protocol=2))
    return state


@pytest.mark.parametrize(("blobs", "keys", "name"), CAFFE2)
def test_a_caffe2_file_gives_the_same_network(tmp_path: Path, blobs: str, keys: str, name: str) -> None:
    state = caffe2_file(tmp_path / "I3D.pkl", blobs, keys)
    found = checkpoint.load(tmp_path / "I3D.pkl")
    assert (found.card.provenance.origin, found.card.network.name) == ("caffe2", name)
    assert any(note.startswith("non-local blocks assumed: softmax") for note in found.notes) == ("_nl_" in name)
    same = checkpoint.build_from(
        {key: torch.from_numpy(value) for key, value in state.items()},
        network.NETWORKS[name](400),
        origins.ORIGINS["slowfast"],
    )
    for entry, tensor in found.model.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[entry])


def test_one_wrong_blob_is_named(tmp_path: Path) -> None:
    caffe2_file(tmp_path / "I3D.pkl", *CAFFE2[0][:2])
    document = pickle.loads((tmp_path / "I3D.pkl").read_bytes())  # noqa: S301 - written above
    blobs = document["blobs"]

    def message(changes: dict[str, Any], *, without: str = "") -> str:
        changed = {name: blob for name, blob in blobs.items() if name != without}
        (tmp_path / "I3D.pkl").write_bytes(pickle.dumps({"blobs": {**changed, **changes}}, protocol=2))
        with pytest.raises(CheckpointError, match=r"I3D\.pkl: the weights do not fit i3d_r50_8x8_slowfast") as caught:
            checkpoint.load(tmp_path / "I3D.pkl")
        return str(caught.value).partition("slowfast: ")[2]

    entry = "res4_5_branch2b_w"
    assert message({}, without=entry) == f"missing {entry}"
    assert (
        message({"res4_5_branch2x_w": blobs[entry]}, without=entry) == f"missing {entry}; left over res4_5_branch2x_w"
    )
    assert (
        message({entry: blobs[entry][:-1]}) == f"{entry} has shape [255, 256, 1, 3, 3] instead of [256, 256, 1, 3, 3]"
    )


def tensorflow_file(folder: Path, scope: str, gain: float = 2.0) -> dict[str, goldens.Array]:
    """A checkpoint as TensorFlow writes it, of pytorch-i3d's filled weights, by section 3.6 of the reference."""
    tensorflow = pytest.importorskip("tensorflow")
    state = goldens.filled_state(goldens.load_json("keys_inception_i3d_rgb.json"), gain=gain)
    listed = goldens.load_json("tf_variables_inception_i3d.json")["rgb_imagenet"]
    branches = {"Branch_0/Conv3d_0a": "b0", "Branch_1/Conv3d_0a": "b1a", "Branch_1/Conv3d_0b": "b1b"}
    branches |= {"Branch_2/Conv3d_0a_1": "b2a", "Branch_2/Conv3d_0a_3": "b2b", "Branch_2/Conv3d_0b": "b2b"}
    branches |= {"Branch_3/Conv3d_0b": "b3b"}
    kinds = {"beta": "bn.bias", "moving_mean": "bn.running_mean", "moving_variance": "bn.running_var"}
    variables = {}
    for name, shape in listed:
        layer, _, kind = name.removeprefix("RGB/inception_i3d/").rpartition("/")
        layer = layer.removesuffix("/conv_3d").removesuffix("/batch_norm")
        if layer.startswith("Mixed"):
            block, _, branch = layer.partition("/")
            layer = f"{block}.{next(ours for theirs, ours in branches.items() if branch.startswith(theirs))}"
        if layer.startswith("Logits"):
            entry = "logits.conv3d.weight" if kind == "w" else "logits.conv3d.bias"
        else:
            entry = f"{layer}.conv3d.weight" if kind == "w" else f"{layer}.{kinds[kind]}"
        value = state[entry].transpose(2, 3, 4, 1, 0) if state[entry].ndim == 5 else state[entry]
        assert list(value.shape) == shape, name
        variables[scope + name.removeprefix("RGB/inception_i3d/")] = value
    names = sorted(variables)
    tensorflow.raw_ops.SaveV2(
        prefix=str(folder / "model.ckpt"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tensorflow.constant(np.ascontiguousarray(variables[name])) for name in names],
    )
    return state


@pytest.mark.parametrize("scope", ["RGB/inception_i3d/", ""])
def test_a_tensorflow_checkpoint_gives_the_same_network(tmp_path: Path, scope: str) -> None:
    state = tensorflow_file(tmp_path, scope)
    found = checkpoint.load(tmp_path / "model.ckpt")
    assert (found.card.provenance.origin, found.card.network.name) == ("kinetics-i3d", "i3d_inception_rgb")
    tensors = {entry: torch.from_numpy(value) for entry, value in state.items()}
    same = checkpoint.build_from(tensors, network.i3d_inception_rgb(), origins.ORIGINS["pytorch-i3d"]).state_dict()
    for entry, tensor in found.model.state_dict().items():
        # Sonnet's batch normalisation has no factor.
        expected = torch.ones_like(tensor) if entry.endswith("bn.weight") else same[entry]
        assert torch.equal(tensor, expected), entry


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_ckpt_of_pytorch_is_none_of_tensorflow(tmp_path: Path, is_zip: bool) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": zeros("mmaction_i3d_r50")}, path, _use_new_zipfile_serialization=is_zip)
    assert artifact.identify(path).kind == "checkpoint"
    assert checkpoint.load(path).card.network.name == "i3d_r50"


def test_what_no_origin_has_is_refused(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(3), "b": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"not an I3D of .*SlowFast.*its entries are a\.weight, b; --origin says"):
        checkpoint.load(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"do not fit i3d_r50_8x8_pytorchvideo: missing blocks\.0\.conv\.weight"):
        checkpoint.load(tmp_path / "a.pt", origin="pytorchvideo")
    with pytest.raises(InputError, match="origin 'theano' is not one of caffe2, kinetics-i3d, mmaction2"):
        checkpoint.load(tmp_path / "a.pt", origin="theano")


def test_the_cards_say_how_the_origins_test(tmp_path: Path) -> None:
    torch.save({"model_state": zeros("pytorchvideo_i3d_r50")}, tmp_path / "a.pyth")
    card = checkpoint.load(tmp_path / "a.pyth").card
    # Section 11 of the reference: x / 255, mean 0.45, std 0.225 on all channels; 8 frames of 8; probabilities fused.
    np.testing.assert_allclose(normalized(card, (0, 0.45 * 255, 255)), [-2, 0, 0.55 / 0.225], atol=1e-6)
    assert (card.sampling.formula, card.sampling.clip_len, card.sampling.num_clips) == ("slowfast", 8, 10)
    assert (card.spatial.formula, card.spatial.num_crops, card.averaging) == ("slowfast", 3, "probabilities")
    torch.save(zeros("inception_i3d_rgb"), tmp_path / "a.pt")
    card = checkpoint.load(tmp_path / "a.pt").card
    assert normalized(card, (0, 127.5, 255)) == [-1, 0, 1]
    assert (card.sampling.scheme, card.sampling.frames_per_second, card.averaging) == ("whole", 25, "logits")


def normalized(card: Card, pixel: tuple[float, ...]) -> list[float]:
    """What one pixel of three values becomes."""
    values = np.array(pixel, np.float32).reshape(1, 1, 1, 1, 3)
    return [float(value) for value in normalize(values, card.pixels).ravel()]
