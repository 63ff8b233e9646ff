"""A small data set of real video files, and a recipe that trains on it in seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from i3d_deploy import motion
from i3d_deploy.network import ResNet
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.training.clips import TrainViews, ValidationViews
from i3d_deploy.training.recipe import Batch, Data, Optimizer, Recipe, Schedule, Test

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def motion_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 videos to train on, 8 to validate on, 8 to test on."""
    folder = tmp_path_factory.mktemp("motion")
    motion.write_dataset(folder, train=16, val=8, test=8, seed=0)
    return folder


@pytest.fixture(scope="session")
def small_recipe(motion_data: Path) -> Recipe:
    """Three epochs of four steps with everything on that a step may depend on: dropout, momentum, an average."""
    one_clip = Sampling(clip_len=8, frame_interval=2, num_clips=1)
    spatial = Spatial(short_side=32, crop_size=32, num_crops=1)
    return Recipe(
        network=ResNet(name="small", num_classes=8, width=8, temporal_kernels=((3,), (1,)), stem_pool_stride=1),
        data=Data(
            kind="video",
            folder=str(motion_data),
            train_list="train.txt",
            val_list="val.txt",
            test_list="test.txt",
            labels="labels.txt",
        ),
        train=TrainViews(clip_len=8, frame_interval=2, short_side=36, crop_size=32, flip=0.0),
        validation=ValidationViews(sampling=one_clip, spatial=spatial),
        test=Test(sampling=one_clip, spatial=spatial),
        batch=Batch(videos=4, lr_reference=4, workers=0),
        epochs=3,
        optimizer=Optimizer(lr=0.05),
        schedule=Schedule(kind="cosine", warmup_epochs=1),
        ema=0.8,
        validate_every=1,
        checkpoint_every=1,
        keep_every=0,
        log_every=2,
    )


@pytest.fixture
def recipe_file(small_recipe: Recipe, tmp_path: Path) -> Path:
    """The small recipe as a file for training/train.py."""
    path = tmp_path / "small.json"
    path.write_text(small_recipe.to_json())
    return path


@pytest.fixture
def run_script() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script of the training folder as a user does, on one thread."""

    def run(script: str, *arguments: str | Path, processes: int = 1) -> subprocess.CompletedProcess[str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *(launcher if processes > 1 else []), ROOT / "training" / script, *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return run
