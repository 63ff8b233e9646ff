"""The steps of a network as PyTorch has them, on any device and of any type."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from i3d_deploy.fused.algorithms import Algorithm, MatrixProduct, ThreeDimensions, TwoDimensions, Widened
from i3d_deploy.fused.convolution import Convolution, Window, sizes_of
from i3d_deploy.fused.stacking import Source, Stacking


class PlainSteps:
    """PyTorch's own steps, the convolutions in the fewest dimensions that they need."""

    def stack(self, stacking: Stacking, source: Source) -> Tensor:
        """As of :class:`i3d_deploy.fused.networks.Steps`."""
        return stacking.stack_plainly(source)

    def convolve(
        self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """As of :class:`i3d_deploy.fused.networks.Steps`."""
        ways: tuple[Algorithm, ...] = (Widened(), MatrixProduct(), TwoDimensions(), ThreeDimensions())
        way = next(way for way in ways if way.fits(convolution, x))
        return way.run(convolution, x, shortcut=shortcut, out=out)

    def max_pool(self, x: Tensor, window: Window, *, out: Tensor | None = None) -> Tensor:
        """As of :class:`i3d_deploy.fused.networks.Steps`."""
        pads = [size for pad in reversed(window.pads(sizes_of(x))) for size in pad]
        maps = functional.pad(x.permute(0, 4, 1, 2, 3), pads, value=float("-inf"))
        result = functional.max_pool3d(maps, window.kernel, window.stride).permute(0, 2, 3, 4, 1)
        return result.contiguous() if out is None else out.copy_(result)
