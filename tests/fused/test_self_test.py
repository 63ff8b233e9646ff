"""Convolutions that come out wrong are noticed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from i3d_deploy.fused import self_test

CPU = torch.device("cpu")
KERNELS = ["5x7x7", "3x1x1", "1x3x3", "1x1x1", "3x3x3"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
def test_what_is_rounded_once_is_right(dtype: torch.dtype) -> None:
    # In float32, since most CPUs are slow in narrower types.
    def rounded(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
        return functional.conv3d(x.float(), weight.float(), **options).to(dtype)

    assert self_test.wrong(rounded, CPU, dtype) == []


def test_one_wrong_value_in_a_thousand_is_enough() -> None:
    def some_wrong(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
        result = functional.conv3d(x, weight, **options)
        result[:, :, :, ::7] += 0.5
        return result

    assert self_test.wrong(some_wrong, CPU, torch.float32) == KERNELS


def test_frames_in_the_wrong_order_are_noticed_where_a_kernel_spans_time() -> None:
    def reversed_in_time(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
        return functional.conv3d(x, weight.flip(2), **options)

    assert self_test.wrong(reversed_in_time, CPU, torch.float32) == ["5x7x7", "3x1x1", "3x3x3"]


def test_what_is_no_number_is_wrong() -> None:
    def unfinished(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
        return functional.conv3d(x, weight, **options).fill_(float("nan"))

    assert self_test.wrong(unfinished, CPU, torch.float32) == KERNELS


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
def test_this_gpu_is_right(dtype: torch.dtype) -> None:
    self_test.check(torch.device("cuda:0"), dtype)
