"""What becomes of the kernels of a network when they are compiled for a GPU, and what they have to do at the least.

No GPU is needed:

    python bench/kernels_sm90.py --network i3d_r50 --views 30

Every different layer is compiled with every size of tile. ``issue`` is how long it takes to issue the instructions of
the main loop (of the whole kernel, in brackets, where there is no loop), as a part of the time that the matrix units
need for the products in it: above 1 the instructions are the limit. ``waits`` is how often products are
waited for, and ``narrow`` how many copies into shared memory are of less than 16 bytes. The last columns need no
compiler: bytes that the tiles together read of inputs and weights, mostly from caches; multiply-accumulates; bytes that
must be moved if each is moved once; and the longer of the times that the last two take at the ceilings, which are to be
measured on the GPU in question.
"""

from __future__ import annotations

import math
import multiprocessing
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import click
import torch

from i3d_deploy import model
from i3d_deploy.commands.options import reports_errors
from i3d_deploy.fused.compiling import Compiled, instead_of_running
from i3d_deploy.fused.layers import META, Layer, Recording
from i3d_deploy.fused.networks import FusedNetwork
from i3d_deploy.fused.stacking import of_views
from i3d_deploy.fused.tiled import Tiled
from i3d_deploy.network import NETWORKS, Inception
from i3d_deploy.preprocessing import Pixels

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float16}
"""Of maps; with fp8, those inside of blocks have eight bits."""
MACS_PER_CLOCK = 1024 * 2
"""Of one Hopper multiprocessor in 16 bits: 989 TFLOP/s on 132 of them at 1.83 GHz."""


def recorded(name: str, *, views: int, frames: int, side: int | None, dtype: str) -> Recording:
    """Every layer of a network, as often as it has it."""
    network = NETWORKS[name](400)
    side = side or (224 if isinstance(network, Inception) else 256)
    is_flow = network.in_channels == 2
    pixels = Pixels(color="xy", mean=(128.0, 128.0), std=(64.0, 64.0)) if is_flow else Pixels()
    fused = FusedNetwork(model.build(network), pixels, dtype=DTYPES[dtype], device=META, has_eight_bits=dtype == "fp8")
    recording = Recording(DTYPES[dtype])
    shape = (views, frames, side, side, len(pixels.color))
    fused.features(recording, of_views(torch.empty(shape, dtype=torch.uint8, device=META)))
    return recording


def machine_code(job: tuple[Layer, Tiled, int]) -> Compiled:
    """What a layer becomes; here for the pool of processes."""
    layer, tile, arch = job
    with instead_of_running(arch) as compiled:
        layer.launch(tile)
    row(compiled[0])  # disassembles it, here rather than where all come together
    return compiled[0]


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


def lines(recording: Recording, codes: Iterator[Compiled], *, tflops: float, tbytes: float) -> Iterator[str]:
    """The table, and the sum of its times."""
    yield (
        f"{'':27} regs spill   KiB blocks {'products':>18} {'loop':>6} {'issue':>6} waits narrow"
        "  read MB      GMAC      MB      ms"
    )
    total = 0.0
    for layer, times in recording.layers.items():
        arithmetic, moving = 2 * layer.macs / tflops / 1e12, layer.moved_bytes / tbytes / 1e12
        least = max(arithmetic, moving)
        total += least * times
        yield f"{times} x {layer}, limited by {'arithmetic' if arithmetic > moving else 'memory'}"
        for tile in layer.tiles:
            name = "" if layer.out_channels is None else tile.name.removeprefix("tiled ")
            read, moved = layer.read_bytes(tile) / 1e6, layer.moved_bytes / 1e6
            work = f"{read:8.0f} {layer.macs / 1e9:9.1f} {moved:7.1f} {least * 1e3:7.3f}"
            yield f"  {name:25} {row(next(codes))} {work}"
    yield f"these layers at their ceilings: {total * 1e3:.2f} ms"


@click.command()
@click.option("--network", type=click.Choice(list(NETWORKS)), default="i3d_r50", show_default=True)
@click.option("--views", type=click.IntRange(min=1), default=30, show_default=True)
@click.option("--frames", type=click.IntRange(min=8), default=32, show_default=True)
@click.option("--side", type=click.IntRange(min=32), help="Of the views; 256, and for Inception 224, unless given.")
@click.option("--dtype", type=click.Choice(list(DTYPES)), default="fp16", show_default=True)
@click.option("--arch", type=int, default=90, show_default=True, help="Compute capability, 90 for 9.0.")
@click.option("--tflops", default=788.0, show_default=True, help="Ceiling of the arithmetic: measured on an H200.")
@click.option("--tbytes", default=4.3, show_default=True, help="TB/s, ceiling of the memory: measured on an H200.")
@click.option("--only", default="", metavar="TEXT", help="Of layers whose line has this in it, as in 'max pool'.")
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
    only: str,
    processes: int,
) -> None:
    """Compile the kernels of a network and list what they became.

    For each layer and tile: registers of a thread, bytes spilled, KiB of shared memory, blocks that fit on a
    multiprocessor, the matrix instruction, instructions of the main loop (in brackets: of the kernel), time to issue
    these as a part of the products' time, waits for products, copies of less than 16 bytes, MB that all tiles read;
    and of the layer GMAC, MB moved at the least, and ms at the ceilings.
    """
    recording = recorded(network, views=views, frames=frames, side=side, dtype=dtype)
    recording.layers = Counter({layer: times for layer, times in recording.layers.items() if only in str(layer)})
    click.echo(f"{network}, {views} views, {dtype}, for compute capability {arch / 10:.1f}")
    with instead_of_running(arch) as compiled:
        for stacking, source in recording.stacked:
            stacking.stack(source)
    jobs = [(layer, tile, arch) for layer in recording.layers for tile in layer.tiles]
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for line in lines(recording, pool.map(machine_code, jobs), tflops=tflops, tbytes=tbytes):
            click.echo(line)
    for (stacking, source), code in zip(recording.stacked, compiled, strict=True):
        written = math.prod(stacking.out_shape(source)) * DTYPES[dtype].itemsize
        moved = source.pixels.numel() + written
        click.echo(f"stacking {stacking.out_shape(source)}")
        click.echo(f"  {'':25} {row(code)} {0:8} {0:9.1f} {moved / 1e6:7.1f} {moved / tbytes / 1e9:7.3f}")


if __name__ == "__main__":
    main()
