"""Graphs of eight bits: what stands in them, what they compute, and that TensorRT takes them."""

from __future__ import annotations

from collections.abc import Iterator

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from i3d_deploy import quantize_onnx, to_onnx, to_tensorrt
from i3d_deploy.card import Engine
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import ExportError
from i3d_deploy.quantize_onnx import Kind

KINDS: tuple[Kind, ...] = ("int8", "fp8")


def block(*, channels: int = 2) -> onnx.ModelProto:
    """frames -> stem -> relu; the relu -> convolution -> + relu -> logits: a block with an identity as its shortcut."""
    random = np.random.RandomState(0)
    weights = [
        numpy_helper.from_array(random.randn(channels, channels, 1, 1, 1).astype(np.float32), name)
        for name in ("stem.weight", "layer.weight")
    ]
    bias = numpy_helper.from_array(random.randn(channels).astype(np.float32), "layer.bias")
    nodes = [
        helper.make_node("Conv", ["frames", "stem.weight"], ["stem"], name="Conv_0"),
        helper.make_node("Relu", ["stem"], ["x"], name="Relu_1"),
        helper.make_node("Conv", ["x", "layer.weight", "layer.bias"], ["made"], name="Conv_2"),
        helper.make_node("Add", ["made", "x"], ["logits"], name="Add_3"),
    ]
    shape: list[str | int | None] = ["N", channels, 1, 1, 4]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("frames", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [*weights, bias],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def array(model: onnx.ModelProto, name: str) -> NDArray[np.float32]:
    """A constant of a graph."""
    return np.asarray(numpy_helper.to_array(next(entry for entry in model.graph.initializer if entry.name == name)))


def rounded(values: NDArray[np.float32], largest: NDArray[np.float32] | float, kind: Kind) -> NDArray[np.float32]:
    """Values as eight bits hold them, when the largest one is the largest number."""
    limit = 127 if kind == "int8" else 448
    scale = np.asarray(largest, np.float32) / np.float32(limit)
    scaled = np.clip(values / scale, -limit, limit)
    bits = np.rint(scaled) if kind == "int8" else scaled.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    return np.asarray(bits * scale, np.float32)


def run(model: onnx.ModelProto, frames: NDArray[np.float32]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"frames": frames})[0])


def convolved(weights: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.einsum("oi,nithw->nothw", weights[:, :, 0, 0, 0], x), np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_computes_what_eight_bits_hold(kind: Kind) -> None:
    model = block()
    frames = np.random.RandomState(1).randn(3, 2, 1, 1, 4).astype(np.float32)
    views = [frames[index : index + 1] for index in range(3)]
    stem, layer, bias = (array(model, name) for name in ("stem.weight", "layer.weight", "layer.bias"))

    def of_channels(weights: NDArray[np.float32]) -> NDArray[np.float32]:
        return rounded(weights, np.abs(weights).max(axis=(1, 2, 3, 4), keepdims=True), kind)

    def mean_of_largest(values: NDArray[np.float32]) -> float:
        return float(np.mean([np.abs(values[index]).max() for index in range(3)]))

    largest = mean_of_largest(np.maximum(convolved(stem, frames), 0))
    if kind == "int8":  # in fp8 the stem stays as it is
        x = convolved(of_channels(stem), rounded(frames, mean_of_largest(frames), kind))
    else:
        x = convolved(stem, frames)
    eight = rounded(np.maximum(x, 0), largest, kind)
    expected = convolved(of_channels(layer), eight) + bias[None, :, None, None, None] + eight
    found = run(quantize_onnx.quantize(model, views, kind), frames)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def views_of(checkpoint: Checkpoint, count: int) -> Iterator[NDArray[np.uint8]]:
    random = np.random.RandomState(0)
    for _ in range(count):
        yield random.randint(0, 256, (1, *checkpoint.card.view_shape)).astype(np.uint8)


@pytest.fixture(scope="module", params=KINDS)
def quantized(request: pytest.FixtureRequest, tiny_checkpoint: Checkpoint) -> tuple[Kind, onnx.ModelProto]:
    kind: Kind = request.param
    graph = to_onnx.convert(tiny_checkpoint.model, tiny_checkpoint.card, Engine(precision=kind))
    return kind, quantize_onnx.quantize(graph, views_of(tiny_checkpoint, 3), kind)


def test_the_graph_is_what_tensorrt_wants(quantized: tuple[Kind, onnx.ModelProto]) -> None:
    kind, model = quantized
    element = TensorProto.INT8 if kind == "int8" else TensorProto.FLOAT8E4M3FN
    constants = {entry.name: entry for entry in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    eight_bits = [node for node in convolutions if made_by.get(node.input[1]) is not None]
    assert len(convolutions) - len(eight_bits) == (0 if kind == "int8" else 1)
    for node in eight_bits:
        weights, data = made_by[node.input[1]], made_by[node.input[0]]
        assert (weights.op_type, data.op_type) == ("DequantizeLinear", "DequantizeLinear")
        bits, scale, zero = (constants[name] for name in weights.input)
        assert (bits.data_type, zero.data_type) == (element, element)
        assert scale.dims == zero.dims == [bits.dims[0]]
        assert constants[data.input[1]].dims == []
        assert not np.asarray(numpy_helper.to_array(zero), np.float32).any()
        assert constants[node.input[2]].data_type == TensorProto.FLOAT, "the bias"
    # The classifier keeps its weights.
    assert any(node.op_type in ("Gemm", "MatMul") and node.input[1] in constants for node in model.graph.node)


def test_two_runs_give_the_same_bytes(quantized: tuple[Kind, onnx.ModelProto], tiny_checkpoint: Checkpoint) -> None:
    kind, first = quantized
    graph = to_onnx.convert(tiny_checkpoint.model, tiny_checkpoint.card, Engine(precision=kind))
    before = graph.SerializeToString(deterministic=True)
    second = quantize_onnx.quantize(graph, views_of(tiny_checkpoint, 3), kind)
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    assert graph.SerializeToString(deterministic=True) == before


def test_every_shortcut_is_read_in_eight_bits(quantized: tuple[Kind, onnx.ModelProto]) -> None:
    _, model = quantized
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    additions = [node for node in model.graph.node if node.op_type == "Add"]
    sides = [sorted(made_by.get(name, "") for name in node.input) for node in additions]
    # Two stages of two blocks, whose shortcuts are a convolution and the identity; around the non-local block too.
    assert sides == [["Conv", "DequantizeLinear"]] * 5


@pytest.mark.parametrize("kind", KINDS)
def test_tensorrt_builds_it(kind: Kind, tiny_checkpoint: Checkpoint) -> None:
    engine = Engine(precision=kind, input="float32_ncthw")
    graph = to_onnx.convert(tiny_checkpoint.model, tiny_checkpoint.card, engine)
    frames, height, width, channels = tiny_checkpoint.card.view_shape
    view = np.random.RandomState(0).randn(1, channels, frames, height, width).astype(np.float32)
    model = quantize_onnx.quantize(graph, [view], kind)
    options = to_tensorrt.EngineOptions(flavor="tensorrt_rtx", compute_capability="8.9")
    plan = to_tensorrt.build(model.SerializeToString(), profile=(1, 2, 4), options=options)
    assert (plan.compute_capability, len(plan.content) > 0) == ("8.9", True)


def test_a_graph_without_convolutions_is_refused() -> None:
    model = block()
    del model.graph.node[0], model.graph.node[1]
    with pytest.raises(ExportError, match=r"no convolution with constant weights to quantise"):
        quantize_onnx.find_places(model, "int8")


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(ExportError, match=r"not finite on the clips given"):
        quantize_onnx.quantize(block(), [np.full((1, 2, 1, 1, 4), np.inf, np.float32)], "int8")
    with pytest.raises(ExportError, match=r"no view to measure"):
        quantize_onnx.quantize(block(), [], "int8")
