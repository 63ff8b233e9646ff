"""Any I3D network from its numbers, with fresh or seeded weights."""

from __future__ import annotations

import math
from typing import overload

import torch

from i3d_deploy.errors import InputError
from i3d_deploy.head import I3D
from i3d_deploy.inception import I3DInception
from i3d_deploy.network import Inception, ResNet, TwoStream
from i3d_deploy.resnet import I3DResNet


@overload
def build(network: ResNet) -> I3DResNet: ...


@overload
def build(network: Inception) -> I3DInception: ...


@overload
def build(network: ResNet | Inception | TwoStream) -> I3D: ...


def build(network: ResNet | Inception | TwoStream) -> I3D:
    """Build a network in eval mode with fresh weights.

    Source of the initialisation:
        mmaction2 0.24.1 ``ResNet3d.init_weights`` and ``NonLocal3d.init_weights`` as they act with ImageNet weights,
        which all zoo checkpoints had: there the last normalisation of a non-local block starts at zero.
    """
    if isinstance(network, TwoStream):
        raise InputError(f"{network.name} is two networks: build each of them")
    net = I3DInception(network) if isinstance(network, Inception) else I3DResNet(network)
    return net.eval()


def randomize(model: I3D, *, seed: int) -> None:
    """Fill a network with seeded random weights whose activations stay of order one, as those of a trained one do.

    For measuring speed and for demonstrations; the answers mean nothing. A tensor's values depend on the seed and the
    order of the entries alone, so two machines get the same network.

    Args:
        model: Filled in place.
        seed: Any integer.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(1.0, 1.5, generator=generator)
            elif tensor.dim() == 1:
                tensor.normal_(1.0 if name.endswith("weight") else 0.0, 0.1, generator=generator)
            else:
                fan_in = math.prod(tensor.shape[1:])
                # Inner products of queries and keys grow with the fourth power of the activations: five blocks in a
                # row would leave every range.
                gain = 0.2 if {"theta", "phi"} & set(name.split(".")) else 1.0
                tensor.normal_(0.0, gain * fan_in**-0.5, generator=generator)
