"""How far an artifact is from what the machine can do: arithmetic alone."""

from __future__ import annotations

from collections.abc import Sequence

from i3d_deploy.benchmark.ceilings import base_precision, highest, memory
from i3d_deploy.benchmark.record import Ceiling, Roofline
from i3d_deploy.errors import InputError
from i3d_deploy.measurements import Work

_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}


def roofline(work: Work, *, precision: str, views: int, seconds: float, ceilings: Sequence[Ceiling]) -> Roofline | None:
    """Hold a measured time against the ceilings.

    The floor is the time of a video whose layers run one by one at the highest rate of their precision, or, where that
    is longer, the time in which a copy moves their inputs, weights and outputs.

    Args:
        work: Multiply-accumulates and elements of one view.
        precision: As the runner reports it, such as "fp32 with fp16 weights".
        views: Views per video.
        seconds: Of a video, at the median.
        ceilings: Measured on the device that the artifact ran on; without a copy among them memory sets no limit.

    Returns:
        None where nothing was measured in that precision, or the work is 0.

    Raises:
        InputError: ``views`` or ``seconds`` is not above 0.
    """
    if views < 1 or seconds <= 0:
        raise InputError(f"views ({views}) and seconds ({seconds}) must be > 0")
    ceiling, copy, name = highest(ceilings, precision), memory(ceilings), base_precision(precision)
    if ceiling is None or name is None or work.macs == 0:
        return None
    operations, num_bytes = 2 * work.macs, work.elements * _BYTES[name]
    compute_floor = operations * views / ceiling.per_second
    memory_floor = num_bytes * views / copy.per_second if copy is not None else 0.0
    achieved = operations * views / seconds
    return Roofline(
        macs_per_view=work.macs,
        bytes_per_view=num_bytes,
        operations_per_second=achieved,
        ceiling=ceiling.per_second,
        ceiling_of=f"{ceiling.precision} {ceiling.work} with {ceiling.backend}",
        share=achieved / ceiling.per_second,
        floor_seconds=max(compute_floor, memory_floor),
        bound="compute" if compute_floor >= memory_floor else "memory",
    )
