"""The outputs of the original implementations, and the rule that filled their weights.

No trained weights are involved. What is in ``tests/goldens/`` was produced with PyTorch 2.13, NumPy 2.4 and OpenCV 5.0
by running the original code, or lists what it calls its entries:

* mmaction2 0.24.1: frame sampling, geometry, pipelines, metrics, inflation and the ``mmaction_*`` networks;
* SlowFast: ``slowfast_*``, and in ``caffe2_names.json`` the names of the Caffe2 files that its loader reads;
* pytorchvideo: ``pytorchvideo_*``;
* pytorch-i3d: ``inception_*``;
* kinetics-i3d: ``tf_variables_*``, the variables as its TensorFlow checkpoints store them.

``tests/README.md`` says what each of the last four holds. Clips and images are not part of the project: tests that need
them look in ``../shared``.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "goldens"
SHARED = Path(__file__).parents[2] / "shared"

Array = NDArray[Any]


def load_json(name: str) -> Any:
    """Read one golden JSON file."""
    return json.loads((FOLDER / name).read_text())


def load_npz(name: str) -> dict[str, Array]:
    """Read one golden archive."""
    with np.load(FOLDER / name) as archive:
        return {key: archive[key] for key in archive.files}


def shared_file(name: str) -> Path:
    """A clip or image beside the project; the test is skipped where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs the clip {name} beside the project")
    return path


def fill(name: str, shape: tuple[int, ...], *, is_batch_norm: bool, gain: float = 1.0) -> Array:
    """Weights by the rule of the goldens: a function of the entry's original name and shape.

    Args:
        name: Entry name of the original network.
        shape: Its shape.
        is_batch_norm: Whether the entry belongs to a batch normalisation.
        gain: Variance gain of convolutions and linear layers.
    """
    random = np.random.RandomState(zlib.crc32(name.encode()))
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind in ("bias", "running_mean"):
        values = 0.1 * random.standard_normal(shape)
    elif kind == "running_var":
        values = 1 + 0.5 * random.random_sample(shape)
    elif is_batch_norm:
        values = 1 + 0.1 * random.standard_normal(shape)
    else:
        values = random.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))
        if any(part in ("theta", "phi", "conv_theta", "conv_phi") for part in name.split(".")):
            values *= 0.2
    return np.asarray(values).astype(np.float32)


def filled_state(keys: list[list[Any]], *, gain: float = 1.0) -> dict[str, Array]:
    """A whole filled ``state_dict`` from the ordered key list of a network."""
    names = {name for name, *_ in keys}
    return {
        name: fill(name, tuple(shape), is_batch_norm=f"{name.rpartition('.')[0]}.running_mean" in names, gain=gain)
        for name, shape, *_ in keys
    }


def standard_input(seed: int, shape: tuple[int, ...]) -> Array:
    """The goldens' network input, NCTHW float32."""
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
