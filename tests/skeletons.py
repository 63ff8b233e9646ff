"""Graphs that have the shapes of whole networks and no weights: what decides a shape is there, little else.

The weights are inputs of the graph without data. Numbers of Inception from kinetics-i3d and pytorch-i3d, of the others
from mmaction2, pytorchvideo and SlowFast.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Triple = tuple[int, int, int]
NonLocal = Literal["embedded", "gaussian", "slowfast"]

PLAIN_KERNELS = ((3, 3, 3), (3, 1, 3, 1), (3, 1, 3, 1, 3, 1), (1, 3, 1))
HEAVY_KERNELS = ((3,) * 3, (3,) * 4, (3,) * 6, (3,) * 3)
NON_LOCAL_BLOCKS = ((), (1, 3), (1, 3, 5), ())


class Skeleton:
    """A graph under construction: what is added is named by the string that comes back."""

    def __init__(self, *view: int) -> None:
        """Begin with the input ``frames`` (N, *view)."""
        self._inputs = [helper.make_tensor_value_info("frames", TensorProto.FLOAT, ["N", *view])]
        self._nodes: list[onnx.NodeProto] = []
        self._numbers: list[onnx.TensorProto] = []

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        output = f"{op}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def weight(self, *shape: int) -> str:
        """Add a weight."""
        name = f"weight_{len(self._inputs)}"
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def numbers(self, *values: int) -> str:
        """Add integers, such as a shape."""
        name = f"numbers_{len(self._numbers)}"
        self._numbers.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def conv(self, x: str, *shape: int, stride: Triple = (1, 1, 1), pads: tuple[int, ...] | None = None) -> str:
        """Convolve with a weight of a shape; pads (begin..., end...) default to half the kernel on both sides."""
        half = tuple(size // 2 for size in shape[2:])
        return self.add("Conv", x, self.weight(*shape), strides=stride, pads=pads or half + half)

    def model(self, output: str) -> onnx.ModelProto:
        """The graph up to a tensor, whose shape is not declared."""
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self._nodes, "skeleton", self._inputs, outputs, self._numbers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def weight_shapes(skeleton: onnx.ModelProto) -> list[tuple[int, ...]]:
    """The shapes of its weights, in the order they were added."""
    _, *weights = skeleton.graph.input
    return [tuple(size.dim_value for size in entry.type.tensor_type.shape.dim) for entry in weights]


def r50(
    side: int,
    *,
    frames: int,
    stem_strides: tuple[int, int],
    kernels: tuple[tuple[int, ...], ...] = PLAIN_KERNELS,
    non_local: NonLocal | None = None,
    slides: bool = False,
) -> onnx.ModelProto:
    """Build an I3D ResNet-50 on frames (N, 3, T, H, W).

    Args:
        side: H and W.
        frames: T.
        stem_strides: In time, of the first convolution and of the pool after it.
        kernels: Per stage and bottleneck: frames that its first convolution spans.
        non_local: Which blocks follow the bottlenecks of ``NON_LOCAL_BLOCKS``.
        slides: The classifier is applied at every position of a window of 4x7x7, not to the mean of all.
    """
    net = Skeleton(3, frames, side, side)
    x = net.conv("frames", 64, 3, 5, 7, 7, stride=(stem_strides[0], 2, 2))
    x = net.add("MaxPool", x, kernel_shape=(1, 3, 3), strides=(stem_strides[1], 2, 2), pads=(0, 1, 1) * 2)
    channels = 64
    for stage in range(4):
        for block, kernel in enumerate(kernels[stage]):
            x = _bottleneck(net, x, channels, 64 << stage, kernel, stride=2 if stage and not block else 1)
            channels = 256 << stage
            if non_local and block in NON_LOCAL_BLOCKS[stage]:
                x = _non_local(net, x, channels, non_local)
        if stage == 0:
            x = net.add("MaxPool", x, kernel_shape=(2, 1, 1), strides=(2, 1, 1))
    return net.model(_sliding_head(net, x) if slides else _global_head(net, x))


def _bottleneck(net: Skeleton, x: str, channels: int, width: int, kernel: int, *, stride: int) -> str:
    out = 4 * width
    shortcut = x if channels == out else net.conv(x, out, channels, 1, 1, 1, stride=(1, stride, stride))
    x = net.conv(x, width, channels, kernel, 1, 1)
    x = net.conv(x, width, width, 1, 3, 3, stride=(1, stride, stride))
    return net.add("Add", net.conv(x, out, width, 1, 1, 1), shortcut)


def _non_local(net: Skeleton, x: str, channels: int, kind: NonLocal) -> str:
    inner = channels // 2
    # mmaction2 takes the maxima of what the convolutions gave, SlowFast those of what goes in.
    source = _maxima(net, x) if kind == "slowfast" else x
    values = net.conv(source, inner, channels, 1, 1, 1)
    queries = x if kind == "gaussian" else net.conv(x, inner, channels, 1, 1, 1)
    keys = x if kind == "gaussian" else net.conv(source, inner, channels, 1, 1, 1)
    if kind != "slowfast":
        values, keys = _maxima(net, values), _maxima(net, keys)
    flat_queries = net.add("Transpose", _flat(net, queries), perm=(0, 2, 1))  # N P D
    weights = net.add("MatMul", flat_queries, _flat(net, keys))  # N P S
    mixed = net.add("MatMul", _flat(net, values), net.add("Transpose", weights, perm=(0, 2, 1)))  # N D P
    batch, rest = net.add("Shape", x, start=0, end=1), net.add("Shape", x, start=2)
    mixed = net.add("Reshape", mixed, net.add("Concat", batch, net.numbers(inner), rest, axis=0))  # N D T H W
    return net.add("Add", x, net.conv(mixed, channels, inner, 1, 1, 1))


def _maxima(net: Skeleton, x: str) -> str:
    return net.add("MaxPool", x, kernel_shape=(1, 2, 2), strides=(1, 2, 2))


def _flat(net: Skeleton, x: str) -> str:
    return net.add("Reshape", x, net.numbers(0, 0, -1))


def _global_head(net: Skeleton, x: str) -> str:
    features = net.add("Flatten", net.add("GlobalAveragePool", x))
    return net.add("Gemm", features, net.weight(400, 2048), transB=1)


def _sliding_head(net: Skeleton, x: str) -> str:
    x = net.add("AveragePool", x, kernel_shape=(4, 7, 7), strides=(1, 1, 1))
    x = net.add("Transpose", x, perm=(0, 2, 3, 4, 1))
    return net.add("MatMul", x, net.add("Transpose", net.weight(400, 2048), perm=(1, 0)))


Mixed = tuple[int, tuple[int, int], tuple[int, int], int]
INCEPTION_STAGES: tuple[tuple[Triple, tuple[Mixed, ...]], ...] = (
    ((1, 3, 3), ((64, (96, 128), (16, 32), 32), (128, (128, 192), (32, 96), 64))),
    (
        (3, 3, 3),
        (
            (192, (96, 208), (16, 48), 64),
            (160, (112, 224), (24, 64), 64),
            (128, (128, 256), (24, 64), 64),
            (112, (144, 288), (32, 64), 64),
            (256, (160, 320), (32, 128), 128),
        ),
    ),
    ((2, 2, 2), ((256, (160, 320), (32, 128), 128), (384, (192, 384), (48, 128), 128))),
)
"""Kernel of the pool before each stage, and the widths of its blocks' four branches."""


def inception(side: int, *, channels: int, frames: int) -> onnx.ModelProto:
    """Build the Inception-V1 I3D on frames (N, channels, T, H, W), with TensorFlow's SAME padding.

    Args:
        side: H and W.
        channels: 3 of RGB, 2 of optical flow.
        frames: T.
    """
    net = Skeleton(channels, frames, side, side)
    size: Triple = (frames, side, side)
    x = net.conv("frames", 64, channels, 7, 7, 7, stride=(2, 2, 2), pads=_same(size, (7, 7, 7), (2, 2, 2)))
    size = _strided(size, (2, 2, 2))
    x, size = _pool(net, x, size, (1, 3, 3), (1, 2, 2))
    x = net.conv(net.conv(x, 64, 64, 1, 1, 1), 192, 64, 3, 3, 3)
    width = 192
    for kernel, blocks in INCEPTION_STAGES:
        x, size = _pool(net, x, size, kernel, (min(kernel[0], 2), 2, 2))
        for block in blocks:
            x = _mixed(net, x, size, width, block)
            width = block[0] + block[1][1] + block[2][1] + block[3]
    x = net.add("AveragePool", x, kernel_shape=(2, 7, 7), strides=(1, 1, 1))
    return net.model(net.conv(x, 400, width, 1, 1, 1))


def _mixed(net: Skeleton, x: str, size: Triple, width: int, block: Mixed) -> str:
    plain, (reduce1, out1), (reduce2, out2), pooled = block
    branches = [
        net.conv(x, plain, width, 1, 1, 1),
        net.conv(net.conv(x, reduce1, width, 1, 1, 1), out1, reduce1, 3, 3, 3),
        net.conv(net.conv(x, reduce2, width, 1, 1, 1), out2, reduce2, 3, 3, 3),
        net.conv(_pool(net, x, size, (3, 3, 3), (1, 1, 1))[0], pooled, width, 1, 1, 1),
    ]
    return net.add("Concat", *branches, axis=1)


def _pool(net: Skeleton, x: str, size: Triple, kernel: Triple, stride: Triple) -> tuple[str, Triple]:
    pads = _same(size, kernel, stride)
    return net.add("MaxPool", x, kernel_shape=kernel, strides=stride, pads=pads), _strided(size, stride)


def _strided(size: Triple, stride: Triple) -> Triple:
    t, h, w = (-(-length // step) for length, step in zip(size, stride, strict=True))
    return (t, h, w)


def _same(size: Triple, kernel: Triple, stride: Triple) -> tuple[int, ...]:
    """Pads (begin..., end...): an odd one goes to the end, so that they differ for even sizes."""
    totals = [max(k - (s % d or d), 0) for s, k, d in zip(size, kernel, stride, strict=True)]
    return (*(total // 2 for total in totals), *(total - total // 2 for total in totals))


SKELETONS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "r50": partial(r50, frames=32, stem_strides=(2, 2)),
    "nl_gaussian": partial(r50, frames=32, stem_strides=(2, 2), non_local="gaussian"),
    "nl_embedded": partial(r50, frames=32, stem_strides=(2, 2), non_local="embedded"),
    "heavy": partial(r50, frames=8, stem_strides=(1, 1), kernels=HEAVY_KERNELS),
    "r50_8x8": partial(r50, frames=8, stem_strides=(1, 1), slides=True),
    "nln_8x8": partial(r50, frames=8, stem_strides=(1, 1), slides=True, non_local="slowfast"),
    "inception_rgb": partial(inception, channels=3, frames=32),
    "inception_flow": partial(inception, channels=2, frames=32),
}
"""The networks of the table of costs, for a side; "r50_8x8" is pytorchvideo's and SlowFast's, "nln_8x8" SlowFast's."""
