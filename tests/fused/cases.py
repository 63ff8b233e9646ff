"""Convolutions of every kind that the networks have, small."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from i3d_deploy.fused.convolution import Convolution, Window


@dataclass(frozen=True, kw_only=True)
class Case:
    """A convolution of (N, T, H, W, C)."""

    window: Window
    shape: tuple[int, int, int, int, int]
    out_channels: int = 24
    is_rectified: bool = True
    has_shortcut: bool = False


CASES = {
    "1x1x1": Case(window=Window(kernel=(1, 1, 1)), shape=(2, 3, 5, 6, 16)),
    "1x1x1 with a shortcut": Case(window=Window(kernel=(1, 1, 1)), shape=(2, 2, 5, 4, 16), has_shortcut=True),
    "1x1x1 without a ReLU": Case(window=Window(kernel=(1, 1, 1)), shape=(1, 2, 3, 4, 16), is_rectified=False),
    "1x1x1 with a stride": Case(window=Window(kernel=(1, 1, 1), stride=(1, 2, 2)), shape=(2, 2, 5, 6, 16)),
    "3x1x1": Case(window=Window(kernel=(3, 1, 1), padding=(1, 0, 0)), shape=(2, 4, 3, 5, 16)),
    "1x3x3": Case(window=Window(kernel=(1, 3, 3), padding=(0, 1, 1)), shape=(2, 2, 5, 6, 16), has_shortcut=True),
    "1x3x3 with a stride": Case(
        window=Window(kernel=(1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)), shape=(1, 2, 7, 6, 16)
    ),
    "a stem": Case(window=Window(kernel=(1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3)), shape=(1, 2, 9, 10, 16)),
    "a stem of 32 channels": Case(
        window=Window(kernel=(1, 7, 7), stride=(1, 2, 2), padding="same"), shape=(1, 2, 10, 9, 32)
    ),
    "3x3x3": Case(window=Window(kernel=(3, 3, 3), padding=(1, 1, 1)), shape=(1, 4, 5, 4, 16)),
    "few channels": Case(window=Window(kernel=(1, 3, 3), padding=(0, 1, 1)), shape=(1, 2, 4, 5, 6), out_channels=5),
}


def made(case: Case, *, dtype: torch.dtype, seed: int = 0) -> tuple[Convolution, Tensor, Tensor | None]:
    """The convolution, what comes in, and the shortcut; random, of order one."""
    generator = torch.Generator().manual_seed(seed)
    channels = case.shape[-1]
    weight = torch.randn(case.out_channels, *case.window.kernel, channels, generator=generator)
    convolution = Convolution(
        name="random",
        weight=(weight / weight[0].numel() ** 0.5).to(dtype),
        bias=torch.randn(case.out_channels, generator=generator).to(torch.promote_types(dtype, torch.float32)),
        window=case.window,
        is_rectified=case.is_rectified,
    )
    x = torch.randn(case.shape, generator=generator).to(dtype)
    shortcut = torch.randn(convolution.out_shape(x), generator=generator).to(dtype) if case.has_shortcut else None
    return convolution, x, shortcut


def expected(convolution: Convolution, x: Tensor, shortcut: Tensor | None) -> Tensor:
    """What comes out, in float64, by PyTorch's 3D convolution."""
    pads = [size for pad in reversed(convolution.window.pads((x.shape[1], x.shape[2], x.shape[3]))) for size in pad]
    maps = functional.pad(x.double().permute(0, 4, 1, 2, 3), pads)
    weight = convolution.weight.double().permute(0, 4, 1, 2, 3)
    result = functional.conv3d(maps, weight, stride=convolution.window.stride).permute(0, 2, 3, 4, 1)
    result = result + convolution.bias.double()
    if shortcut is not None:
        result = result + shortcut.double()
    return result.relu() if convolution.is_rectified else result
