"""Convolutions of every kind that the networks have, small, and what comes out of them in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from i3d_deploy.fused.convolution import Convolution, Window, sizes_of


def padded(kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)) -> Window:
    """A window that sees as much on either side of its middle."""
    return Window(kernel=kernel, stride=stride, padding=(kernel[0] // 2, kernel[1] // 2, kernel[2] // 2))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A convolution of random numbers.

    Attributes:
        window: What it spans.
        shape: (N, T, H, W, C) of what comes in.
        out_channels: K.
        is_rectified: Whether a ReLU follows.
        has_shortcut: Whether one is added.
        is_scaled: Whether sums are scaled.
    """

    window: Window
    shape: tuple[int, int, int, int, int]
    out_channels: int = 24
    is_rectified: bool = True
    has_shortcut: bool = False
    is_scaled: bool = False


CASES = {
    "1x1x1": Case(window=padded((1, 1, 1)), shape=(2, 3, 5, 6, 16)),
    "1x1x1 with a shortcut": Case(window=padded((1, 1, 1)), shape=(2, 2, 5, 4, 16), has_shortcut=True),
    "1x1x1 without a ReLU": Case(window=padded((1, 1, 1)), shape=(1, 2, 3, 4, 16), is_rectified=False),
    "1x1x1 with a stride": Case(window=padded((1, 1, 1), (1, 2, 2)), shape=(2, 2, 5, 6, 16)),
    "3x1x1": Case(window=padded((3, 1, 1)), shape=(2, 4, 3, 5, 16)),
    "1x3x3": Case(window=padded((1, 3, 3)), shape=(2, 2, 5, 6, 16), has_shortcut=True),
    "1x3x3 with a stride": Case(window=padded((1, 3, 3), (1, 2, 2)), shape=(1, 2, 7, 6, 16)),
    "a stem": Case(window=padded((1, 7, 7), (1, 2, 2)), shape=(1, 2, 9, 10, 16)),
    "a stem of 32 channels": Case(
        window=Window(kernel=(1, 7, 7), stride=(1, 2, 2), padding="same"), shape=(1, 2, 10, 9, 32)
    ),
    "3x3x3": Case(window=padded((3, 3, 3)), shape=(1, 4, 5, 4, 16)),
    "few channels": Case(window=padded((1, 3, 3)), shape=(1, 2, 4, 5, 6), out_channels=5),
}


def made(
    case: Case, *, dtype: torch.dtype, result_dtype: torch.dtype | None = None, device: str = "cpu"
) -> tuple[Convolution, Tensor, Tensor | None]:
    """The convolution, what comes in, and the shortcut; random, of order one.

    Args:
        case: Of what sizes.
        dtype: Of input and weights.
        result_dtype: Of shortcut and result; None: the same.
        device: Where they are.
    """
    generator = torch.Generator().manual_seed(0)
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    weight = torch.randn(case.out_channels, *case.window.kernel, case.shape[-1], generator=generator)
    bias = torch.randn(case.out_channels, generator=generator)
    scale = torch.rand(case.out_channels, generator=generator) + 0.5 if case.is_scaled else None
    convolution = Convolution(
        name="random",
        weight=(weight / math.prod(weight.shape[1:]) ** 0.5).to(dtype).to(device),
        bias=bias.to(device, sums),
        window=case.window,
        is_rectified=case.is_rectified,
        scale=None if scale is None else scale.to(device, sums),
        result_dtype=result_dtype,
    )
    x = torch.randn(case.shape, generator=generator).to(dtype).to(device)
    if not case.has_shortcut:
        return convolution, x, None
    shortcut = torch.randn(convolution.out_shape(x), generator=generator).to(result_dtype or dtype)
    return convolution, x, shortcut.to(device)


def expected(convolution: Convolution, x: Tensor, shortcut: Tensor | None) -> Tensor:
    """What comes out, in float64 on the CPU, by PyTorch's 3D convolution."""
    window = convolution.window
    pads = [size for pad in reversed(window.pads(sizes_of(x))) for size in pad]
    maps = functional.pad(x.cpu().double().permute(0, 4, 1, 2, 3), pads)
    weight = convolution.weight.cpu().double().permute(0, 4, 1, 2, 3)
    result = functional.conv3d(maps, weight, stride=window.stride).permute(0, 2, 3, 4, 1)
    if convolution.scale is not None:
        result = result * convolution.scale.cpu().double()
    result = result + convolution.bias.cpu().double()
    if shortcut is not None:
        result = result + shortcut.cpu().double()
    return result.relu() if convolution.is_rectified else result
