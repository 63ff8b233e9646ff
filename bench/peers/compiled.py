"""Our network under ``torch.compile`` in its default mode."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch_defaults import describe

from i3d_deploy import checkpoint
from i3d_deploy.benchmark.worker import OpenRequest
from i3d_deploy.preprocessing import normalize
from i3d_deploy.runners import Runner
from i3d_deploy.runners.torch_runner import choose_device


class CompiledRunner(Runner):
    """``torch.compile`` of the network as it was trained: float32, NCTHW, one view at a time.

    Compiled when it is opened, which takes a minute where nothing is in PyTorch's cache.

    Args:
        source: The checkpoint.
        device: "auto", "cpu", "cuda" or "cuda:1".
    """

    is_comparable = True

    def __init__(self, source: checkpoint.Checkpoint, *, device: str) -> None:
        super().__init__()
        self.card = source.card
        self.device = choose_device(device)
        self.model = torch.compile(source.model.to(self.device))
        self.info = describe("", device=self.device, provider="torch.compile")
        self._run(np.zeros((1, *self.card.view_shape), np.uint8))

    @classmethod
    def open(cls, request: OpenRequest) -> CompiledRunner:
        """Read a checkpoint of ours and compile it."""
        if request.threads is not None:
            torch.set_num_threads(request.threads)
        return cls(checkpoint.load(request.path), device=request.device)

    def _run(self, inputs: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        clips = torch.from_numpy(normalize(inputs, self.card.pixels)).to(self.device)
        with torch.no_grad():
            logits = self.model(clips)
        return np.asarray(logits.cpu().numpy(), np.float32)
