"""Some positions of a convolution in float64, from the definition: what a faster way is held against.

Note [Wrong convolutions]
    Libraries have returned wrong 3D convolutions: cuDNN 9.10 in bf16 (pytorch#163539), for certain sizes only. So every
    way is checked where it will be used, on the sizes and the data that it will be used for. Computing a few hundred
    positions by gathering what each sees needs no convolution of any library.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from i3d_deploy.fused.convolution import Convolution, sizes_of

POSITIONS = 256

_ROUNDINGS = 8
"""Roundings of the result's type that are allowed: of the sum, the bias, the shortcut, and a margin."""


def agrees(convolution: Convolution, x: Tensor, result: Tensor, *, shortcut: Tensor | None = None) -> bool:
    """Whether a result is right where it is looked at, up to rounding: Note [Wrong convolutions].

    Args:
        convolution: What was computed.
        x: (N, T, H, W, C).
        result: (N, T', H', W', K).
        shortcut: (N, T', H', W', K).
    """
    places = _places(result)
    expected = compute(convolution, x, places, shortcut=shortcut)
    found = result.flatten(0, 3)[places].double()
    size = expected.abs().max().clamp(min=1e-3)
    if shortcut is not None:
        size = torch.maximum(size, shortcut.flatten(0, 3)[places].double().abs().max())
    allowed = _ROUNDINGS * torch.finfo(result.dtype).eps * size
    return bool(((found - expected).abs() <= allowed).all())


def compute(convolution: Convolution, x: Tensor, places: Tensor, *, shortcut: Tensor | None = None) -> Tensor:
    """Compute some positions.

    Args:
        convolution: What.
        x: (N, T, H, W, C).
        places: (P,) numbers of output positions.
        shortcut: (N, T', H', W', K).

    Returns:
        (P, K) float64.
    """
    _, *results, channels = convolution.out_shape(x)
    window, sizes = convolution.window, sizes_of(x)
    starts, rest = [], places
    for size, stride, (before, _) in reversed([*zip(results, window.stride, window.pads(sizes), strict=True)]):
        starts.append(rest % size * stride - before)
        rest = rest // size
    view, starts = rest, starts[::-1]
    sums = torch.zeros(len(places), channels, dtype=torch.float64, device=x.device)
    for tap in itertools.product(*(range(length) for length in window.kernel)):
        seen = [start + offset for start, offset in zip(starts, tap, strict=True)]
        inside = torch.stack([(place >= 0) & (place < size) for place, size in zip(seen, sizes, strict=True)]).all(0)
        frame, row, column = (place.clamp(0, size - 1) for place, size in zip(seen, sizes, strict=True))
        pixels = x[view, frame, row, column].double() * inside[:, None]
        sums += pixels @ convolution.weight[:, tap[0], tap[1], tap[2]].double().t()
    if convolution.scale is not None:
        sums *= convolution.scale.double()
    sums += convolution.bias.double()
    if shortcut is not None:
        sums += shortcut.flatten(0, 3)[places].double()
    return sums.relu() if convolution.is_rectified else sums


def _places(result: Tensor) -> Tensor:
    """Numbers of positions: both ends, where the padding is, and others spread over the result."""
    count = math.prod(result.shape[:4])
    spread = torch.linspace(0, count - 1, min(POSITIONS, count), dtype=torch.float64)
    return torch.tensor(sorted({*spread.round().long().tolist()}), device=result.device)
