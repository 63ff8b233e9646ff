r"""The RGB stream of the original I3D on video files of Kinetics-400, by the schedule of its authors.

    torchrun --nproc-per-node 8 training/train.py i3d_inception_rgb_64x1x1_kinetics400 --set batch.accumulate=8 \
        --work-dir runs/i3d_inception_rgb --validate

They began with ImageNet weights of a 2D Inception-V1, inflated. Here the network begins from nothing, or from the
weights of pytorch-i3d or kinetics-i3d: --init rgb_imagenet.pt. Not run by this project: neither Kinetics nor these
weights were at hand.

Source: Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750, and the schedule that its authors published.
"""

from i3d_deploy.network import i3d_inception_rgb
from i3d_deploy.preprocessing import Pixels, Sampling, Spatial
from i3d_deploy.training.clips import TrainViews, ValidationViews
from i3d_deploy.training.recipe import Batch, Data, Optimizer, Recipe, Schedule, Test

recipe = Recipe(
    network=i3d_inception_rgb(num_classes=400),
    data=Data(
        kind="video",
        folder="data/kinetics400",
        train_list="kinetics400_train_list_videos.txt",
        val_list="kinetics400_val_list_videos.txt",
        test_list="kinetics400_val_list_videos.txt",
        train_root="videos_train",
        val_root="videos_val",
        test_root="videos_val",
        labels="kinetics400",
    ),
    # 224x224 anywhere in frames whose short side is 256.
    train=TrainViews(
        clip_len=64, frame_interval=1, frames_per_second=25, short_side=256, crop="random", crop_size=224, flip=0.5
    ),
    # The middle of the video, which is quick; the test takes all of it.
    validation=ValidationViews(
        sampling=Sampling(clip_len=64, frame_interval=1, num_clips=1, frames_per_second=25),
        spatial=Spatial(short_side=256, crop_size=224, num_crops=1),
    ),
    test=Test(
        sampling=Sampling(
            scheme="whole", clip_len=64, frame_interval=1, num_clips=1, min_clip_len=9, frames_per_second=25
        ),
        spatial=Spatial(short_side=256, crop_size=224, num_crops=1),
        averaging="logits",
    ),
    # v / 255 * 2 - 1
    pixels=Pixels(color="rgb", mean=(127.5,) * 3, std=(127.5,) * 3),
    # 6 videos on each of 64 GPUs, or of 8 GPUs with 8 passes a step: 384, which the rates are for.
    batch=Batch(videos=6, lr_reference=384),
    # Of 384 videos each: about 180 times through the 240 000 videos of Kinetics-400, 625 steps each time.
    steps=115_000,
    optimizer=Optimizer(kind="sgd", lr=0.1, momentum=0.9, weight_decay=1e-7, clip_norm=None),
    # 0.1, then 0.01 and 0.001.
    schedule=Schedule(kind="table", table=((0, 1), (97_000, 0.1), (108_000, 0.01))),
)
