"""The processes of one training run: their devices, their running statistics, normalisation over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from i3d_deploy import processes
from i3d_deploy.errors import InputError
from i3d_deploy.processes import Processes
from i3d_deploy.runners.torch_runner import choose_device


@dataclass(frozen=True, kw_only=True)
class Process(Processes):
    """One of the processes that train.

    Attributes:
        device: What it computes on.
    """

    device: torch.device

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


@contextmanager
def joined(device: str = "auto") -> Iterator[Process]:
    """Join the processes that torchrun started, or be alone.

    Args:
        device: "auto" (a GPU for each process where there are any), "cpu", "cuda" or "cuda:1".

    Raises:
        DeviceError: The machine has not that device, or fewer GPUs than processes.
        InputError: Several processes were given one GPU.
        I3DError: Another process has failed.
    """
    chosen = _choose(device, processes.from_environment())
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    with processes.joined(backend=backend) as found, processes.peers_expected(found):
        yield Process(rank=found.rank, world_size=found.world_size, local_rank=found.local_rank, device=chosen)


def _choose(device: str, found: Processes) -> torch.device:
    """Give each process its own GPU, where there are any."""
    if device == "auto" and torch.cuda.is_available():
        device = "cuda"
    if device == "cuda":
        device = f"cuda:{found.local_rank}"
    elif device.startswith("cuda:") and found.world_size > 1:
        raise InputError(f"device {device}: {found.world_size} processes need a GPU each, give cuda")
    return choose_device(device)


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
