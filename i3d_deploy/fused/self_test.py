"""Does PyTorch compute 3D convolutions right on this GPU? Asked once, before any network is believed.

Note [Wrong convolutions] in :mod:`i3d_deploy.fused.sampled` has why.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from i3d_deploy.errors import DeviceError
from i3d_deploy.fused import sampled
from i3d_deploy.fused.convolution import Convolution, Window

Convolve = Callable[..., Tensor]
"""Called as :func:`torch.nn.functional.conv3d`."""

_KINDS = (
    (3, 64, Window(kernel=(5, 7, 7), stride=(2, 2, 2), padding=(2, 3, 3))),
    (256, 64, Window(kernel=(3, 1, 1), padding=(1, 0, 0))),
    (64, 64, Window(kernel=(1, 3, 3), padding=(0, 1, 1))),
    (64, 256, Window(kernel=(1, 1, 1))),
    (96, 128, Window(kernel=(3, 3, 3), padding=(1, 1, 1))),
)
"""Channels in and out, and what is spanned: the kinds of layer of the networks here."""
_SIZES = (2, 8, 28, 28)


def check(device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a GPU and PyTorch that do not go together; a CPU is not asked.

    Args:
        device: Where networks are about to be run.
        dtype: In what.

    Raises:
        DeviceError: A convolution comes out wrong.
    """
    if device.type == "cuda":
        _check_once(device, dtype)


@functools.cache
def _check_once(device: torch.device, dtype: torch.dtype) -> None:
    found = wrong(functional.conv3d, device, dtype)
    if found:
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        raise DeviceError(
            f"PyTorch {torch.__version__} with cuDNN {cudnn} computes convolutions of "
            f"{', '.join(found)} wrong on {torch.cuda.get_device_name(device)} in {dtype}: install another PyTorch"
        )


def wrong(convolve: Convolve, device: torch.device, dtype: torch.dtype) -> list[str]:
    """Kernels of which a convolution is wrong.

    Args:
        convolve: What convolves.
        device: Where.
        dtype: In what.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    for channels, out_channels, window in _KINDS:
        x = torch.randn(*_SIZES, channels, generator=generator).to(device, dtype)
        weight = torch.randn(out_channels, *window.kernel, channels, generator=generator)
        convolution = Convolution(
            name="random",
            weight=(weight / weight[0].numel() ** 0.5).to(device, dtype),
            bias=torch.zeros(out_channels, device=device),
            window=window,
            is_rectified=False,
        )
        with torch.inference_mode():
            maps = x.permute(0, 4, 1, 2, 3)  # channels last, as the networks' are
            kernel = convolution.weight.permute(0, 4, 1, 2, 3)
            result = convolve(maps, kernel, stride=window.stride, padding=window.padding)
            if not sampled.agrees(convolution, x, result.permute(0, 2, 3, 4, 1)):
                found.append("x".join(str(size) for size in window.kernel))
    return found
