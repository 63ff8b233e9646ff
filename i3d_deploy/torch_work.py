"""How much a PyTorch network multiplies, for files that hold weights and no graph.

It counts what :mod:`i3d_deploy.work` counts, from the operators that PyTorch runs, on tensors without data.
"""

from __future__ import annotations

import math
from typing import Any

from i3d_deploy import model
from i3d_deploy.errors import MissingExtraError
from i3d_deploy.measurements import Work
from i3d_deploy.network import Inception, ResNet, TwoStream

try:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    from i3d_deploy.resnet import I3DResNet
except ImportError as error:
    raise MissingExtraError("torch", extra="export", cause=error) from error

_FACTORS = {
    torch.ops.aten.convolution.default: (0, 1),
    torch.ops.aten.mm.default: (0, 1),
    torch.ops.aten.bmm.default: (0, 1),
    torch.ops.aten.addmm.default: (1, 2),
    torch.ops.aten.baddbmm.default: (1, 2),
}
"""Operators that are counted, and which of their arguments they multiply."""


def work_of_network(
    network: ResNet | Inception | TwoStream,
    view_shape: tuple[int, int, int, int],
    *,
    skips_dropped_frames: bool = False,
) -> Work:
    """Count the work of one view.

    Args:
        network: Its numbers.
        view_shape: (T, H, W, 3), as the card has it.
        skips_dropped_frames: Whether a stem leaves out the frames that the pool after it would drop.

    Returns:
        What the network exported to ONNX has on its card.
    """
    frames, height, width, channels = view_shape
    if isinstance(network, TwoStream):
        parts = [
            work_of_network(
                stream, (frames, height, width, stream.in_channels), skips_dropped_frames=skips_dropped_frames
            )
            for stream in (network.rgb, network.flow)
        ]
        return Work(macs=sum(part.macs for part in parts), elements=sum(part.elements for part in parts))
    # Not on the "meta" device, of which autocast cannot be asked whether it is on.
    with FakeTensorMode(), torch.no_grad():
        net, views = model.build(network), torch.empty(1, channels, frames, height, width)
        if skips_dropped_frames and isinstance(net, I3DResNet) and isinstance(network, ResNet):
            stride = network.stem_stride * network.stem_pool_stride
            net.conv1.stride, net.maxpool.stride = (stride, 2, 2), (1, 2, 2)
        with _Counter() as counter:
            net(views)
    return Work(macs=counter.macs, elements=counter.elements)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the work of every operator that runs while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = 0
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _FACTORS:
            left, right = (args[position] for position in _FACTORS[func])
            is_convolution = func is torch.ops.aten.convolution.default
            self.macs += result.numel() * (math.prod(right.shape[1:]) if is_convolution else left.shape[-1])
            self.elements += left.numel() + right.numel() + result.numel()
        return result
