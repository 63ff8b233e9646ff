"""Shared fixtures: a network small enough to export in seconds."""

from __future__ import annotations

import pytest

from i3d_deploy.network import Network


@pytest.fixture(scope="session")
def tiny_network() -> Network:
    """Every kind of layer of the zoo's networks, in 0.1 M weights."""
    return Network(
        name="tiny",
        num_classes=7,
        width=8,
        temporal_kernels=((3, 1), (3, 1)),
        non_local_mode="dot_product",
        non_local_blocks=((), (1,)),
    )
