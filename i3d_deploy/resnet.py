"""The I3D ResNet, top to bottom in the order a clip takes.

Letters: N views, C channels, T frames, H rows, W columns, P positions (T*H*W), S sub-sampled positions, D inner
channels, K classes. Entry names of the ``state_dict`` follow torchvision's 2D ResNet, of which the network is the
inflation.

Source: Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750; Wang et al. 2018, https://arxiv.org/abs/1711.07971;
numbers as in mmaction2 0.24.1 ``ResNet3d`` and ``NonLocal3d``, and SlowFast ``nonlocal_helper.py`` ``Nonlocal``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from i3d_deploy.head import I3D
from i3d_deploy.network import NonLocalForm, NonLocalMode, ResNet

BATCH_NORM_EPS = 1e-5
EXPANSION = 4


class NonLocalBlock(nn.Module):
    """Add to every position a weighted sum over all (sub-sampled) positions of the clip.

    Args:
        channels: C of input and output; the inner width D is C / 2.
        mode: How two positions are compared.
        sub_sample: Keep only the maxima of 2x2 windows as keys and values.
        use_scale: Divide embedded_gaussian inner products by sqrt(D). mmaction2's networks do not, SlowFast's do.
        form: Whose order of the steps: "slowfast" takes the maxima before the convolutions of keys and values, and its
            last convolution has a bias.
    """

    def __init__(
        self,
        channels: int,
        *,
        mode: NonLocalMode,
        sub_sample: bool = True,
        use_scale: bool = False,
        form: NonLocalForm = "mmaction2",
    ) -> None:
        super().__init__()
        inner = channels // 2
        self.mode = mode
        self.form = form
        self.scale = inner**-0.5 if use_scale and mode == "embedded_gaussian" else 1.0
        self.g = nn.Conv3d(channels, inner, 1)
        if mode != "gaussian":
            self.theta = nn.Conv3d(channels, inner, 1)
            self.phi = nn.Conv3d(channels, inner, 1)
        self.pool = nn.MaxPool3d((1, 2, 2)) if sub_sample else nn.Identity()
        self.out = nn.Conv3d(inner, channels, 1, bias=form == "slowfast")
        self.bn = nn.BatchNorm3d(channels, eps=BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, T, H, W) to the same shape."""
        source, pool = (self.pool(x), nn.Identity()) if self.form == "slowfast" else (x, self.pool)
        values = pool(self.g(source)).flatten(2)  # N D S
        if self.mode == "gaussian":
            # Unscaled products of hundreds of channels can leave fp16's range: at least float32, whatever x is.
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            queries, keys = wide.flatten(2), self.pool(wide).flatten(2)  # N C P, N C S
        else:
            queries, keys = self.theta(x).flatten(2), pool(self.phi(source)).flatten(2)  # N D P, N D S
        # Their softmax is close to one-hot: at least float32 as well.
        products = _products(queries, keys).to(torch.promote_types(x.dtype, torch.float32))  # N P S
        weights = products / keys.shape[-1] if self.mode == "dot_product" else (products * self.scale).softmax(-1)
        mixed = values @ weights.to(values.dtype).transpose(1, 2)  # N D P
        mixed = mixed.unflatten(2, x.shape[2:])  # N D T H W
        added: Tensor = self.bn(self.out(mixed))
        return x + added


def _products(queries: Tensor, keys: Tensor) -> Tensor:
    """Inner products (N, P, S) of (N, C, P) and (N, C, S)."""
    if not torch.is_autocast_enabled(queries.device.type):
        return queries.transpose(1, 2) @ keys
    # Autocast would multiply in its narrow type.
    with torch.autocast(queries.device.type, enabled=False):
        return queries.float().transpose(1, 2) @ keys.float()


class Bottleneck(nn.Module):
    """Three convolutions around a shortcut; the first one spans time, the second one space."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        temporal_kernel: int,
        spatial_stride: int,
        non_local: NonLocalBlock | None,
    ) -> None:
        super().__init__()
        out_channels, stride = EXPANSION * width, (1, spatial_stride, spatial_stride)
        self.conv1 = nn.Conv3d(
            in_channels, width, (temporal_kernel, 1, 1), padding=(temporal_kernel // 2, 0, 0), bias=False
        )
        self.bn1 = nn.BatchNorm3d(width, eps=BATCH_NORM_EPS)
        self.conv2 = nn.Conv3d(width, width, (1, 3, 3), stride=stride, padding=(0, 1, 1), bias=False)
        self.bn2 = nn.BatchNorm3d(width, eps=BATCH_NORM_EPS)
        self.conv3 = nn.Conv3d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(out_channels, eps=BATCH_NORM_EPS)
        self.downsample = (
            nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm3d(out_channels, eps=BATCH_NORM_EPS),
            )
            if spatial_stride > 1 or in_channels != out_channels
            else None
        )
        self.relu = nn.ReLU(inplace=True)
        self.non_local = non_local

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, T, H, W) to (N, 4 * width, T, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.relu(self.bn3(self.conv3(out)) + shortcut)
        return out if self.non_local is None else self.non_local(out)


class I3DResNet(I3D):
    """The network: normalised views in, logits out.

    Sizes in the comments are those of i3d_r50 for views of 32x256x256.
    """

    def __init__(self, network: ResNet) -> None:
        super().__init__(network)
        width = network.width
        frames = network.stem_kernel
        self.conv1 = nn.Conv3d(
            network.in_channels,
            width,
            (frames, 7, 7),
            stride=(network.stem_stride, 2, 2),
            padding=(frames // 2, 3, 3),
            bias=False,
        )
        self.bn1 = nn.BatchNorm3d(width, eps=BATCH_NORM_EPS)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool3d((1, 3, 3), stride=(network.stem_pool_stride, 2, 2), padding=(0, 1, 1))
        self.pool2 = nn.MaxPool3d((2, 1, 1))
        self.num_stages = len(network.temporal_kernels)
        channels = width
        for stage in range(self.num_stages):
            layer = _stage(network, stage, in_channels=channels)
            self.add_module(f"layer{stage + 1}", layer)
            channels = EXPANSION * width * 2**stage
        self._add_head()
        self._initialize()

    def features(self, x: Tensor) -> Tensor:
        """Map views (N, 3 or 2, T, H, W) to the last feature maps (N, C, T', H', W')."""
        x = self.relu(self.bn1(self.conv1(x)))  # N 64 16 128 128
        x = self.maxpool(x)  # N 64 8 64 64
        x = self.pool2(self.get_submodule("layer1")(x))  # N 256 4 64 64
        for stage in range(1, self.num_stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)  # N 512 4 32 32; N 1024 4 16 16; N 2048 4 8 8
        return x

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, NonLocalBlock):
                for child in module.children():
                    if isinstance(child, nn.Conv3d) and child is not module.out:
                        nn.init.normal_(child.weight, std=0.01)
                        nn.init.zeros_(_bias(child))
                nn.init.zeros_(module.bn.weight)  # the block starts as the identity
        self._initialize_head()


def _bias(module: nn.Conv3d) -> Tensor:
    assert module.bias is not None
    return module.bias


def _stage(network: ResNet, stage: int, *, in_channels: int) -> nn.Sequential:
    width = network.width * 2**stage
    non_local_blocks = network.non_local_blocks[stage] if stage < len(network.non_local_blocks) else ()
    blocks = []
    for index, temporal_kernel in enumerate(network.temporal_kernels[stage]):
        non_local = None
        if network.non_local_mode is not None and index in non_local_blocks:
            form = network.non_local_form
            non_local = NonLocalBlock(
                EXPANSION * width, mode=network.non_local_mode, form=form, use_scale=form == "slowfast"
            )
        blocks.append(
            Bottleneck(
                in_channels,
                width,
                temporal_kernel=temporal_kernel,
                spatial_stride=2 if stage > 0 and index == 0 else 1,
                non_local=non_local,
            )
        )
        in_channels = EXPANSION * width
    return nn.Sequential(*blocks)
