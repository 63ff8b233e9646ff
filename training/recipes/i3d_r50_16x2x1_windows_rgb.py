"""I3D ResNet-50 at a quarter of the pixels on windows of a few long videos, each of a class of its own.

    python training/prepare.py windows arm_wrestling.mp4 filling_eyebrows.avi flipping_pancake.mkv \\
        --window 32 --stride 8 --short-side 128 --output data/windows
    python training/train.py i3d_r50_16x2x1_windows_rgb --work-dir runs/windows --validate --seed 0

For N other videos --set network.num_classes=N, and with a Kinetics checkpoint --init FILE.
"""

from i3d_deploy.network import i3d_r50
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.training.clips import TrainViews, ValidationViews
from i3d_deploy.training.recipe import Batch, Data, Norm, Optimizer, Recipe, Schedule, Test

# A clip of 16x2 takes its frames from a window of 32.
ONE_CLIP = Sampling(clip_len=16, frame_interval=2, num_clips=1)

recipe = Recipe(
    network=i3d_r50(num_classes=3),
    data=Data(
        kind="frames",
        folder="data/windows",
        train_list="train.txt",
        val_list="test.txt",
        test_list="test.txt",
        labels="labels.txt",
        with_offset=True,
    ),
    train=TrainViews(clip_len=16, frame_interval=2, short_side=128, scales=(1.0, 0.8), crop_size=112, flip=0.5),
    validation=ValidationViews(
        sampling=ONE_CLIP,
        spatial=Spatial(short_side=128, crop_size=112, num_crops=1),
    ),
    test=Test(
        sampling=ONE_CLIP,
        spatial=Spatial(short_side=128, crop_size=128, num_crops=3),
    ),
    batch=Batch(videos=4, lr_reference=4),
    epochs=12,
    # From nothing on some dozens of windows: SGD with the zoo's rate does not get far in so few steps.
    optimizer=Optimizer(kind="adamw", lr=3e-4, weight_decay=0.01),
    schedule=Schedule(kind="cosine", warmup_epochs=1),
    # So few steps leave the running statistics behind the weights.
    norm=Norm(precise_batches=12),
    validate_every=3,
    checkpoint_every=3,
    keep_every=0,
    log_every=6,
)
