"""The networks as lists of what a GPU runs, made from their weights.

Letters: N views, C channels, T frames, H rows, W columns. Sizes in the comments are those of the networks' usual views.

Note [Frames that a pool drops]
    The pool after a ResNet's stem drops every second frame: the stem has that stride instead, and does half the work.
    :mod:`i3d_deploy.rewrites` has the argument.

Note [Parts]
    Early maps are large and have few channels: reading and writing them takes longer than the arithmetic. So views go
    through the early parts chunk by chunk, each as soon as it is copied (Note [Chunks] in
    :mod:`i3d_deploy.fused.lanes`), and the views of a chunk in groups, so few that their maps may still be in the GPU's
    cache when the next layer reads them. Through the last two parts, where the maps of a few views would not keep the
    GPU busy, all views of a batch go together.

Note [Eight bits inside]
    Of a block, the maps between its first and last convolution are read by one convolution each. In eight bits of
    floating point (e4m3) they are half the bytes, and the convolutions that read them, more than half of a ResNet's
    multiplications after the stem, are done at twice the rate. Maps that are added or read twice stay as they are.

    Such numbers have steps of an eighth to a sixteenth at any size, from 1/512 to 448, so that scales matter little
    and need no calibration: normalisation says how large a channel becomes, its shift plus eight times its scale, and
    the largest such is put at half of the range. Scales are folded into weights and biases, which a ReLU lets through.
    Weights have a scale for each output, which the sums are multiplied by.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from i3d_deploy.errors import InputError
from i3d_deploy.fused.convolution import EIGHT_BITS, Convolution, Window, fold
from i3d_deploy.fused.stacking import Source, Stacking
from i3d_deploy.head import I3D
from i3d_deploy.inception import I3DInception, MaxPool, MixedBlock, Unit
from i3d_deploy.preprocessing import Pixels
from i3d_deploy.resnet import Bottleneck, I3DResNet, NonLocalBlock

Folded = tuple[Tensor, Tensor]
"""(K, KT, KH, KW, C) weights and (K,) biases, float64."""

_DEVIATIONS = 8
"""How many standard deviations a normalised channel may be from its mean: Note [Eight bits inside]."""

_LATE_PARTS = 2
CHANNEL_UNIT = 16
"""Channels that stay inside the network are filled up to a multiple of this, which the kernels read whole."""


class Steps(Protocol):
    """What computes the steps of a network."""

    def stack(self, stacking: Stacking, source: Source) -> Tensor:
        """The stem's input: as :meth:`i3d_deploy.fused.stacking.Stacking.stack`."""

    def convolve(
        self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """A convolution: as :meth:`i3d_deploy.fused.algorithms.Algorithm.run`."""

    def max_pool(self, x: Tensor, window: Window, *, out: Tensor | None = None) -> Tensor:
        """A max pool: as :func:`i3d_deploy.fused.tiled.max_pool`."""


class Part(Protocol):
    """One part of a network."""

    def run(self, steps: Steps, x: Tensor, out: Tensor | None) -> Tensor:
        """Map (N, T, H, W, C) to (N, T', H', W', C'), written into ``out`` where that is given."""

    def out_shape(self, x: Tensor) -> tuple[int, int, int, int, int]:
        """(N, T', H', W', C')."""


class FusedNetwork:
    """A network on a device.

    Args:
        net: In eval mode; its weights are copied.
        pixels: How values of 0 to 255 are scaled.
        dtype: What convolutions are computed with; their sums are float32 (float64 for float64).
        device: Where.
        has_eight_bits: Whether maps inside of blocks have eight bits: Note [Eight bits inside].

    Attributes:
        dtype: Of all maps, or of all but those.
        device: Where they are.
        stacking: Makes the stem's input.
        parts: The network up to its last maps: Note [Parts].
    """

    def __init__(
        self, net: I3D, pixels: Pixels, *, dtype: torch.dtype, device: torch.device, has_eight_bits: bool = False
    ) -> None:
        self.dtype, self.device = dtype, device
        make = _Making(dtype=dtype, device=device, has_eight_bits=has_eight_bits)
        window: Window
        if isinstance(net, I3DInception):
            window, self.parts = _inception(net, make)
        elif isinstance(net, I3DResNet):
            window, self.parts = _resnet(net, make)
        else:
            raise InputError(f"{type(net).__name__} is neither an I3DResNet nor an I3DInception")
        self.stacking = Stacking(pixels, window, dtype=dtype, device=device)
        self._head = I3D(net.network)
        self._head.dropout = nn.Dropout(0.0)
        self._head.fc = copy.deepcopy(net.fc).to(device, torch.promote_types(dtype, torch.float32))
        self._head.eval()

    @property
    def early_parts(self) -> int:
        """How many of the parts are run chunk by chunk: Note [Parts]."""
        return len(self.parts) - _LATE_PARTS

    def early(self, steps: Steps, source: Source, *, groups: Sequence[int] = (), out: Tensor | None = None) -> Tensor:
        """Maps between the early parts and the late ones.

        Args:
            steps: What computes.
            source: Some views.
            groups: Views at a time for each early part: Note [Parts]. None given: all at once.
            out: Where to write; None: memory of its own.

        Returns:
            (N, T, H, W, C).
        """
        return self._through(steps, source, list(groups) or [len(source.origins)] * self.early_parts, out)

    def late(self, steps: Steps, maps: Tensor) -> Tensor:
        """The last feature maps (N, T', H', W', C') of those that :meth:`early` gave."""
        for part in self.parts[self.early_parts :]:
            maps = part.run(steps, maps, None)
        return maps

    def classify(self, maps: Tensor) -> Tensor:
        """Logits (N, K) float32 of the last feature maps."""
        return self._head.classify(maps.permute(0, 4, 1, 2, 3).to(self._head.fc.weight.dtype))

    def features(self, steps: Steps, source: Source, *, groups: Sequence[int] = ()) -> Tensor:
        """The last feature maps (N, T', H', W', C'); arguments as of :meth:`early`."""
        return self.late(steps, self.early(steps, source, groups=groups))

    def logits(self, steps: Steps, source: Source, *, groups: Sequence[int] = ()) -> Tensor:
        """Logits (N, K) float32; arguments as of :meth:`early`."""
        return self.classify(self.features(steps, source, groups=groups))

    def _through(self, steps: Steps, source: Source, groups: list[int], out: Tensor | None) -> Tensor:
        """Run as many parts as there are groups."""
        if not groups:
            return steps.stack(self.stacking, source)
        *earlier, size = groups
        part, views = self.parts[len(earlier)], len(source.origins)
        for start in range(0, views, size):
            some = source.of(slice(start, start + size))
            x = self._through(steps, some, earlier, None)
            if out is None and size < views:
                out = x.new_empty((views, *part.out_shape(x)[1:]))
            result = part.run(steps, x, None if out is None else out[start : start + size])
        return result if out is None else out


class _Making:
    """Makes convolutions on a device."""

    def __init__(self, *, dtype: torch.dtype, device: torch.device, has_eight_bits: bool) -> None:
        self._dtype, self._device = dtype, device
        self.has_eight_bits = has_eight_bits

    def convolution(
        self,
        name: str,
        folded: Folded,
        *,
        window: Window | None = None,
        is_rectified: bool = True,
        input_factor: float | None = None,
        output_factor: float | None = None,
    ) -> Convolution:
        """One convolution.

        Args:
            name: Its name in the network.
            folded: Its weights and biases.
            window: What it spans; None: one position.
            is_rectified: Whether a ReLU follows.
            input_factor: What the maps that come in were multiplied by to fit into eight bits; None: they have more.
            output_factor: What those that come out are multiplied by; None: they have more bits.
        """
        weight, bias = folded
        sums = torch.promote_types(self._dtype, torch.float32)
        scale = None
        if input_factor is not None:
            largest = weight.abs().amax((1, 2, 3, 4), keepdim=True).clamp(min=1e-30)
            by = torch.finfo(EIGHT_BITS).max / largest
            scale = (output_factor or 1.0) / (by.flatten() * input_factor)
            weight, bias = weight * by, bias * (output_factor or 1.0)
        elif output_factor is not None:
            weight, bias = weight * output_factor, bias * output_factor
        return Convolution(
            name=name,
            weight=weight.to(self._device, self._dtype if input_factor is None else EIGHT_BITS).contiguous(),
            bias=bias.to(self._device, sums),
            window=window or Window(kernel=(1, 1, 1)),
            is_rectified=is_rectified,
            scale=None if scale is None else scale.to(self._device, sums),
            result_dtype=EIGHT_BITS if output_factor is not None else self._dtype if input_factor is not None else None,
        )

    def factor(self, *norms: nn.BatchNorm3d) -> float | None:
        """What maps after normalisation and ReLU are multiplied by to fit into eight bits; None: they have more."""
        if not self.has_eight_bits:
            return None
        largest = 0.0
        for norm in norms:
            shift, scale = norm.bias.detach().abs(), norm.weight.detach().abs()
            largest = max(largest, (shift + _DEVIATIONS * scale).max().item())
        return torch.finfo(EIGHT_BITS).max / 2 / max(largest, 1e-30)

    def stem(self, name: str, folded: Folded, window: Window) -> Convolution:
        """The convolution of stacked frames: Note [Stacked frames] in :mod:`i3d_deploy.fused.stacking`."""
        weight, bias = folded
        side_by_side = weight.permute(0, 2, 3, 1, 4).flatten(3)[:, None]  # K 1 KH KW KT*C
        filled = _filled(side_by_side, axis=4)
        padding = window.padding if window.padding == "same" else (0, *window.padding[1:])
        flat = Window(kernel=(1, *window.kernel[1:]), stride=(1, *window.stride[1:]), padding=padding)
        return self.convolution(name, (filled, bias), window=flat)


class _Stem:
    """A ResNet up to its first stage."""

    def __init__(self, net: I3DResNet, make: _Making) -> None:
        frames, _, _ = _triple(net.conv1.kernel_size)
        # The pool's stride in time as well: Note [Frames that a pool drops].
        stride = _triple(net.conv1.stride)[0] * _triple(net.maxpool.stride)[0]
        self.window = Window(kernel=(frames, 7, 7), stride=(stride, 2, 2), padding=(frames // 2, 3, 3))
        self._convolution = make.stem("conv1", fold(net.conv1, net.bn1), self.window)
        self._pool = Window(kernel=(1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))

    def run(self, steps: Steps, x: Tensor, out: Tensor | None) -> Tensor:
        x = steps.convolve(self._convolution, x)  # N 8 128 128 64
        return steps.max_pool(x, self._pool, out=out)  # N 8 64 64 64

    def out_shape(self, x: Tensor) -> tuple[int, int, int, int, int]:
        views, *sizes, channels = self._convolution.out_shape(x)
        frames, height, width = self._pool.out((sizes[0], sizes[1], sizes[2]))
        return views, frames, height, width, channels


class _Stage:
    """Bottlenecks, and perhaps a pool after them."""

    def __init__(self, name: str, layer: nn.Sequential, make: _Making, *, pool: Window | None) -> None:
        self._blocks: list[_Bottleneck | _NonLocal] = []
        for number, block in enumerate(layer):
            assert isinstance(block, Bottleneck), "stages are made of bottlenecks"
            self._blocks.append(_Bottleneck(f"{name}.{number}", block, make))
            if block.non_local is not None:
                self._blocks.append(_NonLocal(f"{name}.{number}.non_local", block.non_local, make))
        self._pool = pool

    def run(self, steps: Steps, x: Tensor, out: Tensor | None) -> Tensor:
        last = len(self._blocks) - 1
        for number, block in enumerate(self._blocks):
            x = block.run(steps, x, out if number == last and self._pool is None else None)
        return x if self._pool is None else steps.max_pool(x, self._pool, out=out)

    def out_shape(self, x: Tensor) -> tuple[int, int, int, int, int]:
        first = self._blocks[0]
        assert isinstance(first, _Bottleneck), "non-local blocks follow bottlenecks"
        views, *sizes, channels = first.out_shape(x)
        frames, height, width = sizes if self._pool is None else self._pool.out((sizes[0], sizes[1], sizes[2]))
        return views, frames, height, width, channels


class _Bottleneck:
    def __init__(self, name: str, block: Bottleneck, make: _Making) -> None:
        length, _, _ = _triple(block.conv1.kernel_size)
        stride = _triple(block.conv2.stride)
        in_time = Window(kernel=(length, 1, 1), padding=(length // 2, 0, 0))
        in_space = Window(kernel=(1, 3, 3), stride=stride, padding=(0, 1, 1))
        one, two = make.factor(block.bn1), make.factor(block.bn2)
        self._first = make.convolution(f"{name}.conv1", fold(block.conv1, block.bn1), window=in_time, output_factor=one)
        self._second = make.convolution(
            f"{name}.conv2", fold(block.conv2, block.bn2), window=in_space, input_factor=one, output_factor=two
        )
        self._third = make.convolution(f"{name}.conv3", fold(block.conv3, block.bn3), input_factor=two)
        self._shortcut = None
        if block.downsample is not None:
            convolution, norm = block.downsample
            assert isinstance(convolution, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d), "as a bottleneck makes it"
            self._shortcut = make.convolution(
                f"{name}.downsample",
                fold(convolution, norm),
                window=Window(kernel=(1, 1, 1), stride=stride),
                is_rectified=False,
            )

    def run(self, steps: Steps, x: Tensor, out: Tensor | None) -> Tensor:
        shortcut = x if self._shortcut is None else steps.convolve(self._shortcut, x)
        inner = steps.convolve(self._second, steps.convolve(self._first, x))
        return steps.convolve(self._third, inner, shortcut=shortcut, out=out)

    def out_shape(self, x: Tensor) -> tuple[int, int, int, int, int]:
        views, frames, height, width, _ = self._second.out_shape(x)
        return views, frames, height, width, self._third.out_channels


class _NonLocal:
    """A non-local block; queries, keys and values are one convolution where they see the same."""

    def __init__(self, name: str, block: NonLocalBlock, make: _Making) -> None:
        self._mode, self._scale, self._is_slowfast = block.mode, block.scale, block.form == "slowfast"
        pool = block.pool
        self._pool = Window(kernel=(1, 2, 2), stride=(1, 2, 2)) if isinstance(pool, nn.MaxPool3d) else None
        self._inner = block.g.out_channels
        children = {"g": block.g}
        if block.mode != "gaussian":
            children = {"theta": block.theta, "phi": block.phi, **children}
        folded = {name: fold(child, None) for name, child in children.items()}
        if self._is_slowfast and "theta" in folded:
            self._queries = make.convolution(f"{name}.theta", folded.pop("theta"), is_rectified=False)
        self._joined = make.convolution(f"{name}.{'+'.join(folded)}", _joined(folded.values()), is_rectified=False)
        self._last = make.convolution(f"{name}.out", fold(block.out, block.bn), is_rectified=False)

    def run(self, steps: Steps, x: Tensor, out: Tensor | None) -> Tensor:
        queries, keys, values = self._compared(steps, x)
        products = _products(queries.flatten(1, 3), keys.flatten(1, 3))  # N P S
        weights = products / products.shape[2] if self._mode == "dot_product" else (products * self._scale).softmax(-1)
        mixed = weights.to(x.dtype) @ values.flatten(1, 3)  # N P D
        mixed = mixed.view(*x.shape[:4], self._inner)
        return steps.convolve(self._last, mixed, shortcut=x, out=out)

    def _compared(self, steps: Steps, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (N, T, H, W, D), keys and values (N, T, H', W', D)."""
        if self._is_slowfast:
            seen = self._pooled(steps, x)
            joined = steps.convolve(self._joined, seen)
            if self._mode == "gaussian":
                return x, seen, joined
            keys, values = joined.tensor_split(2, -1)
            return steps.convolve(self._queries, x), keys, values
        joined = steps.convolve(self._joined, x)
        if self._mode == "gaussian":
            return x, self._pooled(steps, x), self._pooled(steps, joined)
        keys, values = self._pooled(steps, joined[..., self._inner :]).tensor_split(2, -1)
        return joined[..., : self._inner], keys, values

    def _pooled(self, steps: Steps, x: Tensor) -> Tensor:
        return x if self._pool is None else steps.max_pool(x, self._pool)


class _Mixed:
    """An Inception block: its branches write side by side into one result."""

    def __init__(self, name: str, block: MixedBlock, make: _Making) -> None:
        first, second = (_filled_outputs(_unit(unit)) for unit in (block.b1a, block.b2a))
        self._widths = [len(bias) for _, bias in (first, second)]
        factor = make.factor(block.b1a.bn, block.b2a.bn)
        self._inner = make.convolution(f"{name}.b1a+b2a", _joined([first, second]), output_factor=factor)
        self._plain = make.convolution(f"{name}.b0", _unit(block.b0))
        cube = Window(kernel=(3, 3, 3), padding=(1, 1, 1))
        self._cubes = [
            make.convolution(f"{name}.{branch}", (_filled(weight, axis=4), bias), window=cube, input_factor=factor)
            for branch, (weight, bias) in (("b1b", _unit(block.b1b)), ("b2b", _unit(block.b2b)))
        ]
        self._pool = _pool_window(block.b3a)
        self._after_pool = make.convolution(f"{name}.b3b", _unit(block.b3b))

        self._sides = [each.out_channels for each in (self._plain, *self._cubes, self._after_pool)]

    @property
    def out_channels(self) -> int:
        return sum(self._sides)

    def run(self, steps: Steps, x: Tensor) -> Tensor:
        result = x.new_empty((*x.shape[:4], self.out_channels))
        plain, first, second, pooled = torch.split(result, self._sides, -1)
        steps.convolve(self._plain, x, out=plain)
        inner = torch.split(steps.convolve(self._inner, x), self._widths, -1)
        for cube, maps, out in zip(self._cubes, inner, (first, second), strict=True):
            steps.convolve(cube, maps, out=out)
        steps.convolve(self._after_pool, steps.max_pool(x, self._pool), out=pooled)
        return result


class _InceptionStem:
    """Inception up to its first block."""

    def __init__(self, net: I3DInception, make: _Making) -> None:
        self.window = Window(kernel=(7, 7, 7), stride=(2, 2, 2), padding="same")
        self._first = make.stem("conv1a", _unit(net.conv1a), self.window)
        factor = make.factor(net.conv2b.bn)
        self._second = make.convolution("conv2b", _unit(net.conv2b), output_factor=factor)
        cube = Window(kernel=(3, 3, 3), padding=(1, 1, 1))
        self._third = make.convolution("conv2c", _unit(net.conv2c), window=cube, input_factor=factor)
        self._pools = _pool_window(net.pool2a), _pool_window(net.pool3a)

    def run(self, steps: Steps, x: Tensor, out: Tensor | None) -> Tensor:
        x = steps.max_pool(steps.convolve(self._first, x), self._pools[0])  # N 32 56 56 64
        x = steps.convolve(self._third, steps.convolve(self._second, x))
        return steps.max_pool(x, self._pools[1], out=out)  # N 32 28 28 192

    def out_shape(self, x: Tensor) -> tuple[int, int, int, int, int]:
        views, frames, height, width, _ = self._first.out_shape(x)
        sizes = self._pools[1].out(self._pools[0].out((frames, height, width)))
        return views, *sizes, self._third.out_channels


class _InceptionStage:
    """Inception blocks after a pool."""

    def __init__(self, blocks: Sequence[tuple[str, MixedBlock]], make: _Making, *, pool: Window | None) -> None:
        self._blocks = [_Mixed(name, block, make) for name, block in blocks]
        self._pool = pool

    def run(self, steps: Steps, x: Tensor, out: Tensor | None) -> Tensor:
        if self._pool is not None:
            x = steps.max_pool(x, self._pool)
        for block in self._blocks:
            x = block.run(steps, x)
        return x if out is None else out.copy_(x)

    def out_shape(self, x: Tensor) -> tuple[int, int, int, int, int]:
        sizes = (x.shape[1], x.shape[2], x.shape[3])
        return len(x), *(sizes if self._pool is None else self._pool.out(sizes)), self._blocks[-1].out_channels


def _resnet(net: I3DResNet, make: _Making) -> tuple[Window, list[Part]]:
    stem = _Stem(net, make)
    halving = Window(kernel=(2, 1, 1), stride=(2, 1, 1))
    stages = []
    for number in range(1, net.num_stages + 1):
        layer = net.get_submodule(f"layer{number}")
        assert isinstance(layer, nn.Sequential), "stages are sequences"
        stages.append(_Stage(f"layer{number}", layer, make, pool=halving if number == 1 else None))
    return stem.window, [stem, *stages]


def _inception(net: I3DInception, make: _Making) -> tuple[Window, list[Part]]:
    stem = _InceptionStem(net, make)
    stages = [
        _InceptionStage(blocks, make, pool=None if pool is None else _pool_window(pool))
        for blocks, pool in zip(net.stages(), (None, net.pool4a, net.pool5a), strict=True)
    ]
    return stem.window, [stem, *stages]


def _unit(unit: Unit) -> Folded:
    return fold(unit.conv, unit.bn)


def _pool_window(pool: MaxPool) -> Window:
    return Window(kernel=pool.kernel, stride=pool.stride, padding="same")


def _triple(sizes: int | Sequence[int]) -> tuple[int, int, int]:
    assert not isinstance(sizes, int), "sizes are given axis by axis"
    first, second, third = sizes
    return first, second, third


def _joined(all_folded: Iterable[Folded]) -> Folded:
    """Convolutions of the same maps as one, whose outputs lie side by side."""
    weights, biases = zip(*all_folded, strict=True)
    return torch.cat(weights), torch.cat(biases)


def _filled(weight: Tensor, *, axis: int) -> Tensor:
    """Weights with zeros for channels up to a multiple of :data:`CHANNEL_UNIT`."""
    missing = -weight.shape[axis] % CHANNEL_UNIT
    return functional.pad(weight, [0, 0] * (weight.ndim - 1 - axis) + [0, missing])


def _filled_outputs(folded: Folded) -> Folded:
    weight, bias = folded
    return _filled(weight, axis=0), functional.pad(bias, [0, -len(bias) % CHANNEL_UNIT])


def _products(queries: Tensor, keys: Tensor) -> Tensor:
    """Inner products (N, P, S) of (N, P, D) and (N, S, D): at least float32, since a softmax magnifies them."""
    if queries.is_cuda and queries.dtype in (torch.float16, torch.bfloat16):
        return torch.bmm(queries, keys.transpose(1, 2), out_dtype=torch.float32)
    wide = torch.promote_types(queries.dtype, torch.float32)
    return queries.to(wide) @ keys.to(wide).transpose(1, 2)
