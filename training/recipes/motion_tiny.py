"""A small I3D on the generated motion data set: the test of the whole core, in minutes on two cores.

python training/prepare.py motion --output data/motion
python training/train.py motion_tiny --work-dir runs/motion_tiny --validate --seed 0
"""

from i3d_deploy.network import ResNet
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.training.clips import TrainViews, ValidationViews
from i3d_deploy.training.recipe import Batch, Data, Optimizer, Recipe, Schedule, Test

ONE_CLIP = Sampling(clip_len=16, frame_interval=1, num_clips=1)
CENTER = Spatial(short_side=64, crop_size=64, num_crops=1)

recipe = Recipe(
    # 0.16 M weights: three stages of one bottleneck.
    network=ResNet(
        name="motion_tiny",
        num_classes=8,
        width=16,
        temporal_kernels=((3,), (3,), (3,)),
        stem_pool_stride=1,
    ),
    data=Data(
        kind="video",
        folder="data/motion",
        train_list="train.txt",
        val_list="val.txt",
        test_list="test.txt",
        labels="labels.txt",
    ),
    # No flip: left and right are classes.
    train=TrainViews(clip_len=16, frame_interval=1, short_side=64, scales=(1.0, 0.875), crop_size=64, flip=0.0),
    validation=ValidationViews(sampling=ONE_CLIP, spatial=CENTER),
    test=Test(sampling=ONE_CLIP, spatial=CENTER),
    batch=Batch(videos=32, lr_reference=32, workers=2),
    epochs=5,
    optimizer=Optimizer(lr=0.05, weight_decay=1e-4, nesterov=True),
    schedule=Schedule(kind="cosine", warmup_epochs=1),
    dropout=0.2,
    validate_every=1,
    checkpoint_every=1,
    keep_every=0,
)
