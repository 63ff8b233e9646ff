"""Rewrites that leave out work: equal before and after, on random networks and not only on I3D."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from i3d_deploy import model, network, rewrites, to_onnx, work
from i3d_deploy.card import Card, Engine, Provenance
from i3d_deploy.checkpoint import Checkpoint
from tests import narrowed

RandomState = np.random.RandomState


class Stem(NamedTuple):
    """Convolution, pointwise operators, max pool, with random weights; paddings are half of the kernels."""

    kernel: tuple[int, ...] = (3, 3, 3)
    strides: tuple[int, ...] = (2, 2, 2)
    pool_kernel: tuple[int, ...] = (1, 3, 3)
    pool_strides: tuple[int, ...] = (2, 2, 2)
    between: tuple[str, ...] = ("Relu",)
    dilation: int = 1

    def graph(self, size: tuple[int, ...], *, seed: int = 0) -> onnx.ModelProto:
        """The graph, N dynamic."""
        rank = len(size)
        weights = RandomState(seed).standard_normal((4, 3, *self.kernel)).astype(np.float32)
        windows: dict[str, dict[str, Any]] = {
            "Conv": {"kernel_shape": self.kernel, "strides": self.strides, "dilations": [self.dilation] * rank},
            "MaxPool": {"kernel_shape": self.pool_kernel, "strides": self.pool_strides},
        }
        for window in windows.values():
            window["pads"] = [side // 2 for side in window["kernel_shape"]] * 2
        nodes = [helper.make_node("Conv", ["x", "w"], ["0"], **windows["Conv"])]
        nodes += [helper.make_node(kind, [str(n)], [str(n + 1)]) for n, kind in enumerate(self.between)]
        nodes += [helper.make_node("MaxPool", [str(len(self.between))], ["y"], **windows["MaxPool"])]
        inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ("N", 3, *size))]
        outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ("N", 4, *[None] * rank))]
        graph = helper.make_graph(nodes, "stem", inputs, outputs, [numpy_helper.from_array(weights, "w")])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(made: onnx.ModelProto, inputs: NDArray[Any]) -> NDArray[Any]:
    onnx.checker.check_model(made, full_check=True)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    return np.asarray(session.run(None, {name: inputs})[0])


def strides_of(made: onnx.ModelProto, kind: str) -> list[int]:
    (node,) = (node for node in made.graph.node if node.op_type == kind)
    found: list[int] = rewrites.attributes(node)["strides"]
    return found


MOVED = {
    "the stem of I3D": (Stem(kernel=(5, 7, 7)), 4),
    "a stride of one": (Stem(strides=(1, 1, 1), pool_kernel=(1, 2, 2), pool_strides=(2, 1, 1)), 2),
    "three by three": (Stem(kernel=(3, 1, 1), strides=(3, 1, 1), pool_strides=(3, 2, 2)), 9),
    "an even kernel": (Stem(kernel=(4, 3, 3)), 4),
    "nothing between": (Stem(between=()), 4),
    "several between": (Stem(between=("Relu", "Sigmoid", "Tanh")), 4),
    "dilated": (Stem(strides=(1, 1, 1), dilation=2), 2),
}


@pytest.mark.parametrize("size", [(8, 12, 12), (9, 13, 11), (7, 10, 15)], ids=str)
@pytest.mark.parametrize("name", MOVED)
def test_the_answer_is_the_same_bit_by_bit(name: str, size: tuple[int, ...]) -> None:
    numbers, temporal_stride = MOVED[name]
    before = numbers.graph(size)
    kept = before.SerializeToString()
    after = rewrites.skip_dropped_frames(before)
    assert strides_of(after, "Conv")[0] == temporal_stride
    assert strides_of(after, "MaxPool")[0] == 1
    assert before.SerializeToString() == kept
    inputs = RandomState(1).standard_normal((2, 3, *size)).astype(np.float32)
    np.testing.assert_array_equal(run(after, inputs), run(before, inputs))


@pytest.mark.parametrize("seed", range(20))
def test_random_networks_answer_the_same(seed: int) -> None:
    random = RandomState(seed)
    kernel, pool_kernel = (tuple(int(side) for side in random.randint(1, 5, 3)) for _ in range(2))
    strides, pool_strides = (tuple(int(side) for side in random.randint(1, 4, 3)) for _ in range(2))
    size = tuple(int(side) for side in random.randint(9, 16, 3))
    before = Stem(kernel, strides, pool_kernel, pool_strides).graph(size, seed=seed)
    after = rewrites.skip_dropped_frames(before)
    moved = [stride if side == 1 else 1 for stride, side in zip(pool_strides, pool_kernel, strict=True)]
    expected = [ours * theirs for ours, theirs in zip(strides, moved, strict=True)]
    assert strides_of(after, "Conv") == expected
    inputs = random.standard_normal((1, 3, *size)).astype(np.float32)
    np.testing.assert_allclose(run(after, inputs), run(before, inputs), rtol=0, atol=1e-5)


def test_axes_of_images_are_skipped_too() -> None:
    before = Stem(kernel=(3, 3), strides=(1, 1), pool_kernel=(1, 1), pool_strides=(2, 3)).graph((11, 13))
    after = rewrites.skip_dropped_frames(before)
    assert strides_of(after, "Conv") == [2, 3]
    inputs = RandomState(1).standard_normal((1, 3, 11, 13)).astype(np.float32)
    np.testing.assert_allclose(run(after, inputs), run(before, inputs), rtol=0, atol=1e-6)


KEPT = {
    "the pool looks at neighbours": Stem(pool_kernel=(2, 3, 3)),
    "the pool drops nothing": Stem(pool_strides=(1, 2, 2)),
    "the pool is padded": Stem(pool_kernel=(3, 3, 3)),
    "what lies between mixes": Stem(between=("Softmax",)),
}


@pytest.mark.parametrize("name", KEPT)
def test_others_stay_as_they_are(name: str) -> None:
    before = KEPT[name].graph((9, 12, 12))
    assert rewrites.skip_dropped_frames(before) == before


def test_sizes_that_are_rounded_up_are_left_alone() -> None:
    before = Stem().graph((9, 12, 12))
    before.graph.node[-1].attribute.append(helper.make_attribute("ceil_mode", 1))
    assert rewrites.skip_dropped_frames(before) == before


def test_paddings_that_are_worked_out_are_left_alone() -> None:
    before = Stem().graph((9, 12, 12))
    pool = before.graph.node[-1]
    kept = [attribute for attribute in pool.attribute if attribute.name != "pads"]
    del pool.attribute[:]
    pool.attribute.extend([*kept, helper.make_attribute("auto_pad", "SAME_UPPER")])
    assert rewrites.skip_dropped_frames(before) == before


@pytest.mark.parametrize("reader", ["a node", "the caller"])
def test_frames_that_something_else_reads_are_kept(reader: str) -> None:
    before = Stem().graph((9, 12, 12))
    if reader == "a node":
        before.graph.node.append(helper.make_node("Relu", ["1"], ["z"]))
    name = "z" if reader == "a node" else "1"
    before.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    assert rewrites.skip_dropped_frames(before) == before


@pytest.mark.parametrize("name", narrowed.RESNETS)
def test_in_pytorch_the_difference_is_zero(name: str) -> None:
    numbers = narrowed.resnet_numbers(network.NETWORKS[name](7)).model_copy(update={"width": 4, "head_window": None})
    net = model.build(numbers)
    model.randomize(net, seed=0)
    strided = copy.deepcopy(net)
    strided.conv1.stride = (numbers.stem_stride * numbers.stem_pool_stride, 2, 2)
    strided.maxpool.stride = (1, 2, 2)
    inputs = torch.from_numpy(RandomState(0).standard_normal((1, 3, 16, 64, 64)).astype(np.float32))
    with torch.inference_mode():
        assert float((net(inputs) - strided(inputs)).abs().max()) == 0


def test_the_r50_saves_half_of_its_stem() -> None:
    numbers = network.i3d_r50()
    card = Card(
        network=numbers,
        label_set="numbered",
        labels=tuple(map(str, range(400))),
        provenance=Provenance(origin="random weights"),
    )
    traced = to_onnx.convert(model.build(numbers), card, Engine())
    left = work.count(rewrites.skip_dropped_frames(traced))
    # 64 outputs of 3 x 5 x 7 x 7 weights each at 128 x 128 positions of 8 frames instead of 16.
    assert work.count(traced).macs - left.macs == 64 * 3 * 5 * 7 * 7 * 128 * 128 * 8
    assert left.macs == 43_269_259_264 - 6_165_626_880


def test_every_export_is_rewritten_unless_asked_not_to(tiny_checkpoint: Checkpoint) -> None:
    traced = to_onnx.convert(tiny_checkpoint.model, tiny_checkpoint.card, Engine())
    frames = RandomState(2).randint(0, 256, (2, 8, 32, 32, 3)).astype(np.uint8)
    for layout in ("3d", "2d"):
        engine = Engine.model_validate({"rewrites": ("skip_dropped_frames",), "layout": layout})
        np.testing.assert_allclose(run(to_onnx.optimize(traced, engine), frames), run(traced, frames), atol=1e-5)
    assert to_onnx.optimize(traced, Engine()) == traced


@pytest.mark.parametrize("order", ["data first", "constant first"])
@pytest.mark.parametrize("shape", [(3,), (4, 3), (1, 1, 1, 1), (5, 1, 3), ()], ids=str)
@pytest.mark.parametrize("permutation", [(0, 3, 1, 2), (0, 2, 1, 3), (3, 0, 2, 1)], ids=str)
def test_transpositions_go_before_arithmetic(permutation: tuple[int, ...], shape: tuple[int, ...], order: str) -> None:
    constant = RandomState(0).uniform(1, 2, shape).astype(np.float32)
    operands = ["x", "c"] if order == "data first" else ["c", "x"]
    nodes = [
        helper.make_node("Sub", operands, ["0"]),
        helper.make_node("Div", ["0", "c"], ["1"]),
        helper.make_node("Transpose", ["1"], ["y"], perm=permutation),
    ]
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ("N", 5, 4, 3))]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * 4)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(constant, "c")])
    before = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    after = rewrites.transpose_first(before)
    assert [node.op_type for node in after.graph.node] == ["Transpose", "Sub", "Div"]
    data = RandomState(1).standard_normal((2, 5, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(run(after, data), run(before, data))


def test_a_result_that_is_read_twice_is_transposed_afterwards() -> None:
    nodes = [
        helper.make_node("Sub", ["x", "c"], ["0"]),
        helper.make_node("Transpose", ["0"], ["1"], perm=(1, 0)),
        helper.make_node("MatMul", ["0", "1"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ("N", 3))]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * 2)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(np.ones(3, np.float32), "c")])
    before = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert rewrites.transpose_first(before) == before
