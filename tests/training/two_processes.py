"""What two processes tell each other, for torchrun; each writes what it got to ``FOLDER/RANK.pth``.

Usage: two_processes.py FOLDER MOTION_DATA
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from i3d_deploy import lists
from i3d_deploy.lists import Annotation
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.training import distributed
from i3d_deploy.training.clips import ValidationViews
from i3d_deploy.training.distributed import Process
from i3d_deploy.training.validation import validate

NUM_STEPS = 3


def network() -> nn.Module:
    """Normalisations at the top and within, with seeded weights of their own."""
    torch.manual_seed(1)
    inner = nn.Sequential(nn.Conv3d(4, 5, 1, bias=False), nn.BatchNorm3d(5, eps=1e-3, momentum=0.3))
    net = nn.Sequential(nn.Conv3d(3, 4, (1, 3, 3)), nn.BatchNorm3d(4), nn.ReLU(), inner)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    return net


def batch(step: int) -> Tensor:
    """(6, 3, T, H, W) of a step, for both processes together; the mean is not zero, nor the same in both halves."""
    pixels = torch.randn(6, 3, 2, 5, 6, generator=torch.Generator().manual_seed(step))
    return pixels + torch.arange(6.0).view(6, 1, 1, 1, 1)


def steps(net: nn.Module, share: slice) -> dict[str, list[Any]]:
    """Forward and backward passes over this share of each batch."""
    found: dict[str, list[Any]] = {"outputs": [], "clips": [], "parameters": []}
    for step in range(NUM_STEPS):
        clips = batch(step)[share].to(next(net.parameters()).dtype).requires_grad_()
        net.zero_grad()
        outputs = net(clips)
        # Some gradient that is another one everywhere.
        arriving = torch.randn(6, *outputs.shape[1:], generator=torch.Generator().manual_seed(100 + step))[share]
        outputs.backward(arriving.to(outputs.dtype))
        found["outputs"].append(outputs.detach())
        found["clips"].append(clips.grad)
        found["parameters"].append([parameter.grad for parameter in net.parameters()])
    return found


def trained(net: nn.Module, share: slice, *, is_cumulative: bool) -> dict[str, Any]:
    """Train a network and evaluate it.

    Args:
        net: The network.
        share: Which videos of each batch.
        is_cumulative: Whether running statistics are the mean over all batches, as ``update_bn`` asks for.
    """
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d) and is_cumulative:
            module.momentum = None
    found: dict[str, Any] = dict(steps(net, share))
    found["buffers"] = dict(net.named_buffers())
    found["evaluated"] = net.eval()(batch(7)[share].to(next(net.parameters()).dtype)).detach()
    return found


def norms(process: Process, *, is_cumulative: bool) -> dict[str, Any]:
    """This process's half of a training with shared statistics."""
    net = distributed.synchronize_norms(network(), process)
    return trained(net, slice(3 * process.rank, 3 * process.rank + 3), is_cumulative=is_cumulative)


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


class Colors(nn.Module):
    """A network that tells videos apart by their mean colour."""

    def forward(self, views: Tensor) -> Tensor:
        """Map (N, T, H, W, 3) uint8 to logits (N, 8)."""
        color = views.float().mean((1, 2, 3))
        return color @ torch.randn(3, 8, generator=torch.Generator().manual_seed(4))


def validated(process: Process, data: Path) -> dict[str, Any]:
    """The validation of nine videos, of which two cannot be read."""
    entries = lists.read(data / "val.txt", kind="video", root=data, num_classes=8)
    lost = [Annotation(name=f"{number}.mp4", source=data / f"lost{number}.mp4", labels=(0,)) for number in range(2)]
    spec = ValidationViews(
        sampling=Sampling(clip_len=4, frame_interval=1, num_clips=1),
        spatial=Spatial(short_side=32, crop_size=32, num_crops=1),
    )
    mixed = [entries[0], lost[0], *entries[1:5], lost[1], *entries[5:7]]
    options: dict[str, Any] = {"averaging": "probabilities", "multi_class": False, "max_failed": 0.5}
    options |= {"batch": 2, "workers": 0}
    return asdict(validate(Colors(), mixed, spec, **options, process=process))


def everything(process: Process, data: Path) -> dict[str, Any]:
    return {
        "rank": process.rank,
        "world_size": process.world_size,
        "is_first": process.is_first,
        "gathered": process.gather({"from": process.rank}),
        "shared": process.share(["first", "second"][process.rank]),
        "buffers": buffers(process),
        "norms": norms(process, is_cumulative=False),
        "cumulative norms": norms(process, is_cumulative=True),
        "validated": validated(process, data),
    }


def main() -> None:
    folder, data = map(Path, sys.argv[1:])
    # Joined once only: a second group would meet the addresses of the first one in torchrun's store.
    try:
        with distributed.joined("cpu") as process:
            torch.save(everything(process, data), folder / f"{process.rank}.pth")
            process.wait()
            raise KeyError("any")
    except KeyError:
        # The group is left when the block raises as well.
        assert not torch.distributed.is_initialized()


if __name__ == "__main__":
    main()
