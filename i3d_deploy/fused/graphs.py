"""What a GPU does in a row, recorded once and started at once; and how long that takes.

Note [Recorded]
    A network of sixty convolutions in groups of views is hundreds of launches, and starting each from Python takes
    longer than running it. A CUDA graph starts all of them together. What it reads and writes stays where it was when
    it was recorded.

Note [Sums]
    Libraries may add up the parts of a long sum in the type of the result. Here they may not, and the GPU's ten-bit
    TF32 is not used for float32. What a library chooses is chosen while a graph is recorded.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch

Result = TypeVar("Result")

_WARM_UP, _TOGETHER, _RUNS = 2, 8, 5


class Recorded(Generic[Result]):
    """A function's work on a GPU: Note [Recorded].

    Args:
        function: Started twice to warm up, then recorded; it neither waits for the GPU nor copies from the host.
        device: The GPU.
        pool: Memory that is shared with other recorded functions, none of which runs at the same time.

    Attributes:
        result: What the function returned; its tensors are overwritten by each start.
    """

    result: Result

    def __init__(self, function: Callable[[], Result], *, device: torch.device, pool: Any = None) -> None:
        with torch.cuda.device(device), exact_sums():
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    function()
            torch.cuda.current_stream().wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            # Other threads may use the GPU meanwhile.
            with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
                self.result = function()

    def start(self) -> None:
        """Run it on the current stream."""
        self._graph.replay()


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Median time of one run, without the time that starting it takes on a GPU.

    Args:
        function: What is run.
        device: Where.
    """
    if device.type != "cuda":
        times = []
        for _ in range(_RUNS):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def several() -> None:
        for _ in range(_TOGETHER):
            function()

    recorded = Recorded(several, device=device)
    begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    times = []
    for _ in range(_RUNS):
        begin.record()
        recorded.start()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000 / _TOGETHER)
    return statistics.median(times)


@contextmanager
def exact_sums() -> Iterator[None]:
    """Within the block, sums are kept in float32: Note [Sums]. The switches are those of the whole process."""
    products = torch.backends.cuda.matmul
    switches = (
        "allow_tf32",
        "allow_fp16_reduced_precision_reduction",
        "allow_bf16_reduced_precision_reduction",
    )
    before = {name: getattr(products, name) for name in switches}
    try:
        for name in switches:
            setattr(products, name, False)
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
            yield
    finally:
        for name, value in before.items():
            setattr(products, name, value)
