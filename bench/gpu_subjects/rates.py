"""What the device can do at most: large matrix products, copies within its memory and to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gpu_subjects.clock import Times, timed
from gpu_subjects.setting import Setting
from gpu_subjects.sheet import NotHereError, Sheet

VIDEO_BYTES = 30 * 32 * 256 * 256 * 3


@dataclass(frozen=True, kw_only=True)
class Rates:
    """The two that set floors.

    Attributes:
        operations: Of a large product in half precision per second, two for each multiply-accumulate.
        moved_bytes: Read and written per second by a copy within the device's memory.
        source: Where they come from.
    """

    operations: float
    moved_bytes: float
    source: str


H200 = Rates(
    operations=788e12,
    moved_bytes=4.3e12,
    source="measured on an H200: 788 TFLOP/s in an 8192^3 bf16 product of random numbers, 4.3 TB/s in a device copy",
)


def measured(setting: Setting) -> Rates:
    """The rates of this device, measured at the first call; on a CPU those of an H200, for the arithmetic."""
    if setting.device.type != "cuda":
        return H200
    if "rates" not in setting.kept:
        product = _product(setting, setting.dtype)
        copy = _copy_within(setting)
        setting.kept["rates"] = Rates(
            operations=2 * setting.sizes.matrix**3 / product.median,
            moved_bytes=2 * setting.sizes.copied_bytes / copy.median,
            source="measured in this run",
        )
    rates: Rates = setting.kept["rates"]
    return rates


def run(setting: Setting, sheet: Sheet) -> None:
    """Ceilings: products, copies."""
    size, num_bytes = setting.sizes.matrix, setting.sizes.copied_bytes
    table = sheet.table(f"matrix products {size}x{size}x{size} of random numbers")
    for dtype in (torch.bfloat16, torch.float16):
        times = _product(setting, dtype)
        rate = 2 * size**3 / times.median
        table.row(
            type=str(dtype).removeprefix("torch."), TFLOP_per_s=rate / 1e12, ms=times.median * 1e3, spread=times.spread
        )
    table = sheet.table("copies")
    times = _copy_within(setting)
    table.row(copy="within the device, bytes read and written", **_copied(2 * num_bytes, times))
    if setting.device.type != "cuda":
        raise NotHereError("copies from host to device need a GPU")
    for words, amount in (("a video of 30 views", VIDEO_BYTES), (f"{num_bytes / 2**20:.0f} MiB", num_bytes)):
        for is_pinned in (True, False):
            source = torch.randint(0, 256, (amount,), dtype=torch.uint8, pin_memory=is_pinned)
            target = torch.empty_like(source, device=setting.device)
            times = timed(lambda a=target, b=source: a.copy_(b, non_blocking=True), setting.device)
            kind = "page-locked" if is_pinned else "pageable"
            table.row(copy=f"host to device, {kind}, {words}", **_copied(amount, times))


def upload_seconds(setting: Setting, num_bytes: int) -> float | None:
    """Of a copy from page-locked memory to the device; None of a CPU."""
    if setting.device.type != "cuda":
        return None
    source = torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device=setting.device)
    return timed(lambda: target.copy_(source, non_blocking=True), setting.device).median


def _copied(amount: int, times: Times) -> dict[str, float | None]:
    return {"GB_per_s": amount / times.median / 1e9, "ms": times.median * 1e3, "spread": times.spread}


def _product(setting: Setting, dtype: torch.dtype) -> Times:
    shape = setting.sizes.matrix, setting.sizes.matrix
    one, other = (torch.randn(shape, device=setting.device).to(dtype) for _ in range(2))
    out = torch.empty(shape, dtype=dtype, device=setting.device)
    return timed(lambda: torch.mm(one, other, out=out), setting.device, warmup=3, together=10)


def _copy_within(setting: Setting) -> Times:
    source = torch.zeros(setting.sizes.copied_bytes, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    return timed(lambda: target.copy_(source), setting.device, together=5)
