"""What the kernels are asked to compute in tests, on a GPU or in Triton's interpreter, beside float64 PyTorch."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from i3d_deploy import preprocessing
from i3d_deploy.fused import tiled
from i3d_deploy.fused.convolution import Convolution, Window, sizes_of
from i3d_deploy.fused.stacking import Source, Stacking
from i3d_deploy.fused.tiled import Tiled
from i3d_deploy.preprocessing import Pixels

TOLERANCES = {torch.float32: 1e-6, torch.float16: 4e-4, torch.bfloat16: 4e-3, torch.float8_e4m3fn: 4e-2}
"""Relative error of a whole result: sums are float32, and the result is rounded once (uniformly distributed, that is
0.29 of a unit in the last place: 2e-4 in float16, 1.3e-3 in bfloat16, 2e-2 in float8)."""

SMALL = Tiled(32, 32, depth=32, warps=4, stages=2)
TURNED = Tiled(64, 16, depth=64, warps=4, stages=2, is_transposed=True)


def padded(kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)) -> Window:
    """A window that sees as much on either side of its middle."""
    return Window(kernel=kernel, stride=stride, padding=(kernel[0] // 2, kernel[1] // 2, kernel[2] // 2))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A convolution of (N, T, H, W, C).

    Attributes:
        sizes: Of the input.
        out_channels: K.
        window: What it spans.
        tile: How it is computed.
        is_sliced: Whether input, shortcut and result are channels of larger tensors.
        is_scaled: Whether sums are scaled.
        has_shortcut: Whether one is added.
        is_rectified: Whether a ReLU follows.
    """

    sizes: tuple[int, int, int, int, int]
    out_channels: int
    window: Window
    tile: Tiled = SMALL
    is_sliced: bool = False
    is_scaled: bool = False
    has_shortcut: bool = False
    is_rectified: bool = True


CONVOLUTIONS: Mapping[str, Case] = {
    "1x1x1": Case(sizes=(2, 2, 5, 3, 64), out_channels=48, window=padded((1, 1, 1)), has_shortcut=True),
    "1x1x1-turned": Case(sizes=(2, 2, 5, 9, 64), out_channels=24, window=padded((1, 1, 1)), tile=TURNED),
    "1x1x1-turned-shortcut": Case(
        sizes=(2, 2, 5, 9, 128), out_channels=24, window=padded((1, 1, 1)), tile=TURNED, has_shortcut=True
    ),
    "1x1x1-strided": Case(
        sizes=(1, 4, 7, 9, 32), out_channels=32, window=Window(kernel=(1, 1, 1), stride=(2, 2, 2)), is_rectified=False
    ),
    "1x1x1-narrow": Case(sizes=(1, 2, 3, 5, 16), out_channels=16, window=padded((1, 1, 1))),
    "1x1x1-odd-channels": Case(sizes=(1, 2, 3, 5, 80), out_channels=40, window=padded((1, 1, 1)), is_sliced=True),
    "3x1x1": Case(sizes=(2, 3, 3, 5, 64), out_channels=32, window=padded((3, 1, 1))),
    "3x1x1-turned": Case(sizes=(2, 5, 3, 7, 64), out_channels=32, window=padded((3, 1, 1)), tile=TURNED),
    "3x1x1-strided": Case(sizes=(2, 5, 3, 5, 32), out_channels=32, window=padded((3, 1, 1), (2, 1, 1))),
    "1x3x3": Case(sizes=(2, 2, 5, 7, 64), out_channels=40, window=padded((1, 3, 3)), is_scaled=True),
    "1x3x3-strided": Case(sizes=(2, 2, 7, 6, 64), out_channels=32, window=padded((1, 3, 3), (1, 2, 2)), tile=TURNED),
    "1x3x3-same": Case(
        sizes=(1, 2, 6, 7, 32), out_channels=32, window=Window(kernel=(1, 3, 3), stride=(1, 2, 2), padding="same")
    ),
    "1x3x3-inside": Case(sizes=(1, 1, 6, 7, 64), out_channels=32, window=Window(kernel=(1, 3, 3))),
    "1x7x7-16": Case(sizes=(1, 2, 13, 10, 16), out_channels=64, window=padded((1, 7, 7), (1, 2, 2)), tile=TURNED),
    "1x7x7-32": Case(
        sizes=(1, 2, 12, 9, 32), out_channels=32, window=Window(kernel=(1, 7, 7), stride=(1, 2, 2), padding="same")
    ),
    "3x3x3": Case(sizes=(1, 4, 5, 3, 96), out_channels=48, window=padded((3, 3, 3)), tile=TURNED, is_sliced=True),
    "3x3x3-16": Case(sizes=(1, 3, 4, 5, 16), out_channels=32, window=padded((3, 3, 3)), tile=TURNED, is_sliced=True),
    "3x3x3-strided": Case(sizes=(2, 4, 5, 6, 32), out_channels=32, window=padded((3, 3, 3), (2, 2, 2))),
    "sliced": Case(
        sizes=(2, 2, 3, 4, 48), out_channels=48, window=padded((1, 3, 3)), is_sliced=True, has_shortcut=True
    ),
    "scaled-shortcut": Case(
        sizes=(2, 2, 3, 4, 32), out_channels=32, window=padded((1, 1, 1)), is_scaled=True, has_shortcut=True
    ),
}

POOLS: Mapping[str, tuple[tuple[int, int, int, int, int], Window]] = {
    "1x3x3": ((2, 2, 7, 6, 64), padded((1, 3, 3), (1, 2, 2))),
    "2x1x1": ((2, 4, 3, 5, 256), Window(kernel=(2, 1, 1), stride=(2, 1, 1))),
    "3x3x3-same": ((2, 4, 5, 6, 80), Window(kernel=(3, 3, 3), padding="same")),
    "3x3x3-halving": ((1, 5, 7, 7, 48), Window(kernel=(3, 3, 3), stride=(2, 2, 2), padding="same")),
    "2x2x2": ((1, 4, 6, 8, 16), Window(kernel=(2, 2, 2), stride=(2, 2, 2), padding="same")),
}

STACKINGS: Mapping[str, tuple[Pixels, Window]] = {
    "5 frames of RGB": (Pixels(), Window(kernel=(5, 7, 7), stride=(4, 2, 2), padding=(2, 3, 3))),
    "7 frames of RGB": (Pixels(), Window(kernel=(7, 7, 7), stride=(2, 2, 2), padding="same")),
    "7 frames of flow": (
        Pixels(color="xy", mean=(128.0, 127.5), std=(64.0, 32.0)),
        Window(kernel=(7, 7, 7), stride=(2, 2, 2), padding="same"),
    ),
}


def check_convolution(case: Case, *, dtype: torch.dtype, device: str, out_dtype: torch.dtype | None = None) -> None:
    """Compute it, and compare it and what lies beside it."""
    generator = torch.Generator().manual_seed(0)
    weight_shape = (case.out_channels, *case.window.kernel, case.sizes[-1])
    weight = torch.randn(weight_shape, generator=generator) / math.prod(weight_shape[1:]) ** 0.5
    convolution = Convolution(
        name="under test",
        weight=weight.to(dtype).to(device),
        bias=torch.randn(case.out_channels, generator=generator).to(device),
        window=case.window,
        is_rectified=case.is_rectified,
        scale=torch.rand(case.out_channels, generator=generator).add(0.5).to(device) if case.is_scaled else None,
    )
    x = _drawn(case.sizes, generator, dtype, is_sliced=case.is_sliced).to(device)
    out_dtype = out_dtype or dtype
    shape = convolution.out_shape(x)
    shortcut = _drawn(shape, generator, out_dtype, is_sliced=case.is_sliced).to(device) if case.has_shortcut else None
    whole, out = _poisoned(shape, out_dtype, device, is_sliced=case.is_sliced)
    tiled.launch(convolution, x, shortcut=shortcut, out=out, tile=case.tile)
    _compare(out, _convolved(convolution, x, shortcut))
    assert whole.float().isnan().sum() == whole.numel() - out.numel(), "what lies beside the result was written"


def check_pool(sizes: tuple[int, int, int, int, int], window: Window, *, dtype: torch.dtype, device: str) -> None:
    """Likewise a max pool of channels of a larger tensor."""
    x = _drawn(sizes, torch.Generator().manual_seed(0), dtype, is_sliced=True).to(device) - 5
    pads = [size for pad in reversed(window.pads(sizes_of(x))) for size in pad]
    maps = functional.pad(x.cpu().double().permute(0, 4, 1, 2, 3), pads, value=float("-inf"))
    expected = functional.max_pool3d(maps, window.kernel, window.stride).permute(0, 2, 3, 4, 1)
    whole, out = _poisoned(tuple(expected.shape), dtype, device, is_sliced=True)
    tiled.max_pool(x, window, out=out)
    assert torch.equal(out.cpu().double(), expected)
    assert whole.float().isnan().sum() == whole.numel() - out.numel(), "what lies beside the result was written"


def check_stacking(pixels: Pixels, window: Window, *, values: torch.dtype, dtype: torch.dtype, device: str) -> None:
    """Stack crops of frames that lie in one buffer, with another order and pitch than theirs."""
    (views, length), (height, width), (top, left) = (2, 6), (5, 6), (2, 3)
    colors = len(pixels.color)
    frames = torch.randint(0, 256, (5, height + 3, width + 7, colors), generator=torch.Generator().manual_seed(0))
    frames = frames.to(values)
    order = torch.tensor([[0, 2, 4, 4, 1, 3], [3, 3, 0, 1, 2, 4]])
    pitch = (width + 7) * colors
    source = Source(
        pixels=frames.flatten().to(device),
        origins=(order * (height + 3) * pitch + top * pitch + left * colors).to(device),
        pitch=torch.tensor([pitch], device=device),
        size=(height, width),
    )
    crops = frames[order, top : top + height, left : left + width].numpy()  # N T H W C
    scaled = preprocessing.normalize(crops, pixels).transpose(0, 2, 3, 4, 1)
    (before, _), _, _ = window.pads((length, height, width))
    channels = 16 if colors * window.kernel[0] <= 16 else 32
    expected = np.zeros((views, window.out((length, 8, 8))[0], height, width, channels))
    for frame in range(expected.shape[1]):
        for tap in range(window.kernel[0]):
            at = frame * window.stride[0] + tap - before
            if 0 <= at < length:
                expected[:, frame, :, :, tap * colors : (tap + 1) * colors] = scaled[:, at]
    stacked = Stacking(pixels, window, dtype=dtype, device=torch.device(device)).stack(source)
    assert stacked.dtype == dtype and tuple(stacked.shape) == expected.shape
    _compare(stacked, torch.from_numpy(expected))


def checks(dtype: torch.dtype, *, device: str) -> dict[str, Callable[..., None]]:
    """Every case that there is of a type, by its name."""
    convolutions: dict[str, Callable[..., None]] = {
        f"convolution {name}": partial(check_convolution, case, dtype=dtype, device=device)
        for name, case in CONVOLUTIONS.items()
    }
    if dtype.itemsize == 1:
        return {name: partial(check, out_dtype=torch.float16) for name, check in convolutions.items()}
    pools: dict[str, Callable[..., None]] = {
        f"pool {name}": partial(check_pool, sizes, window, dtype=dtype, device=device)
        for name, (sizes, window) in POOLS.items()
    }
    stackings: dict[str, Callable[..., None]] = {
        f"stacking {name} of {values}": partial(
            check_stacking, pixels, window, values=values, dtype=dtype, device=device
        )
        for name, (pixels, window) in STACKINGS.items()
        for values in (torch.uint8, torch.float32)
    }
    return convolutions | pools | stackings


def main() -> None:
    """Check everything of a type that is named, on the CPU: in Triton's interpreter, that is."""
    dtype = getattr(torch, sys.argv[1])
    for name, check in checks(dtype, device="cpu").items():
        try:
            check()
        except Exception as error:
            raise AssertionError(f"{name} of {dtype}") from error
        print(name)


def _drawn(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype, *, is_sliced: bool) -> Tensor:
    """Random numbers; of a larger tensor 16 channels from its beginning on, with NaN beside."""
    values = torch.randn(shape, generator=generator).to(dtype)
    if not is_sliced:
        return values
    _, inner = _poisoned(shape, dtype, "cpu", is_sliced=True)
    inner.copy_(values)
    return inner


def _poisoned(shape: tuple[int, ...], dtype: torch.dtype, device: str, *, is_sliced: bool) -> tuple[Tensor, Tensor]:
    """A tensor of NaN, and that of this shape which it is or has inside."""
    channels = shape[-1]
    whole = torch.full((*shape[:-1], channels + 48 if is_sliced else channels), float("nan"), device=device).to(dtype)
    return whole, whole[..., 16 : 16 + channels] if is_sliced else whole


def _convolved(convolution: Convolution, x: Tensor, shortcut: Tensor | None) -> Tensor:
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


def _compare(result: Tensor, expected: Tensor) -> None:
    error = (result.cpu().double() - expected).norm() / expected.norm()
    assert error < TOLERANCES[result.dtype], f"relative error {error:.2e}"  # false for NaN as well


if __name__ == "__main__":
    main()
