"""mmaction2's own I3D, built from the configuration in its package, with the weights of our checkpoint.

Note [Which mmaction2]
    1.2.0, the latest release, cannot be imported as it was published: ``mmaction.models.localizers`` imports a folder
    ``drn`` that its wheel lacks (open-mmlab/mmaction2 issue 2714). 1.1.0 can, and its ``resnet3d.py`` and
    ``i3d_head.py`` are the same files. It demands mmcv below 2.1.0; ``mmcv-lite`` is mmcv without its compiled
    operators, of which I3D uses none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mmaction
import numpy as np
import torch
from mmaction.registry import MODELS
from mmaction.utils import register_all_modules
from mmengine.config import Config
from numpy.typing import NDArray
from torch_defaults import describe

from i3d_deploy import checkpoint
from i3d_deploy.benchmark.worker import OpenRequest
from i3d_deploy.card import Card
from i3d_deploy.errors import InputError
from i3d_deploy.origins import MMACTION2
from i3d_deploy.runners import Runner
from i3d_deploy.runners.torch_runner import choose_device

_CONFIGS = {
    f"i3d_r50{ours}": f"i3d_imagenet-pretrained-r50{theirs}_8xb8-32x2x1-100e_kinetics400-rgb.py"
    for ours, theirs in (
        ("", ""),
        ("_heavy", "-heavy"),
        ("_nl_dot_product", "-nl-dot-product"),
        ("_nl_embedded_gaussian", "-nl-embedded-gaussian"),
        ("_nl_gaussian", "-nl-gaussian"),
    )
}
"""Our name of a network, and the file in which mmaction2 configures it."""


class ToolboxRunner(Runner):
    """mmaction2 as its test script runs it: eager float32, its own normalisation, all views in one batch.

    Args:
        source: The checkpoint, of a network of mmaction2's zoo.
        device: "auto", "cpu", "cuda" or "cuda:1".
        views_per_run: Views in one batch; None: all of a video's.

    Raises:
        InputError: mmaction2 has no configuration of the network.
    """

    is_comparable = True

    def __init__(self, source: checkpoint.Checkpoint, *, device: str, views_per_run: int | None) -> None:
        super().__init__()
        self.card = source.card
        self.preferred_batch = views_per_run or source.card.num_views
        self.notes = ("1.1.0, as mmaction2 1.2.0 cannot be imported as published; its I3D is the same",)
        chosen = choose_device(device)
        self.model = _build(source).to(chosen)
        self.info = describe(f"mmaction2 {mmaction.__version__}", device=chosen, provider="eager")

    @classmethod
    def open(cls, request: OpenRequest, *, views_per_run: int | None = None) -> ToolboxRunner:
        """Read a checkpoint of ours and run it in mmaction2."""
        if request.threads is not None:
            torch.set_num_threads(request.threads)
        return cls(checkpoint.load(request.path), device=request.device, views_per_run=views_per_run)

    def _run(self, inputs: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        views = torch.from_numpy(inputs.transpose(0, 4, 1, 2, 3))  # V 3 T H W, as its FormatShape hands them on
        with torch.no_grad():
            prepared = self.model.data_preprocessor({"inputs": [views], "data_samples": None})
            logits = self.model(prepared["inputs"], mode="tensor", stage="head")
        return np.asarray(logits.cpu().numpy(), np.float32)


def _build(source: checkpoint.Checkpoint) -> Any:
    """mmaction2's recognizer in eval mode, with the checkpoint's weights."""
    register_all_modules()
    model = MODELS.build(_config(source.card)).eval()
    # Entries that do not fit are an error here.
    renamed = {MMACTION2.entry(name): tensor for name, tensor in source.model.state_dict().items()}
    model.load_state_dict(renamed)
    return model


def _config(card: Card) -> Any:
    """The package's configuration of a network, with the card's classes and pixel scaling."""
    name = card.network.name
    if name not in _CONFIGS:
        raise InputError(f"mmaction2 has no configuration of the network {name}: give one of {', '.join(_CONFIGS)}")
    folder = Path(mmaction.__file__).parent / ".mim/configs/recognition/i3d"
    config = Config.fromfile(folder / _CONFIGS[name]).model
    config.cls_head.num_classes = card.network.num_classes
    config.data_preprocessor.mean, config.data_preprocessor.std = list(card.pixels.mean), list(card.pixels.std)
    return config
