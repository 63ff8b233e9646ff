"""Some positions of a convolution in float64, from the definition: what a faster way is held against.

Note [Wrong convolutions]
    Libraries have returned wrong 3D convolutions: cuDNN 9.10 in bf16 (pytorch#163539), for certain sizes only. So every
    way is checked where it will be used, on the sizes and the data that it will be used for. Computing a few hundred
    positions by gathering what each sees needs no convolution of any library.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from i3d_deploy.fused.convolution import Convolution, sizes_of

POSITIONS = 256

_ROUNDINGS = 8
"""Roundings to the result's type that are allowed: of the sum, the bias, the shortcut, and a margin."""
_ORDER = 32
"""Roundings of sums that are allowed, of the size of their terms together: they are added in any order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampled:
    """Some positions of a convolution.

    Attributes:
        expected: (P, K) float64.
        largest: Of what is rounded to the result's type on the way.
        terms: The largest sum of the sizes of the terms.
    """

    expected: Tensor
    largest: float
    terms: float


def agrees(convolution: Convolution, x: Tensor, result: Tensor, *, shortcut: Tensor | None = None) -> bool:
    """Whether a result is finite, and right where it is looked at, up to rounding: Note [Wrong convolutions].

    Args:
        convolution: What was computed.
        x: (N, T, H, W, C).
        result: (N, T', H', W', K).
        shortcut: (N, T', H', W', K).
    """
    places = _places(result)
    right = compute(convolution, x, places, shortcut=shortcut)
    sums = torch.promote_types(result.dtype, torch.float32)
    allowed = _ROUNDINGS * torch.finfo(result.dtype).eps * right.largest + _ORDER * torch.finfo(sums).eps * right.terms
    difference = (result.flatten(0, 3)[places].double() - right.expected).abs().max().item()
    return difference <= allowed and bool(torch.isfinite(result).all())


def compute(convolution: Convolution, x: Tensor, places: Tensor, *, shortcut: Tensor | None = None) -> Sampled:
    """Compute some positions.

    Args:
        convolution: What.
        x: (N, T, H, W, C).
        places: (P,) numbers of output positions.
        shortcut: (N, T', H', W', K).
    """
    window, sizes, results = convolution.window, sizes_of(x), convolution.out_shape(x)
    starts: list[Tensor] = []
    rest = places
    for size, stride, (before, _) in reversed([*zip(results[1:4], window.stride, window.pads(sizes), strict=True)]):
        starts.insert(0, rest % size * stride - before)
        rest = rest // size
    sums = torch.zeros(len(places), results[4], dtype=torch.float64, device=x.device)
    terms = sums.clone()
    for tap in itertools.product(*(range(length) for length in window.kernel)):
        at = [start + offset for start, offset in zip(starts, tap, strict=True)]
        inside = torch.stack([(place >= 0) & (place < size) for place, size in zip(at, sizes, strict=True)]).all(0)
        frame, row, column = (place.clamp(0, size - 1) for place, size in zip(at, sizes, strict=True))
        pixels = x[rest, frame, row, column].double() * inside[:, None]
        weight = convolution.weight[:, tap[0], tap[1], tap[2]].double().t()
        sums += pixels @ weight
        terms += pixels.abs() @ weight.abs()
    if convolution.scale is not None:
        sums, terms = sums * convolution.scale.double(), terms * convolution.scale.double()
    sums += convolution.bias.double()
    largest = sums.abs().max()
    if shortcut is not None:
        added = shortcut.flatten(0, 3)[places].double()
        sums += added
        largest = torch.stack([largest, added.abs().max(), sums.abs().max()]).max()
    expected = sums.relu() if convolution.is_rectified else sums
    return Sampled(expected=expected, largest=largest.item(), terms=terms.max().item())


def _places(result: Tensor) -> Tensor:
    """Numbers of positions: both ends, where the padding is, and others spread over the result."""
    count = math.prod(result.shape[:4])
    spread = torch.linspace(0, count - 1, min(POSITIONS, count), dtype=torch.float64)
    return torch.tensor(sorted({*spread.round().long().tolist()}), device=result.device)
