"""The project's own convolution, one way per size of tile; and its other kernels, called with tensors.

Note [Tiles]
    A tile of (rows positions, columns channels) reads rows + columns numbers for rows * columns products: the larger it
    is, the less is read again, and the fewer multiprocessors have one. So the early maps, of many positions and 64
    channels, have tall tiles, small maps with many channels the square ones, and those of 64 rows are for single views.
    Hopper's matrix instructions take 64 rows and up to 256 columns; the wider they are, the less shared memory
    is read for a product. Transposed, channels are the rows of the product, and a tall tile is one wide instruction.

    Two stages or more copy into shared memory past the first cache, while products are made. One stage loads through
    that cache, which has what neighbouring taps have seen already, and leaves the waiting to other tiles beside it.

    Sizes are such that nothing is spilled and two tiles or more fit on a multiprocessor, but for the largest: 256 x
    128, 128 x 256, and 128 x 128 of eight bits. bench/kernels_sm90.py has the figures. All of them are tried where the
    network will run.
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
MAX_KERNEL = 8
"""Positions along one axis: Note [Padding as bits] in :mod:`i3d_deploy.fused.kernels`."""

_POOL_ROWS = 32
_STEP_BYTES = 128
"""Of a row in one step: what is loaded by 8 threads side by side."""


@dataclass(frozen=True)
class Tiled:
    """Tiles of one size: Note [Tiles].

    Attributes:
        rows: Output positions.
        columns: Output channels.
        depth: What one step sums over, at most.
        warps: Of 32 threads each, for one tile.
        stages: Steps whose inputs are under way at a time.
        is_transposed: Whether channels are the rows of the product.
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
        """Where no tensor or kernel is too large, less than half of a tile's columns would be empty, steps are of 128
        bytes, and, with one stage, taps see the same pixels."""
        window = convolution.window
        if self.depth * x.element_size() != _STEP_BYTES:
            return False
        is_counted = max(x.numel(), math.prod(convolution.out_shape(x))) <= MAX_ELEMENTS
        fills = self.columns < 2 * kernels.power_of_two(convolution.out_channels)
        reads_again = math.prod(window.kernel) > 1
        return is_counted and max(window.kernel) <= MAX_KERNEL and fills and (self.stages > 1 or reads_again)

    def run(self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None, out: Tensor | None) -> Tensor:
        """As of :class:`i3d_deploy.fused.algorithms.Algorithm`."""
        out = convolution.new_result(x) if out is None else out
        launch(convolution, x, shortcut=shortcut, out=out, tile=self)
        return out

    def read_bytes(self, convolution: Convolution, x: Tensor) -> int:
        """What all tiles together read of inputs and weights, from memory or caches.

        Args:
            convolution: What.
            x: (N, T, H, W, C).
        """
        *positions, out_channels = convolution.out_shape(x)
        summing = Summing.of(convolution.window, x.shape[-1], depth=self.depth)
        tiles = kernels.tiles(math.prod(positions), self.rows) * kernels.tiles(out_channels, self.columns)
        return tiles * summing.steps * (self.rows + self.columns) * summing.depth * x.element_size()


ALGORITHMS = (
    Tiled(256, 64, warps=4, stages=2, is_transposed=True),
    Tiled(256, 64, warps=8, stages=2, is_transposed=True),
    Tiled(128, 64, warps=4, stages=3, is_transposed=True),
    Tiled(128, 64, warps=4, stages=1, is_transposed=True),
    Tiled(256, 128, warps=8, stages=3, is_transposed=True),
    Tiled(128, 256, warps=8, stages=3, is_transposed=True),
    Tiled(128, 128, warps=8, stages=3, is_transposed=True),
    Tiled(128, 128, warps=8, stages=1, is_transposed=True),
    Tiled(64, 128, warps=4, stages=3),
    Tiled(64, 64, warps=4, stages=4),
    # Of eight bits.
    Tiled(256, 64, depth=128, warps=8, stages=2, is_transposed=True),
    Tiled(128, 64, depth=128, warps=4, stages=3, is_transposed=True),
    Tiled(128, 128, depth=128, warps=8, stages=3, is_transposed=True),
    Tiled(128, 128, depth=128, warps=8, stages=3),
    Tiled(64, 64, depth=128, warps=4, stages=4),
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
    summing = Summing.of(window, channels, depth=tile.depth)
    weight = convolution.prepared(f"tiled {summing}", lambda weight: packed(weight, summing))
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
        kernel_steps=summing.column_steps,
        pixels_per_step=summing.pixels,
        stride_frames=window.stride[0],
        stride_rows=window.stride[1],
        stride_columns=window.stride[2],
        has_frames_outside=any(pads[0]),
        has_rows_outside=any(pads[1]),
        has_columns_outside=any(pads[2]) or summing.column_steps * summing.pixels > window.kernel[2],
        keeps_sizes=sizes == results and window.stride == (1, 1, 1),
        is_rectified=convolution.is_rectified,
        is_transposed=tile.is_transposed,
        rows=tile.rows,
        columns=tile.columns,
        depth=summing.depth,
        num_warps=tile.warps,
        num_stages=min(tile.stages, summing.steps),
    )


@dataclass(frozen=True, kw_only=True)
class Summing:
    """How a sum is made in steps: Note [Convolution as a matrix product] in :mod:`i3d_deploy.fused.kernels`.

    Attributes:
        pixels: Columns of the kernel in one step.
        depth: What one step sums over.
        column_steps: Steps that the columns of the kernel need.
        parts: Of the channels of a pixel.
        steps: In all.
    """

    pixels: int
    depth: int
    column_steps: int
    parts: int
    steps: int

    @classmethod
    def of(cls, window: Window, channels: int, *, depth: int) -> Summing:
        """Several pixels in one step where they have 16 or 32 channels, else a part of the channels of one."""
        pixels = 1
        if window.kernel[2] > 1 and channels in (16, 32):
            pixels = min(depth // channels, kernels.power_of_two(window.kernel[2]))
        depth = pixels * channels if pixels > 1 else min(depth, max(16, kernels.power_of_two(channels)))
        column_steps = kernels.tiles(window.kernel[2], pixels)
        parts = kernels.tiles(pixels * channels, depth)
        steps = window.kernel[0] * window.kernel[1] * column_steps * parts
        return cls(pixels=pixels, depth=depth, column_steps=column_steps, parts=parts, steps=steps)


def packed(weight: Tensor, summing: Summing) -> Tensor:
    """Weights as the kernel reads them.

    Args:
        weight: (K, KT, KH, KW, C).
        summing: In what steps.

    Returns:
        (K, parts * KT * KH * column steps * depth): columns of the kernel, and the channels of single pixels, are
        filled up with zeros to whole steps.
    """
    missing_columns = -weight.shape[3] % summing.pixels
    missing_channels = -weight.shape[4] % summing.depth if summing.pixels == 1 else 0
    filled = functional.pad(weight, (0, missing_channels, 0, missing_columns))
    return filled.reshape(len(weight), -1, summing.parts, summing.depth).transpose(1, 2).flatten(1).contiguous()


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
