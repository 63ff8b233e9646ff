"""What the configuration in a SlowFast file says: fields as SlowFast writes them, the network worked out by hand."""

from __future__ import annotations

import pytest

from i3d_deploy import configurations, network, origins
from i3d_deploy.errors import CheckpointError
from i3d_deploy.network import ResNet
from i3d_deploy.origins import Conventions
from tests.slowfast_dump import DUMP, dump

PUBLISHED = network.i3d_r50_8x8_slowfast()
ZOO = origins.SLOWFAST.conventions(PUBLISHED)


def read(text: str) -> tuple[Conventions, ResNet]:
    return configurations.slowfast(ZOO, PUBLISHED, text)


@pytest.mark.parametrize("text", ["", "TRAIN:\n", DUMP])
def test_the_published_configuration_changes_nothing(text: str) -> None:
    assert read(text) == (ZOO, PUBLISHED)


def test_clips_of_16x4_have_a_head_of_8_frames() -> None:
    # SlowFast's head averages over NUM_FRAMES / 2 frames (a pool of 2 stands after s2) and TRAIN_CROP_SIZE / 32 rows.
    conventions, trained = read(dump(NUM_FRAMES="16", SAMPLING_RATE="4"))
    assert trained.head_window == (8, 7, 7)
    assert (conventions.sampling.clip_len, conventions.sampling.frame_interval) == (16, 4)
    assert conventions.sampling.formula == "slowfast"
    assert conventions.text.startswith("10 windows of 64 frames at 30 per second, 16 frames of each, under three crops")


def test_the_test_crop_is_the_short_side() -> None:
    conventions, trained = read(dump(TEST_CROP_SIZE="320", TRAIN_CROP_SIZE="256"))
    assert (conventions.spatial.short_side, conventions.spatial.crop_size) == (320, 320)
    assert trained.head_window == (4, 8, 8)


def test_one_crop_is_cut_from_the_smallest_size_of_training() -> None:
    spatial = read(dump(NUM_SPATIAL_CROPS="1", TEST_CROP_SIZE="224"))[0].spatial
    assert (spatial.num_crops, spatial.short_side, spatial.crop_size) == (1, 256, 224)


@pytest.mark.parametrize("mean", ["[0.5, 0.25, 1.0e-1]", "\n  - 0.5\n  - 0.25\n  - 0.1"])
def test_mean_and_std_are_shares_of_255(mean: str) -> None:
    pixels = read(dump(MEAN=mean, STD="[0.2, 0.2, 0.2]"))[0].pixels
    assert pixels.mean == pytest.approx((127.5, 63.75, 25.5))
    assert pixels.std == pytest.approx((51, 51, 51))


def test_views_and_rate_are_those_of_the_file() -> None:
    sampling = read(dump(NUM_ENSEMBLE_VIEWS="5", TARGET_FPS="15"))[0].sampling
    assert (sampling.num_clips, sampling.frames_per_second) == (5, 15)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"HEAD_ACT": "sigmoid"}, r"has MODEL\.HEAD_ACT sigmoid: only softmax is read"),
        ({"REVERSE_INPUT_CHANNEL": "true"}, r"has DATA\.REVERSE_INPUT_CHANNEL true: only false is read"),
        ({"SHORT_CYCLE": "true"}, r"has MULTIGRID\.SHORT_CYCLE true: only false is read"),
        ({"STRIDE_1X1": "true"}, r"has RESNET\.STRIDE_1X1 true: only false is read"),
        ({"NUM_FRAMES": "eight"}, r"has DATA\.NUM_FRAMES eight: numbers are read, such as 8"),
        ({"NUM_FRAMES": "8.5"}, r"has DATA\.NUM_FRAMES 8\.5: a whole number is read"),
        ({"NUM_FRAMES": "1e999"}, r"has DATA\.NUM_FRAMES 1e999: a whole number is read"),
        ({"NUM_FRAMES": "1"}, r"DATA\.NUM_FRAMES \(1\) must be 2 or more"),
        ({"NUM_SPATIAL_CROPS": "2"}, r"is malformed: num_crops: Input should be 1 or 3"),
        ({"STD": "[0.2, 0.2]"}, r"is malformed: mean .* must have a number for each channel of rgb"),
        ({"TEST_CROP_SIZE": "160"}, r"does not go with itself: crop_size \(160\) is too small"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_field(values: dict[str, str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read(dump(**values))
    assert "\n" not in str(caught.value)
