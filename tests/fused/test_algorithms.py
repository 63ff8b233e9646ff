"""Every way to compute a convolution gives the same, and samples tell right from wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from i3d_deploy.fused import sampled
from i3d_deploy.fused.algorithms import Algorithm, MatrixProduct, ThreeDimensions, TwoDimensions, Widened, available
from i3d_deploy.fused.convolution import EIGHT_BITS, Convolution, Window
from tests.fused.cases import CASES, expected, made

PLAIN: list[Algorithm] = [ThreeDimensions(), TwoDimensions(), MatrixProduct()]
NOT_FLAT = {"3x3x3"}
POINTWISE = {name for name in CASES if name.startswith("1x1x1")}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("way", PLAIN, ids=lambda way: way.name)
def test_ways_agree_with_the_definition(name: str, way: Algorithm) -> None:
    convolution, x, shortcut = made(CASES[name], dtype=torch.float64)
    fits = {"conv3d": True, "conv2d": name not in NOT_FLAT, "matmul": name in POINTWISE}[way.name]
    assert way.fits(convolution, x) == fits
    if fits:
        right = expected(convolution, x, shortcut)
        result = way.run(convolution, x, shortcut=shortcut, out=None)
        assert result.is_contiguous()
        torch.testing.assert_close(result, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("way", PLAIN, ids=lambda way: way.name)
def test_slices_of_channels_are_read_and_written_in_place(way: Algorithm) -> None:
    convolution, x, shortcut = made(CASES["1x1x1 with a shortcut"], dtype=torch.float64)
    wide_x, wide_out = torch.randn(*x.shape[:4], 48).double(), torch.zeros(*x.shape[:4], 40).double()
    wide_x[..., 8:24] = x
    out = wide_out[..., 4:28]
    result = way.run(convolution, wide_x[..., 8:24], shortcut=shortcut, out=out)
    assert result.data_ptr() == out.data_ptr()
    torch.testing.assert_close(wide_out[..., 4:28], expected(convolution, x, shortcut), rtol=0, atol=1e-12)
    assert not wide_out[..., :4].any()
    assert not wide_out[..., 28:].any()


def test_a_cpu_has_the_plain_ways() -> None:
    assert [way.name for way in available(torch.device("cpu"), torch.bfloat16)] == [
        *("matmul", "conv2d", "conv3d", "widened")
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_ways_of_a_gpu_agree_with_the_definition(name: str, dtype: torch.dtype) -> None:
    convolution, x, shortcut = made(CASES[name], dtype=dtype, device="cuda:0")
    right = expected(convolution, x, shortcut)
    for way in available(x.device, dtype):
        if way.fits(convolution, x):
            result = way.run(convolution, x, shortcut=shortcut, out=None)
            allowed = 8 * torch.finfo(dtype).eps * right.abs().max()
            assert (result.cpu().double() - right).abs().max() <= allowed, way.name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_right_result_is_taken(name: str, dtype: torch.dtype) -> None:
    convolution, x, shortcut = made(CASES[name], dtype=dtype)
    result = expected(convolution, x, shortcut).to(dtype)
    assert sampled.agrees(convolution, x, result, shortcut=shortcut)


def _shifted(result: Tensor) -> Tensor:
    return result.roll(1, dims=3)


def _without_the_last_channel(result: Tensor) -> Tensor:
    result[..., -1] = 0
    return result


def _unwritten(result: Tensor) -> Tensor:
    result[-1, -1, -1] = float("nan")
    return result


@pytest.mark.parametrize("spoil", [_shifted, _without_the_last_channel, _unwritten], ids=["shift", "channel", "nan"])
@pytest.mark.parametrize("name", CASES)
def test_a_wrong_result_is_refused(name: str, spoil: Callable[[Tensor], Tensor]) -> None:
    convolution, x, shortcut = made(CASES[name], dtype=torch.bfloat16)
    result = spoil(expected(convolution, x, shortcut).to(torch.bfloat16))
    assert not sampled.agrees(convolution, x, result, shortcut=shortcut)


@pytest.mark.parametrize("name", CASES)
def test_samples_are_the_definition(name: str) -> None:
    convolution, x, shortcut = made(CASES[name], dtype=torch.float64)
    right = expected(convolution, x, shortcut).flatten(0, 3)
    found = sampled.compute(convolution, x, torch.arange(len(right)), shortcut=shortcut)
    torch.testing.assert_close(found.expected, right, rtol=0, atol=1e-12)


def in_eight_bits(name: str) -> tuple[Convolution, Tensor, Tensor | None]:
    """A case with inputs and weights of eight bits and a scale for each output."""
    convolution, x, shortcut = made(CASES[name], dtype=torch.float16)
    scale = torch.linspace(0.01, 0.03, len(convolution.weight))
    weight, x = (100 * convolution.weight).to(EIGHT_BITS), x.to(EIGHT_BITS)
    return dataclasses.replace(convolution, weight=weight, scale=scale, result_dtype=torch.float16), x, shortcut


@pytest.mark.parametrize("name", CASES)
def test_eight_bits_are_widened_and_scaled(name: str) -> None:
    convolution, x, shortcut = in_eight_bits(name)
    assert [way.name for way in available(torch.device("cpu"), torch.float16) if way.fits(convolution, x)] == [
        "widened"
    ]
    result = Widened().run(convolution, x, shortcut=shortcut, out=None)
    right = expected(convolution, x, shortcut)
    assert result.dtype == torch.float16
    torch.testing.assert_close(result.double(), right, rtol=0, atol=1e-3 * right.abs().max().item())
    assert sampled.agrees(convolution, x, result, shortcut=shortcut)
    assert not sampled.agrees(convolution, x, result.roll(1, dims=3), shortcut=shortcut)


@pytest.mark.parametrize("way", [*PLAIN, Widened()], ids=lambda way: way.name)
def test_results_of_eight_bits_end_at_their_range(way: Algorithm) -> None:
    name = "1x1x1"
    is_widened = isinstance(way, Widened)
    convolution, x, shortcut = in_eight_bits(name) if is_widened else made(CASES[name], dtype=torch.float16)
    convolution = dataclasses.replace(convolution, bias=1000 * convolution.bias, result_dtype=EIGHT_BITS)
    result = way.run(convolution, x, shortcut=shortcut, out=None).float()
    right = expected(convolution, x, shortcut)
    assert result.max() == 448
    torch.testing.assert_close(result.double(), right.clamp(max=448), rtol=0.07, atol=0.1)


@pytest.mark.parametrize(
    ("size", "stride", "pads", "out"),
    [(32, 2, (2, 3), 16), (33, 2, (3, 3), 17), (7, 1, (3, 3), 7), (64, 2, (2, 3), 32)],
)
def test_same_padding_is_that_of_the_paper(size: int, stride: int, pads: tuple[int, int], out: int) -> None:
    window = Window(kernel=(7, 1, 1), stride=(stride, 1, 1), padding="same")
    assert window.pads((size, 5, 5)) == (pads, (0, 0), (0, 0))
    assert window.out((size, 5, 5)) == (out, 5, 5)
