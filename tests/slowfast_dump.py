"""What SlowFast stores of its configuration in an I3D checkpoint, ``cfg.dump()``, without idle sections."""

from __future__ import annotations

DUMP = """\
BN:
  NORM_TYPE: batchnorm
  NUM_BATCHES_PRECISE: 200
DATA:
  DECODING_BACKEND: pyav
  INPUT_CHANNEL_NUM:
  - 3
  MEAN:
  - 0.45
  - 0.45
  - 0.45
  NUM_FRAMES: 8
  PATH_TO_DATA_DIR: /data/softmax
  REVERSE_INPUT_CHANNEL: false
  SAMPLING_RATE: 8
  STD:
  - 0.225
  - 0.225
  - 0.225
  TARGET_FPS: 30
  TEST_CROP_SIZE: 256
  TRAIN_CROP_SIZE: 224
  TRAIN_JITTER_SCALES:
  - 256
  - 320
DETECTION:
  ENABLE: false
MODEL:
  ARCH: i3d
  HEAD_ACT: softmax
  LOSS_FUNC: cross_entropy
  MODEL_NAME: ResNet
MULTIGRID:
  DEFAULT_T: 0
  SHORT_CYCLE: false
NONLOCAL:
  GROUP:
  - - 1
  - - 1
  - - 1
  - - 1
  INSTANTIATION: dot_product
  LOCATION:
  - - []
  - - - 1
      - 3
  - - - 1
      - 3
      - 5
  - - []
RESNET:
  DEPTH: 50
  STRIDE_1X1: false
TEST:
  DATASET: kinetics
  NUM_ENSEMBLE_VIEWS: 10
  NUM_SPATIAL_CROPS: 3
"""


def dump(**values: str) -> str:
    """The text with other values, by the last word of the field's name."""
    text = DUMP
    for field, value in values.items():
        start = text.index(f"  {field}:")
        end = text.index("\n", start)
        while text.startswith("\n  - ", end):
            end = text.index("\n", end + 1)
        text = f"{text[:start]}  {field}: {value}{text[end:]}"
    return text
