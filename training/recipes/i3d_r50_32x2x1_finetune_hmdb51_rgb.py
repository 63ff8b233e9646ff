r"""I3D ResNet-50 fine-tuned on HMDB-51 from a Kinetics checkpoint with a new classifier. All three official splits.

    python training/prepare.py hmdb51 --help
    torchrun --nproc-per-node 8 training/train.py i3d_r50_32x2x1_finetune_hmdb51_rgb --set data.split=1 \
        --work-dir runs/hmdb51_split_1 --validate \
        --init i3d_r50_256p_32x2x1_100e_kinetics400_rgb_20200801-7d9f44de.pth

Not run by this project: the data set and the zoo's weights were not at hand.
"""

from i3d_deploy.network import i3d_r50
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.training.clips import TrainViews, ValidationViews
from i3d_deploy.training.recipe import Batch, Data, Optimizer, Recipe, Schedule, Test

recipe = Recipe(
    network=i3d_r50(num_classes=51),
    data=Data(
        kind="video",
        folder="data/hmdb51",
        train_list="hmdb51_train_split_{split}_videos.txt",
        val_list="hmdb51_val_split_{split}_videos.txt",
        test_list="hmdb51_val_split_{split}_videos.txt",
        train_root="videos",
        val_root="videos",
        test_root="videos",
        split=1,
        labels="hmdb51",
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
    batch=Batch(videos=8, lr_reference=64),
    # Kinetics' schedule at a tenth of its rate, so that what was learned there stays, and at a fifth of its length.
    epochs=20,
    optimizer=Optimizer(kind="sgd", lr=0.001, momentum=0.9, weight_decay=1e-4, clip_norm=40.0),
    schedule=Schedule(kind="step", milestones=(8, 16), gamma=0.1),
    # As in the heads of two-stream networks for these small sets (Wang et al. 2016, https://arxiv.org/abs/1608.00859).
    dropout=0.8,
)
