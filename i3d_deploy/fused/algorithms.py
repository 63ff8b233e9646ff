"""Ways to compute a :class:`Convolution`; which is the fastest depends on the sizes and the device.

Note [Two dimensions for three]
    Channels last, a (1, k, k) convolution is a 2D one whose batch is N*T, and a (k, 1, 1) one is of k x 1 over T rows
    of H*W columns. Neither copies anything: it is the same memory under other sizes. Only Inception's 3x3x3 needs three
    dimensions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from i3d_deploy.fused.convolution import EIGHT_BITS, Convolution, Pad, Window, sizes_of

Pads = Sequence[Pad]


class Algorithm(Protocol):
    """One way."""

    @property
    def name(self) -> str:
        """For plans and tables."""

    def fits(self, convolution: Convolution, x: Tensor) -> bool:
        """Whether it can compute this convolution of (N, T, H, W, C) here."""

    def run(self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None, out: Tensor | None) -> Tensor:
        """Compute it.

        Args:
            convolution: What.
            x: (N, T, H, W, C), channels dense, pixels evenly spaced.
            shortcut: (N, T', H', W', K), added before the ReLU.
            out: (N, T', H', W', K), channels dense, pixels evenly spaced, to be overwritten; None: memory of its own.

        Returns:
            (N, T', H', W', K): ``out``, or contiguous.
        """


@dataclass(frozen=True)
class ThreeDimensions:
    """PyTorch's 3D convolution, then bias, shortcut and ReLU in steps of their own."""

    name: str = "conv3d"

    def fits(self, convolution: Convolution, x: Tensor) -> bool:
        """Always, except in eight bits."""
        return not convolution.is_in_eight_bits

    def run(self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None, out: Tensor | None) -> Tensor:
        """As of :class:`Algorithm`."""
        window = convolution.window
        weight = convolution.prepared(self.name, lambda weight: weight.permute(0, 4, 1, 2, 3))
        maps, padding = _padded(x.permute(0, 4, 1, 2, 3), window.pads(sizes_of(x)))
        result = functional.conv3d(maps, weight, stride=window.stride, padding=padding)
        return _finish(convolution, result.permute(0, 2, 3, 4, 1), shortcut, out)


@dataclass(frozen=True)
class TwoDimensions:
    """PyTorch's 2D convolution, then bias, shortcut and ReLU in steps of their own: Note [Two dimensions for three]."""

    name: str = "conv2d"

    def fits(self, convolution: Convolution, x: Tensor) -> bool:
        """Where the kernel spans time or space, not both."""
        return not convolution.is_in_eight_bits and _Flat.fits(convolution.window)

    def run(self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None, out: Tensor | None) -> Tensor:
        """As of :class:`Algorithm`."""
        flat = _Flat(convolution, x)
        maps, padding = _padded(flat.maps, flat.pads)
        result = functional.conv2d(maps, flat.weight, stride=flat.stride, padding=padding)
        return _finish(convolution, flat.unflattened(result), shortcut, out)


@dataclass(frozen=True)
class FusedTwoDimensions:
    """cuDNN's 2D convolution with bias, shortcut and ReLU in it."""

    name: str = "cudnn"

    def fits(self, convolution: Convolution, x: Tensor) -> bool:
        """Where a ReLU follows and both sides are padded alike."""
        is_even = all(before == after for before, after in convolution.window.pads(sizes_of(x)))
        is_possible = x.is_cuda and not convolution.is_in_eight_bits and convolution.is_rectified
        return is_possible and is_even and _Flat.fits(convolution.window)

    def run(self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None, out: Tensor | None) -> Tensor:
        """As of :class:`Algorithm`."""
        flat = _Flat(convolution, x)
        bias = convolution.prepared("bias", lambda weight: convolution.bias.to(weight.dtype))
        padding = [before for before, _ in flat.pads]
        maps, weight, stride, dilation = flat.maps, flat.weight, flat.stride, (1, 1)
        if shortcut is None:
            result = torch.cudnn_convolution_relu(maps, weight, bias, stride, padding, dilation, groups=1)
        else:
            added = flat.flattened(shortcut)
            result = torch.cudnn_convolution_add_relu(
                maps, weight, added, 1.0, bias, stride, padding, dilation, groups=1
            )
        return _placed(narrowed(flat.unflattened(result), convolution.result_dtype or x.dtype), out)


@dataclass(frozen=True)
class MatrixProduct:
    """A 1x1x1 convolution as cuBLAS computes it, with the bias, and the ReLU where no shortcut comes before it."""

    name: str = "matmul"

    def fits(self, convolution: Convolution, x: Tensor) -> bool:
        """Where the kernel sees one position; with a stride, those in between are left out first."""
        return not convolution.is_in_eight_bits and convolution.window.is_pointwise

    def run(self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None, out: Tensor | None) -> Tensor:
        """As of :class:`Algorithm`."""
        frames, rows, columns = convolution.window.stride
        matrix = x[:, ::frames, ::rows, ::columns].reshape(-1, x.shape[-1])
        weight = convolution.prepared("matmul", lambda weight: weight.flatten(1)).t()
        bias = convolution.prepared("bias", lambda weight: convolution.bias.to(weight.dtype))
        if shortcut is None and convolution.is_rectified and x.is_cuda:
            product = torch._addmm_activation(bias, matrix, weight)  # with a ReLU unless told otherwise
        else:
            product = torch.addmm(bias, matrix, weight)
            if shortcut is not None:
                product += shortcut.reshape(product.shape)
            if convolution.is_rectified:
                product.relu_()
        return _placed(narrowed(product.view(convolution.out_shape(x)), convolution.result_dtype or x.dtype), out)


@dataclass(frozen=True)
class Widened:
    """Eight bits as float32 through PyTorch's 3D convolution: slow, for where nothing else computes them."""

    name: str = "widened"

    def fits(self, convolution: Convolution, x: Tensor) -> bool:
        """Where what comes in and the weights have eight bits."""
        return convolution.is_in_eight_bits

    def run(self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None, out: Tensor | None) -> Tensor:
        """As of :class:`Algorithm`."""
        window = convolution.window
        weight = convolution.prepared(self.name, lambda weight: weight.float().permute(0, 4, 1, 2, 3))
        maps, padding = _padded(x.float().permute(0, 4, 1, 2, 3), window.pads(sizes_of(x)))
        sums = functional.conv3d(maps, weight, stride=window.stride, padding=padding).permute(0, 2, 3, 4, 1)
        if convolution.scale is not None:
            sums = sums * convolution.scale
        sums = sums + convolution.bias
        if shortcut is not None:
            sums += shortcut
        if convolution.is_rectified:
            sums.relu_()
        return _placed(narrowed(sums, convolution.result_dtype or x.dtype), out)


def narrowed(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values in another type; what is beyond the range of eight bits is the end of the range."""
    if dtype == EIGHT_BITS:
        values = values.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max)
    return values.to(dtype)


def available(device: torch.device, dtype: torch.dtype) -> tuple[Algorithm, ...]:
    """Ways that a device has, those first that are likely to be fast.

    Args:
        device: What computes.
        dtype: In what.
    """
    plain: tuple[Algorithm, ...] = (MatrixProduct(), TwoDimensions(), ThreeDimensions(), Widened())
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return plain
    if not has_kernels(device):
        return (FusedTwoDimensions(), *plain)
    from i3d_deploy.fused import tiled

    return (*tiled.ALGORITHMS, FusedTwoDimensions(), *plain)


def has_kernels(device: torch.device) -> bool:
    """Whether the project's own kernels run."""
    return device.type == "cuda" and why_no_kernels(device) is None


@functools.cache
def why_no_kernels(device: torch.device) -> str | None:
    """Why the project's own kernels do not run on a GPU; None where they do.

    They need Triton, which PyTorch brings along on Linux, a GPU since Ampere, and a C compiler, with which Triton
    builds what starts them.
    """
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"compute capability {major}.{minor} is below 8.0"
    try:
        from i3d_deploy.fused import tiled

        with torch.cuda.device(device):
            tiled.max_pool(torch.zeros((1, 1, 2, 2, 16), dtype=torch.float16, device=device), Window(kernel=(1, 2, 2)))
    except Exception as error:  # whatever goes wrong while Triton builds
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return None


class _Flat:
    """A convolution and its input in two dimensions: Note [Two dimensions for three].

    Attributes:
        maps: (B, C, H, W), channels last in memory.
        weight: (K, C, KH, KW), likewise.
        stride: Of rows and columns.
        pads: Likewise, before and after.
    """

    def __init__(self, convolution: Convolution, x: Tensor) -> None:
        window, (frames, height, width) = convolution.window, sizes_of(x)
        is_in_space = window.kernel[0] == window.stride[0] == 1
        one, other = (1, 2) if is_in_space else (0, 1)
        kernel = window.kernel[one], window.kernel[other]
        self.stride = window.stride[one], window.stride[other]
        pads = window.pads(sizes_of(x))
        self.pads = pads[one], pads[other]
        sizes = (len(x) * frames, height, width) if is_in_space else (len(x), frames, height * width)
        self.maps = x.reshape(*sizes, x.shape[-1]).permute(0, 3, 1, 2)
        self.weight = convolution.prepared(
            "conv2d", lambda weight: weight.reshape(len(weight), *kernel, x.shape[-1]).permute(0, 3, 1, 2)
        )
        self._result = convolution.out_shape(x)
        _, frames, height, width, _ = self._result
        self._flat_result = (-1, height, width) if is_in_space else (-1, frames, height * width)

    @staticmethod
    def fits(window: Window) -> bool:
        """Whether it spans time or space, not both."""
        return window.kernel[0] == window.stride[0] == 1 or window.kernel[1:] == window.stride[1:] == (1, 1)

    def flattened(self, shortcut: Tensor) -> Tensor:
        """(N, T', H', W', K) as the result is in two dimensions."""
        return shortcut.reshape(*self._flat_result, shortcut.shape[-1]).permute(0, 3, 1, 2)

    def unflattened(self, result: Tensor) -> Tensor:
        """The result as (N, T', H', W', K)."""
        return result.permute(0, 2, 3, 1).reshape(self._result)


def _padded(maps: Tensor, pads: Pads) -> tuple[Tensor, list[int]]:
    """Maps (N, C, ...) and the padding that is left to the convolution, which pads both sides alike."""
    if all(before == after for before, after in pads):
        return maps, [before for before, _ in pads]
    return functional.pad(maps, [size for pad in reversed(pads) for size in pad]), [0] * len(pads)


def _finish(convolution: Convolution, result: Tensor, shortcut: Tensor | None, out: Tensor | None) -> Tensor:
    """Bias, shortcut and ReLU."""
    wanted = convolution.result_dtype or result.dtype
    finished = torch.add(result, convolution.bias.to(result.dtype), out=out if wanted == result.dtype else None)
    if shortcut is not None:
        finished += shortcut
    if convolution.is_rectified:
        finished.relu_()
    if wanted != result.dtype:
        return _placed(narrowed(finished, wanted), out)
    return finished if out is not None else finished.contiguous()


def _placed(result: Tensor, out: Tensor | None) -> Tensor:
    return result.contiguous() if out is None else out.copy_(result)
