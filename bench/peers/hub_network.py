"""pytorchvideo's i3d_r50: its own network with random weights, so that only its speed can be compared.

Note [torchvision without its operators]
    pytorchvideo imports ``RoIAlign`` from torchvision for detection heads, which this network lacks. The torchvision
    that pip installs has operators compiled for PyTorch with CUDA, which cannot be loaded beside a CPU build of
    PyTorch; its import then fails because two of them are not declared. They are declared here, without code: calling
    one still fails. Where torchvision's operators can be loaded, nothing is declared.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import library
from torch_defaults import describe

from i3d_deploy import checkpoint
from i3d_deploy.benchmark.worker import OpenRequest
from i3d_deploy.card import Card
from i3d_deploy.runners import Runner
from i3d_deploy.runners.torch_runner import choose_device


def _declare_operators() -> None:
    """Declare the operators that torchvision's import asks for, where it cannot load its own."""
    found = find_spec("torchvision")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
    try:
        for operators in Path(found.origin).parent.glob("_C*"):
            torch.ops.load_library(operators)  # type: ignore[no-untyped-call]
    except OSError:
        for name in ("nms", "qnms"):
            library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_declare_operators()
from pytorchvideo.models.hub import i3d_r50  # noqa: E402

_CLIP_LEN = 8
_MEAN, _STD = 0.45, 0.225
"""Scaling of pixels between 0 and 1. Source: pytorchvideo's tutorial on its video classification hub."""


class HubRunner(Runner):
    """``pytorchvideo.models.hub.i3d_r50``, eager float32, one view at a time.

    It was made for clips of 8 frames and gets every fourth of a view's 32: frames 0, 4, ..., 28.

    Args:
        card: For the shape of the views and the number of classes.
        device: "auto", "cpu", "cuda" or "cuda:1".
    """

    is_comparable = False

    def __init__(self, card: Card, *, device: str) -> None:
        super().__init__()
        self.card = card
        self.notes = (f"another network, {_CLIP_LEN} frames a view, random weights: only its speed can be compared",)
        self.device = choose_device(device)
        self.model = i3d_r50(pretrained=False, model_num_class=card.network.num_classes).eval().to(self.device)
        self.info = describe(f"pytorchvideo {version('pytorchvideo')}", device=self.device, provider="eager")

    @classmethod
    def open(cls, request: OpenRequest) -> HubRunner:
        """Build it for the views of a checkpoint of ours."""
        if request.threads is not None:
            torch.set_num_threads(request.threads)
        return cls(checkpoint.load(request.path).card, device=request.device)

    def _run(self, inputs: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        step = max(1, inputs.shape[1] // _CLIP_LEN)
        frames = inputs[:, : step * _CLIP_LEN : step]
        clips = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 4, 1, 2, 3))).to(self.device)  # N 3 8 H W
        with torch.no_grad():
            logits = self.model((clips / 255 - _MEAN) / _STD)
        return np.asarray(logits.cpu().numpy(), np.float32)
