"""Networks narrowed to their kind, for tests that look inside."""

from __future__ import annotations

from i3d_deploy import origins
from i3d_deploy.card import Card, Provenance
from i3d_deploy.head import I3D
from i3d_deploy.network import NETWORKS, Inception, ResNet, TwoStream
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.resnet import I3DResNet

RESNETS = sorted(name for name, build in NETWORKS.items() if isinstance(build(400), ResNet))


DISTINCT = sorted(
    {*NETWORKS} - {"i3d_inception_flow", "i3d_r50_8x8_pytorchvideo", "i3d_r50_8x8_nl_dot_product_slowfast"}
)
"""Others have the same layers as one of these, or a stem of fewer channels."""

SMALL_BLOCK = (4, 3, 5, 2, 4, 3)


def small(name: str, num_classes: int) -> ResNet | Inception:
    """A network of the zoo with few channels and blocks, and a head whose window fits views of 8x32x32."""
    numbers = NETWORKS[name](num_classes)
    if isinstance(numbers, Inception):
        few = {"stem": (4, 4, 6), "mixed": ((SMALL_BLOCK,), (SMALL_BLOCK, SMALL_BLOCK), (SMALL_BLOCK,))}
        return numbers.model_copy(update={**few, "head_window": (1, 1, 1)})
    return numbers.model_copy(update={"width": 4, "head_window": (4, 1, 1) if numbers.head_window else None})


def card_of(numbers: ResNet | Inception, *, frames: int, side: int) -> Card:
    """A card of numbered labels for views of one size, otherwise as the network's origin tests it."""
    parts = origins.usual_conventions(numbers).parts
    sizes = {"sampling": Sampling(clip_len=frames), "spatial": Spatial(short_side=side, crop_size=side)}
    return Card(
        network=numbers,
        label_set="numbered",
        labels=tuple(str(index) for index in range(numbers.num_classes)),
        provenance=Provenance(origin="random weights"),
        **{**parts, **sizes},
    )


def resnet(net: I3D) -> I3DResNet:
    """A network that is a ResNet."""
    assert isinstance(net, I3DResNet)
    return net


def resnet_numbers(network: ResNet | Inception | TwoStream) -> ResNet:
    """The numbers of a network that is a ResNet."""
    assert isinstance(network, ResNet)
    return network
