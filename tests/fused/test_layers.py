"""The layers of a network are written down as they are, without running it."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch

from i3d_deploy import model
from i3d_deploy.fused.layers import META, Layer, Placed, Recording
from i3d_deploy.fused.networks import FusedNetwork
from i3d_deploy.fused.stacking import of_views
from i3d_deploy.fused.tiled import Tiled
from i3d_deploy.network import ResNet
from i3d_deploy.preprocessing import Pixels
from tests.narrowed import small

VIEWS = 2


def recorded(*, has_eight_bits: bool = False) -> Recording:
    """Of a network of a stem and two bottlenecks, for views of 8x32x32."""
    net = model.build(ResNet(name="small", num_classes=5, width=16, temporal_kernels=((3,), (1,))))
    fused = FusedNetwork(net, Pixels(), dtype=torch.float16, device=META, has_eight_bits=has_eight_bits)
    recording = Recording(torch.float16)
    fused.features(recording, of_views(torch.empty((VIEWS, 8, 32, 32, 3), dtype=torch.uint8, device=META)))
    return recording


def test_every_layer_of_a_network_is_recorded() -> None:
    recording = recorded()
    assert Counter({str(layer): times for layer, times in recording.layers.items()}) == {
        "1x7x7/1x2x2 2x32x32x16 -> 16": 1,  # 5 frames side by side, every fourth of 8
        "1x3x3/1x2x2 2x16x16x16 max pool": 1,
        "1x1x1 2x8x8x16 -> 64": 1,
        "3x1x1 2x8x8x16 -> 16": 1,
        "1x3x3 2x8x8x16 -> 16": 1,
        "1x1x1 2x8x8x16 -> 64 + shortcut": 1,
        "2x1x1/2x1x1 2x8x8x64 max pool": 1,
        "1x1x1/1x2x2 1x8x8x64 -> 128": 1,
        "1x1x1 1x8x8x64 -> 32": 1,
        "1x3x3/1x2x2 1x8x8x32 -> 32": 1,
        "1x1x1 1x4x4x32 -> 128 + shortcut": 1,
    }
    (stacked,) = recording.stacked
    assert stacked[0].out_shape(stacked[1]) == (VIEWS, 2, 32, 32, 16)


def test_layers_of_one_kind_are_counted() -> None:
    net = model.build(ResNet(name="small", num_classes=5, width=16, temporal_kernels=((1, 1, 1), (1,))))
    recording = Recording(torch.float16)
    fused = FusedNetwork(net, Pixels(), dtype=torch.float16, device=META)
    fused.features(recording, of_views(torch.empty((VIEWS, 8, 32, 32, 3), dtype=torch.uint8, device=META)))
    times = {str(layer): times for layer, times in recording.layers.items()}
    assert times["1x3x3 2x8x8x16 -> 16"] == 3
    assert times["1x1x1 2x8x8x64 -> 16"] == 2


def test_slices_are_recorded_where_they_lie() -> None:
    net = model.build(small("i3d_inception_rgb", 7))
    recording = Recording(torch.float16)
    fused = FusedNetwork(net, Pixels(), dtype=torch.float16, device=META)
    fused.features(recording, of_views(torch.empty((1, 16, 32, 32, 3), dtype=torch.uint8, device=META)))
    cubes = [layer for layer in recording.layers if layer.window.kernel == (3, 3, 3) and str(layer).endswith("sliced")]
    # Both branches of a block read 16 channels of 32, and write 5 or 4 channels of 4 + 5 + 4 + 3 in all.
    assert {(layer.x, layer.out.sizes[-1], layer.out.pixel) for layer in cubes if layer.x.sizes[1] == 8} == {
        (Placed(sizes=(1, 8, 4, 4, 16), pixel=32), 5, 16),
        (Placed(sizes=(1, 8, 4, 4, 16), pixel=32), 4, 16),
    }


@pytest.mark.parametrize("has_eight_bits", [False, True], ids=["fp16", "fp8"])
def test_layers_survive_json(has_eight_bits: bool) -> None:
    layers = [*recorded(has_eight_bits=has_eight_bits).layers]
    assert any(layer.dtype == torch.float8_e4m3fn for layer in layers) == has_eight_bits
    again = [Layer.from_json(json.loads(json.dumps(layer.to_json()))) for layer in layers]
    assert again == layers


def test_work_and_bytes_are_counted() -> None:
    layers = {str(layer): layer for layer in recorded().layers}
    convolution = layers["1x1x1 2x8x8x16 -> 64 + shortcut"]
    positions = VIEWS * 2 * 8 * 8
    assert convolution.macs == positions * 16 * 64
    assert convolution.moved_bytes == 2 * (positions * (16 + 64 + 64) + 16 * 64)
    # Two tiles of 128 rows and one of 64 columns, each one step of 16 channels.
    assert convolution.read_bytes(Tiled(128, 64)) == 2 * (128 + 64) * 16 * 2
    pool = layers["2x1x1/2x1x1 2x8x8x64 max pool"]
    assert (pool.macs, pool.read_bytes(Tiled(128, 64))) == (0, 0)
    assert pool.moved_bytes == 2 * 64 * (positions + positions // 2)


def test_tiles_fit_the_bytes_of_a_step() -> None:
    layers = [layer for layer in recorded(has_eight_bits=True).layers if layer.tiles]
    found = {(layer.dtype, tile.depth) for layer in layers for tile in layer.tiles}
    assert found == {(torch.float16, 64), (torch.float8_e4m3fn, 128)}
