"""The fused networks answer as the networks that they are made from."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from i3d_deploy import model, network
from i3d_deploy.errors import InputError
from i3d_deploy.fused.convolution import EIGHT_BITS, Convolution
from i3d_deploy.fused.networks import FusedNetwork
from i3d_deploy.fused.plain import PlainSteps
from i3d_deploy.fused.stacking import Source, of_views
from i3d_deploy.head import I3D
from i3d_deploy.preprocessing import Pixels, normalize
from tests.narrowed import DISTINCT, small

CPU = torch.device("cpu")
FLOW = Pixels(color="xy", mean=(128.0, 128.0), std=(50.0, 60.0))
NAMES = sorted({*DISTINCT, "i3d_inception_flow"})


@functools.cache
def net_of(name: str) -> I3D:
    """A narrowed network with random weights and statistics, in float64."""
    net = model.build(small(name, 7))
    model.randomize(net, seed=1)
    return net.double()


@functools.cache
def pixels_of(name: str) -> Pixels:
    return FLOW if net_of(name).network.in_channels == 2 else Pixels()


@functools.cache
def views_of(name: str) -> np.ndarray:
    """Four views; of an Inception, whose padding depends on it, of odd sizes."""
    frames, side = (17, 33) if "inception" in name else (16, 32)
    shape = (4, frames, side, side, net_of(name).network.in_channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def expected(name: str) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = net_of(name)(torch.from_numpy(normalize(views_of(name), pixels_of(name))).double())
    return logits


def fused(name: str, dtype: torch.dtype = torch.float64) -> FusedNetwork:
    return FusedNetwork(net_of(name), pixels_of(name), dtype=dtype, device=CPU)


def source_of(name: str) -> Source:
    return of_views(torch.from_numpy(views_of(name)))


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_network(name: str) -> None:
    with torch.inference_mode():
        logits = fused(name).logits(PlainSteps(), source_of(name))
    torch.testing.assert_close(logits, expected(name), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["i3d_r50", "i3d_r50_nl_gaussian", "i3d_inception_rgb"])
def test_groups_of_views_change_nothing(name: str) -> None:
    net = fused(name)
    groups = [1, 2, 4][: net.early_parts]
    with torch.inference_mode():
        logits = net.logits(PlainSteps(), source_of(name), groups=groups)
    torch.testing.assert_close(logits, expected(name), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["i3d_r50", "i3d_inception_rgb"])
def test_feature_maps_are_those_of_the_network(name: str) -> None:
    with torch.inference_mode():
        maps = fused(name).features(PlainSteps(), source_of(name))
        right = net_of(name).features(torch.from_numpy(normalize(views_of(name), pixels_of(name))).double())
    torch.testing.assert_close(maps.permute(0, 4, 1, 2, 3), right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_half_of_the_numbers_bits_change_little(name: str) -> None:
    with torch.inference_mode():
        logits = fused(name, torch.bfloat16).logits(PlainSteps(), source_of(name))
    right = expected(name)
    assert (logits.double() - right).abs().max() < 0.16 * max(1.0, right.std().item())


def test_a_pool_that_drops_frames_halves_the_stem() -> None:
    stem = fused("i3d_r50").stacking
    assert stem.out_shape(source_of("i3d_r50")) == (4, 4, 32, 32, 16)  # every fourth of 16 frames, not every second


def test_another_network_is_an_error() -> None:
    with pytest.raises(InputError, match="I3D is neither an I3DResNet nor an I3DInception"):
        FusedNetwork(I3D(network.i3d_r50()), Pixels(), dtype=torch.float32, device=CPU)


@pytest.mark.parametrize("name", ["i3d_r50", "i3d_inception_rgb"])
def test_eight_bits_inside_of_blocks_change_little(name: str) -> None:
    net = FusedNetwork(net_of(name), pixels_of(name), dtype=torch.float16, device=CPU, has_eight_bits=True)
    with torch.inference_mode():
        logits = net.logits(PlainSteps(), source_of(name)).double()
    right = expected(name)
    spread = right.std().item()
    assert (logits - right).abs().max().item() < 0.25 * spread
    assert functional.cosine_similarity(logits, right).min().item() > 0.99


def convolved_in_eight_bits(name: str) -> list[Convolution]:
    """Convolutions whose inputs and weights have eight bits."""
    found = []

    class Watching(PlainSteps):
        def convolve(
            self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None = None, out: Tensor | None = None
        ) -> Tensor:
            assert (x.dtype == EIGHT_BITS) == (convolution.weight.dtype == EIGHT_BITS)
            if convolution.is_in_eight_bits:
                found.append(convolution)
                assert x.float().abs().max() <= 448
            return super().convolve(convolution, x, shortcut=shortcut, out=out)

    net = FusedNetwork(net_of(name), pixels_of(name), dtype=torch.float16, device=CPU, has_eight_bits=True)
    with torch.inference_mode():
        net.logits(Watching(), source_of(name))
    return found


def test_the_large_products_have_eight_bits() -> None:
    names = [convolution.name for convolution in convolved_in_eight_bits("i3d_r50")]
    assert len(names) == 2 * (3 + 4 + 6 + 3)
    assert all(name.endswith((".conv2", ".conv3")) for name in names)
    names = [convolution.name for convolution in convolved_in_eight_bits("i3d_inception_rgb")]
    assert names[0] == "conv2c"
    assert all(name.endswith((".b1b", ".b2b")) for name in names[1:])


def test_weights_of_eight_bits_use_the_whole_range() -> None:
    for convolution in convolved_in_eight_bits("i3d_r50"):
        largest = convolution.weight.float().flatten(1).abs().amax(1)
        assert (largest == 448).all()
