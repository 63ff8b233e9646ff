"""A convolution with everything that follows it.

Activations are (N, T, H, W, C) with C dense: channels last, in PyTorch's words. So laid out, a 1x1x1 convolution is a
matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from i3d_deploy.inception import same_padding

Triple = tuple[int, int, int]
Pad = tuple[int, int]
"""Positions outside, before and after an axis."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """What a convolution or pool spans: frames, rows, columns.

    Attributes:
        kernel: Positions that it sees.
        stride: Its steps.
        padding: Positions outside on either side; "same": as TensorFlow pads, by size.
    """

    kernel: Triple
    stride: Triple = (1, 1, 1)
    padding: Triple | Literal["same"] = (0, 0, 0)

    def pads(self, sizes: Triple) -> tuple[Pad, Pad, Pad]:
        """Positions outside, before and after each axis.

        Args:
            sizes: (T, H, W) of what comes in.
        """
        if self.padding == "same":
            pads = [
                same_padding(size, kernel=length, stride=step)
                for size, length, step in zip(sizes, self.kernel, self.stride, strict=True)
            ]
        else:
            pads = [(size, size) for size in self.padding]
        return pads[0], pads[1], pads[2]

    def out(self, sizes: Triple) -> Triple:
        """(T', H', W') of what comes out.

        Args:
            sizes: (T, H, W) of what comes in.
        """
        axes = zip(sizes, self.pads(sizes), self.kernel, self.stride, strict=True)
        frames, rows, columns = ((size + sum(pad) - length) // step + 1 for size, pad, length, step in axes)
        return frames, rows, columns

    @property
    def is_pointwise(self) -> bool:
        """Whether it sees one position at a time."""
        return self.kernel == (1, 1, 1) and self.padding in ((0, 0, 0), "same")


EIGHT_BITS = torch.float8_e4m3fn
"""Four bits of exponent, three of mantissa: up to 448, in steps of a sixteenth to an eighth of the value."""

Kind = tuple[tuple[int, ...], Window, bool, torch.dtype, torch.dtype | None]
"""Sizes of the weights, what is spanned, whether a ReLU follows, types of weights and result."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Convolution:
    """A convolution and what follows it: normalisation (folded), perhaps a shortcut added, perhaps a ReLU.

    Attributes:
        name: Of the convolution in the network, or of what it was made of.
        weight: (K, KT, KH, KW, C), on the device and of the type that it is computed with.
        bias: (K,) float32, or float64 where the weights are.
        window: What it spans.
        is_rectified: Whether a ReLU follows.
        scale: (K,) float32 by which sums are multiplied before the bias, where weights or inputs are scaled to fit
            into few bits; None: by nothing.
        result_dtype: Type of the result; None: of what comes in.
    """

    name: str
    weight: Tensor
    bias: Tensor
    window: Window
    is_rectified: bool
    scale: Tensor | None = None
    result_dtype: torch.dtype | None = None
    _prepared: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def out_channels(self) -> int:
        """K."""
        return self.weight.shape[0]

    @property
    def kind(self) -> Kind:
        """What is the same of convolutions that take the same time."""
        return tuple(self.weight.shape), self.window, self.is_rectified, self.weight.dtype, self.result_dtype

    def out_shape(self, x: Tensor) -> tuple[int, int, int, int, int]:
        """(N, T', H', W', K) of the result.

        Args:
            x: (N, T, H, W, C).
        """
        frames, height, width = self.window.out(sizes_of(x))
        return len(x), frames, height, width, self.out_channels

    def new_result(self, x: Tensor) -> Tensor:
        """Memory for the result, uninitialised.

        Args:
            x: (N, T, H, W, C).
        """
        return x.new_empty(self.out_shape(x), dtype=self.result_dtype or x.dtype)

    @property
    def is_in_eight_bits(self) -> bool:
        """Whether what comes in and the weights have eight bits."""
        return self.weight.dtype == EIGHT_BITS

    def prepared(self, name: str, arrange: Callable[[Tensor], Tensor]) -> Tensor:
        """Something made of the weights, once.

        Args:
            name: What.
            arrange: Makes it.
        """
        if name not in self._prepared:
            self._prepared[name] = arrange(self.weight)
        return self._prepared[name]

    def work(self, x: Tensor) -> int:
        """Multiply-accumulates.

        Args:
            x: (N, T, H, W, C).
        """
        return math.prod(self.out_shape(x)) * math.prod(self.weight.shape[1:])

    def moved_bytes(self, x: Tensor, *, has_shortcut: bool) -> int:
        """What must be read and written at the least: input, weights, shortcut, result, each once.

        Args:
            x: (N, T, H, W, C).
            has_shortcut: Whether one is added.
        """
        result_bytes = (self.result_dtype or x.dtype).itemsize * (2 if has_shortcut else 1)
        return (x.numel() + self.weight.numel()) * x.element_size() + math.prod(self.out_shape(x)) * result_bytes


def sizes_of(x: Tensor) -> Triple:
    """(T, H, W) of (N, T, H, W, C)."""
    return x.shape[1], x.shape[2], x.shape[3]


def fold(convolution: nn.Conv3d, norm: nn.BatchNorm3d | None) -> tuple[Tensor, Tensor]:
    """Weights and biases of a convolution with the normalisation after it.

    Args:
        convolution: Without groups or dilation.
        norm: In eval mode; None: there is none.

    Returns:
        (K, KT, KH, KW, C) and (K,) float64.
    """
    weight = convolution.weight.detach().cpu().double()
    bias = torch.zeros(len(weight), dtype=torch.float64)
    if convolution.bias is not None:
        bias = convolution.bias.detach().cpu().double()
    if norm is not None:
        assert norm.running_mean is not None and norm.running_var is not None, "networks keep statistics"
        scale, shift, mean, variance = (
            tensor.detach().cpu().double() for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        )
        factor = scale / (variance + norm.eps).sqrt()
        weight, bias = weight * factor[:, None, None, None, None], (bias - mean) * factor + shift
    return weight.permute(0, 2, 3, 4, 1).contiguous(), bias
