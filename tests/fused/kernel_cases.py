"""What the kernels are asked to compute in tests, on a GPU or in Triton's interpreter, beside float64 PyTorch."""

from __future__ import annotations

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
from i3d_deploy.fused.convolution import Window, sizes_of
from i3d_deploy.fused.stacking import Source, Stacking
from i3d_deploy.fused.tiled import Tiled
from i3d_deploy.preprocessing import Pixels
from tests.fused.cases import Case, expected, made, padded

TOLERANCES = {torch.float32: 1e-6, torch.float16: 4e-4, torch.bfloat16: 4e-3, torch.float8_e4m3fn: 4e-2}
"""Relative error of a whole result: sums are float32, and the result is rounded once (uniformly distributed, that is
0.29 of a unit in the last place: 2e-4 in float16, 1.3e-3 in bfloat16, 2e-2 in float8)."""

SMALL = Tiled(32, 32, depth=32, warps=4, stages=2)
TURNED = Tiled(64, 16, depth=64, warps=4, stages=2, is_transposed=True)


@dataclass(frozen=True, kw_only=True)
class TiledCase(Case):
    """A convolution by a kernel of the project's own.

    Attributes:
        tile: How it is computed.
        is_sliced: Whether input, shortcut and result are channels of larger tensors.
    """

    tile: Tiled = SMALL
    is_sliced: bool = False


CONVOLUTIONS: Mapping[str, TiledCase] = {
    "1x1x1": TiledCase(shape=(2, 2, 5, 3, 64), out_channels=48, window=padded((1, 1, 1)), has_shortcut=True),
    "1x1x1-turned": TiledCase(shape=(2, 2, 5, 9, 64), out_channels=24, window=padded((1, 1, 1)), tile=TURNED),
    "1x1x1-turned-shortcut": TiledCase(
        shape=(2, 2, 5, 9, 128), out_channels=24, window=padded((1, 1, 1)), tile=TURNED, has_shortcut=True
    ),
    "1x1x1-strided": TiledCase(
        shape=(1, 4, 7, 9, 32), out_channels=32, window=padded((1, 1, 1), (2, 2, 2)), is_rectified=False
    ),
    "1x1x1-narrow": TiledCase(shape=(1, 2, 3, 5, 16), out_channels=16, window=padded((1, 1, 1))),
    "1x1x1-odd-channels": TiledCase(shape=(1, 2, 3, 5, 80), out_channels=40, window=padded((1, 1, 1)), is_sliced=True),
    "3x1x1": TiledCase(shape=(2, 3, 3, 5, 64), out_channels=32, window=padded((3, 1, 1))),
    "3x1x1-turned": TiledCase(shape=(2, 5, 3, 7, 64), out_channels=32, window=padded((3, 1, 1)), tile=TURNED),
    "3x1x1-strided": TiledCase(shape=(2, 5, 3, 5, 32), out_channels=32, window=padded((3, 1, 1), (2, 1, 1))),
    "1x3x3": TiledCase(shape=(1, 2, 4, 7, 64), out_channels=40, window=padded((1, 3, 3)), is_scaled=True),
    "1x3x3-strided": TiledCase(
        shape=(2, 2, 7, 6, 64), out_channels=32, window=padded((1, 3, 3), (1, 2, 2)), tile=TURNED
    ),
    "1x3x3-same": TiledCase(
        shape=(1, 2, 6, 7, 32), out_channels=32, window=Window(kernel=(1, 3, 3), stride=(1, 2, 2), padding="same")
    ),
    "1x3x1": TiledCase(shape=(1, 2, 4, 5, 64), out_channels=32, window=padded((1, 3, 1))),
    "1x1x3": TiledCase(shape=(1, 2, 4, 5, 64), out_channels=32, window=padded((1, 1, 3))),
    "1x3x3-inside": TiledCase(shape=(1, 1, 6, 7, 64), out_channels=32, window=Window(kernel=(1, 3, 3))),
    "1x7x7-16": TiledCase(shape=(1, 2, 13, 10, 16), out_channels=32, window=padded((1, 7, 7), (1, 2, 2)), tile=TURNED),
    "1x7x7-32": TiledCase(
        shape=(1, 2, 12, 9, 32), out_channels=32, window=Window(kernel=(1, 7, 7), stride=(1, 2, 2), padding="same")
    ),
    "3x3x3": TiledCase(shape=(1, 4, 5, 3, 96), out_channels=24, window=padded((3, 3, 3)), tile=TURNED, is_sliced=True),
    "3x3x3-16": TiledCase(
        shape=(1, 3, 4, 5, 16), out_channels=32, window=padded((3, 3, 3)), tile=TURNED, is_sliced=True
    ),
    "3x3x3-strided": TiledCase(shape=(2, 4, 5, 6, 32), out_channels=32, window=padded((3, 3, 3), (2, 2, 2))),
    "sliced": TiledCase(
        shape=(2, 2, 3, 4, 48), out_channels=48, window=padded((1, 3, 3)), is_sliced=True, has_shortcut=True
    ),
    "scaled-shortcut": TiledCase(
        shape=(2, 2, 3, 4, 32), out_channels=32, window=padded((1, 1, 1)), is_scaled=True, has_shortcut=True
    ),
}

POOLS: Mapping[str, tuple[tuple[int, int, int, int, int], Window]] = {
    "1x3x3": ((2, 2, 7, 6, 64), padded((1, 3, 3), (1, 2, 2))),
    "2x1x1": ((2, 4, 3, 5, 256), Window(kernel=(2, 1, 1), stride=(2, 1, 1))),
    "3x3x3-same": ((1, 3, 4, 5, 80), Window(kernel=(3, 3, 3), padding="same")),
    "3x3x3-halving": ((1, 5, 5, 7, 48), Window(kernel=(3, 3, 3), stride=(2, 2, 2), padding="same")),
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


def check_convolution(case: TiledCase, *, dtype: torch.dtype, device: str) -> None:
    """Compute it, and compare it and what lies beside it; eight bits are made into float16."""
    result_dtype = torch.float16 if dtype.itemsize == 1 else dtype
    convolution, x, shortcut = made(case, dtype=dtype, result_dtype=result_dtype, device=device)
    right = expected(convolution, x, shortcut)
    whole, out = _poisoned(convolution.out_shape(x), result_dtype, device, is_sliced=case.is_sliced)
    if case.is_sliced:
        x, shortcut = _sliced(x), None if shortcut is None else _sliced(shortcut)
    tiled.launch(convolution, x, shortcut=shortcut, out=out, tile=case.tile)
    _compare(out, right)
    assert whole.float().isnan().sum() == whole.numel() - out.numel(), "what lies beside the result was written"


def check_pool(sizes: tuple[int, int, int, int, int], window: Window, *, dtype: torch.dtype, device: str) -> None:
    """Likewise a max pool of channels of a larger tensor."""
    values = torch.randn(sizes, generator=torch.Generator().manual_seed(0)).to(dtype) - 5
    x = _sliced(values.to(device))
    pads = [size for pad in reversed(window.pads(sizes_of(x))) for size in pad]
    maps = functional.pad(x.cpu().double().permute(0, 4, 1, 2, 3), pads, value=float("-inf"))
    right = functional.max_pool3d(maps, window.kernel, window.stride).permute(0, 2, 3, 4, 1)
    whole, out = _poisoned(tuple(right.shape), dtype, device, is_sliced=True)
    tiled.max_pool(x, window, out=out)
    assert torch.equal(out.cpu().double(), right)
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
    right = np.zeros((views, window.out((length, 8, 8))[0], height, width, channels))
    for frame in range(right.shape[1]):
        for tap in range(window.kernel[0]):
            at = frame * window.stride[0] + tap - before
            if 0 <= at < length:
                right[:, frame, :, :, tap * colors : (tap + 1) * colors] = scaled[:, at]
    stacked = Stacking(pixels, window, dtype=dtype, device=torch.device(device)).stack(source)
    assert stacked.dtype == dtype and tuple(stacked.shape) == right.shape
    _compare(stacked, torch.from_numpy(right))


def checks(dtype: torch.dtype, *, device: str) -> dict[str, Callable[..., None]]:
    """Every case that there is of a type, by its name."""
    convolutions: dict[str, Callable[..., None]] = {
        f"convolution {name}": partial(check_convolution, case, dtype=dtype, device=device)
        for name, case in CONVOLUTIONS.items()
    }
    if dtype.itemsize == 1:
        return convolutions
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
    """Check everything of the types that are named, on the CPU: in Triton's interpreter, that is."""
    for dtype in (getattr(torch, name) for name in sys.argv[1:]):
        for name, check in checks(dtype, device="cpu").items():
            try:
                check()
            except Exception as error:
                raise AssertionError(f"{name} of {dtype}") from error
            print(f"{name} of {dtype}")


def _sliced(values: Tensor) -> Tensor:
    """The same values as 16 and more channels of a larger tensor, with NaN beside."""
    _, inner = _poisoned(tuple(values.shape), values.dtype, str(values.device), is_sliced=True)
    return inner.copy_(values)


def _poisoned(shape: tuple[int, ...], dtype: torch.dtype, device: str, *, is_sliced: bool) -> tuple[Tensor, Tensor]:
    """A tensor of NaN, and that of this shape which it is or has inside."""
    channels = shape[-1]
    whole = torch.full((*shape[:-1], channels + 48 if is_sliced else channels), float("nan"), device=device).to(dtype)
    return whole, whole[..., 16 : 16 + channels] if is_sliced else whole


def _compare(result: Tensor, right: Tensor) -> None:
    error = (result.cpu().double() - right).norm() / right.norm()
    assert error < TOLERANCES[result.dtype], f"relative error {error:.2e}"  # false for NaN as well


if __name__ == "__main__":
    main()
