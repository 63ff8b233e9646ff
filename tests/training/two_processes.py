"""What two processes tell each other, for torchrun; each writes what it got to ``FOLDER/RANK.pth``.

Usage: two_processes.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from i3d_deploy.training import distributed
from i3d_deploy.training.distributed import Process

NUM_STEPS = 3
MOMENTUM = 0.3


def network() -> nn.Module:
    """Normalisations at the top and within, with seeded weights of their own."""
    torch.manual_seed(1)
    inner = nn.Sequential(nn.Conv3d(4, 5, 1, bias=False), nn.BatchNorm3d(5, eps=1e-3, momentum=MOMENTUM))
    net = nn.Sequential(nn.Conv3d(3, 4, (1, 3, 3)), nn.BatchNorm3d(4), nn.ReLU(), inner)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    return net


def batch(step: int) -> Tensor:
    """(6, 3, T, H, W) of a step, for both processes together; the mean is not zero, nor the same in both halves."""
    pixels = torch.randn(6, 3, 2, 5, 6, generator=torch.Generator().manual_seed(step))
    return pixels + torch.arange(6.0).view(6, 1, 1, 1, 1)


def loss(outputs: Tensor, clips: Tensor) -> Tensor:
    """A sum over all videos of something whose gradient differs everywhere."""
    return (outputs * outputs.detach().cos() * clips.mean()).sum()


def steps(net: nn.Module, share: slice) -> dict[str, list[Any]]:
    """Forward and backward passes over this share of each batch."""
    found: dict[str, list[Any]] = {"outputs": [], "clips": [], "parameters": []}
    for step in range(NUM_STEPS):
        whole = batch(step)
        clips = whole[share].requires_grad_()
        net.zero_grad()
        outputs = net(clips)
        (
            outputs * torch.randn(6, *outputs.shape[1:], generator=torch.Generator().manual_seed(99))[share]
        ).sum().backward()
        found["outputs"].append(outputs.detach())
        found["clips"].append(clips.grad)
        found["parameters"].append([parameter.grad for parameter in net.parameters()])
    return found


def norms(process: Process, *, momentum: float | None) -> dict[str, Any]:
    """Train with shared statistics, and evaluate."""
    net = distributed.synchronize_norms(network(), process)
    if momentum is None:
        for module in net.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.momentum = None
    share = slice(3 * process.rank, 3 * process.rank + 3)
    found: dict[str, Any] = dict(steps(net, share))
    found["buffers"] = dict(net.named_buffers())
    found["evaluated"] = net.eval()(batch(7)[share]).detach()
    return found


def buffers(process: Process) -> dict[str, Any]:
    """Running statistics that differ, averaged and shared."""
    found = {}
    for name in ("average_buffers", "share_buffers"):
        norm = nn.BatchNorm3d(2)
        norm.running_mean = torch.tensor([1.0, 2.0 + 6 * process.rank])
        norm.running_var = torch.tensor([4.0 * process.rank, 1.0])
        norm.num_batches_tracked = torch.tensor(5 + process.rank)
        getattr(process, name)(norm)
        found[name] = dict(norm.named_buffers())
    return found


def main() -> None:
    with distributed.joined("cpu") as process:
        found = {
            "rank": process.rank,
            "world_size": process.world_size,
            "is_first": process.is_first,
            "gathered": process.gather({"from": process.rank}),
            "shared": process.share(["first", "second"][process.rank]),
            "buffers": buffers(process),
            "norms": norms(process, momentum=MOMENTUM),
            "norms of all batches": norms(process, momentum=None),
        }
        process.wait()
        torch.save(found, Path(sys.argv[1]) / f"{process.rank}.pth")
    try:
        with distributed.joined("cpu"):
            raise KeyError("any")
    except KeyError:
        assert not torch.distributed.is_initialized()


if __name__ == "__main__":
    main()
