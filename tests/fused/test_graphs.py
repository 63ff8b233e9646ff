"""The process's switches of precision are what they were after the block that changes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from i3d_deploy.fused.graphs import exact_sums

BACKENDS: Any = torch.backends
PRODUCTS, CUDNN = BACKENDS.cuda.matmul, BACKENDS.cudnn
HALVES = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = switches()
    precisions = [(each, each.fp32_precision) for each in (BACKENDS, PRODUCTS, CUDNN.conv)]
    yield
    for name in HALVES:
        setattr(PRODUCTS, name, True)
    CUDNN.benchmark = False
    for each, precision in precisions:
        each.fp32_precision = precision
    PRODUCTS.allow_tf32, CUDNN.allow_tf32 = False, True
    for each, precision in precisions:
        each.fp32_precision = precision
    assert switches() == before


def switches() -> dict[str, object]:
    found: dict[str, object] = {name: getattr(PRODUCTS, name) for name in HALVES}
    found |= {f"{name}, split": getattr(PRODUCTS, f"{name}_split_k") for name in HALVES}
    precisions = {"all": BACKENDS, "products": PRODUCTS, "cuDNN": CUDNN, "convolutions": CUDNN.conv}
    return {
        **found,
        **{name: each.fp32_precision for name, each in precisions.items()},
        "recurrent": CUDNN.rnn.fp32_precision,
        "benchmark": CUDNN.benchmark,
        "older, products": older(lambda: PRODUCTS.allow_tf32),
        "older, convolutions": older(lambda: CUDNN.allow_tf32),
        "older, all": older(torch.get_float32_matmul_precision),
    }


def older(switch: Callable[[], object]) -> object:
    """What an older switch says, which PyTorch refuses where it differs from the newer ones; torch.export asks."""
    try:
        return switch()
    except RuntimeError:
        return "refused"


def nothing() -> None:
    pass


def older_switches() -> None:
    PRODUCTS.allow_tf32 = True
    CUDNN.allow_tf32 = False
    CUDNN.benchmark = True


def newer_switches() -> None:
    PRODUCTS.fp32_precision = CUDNN.conv.fp32_precision = "tf32"


def one_switch_for_all() -> None:
    BACKENDS.fp32_precision = "tf32"


def sums_in_parts() -> None:
    PRODUCTS.allow_fp16_reduced_precision_reduction = (False, False)
    PRODUCTS.allow_bf16_reduced_precision_reduction = False


PROGRAMS = [nothing, older_switches, newer_switches, one_switch_for_all, sums_in_parts]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
@pytest.mark.parametrize("chooses", [False, True], ids=["as it is", "chooses"])
def test_sums_are_exact_within_the_block_and_as_before_after_it(program: Callable[[], None], chooses: bool) -> None:
    program()
    before = switches()
    with exact_sums(chooses=chooses):
        within = switches()
        with exact_sums():
            assert switches() == within
    assert [within[name] for name in (*HALVES, "products", "convolutions")] == [False, False, "ieee", "ieee"]
    assert within["benchmark"] == (chooses or before["benchmark"])
    assert switches() == before


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_switches_are_as_before_after_an_error(program: Callable[[], None]) -> None:
    program()
    before = switches()
    with pytest.raises(ZeroDivisionError, match="division by zero"), exact_sums(chooses=True):
        1 / 0  # noqa: B018
    assert switches() == before
