"""PyTorch: the reference, on any device it has.

Note [PyTorch in a fork]
    PyTorch's OpenMP waits for ever in a forked process whose parent had it compute, also while a checkpoint is loaded
    there, and loading one computes. Seen with PyTorch 2.13.0 on Linux; ONNX Runtime and OpenVINO do load anew and run
    there.
"""

from __future__ import annotations

import functools
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import checkpoint
from i3d_deploy.errors import DeviceError, InputError, MissingExtraError
from i3d_deploy.frames import Resized
from i3d_deploy.fused import self_test
from i3d_deploy.fused.graphs import exact_sums
from i3d_deploy.preprocessing import normalize
from i3d_deploy.runners.runner import Runner, RunnerInfo

try:
    import torch
except ImportError as error:
    raise MissingExtraError("torch", extra="export", cause=error) from error

_computing_processes: set[int] = set()
"""This process and those it was forked from, where they have loaded a checkpoint: Note [PyTorch in a fork]."""


class TorchRunner(Runner):
    """The network as it was trained: float32, batch normalisation as its own step.

    Args:
        source: The checkpoint.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:1".
        threads: CPU threads; PyTorch has one setting for the whole process.

    Raises:
        DeviceError: PyTorch has not that device, or convolves wrong on it.
        InputError: This process was forked from one in which PyTorch had loaded or run a network.
    """

    def __init__(self, source: checkpoint.Checkpoint, *, device: str = "auto", threads: int | None = None) -> None:
        super().__init__()
        begin_computing()
        self.card = source.card
        self.notes = source.notes
        self.device = choose_device(device)
        with full_precision(self.device):
            self_test.check(self.device, torch.float32)
        if threads is not None:
            torch.set_num_threads(threads)
        self.model = source.model.to(self.device)
        self.info = RunnerInfo(
            backend=f"torch {torch.__version__}",
            device=str(self.device),
            provider="eager",
            precision="fp32",
            threads=torch.get_num_threads() if self.device.type == "cpu" else 0,
        )

    def feature_maps(self, views: Resized) -> NDArray[np.float32]:
        """As in any runner."""
        with self.turn():
            self._check(views, any_size=True)
            return self._compute(self.model.features, views)

    def classifier(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As in any runner."""
        with self.turn():
            weight, bias = (tensor.detach().cpu().numpy() for tensor in (self.model.fc.weight, self.model.fc.bias))
        return np.array(weight, np.float32), np.array(bias, np.float32)

    def _run(self, inputs: Resized) -> NDArray[np.float32]:
        return self._compute(self.model, inputs)

    def _compute(self, function: Callable[[torch.Tensor], torch.Tensor], inputs: Resized) -> NDArray[np.float32]:
        clips = torch.from_numpy(normalize(inputs, self.card.pixels)).to(self.device)
        with torch.inference_mode(), full_precision(self.device):
            # The layout that PyTorch's 3D convolutions are fastest in; the arithmetic is the same.
            result = function(clips.contiguous(memory_format=torch.channels_last_3d))
        return np.ascontiguousarray(result.cpu().numpy(), np.float32)

    def _profile(self, inputs: Resized, runs: int) -> Mapping[tuple[str, str], float]:
        self._run(inputs)
        with ModuleTimer(self.model, self.device) as timer:
            for _ in range(runs):
                self._run(inputs)
        return timer.seconds

    def _transfer(self, inputs: Resized) -> None:
        torch.from_numpy(inputs).to(self.device)
        torch.cuda.synchronize(self.device)

    def _free(self) -> None:
        self.__dict__.pop("model", None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class ModuleTimer:
    """Hooks that time every module of a network; a context manager that removes them.

    Each module has its own time, without that of the modules inside it: of a block that is what it does itself, such as
    adding the shortcut or the matrix products of a non-local block.

    Args:
        network: Watched inside the ``with`` block.
        device: Where it runs; a GPU is waited for before each look at the clock.

    Attributes:
        seconds: Sum of all runs by path and class of the module; the network itself goes by its class.
    """

    def __init__(self, network: torch.nn.Module, device: torch.device) -> None:
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self._network, self._device = network, device
        self._begun: list[float] = []
        self._inside = [0.0]

    def __enter__(self) -> Self:
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        for path, module in self._network.named_modules():
            if not isinstance(module, torch.nn.Sequential):  # does nothing itself
                kind = type(module).__name__
                key = (path or kind, kind)
                self._handles.append(module.register_forward_pre_hook(self._begin))
                self._handles.append(module.register_forward_hook(functools.partial(self._end, key)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _begin(self, module: torch.nn.Module, inputs: Any) -> None:
        self._synchronize()  # the module around this one pays for what it has started
        self._inside.append(0.0)
        self._begun.append(time.perf_counter())

    def _end(self, key: tuple[str, str], module: torch.nn.Module, inputs: Any, output: Any) -> None:
        self._synchronize()
        ended = time.perf_counter()
        began = self._begun.pop()
        self.seconds[key] += ended - began - self._inside.pop()
        self._inside[-1] += time.perf_counter() - began  # the hook's own time is nobody's

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Without TF32 within the block: it has ten bits of mantissa, and is not for a reference.

    The switch is one for the whole process: of several threads that compute on GPUs, one is in the block at a time.

    Args:
        device: What computes; on a CPU nothing is switched.
    """
    if device.type != "cuda":
        yield
        return
    with exact_sums():
        yield


def begin_computing() -> None:
    """Note that PyTorch computes in this process; refuse where it would hang: Note [PyTorch in a fork].

    Raises:
        InputError: This process was forked from one in which PyTorch had computed.
    """
    if _computing_processes - {os.getpid()}:
        raise InputError(
            "PyTorch would wait for ever: this process was forked from one in which it had computed; "
            "start processes by multiprocessing's spawn"
        )
    _computing_processes.add(os.getpid())


def choose_device(device: str) -> torch.device:
    """Check a device's name, and that PyTorch can use it.

    Args:
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:1".

    Raises:
        DeviceError: PyTorch has not that device.
    """
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    failed = f"PyTorch {torch.__version__} cannot use device {device!r}"
    name, _, number = device.partition(":")
    if device != "cpu" and (name != "cuda" or not (number or "0").isdecimal()):
        raise DeviceError(f"{failed}: give auto, cpu, cuda or cuda:N")
    if name == "cuda" and torch.version.cuda is None:
        raise DeviceError(f"{failed}: it is a build without CUDA: install one for CUDA (pytorch.org), or give cpu")
    try:
        chosen = torch.device("cuda:0" if device == "cuda" else device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"{failed}: i3d-doctor lists what runs here ({str(error).partition(chr(10))[0]})") from error
    return chosen
