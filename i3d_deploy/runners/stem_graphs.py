"""Cut an I3D network in OpenVINO behind the pool of its stem, and build the two parts that share the stem.

The stem of one window of frames gives pooled maps for every crop; the trunk takes the maps of a view and does the rest.
Constants, and the FakeQuantize nodes of int8, are those of the file, so that the parts answer as the whole does up to
rounding.

Note [Form of the stem]
    A window is one 2D convolution: its frames lie side by side in the channels, channels last, as the decoder gives
    them. The strips at the borders of the crops are turned so that their long side is the inner one. Bound to be exact:
    pixels are normalised, and in int8 quantised, before zeros are put around them, as in the whole network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i3d_deploy.openvino_core import openvino
from i3d_deploy.runners.stem_windows import LEFT_STRIP, RIGHT_STRIP, Region, Shape, Temporal, Window

op = openvino.opset13

_PADDING = 3
_STEM = ["Relu", "Add", "Convolution"]
"""From the pool backwards."""
_PIXELS = (["Transpose", "Divide", "Subtract", "Convert"], ["Divide", "Subtract", "Transpose", "Convert"])
"""From the convolution backwards: an export normalises the pixels before or after it moves the channels."""
_BYTE_LEVELS = 256
_STEPS = 0.0, _BYTE_LEVELS - 1.0
_TO_NCTHW = [0, 4, 1, 2, 3]
_POOL = {
    "kernel": [1, 3, 3],
    "strides": [1, 2, 2],
    "pads_begin": [0, 1, 1],
    "pads_end": [0, 1, 1],
    "dilations": [1, 1, 1],
    "rounding_type": "floor",
    "auto_pad": "explicit",
}


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Quantisation of a tensor, all of it alike, as a FakeQuantize node does it.

    Attributes:
        count: Levels.
        source: Lowest and highest number that is told apart.
        target: What those become.
    """

    count: int
    source: tuple[float, float]
    target: tuple[float, float]

    def applied(self, node: Any, *, target: tuple[float, float] | None = None) -> Any:
        """The quantised form of a node, in the target's numbers or in others."""
        edges = (*self.source, *(target or self.target))
        return op.fake_quantize(node, *(op.constant(np.float32(edge)) for edge in edges), self.count)


@dataclass(frozen=True, kw_only=True)
class Weight:
    """The kernel of a convolution as the file stores it.

    Attributes:
        values: (C, 3, T, 7, 7), int8 or floats.
        scale: What int8 values are multiplied by, (C, 1, 1, 1); None for floats.
    """

    values: NDArray[Any]
    scale: NDArray[np.float32] | None

    def of_frames(self, first: int, count: int, *, is_turned: bool) -> Any:
        """The node of a 2D kernel over some frames of it, (C, T * 3, 7, 7); turned: with rows and columns swapped."""
        kernel = self.values[:, :, first : first + count].swapaxes(1, 2)
        kernel = kernel.reshape(len(kernel), -1, *kernel.shape[3:])
        node = op.constant(np.ascontiguousarray(kernel.swapaxes(2, 3) if is_turned else kernel))
        if self.scale is None:
            return node
        return op.multiply(op.convert(node, "f32"), op.constant(self.scale))


@dataclass(frozen=True, kw_only=True)
class Stem:
    """The parts of a network up to the pool after its stem.

    Attributes:
        temporal: Its windows.
        mean: (3,) of the pixels.
        std: (3,) of the pixels.
        weight: Of the convolution.
        bias: (C,) float32.
        pixel_levels: Of the convolution's input in int8.
        map_levels: Of the pool's input in int8: 256 from 0 on, so that maps are kept as the numbers of their steps.
        map_shape: (H', W', C) of the pooled maps of one crop.
        num_maps: T', maps of a view.
    """

    temporal: Temporal
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    weight: Weight
    bias: NDArray[np.float32]
    pixel_levels: Levels | None
    map_levels: Levels | None
    map_shape: tuple[int, int, int]
    num_maps: int


def find_stem(model: Any) -> Stem | None:
    """Recognise the stem of an ``openvino.Model`` of static shapes.

    Returns:
        None for anything but uint8 (N, T, H, W, 3) pixels, normalised, through a 3D convolution whose pool has no
        stride in time and, in int8, takes 256 steps from 0 on.
    """
    pools = [node for node in model.get_ordered_ops() if node.get_type_name() == "MaxPool"]
    if not pools or not _has(pools[0], _POOL) or (before_pool := _chain(pools[0], [_STEM])) is None:
        return None
    maps, map_levels = before_pool
    convolution = maps["Convolution"]
    if (before_convolution := _chain(convolution, _PIXELS)) is None:
        return None
    pixels, pixel_levels = before_convolution
    weight, temporal, bias = (
        _weight(_constant(convolution, 1)),
        _temporal(convolution),
        _values(_constant(maps["Add"], 1)),
    )
    mean, std = (_per_channel(pixels[kind]) for kind in ("Subtract", "Divide"))
    if weight is None or temporal is None or bias is None or mean is None or std is None:
        return None
    _, channels, num_maps, height, width = pools[0].get_output_shape(0)
    order = _values(_constant(pixels["Transpose"], 1))
    is_usual = order is not None and order.tolist() == _TO_NCTHW and bias.size == channels and _fit_bytes(map_levels)
    if not is_usual or not _is_input(pixels["Convert"].input_value(0).get_node()):
        return None
    return Stem(
        temporal=temporal,
        mean=mean,
        std=std,
        weight=weight,
        bias=bias.ravel(),
        pixel_levels=pixel_levels,
        map_levels=map_levels,
        map_shape=(height, width, channels),
        num_maps=num_maps,
    )


def _chain(node: Any, orders: Sequence[list[str]]) -> tuple[dict[str, Any], Levels | None] | None:
    """The nodes before a node, by type, each read by the next alone, in one of some orders; the last may be quantised.

    A transposition behind the quantisation makes no difference to it.
    """
    nodes: dict[str, Any] = {}
    kinds: list[str] = []
    levels = None
    while kinds not in orders:
        node = node.input_value(0).get_node()
        kind = node.get_type_name()
        if _num_readers(node) != 1:
            return None
        if _begins(orders, [*kinds, kind]):
            nodes[kind] = node
            kinds.append(kind)
            continue
        is_last = kind == "FakeQuantize" and levels is None and kinds in ([], ["Transpose"])
        levels = _levels(node) if is_last else None
        if levels is None:
            return None
    return nodes, levels


def _begins(orders: Sequence[list[str]], kinds: list[str]) -> bool:
    return any(order[: len(kinds)] == kinds for order in orders)


def _num_readers(node: Any) -> int:
    """How many nodes take what a node gives; its shape, which the file also takes for the bias, is not counted."""
    return sum(target.get_node().get_type_name() != "ShapeOf" for target in node.output(0).get_target_inputs())


def _is_input(node: Any) -> bool:
    """Whether a node is the input of uint8 pixels, read once."""
    is_parameter = node.get_type_name() == "Parameter" and _num_readers(node) == 1
    return is_parameter and node.get_output_element_type(0) == openvino.Type.u8


def _constant(node: Any, number: int) -> Any:
    return node.input_value(number).get_node()


def _per_channel(node: Any) -> NDArray[np.float32] | None:
    """The three numbers that a node applies to the channels of its first input; None where it does something else."""
    values, shape = _values(_constant(node, 1)), list(node.get_output_shape(0))
    if values is None or values.size != 3 or values.dtype != np.float32:
        return None
    channels_last = shape[-1] == 3
    expected = (3,) if channels_last else (3, 1, 1, 1)
    return values.ravel() if values.shape[-len(expected) :] == expected else None


def _levels(node: Any) -> Levels | None:
    """What a FakeQuantize node does; None where that differs from channel to channel."""
    edges = [_values(_constant(node, number)) for number in range(1, 5)]
    numbers = [float(edge.item()) for edge in edges if edge is not None and edge.size == 1]
    if len(numbers) < len(edges):
        return None
    lowest, highest, low, high = numbers
    return Levels(count=node.get_attributes()["levels"], source=(lowest, highest), target=(low, high))


def _fit_bytes(levels: Levels | None) -> bool:
    return levels is None or (levels.count, levels.source[0], levels.target[0]) == (_BYTE_LEVELS, 0, 0)


def _has(node: Any, expected: dict[str, Any]) -> bool:
    attributes = node.get_attributes()
    return all(attributes[name] == value for name, value in expected.items())


def _temporal(convolution: Any) -> Temporal | None:
    attributes, kernel = convolution.get_attributes(), list(convolution.input_value(1).get_shape())[2:]
    (stride, *strides), (before, *begin), (after, *end) = (
        attributes[name] for name in ("strides", "pads_begin", "pads_end")
    )
    is_plain = attributes["dilations"] == [1, 1, 1] and attributes["auto_pad"] == "explicit"
    is_usual = is_plain and (strides, begin, end, kernel[1:]) == ([2, 2], [_PADDING] * 2, [_PADDING] * 2, [7, 7])
    if not is_usual or max(before, after) >= kernel[0]:
        return None
    return Temporal(kernel=kernel[0], stride=stride, before=before, after=after)


def _values(node: Any) -> NDArray[Any] | None:
    """The numbers of a constant, as float32 where they are floats; looks through a Reshape and a Convert."""
    while node.get_type_name() in ("Reshape", "Convert"):
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    values = np.array(node.data)  # a copy: the node's memory goes with the model
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def _weight(node: Any) -> Weight | None:
    scale = None
    if node.get_type_name() == "Multiply":
        if (scale := _values(_constant(node, 1))) is None:
            return None
        node = _constant(node, 0)
    values = _values(node)
    if values is None or values.ndim != 5 or values.shape[1] != 3:
        return None
    if scale is None:
        return Weight(values=values, scale=None) if values.dtype == np.float32 else None
    if values.dtype != np.int8 or scale.size != len(values):
        return None
    return Weight(values=values, scale=scale.reshape(-1, 1, 1, 1))


def trunk(model: Any, stem: Stem) -> Any:
    """Make a model of everything behind the stem: one input for each map, (1, H', W', C), to logits.

    Inputs are uint8 in int8, else float32.

    Args:
        model: The network in which the stem was found, or another reading of its file; it is taken apart.
        stem: What :func:`find_stem` found.
    """
    pool = next(node for node in model.get_ordered_ops() if node.get_type_name() == "MaxPool")
    levels = stem.map_levels
    kept = np.float32 if levels is None else np.uint8
    maps = [op.parameter([1, *stem.map_shape], kept) for _ in range(stem.num_maps)]
    stacked = op.concat(maps, 0)
    values = stacked if levels is None else _values_of_steps(stacked, levels)
    start = op.transpose(op.reshape(values, [1, stem.num_maps, *stem.map_shape], False), _TO_NCTHW)
    for target in pool.output(0).get_target_inputs():
        target.replace_source_output(start.output(0))
    return openvino.Model(model.get_results(), maps, "trunk")


def _values_of_steps(steps: Any, levels: Levels) -> Any:
    """The quantised values of maps that are kept as the numbers of their steps, from 0 on.

    By a second quantisation that changes nothing: without one OpenVINO would not multiply in int8 behind it.
    """
    whole = Levels(count=levels.count, source=_STEPS, target=levels.target)
    return whole.applied(op.convert(steps, "f32"))


def stem_of_window(stem: Stem, shape: Shape, window: Window) -> Any:
    """Make a model of one window: an input for each of its frames to an output for each crop.

    Inputs are (1, H, W, 3) uint8, only the part of a frame that crops have; outputs are (1, H', W', C) float32, in
    int8 the numbers of steps.

    Args:
        stem: The network's.
        shape: Of the crops.
        window: One like those it is for: the same frames of zeros and as many others.
    """
    frames = [op.parameter([1, *shape.size, 3], np.uint8) for _ in window.frames]
    maps = _WindowGraph(stem, shape, first=window.first, count=len(frames)).maps(frames)
    return openvino.Model([op.result(node) for node in maps], frames, "stem")


class _WindowGraph:
    """Builds the graph of one kind of window. Nodes are (1, H, W, C) unless said."""

    def __init__(self, stem: Stem, shape: Shape, *, first: int, count: int) -> None:
        self._stem, self._shape, self._count = stem, shape, count
        self._along = 1 if shape.is_portrait else 2
        self._kernel, self._turned_kernel = (
            stem.weight.of_frames(first, count, is_turned=is_turned) for is_turned in (False, True)
        )

    def maps(self, frames: Sequence[Any]) -> list[Any]:
        """Pooled maps of each crop, in order."""
        pixels = self._pixels(frames)
        found = {}
        for region in self._shape.regions:
            found.update(self._maps_of_region(region, _cut(pixels, self._along, region.start, region.stop)))
        return [found[crop] for crop in range(len(self._shape.spans))]

    def _pixels(self, frames: Sequence[Any]) -> Any:
        """Normalised, (1, H, W, T * 3)."""
        side_by_side = op.transpose(op.concat(list(frames), 0), [1, 2, 0, 3])  # H W T 3
        merged = op.reshape(side_by_side, [1, *self._shape.size, self._count * 3], False)
        mean, std = (op.constant(np.tile(values, self._count)) for values in (self._stem.mean, self._stem.std))
        normalised = op.divide(op.subtract(op.convert(merged, "f32"), mean), std)
        levels = self._stem.pixel_levels
        return normalised if levels is None else levels.applied(normalised)

    def _maps_of_region(self, region: Region, pixels: Any) -> dict[int, Any]:
        """Pooled maps by crop: Note [Shared columns]."""
        convolved = self._convolve(pixels, self._kernel, [_PADDING] * 2, [_PADDING] * 2)
        spans = {crop: tuple(edge - region.start for edge in self._shape.spans[crop]) for crop in region.crops}
        # By the first column of the crop, in columns of the convolution: even or odd.
        pooled = {
            parity: _pool(convolved, self._pads(1 - parity, 1), self._pads(1, 1))
            for parity in sorted({start // 2 % 2 for start, _ in spans.values()})
        }
        starts, stops = self._shape.starts(region), self._shape.stops(region)
        lefts = [_cut(pixels, self._along, edge - region.start, edge - region.start + LEFT_STRIP) for edge in starts]
        rights = [_cut(pixels, self._along, edge - region.start - RIGHT_STRIP, edge - region.start) for edge in stops]
        at_start = dict(zip(starts, self._borders(lefts, pads=(_PADDING, 0), pool_pad=1), strict=True))
        at_stop = dict(zip(stops, self._borders(rights, pads=(0, 2), pool_pad=0), strict=True))
        found = {}
        for crop, (start, stop) in spans.items():
            before = at_start.get(start + region.start)
            after = at_stop.get(stop + region.start)
            first, last = start // 4 + 2 * (before is not None), start // 4 + (stop - start) // 4 - (after is not None)
            inside = _cut(pooled[start // 2 % 2], self._along, first, last)
            found[crop] = op.concat([part for part in (before, inside, after) if part is not None], self._along)
        return found

    def _pads(self, along: int, across: int) -> list[int]:
        """Pixels to put before or after, as (rows, columns)."""
        return [along, across] if self._along == 1 else [across, along]

    def _borders(self, strips: list[Any], *, pads: tuple[int, int], pool_pad: int) -> list[Any]:
        """Pooled columns at the border of each strip, all in one convolution.

        Args:
            strips: All of one size.
            pads: Zeros before and after a strip, along the columns.
            pool_pad: The same before its convolved columns.
        """
        if not strips:
            return []
        # The strips' own direction becomes the outer one: Note [Form of the stem].
        order, kernel = ([0, 2, 1, 3], self._turned_kernel) if self._along == 2 else ([0, 1, 2, 3], self._kernel)
        turned = op.transpose(op.concat(strips, 0), order)
        convolved = self._convolve(turned, kernel, [pads[0], _PADDING], [pads[1], _PADDING])
        pooled = op.transpose(_pool(convolved, [pool_pad, 1], [0, 1]), order)
        return [_cut(pooled, 0, place, place + 1) for place in range(len(strips))]

    def _convolve(self, pixels: Any, kernel: Any, begin: list[int], end: list[int]) -> Any:
        """(N, H, W, T * 3) to (N, C, H', W')."""
        source = op.transpose(pixels, [0, 3, 1, 2])
        convolved = op.convolution(source, kernel, [2, 2], begin, end, [1, 1])
        bias = op.constant(self._stem.bias.reshape(1, -1, 1, 1))
        maps, levels = op.relu(op.add(convolved, bias)), self._stem.map_levels
        return maps if levels is None else levels.applied(maps, target=_STEPS)


def _pool(convolved: Any, begin: list[int], end: list[int]) -> Any:
    """(N, C, H, W) to (N, H', W', C)."""
    pooled = op.max_pool(convolved, [2, 2], [1, 1], begin, end, [3, 3], "floor", "explicit")
    return op.transpose(pooled.output(0), [0, 2, 3, 1])


def _cut(node: Any, axis: int, start: int, stop: int) -> Any:
    """A part of a node along one axis; the node itself where that is all of it."""
    if (start, stop) == (0, list(node.output(0).shape)[axis]):
        return node
    return op.slice(node, [start], [stop], [1], [axis])
