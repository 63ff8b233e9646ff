"""The contestants of bench/peers answer as our PyTorch network does, through the protocol of a run.

They need the environment that ``make peers`` makes. Expected answers come from the PyTorch runner, which is held
against mmaction2 0.24.1 elsewhere.
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from i3d_deploy import checkpoint
from i3d_deploy.benchmark.workers import Subject, Worker
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import I3DError
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.runners import open_runner

ROOT = Path(__file__).parents[1]
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
FP32_LIMIT = 1e-4
"""Eager and compiled float32 with other orders of summation; logits are of order one."""
BF16_LIMIT = 5e-2
"""bf16 keeps 8 bits of mantissa: 4e-3 per value, some 50 layers deep."""

pytestmark = pytest.mark.skipif(not PEERS_PYTHON.exists(), reason="needs the environment of make peers")


def contestant(name: str, path: Path, *, device: str = "cpu") -> Worker:
    command = (str(PEERS_PYTHON), str(ROOT / "bench/peers/worker.py"), name)
    return Worker(Subject(name=name, path=path, device=device, command=command))


@pytest.fixture(scope="module")
def r50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo's network with seeded weights, for views so small that they take little time."""
    made = checkpoint.random("i3d_r50", num_classes=11)
    card = made.card.model_copy(
        update={"sampling": Sampling(clip_len=16), "spatial": Spatial(short_side=64, crop_size=64)}
    )
    path = tmp_path_factory.mktemp("peers") / "r50.safetensors"
    checkpoint.save(Checkpoint(model=made.model, card=card), path)
    return path


@pytest.fixture(scope="module")
def views(r50: Path) -> NDArray[np.uint8]:
    """Two views of noise."""
    return np.random.default_rng(7).integers(0, 256, (2, 16, 64, 64, 3), dtype=np.uint8)


def answer(worker: Worker, views: NDArray[np.uint8], folder: Path) -> NDArray[np.float32]:
    # A worker keeps the views of a file that it has read.
    source, output = folder / f"{uuid.uuid4()}.npy", folder / "logits.npy"
    np.save(source, views)
    assert worker.opened.card.view_shape == views.shape[1:]
    worker.ask("answer", views_path=str(source), count=len(views), batch=None, output=str(output))
    logits: NDArray[np.float32] = np.load(output)
    return logits


@pytest.mark.parametrize(
    ("name", "package", "batch"),
    [
        ("mmaction2", "mmaction2 1.1.0 with torch", 30),
        ("mmaction2, one view at a time", "mmaction2 1.1.0 with torch", 1),
        ("torch.onnx in ONNX Runtime", "onnxruntime", 1),
        ("OpenVINO default conversion", "openvino", 1),
        ("torch.compile", "torch", 1),
    ],
)
def test_contestants_answer_as_our_network_does(
    name: str, package: str, batch: int, r50: Path, views: NDArray[np.uint8], tmp_path: Path
) -> None:
    with open_runner(r50, device="cpu") as runner:
        expected = runner.infer(views)
    with contestant(name, r50) as worker:
        opened = worker.opened
        logits = answer(worker, views, tmp_path)
    assert opened.is_comparable
    assert opened.preferred_batch == batch
    assert opened.info.backend.startswith(package)
    assert opened.info.precision in ("fp32", "bf16")
    limit = FP32_LIMIT if opened.info.precision == "fp32" else BF16_LIMIT
    assert np.abs(logits - expected).max() < limit
    # Noise is seen much alike; the two views must still not be taken for each other.
    assert np.abs(expected[0] - expected[1]).max() > 2 * FP32_LIMIT


def test_pytorchvideo_has_a_network_of_its_own(r50: Path, tmp_path: Path) -> None:
    # Its head averages over windows of 7x7 positions and 4 frames: a smaller view does not fit.
    made = checkpoint.load(r50)
    card = made.card.model_copy(update={"sampling": Sampling(), "spatial": Spatial(short_side=224, crop_size=224)})
    path = tmp_path / "larger.safetensors"
    checkpoint.save(Checkpoint(model=made.model, card=card), path)
    frames = np.random.default_rng(7).integers(0, 256, (1, 32, 224, 224, 3), dtype=np.uint8)
    changed = frames.copy()
    changed[:, [frame for frame in range(32) if frame % 4]] = 0
    with contestant("pytorchvideo i3d_r50", path) as worker:
        assert not worker.opened.is_comparable
        assert re.search("only its speed", " ".join(worker.opened.notes))
        logits = answer(worker, frames, tmp_path)
        assert logits.shape == (1, 11)
        # Frames 0, 4, ..., 28 are all that it sees.
        np.testing.assert_array_equal(answer(worker, changed, tmp_path), logits)
        changed[:, 28] = 0
        assert np.abs(answer(worker, changed, tmp_path) - logits).max() > 0


def test_mmaction2_runs_the_networks_of_its_zoo_only(tiny_exports: Path) -> None:
    message = r"no configuration of the network tiny: give one of i3d_r50, i3d_r50_heavy,"
    with contestant("mmaction2", tiny_exports / "tiny.safetensors") as worker, pytest.raises(I3DError, match=message):
        _ = worker.opened


@pytest.mark.parametrize("name", ["i3d_r50_heavy", "i3d_r50_nl_embedded_gaussian", "i3d_r50_nl_gaussian"])
def test_mmaction2_runs_every_kind_of_its_networks(name: str, tmp_path: Path) -> None:
    made = checkpoint.random(name, num_classes=5)
    card = made.card.model_copy(
        update={"sampling": Sampling(clip_len=8), "spatial": Spatial(short_side=64, crop_size=64)}
    )
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(Checkpoint(model=made.model, card=card), path)
    views = np.random.default_rng(8).integers(0, 256, (1, 8, 64, 64, 3), dtype=np.uint8)
    with open_runner(path, device="cpu") as runner:
        expected = runner.infer(views)
    with contestant("mmaction2, one view at a time", path) as worker:
        assert np.abs(answer(worker, views, tmp_path) - expected).max() < FP32_LIMIT


@pytest.mark.parametrize("name", ["torch.onnx in ONNX Runtime", "OpenVINO default conversion"])
def test_the_plain_exports_run_on_the_cpu_only(name: str, r50: Path) -> None:
    message = r"on the CPU, not on 'cuda': give auto or cpu"
    with contestant(name, r50, device="cuda") as worker, pytest.raises(I3DError, match=message):
        _ = worker.opened
