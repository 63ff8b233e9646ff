"""The networks against the originals, activation by activation."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch

from i3d_deploy import checkpoint, model, network, resnet
from i3d_deploy.head import I3D
from i3d_deploy.origins import MMACTION2
from tests import goldens, narrowed

# Golden file, network, float32 tolerance (goldens' README: the gaussian softmax is nearly one-hot).
NETWORKS = [
    ("i3d_r50", network.i3d_r50, 1e-5),
    ("i3d_nl_dot_product", network.i3d_r50_nl_dot_product, 1e-3),
    ("i3d_nl_embedded_gaussian", network.i3d_r50_nl_embedded_gaussian, 1e-3),
    ("i3d_nl_gaussian", network.i3d_r50_nl_gaussian, 5e-3),
]


@lru_cache(maxsize=1)
def filled_state(name: str) -> dict[str, torch.Tensor]:
    """Weights by the goldens' rule under the original's names, kept for the next case of the same network."""
    state = goldens.filled_state(goldens.load_json(f"keys_mmaction_{name}.json"))
    return {key: torch.from_numpy(value) for key, value in state.items()}


def filled_model(name: str, numbers: network.ResNet) -> I3D:
    """A network with these weights."""
    return checkpoint.build_from(dict(filled_state(name)), numbers, MMACTION2)


def probes(net: I3D, names: list[str]) -> dict[str, torch.Tensor]:
    """Hook the activations that the goldens name; filled during the next forward pass."""
    found: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _module, _inputs, output: found.__setitem__(name, output.clone())

    modules = {"cls_head.avg_pool": None, "conv1": None}
    for name in names:
        if name not in modules:
            net.get_submodule(name.replace("non_local_block", "non_local")).register_forward_hook(keep(name))
    narrowed.resnet(net).maxpool.register_forward_pre_hook(
        lambda _module, inputs: found.__setitem__("conv1", inputs[0].clone())
    )
    net.dropout.register_forward_pre_hook(
        lambda _module, inputs: found.__setitem__("cls_head.avg_pool", inputs[0].clone())
    )
    return found


# Views of 64 pixels of every network, and the usual 224 (c) of the plain one and of that which overflows soonest.
CASES = [
    (case, *entry) for entry in NETWORKS for case in "abc" if case != "c" or entry[0] in ("i3d_r50", "i3d_nl_gaussian")
]


@pytest.mark.parametrize(
    ("case", "name", "build", "float32_tolerance"), CASES, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_activations_equal_the_original(case: str, name: str, build: Any, float32_tolerance: float) -> None:
    golden = goldens.load_npz(f"mmaction_{name}.npz")
    inputs = goldens.standard_input(int(golden[f"{case}/seed"]), tuple(golden[f"{case}/input_shape"]))
    np.testing.assert_array_equal(inputs.ravel()[:8], golden[f"{case}/input_first8"])
    names = sorted({key.split("/")[2] for key in golden if key.startswith(f"{case}/probe/")})
    net = filled_model(name, build())
    with torch.no_grad():
        logits32 = net(torch.from_numpy(inputs))
        found = probes(net.double(), names)
        logits64 = net(torch.from_numpy(inputs).double())
    for probe in names:
        values = found[probe].numpy().ravel()
        prefix = f"{case}/probe/{probe}"
        step = max(1, values.size // 16)
        stats = [values.mean(), values.std(), np.abs(values).max()]
        np.testing.assert_allclose(stats, golden[f"{prefix}/stats"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(values[:16], golden[f"{prefix}/first16"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(values[::step][:16], golden[f"{prefix}/strided16"], rtol=0, atol=1e-9)
    pooled = found["cls_head.avg_pool"].numpy().reshape(len(inputs), -1)
    np.testing.assert_allclose(pooled, golden[f"{case}/pooled_f64"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(logits64.numpy(), golden[f"{case}/logits_f64"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(logits32.numpy(), golden[f"{case}/logits_f32"], rtol=0, atol=float32_tolerance)


BLOCKS = goldens.load_json("non_local_blocks.json")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block["key"])
def test_non_local_blocks_equal_the_original(block: dict[str, Any]) -> None:
    state = goldens.filled_state(block["keys"])
    net = resnet.NonLocalBlock(
        block["in_channels"], mode=block["mode"], sub_sample=block["sub_sample"], use_scale=block["use_scale"]
    )
    # g.0.conv.weight and g.conv.weight are g.weight; conv_out.bn.bias is bn.bias, conv_out.conv.weight out.weight.
    renamed = {
        key.replace("conv_out.bn.", "bn.").replace("conv_out.", "out.").replace("0.", "").replace("conv.", ""): value
        for key, value in state.items()
    }
    net.load_state_dict({key: torch.from_numpy(value) for key, value in renamed.items()})
    inputs = goldens.standard_input(block["input_seed"], tuple(block["input_shape"])) * np.float32(block["input_gain"])
    with torch.no_grad():
        out = net.double().eval()(torch.from_numpy(inputs).double()).numpy().ravel()
    if not block["full"]:
        out = out[:: max(1, out.size // 512)][:512]
    golden = goldens.load_npz("non_local_blocks.npz")[f"{block['key']}/out_f64"]
    np.testing.assert_allclose(out, golden.ravel(), rtol=0, atol=1e-9)


# Section 10 of the reference: parameters and buffers of the original networks.
COUNTS = [
    ("i3d_r50", 28_043_472, 53_173),
    ("i3d_r50_heavy", 33_024_208, 53_173),
    ("i3d_r50_nl_gaussian", 31_723_728, 61_370),
    ("i3d_r50_nl_embedded_gaussian", 35_397_840, 61_370),
    ("i3d_r50_nl_dot_product", 35_397_840, 61_370),
]


@pytest.mark.parametrize(("name", "parameters", "buffers"), COUNTS)
def test_parameter_counts_equal_the_original(name: str, parameters: int, buffers: int) -> None:
    with torch.device("meta"):
        net = model.build(network.NETWORKS[name](400))
    assert sum(tensor.numel() for tensor in net.parameters()) == parameters
    assert sum(tensor.numel() for tensor in net.buffers()) == buffers


def test_random_weights_depend_on_the_seed_alone(tiny_network: network.ResNet) -> None:
    first, second, third = (model.build(tiny_network) for _ in range(3))
    model.randomize(first, seed=1)
    model.randomize(second, seed=1)
    model.randomize(third, seed=2)
    assert torch.equal(first.conv1.weight, second.conv1.weight)
    assert not torch.equal(first.conv1.weight, third.conv1.weight)


@pytest.mark.parametrize("name", sorted(network.NETWORKS))
def test_random_weights_keep_the_logits_of_order_one(name: str) -> None:
    numbers = network.NETWORKS[name](400)
    net = model.build(numbers)
    model.randomize(net, seed=0)
    side = 224 if numbers.head_window else 64
    frames = max(8, numbers.least_clip_len(side))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        logits = net(torch.randn(1, numbers.in_channels, frames, side, side, generator=generator))
    assert 0.01 < float(logits.std()) < 100


@pytest.mark.parametrize("mode", ["gaussian", "embedded_gaussian", "dot_product"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_non_local_blocks_stay_finite_under_autocast(mode: network.NonLocalMode, dtype: torch.dtype) -> None:
    # 512 channels of about 20: inner products of 200000 are beyond float16's 65504.
    torch.manual_seed(0)
    block = resnet.NonLocalBlock(512, mode=mode).eval()
    for convolution in (block.g, getattr(block, "theta", block.g), getattr(block, "phi", block.g)):
        torch.nn.init.normal_(convolution.weight, std=0.01)  # as the network initialises them
    x = 20 + torch.randn(1, 512, 1, 4, 4)
    with torch.no_grad():
        exact = block(x)
        with torch.autocast("cpu", dtype=dtype):
            found = block(x)
    assert torch.isfinite(found).all()
    # Its convolutions are rounded to 8 or 11 bits.
    assert (found.float() - exact).norm() < 0.05 * exact.norm()
