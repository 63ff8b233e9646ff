"""The counters of multiply-accumulates: the networks' known costs, and graphs worked out by hand."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from i3d_deploy import artifact, export, model, origins, to_onnx, torch_work, work
from i3d_deploy.builders import Optimization
from i3d_deploy.card import Card, Engine, Provenance
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import ExportError
from i3d_deploy.measurements import Work
from i3d_deploy.network import NETWORKS, Inception, ResNet
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.to_tensorrt import EngineOptions
from tests import goldens, narrowed, skeletons
from tests.skeletons import SKELETONS

# Measured on the original networks: GMAC of a view at 224 and 256 pixels, GMAC of 30 views at 256. SlowFast's NLN is
# given as 1467.51 there, which is 30 times the rounded 48.917; the other rows are rounded once, and so is this here.
COSTS = {
    "r50": (33.128, 43.269, 1298.08),
    "nl_gaussian": (41.723, 56.288, 1688.65),
    "nl_embedded": (44.339, 59.107, 1773.21),
    "heavy": (31.696, 41.399, 1241.96),
    "r50_8x8": (28.408, 37.106, 1113.18),
    "nln_8x8": (36.535, 48.917, 1467.52),
    "inception_rgb": (55.576, 72.593, 2177.79),
    "inception_flow": (51.171, 66.838, 2005.15),
}
# Of Inception by its channels and frames, at 224 pixels.
CLIP_COSTS = {(3, 79): 138.942, (2, 250): 400.525}
# Exact, of single operators at 256 pixels.
OPERATORS = {
    "r50": {"Conv": 43_268_440_064, "Gemm": 819_200},
    "heavy": {"Gemm": 819_200},
    "nl_gaussian": {"MatMul": 7_650_410_496, "Gemm": 819_200},
    "nl_embedded": {"MatMul": 5_100_273_664, "Gemm": 819_200},
}

ROW = {
    "i3d_inception_flow": "inception_flow",
    "i3d_inception_rgb": "inception_rgb",
    "i3d_r50": "r50",
    "i3d_r50_8x8_nl_dot_product_slowfast": "nln_8x8",
    "i3d_r50_8x8_nl_embedded_gaussian_slowfast": "nln_8x8",
    "i3d_r50_8x8_pytorchvideo": "r50_8x8",
    "i3d_r50_8x8_slowfast": "r50_8x8",
    "i3d_r50_heavy": "heavy",
    "i3d_r50_nl_dot_product": "nl_embedded",
    "i3d_r50_nl_embedded_gaussian": "nl_embedded",
    "i3d_r50_nl_gaussian": "nl_gaussian",
}
KEYS = {
    "mmaction_i3d_r50": "r50",
    "mmaction_i3d_nl_gaussian": "nl_gaussian",
    "mmaction_i3d_nl_embedded_gaussian": "nl_embedded",
    "pytorchvideo_i3d_r50": "r50_8x8",
    "slowfast_i3d_8x8_r50": "r50_8x8",
    "inception_i3d_rgb": "inception_rgb",
    "inception_i3d_flow": "inception_flow",
}


class Exported(NamedTuple):
    """A network of the zoo as it is exported at 256 pixels."""

    card: Card
    graph: onnx.ModelProto


def zoo_card(network: ResNet | Inception) -> Card:
    """A card of the zoo's views."""
    is_short = network.name == "i3d_r50_heavy" or "8x8" in network.name
    parts = origins.usual_conventions(network).parts
    return Card(
        network=network,
        label_set="numbered",
        labels=tuple(str(index) for index in range(400)),
        provenance=Provenance(origin="random weights"),
        **{**parts, "sampling": Sampling(clip_len=8 if is_short else 32), "spatial": Spatial()},
    )


WHOLE = ["i3d_inception_rgb", "i3d_r50", "i3d_r50_8x8_slowfast", "i3d_r50_nl_dot_product"]
"""One of each kind in its full width, which takes long: test_to_2d.py counts narrowed exports of all."""


@pytest.fixture(scope="module", params=WHOLE)
def exported(request: pytest.FixtureRequest) -> Exported:
    """Networks of the zoo, converted; the weights are whatever the memory held."""
    card = zoo_card(NETWORKS[request.param](400))
    with torch.device("meta"):
        net = model.build(card.network)
    return Exported(card, to_onnx.convert(net.to_empty(device="cpu"), card, Engine()))


def macs_by_operator(graph: onnx.ModelProto) -> Counter[str]:
    """Multiply-accumulates of each operator that has some."""
    found: Counter[str] = Counter()
    for layer in work.layers(graph):
        found[layer.op] += layer.macs
    return found


def assert_cost(row: str, macs: int, *, side: int) -> None:
    """Hold a count against the table's digits."""
    at_224, at_256, video = COSTS[row]
    assert round(macs / 1e9, 3) == (at_224 if side == 224 else at_256)
    if side == 256:
        assert round(30 * macs / 1e9, 2) == video


def slides(exported: Exported) -> bool:
    """Whether the head classifies several places of a window."""
    return NETWORKS[exported.card.network.name](400).head_window is not None


def test_exported_networks_cost_what_the_originals_do(exported: Exported) -> None:
    row = ROW[exported.card.network.name]
    assert_cost(row, work.count(exported.graph).macs, side=256)
    by_operator = macs_by_operator(exported.graph)
    assert OPERATORS.get(row, {}).items() <= by_operator.items()
    has_products = "_nl_" in exported.card.network.name or slides(exported)
    assert ("MatMul" in by_operator) == has_products


def test_three_ways_of_counting_agree(exported: Exported) -> None:
    found = work.count(exported.graph)
    in_pytorch = torch_work.work_of_network(exported.card.network, exported.card.view_shape)
    skeleton = work.count(SKELETONS[ROW[exported.card.network.name]](256))
    if slides(exported):
        # Their elements differ: PyTorch pads copies, and the skeleton's classifier is a convolution.
        assert in_pytorch.macs == skeleton.macs == found.macs
    else:
        assert in_pytorch == skeleton == found


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks_in_pytorch_cost_what_the_originals_do(name: str) -> None:
    network = NETWORKS[name](400)
    frames, *_ = zoo_card(network).view_shape
    assert_cost(ROW[name], torch_work.work_of_network(network, (frames, 224, 224, network.in_channels)).macs, side=224)


def test_r50_costs_the_exact_number() -> None:
    r50 = NETWORKS["i3d_r50"](400)
    for side, macs in ((224, 33_128_218_624), (256, 43_269_259_264)):
        assert work.count(SKELETONS["r50"](side)).macs == macs
        assert torch_work.work_of_network(r50, (32, side, side, 3)).macs == macs


def test_a_stem_that_leaves_out_frames_does_half_of_its_work() -> None:
    views = (32, 256, 256, 3)
    stem = 64 * 16 * 128 * 128 * 5 * 7 * 7 * 3
    for name, left_out in (("i3d_r50", stem // 2), ("i3d_r50_heavy", 0)):
        network = NETWORKS[name](400)
        plain = torch_work.work_of_network(network, views).macs
        assert torch_work.work_of_network(network, views, skips_dropped_frames=True).macs == plain - left_out


@pytest.mark.parametrize("side", [224, 256])
@pytest.mark.parametrize("row", COSTS)
def test_every_network_of_the_table_costs_what_it_says(row: str, side: int) -> None:
    assert_cost(row, work.count(SKELETONS[row](side)).macs, side=side)


def test_non_local_blocks_that_pool_first_cost_what_they_must() -> None:
    # P = 4096 positions of C = 512 channels, twice; P = 1024 of C = 1024, three times; S = P / 4 and D = C / 2.
    blocks = [(4096, 512), (4096, 512), (1024, 1024), (1024, 1024), (1024, 1024)]
    convolutions = sum((2 * p + 2 * p // 4) * c * c // 2 for p, c in blocks)
    products = sum(2 * p * p // 4 * c // 2 for p, c in blocks)
    without, found = (macs_by_operator(SKELETONS[row](256)) for row in ("r50_8x8", "nln_8x8"))
    assert found - without == {"Conv": convolutions, "MatMul": products}
    weights = [sum(map(np.prod, skeletons.weight_shapes(SKELETONS[row](256)))) for row in ("r50_8x8", "nln_8x8")]
    # The originals' parameters, less three biases of D, one of C and a normalisation (2 C).
    assert weights[1] - weights[0] == 35_401_936 - 28_043_472 - sum(9 * c // 2 for _, c in blocks)


@pytest.mark.parametrize(("channels", "frames"), CLIP_COSTS)
def test_inception_on_longer_clips_costs_what_the_original_does(channels: int, frames: int) -> None:
    found = work.count(skeletons.inception(224, channels=channels, frames=frames))
    assert round(found.macs / 1e9, 3) == CLIP_COSTS[channels, frames]
    network = NETWORKS["i3d_inception_rgb" if channels == 3 else "i3d_inception_flow"](400)
    assert torch_work.work_of_network(network, (frames, 224, 224, channels)).macs == found.macs


@pytest.mark.parametrize("keys", KEYS)
def test_skeletons_have_the_weights_of_the_originals(keys: str) -> None:
    expected = [tuple(shape) for _, shape, _ in goldens.load_json(f"keys_{keys}.json") if len(shape) > 1]
    found = skeletons.weight_shapes(SKELETONS[KEYS[keys]](224))
    assert Counter(found) == Counter(expected)


def graph_of(
    nodes: list[onnx.NodeProto], inputs: dict[str, tuple[Any, ...]], *initializers: onnx.TensorProto, **changes: Any
) -> onnx.ModelProto:
    """A graph of some nodes; inputs are float32, but those named in changes.

    Args:
        nodes: In order; the last one makes the output.
        inputs: Shape by name.
        initializers: Weights and numbers.
        changes: Other types of inputs by name.
    """
    values = [
        helper.make_tensor_value_info(name, changes.get(name, TensorProto.FLOAT), shape)
        for name, shape in inputs.items()
    ]
    output = helper.make_tensor_value_info(nodes[-1].output[0], changes.get("y", TensorProto.FLOAT), None)
    graph = helper.make_graph(nodes, "small", values, [output], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def int64(name: str, *values: int) -> onnx.TensorProto:
    """A constant, such as a shape."""
    return numpy_helper.from_array(np.array(values, np.int64), name)


def small_graphs() -> dict[str, tuple[onnx.ModelProto, Work]]:
    """Graphs and their work, by hand: outputs times weights per output; left, right and output tensors."""
    node = helper.make_node
    return {
        "grouped convolution": (
            graph_of(
                [node("Conv", ["x", "w"], ["y"], group=4, pads=[1] * 4)], {"x": ("N", 8, 6, 6), "w": (12, 2, 3, 3)}
            ),
            Work(macs=12 * 36 * 2 * 9, elements=288 + 216 + 432),
        ),
        "convolution of the frames of a clip as images": (
            graph_of(
                [node("Reshape", ["x", "shape"], ["images"]), node("Conv", ["images", "w"], ["y"], strides=[2, 2])],
                {"x": ("N", 4, 3, 9, 9), "w": (5, 3, 3, 3)},
                int64("shape", -1, 3, 9, 9),
            ),
            Work(macs=4 * 5 * 16 * 27, elements=972 + 135 + 320),
        ),
        "batched matrix product": (
            graph_of([node("MatMul", ["x", "k"], ["y"])], {"x": ("N", 2, 3, 5), "k": ("N", 2, 5, 4)}),
            Work(macs=2 * 3 * 4 * 5, elements=30 + 40 + 24),
        ),
        "matrix product with itself": (
            graph_of([node("MatMul", ["x", "x"], ["y"])], {"x": ("N", 4, 4)}),
            Work(macs=64, elements=16 + 16),
        ),
        "classifier, transposed": (
            graph_of([node("Gemm", ["x", "w", "b"], ["y"], transB=1)], {"x": ("N", 6), "w": (10, 6), "b": (10,)}),
            Work(macs=60, elements=6 + 60 + 10),
        ),
        "views transposed": (
            graph_of(
                [node("Reshape", ["x", "shape"], ["flat"]), node("Gemm", ["flat", "w"], ["y"], transA=1)],
                {"x": ("N", 7, 3), "w": (7, 4)},
                int64("shape", 7, 3),
            ),
            Work(macs=3 * 4 * 7, elements=21 + 28 + 12),
        ),
        "integer convolution": (
            graph_of(
                [node("ConvInteger", ["x", "w"], ["y"])],
                {"x": ("N", 2, 3, 3), "w": (5, 2, 2, 2)},
                x=TensorProto.UINT8,
                w=TensorProto.INT8,
                y=TensorProto.INT32,
            ),
            Work(macs=5 * 4 * 8, elements=18 + 40 + 20),
        ),
        "views whose number is fixed": (
            graph_of([node("MatMul", ["x", "w"], ["y"])], {"x": (30, 6), "w": (6, 2)}),
            Work(macs=12, elements=6 + 12 + 2),
        ),
        "nothing that multiplies": (graph_of([node("Relu", ["x"], ["y"])], {"x": ("N", 6)}), Work(macs=0, elements=0)),
    }


@pytest.mark.parametrize("name", small_graphs())
def test_small_graphs_are_counted_as_by_hand(name: str) -> None:
    graph, expected = small_graphs()[name]
    before = graph.SerializeToString(deterministic=True)
    assert work.count(graph) == expected
    assert graph.SerializeToString(deterministic=True) == before


def weights_in(place: str) -> onnx.ModelProto:
    """A convolution of (N, 8, 5, 5) with weights (16, 8, 3, 3) that are kept in one place or another."""
    shape = (16, 8, 3, 3)
    values, integers = np.zeros(shape, np.float32), numpy_helper.from_array(np.zeros(shape, np.int8), "q")
    convolution = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
    inputs: dict[str, tuple[Any, ...]] = {"x": ("N", 8, 5, 5)}
    if place == "initializer":
        return graph_of([convolution], inputs, numpy_helper.from_array(values, "w"))
    if place == "constant":
        constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(values))
        return graph_of([constant, convolution], inputs)
    if place == "dequantized integers":
        scale = numpy_helper.from_array(np.ones(16, np.float32), "scale")
        dequantize = helper.make_node("DequantizeLinear", ["q", "scale"], ["w"], axis=0)
        return graph_of([dequantize, convolution], inputs, integers, scale)
    if place == "input":
        return graph_of([convolution], {**inputs, "w": shape})
    if place == "initializer that is an input too":
        return graph_of([convolution], {"w": shape, **inputs}, numpy_helper.from_array(values, "w"))
    graph = graph_of([convolution], inputs)
    graph.graph.value_info.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, shape))
    return graph


PLACES = ["initializer", "constant", "dequantized integers", "input", "initializer that is an input too", "value_info"]


@pytest.mark.parametrize("place", PLACES)
def test_weights_are_counted_wherever_they_are(place: str) -> None:
    assert work.count(weights_in(place)) == Work(macs=16 * 25 * 72, elements=200 + 1152 + 400)


def test_every_layer_is_told_by_name() -> None:
    first = helper.make_node("MatMul", ["x", "w"], ["hidden"], name="first")
    graph = graph_of(
        [first, helper.make_node("MatMul", ["hidden", "v"], ["y"])], {"x": ("N", 3), "w": (3, 4), "v": (4, 2)}
    )
    assert work.layers(graph) == (
        work.LayerWork(name="first", op="MatMul", macs=12, elements=3 + 12 + 4),
        work.LayerWork(name="y", op="MatMul", macs=8, elements=4 + 8 + 2),
    )


def test_sizes_inferred_for_other_views_do_not_matter() -> None:
    graph = onnx.shape_inference.infer_shapes(small_graphs()["views whose number is fixed"][0])
    assert graph.graph.output[0].type.tensor_type.shape.dim[0].dim_value == 30
    assert work.count(graph).macs == 12


def test_an_unknown_shape_is_refused_by_node() -> None:
    convolution = helper.make_node("Conv", ["x", "w"], ["y"], name="stem")
    with pytest.raises(
        ExportError, match=r"^stem \(Conv\): the shape of x is not known: every size of the graph's input"
    ):
        work.count(graph_of([convolution], {"x": ("N", 3, "H", "W"), "w": (5, 3, 3, 3)}))
    reshape = helper.make_node("Reshape", ["x", "shape"], ["flat"])
    product = helper.make_node("MatMul", ["flat", "w"], ["y"])
    with pytest.raises(ExportError, match=r"^y \(MatMul\): the shape of flat is not known"):
        work.count(graph_of([reshape, product], {"x": ("N", 12), "shape": (2,), "w": (3, 5)}, shape=TensorProto.INT64))


def test_shapes_that_do_not_fit_are_refused() -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    with pytest.raises(ExportError, match=r"the shapes of the graph for one view do not fit together: .*MatMul"):
        work.count(graph_of([product], {"x": ("N", 3), "w": (4, 2)}))


def test_what_multiplies_otherwise_is_refused() -> None:
    product = helper.make_node("Einsum", ["x", "w"], ["y"], equation="nc,ck->nk", name="products")
    with pytest.raises(
        ExportError, match=r"^products \(Einsum\): the work of this operator is not counted, that of Conv, "
    ):
        work.count(graph_of([product], {"x": ("N", 3), "w": (3, 2)}))


def test_a_graph_inside_a_node_is_refused() -> None:
    branch = graph_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {}).graph
    choice = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch, name="choice")
    with pytest.raises(ExportError, match=r"^choice \(If\): it runs a graph of its own, whose work cannot be told"):
        work.count(graph_of([choice], {"x": ("N", 3), "w": (3, 2), "c": ()}, c=TensorProto.BOOL))


def test_functions_of_a_graph_are_refused() -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = graph_of([helper.make_node("Product", ["x", "w"], ["y"], domain="mine")], {"x": ("N", 3), "w": (3, 2)})
    graph.opset_import.append(helper.make_opsetid("mine", 1))
    graph.functions.append(
        helper.make_function("mine", "Product", ["x", "w"], ["y"], [product], [helper.make_opsetid("", 18)])
    )
    with pytest.raises(ExportError, match=r"the graph calls functions of its own \(Product\): inline them first"):
        work.count(graph)


@pytest.mark.parametrize("inputs", [{}, {"x": ()}], ids=["no input", "a scalar"])
def test_a_graph_without_views_is_refused(inputs: dict[str, tuple[Any, ...]]) -> None:
    with pytest.raises(ExportError, match=r"the graph has no input whose first size is the number of views"):
        work.count(graph_of([helper.make_node("Relu", ["x"], ["y"])], inputs))


def tiny_work(source: Checkpoint) -> tuple[int, Work]:
    """Multiply-accumulates of the tiny network by PyTorch's own counter, and our count of its modules."""
    frames, height, width, channels = source.card.view_shape
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        source.model(torch.zeros(1, channels, frames, height, width))
    return counter.get_total_flops() // 2, torch_work.work_of_network(source.card.network, source.card.view_shape)


def test_pytorchs_own_counter_agrees(tiny_checkpoint: Checkpoint) -> None:
    macs, found = tiny_work(tiny_checkpoint)
    assert found.macs == macs > 0


def test_the_random_state_stays(tiny_checkpoint: Checkpoint) -> None:
    before = torch.get_rng_state()
    torch_work.work_of_network(tiny_checkpoint.card.network, tiny_checkpoint.card.view_shape)
    assert torch.equal(torch.get_rng_state(), before)


def strided_macs(source: Checkpoint) -> int:
    """Multiply-accumulates, by PyTorch's own counter, of the tiny network whose stem skips what its pool drops."""
    strided = copy.deepcopy(narrowed.resnet(source.model))
    strided.conv1.stride, strided.maxpool.stride = (4, 2, 2), (1, 2, 2)
    frames, height, width, channels = source.card.view_shape
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        strided(torch.zeros(1, channels, frames, height, width))
    return int(counter.get_total_flops() // 2)


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.xml"])
def test_exported_files_carry_the_work_that_is_left(tiny_exports: Path, tiny_checkpoint: Checkpoint, name: str) -> None:
    engine = artifact.read_card(tiny_exports / name).engine
    assert engine is not None and engine.work is not None
    assert engine.work.macs == strided_macs(tiny_checkpoint) < tiny_work(tiny_checkpoint)[0]


def test_a_graph_as_it_is_carries_the_work_of_the_network(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    (made,) = export.export(
        tiny_checkpoint, targets=["onnx"], output=tmp_path, name="tiny", optimization=Optimization(is_on=False)
    )
    assert made.card.engine is not None
    assert made.card.engine.work == tiny_work(tiny_checkpoint)[1]


def test_weights_alone_carry_no_engine(tiny_exports: Path) -> None:
    assert artifact.read_card(tiny_exports / "tiny.safetensors").engine is None


def test_a_tensorrt_engine_carries_the_work_of_its_graph(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = EngineOptions(flavor="tensorrt_rtx", compute_capability="8.9")
    stale = Engine(precision="fp16", work=Work(macs=1, elements=1))
    made = export.export(
        tiny_checkpoint, targets=["onnx", "tensorrt"], output=tmp_path, name="tiny", engine=stale, tensorrt=options
    )
    found = [entry.card.engine.work for entry in made if entry.card.engine and entry.card.engine.work]
    assert [entry.path.name for entry in made] == ["tiny.onnx", "tiny_2d.onnx", "tiny.engine", "tiny_2d.engine"]
    assert [entry.macs for entry in found] == [strided_macs(tiny_checkpoint)] * 4
    assert artifact.read_card(tmp_path / "tiny.engine") == made[2].card


@pytest.mark.parametrize(("precision", "source"), [("fp16", "uint8_nthwc"), ("bf16", "float32_ncthw")])
def test_precision_and_input_leave_the_work(tiny_checkpoint: Checkpoint, precision: str, source: str) -> None:
    engine = Engine.model_validate({"precision": precision, "input": source})
    graph = to_onnx.convert(tiny_checkpoint.model, tiny_checkpoint.card, engine)
    assert work.count(graph) == tiny_work(tiny_checkpoint)[1]
