"""motion_tiny on the optical flow of the generated motion data set, the other half of a two-stream pair.

python training/prepare.py motion --output data/motion
python training/prepare.py flow data/motion/train.txt data/motion/val.txt data/motion/test.txt --method dis \\
    --short-side 64 --output data/motion_flow
python training/train.py motion_tiny_flow --work-dir runs/motion_tiny_flow --validate --seed 0
"""

from i3d_deploy.network import ResNet
from i3d_deploy.preprocessing import Pixels, Sampling, Spatial
from i3d_deploy.training.clips import TrainViews, ValidationViews
from i3d_deploy.training.recipe import Batch, Data, Optimizer, Recipe, Schedule, Test

# Those of motion_tiny: both streams of a pair are shown the same clips.
ONE_CLIP = Sampling(clip_len=16, frame_interval=1, num_clips=1)
CENTER = Spatial(short_side=64, crop_size=64, num_crops=1)

recipe = Recipe(
    # Three stages of one bottleneck, as motion_tiny.
    network=ResNet(
        name="motion_tiny_flow",
        num_classes=8,
        in_channels=2,
        width=16,
        temporal_kernels=((3,), (3,), (3,)),
        stem_pool_stride=1,
    ),
    data=Data(
        kind="frames",
        flow_method="dis",
        folder="data/motion_flow",
        train_list="train.txt",
        val_list="val.txt",
        test_list="test.txt",
        labels="labels.txt",
    ),
    # No flip: left and right are classes.
    train=TrainViews(clip_len=16, frame_interval=1, short_side=64, scales=(1.0, 0.875), crop_size=64, flip=0.0),
    validation=ValidationViews(sampling=ONE_CLIP, spatial=CENTER),
    test=Test(sampling=ONE_CLIP, spatial=CENTER),
    # v / 255 * 2 - 1
    pixels=Pixels(color="xy", mean=(127.5, 127.5), std=(127.5, 127.5)),
    batch=Batch(videos=32, lr_reference=32, workers=2),
    epochs=5,
    optimizer=Optimizer(lr=0.05, weight_decay=1e-4, nesterov=True),
    schedule=Schedule(kind="cosine", warmup_epochs=1),
    dropout=0.2,
    validate_every=1,
    checkpoint_every=1,
    keep_every=0,
)
