"""Networks narrowed to their kind, for tests that look inside."""

from __future__ import annotations

from i3d_deploy.head import I3D
from i3d_deploy.network import NETWORKS, Inception, ResNet
from i3d_deploy.resnet import I3DResNet

RESNETS = sorted(name for name, build in NETWORKS.items() if isinstance(build(400), ResNet))


def resnet(net: I3D) -> I3DResNet:
    """A network that is a ResNet."""
    assert isinstance(net, I3DResNet)
    return net


def resnet_numbers(network: ResNet | Inception) -> ResNet:
    """The numbers of a network that is a ResNet."""
    assert isinstance(network, ResNet)
    return network
