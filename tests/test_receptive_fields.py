"""Where positions of the last feature maps look."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from i3d_deploy import model
from i3d_deploy.network import NETWORKS, Inception, ResNet
from i3d_deploy.receptive_fields import centers, interpolation
from tests.narrowed import SMALL_BLOCK

RESNET = ResNet(name="r", num_classes=2, width=4, temporal_kernels=((1,), (3,), (1,)))
FEW_STRIDES = RESNET.model_copy(update={"stem_stride": 1, "stem_pool_stride": 1, "temporal_kernels": ((1,), (1,))})
INCEPTION = Inception(name="i", num_classes=2, stem=(2, 2, 2), mixed=((SMALL_BLOCK,),) * 3, head_window=(1, 1, 1))


@pytest.mark.parametrize(
    ("name", "size", "frames", "columns"),
    [
        ("i3d_r50", (32, 256, 256), [2, 10, 18, 26], [0, 32, 64, 96, 128, 160, 192, 224]),
        ("i3d_r50_heavy", (8, 256, 224), [0.5, 2.5, 4.5, 6.5], [0, 32, 64, 96, 128, 160, 192]),
        ("i3d_inception_rgb", (16, 224, 224), [5, 13], [23, 55, 87, 119, 151, 183, 215]),
    ],
)
def test_centers_of_the_zoo_are_those_worked_out_by_hand(
    name: str, size: tuple[int, int, int], frames: list[float], columns: list[float]
) -> None:
    in_time, _, across = centers(NETWORKS[name](400), size)
    assert in_time.tolist() == frames
    assert across.tolist() == columns


@pytest.mark.parametrize(
    ("network", "axis", "size"),
    [
        (RESNET, 0, (61, 9, 9)),
        (RESNET, 2, (8, 9, 97)),
        (FEW_STRIDES, 0, (16, 9, 9)),
        (FEW_STRIDES, 1, (2, 88, 9)),
        (INCEPTION, 0, (120, 2, 2)),
        (INCEPTION, 2, (9, 2, 320)),
        (INCEPTION, 1, (9, 291, 2)),
    ],
)
def test_centers_are_in_the_middle_of_what_positions_see(
    network: ResNet | Inception, axis: int, size: tuple[int, int, int]
) -> None:
    net = model.build(network)
    for module in net.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    middles = 0
    sees = []
    with torch.inference_mode():
        for place in range(size[axis]):
            view = torch.zeros(1, 3, *size)
            view.movedim(2 + axis, 0)[place] = 1
            sees.append(net.features(view).movedim(2 + axis, 0).flatten(1).amax(1) > 0)
    found = centers(network, size)[axis]
    for position, seen in enumerate(torch.stack(sees, 1)):
        first, *_, last = seen.nonzero().flatten().tolist()
        if first > 0 and last < size[axis] - 1:
            assert found[position] == (first + last) / 2
            middles += 1
    assert middles > 0
    assert len(found) == len(torch.stack(sees, 1))


def test_values_change_linearly_between_centers_and_not_beyond() -> None:
    weights = interpolation(np.array([1.0, 3.0]), np.arange(5.0))
    assert weights.tolist() == [[1, 0], [1, 0], [0.5, 0.5], [0, 1], [0, 1]]
    assert interpolation(np.array([2.0]), np.arange(3.0)).tolist() == [[1], [1], [1]]
