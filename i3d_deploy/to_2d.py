"""From 3D convolutions and pools to 2D ones, in an ONNX graph.

Some backends have far better kernels for two dimensions than for three. Every convolution here is a 2D one in disguise,
and so is every pool:

- One that spans time alone, (k, 1, 1), is one of (k, 1) over an image with T rows and H*W columns. Frames laid out as
  NCTHW are that image already: *rows*, (N, C, T, H*W).
- One that spans space alone, (1, k, k), runs over *frames*: (N*T, C, H, W).
- One that spans both stacks, for each frame that comes out, those that go in as channels: (k, k) over
  (N*T', kt*C, H, W).

Tensors stay in the form that they were made in until another is needed, so that a backend sees convolution, addition
and ReLU next to each other and can join them. The sums are those of the 3D graph in another order: float32 differs in
its last digit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from i3d_deploy.errors import ExportError, MissingExtraError
from i3d_deploy.rewrites import POINTWISE, attributes

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:
    raise MissingExtraError("onnx", extra="export", cause=error) from error

Form = Literal["plain", "rows", "frames"]
Shape = tuple[int, ...]
"""(C, T, H, W) of one view."""

_BINARY = {"Add", "Div", "Max", "Mul", "Sub"}
_TIME_FIRST = (0, 2, 1, 3, 4)
"""From NCTHW to NTCHW and back."""


def lower(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace 3D convolutions and pools by 2D ones.

    Args:
        model: Sizes of every tensor but N are known; 3D tensors are NCTHW. Left as it is.

    Returns:
        The same function of the same inputs. What cannot be replaced stays: grouped convolutions over time and space,
        and nodes whose paddings are worked out when they run.

    Raises:
        ExportError: A 3D convolution has weights that are computed.
    """
    lowering = _Lowering(model)
    for node in model.graph.node:
        lowering.add(node)
    return lowering.finish()


class _Lowering:
    """One pass over a graph, writing another."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._source = model
        self._weights = {entry.name: entry for entry in model.graph.initializer}
        self._shapes = _five_dimensional(model)
        self._made: dict[str, dict[Form, str]] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._replace: dict[str, Callable[[onnx.NodeProto], bool]] = {
            "Concat": self._concat,
            "Conv": self._convolution,
            "MaxPool": self._max_pool,
            "ReduceMean": self._mean,
            "Transpose": self._transpose,
            **dict.fromkeys(POINTWISE, self._pointwise),
            **dict.fromkeys(_BINARY, self._binary),
        }

    def add(self, node: onnx.NodeProto) -> None:
        """Replace a node, or keep it between tensors in their plain form."""
        replace = self._replace.get(node.op_type)
        if replace is not None and replace(node):
            return
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        del kept.input[:]
        kept.input.extend(self._get(name, "plain") for name in node.input)
        self._nodes.append(kept)

    def finish(self) -> onnx.ModelProto:
        """The new model, without the weights that nothing reads any more."""
        graph = self._source.graph
        for entry in graph.output:
            if entry.name in self._made:
                self._nodes.append(helper.make_node("Identity", [self._get(entry.name, "plain")], [entry.name]))
        read = {name for node in self._nodes for name in node.input}
        weights = [entry for entry in graph.initializer if entry.name in read]
        for number, node in enumerate(self._nodes):
            node.name = f"{node.op_type}_{number}"
        lowered = helper.make_graph(
            self._nodes, graph.name, graph.input, graph.output, [*weights, *self._constants.values()]
        )
        made: onnx.ModelProto = helper.make_model(
            lowered, opset_imports=self._source.opset_import, ir_version=self._source.ir_version
        )
        made.producer_name = self._source.producer_name
        return made

    def _convolution(self, node: onnx.NodeProto) -> bool:
        source, target = (self._shapes.get(name) for name in (node.input[0], node.output[0]))
        found = attributes(node)
        if source is None or target is None or found.get("auto_pad", b"NOTSET") != b"NOTSET":
            return False
        weight = self._weight(node.input[1])
        window = _Window({"kernel_shape": list(weight.shape[2:]), **found})
        if window.is_spatially_trivial:
            form: Form = "rows"
            maps, weight, options = self._get(node.input[0], "rows"), weight[..., 0], window.in_time
        elif window.is_temporally_trivial:
            form = "frames"
            maps, weight, options = self._get(node.input[0], "frames"), weight[:, :, 0], window.in_space
        elif found.get("group", 1) == 1:
            form = "frames"
            maps, options = self._stacked(node.input[0], window, target), window.in_space
            weight = weight.swapaxes(1, 2).reshape(len(weight), -1, *weight.shape[3:])
        else:
            return False
        weights = self._constant("_".join([node.input[1], *map(str, weight.shape[2:]), form]), weight)
        made = self._node("Conv", [maps, weights, *node.input[2:]], group=found.get("group", 1), **options)
        self._made[node.output[0]] = {form: made}
        return True

    def _concat(self, node: onnx.NodeProto) -> bool:
        """Channels one after the other, which are the second axis in every form."""
        is_known = node.output[0] in self._shapes and all(name in self._shapes for name in node.input)
        if not is_known or attributes(node)["axis"] != 1 or not any(name in self._made for name in node.input):
            return False
        forms = [list(self._made.get(name, {"plain": name})) for name in node.input]
        # The form that most of them have: the fewer are turned into it.
        every: tuple[Form, ...] = ("frames", "rows", "plain")
        form = max(every, key=lambda candidate: sum(candidate in each for each in forms))
        made = self._node("Concat", [self._get(name, form) for name in node.input], axis=1)
        self._made[node.output[0]] = {form: made}
        return True

    def _stacked(self, name: str, window: _Window, target: Shape) -> str:
        """The frames that go into each frame that comes out, as its channels."""
        channels, frames, height, width = self._shapes[name]
        size, stride, dilation, (before, after) = window.temporal
        maps = self._node("Reshape", [self._get(name, "frames"), self._sizes(-1, frames, channels, height, width)])
        if before or after:
            maps = self._node("Pad", [maps, self._sizes(0, before, 0, 0, 0, 0, after, 0, 0, 0)])
        indices = [first * stride + offset * dilation for first in range(target[1]) for offset in range(size)]
        maps = self._node("Gather", [maps, self._sizes(*indices)], axis=1)
        return self._node("Reshape", [maps, self._sizes(-1, size * channels, height, width)])

    def _max_pool(self, node: onnx.NodeProto) -> bool:
        found = attributes(node)
        is_plain = found.get("auto_pad", b"NOTSET") == b"NOTSET" and len(node.output) == 1
        if not (is_plain and node.input[0] in self._shapes and node.output[0] in self._shapes):
            return False
        window, name = _Window(found), node.output[0]
        options = {"ceil_mode": found.get("ceil_mode", 0)}
        # The maximum of a block is the maximum over time of the maxima over space.
        made = self._made.get(node.input[0], {"plain": node.input[0]})
        channels, frames, _, _ = self._shapes[node.input[0]]
        between = (channels, frames, *self._shapes[name][2:])
        if not window.is_spatially_trivial:
            made = self._pool_in_space(node.input[0], between, {**window.in_space, **options})
        if not window.is_temporally_trivial:
            maps = self._as_rows(made, between)
            made = {"rows": self._node("MaxPool", [maps], **window.in_time, **options)}
        self._made[name] = made
        return True

    def _pool_in_space(self, name: str, target: Shape, options: dict[str, Any]) -> dict[Form, str]:
        if "frames" in self._made.get(name, {}):
            return {"frames": self._node("MaxPool", [self._made[name]["frames"]], **options)}
        # Channels do not meet in a pool: in NCTHW they and the frames are one axis, and nothing is moved.
        _, _, height, width = self._shapes[name]
        channels, frames, new_height, new_width = target
        maps = self._node("Reshape", [self._get(name, "rows"), self._sizes(-1, channels * frames, height, width)])
        maps = self._node("MaxPool", [maps], **options)
        sizes = self._sizes(-1, channels, frames, new_height * new_width)
        return {"rows": self._node("Reshape", [maps, sizes])}

    def _mean(self, node: onnx.NodeProto) -> bool:
        """The mean over time and space, which leaves one number per channel."""
        axes = self._weights.get(node.input[1]) if len(node.input) > 1 else None
        shape, keeps = self._shapes.get(node.input[0]), attributes(node).get("keepdims", 1)
        if shape is None or axes is None or keeps or sorted(numpy_helper.to_array(axes)) != [2, 3, 4]:
            return False
        maps = self._get(node.input[0], "rows")
        both = self._sizes(2, 3)
        self._nodes.append(helper.make_node("ReduceMean", [maps, both], list(node.output), keepdims=0))
        return True

    def _transpose(self, node: onnx.NodeProto) -> bool:
        """A transposition into NCTHW goes straight to frames: one pass over the memory instead of two."""
        if node.output[0] not in self._shapes or node.input[0] in self._made:
            return False
        permutation = attributes(node).get("perm", [4, 3, 2, 1, 0])
        channels, frames, height, width = self._shapes[node.output[0]]
        if frames == 1:
            return False
        maps = self._node("Transpose", [node.input[0]], perm=[permutation[axis] for axis in _TIME_FIRST])
        self._made[node.output[0]] = {"frames": self._node("Reshape", [maps, self._sizes(-1, channels, height, width)])}
        return True

    def _pointwise(self, node: onnx.NodeProto) -> bool:
        forms = self._made.get(node.input[0])
        if forms is None or node.output[0] not in self._shapes:
            return False
        form = next(iter(forms))
        maps = self._node(node.op_type, [forms[form], *node.input[1:]], **attributes(node))
        self._made[node.output[0]] = {form: maps}
        return True

    def _binary(self, node: onnx.NodeProto) -> bool:
        target = self._shapes.get(node.output[0])
        if target is None or not any(name in self._made for name in node.input):
            return False
        made = [list(self._made[name]) for name in node.input if name in self._made]
        # A form that all have already, else the one that the first has: the others are turned into it.
        common = [form for form in made[0] if all(form in others for others in made)]
        form = (common or made[0])[0]
        constants = {name: self._beside(name, form, target) for name in node.input if self._shapes.get(name) != target}
        if None in constants.values():
            return False
        inputs = [constants.get(name) or self._get(name, form) for name in node.input]
        self._made[node.output[0]] = {form: self._node(node.op_type, inputs)}
        return True

    def _beside(self, name: str, form: Form, target: Shape) -> str | None:
        """A constant beside a tensor of some form: one value, or one per channel; None for anything else."""
        if name not in self._weights:
            return None
        values = self._weight(name)
        if form == "plain" and values.ndim <= 5:
            return name
        if values.size == 1:
            return self._constant(f"{name}_one_2d", values.reshape(()))
        sizes = (1,) * (5 - values.ndim) + values.shape
        if sizes != (1, target[0], 1, 1, 1):
            return None
        return self._constant(f"{name}_channels_2d", values.reshape(-1, 1, 1))

    def _get(self, name: str, form: Form) -> str:
        """A tensor of the source in another form, made once."""
        if name not in self._made and (form == "plain" or name not in self._shapes):
            return name
        forms = self._made.setdefault(name, {"plain": name})
        if form not in forms:
            forms[form] = self._convert(name, form)
        return forms[form]

    def _convert(self, name: str, form: Form) -> str:
        channels, frames, height, width = self._shapes[name]
        if form == "rows":
            return self._as_rows(self._made[name], self._shapes[name])
        if form == "plain":
            return self._node("Reshape", [self._get(name, "rows"), self._sizes(-1, channels, frames, height, width)])
        maps = self._node("Transpose", [self._get(name, "plain")], perm=list(_TIME_FIRST))
        return self._node("Reshape", [maps, self._sizes(-1, channels, height, width)])

    def _as_rows(self, forms: dict[Form, str], shape: Shape) -> str:
        channels, frames, height, width = shape
        if "rows" in forms:
            return forms["rows"]
        if "plain" in forms:
            return self._node("Reshape", [forms["plain"], self._sizes(-1, channels, frames, height * width)])
        # Pixels of a frame as one axis: transposing long runs is faster.
        maps = self._node("Reshape", [forms["frames"], self._sizes(-1, frames, channels, height * width)])
        return self._node("Transpose", [maps], perm=[0, 2, 1, 3])

    def _node(self, operator: str, inputs: Sequence[str], **options: Any) -> str:
        name = f"{operator.lower()}_2d_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], **options))
        return name

    def _sizes(self, *values: int) -> str:
        name = "sizes_2d_" + "_".join(str(value).replace("-", "minus") for value in values)
        return self._constant(name, np.array(values, np.int64))

    def _constant(self, name: str, values: NDArray[np.generic]) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def _weight(self, name: str) -> NDArray[np.generic]:
        if name not in self._weights:
            raise ExportError(f"{name}: only convolutions whose weights are stored in the graph can be made 2D")
        return np.asarray(numpy_helper.to_array(self._weights[name]))


class _Window:
    """What a convolution or pool spans, by its attributes, split into time and space."""

    def __init__(self, found: dict[str, Any]) -> None:
        kernel = found["kernel_shape"]
        strides, dilations = (found.get(name, [1, 1, 1]) for name in ("strides", "dilations"))
        pads = found.get("pads", [0] * 6)
        self.temporal = kernel[0], strides[0], dilations[0], (pads[0], pads[3])
        self.is_temporally_trivial = self.temporal == (1, 1, dilations[0], (0, 0))
        self.is_spatially_trivial = [*kernel[1:], *strides[1:], *pads[1:3], *pads[4:]] == [1] * 4 + [0] * 4
        self.in_space = {
            "kernel_shape": kernel[1:],
            "strides": strides[1:],
            "dilations": dilations[1:],
            "pads": [*pads[1:3], *pads[4:]],
        }
        self.in_time = {
            "kernel_shape": [kernel[0], 1],
            "strides": [strides[0], 1],
            "dilations": [dilations[0], 1],
            "pads": [pads[0], 0, pads[3], 0],
        }


def _five_dimensional(model: onnx.ModelProto) -> dict[str, Shape]:
    """(C, T, H, W) of every tensor of five dimensions whose sizes but N are known."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    weights = {entry.name for entry in inferred.initializer}
    found = {}
    for entry in (*inferred.input, *inferred.value_info, *inferred.output):
        sizes = entry.type.tensor_type.shape.dim
        is_known = len(sizes) == 5 and all(size.HasField("dim_value") for size in sizes[1:])
        if is_known and entry.name not in weights and math.prod(size.dim_value for size in sizes[1:]) > 0:
            found[entry.name] = tuple(size.dim_value for size in sizes[1:])
    return found
