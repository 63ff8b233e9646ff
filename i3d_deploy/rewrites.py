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

Note [Paddings of their own]
    A network that pads by an odd number, as TensorFlow does, pads before its convolutions and pools, since PyTorch pads
    both sides alike. ONNX has a number for each side, so that the padding becomes the convolution's and no padded copy
    is written. A max pool pads with minus infinity: the same where zeros would be added to what is never negative.

Note [Normalising channels]
    Where the three numbers of a pixel lie together, normalising them by constants of three numbers takes a backend
    without kernels for it four times as long as normalising long runs of one channel. OpenVINO has such kernels and
    convolves channels that lie together, so for it the axes are better moved afterwards, which then costs nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from i3d_deploy.errors import MissingExtraError

try:
    import onnx
    from onnx import numpy_helper
except ImportError as error:
    raise MissingExtraError("onnx", extra="export", cause=error) from error

POINTWISE = {"Cast", "Clip", "Identity", "LeakyRelu", "Relu", "Sigmoid", "Tanh"}
"""Operators with one data input that treat every element alike."""

_ARITHMETIC = {"Add", "Div", "Mul", "Sub"}


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
    moved = [_move_stride(graph, node) for node in graph.node if node.op_type == "MaxPool"]
    if any(moved):
        del graph.value_info[:]  # the sizes between convolution and pool are others now
        graph.value_info.extend(onnx.shape_inference.infer_shapes(rewritten).graph.value_info)
    return rewritten


def _move_stride(graph: onnx.GraphProto, pool: onnx.NodeProto) -> bool:
    """Move the strides of one pool into the convolution before it; whether there was one to move."""
    found = attributes(pool)
    kernel = found["kernel_shape"]
    rank = len(kernel)
    strides, pads = found.get("strides", [1] * rank), found.get("pads", [0] * 2 * rank)
    has_own_pads = found.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID") and not found.get("ceil_mode", 0)
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


def merge_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let convolutions and max pools pad by themselves. See Note [Paddings of their own].

    Args:
        model: Any ONNX model.

    Returns:
        A copy; equal to ``model`` where nothing pads by constants before a convolution or max pool.
    """
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    graph = rewritten.graph
    merged = [node for node in list(graph.node) if node.op_type == "Pad" and _merge_pad(graph, node)]
    for node in merged:
        graph.node.remove(node)
    if merged:
        _drop_unread(graph)
    return rewritten


def _merge_pad(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Add one padding to those of what reads it; whether it could be."""
    pads = _zeros_added(graph, node)
    readers = [reader for reader in graph.node if node.output[0] in reader.input]
    is_output = node.output[0] in {entry.name for entry in graph.output}
    if pads is None or is_output or not readers or min(pads) < 0:
        return False
    before, after = pads[: len(pads) // 2], pads[len(pads) // 2 :]  # N C T H W each
    if any(before[:2]) or any(after[:2]):
        return False
    for reader in readers:
        is_conv = reader.op_type == "Conv" and reader.input[0] == node.output[0]
        is_pool = reader.op_type == "MaxPool" and len(reader.output) == 1 and not _can_be_negative(graph, node.input[0])
        found = attributes(reader)
        has_own_pads = found.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID") and not found.get("ceil_mode", 0)
        if not (is_conv or is_pool) or not has_own_pads or list(reader.input).count(node.output[0]) > 1:
            return False
        # A window that lies on the padding alone has no maximum.
        sizes = 2 * found["kernel_shape"] if is_pool else []
        if is_pool and any(pad >= size for pad, size in zip(_all_pads(reader, pads), sizes, strict=True)):
            return False
    for reader in readers:
        _set_ints(reader, "pads", _all_pads(reader, pads))
        reader.input[0] = node.input[0]
    return True


def _all_pads(reader: onnx.NodeProto, pads: list[int]) -> list[int]:
    """The paddings of a convolution or pool, with those before it."""
    added = [*pads[2 : len(pads) // 2], *pads[len(pads) // 2 + 2 :]]  # those of N and C are 0
    own = attributes(reader).get("pads", [0] * len(added))
    return [ours + theirs for ours, theirs in zip(own, added, strict=True)]


def _zeros_added(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[int] | None:
    """How many zeros a node adds: of each axis before, then of each axis after; None where it does something else."""
    constants = {entry.name: entry for entry in graph.initializer}
    pads = constants.get(node.input[1])
    value = node.input[2] if len(node.input) > 2 else ""
    has_axes = len(node.input) > 3 and node.input[3] != ""
    is_zero = value == "" or (value in constants and float(numpy_helper.to_array(constants[value])) == 0)
    if pads is None or has_axes or not is_zero or attributes(node).get("mode", b"constant") != b"constant":
        return None
    return [int(number) for number in numpy_helper.to_array(pads)]


def _can_be_negative(graph: onnx.GraphProto, name: str) -> bool:
    """Whether a tensor can hold negative numbers, as far as its making tells."""
    makers = {output: node for node in graph.node for output in node.output}
    waiting, seen = [name], set[str]()
    while waiting:
        current = waiting.pop()
        node = makers.get(current)
        if current in seen or (node is not None and node.op_type in ("Relu", "Sigmoid")):
            continue
        seen.add(current)
        if node is None or node.op_type not in ("Cast", "Concat", "Identity", "MaxPool"):
            return True
        waiting += node.input
    return False


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove the constants that nothing reads any more."""
    read = {name for node in graph.node for name in node.input} | {entry.name for entry in graph.output}
    kept = [entry for entry in graph.initializer if entry.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    made = {name for node in graph.node for name in node.output}
    kept_infos = [entry for entry in graph.value_info if entry.name in made]
    del graph.value_info[:]
    graph.value_info.extend(kept_infos)


def transpose_first(model: onnx.ModelProto) -> onnx.ModelProto:
    """Transpose before arithmetic with constants instead of after it. See Note [Normalising channels].

    Args:
        model: Any ONNX model.

    Returns:
        A copy, in which each transposition stands before the additions, subtractions, multiplications and divisions by
        constants that it followed.
    """
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    graph = rewritten.graph
    is_changed = False
    while any(_swap(graph, number) for number, node in enumerate(graph.node) if node.op_type == "Transpose"):
        is_changed = True
    if is_changed:
        del graph.value_info[:]
        graph.value_info.extend(onnx.shape_inference.infer_shapes(rewritten).graph.value_info)
    return rewritten


def _swap(graph: onnx.GraphProto, number: int) -> bool:
    """Let a transposition change places with the arithmetic before it; whether it did."""
    moved, permutation = graph.node[number], attributes(graph.node[number]).get("perm")
    place, maker = next(
        ((place, node) for place, node in enumerate(graph.node) if moved.input[0] in node.output), (0, None)
    )
    constants = {entry.name: entry for entry in graph.initializer}
    is_read_once = Counter(name for node in graph.node for name in node.input)[moved.input[0]] == 1
    if maker is None or maker.op_type not in _ARITHMETIC or not is_read_once or permutation is None:
        return False
    varying = [position for position, name in enumerate(maker.input) if name not in constants]
    if len(varying) != 1 or moved.input[0] in {entry.name for entry in graph.output}:
        return False
    values = numpy_helper.to_array(constants[maker.input[1 - varying[0]]])
    if values.ndim > len(permutation):
        return False
    values = values.reshape((1,) * (len(permutation) - values.ndim) + values.shape).transpose(permutation)
    name = f"{maker.input[1 - varying[0]]}_{'_'.join(map(str, permutation))}"
    if name not in constants:
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    between, result = moved.input[0], moved.output[0]
    moved.input[0], moved.output[0] = maker.input[varying[0]], between
    maker.input[varying[0]], maker.input[1 - varying[0]], maker.output[0] = between, name, result
    first, second = (onnx.NodeProto.FromString(node.SerializeToString()) for node in (moved, maker))
    graph.node[place].CopyFrom(first)
    graph.node[number].CopyFrom(second)
    return True


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _set_ints(node: onnx.NodeProto, name: str, values: list[int]) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, values)])
