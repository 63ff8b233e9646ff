"""Rooflines against numbers worked by hand."""

from __future__ import annotations

import pytest

from i3d_deploy.benchmark.record import Ceiling
from i3d_deploy.benchmark.roofline import roofline
from i3d_deploy.errors import InputError
from i3d_deploy.measurements import Work

COPY = Ceiling(precision="bytes", work="copy", backend="numpy 2", per_second=40e9)
FP32 = Ceiling(precision="fp32", work="matmul", backend="torch 2 on cpu", per_second=200e9)
FP32_CONVOLUTION = Ceiling(precision="fp32", work="convolution", backend="openvino 2026 on cpu", per_second=400e9)
BF16 = Ceiling(precision="bf16", work="convolution", backend="openvino 2026 on cpu", per_second=800e9)
INT8 = Ceiling(precision="int8", work="convolution", backend="openvino 2026 on cpu", per_second=1600e9)
CEILINGS = (COPY, FP32, FP32_CONVOLUTION, BF16, INT8)

# 40 G multiply-accumulates a view are 80 G operations; 30 views are 2.4 T operations.
NETWORK = Work(macs=40_000_000_000, elements=100_000_000)


def test_a_network_under_the_compute_ceiling() -> None:
    found = roofline(NETWORK, precision="fp32", views=30, seconds=8.0, ceilings=CEILINGS)
    assert found is not None
    assert (found.macs_per_view, found.bytes_per_view) == (40_000_000_000, 400_000_000)
    assert found.operations_per_second == pytest.approx(300e9)  # 2.4 T in 8 s
    assert (found.ceiling, found.ceiling_of) == (400e9, "fp32 convolution with openvino 2026 on cpu")
    assert found.share == pytest.approx(0.75)
    assert found.floor_seconds == pytest.approx(6.0)  # memory: 12 GB at 40 GB/s are 0.3 s
    assert found.bound == "compute"
    assert found.intensity == pytest.approx(200.0)  # 80 G operations by 0.4 GB


def test_a_network_that_memory_limits() -> None:
    work = Work(macs=1_000_000_000, elements=1_000_000_000)
    found = roofline(work, precision="bf16", views=10, seconds=2.0, ceilings=CEILINGS)
    assert found is not None
    assert found.bytes_per_view == 2_000_000_000
    assert found.floor_seconds == pytest.approx(0.5)  # 20 GB at 40 GB/s; computing takes 20 G / 800 G = 0.025 s
    assert found.bound == "memory"
    assert found.share == pytest.approx(0.0125)  # 20 G in 2 s are 10 G of 800 G


@pytest.mark.parametrize(
    ("precision", "bytes_per_element", "ceiling"),
    [
        ("fp32", 4, 400e9),
        ("fp32 with fp16 weights", 4, 400e9),
        ("bf16", 2, 800e9),
        ("int8", 1, 1600e9),
        ("mixed int8", 1, 1600e9),
    ],
)
def test_the_precision_sets_bytes_and_ceiling(precision: str, bytes_per_element: int, ceiling: float) -> None:
    found = roofline(NETWORK, precision=precision, views=1, seconds=1.0, ceilings=CEILINGS)
    assert found is not None
    assert found.bytes_per_view == bytes_per_element * 100_000_000
    assert found.ceiling == ceiling


@pytest.mark.parametrize("precision", ["fp16", "fp8", "f64", ""])
def test_a_precision_without_a_ceiling_has_no_roofline(precision: str) -> None:
    assert roofline(NETWORK, precision=precision, views=30, seconds=1.0, ceilings=CEILINGS) is None


def test_without_a_copy_memory_sets_no_limit() -> None:
    work = Work(macs=1_000_000_000, elements=1_000_000_000)
    found = roofline(work, precision="fp32", views=10, seconds=2.0, ceilings=(FP32_CONVOLUTION,))
    assert found is not None
    assert found.bound == "compute"
    assert found.floor_seconds == pytest.approx(0.05)  # 20 G at 400 G/s


def test_no_work_has_no_roofline() -> None:
    work = Work(macs=0, elements=0)
    assert roofline(work, precision="fp32", views=1, seconds=1.0, ceilings=CEILINGS) is None


@pytest.mark.parametrize(("views", "seconds"), [(0, 1.0), (30, 0.0)])
def test_nothing_timed_is_an_error(views: int, seconds: float) -> None:
    with pytest.raises(InputError, match=r"views \(\d+\) and seconds \([\d.]+\) must be > 0"):
        roofline(NETWORK, precision="fp32", views=views, seconds=seconds, ceilings=CEILINGS)
