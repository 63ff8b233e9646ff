"""What becomes of the kernels of a network when they are compiled for a GPU, and what they have to do at the least.

No GPU is needed:

    python bench/kernels_sm90.py --network i3d_r50 --views 30

Every different layer is compiled with every size of tile. ``issue`` is how long it takes to issue the instructions of
the main loop (of the whole kernel, in brackets, where there is no loop), as a part of the time that the matrix units
need for the products in it: above 1 the instructions are the limit. ``waits`` is how often products are
waited for, and ``narrow`` how many copies into shared memory are of less than 16 bytes. The last columns need no
compiler: multiply-accumulates, bytes that must be moved if each is moved once, and the longer of the times that these
take at the ceilings, which are to be measured on the GPU in question.
"""

from __future__ import annotations

import math
import multiprocessing
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import click
import torch
from torch import Tensor

from i3d_deploy import model
from i3d_deploy.commands.options import reports_errors
from i3d_deploy.fused import tiled
from i3d_deploy.fused.compiling import Compiled, instead_of_running
from i3d_deploy.fused.convolution import Convolution, Window
from i3d_deploy.fused.networks import FusedNetwork
from i3d_deploy.fused.stacking import Source, Stacking, of_views
from i3d_deploy.fused.tiled import Tiled
from i3d_deploy.network import NETWORKS, Inception
from i3d_deploy.preprocessing import Pixels

META = torch.device("meta")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
MACS_PER_CLOCK = 1024 * 2
"""Of one Hopper multiprocessor in 16 bits: 989 TFLOP/s on 132 of them at 1.83 GHz."""


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
        """How many it has."""
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
    """

    x: Placed
    out: Placed
    window: Window
    out_channels: int | None
    has_shortcut: bool
    is_rectified: bool
    dtype: torch.dtype

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
        )

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return 0 if self.out_channels is None else self.convolution().work(self.x.tensor(self.dtype))

    @property
    def moved_bytes(self) -> int:
        """At the least."""
        if self.out_channels is None:
            return (self.x.elements + self.out.elements) * self.dtype.itemsize
        return self.convolution().moved_bytes(self.x.tensor(self.dtype), has_shortcut=self.has_shortcut)

    def compiled(self, tile: Tiled, *, arch: int) -> Compiled:
        """Its kernel."""
        x, out = self.x.tensor(self.dtype), self.out.tensor(self.dtype)
        with instead_of_running(arch) as compiled:
            if self.out_channels is None:
                tiled.max_pool(x, self.window, out=out)
            else:
                shortcut = torch.empty(self.out.sizes, dtype=self.dtype, device=META) if self.has_shortcut else None
                tiled.launch(self.convolution(), x, shortcut=shortcut, out=out, tile=tile)
        return compiled[0]

    def __str__(self) -> str:
        kernel, stride = ("x".join(map(str, sizes)) for sizes in (self.window.kernel, self.window.stride))
        what = "max pool" if self.out_channels is None else f"-> {self.out_channels}"
        step = "" if stride == "1x1x1" else f"/{stride}"
        added = " + shortcut" if self.has_shortcut else ""
        sliced = " sliced" if self.x.pixel > self.x.sizes[-1] or self.out.pixel > self.out.sizes[-1] else ""
        return f"{kernel}{step} {'x'.join(map(str, self.x.sizes[1:]))} {what}{added}{sliced}"


class Recording:
    """Steps of a network of some type that only write down what was asked."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self.layers: Counter[Layer] = Counter()
        self.stacked: list[tuple[Stacking, Source]] = []

    def stack(self, stacking: Stacking, source: Source) -> Tensor:
        """As of :class:`i3d_deploy.fused.networks.Steps`."""
        self.stacked.append((stacking, source))
        return torch.empty(stacking.out_shape(source), dtype=self._dtype, device=META)

    def convolve(
        self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """As of :class:`i3d_deploy.fused.networks.Steps`."""
        out = x.new_empty(convolution.out_shape(x)) if out is None else out
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
        )
        self.layers[layer] += 1


def recorded(name: str, *, views: int, frames: int, side: int | None, dtype: torch.dtype) -> Recording:
    """Every layer of a network, as often as it has it."""
    network = NETWORKS[name](400)
    side = side or (224 if isinstance(network, Inception) else 256)
    is_flow = network.in_channels == 2
    pixels = Pixels(color="xy", mean=(128.0, 128.0), std=(64.0, 64.0)) if is_flow else Pixels()
    fused = FusedNetwork(model.build(network), pixels, dtype=dtype, device=META)
    recording = Recording(dtype)
    shape = (views, frames, side, side, len(pixels.color))
    fused.features(recording, of_views(torch.empty(shape, dtype=torch.uint8, device=META)))
    return recording


def machine_code(job: tuple[Layer, Tiled, int]) -> Compiled:
    """What a layer becomes; here for the pool of processes."""
    layer, tile, arch = job
    compiled = layer.compiled(tile, arch=arch)
    row(compiled)  # disassembles it, here rather than where all come together
    return compiled


def issue(compiled: Compiled) -> float:
    """Time to issue instructions over time to multiply; 0 where nothing is multiplied."""
    counted = compiled.main_loop or compiled.instructions
    macs = 0
    for name, number in counted.items():
        shape = re.match(r"[HQ]GMMA\.(\d+)x(\d+)x(\d+)", name)
        if shape:
            macs += number * math.prod(map(int, shape.groups()))
    # A warpgroup of 4 warps multiplies together, and each of its warps issues all instructions, one in a clock.
    return counted.total() / (macs / MACS_PER_CLOCK) if macs else 0.0


def row(compiled: Compiled) -> str:
    """What there is to know of a kernel."""
    counted = compiled.main_loop or compiled.instructions
    products = next((name.removesuffix(".F32") for name in counted if "GMMA" in name), "none")
    narrow = compiled.count("LDGSTS") - compiled.count("LDGSTS.E.BYPASS.128")
    loop = str(counted.total()) if compiled.main_loop else f"({counted.total()})"
    waits = counted["WARPGROUP.ARRIVE"]
    return (
        f"{compiled.registers:4} {compiled.spilled_bytes:5} {compiled.shared_bytes / 1024:5.0f} {compiled.blocks:6} "
        f"{products:>18} {loop:>6} {issue(compiled):6.2f} {waits:5} {narrow:6}"
    )


def tiles_for(layer: Layer) -> Sequence[Tiled]:
    """Those that would be tried."""
    if layer.out_channels is None:
        return tiled.ALGORITHMS[:1]
    convolution, x = layer.convolution(), layer.x.tensor(layer.dtype)
    return [tile for tile in tiled.ALGORITHMS if tile.fits(convolution, x)]


def lines(recording: Recording, codes: Iterator[Compiled], *, tflops: float, tbytes: float) -> Iterator[str]:
    """The table, and the sum of its times."""
    yield (
        f"{'':27} regs spill   KiB blocks {'products':>18} {'loop':>6} {'issue':>6} waits narrow"
        "      GMAC      MB      ms"
    )
    total = 0.0
    for layer, times in recording.layers.items():
        arithmetic, moving = 2 * layer.macs / tflops / 1e12, layer.moved_bytes / tbytes / 1e12
        least = max(arithmetic, moving)
        total += least * times
        yield f"{times} x {layer}, limited by {'arithmetic' if arithmetic > moving else 'memory'}"
        for tile in tiles_for(layer):
            name = "" if layer.out_channels is None else tile.name.removeprefix("tiled ")
            work = f"{layer.macs / 1e9:9.1f} {layer.moved_bytes / 1e6:7.1f} {least * 1e3:7.3f}"
            yield f"  {name:25} {row(next(codes))} {work}"
    yield f"all layers at their ceilings: {total * 1e3:.2f} ms"


@click.command()
@click.option("--network", type=click.Choice(list(NETWORKS)), default="i3d_r50", show_default=True)
@click.option("--views", type=click.IntRange(min=1), default=30, show_default=True)
@click.option("--frames", type=click.IntRange(min=8), default=32, show_default=True)
@click.option("--side", type=click.IntRange(min=32), help="Of the views; 256, and for Inception 224, unless given.")
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="fp16", show_default=True)
@click.option("--arch", type=int, default=90, show_default=True, help="Compute capability, 90 for 9.0.")
@click.option("--tflops", default=788.0, show_default=True, help="Ceiling of the arithmetic: measured on an H200.")
@click.option("--tbytes", default=4.3, show_default=True, help="TB/s, ceiling of the memory: measured on an H200.")
@click.option("--processes", type=click.IntRange(min=1), default=2, show_default=True)
@reports_errors
def main(
    network: str,
    views: int,
    frames: int,
    side: int | None,
    dtype: str,
    arch: int,
    tflops: float,
    tbytes: float,
    processes: int,
) -> None:
    """Compile the kernels of a network and list what they became."""
    recording = recorded(network, views=views, frames=frames, side=side, dtype=DTYPES[dtype])
    click.echo(f"{network}, {views} views, {dtype}, for compute capability {arch / 10:.1f}")
    with instead_of_running(arch) as compiled:
        for stacking, source in recording.stacked:
            stacking.stack(source)
    jobs = [(layer, tile, arch) for layer in recording.layers for tile in tiles_for(layer)]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for line in lines(recording, pool.map(machine_code, jobs), tflops=tflops, tbytes=tbytes):
            click.echo(line)
    for (stacking, source), code in zip(recording.stacked, compiled, strict=True):
        written = math.prod(stacking.out_shape(source)) * DTYPES[dtype].itemsize
        moved = source.pixels.numel() + written
        click.echo(f"stacking {stacking.out_shape(source)}")
        click.echo(f"  {'':25} {row(code)} {0:9.1f} {moved / 1e6:7.1f} {moved / tbytes / 1e9:7.3f}")


if __name__ == "__main__":
    main()
