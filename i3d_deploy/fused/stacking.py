"""Frames of uint8 into what the stem of a network multiplies.

Note [Stacked frames]
    The stem sees three channels of several frames at once: 5 for a ResNet, 7 for Inception. Laid side by side as the
    channels of one image (5 * 3 = 15, and one of zeros) they make it a 2D convolution of 16 channels, which matrix
    units take as they are, where three would be filled up to 8 or 16 for every frame: 49 * 16 = 784 products in place
    of 735, not 1960. Only the images that the stem's stride in time keeps are made.

Note [Frames once]
    Views overlap: of 30 views of a video of 300 frames, 960 frames under three crops, about 180 are different. A view
    is a list of places in memory where the crops of its frames begin, so each frame crosses the bus once, and crops,
    normalisation and layout are made on the way from it to the stacked images, in one pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from i3d_deploy.fused.convolution import Window
from i3d_deploy.preprocessing import Pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Views as places in memory: Note [Frames once].

    Attributes:
        pixels: Flat uint8, or float32 of values 0 to 255.
        origins: (N, T) int64, where in ``pixels`` each view's crop of each frame begins.
        pitch: (1,) int64, elements from one row of a frame to the next.
        size: (H, W) of a crop.
    """

    pixels: Tensor
    origins: Tensor
    pitch: Tensor
    size: tuple[int, int]

    def of(self, views: slice) -> Source:
        """Some of the views."""
        return replace(self, origins=self.origins[views])


class Stacking:
    """Makes the stem's input: Note [Stacked frames].

    Args:
        pixels: How values of 0 to 255 are scaled.
        window: The stem's; its first axis is what is stacked.
        dtype: Of the result.
        device: Where.

    Attributes:
        channels: Of the result: those of all frames that the stem sees, filled up to 16 or 32.
    """

    def __init__(self, pixels: Pixels, window: Window, *, dtype: torch.dtype, device: torch.device) -> None:
        self._window, self._dtype = window, dtype
        self._colors = len(pixels.color)
        used = self._colors * window.kernel[0]
        self.channels = 16 if used <= 16 else 32
        std = np.array(pixels.std, np.float32).astype(np.float64)
        self._mean = torch.tensor(np.array(pixels.mean, np.float32), device=device)
        self._factor = torch.tensor((1 / std).astype(np.float32), device=device)

    def out_shape(self, source: Source) -> tuple[int, int, int, int, int]:
        """(N, T', H, W, C) of the result."""
        views, frames = source.origins.shape
        return views, self._frames(frames), *source.size, self.channels

    def stack(self, source: Source) -> Tensor:
        """Make it in one pass, by a kernel of the project's own.

        Args:
            source: The views, on a GPU.

        Returns:
            (N, T', H, W, C) of the stem's type.
        """
        from i3d_deploy.fused import kernels

        out = torch.empty(self.out_shape(source), dtype=self._dtype, device=source.pixels.device)
        views, frames, height, width, channels = out.shape
        rows, columns = 16, min(64, kernels.power_of_two(width))
        kernels.stack_frames[views * frames * kernels.tiles(height, rows), kernels.tiles(width, columns)](
            source.pixels,
            source.origins,
            source.pitch,
            self._mean,
            self._factor,
            out,
            source.origins.shape[1],
            frames,
            height,
            width,
            self._before(source.origins.shape[1]),
            channels=self._colors,
            kernel_frames=self._window.kernel[0],
            stride_frames=self._window.stride[0],
            stacked=channels,
            rows=rows,
            columns=columns,
            num_warps=4,
        )
        return out

    def stack_plainly(self, source: Source) -> Tensor:
        """Make it by PyTorch's own steps; as :meth:`stack`."""
        (height, width), colors, device = source.size, self._colors, source.pixels.device
        rows = torch.arange(height, device=device)[:, None, None] * source.pitch
        columns = torch.arange(width, device=device)[:, None] * colors
        places = source.origins[:, :, None, None, None] + rows + columns + torch.arange(colors, device=device)
        views = (source.pixels[places].float() - self._mean) * self._factor  # N T H W C
        out = torch.zeros(self.out_shape(source), dtype=self._dtype, device=device)
        length, step = views.shape[1], self._window.stride[0]
        for frame in range(out.shape[1]):
            for offset in range(self._window.kernel[0]):
                at = frame * step - self._before(length) + offset
                if 0 <= at < length:
                    out[:, frame, :, :, offset * colors : (offset + 1) * colors] = views[:, at]
        return out

    def _frames(self, length: int) -> int:
        """T' of some frames; rows and columns do not matter."""
        return self._window.out((length, 8, 8))[0]

    def _before(self, length: int) -> int:
        """Frames outside before the first one."""
        return self._window.pads((length, 8, 8))[0][0]


def of_views(views: Tensor) -> Source:
    """Views that are cut already.

    Args:
        views: (N, T, H, W, C), contiguous.
    """
    count, frames, height, width, channels = views.shape
    numbers = torch.arange(count * frames, device=views.device).reshape(count, frames)
    return Source(
        pixels=views.flatten(),
        origins=numbers * (height * width * channels),
        pitch=torch.tensor([width * channels], device=views.device),
        size=(height, width),
    )
