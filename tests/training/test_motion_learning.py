"""The training core as a whole: a network with temporal kernels learns the motion data set, one without cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from i3d_deploy import artifact, motion

ROOT = Path(__file__).parents[2]
RECIPES = ("motion_tiny", "motion_tiny_control")
# At 48 pixels and on a third of the videos, so that it takes a minute; the README has the figures of the whole.
SMALLER = [
    "epochs=10",
    "validate_every=10",
    *(f"{part}.short_side=48" for part in ("train", "validation.spatial", "test.spatial")),
    *(f"{part}.crop_size=48" for part in ("train", "validation.spatial", "test.spatial")),
]


@pytest.fixture(scope="module")
def top1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Validation accuracy of the recipe and of its control in percent, trained side by side on a thread each."""
    folder = tmp_path_factory.mktemp("learning")
    motion.write_dataset(folder / "motion", train=560, val=160, test=1)
    settings = [word for setting in [f"data.folder={folder / 'motion'}", *SMALLER] for word in ("--set", setting)]
    script = [sys.executable, str(ROOT / "training" / "train.py")]
    runs = [
        subprocess.Popen(
            [*script, name, "--work-dir", str(folder / name), "--validate", "--seed", "0", *settings],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in RECIPES
    ]
    for run in runs:
        _, said = run.communicate()
        assert run.returncode == 0, said
    found = {}
    for name in RECIPES:
        (accuracy,) = artifact.read_card(folder / name / "model.safetensors").accuracy
        assert accuracy.top1 is not None
        found[name] = accuracy.top1
    return found


def test_a_network_with_temporal_kernels_learns_motion(top1: dict[str, float]) -> None:
    assert top1["motion_tiny"] >= 85


def test_a_network_without_them_cannot(top1: dict[str, float]) -> None:
    # Half is what seeing every frame and no order gives; 160 videos are within 4 % of it.
    assert top1["motion_tiny_control"] <= 55
