"""Paddings that become the convolution's or pool's own: equal before and after, or left alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from i3d_deploy import model, rewrites, to_onnx
from i3d_deploy.card import Engine
from tests import narrowed
from tests.test_rewrites import run

RandomState = np.random.RandomState


def padded(
    reader: str,
    *,
    before: str = "Relu",
    pads: tuple[int, ...] = (0, 0, 1, 0, 2, 0, 0, 2, 3, 0),
    value: float | None = None,
    mode: str = "constant",
    kernel: tuple[int, ...] = (3, 3, 3),
    strides: tuple[int, ...] = (2, 2, 1),
    own_pads: tuple[int, ...] = (0,) * 6,
) -> onnx.ModelProto:
    """Something, a padding, and a convolution or pool that reads it."""
    weights = RandomState(0).standard_normal((4, 3, *kernel)).astype(np.float32)
    constants = [numpy_helper.from_array(np.array(pads, np.int64), "pads")]
    names = ["1", "pads"]
    if value is not None:
        constants.append(numpy_helper.from_array(np.array(value, np.float32), "value"))
        names.append("value")
    inputs = ["2"]
    if reader == "Conv":
        constants.append(numpy_helper.from_array(weights, "w"))
        inputs.append("w")
    nodes = [
        helper.make_node(before, ["x"], ["1"]),
        helper.make_node("Pad", names, ["2"], mode=mode),
        helper.make_node(reader, inputs, ["y"], kernel_shape=kernel, strides=strides, pads=own_pads),
    ]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ("N", 3, 8, 9, 10))
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ("N", None, None, None, None))
    graph = helper.make_graph(nodes, "padded", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def operators(made: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in made.graph.node)


INPUTS = RandomState(1).standard_normal((2, 3, 8, 9, 10)).astype(np.float32)


@pytest.mark.parametrize("reader", ["Conv", "MaxPool"])
@pytest.mark.parametrize("own_pads", [(0,) * 6, (1, 0, 1, 0, 1, 1)], ids=["no padding", "some padding"])
def test_paddings_become_the_readers(reader: str, own_pads: tuple[int, ...]) -> None:
    plain = padded(reader, own_pads=own_pads, pads=(0, 0, 1, 0, 1, 0, 0, 1, 1, 0))
    merged = rewrites.merge_pads(plain)
    assert operators(plain)["Pad"] == 1
    assert operators(merged)["Pad"] == 0
    assert "pads" not in {entry.name for entry in merged.graph.initializer}
    np.testing.assert_array_equal(run(merged, INPUTS), run(plain, INPUTS))


LEFT_ALONE = {
    "what may be negative before a pool": {"reader": "MaxPool", "before": "Identity"},
    "another value": {"reader": "Conv", "value": 1.0},
    "a mirrored border": {"reader": "Conv", "mode": "reflect"},
    "channels": {"reader": "Conv", "pads": (0, 1, 1, 1, 0, 0, 0, 0, 0, 0)},
    "a cut": {"reader": "Conv", "pads": (0, 0, 1, 0, -1, 0, 0, 2, 3, 0)},
    "a pool on the padding alone": {"reader": "MaxPool", "pads": (0, 0, 3, 0, 0, 0, 0, 0, 0, 0)},
    "what it cannot be part of": {"reader": "AveragePool"},
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_others_stay_as_they_are(name: str) -> None:
    plain = padded(**LEFT_ALONE[name])  # type: ignore[arg-type]
    assert rewrites.merge_pads(plain) == plain


def test_a_padding_that_something_else_reads_stays() -> None:
    plain = padded("Conv")
    plain.graph.output.append(helper.make_tensor_value_info("2", onnx.TensorProto.FLOAT, ("N", 3, None, None, None)))
    assert rewrites.merge_pads(plain) == plain


@pytest.mark.parametrize("size", [(9, 32), (10, 33), (15, 36), (16, 47)], ids=str)
def test_inception_pads_nothing_any_more(size: tuple[int, int]) -> None:
    numbers = narrowed.small("i3d_inception_rgb", 7)
    net = model.build(numbers)
    model.randomize(net, seed=0)
    card = narrowed.card_of(numbers, frames=size[0], side=size[1])
    plain = to_onnx.convert(net, card, Engine(input="float32_ncthw"))
    merged = rewrites.merge_pads(plain)
    assert operators(merged)["Pad"] == 0
    inputs = RandomState(0).standard_normal((1, numbers.in_channels, size[0], size[1], size[1])).astype(np.float32)
    np.testing.assert_array_equal(run(merged, inputs), run(plain, inputs))
    with torch.no_grad():
        expected = net(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(run(merged, inputs), expected, rtol=0, atol=1e-5)


def test_a_rewrite_is_noted_where_it_found_something() -> None:
    plain = padded("Conv")
    assert to_onnx.changes(plain, "merge_pads")
    assert not to_onnx.changes(rewrites.merge_pads(plain), "merge_pads")
