"""The original I3D, an inflated Inception-V1, top to bottom in the order a clip takes.

Letters: N views, C channels, T frames, H rows, W columns. Blocks bear the names of the paper's endpoints: ``mixed4f``
is ``Mixed_4f``, the sixth part of stage 4.

Source: Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750; numbers as in kinetics-i3d ``i3d.py`` and
pytorch-i3d ``pytorch_i3d.py``.

Note [SAME padding]
    TensorFlow pads each axis so that ceil(size / stride) positions come out, and where the padding is odd the extra one
    goes to the end. So what is padded depends on the size of what comes in: a stem of kernel 7 and stride 2 pads even
    sizes by (2, 3) and odd ones by (3, 3). Max pools are padded with zeros, which never win against what came out of a
    ReLU.
"""

from __future__ import annotations

import string

import torch
from torch import Tensor, nn
from torch.nn import functional

from i3d_deploy.head import I3D
from i3d_deploy.network import Inception, Mixed, out_channels

BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.01
_Triple = tuple[int, int, int]


def same_padding(size: int, *, kernel: int, stride: int) -> tuple[int, int]:
    """How an axis is padded: Note [SAME padding].

    Args:
        size: What comes in.
        kernel: What the convolution or pool spans.
        stride: Its step.

    Returns:
        What to add before and after.
    """
    # The rest of size / stride, but stride itself where there is none.
    rest = (size - 1) % stride + 1
    total = max(kernel - rest, 0)
    return total // 2, total - total // 2


def pad(x: Tensor, *, kernel: _Triple, stride: _Triple) -> Tensor:
    """Pad (N, C, T, H, W) with zeros as a convolution or pool wants it: Note [SAME padding]."""
    sizes = zip(x.shape[2:], kernel, stride, strict=True)
    frames, rows, columns = (same_padding(size, kernel=length, stride=step) for size, length, step in sizes)
    return functional.pad(x, (*columns, *rows, *frames))


class Unit(nn.Module):
    """Convolution, normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: _Triple, *, stride: _Triple = (1, 1, 1)) -> None:
        super().__init__()
        # With a stride of one, both sides are padded alike whatever the size.
        is_even = max(stride) == 1
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2) if is_even else 0
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)
        self.relu = nn.ReLU(inplace=True)
        self._padded = None if is_even else (kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, T, H, W) to (N, C', ceil(T / stride), ceil(H / stride), ceil(W / stride))."""
        if self._padded is not None:
            kernel, stride = self._padded
            x = pad(x, kernel=kernel, stride=stride)
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


class MaxPool(nn.Module):
    """Maximum over windows; the input is never negative."""

    def __init__(self, kernel: _Triple, *, stride: _Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, T, H, W) to (N, C, ceil(T / stride), ceil(H / stride), ceil(W / stride))."""
        return functional.max_pool3d(pad(x, kernel=self.kernel, stride=self.stride), self.kernel, self.stride)


class MixedBlock(nn.Module):
    """Four branches side by side. The two "5x5" ones of the 2D network are 3x3x3 here too."""

    def __init__(self, in_channels: int, channels: Mixed) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = channels
        point, cube = (1, 1, 1), (3, 3, 3)
        self.b0 = Unit(in_channels, b0, point)
        self.b1a = Unit(in_channels, b1a, point)
        self.b1b = Unit(b1a, b1b, cube)
        self.b2a = Unit(in_channels, b2a, point)
        self.b2b = Unit(b2a, b2b, cube)
        self.b3a = MaxPool(cube, stride=point)
        self.b3b = Unit(in_channels, b3b, point)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, T, H, W) to (N, C', T, H, W)."""
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], 1)


class I3DInception(I3D):
    """The network: normalised views in, logits out. Any length from 9 frames on, any size from 193 pixels on.

    Sizes in the comments are those of i3d_inception_rgb for views of 64x224x224.
    """

    def __init__(self, network: Inception) -> None:
        super().__init__(network)
        first, second, third = network.stem
        self.conv1a = Unit(network.in_channels, first, (7, 7, 7), stride=(2, 2, 2))
        self.pool2a = MaxPool((1, 3, 3), stride=(1, 2, 2))
        self.conv2b = Unit(first, second, (1, 1, 1))
        self.conv2c = Unit(second, third, (3, 3, 3))
        self.pool3a = MaxPool((1, 3, 3), stride=(1, 2, 2))
        self.pool4a = MaxPool((3, 3, 3), stride=(2, 2, 2))
        self.pool5a = MaxPool((2, 2, 2), stride=(2, 2, 2))
        self._blocks: dict[int, list[str]] = {}
        channels = third
        for stage, blocks in enumerate(network.mixed, start=3):
            self._blocks[stage] = [f"mixed{stage}{string.ascii_lowercase[1 + number]}" for number in range(len(blocks))]
            for name, block in zip(self._blocks[stage], blocks, strict=True):
                self.add_module(name, MixedBlock(channels, block))
                channels = out_channels(block)
        self._add_head()
        self._initialize()

    def stages(self) -> list[list[tuple[str, MixedBlock]]]:
        """The blocks of each stage, with their names."""
        return [
            [(name, block) for name in names if isinstance(block := self.get_submodule(name), MixedBlock)]
            for names in self._blocks.values()
        ]

    def features(self, x: Tensor) -> Tensor:
        """Map views (N, 3 or 2, T, H, W) to the last feature maps (N, C, T', H', W')."""
        x = self.pool2a(self.conv1a(x))  # N 64 32 56 56
        x = self.pool3a(self.conv2c(self.conv2b(x)))  # N 192 32 28 28
        x = self._stage(3, x)  # N 480 32 28 28
        x = self._stage(4, self.pool4a(x))  # N 832 16 14 14
        return self._stage(5, self.pool5a(x))  # N 1024 8 7 7

    def _stage(self, number: int, x: Tensor) -> Tensor:
        for name in self._blocks[number]:
            x = self.get_submodule(name)(x)
        return x

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self._initialize_head()
