"""Shared fixtures: a network small enough to export in seconds, and its exports."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported: its idle threads sleep, where another library or process of a test computes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from i3d_deploy import export, generated, model
from i3d_deploy.card import Card, Provenance
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.network import ResNet
from i3d_deploy.preprocessing import Sampling, Spatial
from tests.gpu import pytest_collection_modifyitems as pytest_collection_modifyitems

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for tests that import onnxruntime themselves


@pytest.fixture(scope="session")
def tiny_network() -> ResNet:
    """Every kind of layer of the zoo's networks, in 0.1 M weights."""
    return ResNet(
        name="tiny",
        num_classes=7,
        width=8,
        temporal_kernels=((3, 1), (3, 1)),
        non_local_mode="dot_product",
        non_local_blocks=((), (1,)),
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_network: ResNet) -> Checkpoint:
    """The tiny network with seeded weights and a card of small views."""
    net = model.build(tiny_network)
    model.randomize(net, seed=3)
    card = Card(
        network=tiny_network,
        label_set="custom",
        labels=("run", "jump", 'say "hi"', "<wave> & go", "größer", "f", "g"),
        sampling=Sampling(clip_len=8, frame_interval=2, num_clips=2),
        spatial=Spatial(short_side=32, crop_size=32),
        provenance=Provenance(origin="random weights, seed 3"),
    )
    return Checkpoint(model=net, card=card)


@pytest.fixture(scope="session")
def tiny_exports(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.safetensors, tiny.onnx and tiny.xml, proven on the generated clip."""
    folder = tmp_path_factory.mktemp("exports")
    exported = export.export(tiny_checkpoint, targets=["safetensors", "onnx", "openvino"], output=folder, name="tiny")
    assert [entry.card.parity[0].status for entry in exported] == ["passed"] * 3
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated video of 40 frames."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    generated.write_clip(path, num_frames=40, height=48, width=64)
    return path


@pytest.fixture(scope="session")
def clip20(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 20 frames of 48x32."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    generated.write_clip(path, num_frames=20, height=32, width=48)
    return path
