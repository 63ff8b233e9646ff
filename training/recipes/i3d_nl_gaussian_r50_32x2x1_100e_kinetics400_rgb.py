r"""I3D ResNet-50 with five gaussian non-local blocks: the zoo has 73.37 / 91.26 % (short side 256).

    torchrun --nproc-per-node 8 training/train.py i3d_nl_gaussian_r50_32x2x1_100e_kinetics400_rgb \
        --work-dir runs/i3d_nl_gaussian_r50_32x2x1_100e_kinetics400_rgb --init resnet50-0676ba61.pth --validate
"""

from i3d_deploy.network import i3d_r50_nl_gaussian
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.training.clips import TrainViews, ValidationViews
from i3d_deploy.training.recipe import Batch, Data, Optimizer, Recipe, Schedule, Test

recipe = Recipe(
    network=i3d_r50_nl_gaussian(num_classes=400),
    data=Data(
        kind="frames",
        folder="data/kinetics400",
        train_list="kinetics400_train_list_rawframes.txt",
        val_list="kinetics400_val_list_rawframes.txt",
        test_list="kinetics400_val_list_rawframes.txt",
        train_root="rawframes_train",
        val_root="rawframes_val",
        test_root="rawframes_val",
        labels="kinetics400",
    ),
    train=TrainViews(clip_len=32, frame_interval=2, short_side=256, scales=(1.0, 0.8), crop_size=224, flip=0.5),
    validation=ValidationViews(
        sampling=Sampling(clip_len=32, frame_interval=2, num_clips=1),
        spatial=Spatial(short_side=256, crop_size=224, num_crops=1),
    ),
    test=Test(
        sampling=Sampling(clip_len=32, frame_interval=2, num_clips=10),
        spatial=Spatial(short_side=256, crop_size=256, num_crops=3),
        averaging="probabilities",
    ),
    # 8 videos on each of 32 GPUs in the zoo; 0.01 is for 64 videos a step.
    batch=Batch(videos=8, lr_reference=64),
    epochs=100,
    optimizer=Optimizer(kind="sgd", lr=0.01, momentum=0.9, weight_decay=1e-4, clip_norm=40.0),
    schedule=Schedule(kind="step", milestones=(40, 80), gamma=0.1),
)
