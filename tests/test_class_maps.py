"""Logits taken apart into positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from i3d_deploy import model
from i3d_deploy.class_maps import Head
from i3d_deploy.head import I3D
from i3d_deploy.network import Window
from tests import narrowed

SIZES = [
    ("i3d_r50", None, (16, 49, 65)),
    ("i3d_r50_heavy", None, (8, 33, 40)),
    ("i3d_r50_nl_embedded_gaussian", None, (16, 64, 96)),
    ("i3d_r50_nl_dot_product", None, (16, 64, 70)),
    ("i3d_r50_8x8_pytorchvideo", (4, 1, 1), (8, 32, 32)),
    ("i3d_r50_8x8_pytorchvideo", (2, 2, 3), (10, 97, 129)),
    ("i3d_inception_rgb", (1, 1, 1), (9, 33, 64)),
    ("i3d_inception_rgb", (2, 2, 2), (31, 70, 97)),
    ("i3d_inception_flow", (2, 1, 2), (24, 32, 65)),
]
"""Networks, windows that fit once or several times, and views."""


def net_of(name: str, window: Window | None) -> I3D:
    """A small network with seeded weights."""
    net = model.build(narrowed.small(name, 5).model_copy(update={"head_window": window}))
    model.randomize(net, seed=1)
    return net


def head_of(net: I3D) -> Head:
    """Its end."""
    weights, biases = (tensor.detach().numpy() for tensor in (net.fc.weight, net.fc.bias))
    return Head(weights=weights, biases=biases, window=net.network.head_window, positions=net.network.positions)


def maps_and_logits(net: I3D, size: tuple[int, int, int]) -> tuple[torch.Tensor, np.ndarray]:
    """What the network makes of two seeded views."""
    views = torch.randn(2, net.network.in_channels, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        maps = net.features(views)
        return maps, net.classify(maps).numpy()


@pytest.mark.parametrize(("name", "window", "size"), SIZES)
def test_evidence_and_bias_are_the_logit(name: str, window: Window | None, size: tuple[int, int, int]) -> None:
    net = net_of(name, window)
    maps, logits = maps_and_logits(net, size)
    head = head_of(net)
    class_maps = head.class_maps(maps.numpy())
    assert class_maps.shape == (2, 5, *maps.shape[2:])
    evidence = class_maps * head.shares(maps.shape[2:])
    # Sums of float32 products in another order.
    atol = 1e-6 * np.abs(logits).max() + 1e-7
    np.testing.assert_allclose(evidence.sum((2, 3, 4)) + head.biases, logits, rtol=1e-5, atol=atol)
    np.testing.assert_allclose(head.logits(class_maps), logits, rtol=1e-5, atol=atol)
    np.testing.assert_allclose(head.step_logits(class_maps).mean(1), logits, rtol=1e-5, atol=atol)
    assert head.is_linear(maps.shape[2:])


def test_averaged_probabilities_give_the_networks_logits_and_evidence_for_the_mean_of_the_places() -> None:
    net = net_of("i3d_r50_8x8_slowfast", (4, 1, 2))
    maps, logits = maps_and_logits(net, (10, 64, 96))
    head = head_of(net)
    class_maps = head.class_maps(maps.numpy())
    assert not head.is_linear(maps.shape[2:])
    np.testing.assert_allclose(head.logits(class_maps), logits, rtol=1e-5, atol=1e-6)
    with torch.inference_mode():
        places = net.fc(net.windows(maps).flatten(2).transpose(1, 2)).mean(1).numpy()
    evidence = class_maps * head.shares(maps.shape[2:])
    np.testing.assert_allclose(evidence.sum((2, 3, 4)) + head.biases, places, rtol=1e-5, atol=1e-6)
    assert np.abs(places - logits).max() > 0.1


def test_averaged_probabilities_of_one_place_are_exact() -> None:
    net = net_of("i3d_r50_8x8_slowfast", (4, 1, 1))
    maps, logits = maps_and_logits(net, (8, 32, 32))
    head = head_of(net)
    evidence = head.class_maps(maps.numpy()) * head.shares(maps.shape[2:])
    assert head.is_linear(maps.shape[2:])
    normalized = torch.from_numpy(evidence.sum((2, 3, 4)) + head.biases).log_softmax(1).numpy()
    np.testing.assert_allclose(normalized, torch.from_numpy(logits).log_softmax(1).numpy(), rtol=1e-5, atol=1e-6)


def head(window: Window | None) -> Head:
    """Two classes of one channel: the map itself, and the opposite."""
    weights = np.array([[1.0], [-1.0]], np.float32)
    return Head(weights=weights, biases=np.array([0.5, 0], np.float32), window=window, positions="logits")


def test_a_position_counts_by_the_windows_that_cover_it() -> None:
    shares = head((2, 1, 3)).shares((4, 2, 4))
    in_time, in_rows, in_columns = np.array([1, 2, 2, 1]) / 6, np.array([1, 1]) / 2, np.array([1, 2, 2, 1]) / 6
    np.testing.assert_allclose(shares, in_time[:, None, None] * in_rows[:, None] * in_columns)
    np.testing.assert_allclose(head(None).shares((2, 2, 2)), 1 / 8)


def test_steps_are_places_of_the_window_in_time() -> None:
    maps = np.array([1, 2, 6], np.float32).reshape(1, 1, 3, 1, 1)
    two_frames = head((2, 1, 1))
    steps = two_frames.step_logits(two_frames.class_maps(maps))
    np.testing.assert_allclose(steps, [[[2, -1.5], [4.5, -4]]])
    everything = head(None)
    steps = everything.step_logits(everything.class_maps(maps))
    np.testing.assert_allclose(steps, [[[1.5, -1], [2.5, -2], [6.5, -6]]])
