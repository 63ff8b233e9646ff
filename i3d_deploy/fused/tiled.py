"""The project's own convolution, one way per size of tile; and its other kernels, called with tensors.

Note [Tiles]
    The size of a tile decides how often inputs and weights are read again, and how many of the GPU's processors have
    one. Large maps with few channels (layer1) want tall tiles of 64 columns; small maps with many channels (layer4)
    want tiles small enough to give every processor one. All of them are tried where the network will run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from i3d_deploy.fused import kernels
from i3d_deploy.fused.convolution import Convolution, Window, sizes_of

MAX_ELEMENTS = 2**31 - 1
"""The kernels count elements of a tensor in 32 bits."""

_POOL_ROWS = 32


@dataclass(frozen=True)
class Tiled:
    """Tiles of one size: Note [Tiles].

    Attributes:
        rows: Output positions.
        columns: Output channels.
        depth: What one step sums over, at most.
        warps: Of 32 threads each, for one tile.
        stages: Steps whose inputs are under way at a time.
    """

    rows: int
    columns: int
    depth: int = 64
    warps: int = 4
    stages: int = 3
    is_transposed: bool = False

    @property
    def name(self) -> str:
        """For plans and tables."""
        turned = " transposed" if self.is_transposed else ""
        return f"tiled {self.rows}x{self.columns}x{self.depth} {self.warps}w {self.stages}s{turned}"

    def fits(self, convolution: Convolution, x: Tensor) -> bool:
        """Where no tensor is too large, and less than half of a tile's columns would be empty."""
        elements = max(x.numel(), math.prod(convolution.out_shape(x)))
        fills = self.columns < 2 * kernels.power_of_two(convolution.out_channels)
        return elements <= MAX_ELEMENTS and fills

    def run(self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None, out: Tensor | None) -> Tensor:
        """As of :class:`i3d_deploy.fused.algorithms.Algorithm`."""
        out = x.new_empty(convolution.out_shape(x)) if out is None else out
        launch(convolution, x, shortcut=shortcut, out=out, tile=self)
        return out


ALGORITHMS = (
    Tiled(256, 64, warps=4, stages=2, is_transposed=True),
    Tiled(256, 64, warps=8, stages=2, is_transposed=True),
    Tiled(128, 64, warps=4, stages=3, is_transposed=True),
    Tiled(256, 128, warps=8, stages=3, is_transposed=True),
    Tiled(128, 256, warps=8, stages=3, is_transposed=True),
    Tiled(128, 128, warps=8, stages=3, is_transposed=True),
    Tiled(64, 128, warps=4, stages=3),
    Tiled(64, 64, warps=4, stages=4),
)
"""Sizes of tile that are tried."""


def launch(convolution: Convolution, x: Tensor, *, shortcut: Tensor | None, out: Tensor, tile: Tiled) -> None:
    """Run the kernel.

    Args:
        convolution: What.
        x: (N, T, H, W, C), channels dense, pixels evenly spaced.
        shortcut: (N, T', H', W', K) likewise, or None.
        out: (N, T', H', W', K) likewise; overwritten.
        tile: How.
    """
    window = convolution.window
    sizes, results = sizes_of(x), sizes_of(out)
    channels, out_channels = x.shape[-1], out.shape[-1]
    pads = window.pads(sizes)
    pixels = pixels_per_step(window, channels, depth=tile.depth)
    depth = pixels * channels if pixels > 1 else min(tile.depth, max(16, kernels.power_of_two(channels)))
    taps = kernels.tiles(window.kernel[2], pixels)
    weight = convolution.prepared(f"tiled {pixels} {depth}", lambda weight: packed(weight, pixels=pixels, depth=depth))
    positions = math.prod(out.shape[:4])
    grid = (kernels.tiles(positions, tile.rows) * kernels.tiles(out_channels, tile.columns),)
    kernels.convolve[grid](
        x,
        weight,
        convolution.scale,
        convolution.bias,
        shortcut,
        out,
        positions,
        *sizes,
        *results,
        out_channels,
        x.stride(3),
        0 if shortcut is None else shortcut.stride(3),
        out.stride(3),
        *(before for before, _ in pads),
        channels=channels,
        kernel_frames=window.kernel[0],
        kernel_rows=window.kernel[1],
        kernel_steps=taps,
        pixels_per_step=pixels,
        stride_frames=window.stride[0],
        stride_rows=window.stride[1],
        stride_columns=window.stride[2],
        has_frames_outside=any(pads[0]),
        has_rows_outside=any(pads[1]),
        has_columns_outside=any(pads[2]) or taps * pixels > window.kernel[2],
        keeps_sizes=sizes == results and window.stride == (1, 1, 1),
        is_rectified=convolution.is_rectified,
        is_transposed=tile.is_transposed,
        rows=tile.rows,
        columns=tile.columns,
        depth=depth,
        num_warps=tile.warps,
        num_stages=min(tile.stages, math.prod(window.kernel[:2]) * taps * kernels.tiles(pixels * channels, depth)),
    )


def pixels_per_step(window: Window, channels: int, *, depth: int) -> int:
    """Columns of the kernel that one step of the sum takes: several where pixels have 16 or 32 channels."""
    if window.kernel[2] == 1 or channels not in (16, 32):
        return 1
    return min(depth // channels, kernels.power_of_two(window.kernel[2]))


def packed(weight: Tensor, *, pixels: int, depth: int) -> Tensor:
    """Weights as the kernel reads them.

    Args:
        weight: (K, KT, KH, KW, C).
        pixels: Columns of the kernel in one step.
        depth: What one step sums over.

    Returns:
        (K, KT * KH * KW' * C'), where KW' is KW and, of single pixels, C' is C, filled up with zeros to whole steps.
    """
    missing_columns = -weight.shape[3] % pixels
    missing_channels = -weight.shape[4] % depth if pixels == 1 else 0
    return functional.pad(weight, (0, missing_channels, 0, missing_columns)).flatten(1).contiguous()


def max_pool(x: Tensor, window: Window, *, out: Tensor | None = None) -> Tensor:
    """Maxima over windows.

    Args:
        x: (N, T, H, W, C), channels dense, pixels evenly spaced.
        window: What one maximum is taken of; every window has a position inside.
        out: (N, T', H', W', C) likewise, to be overwritten; None: memory of its own.

    Returns:
        ``out``, or contiguous.
    """
    sizes = sizes_of(x)
    out = x.new_empty((len(x), *window.out(sizes), x.shape[-1])) if out is None else out
    channels = x.shape[-1]
    columns = min(64, kernels.power_of_two(channels))
    positions = math.prod(out.shape[:4])
    kernels.max_pool[kernels.tiles(positions, _POOL_ROWS), kernels.tiles(channels, columns)](
        x,
        out,
        positions,
        *sizes,
        *out.shape[1:4],
        channels,
        x.stride(3),
        out.stride(3),
        *(before for before, _ in window.pads(sizes)),
        kernel_frames=window.kernel[0],
        kernel_rows=window.kernel[1],
        kernel_columns=window.kernel[2],
        stride_frames=window.stride[0],
        stride_rows=window.stride[1],
        stride_columns=window.stride[2],
        rows=_POOL_ROWS,
        columns=columns,
        num_warps=4,
    )
    return out
