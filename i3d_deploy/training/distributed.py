"""The processes of one training run, as torchrun starts them, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from i3d_deploy.errors import DeviceError, InputError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Process:
    """One of the processes; alone, unless torchrun started it.

    Attributes:
        rank: Its number among all.
        world_size: How many there are.
        device: What it computes on.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in order of rank; every process gets them."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        distributed.all_gather_object(gathered, value)
        return gathered

    def share(self, value: T) -> T:
        """The first process's value."""
        if self.world_size == 1:
            return value
        holder: list[Any] = [value]
        distributed.broadcast_object_list(holder, src=0)
        shared: T = holder[0]
        return shared

    def share_buffers(self, module: nn.Module) -> None:
        """Give all processes the first one's buffers, in place: running statistics differ between them."""
        if self.world_size > 1:
            for buffer in module.buffers():
                distributed.broadcast(buffer, src=0)

    def average_buffers(self, module: nn.Module) -> None:
        """Give all processes the mean of all floating-point buffers, in place."""
        if self.world_size > 1:
            for buffer in module.buffers():
                if buffer.is_floating_point():
                    distributed.all_reduce(buffer)
                    buffer /= self.world_size

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            distributed.barrier()


@contextmanager
def joined(device: str = "auto") -> Iterator[Process]:
    """Join the processes that torchrun started, or be alone.

    Args:
        device: "auto" (a GPU for each process where there are any), "cpu", "cuda" or "cuda:1".

    Raises:
        DeviceError: The machine has not that device, or fewer GPUs than processes.
        InputError: Several processes were given one GPU.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = _choose(device, local_rank=int(os.environ.get("LOCAL_RANK", "0")), world_size=world_size)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world_size == 1:
        yield Process(rank=0, world_size=1, device=chosen)
        return
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Process(rank=distributed.get_rank(), world_size=world_size, device=chosen)
    finally:
        distributed.destroy_process_group()


def _choose(device: str, *, local_rank: int, world_size: int) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{local_rank}"
    elif device.startswith("cuda:") and world_size > 1:
        raise InputError(f"device {device}: {world_size} processes need a GPU each, give cuda")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise DeviceError(f"PyTorch {torch.__version__} cannot use device {device!r}: {reason}") from error
    return chosen


def synchronize_norms(network: nn.Module, process: Process) -> nn.Module:
    """Make batch normalisation take its statistics over all processes.

    Args:
        network: Changed in place where it can be.
        process: This process.

    Returns:
        The network to use.
    """
    if process.world_size == 1:
        return network
    if process.device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm3d:
                setattr(parent, name, _SyncBatchNorm3d.like(child))
    return network


class _SyncBatchNorm3d(nn.BatchNorm3d):
    """Batch normalisation over all processes on the CPU, where PyTorch's own does not run."""

    @classmethod
    def like(cls, norm: nn.BatchNorm3d) -> _SyncBatchNorm3d:
        """Take over another's weights and statistics."""
        assert norm.momentum is not None
        made = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        made.load_state_dict(norm.state_dict())
        return made.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, T, H, W) to the same shape."""
        if not self.training:
            return super().forward(x)
        assert self.weight is not None
        wide = x.double()  # the variance is a difference of large sums
        sums = torch.stack([wide.sum((0, 2, 3, 4)), wide.square().sum((0, 2, 3, 4))])
        count = x.numel() // x.shape[1] * distributed.get_world_size()
        mean, square = _sum_over_processes(sums) / count
        variance = square - mean.square()
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        # In the type of the weights: x may be narrower.
        scale = self.weight / (variance + self.eps).sqrt().to(self.weight.dtype)
        shift = self.bias - mean.to(self.weight.dtype) * scale
        shape = (1, -1, 1, 1, 1)
        normalized: Tensor = x * scale.view(shape) + shift.view(shape)
        return normalized.to(x.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        # No momentum means the mean of all batches so far, as torch.optim.swa_utils.update_bn sets it.
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes, through which gradients flow."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Sum the values."""
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Every process's loss depends on every process's values."""
        (gradient,) = gradients
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _sum_over_processes(values: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(values)  # type: ignore[no-untyped-call]
    return total
