r"""The optical flow stream of the original I3D on flow images of Kinetics-400, by the schedule of its authors.

    python training/prepare.py flow data/kinetics400/videos_train --method tvl1 --output data/kinetics400/flow_train
    python training/prepare.py flow data/kinetics400/videos_val --method tvl1 --output data/kinetics400/flow_val
    python training/prepare.py kinetics --train-csv train.csv --val-csv val.csv --kind flow \
        --train-videos data/kinetics400/flow_train --val-videos data/kinetics400/flow_val --output data/kinetics400
    torchrun --nproc-per-node 8 training/train.py i3d_inception_flow_64x1x1_kinetics400 --set batch.accumulate=8 \
        --work-dir runs/i3d_inception_flow --validate

They began with ImageNet weights of a 2D Inception-V1, inflated. Here the network begins from nothing, or from the
weights of pytorch-i3d or kinetics-i3d: --init flow_imagenet.pt. Not run by this project: neither Kinetics nor these
weights were at hand.

Source: Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750, and the schedule that its authors published.
"""

from i3d_deploy.network import i3d_inception_flow
from i3d_deploy.preprocessing import Pixels, Sampling, Spatial
from i3d_deploy.training.clips import TrainViews, ValidationViews
from i3d_deploy.training.recipe import Batch, Data, Optimizer, Recipe, Schedule, Test

recipe = Recipe(
    network=i3d_inception_flow(num_classes=400),
    data=Data(
        kind="frames",
        flow_method="tvl1",
        folder="data/kinetics400",
        train_list="kinetics400_train_list_flow.txt",
        val_list="kinetics400_val_list_flow.txt",
        test_list="kinetics400_val_list_flow.txt",
        train_root="flow_train",
        val_root="flow_val",
        test_root="flow_val",
        labels="kinetics400",
    ),
    # 224x224 anywhere in flow whose short side is 256. Flow images are taken as they are: prepare.py made them at 25 a
    # second.
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
    # v / 255 * 2 - 1: 20 pixels a frame are 1.
    pixels=Pixels(color="xy", mean=(127.5,) * 2, std=(127.5,) * 2),
    # 6 videos on each of 64 GPUs, or of 8 GPUs with 8 passes a step: 384, which the rates are for.
    batch=Batch(videos=6, lr_reference=384),
    # Of 384 videos each: about 250 times through the 240 000 videos of Kinetics-400, 625 steps each time.
    steps=155_000,
    optimizer=Optimizer(kind="sgd", lr=0.1, momentum=0.9, weight_decay=1e-7, clip_norm=None),
    # 0.1, 0.01 and 0.001, and once more from step 115 000 on.
    schedule=Schedule(
        kind="table",
        table=((0, 1), (97_000, 0.1), (104_500, 0.01), (115_000, 1), (140_000, 0.1), (150_000, 0.01)),
    ),
)
