"""What the kernels of a network depend on, written down without running it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from i3d_deploy.fused import tiled
from i3d_deploy.fused.convolution import EIGHT_BITS, Convolution, Window
from i3d_deploy.fused.stacking import Source, Stacking
from i3d_deploy.fused.tiled import Tiled

META = torch.device("meta")


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A tensor without its values.

    Attributes:
        sizes: (N, T, H, W, C).
        pixel: Elements from one pixel to the next.
    """

    sizes: tuple[int, ...]
    pixel: int

    @classmethod
    def of(cls, tensor: Tensor) -> Placed:
        """Where a tensor lies."""
        return cls(sizes=tuple(tensor.shape), pixel=tensor.stride(3))

    def tensor(self, dtype: torch.dtype) -> Tensor:
        """Such a tensor, again without values."""
        return torch.empty((*self.sizes[:-1], self.pixel), dtype=dtype, device=META)[..., : self.sizes[-1]]

    @property
    def elements(self) -> int:
        """Numbers that it has, without what lies between its pixels."""
        return math.prod(self.sizes)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or, without outputs, a max pool, as far as its kernel depends on it.

    Attributes:
        x: What comes in.
        out: What comes out.
        window: What it spans.
        out_channels: K; None: a pool.
        has_shortcut: Whether one is added.
        is_rectified: Whether a ReLU follows.
        dtype: What it is computed with.
        out_dtype: Of what comes out.
    """

    x: Placed
    out: Placed
    window: Window
    out_channels: int | None
    has_shortcut: bool
    is_rectified: bool
    dtype: torch.dtype
    out_dtype: torch.dtype

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        x, out = (Placed(sizes=tuple(document[name]["sizes"]), pixel=document[name]["pixel"]) for name in ("x", "out"))
        sides = {name: tuple(side) if isinstance(side, list) else side for name, side in document["window"].items()}
        dtypes = {name: getattr(torch, document[name]) for name in ("dtype", "out_dtype")}
        return cls(**{**document, "x": x, "out": out, "window": Window(**sides), **dtypes})

    def to_json(self) -> dict[str, Any]:
        """As values that JSON holds."""
        dtypes = {name: str(getattr(self, name)).removeprefix("torch.") for name in ("dtype", "out_dtype")}
        return {**asdict(self), **dtypes}

    def convolution(self) -> Convolution:
        """Without weights."""
        assert self.out_channels is not None, "it is no pool"
        shape = (self.out_channels, *self.window.kernel, self.x.sizes[-1])
        return Convolution(
            name="",
            weight=torch.empty(shape, dtype=self.dtype, device=META),
            bias=torch.empty(self.out_channels, device=META),
            window=self.window,
            is_rectified=self.is_rectified,
            scale=torch.empty(self.out_channels, device=META) if self.dtype == EIGHT_BITS else None,
            result_dtype=self.out_dtype,
        )

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return 0 if self.out_channels is None else self.convolution().work(self.x.tensor(self.dtype))

    @property
    def moved_bytes(self) -> int:
        """What must be read and written at the least: each input, weight and result once."""
        if self.out_channels is None:
            return (self.x.elements + self.out.elements) * self.dtype.itemsize
        return self.convolution().moved_bytes(self.x.tensor(self.dtype), has_shortcut=self.has_shortcut)

    def read_bytes(self, tile: Tiled) -> int:
        """What all tiles together read of inputs and weights; 0 of a pool."""
        return 0 if self.out_channels is None else tile.read_bytes(self.convolution(), self.x.tensor(self.dtype))

    @property
    def tiles(self) -> tuple[Tiled, ...]:
        """Those that are tried; one of a pool, which has no choice."""
        if self.out_channels is None:
            return tiled.ALGORITHMS[:1]
        convolution, x = self.convolution(), self.x.tensor(self.dtype)
        return tuple(tile for tile in tiled.ALGORITHMS if tile.fits(convolution, x))

    def launch(self, tile: Tiled) -> None:
        """Start its kernel on no values: within :func:`i3d_deploy.fused.compiling.instead_of_running`."""
        x, out = self.x.tensor(self.dtype), self.out.tensor(self.out_dtype)
        if self.out_channels is None:
            tiled.max_pool(x, self.window, out=out)
            return
        shortcut = torch.empty(self.out.sizes, dtype=self.out_dtype, device=META) if self.has_shortcut else None
        tiled.launch(self.convolution(), x, shortcut=shortcut, out=out, tile=tile)

    def __str__(self) -> str:
        kernel, stride = ("x".join(map(str, sizes)) for sizes in (self.window.kernel, self.window.stride))
        what = "max pool" if self.out_channels is None else f"-> {self.out_channels}"
        step = "" if stride == "1x1x1" else f"/{stride}"
        added = " + shortcut" if self.has_shortcut else ""
        sliced = " sliced" if self.x.pixel > self.x.sizes[-1] or self.out.pixel > self.out.sizes[-1] else ""
        return f"{kernel}{step} {'x'.join(map(str, self.x.sizes[1:]))} {what}{added}{sliced}"


class Recording:
    """Steps of a network that only write down what was asked; results are whatever was in memory.

    Args:
        dtype: What the network is computed with.

    Attributes:
        layers: Each different one, and how often.
        stacked: What was asked for of the stem's input.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self.layers: Counter[Layer] = Counter()
        self.stacked: list[tuple[Stacking, Source]] = []

    def stack(self, stacking: Stacking, source: Source) -> Tensor:
        """As of :class:`i3d_deploy.fused.networks.Steps`."""
        self.stacked.append((stacking, source))
        return torch.empty(stacking.out_shape(source), dtype=self._dtype, device=source.origins.device)

    def convolve(
        self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """As of :class:`i3d_deploy.fused.networks.Steps`."""
        out = convolution.new_result(x) if out is None else out
        self._add(x, out, convolution.window, convolution, has_shortcut=shortcut is not None)
        return out

    def max_pool(self, x: Tensor, window: Window, *, out: Tensor | None = None) -> Tensor:
        """As of :class:`i3d_deploy.fused.networks.Steps`."""
        sizes = window.out((x.shape[1], x.shape[2], x.shape[3]))
        out = x.new_empty((len(x), *sizes, x.shape[-1])) if out is None else out
        self._add(x, out, window, None, has_shortcut=False)
        return out

    def _add(
        self, x: Tensor, out: Tensor, window: Window, convolution: Convolution | None, *, has_shortcut: bool
    ) -> None:
        layer = Layer(
            x=Placed.of(x),
            out=Placed.of(out),
            window=window,
            out_channels=None if convolution is None else convolution.out_channels,
            has_shortcut=has_shortcut,
            is_rectified=convolution is not None and convolution.is_rectified,
            dtype=x.dtype,
            out_dtype=out.dtype,
        )
        self.layers[layer] += 1
