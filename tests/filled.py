"""Networks with the goldens' weights, and the inputs that go with them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from i3d_deploy import checkpoint
from i3d_deploy.head import I3D
from i3d_deploy.network import NETWORKS
from i3d_deploy.origins import ORIGINS
from tests import goldens

ORIGIN_OF = {
    "mmaction": "mmaction2",
    "slowfast": "slowfast",
    "pytorchvideo": "pytorchvideo",
    "inception": "pytorch-i3d",
}
"""By the first word of a golden file's name."""


@lru_cache(maxsize=2)
def state(file: str) -> dict[str, torch.Tensor]:
    """Weights under the original's names, kept for the next tests of the same networks."""
    gain = 2.0 if file.startswith("inception") else 1.0
    entries = goldens.filled_state(goldens.load_json(f"keys_{file}.json"), gain=gain)
    return {entry: torch.from_numpy(value) for entry, value in entries.items()}


def network(file: str, name: str) -> I3D:
    """A network of 400 classes with the weights of a golden file, in float32 on the CPU.

    Args:
        file: The golden file's name without its suffix.
        name: The network in :data:`NETWORKS`.
    """
    origin = ORIGIN_OF[file.partition("_")[0]]
    return checkpoint.build_from(dict(state(file)), NETWORKS[name](400), ORIGINS[origin])


def inputs_of(golden: dict[str, goldens.Array], case: str) -> torch.Tensor:
    """A golden case's input, checked against its first values."""
    inputs = goldens.standard_input(int(golden[f"{case}/seed"]), tuple(golden[f"{case}/input_shape"]))
    np.testing.assert_array_equal(inputs.ravel()[:8], golden[f"{case}/input_first8"])
    return torch.from_numpy(inputs)
