"""PyTorch as it runs when nobody changes its settings."""

from __future__ import annotations

import torch

from i3d_deploy.runners import RunnerInfo


def describe(backend: str, *, device: torch.device, provider: str) -> RunnerInfo:
    """What runs a float32 network.

    Args:
        backend: The package that defines the network, with its version; "" where it is ours.
        device: Where the network is.
        provider: "eager", or what compiled it.
    """
    return RunnerInfo(
        backend=f"{backend} with torch {torch.__version__}" if backend else f"torch {torch.__version__}",
        device=str(device),
        provider=provider,
        precision="tf32" if _is_tf32(device) else "fp32",
        threads=torch.get_num_threads() if device.type == "cpu" else 0,
    )


def _is_tf32(device: torch.device) -> bool:
    """Whether convolutions of float32 tensors are computed in TF32: cuDNN's default from Ampere on."""
    if device.type != "cuda" or not torch.backends.cudnn.allow_tf32:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
