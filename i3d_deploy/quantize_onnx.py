"""From a float32 ONNX graph to one whose convolutions multiply 8-bit numbers: int8, or fp8 (E4M3).

Pairs of QuantizeLinear and DequantizeLinear say where a tensor has eight bits. TensorRT fuses them into the layers
between; ONNX Runtime computes them as they stand, which is slower than float32 and exact enough to prove the numbers.

Note [Where the pairs are]
    On the data input of every convolution; its weights are stored in eight bits with one scale per output channel.
    Scales are symmetric, so zero points are 0, and biases stay float32: TensorRT wants both. An addition takes one side
    straight from the convolution that it is fused with, and the other one, the shortcut, in eight bits, so that a block
    of a ResNet runs without a float32 tensor in memory (TensorRT documentation, "Q/DQ Placement Recommendations").
    Everything else stays float32: the classifier, which is too small to matter for speed and costs half of the
    divergence when it is quantised, and in fp8 the stem, whose three channels fill no instruction of eight-bit floats.
    In int8 the stem has pairs: they cost no accuracy, and without them it would take most of the time.

    ONNX Runtime's ``quantize_static`` would also put pairs on the output of a convolution before its addition, and
    finds the ranges of fp8 from histograms of whole tensors, which for videos are gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import untracked
from i3d_deploy.errors import ExportError, MissingExtraError
from i3d_deploy.frames import Resized

try:
    import ml_dtypes
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise MissingExtraError(error.name or "onnx", extra="export", cause=error) from error
try:
    with untracked.imports():
        import onnxruntime
except ImportError as error:
    raise MissingExtraError("onnxruntime", extra="cpu", cause=error) from error

Kind = Literal["int8", "fp8"]

LARGEST: dict[Kind, float] = {"int8": 127.0, "fp8": 448.0}
"""Largest number of each kind: int8 without -128, so that it is symmetric, and E4M3 without infinities."""

_TYPES: dict[Kind, int] = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}
_SMALLEST = 1e-30
_LOG_FATAL = 4


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where pairs go: Note [Where the pairs are].

    Attributes:
        convolutions: Names of the convolutions that multiply eight bits.
        tensors: Tensors that are quantised, in the graph's order.
        shortcuts: Names of the additions, and which of their inputs is the shortcut.
    """

    convolutions: tuple[str, ...]
    tensors: tuple[str, ...]
    shortcuts: Mapping[str, int]


def quantize(graph: onnx.ModelProto, views: Iterable[Resized], kind: Kind) -> onnx.ModelProto:
    """Quantise a graph.

    Args:
        graph: From :func:`i3d_deploy.to_onnx.convert`, float32; left as it is. fp8 needs opset 19.
        views: What the graph takes, to measure the ranges on.
        kind: Of the 8-bit numbers.

    Returns:
        A checked graph; the same views give the same bytes.

    Raises:
        ExportError: There is nothing to quantise, or the checker refuses the result.
    """
    places = find_places(graph, kind)
    ranges = measure(graph, places.tensors, views)
    quantized = onnx.ModelProto()
    quantized.CopyFrom(graph)
    _Writer(quantized, kind).write(places, ranges)
    try:
        onnx.checker.check_model(quantized, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"onnx.checker refuses the quantised graph: {str(error).strip().partition(chr(10))[0]}"
        ) from error
    return quantized


def find_places(graph: onnx.ModelProto, kind: Kind) -> Places:
    """Choose where pairs go.

    Raises:
        ExportError: The graph has no convolution to quantise.
    """
    weights = {entry.name for entry in graph.graph.initializer}
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv" and node.input[1] in weights]
    if kind == "fp8":
        del convolutions[:1]
    if not convolutions:
        raise ExportError("the graph has no convolution with constant weights to quantise")
    made = {name for node in convolutions for name in node.output}
    inputs = {node.input[0] for node in convolutions}
    shortcuts = {}
    for node in graph.graph.node:
        if node.op_type == "Add":
            side = _shortcut(node, made, inputs)
            if side is not None:
                shortcuts[node.name] = side
    wanted = inputs | {node.input[shortcuts[node.name]] for node in graph.graph.node if node.name in shortcuts}
    produced = [entry.name for entry in graph.graph.input] + [name for node in graph.graph.node for name in node.output]
    return Places(
        convolutions=tuple(node.name for node in convolutions),
        tensors=tuple(name for name in produced if name in wanted),
        shortcuts=shortcuts,
    )


def _shortcut(addition: onnx.NodeProto, made: set[str], inputs: set[str]) -> int | None:
    """Which side of an addition is the shortcut of a block, if it is one.

    It is the side that convolutions read, or, where the shortcut is a convolution itself, the second one.
    """
    read = [side for side, name in enumerate(addition.input) if name in inputs]
    if len(read) == 1:
        return read[0]
    return 1 if all(name in made for name in addition.input) else None


def measure(graph: onnx.ModelProto, tensors: Iterable[str], views: Iterable[Resized]) -> dict[str, float]:
    """Find the largest magnitude of tensors: of each view, then the mean over the views.

    The mean, so that one view with an outlier does not cost all others their precision; what is beyond is clipped.

    Args:
        graph: The network.
        tensors: Names of float32 tensors in it.
        views: What the graph takes.
    """
    names = list(tensors)
    session = _watching(graph, names)
    maxima = np.array([[float(value) for value in session.run(None, {"frames": view})] for view in views])
    if len(maxima) == 0:
        raise ExportError("no view to measure the ranges on")
    if not np.isfinite(maxima).all():
        raise ExportError("activations are not finite on the clips given: the weights are damaged")
    return dict(zip(names, maxima.mean(axis=0).tolist(), strict=True))


def _watching(graph: onnx.ModelProto, names: list[str]) -> Any:
    """A session whose outputs are the largest magnitudes of tensors, so that no tensor is kept."""
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    del watched.graph.output[:]
    for number, name in enumerate(names):
        watched.graph.node.append(helper.make_node("Abs", [name], [f"magnitude_{number}"]))
        watched.graph.node.append(
            helper.make_node("ReduceMax", [f"magnitude_{number}"], [f"largest_{number}"], keepdims=0)
        )
        watched.graph.output.append(helper.make_tensor_value_info(f"largest_{number}", TensorProto.FLOAT, []))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    return onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])


class _Writer:
    """Puts pairs into a graph."""

    def __init__(self, model: onnx.ModelProto, kind: Kind) -> None:
        self._graph = model.graph
        self._kind = kind
        self._zero = _stored("zero_of_tensors", np.zeros((), np.float32), kind)

    def write(self, places: Places, ranges: Mapping[str, float]) -> None:
        """Quantise the tensors and the weights of the convolutions, and let their readers read them so."""
        self._graph.initializer.append(self._zero)
        pairs = {name: self._pair(name, ranges[name]) for name in places.tensors}
        convolutions = set(places.convolutions)
        # A float engine's input goes straight into the stem.
        nodes = [entry for source in self._graph.input for entry in pairs.get(source.name, ())]
        for node in self._graph.node:
            if node.name in convolutions:
                nodes.append(self._weights(node))
                node.input[0] = f"{node.input[0]}_rounded"
            elif node.name in places.shortcuts:
                side = places.shortcuts[node.name]
                node.input[side] = f"{node.input[side]}_rounded"
            nodes.append(node)
            nodes.extend(entry for name in node.output for entry in pairs.get(name, ()))
        copies = [_copied(node) for node in nodes]
        del self._graph.node[:]
        self._graph.node.extend(copies)

    def _pair(self, name: str, largest: float) -> tuple[onnx.NodeProto, onnx.NodeProto]:
        # Every scale is a float32 that holds some number, also of a tensor that is 0 throughout.
        scale = np.asarray(max(largest, _SMALLEST) / LARGEST[self._kind], np.float32)
        self._graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        arguments = [f"{name}_scale", self._zero.name]
        return (
            helper.make_node("QuantizeLinear", [name, *arguments], [f"{name}_bits"], name=f"{name}_quantize"),
            helper.make_node(
                "DequantizeLinear", [f"{name}_bits", *arguments], [f"{name}_rounded"], name=f"{name}_dequantize"
            ),
        )

    def _weights(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """Store the weights of a convolution in eight bits and return the node that reads them."""
        entry = next(entry for entry in self._graph.initializer if entry.name == node.input[1])
        weights = numpy_helper.to_array(entry)
        largest = np.abs(weights).reshape(len(weights), -1).max(axis=1)
        scales = (np.maximum(largest, _SMALLEST) / LARGEST[self._kind]).astype(np.float32)
        scaled = weights / scales.reshape(-1, *[1] * (weights.ndim - 1))
        name = entry.name
        self._graph.initializer.remove(entry)
        zeros = np.zeros(len(weights), np.float32)
        self._graph.initializer.extend(
            [
                _stored(f"{name}_bits", scaled, self._kind),
                numpy_helper.from_array(scales, f"{name}_scale"),
                _stored(f"{name}_zero", zeros, self._kind),
            ]
        )
        node.input[1] = f"{name}_rounded"
        return helper.make_node(
            "DequantizeLinear",
            [f"{name}_bits", f"{name}_scale", f"{name}_zero"],
            [f"{name}_rounded"],
            name=f"{name}_dequantize",
            axis=0,
        )


def _stored(name: str, scaled: NDArray[np.float32], kind: Kind) -> TensorProto:
    """Round numbers, already divided by their scale, to eight bits."""
    limit = LARGEST[kind]
    if kind == "int8":
        rounded = np.clip(np.rint(scaled), -limit, limit).astype(np.int8)
        return numpy_helper.from_array(rounded, name)
    bits = np.clip(scaled, -limit, limit).astype(ml_dtypes.float8_e4m3fn)
    return helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, bits.shape, bits.tobytes(), raw=True)


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy
