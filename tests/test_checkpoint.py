"""Checkpoints as they are found: recognised, renamed, checked, refused."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from i3d_deploy import checkpoint, labels, model, network
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import CardError, CheckpointError, InputError
from i3d_deploy.head import I3D
from i3d_deploy.origins import MMACTION2
from tests import goldens, narrowed

State = dict[str, Tensor]


def mmaction_state(net: I3D) -> State:
    """A network's weights under mmaction2's names, by the table of the reference (section 3.1)."""
    renamed: State = {}
    for name, tensor in net.state_dict().items():
        head, _, kind = name.rpartition(".")
        parts = head.split(".")
        if head == "fc":
            new = f"cls_head.fc_cls.{kind}"
        elif "non_local" in parts:
            block, part = head.split(".non_local.")
            inner = {
                "g": "g.0.conv",
                "phi": "phi.0.conv",
                "theta": "theta.conv",
                "out": "conv_out.conv",
                "bn": "conv_out.bn",
            }
            new = f"backbone.{block}.non_local_block.{inner[part]}.{kind}"
        elif parts[-2:-1] == ["downsample"]:
            new = f"backbone.{'.'.join(parts[:-1])}.{'conv' if parts[-1] == '0' else 'bn'}.{kind}"
        else:
            number, is_norm = parts[-1][-1], parts[-1].startswith("bn")
            new = ".".join(["backbone", *parts[:-1], f"conv{number}", "bn" if is_norm else "conv", kind])
        renamed[new] = tensor
    return renamed


def small(name: str, num_classes: int = 5) -> I3D:
    """A variant in an eighth of the width, with random weights."""
    numbers = network.NETWORKS[name](num_classes)
    net = model.build(numbers.model_copy(update={"width": 8}))
    model.randomize(net, seed=1)
    return net


@pytest.mark.parametrize("name", ["i3d_r50", "i3d_nl_dot_product", "i3d_nl_embedded_gaussian", "i3d_nl_gaussian"])
def test_every_entry_of_the_original_has_a_place(name: str) -> None:
    keys = goldens.load_json(f"keys_mmaction_{name}.json")
    numbers = network.NETWORKS[name.replace("i3d_nl", "i3d_r50_nl")](400)
    with torch.device("meta"):
        net = model.build(numbers)
    ours = {name: list(tensor.shape) for name, tensor in mmaction_state(net).items()}
    assert ours == {name: shape for name, shape, *_ in keys}


@pytest.fixture(scope="module")
def zoo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the zoo has it: every entry of the plain network by the goldens' rule, with the training's meta."""
    state = goldens.filled_state(goldens.load_json("keys_mmaction_i3d_r50.json"))
    path = tmp_path_factory.mktemp("zoo") / "i3d_r50.pth"
    document = {
        "meta": {"mmcv_version": "1.1.1", "epoch": 100, "iter": 3, "time": "Sun Jun 14 2020", "hook_msgs": {}},
        "state_dict": {key: torch.from_numpy(value) for key, value in state.items()},
    }
    torch.save(document, path)
    return path


def test_a_zoo_file_is_recognised(zoo_file: Path) -> None:
    found = checkpoint.load(zoo_file)
    assert found.card.network == network.i3d_r50()
    assert found.card.label_set == "kinetics400"
    assert found.card.provenance.sha256 == hashlib.sha256(zoo_file.read_bytes()).hexdigest()
    assert found.card.sampling.formula == "mmaction2-0.x"
    assert any("labels assumed: kinetics400" in note for note in found.notes)


def test_the_published_hash_is_checked(zoo_file: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(zoo_file.read_bytes()).hexdigest()[:8]
    good, bad = tmp_path / f"i3d_r50_20200614-{digest}.pth", tmp_path / "i3d_r50_20200614-c25ef9a4.pth"
    for path in (good, bad):
        path.symlink_to(zoo_file)
    assert checkpoint.load(good).card.network.name == "i3d_r50"
    with pytest.raises(
        CheckpointError, match=rf"SHA-256 of c25ef9a4\.\.\., the file has {digest}.*i3d-export --allow-hash"
    ):
        checkpoint.load(bad)
    assert checkpoint.load(bad, allow_hash_mismatch=True).card.network.name == "i3d_r50"


def write(path: Path, state: State, **document: Any) -> Path:
    """A checkpoint with mmaction2's layout."""
    torch.save({"meta": document.pop("meta", {}), "state_dict": state, **document}, path)
    return path


@pytest.fixture(scope="module")
def full_states() -> dict[str, State]:
    """Full-size states of the variants that are told apart, with shared zeros so that they are small to write."""
    names = ["i3d_r50", "i3d_r50_heavy", "i3d_r50_nl_gaussian", "i3d_r50_nl_dot_product"]
    states: dict[str, State] = {}
    for name in names:
        with torch.device("meta"):
            net = model.build(network.NETWORKS[name](9))
        # One stored zero behind every tensor keeps the files small.
        states[name] = {
            key: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for key, tensor in mmaction_state(net).items()
        }
    return states


@pytest.mark.parametrize(
    ("state", "file_name", "meta", "expected"),
    [
        ("i3d_r50", "a.pth", {}, "i3d_r50"),
        ("i3d_r50_heavy", "a.pth", {}, "i3d_r50_heavy"),
        ("i3d_r50_nl_gaussian", "a.pth", {}, "i3d_r50_nl_gaussian"),
        ("i3d_r50_nl_dot_product", "i3d_nl_dot_product_r50.pth", {}, "i3d_r50_nl_dot_product"),
        ("i3d_r50_nl_dot_product", "i3d_nl_embedded_gaussian_r50.pth", {}, "i3d_r50_nl_embedded_gaussian"),
        ("i3d_r50_nl_dot_product", "a.pth", {"config": "mode='embedded_gaussian'"}, "i3d_r50_nl_embedded_gaussian"),
        ("i3d_r50_nl_dot_product", "a.pth", {"cfg": "mode='dot_product'"}, "i3d_r50_nl_dot_product"),
    ],
)
def test_networks_are_recognised(
    full_states: dict[str, State], tmp_path: Path, state: str, file_name: str, meta: dict[str, str], expected: str
) -> None:
    found = checkpoint.load(write(tmp_path / file_name, full_states[state], meta=meta))
    assert found.card.network.name == expected
    assert found.card.network.num_classes == 9
    assert found.card.labels[0] == "class_0"


def test_look_alikes_ask_for_the_name(full_states: dict[str, State], tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", full_states["i3d_r50_nl_dot_product"])
    with pytest.raises(CheckpointError, match=r"i3d_r50_nl_dot_product alike: say which with i3d-export --model"):
        checkpoint.load(path)
    found = checkpoint.load(path, network="i3d_r50_nl_dot_product").card.network
    assert narrowed.resnet_numbers(found).non_local_mode == "dot_product"


def test_sampling_follows_the_stored_configuration(full_states: dict[str, State], tmp_path: Path) -> None:
    config = "dict(type='DenseSampleFrames', clip_len=16, frame_interval=4, num_clips=1)"
    found = checkpoint.load(write(tmp_path / "a.pth", full_states["i3d_r50"], meta={"config": config}))
    sampling = found.card.sampling
    assert (sampling.scheme, sampling.clip_len, sampling.frame_interval) == ("dense", 16, 4)
    assert any(note.startswith("sampling assumed: dense, formula of mmaction2-0.x") for note in found.notes)


def test_heavy_clips_are_8x8(full_states: dict[str, State], tmp_path: Path) -> None:
    sampling = checkpoint.load(write(tmp_path / "a.pth", full_states["i3d_r50_heavy"])).card.sampling
    assert (sampling.clip_len, sampling.frame_interval) == (8, 8)


def test_a_module_prefix_is_stripped(full_states: dict[str, State], tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in full_states["i3d_r50"].items()}
    assert checkpoint.load(write(tmp_path / "a.pth", state)).card.network.name == "i3d_r50"


@pytest.mark.parametrize("prefix", ["model.", "net.module."])
def test_a_prefix_of_all_entries_is_left_out_and_noted(
    full_states: dict[str, State], tmp_path: Path, prefix: str
) -> None:
    state = {prefix + name: tensor for name, tensor in full_states["i3d_r50"].items()}
    path = write(tmp_path / "a.ckpt", state, **{"pytorch-lightning_version": "2.5.0"})
    note = f"entries are read without their prefix '{prefix}'"
    for origin in (None, "mmaction2"):
        found = checkpoint.load(path, origin=origin)
        assert found.card.network.name == "i3d_r50"
        assert note in found.notes
    assert not any(
        "prefix" in text for text in checkpoint.load(write(tmp_path / "b.pth", full_states["i3d_r50"])).notes
    )
    state["loss.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="not an I3D of"):
        checkpoint.load(write(path, state))


# Writes a file as mmengine does: class names of the data set, and its HistoryBuffer pickled in message_hub.
WRITE_1X = """
import sys, types, numpy as np, torch
module = types.ModuleType("mmengine.logging.history_buffer")
class HistoryBuffer:
    def __init__(self):
        self._max_length = 1000000
        self._log_history = np.array([2.5, 1.5])
        self._count_history = np.array([1, 1])
        self.last = np.float64(1.5)
HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
module.HistoryBuffer = HistoryBuffer
for name in ("mmengine", "mmengine.logging", module.__name__):
    sys.modules[name] = module
document = torch.load(sys.argv[1])
document["meta"] = {"mmengine_version": "0.4.0", "dataset_meta": {"classes": [f"action {i}" for i in range(9)]}}
document["message_hub"] = {"log_scalars": {"train/loss": HistoryBuffer()}, "runtime_info": {"iter": np.int64(3)}}
torch.save(document, sys.argv[2])
"""


def test_a_1x_file_with_its_message_hub_is_read(full_states: dict[str, State], tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.pth", full_states["i3d_r50"])
    path = tmp_path / "1x.pth"
    subprocess.run([sys.executable, "-c", WRITE_1X, plain, path], check=True)
    found = checkpoint.load(path)
    assert found.card.sampling.formula == "mmaction2-1.x"
    assert found.card.labels[8] == "action 8"
    assert not any(note.startswith("labels") for note in found.notes)


class Malicious:
    """Pickles to a call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_pickled_code_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.pth"
    torch.save({"state_dict": Malicious()}, path)
    with pytest.raises(
        CheckpointError, match=r"refused, it needs the pickled code .*print; only tensors and plain .*: where you trust"
    ):
        checkpoint.load(path)
    assert "executed" not in capsys.readouterr().out


def test_misfits_are_listed(full_states: dict[str, State], tmp_path: Path) -> None:
    state = dict(full_states["i3d_r50"])
    state["backbone.layer1.0.conv2.convolution.weight"] = state.pop("backbone.layer1.0.conv2.conv.weight")
    state["backbone.layer4.2.conv3.bn.bias"] = torch.zeros(3)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(write(tmp_path / "a.pth", state))
    message = str(caught.value)
    assert "missing backbone.layer1.0.conv2.conv.weight" in message
    assert "left over backbone.layer1.0.conv2.convolution.weight" in message
    assert "backbone.layer4.2.conv3.bn.bias has shape [3] instead of [2048]" in message


BAD_FILES = [
    ("nothing.pth", None, "no such file"),
    ("empty.pth", b"", "the file is empty"),
    ("text.pth", b"hello world, this is no checkpoint", "not a PyTorch checkpoint|refused"),
    ("letter.pth", b"e", "not a PyTorch checkpoint, or a damaged one$"),
    ("zip.pth", b"PK\x03\x04" + bytes(200), "not a PyTorch checkpoint"),
    ("empty.safetensors", b"", "the file is empty"),
    ("engine.onnx", b"graph", "is an exported engine: give the checkpoint it was made from"),
    ("text.safetensors", b"hello world, this is no checkpoint", "not a whole safetensors file"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(path)


def test_truncation_anywhere_is_one_error(zoo_file: Path, tmp_path: Path) -> None:
    whole = zoo_file.read_bytes()
    path = tmp_path / "cut.pth"
    for length in (1, 10, 1000, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.pth"):
            checkpoint.load(path)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([1, 2], "holds a list instead of a checkpoint's dictionary"),
        ({"epoch": 3}, "has no state_dict with tensors; its entries are epoch"),
        ({"state_dict": {"fc.weight": torch.zeros(2, 2)}}, "not an I3D of .*mmaction2.*its entries are fc.weight"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, document: Any, message: str) -> None:
    path = tmp_path / "a.pth"
    torch.save(document, path)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(path)


def test_the_native_format_keeps_weights_and_card(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(tiny_checkpoint, path)
    found = checkpoint.load(path)
    assert found.card == tiny_checkpoint.card
    ours = found.model.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in tiny_checkpoint.model.state_dict().items())


def test_a_card_of_a_huge_network_takes_no_memory(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    card = tiny_checkpoint.card.replaced(network=tiny_checkpoint.card.network.model_copy(update={"width": 65536}))
    path = tmp_path / "a.safetensors"
    checkpoint.save(Checkpoint(model=tiny_checkpoint.model, card=card), path)
    with pytest.raises(CheckpointError, match=r"conv1\.weight has shape \[8, 3, 5, 7, 7\] instead of \[65536, "):
        checkpoint.load(path)


def test_loading_leaves_the_random_numbers_alone(zoo_file: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    checkpoint.load(zoo_file)
    assert torch.equal(torch.rand(1), expected)


def test_a_native_file_is_of_the_network_asked_for(tiny_exports: Path) -> None:
    with pytest.raises(InputError, match="holds the network tiny, not i3d_r50"):
        checkpoint.load(tiny_exports / "tiny.safetensors", network="i3d_r50")


def test_a_native_file_without_card_is_refused(tmp_path: Path) -> None:
    import safetensors.torch

    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CardError, match="carries no card"):
        checkpoint.load(path)


def test_an_unknown_network_name_is_refused(zoo_file: Path) -> None:
    with pytest.raises(InputError, match=r"'i3d_r18' is not one of .*i3d_r50, "):
        checkpoint.load(zoo_file, network="i3d_r18")


def test_inflation_equals_the_original(tmp_path: Path) -> None:
    golden = goldens.load_npz("inflation_r50.npz")
    keys = goldens.load_json("keys_mmaction_i3d_r50.json")
    filled = {name: torch.from_numpy(value) for name, value in goldens.filled_state(keys).items()}
    net = checkpoint.build_from(filled, network.i3d_r50(), MMACTION2)
    # From a file as torchvision publishes it, which is what --init takes.
    torch.save(
        {**resnet50_state(), "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, tmp_path / "r.pth"
    )
    said = checkpoint.initialize(net, tmp_path / "r.pth", label_names=labels.load("kinetics400"))
    assert said == "weights of the 2D network r.pth, inflated; a new classifier"
    ours = mmaction_state(net)
    for name, expected in zip(golden["r50/sum_keys"], golden["r50/sum_values"], strict=True):
        values = ours[str(name)].double().numpy().ravel()
        found = [values.sum(), np.abs(values).sum(), values[0], values[-1]]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-9)
    inputs = goldens.standard_input(int(golden["r50/a/seed"]), tuple(golden["r50/a/shape"]))
    with torch.no_grad():
        logits = net.double()(torch.from_numpy(inputs).double()).numpy()
    np.testing.assert_allclose(logits, golden["r50/a/logits_f64"], rtol=0, atol=1e-9)


def resnet50_state() -> State:
    """A 2D ResNet-50 with torchvision's names, filled by the goldens' rule."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    channels = 64
    for stage, blocks in enumerate([3, 4, 6, 3]):
        width = 64 * 2**stage
        for block in range(blocks):
            prefix = f"layer{stage + 1}.{block}"
            shapes[f"{prefix}.conv1.weight"] = (width, channels, 1, 1)
            shapes[f"{prefix}.conv2.weight"] = (width, width, 3, 3)
            shapes[f"{prefix}.conv3.weight"] = (4 * width, width, 1, 1)
            for number, size in ((1, width), (2, width), (3, 4 * width)):
                shapes |= norm(f"{prefix}.bn{number}", size)
            if block == 0:
                shapes[f"{prefix}.downsample.0.weight"] = (4 * width, channels, 1, 1)
                shapes |= norm(f"{prefix}.downsample.1", 4 * width)
            channels = 4 * width
    shapes |= {"fc.weight": (1000, 2048), "fc.bias": (1000,)}
    filled = goldens.filled_state([[name, shape] for name, shape in shapes.items()])
    state = {name: torch.from_numpy(value) for name, value in filled.items()}
    return {name: tensor + 7 if name.endswith("tracked") else tensor for name, tensor in state.items()}


def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    """Entries of a batch normalisation."""
    vectors = {f"{name}.{kind}": (channels,) for kind in ("weight", "bias", "running_mean", "running_var")}
    return {**vectors, f"{name}.num_batches_tracked": ()}


def test_inflation_of_another_network_is_refused() -> None:
    state = resnet50_state()
    del state["layer3.5.conv2.weight"]
    with pytest.raises(CheckpointError, match=r"missing layer3\.5\.conv2\.weight"):
        checkpoint.inflate(state, model.build(network.i3d_r50(5)))


def test_fine_tuning_begins_with_a_checkpoint_of_the_zoo_and_a_new_classifier(tmp_path: Path) -> None:
    keys = goldens.load_json("keys_mmaction_i3d_r50.json")
    state = {name: torch.from_numpy(value) for name, value in goldens.filled_state(keys).items()}
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "i3d.pth")
    net = model.build(network.i3d_r50(51))
    fresh = net.fc.weight.clone()
    said = checkpoint.initialize(net, tmp_path / "i3d.pth", label_names=labels.load("hmdb51"))
    assert said == "weights of i3d.pth (i3d_r50), a new classifier for 51 classes"
    assert torch.equal(net.conv1.weight, state["backbone.conv1.conv.weight"])
    assert torch.equal(net.get_parameter("layer4.2.conv3.weight"), state["backbone.layer4.2.conv3.conv.weight"])
    assert torch.equal(net.fc.weight, fresh)
    same = model.build(network.i3d_r50())
    said = checkpoint.initialize(same, tmp_path / "i3d.pth", label_names=labels.load("kinetics400"))
    assert said == "weights of i3d.pth (i3d_r50), with its classifier"
    assert torch.equal(same.fc.weight, state["cls_head.fc_cls.weight"])


def test_initial_weights_of_neither_kind_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other.pth: not an I3D of .*mmaction2"):
        checkpoint.initialize(model.build(network.i3d_r50()), tmp_path / "other.pth", label_names=("a",))
