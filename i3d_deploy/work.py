"""How much an ONNX graph multiplies, counted from its shapes.

Note [What counts as work]
    Multiply-accumulates of convolutions, of linear layers and of the two matrix products of each non-local block:
    output elements times weights per output. Biases, normalisation, ReLU, pooling, softmax and additions are not
    counted. So counted, I3D ResNet-50 has 43,269,259,264 for a view of 32x256x256; mmaction2's own figure,
    43,564,040,192, includes elements of normalisation, ReLU and pooling.

Only shapes are looked at. Weights may be initializers, outputs of constants, dequantized integers, or mere inputs of
the graph without data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from i3d_deploy.errors import ExportError, MissingExtraError
from i3d_deploy.measurements import Work

try:
    import onnx
except ImportError as error:
    raise MissingExtraError("onnx", extra="export", cause=error) from error

Shape = tuple[int, ...]

_FACTORS = {
    "Conv": (0, 1),
    "ConvInteger": (0, 1),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearConv": (0, 3),
    "QLinearMatMul": (0, 3),
}
"""Operators that are counted, and which of their inputs they multiply."""

_NOT_COUNTED = {
    *("Attention", "ConvTranspose", "DeformConv", "Einsum", "GRU", "LSTM", "RNN"),
    *("FusedConv", "FusedGemm", "FusedMatMul"),  # of graphs that ONNX Runtime has saved
}
"""Operators that multiply in ways which no I3D network does: counting them as nothing would be wrong."""

_MAX_KEPT_ELEMENTS = 1024
"""Initializers up to this size keep their data: shapes for Reshape, axes, paddings."""


@dataclass(frozen=True, kw_only=True)
class LayerWork:
    """One node that multiplies.

    Attributes:
        name: The node's name, or that of its output where it has none.
        op: Its operator.
        macs: Multiply-accumulates of one view.
        elements: Of the two tensors that it multiplies and of its output, each once, of one view.
    """

    name: str
    op: str
    macs: int
    elements: int


def count(graph: onnx.ModelProto) -> Work:
    """Count the work of one view. See Note [What counts as work].

    Args:
        graph: A model whose first input is the views, N first; whatever N is, one view is counted. Left as it is.

    Raises:
        ExportError: A shape that is needed is not known, or a node multiplies in a way that is not counted.
    """
    found = layers(graph)
    return Work(macs=sum(layer.macs for layer in found), elements=sum(layer.elements for layer in found))


def layers(graph: onnx.ModelProto) -> tuple[LayerWork, ...]:
    """Count the work of one view node by node, in the graph's order.

    Args:
        graph: As for :func:`count`.

    Raises:
        ExportError: As for :func:`count`.
    """
    if graph.functions:
        raise ExportError(f"the graph calls functions of its own ({graph.functions[0].name}): inline them first")
    for node in graph.graph.node:
        _check(node)
    shapes = _shapes(graph)
    return tuple(_layer(node, shapes) for node in graph.graph.node if node.op_type in _FACTORS)


def _check(node: onnx.NodeProto) -> None:
    if node.op_type in _NOT_COUNTED:
        raise ExportError(f"{_label(node)}: the work of this operator is not counted, that of {', '.join(_FACTORS)} is")
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        raise ExportError(f"{_label(node)}: it runs a graph of its own, whose work cannot be told: unroll it first")


def _layer(node: onnx.NodeProto, shapes: dict[str, Shape]) -> LayerWork:
    left, right = (node.input[position] for position in _FACTORS[node.op_type])
    output = node.output[0]
    for tensor in (left, right, output):
        if tensor not in shapes:
            raise ExportError(
                f"{_label(node)}: the shape of {tensor} is not known: "
                "every size of the graph's input but N must be fixed"
            )
    macs = math.prod(shapes[output]) * _weights_per_output(node, shapes[left], shapes[right])
    elements = sum(math.prod(shapes[tensor]) for tensor in {left, right, output})
    return LayerWork(name=_name(node), op=node.op_type, macs=macs, elements=elements)


def _weights_per_output(node: onnx.NodeProto, left: Shape, right: Shape) -> int:
    if "Conv" in node.op_type:
        return math.prod(right[1:])  # (outputs, channels of a group, *kernel)
    is_transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return left[0 if is_transposed else -1]


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


def _label(node: onnx.NodeProto) -> str:
    return f"{_name(node)} ({node.op_type})"


def _shapes(graph: onnx.ModelProto) -> dict[str, Shape]:
    """Shapes of every tensor whose shape is known, for one view."""
    try:
        inferred = onnx.shape_inference.infer_shapes(_one_view(graph), strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ExportError(f"the shapes of the graph for one view do not fit together: {first_line}") from error
    found = {entry.name: tuple(entry.dims) for entry in inferred.graph.initializer}
    for entries in (inferred.graph.input, inferred.graph.value_info, inferred.graph.output):
        found.update(_fixed(entries))
    return found


def _fixed(entries: Iterable[onnx.ValueInfoProto]) -> Iterator[tuple[str, Shape]]:
    for entry in entries:
        tensor = entry.type.tensor_type
        if tensor.HasField("shape") and all(size.HasField("dim_value") for size in tensor.shape.dim):
            yield entry.name, tuple(size.dim_value for size in tensor.shape.dim)


def _one_view(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with N = 1, without the data of its weights and without what was inferred for another N."""
    source = model.graph
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.name = source.name
    bare.graph.node.extend(source.node)
    bare.graph.input.extend(source.input)
    _fix_views(bare.graph, initialized={weights.name for weights in source.initializer})
    _add_initializers(bare.graph, source)
    made = {name for node in source.node for name in node.output}
    bare.graph.value_info.extend(entry for entry in source.value_info if entry.name not in made)
    for entry in source.output:
        bare.graph.output.add(name=entry.name).type.tensor_type.elem_type = entry.type.tensor_type.elem_type
    return bare


def _fix_views(graph: onnx.GraphProto, *, initialized: set[str]) -> None:
    """Set N, the first size of the first input that is no weight, and the sizes that bear its name, to 1."""
    views = next((entry for entry in graph.input if entry.name not in initialized), None)
    if views is None or not views.type.tensor_type.shape.dim:
        raise ExportError("the graph has no input whose first size is the number of views")
    sizes = [size for entry in graph.input for size in entry.type.tensor_type.shape.dim]
    first = views.type.tensor_type.shape.dim[0]
    name = first.dim_param
    for size in (first, *(size for size in sizes if name and size.dim_param == name)):
        size.dim_value = 1


def _add_initializers(graph: onnx.GraphProto, source: onnx.GraphProto) -> None:
    declared = {entry.name for entry in graph.input}
    for weights in source.initializer:
        if math.prod(weights.dims) <= _MAX_KEPT_ELEMENTS:
            graph.initializer.append(weights)
        elif weights.name not in declared:
            graph.input.append(onnx.helper.make_tensor_value_info(weights.name, weights.data_type, weights.dims))
