"""What a GPU does in a row, recorded once and started at once; and how long that takes.

Note [Recorded]
    A network of sixty convolutions in groups of views is hundreds of launches, and starting each from Python takes
    longer than running it. A CUDA graph starts all of them together. What it reads and writes stays where it was when
    it was recorded.

    cuBLAS keeps memory for each stream that it is used on, and recorded work goes on using that of the stream it was
    recorded on; with the graph some versions of PyTorch free it (pytorch#193402). So graphs that live and die together
    have a stream of their own to be recorded on.

Note [Sums]
    Libraries may add up the parts of a long sum in the type of the result. Here they may not, and the GPU's ten-bit
    TF32 is not used for float32. What a library chooses is chosen while work is recorded.
"""

from __future__ import annotations

import functools
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch

Result = TypeVar("Result")

_WARM_UP, _TOGETHER, _RUNS = 2, 8, 5
_SLOW = 3
_START_SECONDS = 2e-4
"""What starting a step or two from Python may take."""

_switches = threading.RLock()
"""The switches of :func:`exact_sums` are the process's; and of several threads, one records at a time."""


class Recorded(Generic[Result]):
    """A function's work on a GPU: Note [Recorded].

    Args:
        function: Started twice to warm up, then recorded; it neither waits for the GPU nor copies from the host.
        stream: What it is recorded on, of the graphs that live as long.
        pool: Memory that is shared with others, which run in turn with this one; None: memory of its own.
        times: How often it is recorded, one after the other.

    Attributes:
        result: What the function returned last; its tensors are overwritten by each start.
    """

    result: Result

    def __init__(
        self, function: Callable[[], Result], *, stream: torch.cuda.Stream, pool: Any = None, times: int = 1
    ) -> None:
        before = torch.cuda.current_stream(stream.device)
        # The outer stream context also ends a recording that fails half way.
        with exact_sums(chooses=True), torch.cuda.device(stream.device), torch.cuda.stream(before):
            stream.wait_stream(before)
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UP):
                    function()
            before.wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            # Other threads may use the GPU meanwhile.
            with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                for _ in range(times):
                    self.result = function()

    def start(self) -> None:
        """Run it on the current stream."""
        self._graph.replay()


def seconds_of(function: Callable[[], object], device: torch.device, *, than: float = math.inf) -> float:
    """Median time of one run, without the time that starting it takes on a GPU.

    Args:
        function: What is run.
        device: Where.
        than: What would be fast: what takes several times as long is timed roughly.
    """
    if device.type != "cuda":
        times = []
        for _ in range(_RUNS):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return statistics.median(times)
    with torch.cuda.device(device):
        function()
        rough = min(_elapsed(function) for _ in range(2))
        if rough > _SLOW * than + _START_SECONDS:
            return rough
        recorded = Recorded(function, stream=_trial_stream(device), times=_TOGETHER)
        return statistics.median(_elapsed(recorded.start) / _TOGETHER for _ in range(_RUNS))


def _elapsed(start_work: Callable[[], object]) -> float:
    """Seconds that work takes on the current GPU."""
    begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    begin.record()
    start_work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000


@functools.cache
def _trial_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Inference on a device within the block, with :func:`exact_sums`."""
    if device.type != "cuda":
        with torch.inference_mode():
            yield
        return
    with torch.inference_mode(), torch.cuda.device(device), exact_sums():
        yield


@contextmanager
def exact_sums(*, chooses: bool = False) -> Iterator[None]:
    """Within the block, sums are kept in float32: Note [Sums].

    The switches are the process's: of several threads, one is in the block at a time, and a thread that meanwhile asks
    PyTorch for ``torch.backends.cudnn.allow_tf32`` or enters ``torch.backends.cudnn.flags()`` gets PyTorch's error on
    mixed switches. Afterwards the precision of cuDNN's convolutions is one of their own, also where it followed that of
    ``torch.backends`` before.

    Args:
        chooses: Whether cuDNN tries what is fastest for sizes that it meets for the first time.
    """
    products: Any = torch.backends.cuda.matmul
    convolutions: Any = torch.backends.cudnn
    kinds = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
    with _switches:
        before: dict[str, Any] = {
            kind: (getattr(products, kind), getattr(products, f"{kind}_split_k", True)) for kind in kinds
        }
        precisions = products.fp32_precision, convolutions.conv.fp32_precision, convolutions.benchmark
        try:
            for kind in kinds:
                setattr(products, kind, False)
            products.fp32_precision = convolutions.conv.fp32_precision = "ieee"
            convolutions.benchmark = chooses or precisions[2]
            yield
        finally:
            for kind, (reduces, splits) in before.items():
                setattr(products, kind, reduces if splits else (reduces, splits))
            products.fp32_precision, convolutions.conv.fp32_precision, convolutions.benchmark = precisions
