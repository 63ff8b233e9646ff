"""How long something takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from i3d_deploy.benchmark import timing


@dataclass(frozen=True, kw_only=True)
class Times:
    """Several runs of one thing.

    Attributes:
        seconds: Of one run; where several were timed together, their mean.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """In seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float | None:
        """(slowest - fastest) / median."""
        return timing.spread_of(self.seconds)


def timed(
    run: Callable[[], object], device: torch.device, *, warmup: int = 2, repeats: int = 5, together: int = 1
) -> Times:
    """Time something by the host's clock, the device idle before and after.

    Args:
        run: What.
        device: Waited for.
        warmup: Runs before that.
        repeats: Times that are taken.
        together: Runs of each.
    """
    for _ in range(warmup):
        run()
    seconds = []
    for _ in range(repeats):
        wait_for(device)
        began = time.perf_counter()
        for _ in range(together):
            run()
        wait_for(device)
        seconds.append((time.perf_counter() - began) / together)
    return Times(seconds=tuple(seconds))


def wait_for(device: torch.device) -> None:
    """Until the device is idle; a CPU is."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
