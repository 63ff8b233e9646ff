"""PyTorch: the reference, on any device it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import checkpoint
from i3d_deploy.card import normalize
from i3d_deploy.errors import DeviceError, MissingExtraError
from i3d_deploy.runners.runner import Runner, RunnerInfo

try:
    import torch
except ImportError as error:
    raise MissingExtraError("torch", extra="export", cause=error) from error


class TorchRunner(Runner):
    """The network as it was trained: float32, batch normalisation as its own step.

    Args:
        source: The checkpoint.
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:1".
        threads: CPU threads; PyTorch has one setting for the whole process.

    Raises:
        DeviceError: PyTorch has not that device.
    """

    def __init__(self, source: checkpoint.Checkpoint, *, device: str = "auto", threads: int | None = None) -> None:
        self.card = source.card
        self.notes = source.notes
        self.device = choose_device(device)
        if threads is not None:
            torch.set_num_threads(threads)
        self.model = source.model.to(self.device)
        self.info = RunnerInfo(
            backend=f"torch {torch.__version__}",
            device=str(self.device),
            provider="eager",
            precision="fp32",
            threads=torch.get_num_threads() if self.device.type == "cpu" else 0,
        )

    @classmethod
    def open(cls, path: Path, *, device: str = "auto", threads: int | None = None) -> TorchRunner:
        """Read a checkpoint of any supported origin and run it."""
        return cls(checkpoint.load(path), device=device, threads=threads)

    def _run(self, inputs: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        clips = torch.from_numpy(normalize(inputs, self.card.pixels)).to(self.device)
        # TF32 has ten bits of mantissa: not for a reference.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            # The layout that PyTorch's 3D convolutions are fastest in; the arithmetic is the same.
            logits = self.model(clips.contiguous(memory_format=torch.channels_last_3d))
        return np.asarray(logits.cpu().numpy(), np.float32)


def choose_device(device: str) -> torch.device:
    """Check a device's name, and that PyTorch can use it.

    Args:
        device: "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:1".

    Raises:
        DeviceError: PyTorch has not that device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise DeviceError(
            f"PyTorch {torch.__version__} cannot use device {device!r}: give auto, cpu, cuda or cuda:N ({reason})"
        ) from error
    return chosen
