"""Exact rewrites of an ONNX graph: less work, the same answer.

Each takes a graph and gives another one; the graph given is left as it is.

Note [Frames that a pool drops]
    A max pool with kernel 1, no padding and stride s along an axis only picks every s-th position of what it is given.
    Where nothing else reads that, the convolution before it need not make the others: its stride is multiplied by s and
    the pool's becomes 1. Between the two may stand whatever works position by position, such as ReLU. The number of
    positions is the same: floor(floor(a / b) / s) = floor(a / (b * s)). The sums that are left are those that were
    there before, so nothing is rounded differently.

    It is the case of every I3D ResNet whose stem pool has a kernel of (1, 3, 3) and a stride of (2, 2, 2): half of the
    stem, 6.2 of 43.3 GMAC for i3d_r50.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from i3d_deploy.errors import MissingExtraError

try:
    import onnx
except ImportError as error:
    raise MissingExtraError("onnx", extra="export", cause=error) from error

POINTWISE = {"Cast", "Clip", "Identity", "LeakyRelu", "Relu", "Sigmoid", "Tanh"}
"""Operators with one data input that treat every element alike."""


def skip_dropped_frames(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let convolutions skip what the pool after them would drop. See Note [Frames that a pool drops].

    Args:
        model: Any ONNX model.

    Returns:
        A copy; equal to ``model`` where there is no such pool.
    """
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    graph = rewritten.graph
    is_changed = [_move_stride(graph, node) for node in graph.node if node.op_type == "MaxPool"]
    if any(is_changed):
        del graph.value_info[:]  # the sizes between convolution and pool are others now
        graph.value_info.extend(onnx.shape_inference.infer_shapes(rewritten).graph.value_info)
    return rewritten


def _move_stride(graph: onnx.GraphProto, pool: onnx.NodeProto) -> bool:
    """Move the strides of one pool into the convolution before it; whether there was one to move."""
    found = attributes(pool)
    kernel = found["kernel_shape"]
    rank = len(kernel)
    strides, pads = found.get("strides", [1] * rank), found.get("pads", [0] * 2 * rank)
    has_own_pads = found.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    moved = [
        stride if kernel[axis] == 1 and pads[axis] == pads[rank + axis] == 0 else 1
        for axis, stride in enumerate(strides)
    ]
    convolution = _convolution_read_by(graph, pool) if has_own_pads and len(pool.output) == 1 else None
    if convolution is None or max(moved) == 1:
        return False
    old = attributes(convolution).get("strides", [1] * rank)
    _set_ints(convolution, "strides", [ours * theirs for ours, theirs in zip(old, moved, strict=True)])
    _set_ints(pool, "strides", [stride // theirs for stride, theirs in zip(strides, moved, strict=True)])
    return True


def _convolution_read_by(graph: onnx.GraphProto, pool: onnx.NodeProto) -> onnx.NodeProto | None:
    """The convolution whose result reaches this pool and nothing else; None where something else reads it."""
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(entry.name for entry in graph.output)
    name = pool.input[0]
    while readers[name] == 1 and (maker := makers.get(name)) is not None:
        if maker.op_type == "Conv":
            is_explicit = attributes(maker).get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
            return maker if is_explicit else None
        if maker.op_type not in POINTWISE:
            return None
        name = maker.input[0]
    return None


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _set_ints(node: onnx.NodeProto, name: str, values: list[int]) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, values)])
