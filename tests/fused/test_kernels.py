"""The project's own kernels: right, in Triton's interpreter or on a GPU, and compiled as they are meant to be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from i3d_deploy.fused import tiled
from i3d_deploy.fused.compiling import Compiled, instead_of_running
from i3d_deploy.fused.convolution import Convolution, Window
from i3d_deploy.fused.stacking import Source, Stacking
from i3d_deploy.fused.tiled import Tiled
from i3d_deploy.preprocessing import Pixels
from tests.fused import kernel_cases
from tests.fused.cases import padded

ROOT = Path(__file__).parents[2]
# The interpreter multiplies the bits of bfloat16 as if they were integers (Triton 3.7.1): that type needs a GPU.
INTERPRETED = (torch.float32, torch.float16, torch.float8_e4m3fn)
ON_GPU = (torch.float16, torch.bfloat16, torch.float8_e4m3fn)

GPU_CASES = [
    pytest.param(dtype, name, id=f"{name} of {str(dtype).removeprefix('torch.')}")
    for dtype in ON_GPU
    for name in kernel_cases.checks(dtype, device="cuda")
]

HALVES, EIGHT = (torch.float16, torch.bfloat16), (torch.float8_e4m3fn,)
TILES = [
    pytest.param(tile, dtype, id=f"{tile.name} of {str(dtype).removeprefix('torch.')}")
    for tile in tiled.ALGORITHMS
    for dtype in (HALVES if tile.depth == 64 else EIGHT)
]
"""Every tile, in the types whose steps it has: 128 bytes each."""


def test_kernels_compute_what_pytorch_does_in_the_interpreter() -> None:
    # Whether kernels are interpreted is settled when their module is imported.
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.fused.kernel_cases",
            *(str(dtype).removeprefix("torch.") for dtype in INTERPRETED),
        ],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{name} of {dtype}" for dtype in INTERPRETED for name in kernel_cases.checks(dtype, device="cpu")
    ]


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "name"), GPU_CASES)
def test_kernels_compute_what_pytorch_does_on_a_gpu(dtype: torch.dtype, name: str) -> None:
    kernel_cases.checks(dtype, device="cuda")[name]()


@pytest.mark.gpu
@pytest.mark.parametrize(("tile", "dtype"), TILES)
def test_every_tile_computes_what_pytorch_does_on_a_gpu(tile: Tiled, dtype: torch.dtype) -> None:
    case = kernel_cases.TiledCase(
        shape=(2, 5, 9, 11, 128), out_channels=192, window=padded((3, 3, 3)), tile=tile, has_shortcut=True
    )
    kernel_cases.check_convolution(case, dtype=dtype, device="cuda")


@pytest.mark.gpu
def test_results_beyond_the_range_of_float8_are_its_largest_on_a_gpu() -> None:
    convolution = _convolution(16, 16, padded((1, 1, 1)), torch.float8_e4m3fn, device="cuda")
    convolution.weight.copy_(torch.full_like(convolution.weight, 16.0, dtype=torch.float32))
    convolution.bias.zero_()
    x = torch.full((1, 1, 1, 1, 16), 16.0, device="cuda").to(torch.float8_e4m3fn)
    out = torch.empty_like(x)
    tiled.launch(convolution, x, shortcut=None, out=out, tile=kernel_cases.SMALL)
    assert (out.float() == torch.finfo(torch.float8_e4m3fn).max).all()


CONVOLUTIONS = {
    "the stem": ((30, 8, 256, 256, 16), 64, padded((1, 7, 7), (1, 2, 2))),
    "3x1x1": ((30, 8, 64, 64, 256), 64, padded((3, 1, 1))),
    "1x3x3": ((30, 4, 8, 8, 512), 512, padded((1, 3, 3))),
    "1x1x1 strided": ((30, 4, 64, 64, 256), 512, Window(kernel=(1, 1, 1), stride=(1, 2, 2))),
    "1x1x1 with a shortcut": ((30, 4, 8, 8, 512), 2048, padded((1, 1, 1))),
    "3x3x3": ((30, 16, 28, 28, 96), 192, padded((3, 3, 3))),
}


@pytest.mark.parametrize(
    "tile",
    [Tiled(256, 64, warps=4, stages=2, is_transposed=True), Tiled(64, 64, warps=4, stages=4)],
    ids=lambda tile: tile.name,
)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_are_compiled_to_what_a_hopper_gpu_is_fast_at(name: str, tile: Tiled) -> None:
    assert tile in tiled.ALGORITHMS
    compiled = _compiled(name, torch.float16, tile)
    assert compiled.spilled_bytes == 0
    assert compiled.count("HGMMA")
    assert compiled.count("WARPGROUP.ARRIVE") <= compiled.count("HGMMA") // 2, "products wait for each other"
    assert compiled.count("LDGSTS") == compiled.count("LDGSTS.E.BYPASS.128") > 0
    assert compiled.count("STG") == compiled.count("STG.E.128") > 0
    assert compiled.blocks >= 1


def test_convolutions_of_float8_multiply_in_float8_and_saturate() -> None:
    tile = Tiled(128, 128, depth=128, warps=8, stages=3)
    assert tile in tiled.ALGORITHMS
    compiled = _compiled("1x3x3", torch.float8_e4m3fn, tile)
    assert compiled.spilled_bytes == 0
    assert compiled.count("QGMMA")
    assert compiled.count("F2FP.SATFINITE.E4M3")


def test_pools_and_stacking_are_compiled_without_spills_and_to_wide_accesses() -> None:
    device = torch.device("meta")
    with instead_of_running() as compiled:
        tiled.max_pool(torch.empty(30, 8, 128, 128, 64, dtype=torch.float16, device=device), padded((1, 3, 3)))
        source = Source(
            pixels=torch.empty(1 << 20, dtype=torch.uint8, device=device),
            origins=torch.empty(30, 32, dtype=torch.int64, device=device),
            pitch=torch.empty(1, dtype=torch.int64, device=device),
            size=(256, 256),
        )
        Stacking(Pixels(), padded((5, 7, 7), (4, 2, 2)), dtype=torch.float16, device=device).stack(source)
    pool, stacking = compiled
    assert pool.spilled_bytes == stacking.spilled_bytes == 0
    assert pool.count("LDG") == pool.count("LDG.E.128") > 0
    assert pool.count("STG") == pool.count("STG.E.128") > 0
    assert stacking.count("STG") == stacking.count("STG.E.128") > 0


def _compiled(name: str, dtype: torch.dtype, tile: Tiled) -> Compiled:
    sizes, out_channels, window = CONVOLUTIONS[name]
    x = torch.empty(sizes, dtype=dtype, device="meta")
    convolution = _convolution(sizes[-1], out_channels, window, dtype, device="meta")
    out = torch.empty(convolution.out_shape(x), dtype=dtype, device="meta")
    with instead_of_running() as compiled:
        tiled.launch(convolution, x, shortcut=out if name.endswith("shortcut") else None, out=out, tile=tile)
    return compiled[0]


def _convolution(channels: int, out_channels: int, window: Window, dtype: torch.dtype, *, device: str) -> Convolution:
    return Convolution(
        name="under test",
        weight=torch.empty(out_channels, *window.kernel, channels, dtype=dtype, device=device),
        bias=torch.empty(out_channels, device=device),
        window=window,
        is_rectified=True,
        scale=torch.ones(out_channels, device=device) if dtype.itemsize == 1 else None,
    )
