"""The numbers that build each network, without PyTorch.

A variant is a function that spells its numbers. A checkpoint and every exported file carry them on the card, so that
loading needs nothing else.

Source: mmaction2 0.24.1 configs/_base_/models/i3d_r50.py and configs/recognition/i3d/*; SlowFast
configs/Kinetics/c2/I3D_8x8_R50.yaml and I3D_NLN_8x8_R50.yaml; pytorchvideo 0.1.5 ``models/hub/resnet.py`` ``i3d_r50``;
kinetics-i3d ``i3d.py`` and pytorch-i3d ``pytorch_i3d.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from i3d_deploy.document import Count

NonLocalMode = Literal["embedded_gaussian", "gaussian", "dot_product"]
NON_LOCAL_MODES: tuple[str, ...] = get_args(NonLocalMode)
NonLocalForm = Literal["mmaction2", "slowfast"]
Positions = Literal["logits", "probabilities"]

TemporalKernel = Literal[1, 3]
PerStage = Annotated[tuple[tuple[TemporalKernel, ...], ...], Field(min_length=1, max_length=4)]
Window = tuple[Count, Count, Count]
"""Frames, rows and columns."""

Mixed = tuple[Count, Count, Count, Count, Count, Count]
"""Channels that the branches of an Inception block give: 1x1x1; 1x1x1 before 3x3x3; twice; 1x1x1 after the pool."""

STREAM_CHANNELS: dict[int, str] = {3: "rgb", 2: "flow"}
"""What frames of so many channels show: colours, or the displacement along x and y."""


class _Numbers(BaseModel, ABC):
    """What all networks have.

    Attributes:
        name: What the variant is called; ``i3d-export --model`` takes it.
        num_classes: K, the length of the logits.
        in_channels: 3 of RGB frames, 2 of optical flow.
        head_window: Over which positions of the last feature maps the head averages before it classifies, moving by one
            position; None: over all of them.
        positions: What is averaged where that window fits several times: "logits", or "probabilities" (whose logarithms
            are then the logits).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    num_classes: Count = 400
    in_channels: Literal[2, 3] = 3
    head_window: Window | None = None
    positions: Positions = "logits"

    @property
    def stream(self) -> str:
        """What the network is shown: "rgb" or "flow"."""
        return STREAM_CHANNELS[self.in_channels]

    @property
    @abstractmethod
    def num_features(self) -> int:
        """C, channels of the last feature maps and the length of the pooled vector."""

    @abstractmethod
    def map_size(self, clip_len: int, crop_size: int) -> tuple[int, int]:
        """Frames and side of the last feature maps, in positions.

        Args:
            clip_len: T, frames of the view.
            crop_size: Its side in pixels.
        """

    def what_is_too_small(self, clip_len: int, crop_size: int) -> str | None:
        """Why views of a size do not get through the network; None where they do.

        Args:
            clip_len: T, frames of a view.
            crop_size: Its side in pixels.
        """
        frames, side = self.map_size(clip_len, crop_size)
        if frames < 1:
            return f"clip_len ({clip_len}) is too short: the network halves it to no frame at all"
        window = self.head_window or (1, 1, 1)
        if frames < window[0]:
            least = self.least_clip_len(crop_size)
            return f"clip_len ({clip_len}) is too short: {self.name} takes {least} frames or more"
        if side < max(window[1:]):
            least = self._least(lambda size: self.map_size(clip_len, size)[1] >= max(window[1:]))
            return f"crop_size ({crop_size}) is too small: {self.name} takes {least} pixels or more"
        return None

    def least_clip_len(self, crop_size: int) -> int:
        """The shortest T that gets through the network.

        Args:
            crop_size: As for :meth:`what_is_too_small`.
        """
        window = self.head_window or (1, 1, 1)
        return self._least(lambda size: self.map_size(size, crop_size)[0] >= window[0])

    @staticmethod
    def _least(is_enough: Callable[[int], bool]) -> int:
        return next(size for size in range(1, 65537) if is_enough(size))


class ResNet(_Numbers):
    """The numbers of one I3D ResNet.

    Attributes:
        kind: Tells the numbers of a ResNet from those of an Inception.
        width: Channels of the stem; stage s has 4 * width * 2**s output channels.
        temporal_kernels: Per stage, per bottleneck: frames that its first convolution spans.
        stem_kernel: Frames that the stem convolution spans.
        stem_stride: Temporal stride of the stem convolution.
        stem_pool_stride: Temporal stride of the max pool after the stem.
        non_local_mode: How non-local blocks compare positions; None: there are none.
        non_local_blocks: Per stage, which bottlenecks (0-based) are followed by a non-local block.
        non_local_form: Whose blocks they are. SlowFast's take maxima before the convolutions of keys and values, scale
            what the softmax is taken of, and have a bias in the last convolution.
    """

    kind: Literal["resnet"] = "resnet"
    width: Count = 64
    temporal_kernels: PerStage = (
        (3, 3, 3),
        (3, 1, 3, 1),
        (3, 1, 3, 1, 3, 1),
        (1, 3, 1),
    )
    stem_kernel: Literal[1, 5] = 5
    stem_stride: Literal[1, 2] = 2
    stem_pool_stride: Literal[1, 2] = 2
    non_local_mode: NonLocalMode | None = None
    non_local_blocks: tuple[tuple[int, ...], ...] = ()
    non_local_form: NonLocalForm = "mmaction2"

    @model_validator(mode="after")
    def _check_blocks(self) -> ResNet:
        if any(len(stage) == 0 for stage in self.temporal_kernels):
            raise ValueError("every stage needs at least one bottleneck")
        if (self.non_local_mode is None) != (not any(self.non_local_blocks)):
            raise ValueError("non_local_mode and non_local_blocks go together")
        for stage, blocks in enumerate(self.non_local_blocks):
            count = len(self.temporal_kernels[stage]) if stage < len(self.temporal_kernels) else 0
            if any(not 0 <= block < count for block in blocks):
                raise ValueError(f"stage {stage} has {count} bottlenecks, not a number {max(blocks)}")
        return self

    def map_size(self, clip_len: int, crop_size: int) -> tuple[int, int]:
        """Frames and side of the last feature maps, in positions.

        Args:
            clip_len: T, frames of the view.
            crop_size: Its side in pixels.
        """
        frames = _strided(_strided(clip_len, self.stem_stride), self.stem_pool_stride) // 2
        return frames, _strided(_strided(crop_size, 4), 2 ** (len(self.temporal_kernels) - 1))

    def what_is_too_small(self, clip_len: int, crop_size: int) -> str | None:
        """Why views of a size do not get through the network's strides; None where they do."""
        side = _strided(crop_size, 4)
        for stage, blocks in enumerate(self.non_local_blocks):
            # The non-local blocks take maxima of 2x2 windows.
            if blocks and (side_here := _strided(side, 2**stage)) < 2:
                return f"crop_size ({crop_size}) is too small: {side_here} pixel is left at a non-local block"
        return super().what_is_too_small(clip_len, crop_size)

    @property
    def num_features(self) -> int:
        """Channels of the last feature maps, the length of the pooled vector."""
        return int(4 * self.width * 2 ** (len(self.temporal_kernels) - 1))


class Inception(_Numbers):
    """The numbers of one Inception-V1 I3D.

    Attributes:
        kind: Tells the numbers of an Inception from those of a ResNet.
        stem: Channels of the three convolutions before the first block.
        mixed: Per stage, per block: the channels of its branches. A pool stands before each stage.
    """

    kind: Literal["inception"] = "inception"
    head_window: Window | None = (2, 7, 7)
    stem: tuple[Count, Count, Count] = (64, 64, 192)
    mixed: tuple[tuple[Mixed, ...], tuple[Mixed, ...], tuple[Mixed, ...]] = (
        ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
        (
            (192, 96, 208, 16, 48, 64),
            (160, 112, 224, 24, 64, 64),
            (128, 128, 256, 24, 64, 64),
            (112, 144, 288, 32, 64, 64),
            (256, 160, 320, 32, 128, 128),
        ),
        ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
    )

    @model_validator(mode="after")
    def _check_stages(self) -> Inception:
        if any(not 1 <= len(stage) <= 25 for stage in self.mixed):
            raise ValueError("every stage needs 1 to 25 blocks")
        return self

    def map_size(self, clip_len: int, crop_size: int) -> tuple[int, int]:
        """Frames and side of the last feature maps, in positions.

        Args:
            clip_len: T, frames of the view.
            crop_size: Its side in pixels.
        """
        return _strided(clip_len, 8), _strided(crop_size, 32)

    @property
    def num_features(self) -> int:
        """Channels of the last feature maps, the length of the pooled vector."""
        return out_channels(self.mixed[-1][-1])


class TwoStream(BaseModel):
    """Two networks side by side, whose logits are added up: one is shown frames, the other their optical flow.

    Attributes:
        kind: Tells two networks from one.
        rgb: The network of the frames.
        flow: The network of the flow, with as many classes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["two-stream"] = "two-stream"
    rgb: ResNet | Inception = Field(discriminator="kind")
    flow: ResNet | Inception = Field(discriminator="kind")

    @model_validator(mode="after")
    def _check_streams(self) -> TwoStream:
        if (self.rgb.in_channels, self.flow.in_channels) != (3, 2):
            raise ValueError(f"{self.rgb.name} and {self.flow.name} are not a network of frames and one of flow")
        if self.rgb.num_classes != self.flow.num_classes:
            raise ValueError(f"rgb has {self.rgb.num_classes} classes, flow has {self.flow.num_classes}")
        return self

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.rgb.name}+{self.flow.name}"

    @property
    def num_classes(self) -> int:
        """K, the length of the logits."""
        return self.rgb.num_classes

    @property
    def in_channels(self) -> int:
        """5: three of the frames, then two of the flow."""
        return self.rgb.in_channels + self.flow.in_channels

    @property
    def stream(self) -> str:
        """What the networks are shown."""
        return "rgb+flow"

    @property
    def num_features(self) -> int:
        """Channels of both."""
        return self.rgb.num_features + self.flow.num_features

    def what_is_too_small(self, clip_len: int, crop_size: int) -> str | None:
        """Why views of a size do not get through one of the networks; None where they do."""
        return self.rgb.what_is_too_small(clip_len, crop_size) or self.flow.what_is_too_small(clip_len, crop_size)

    def least_clip_len(self, crop_size: int) -> int:
        """The shortest T that gets through both networks."""
        return max(self.rgb.least_clip_len(crop_size), self.flow.least_clip_len(crop_size))


def out_channels(mixed: Mixed) -> int:
    """Channels that come out of an Inception block: its branches, one after the other."""
    return mixed[0] + mixed[2] + mixed[4] + mixed[5]


def _kind(value: Any) -> str:
    """Which of them a document or an object is; cards of before there were several do not say."""
    found = value.get("kind", "resnet") if isinstance(value, dict) else getattr(value, "kind", "resnet")
    return str(found)


OneNetwork = Annotated[
    Annotated[ResNet, Tag("resnet")] | Annotated[Inception, Tag("inception")],
    Discriminator(_kind),
]
"""The numbers of one network."""

Network = Annotated[
    Annotated[ResNet, Tag("resnet")] | Annotated[Inception, Tag("inception")] | Annotated[TwoStream, Tag("two-stream")],
    Discriminator(_kind),
]
"""The numbers of one network, or of two."""


def _strided(size: int, stride: int) -> int:
    """Size after padded convolutions or pools with a stride in all: rounded up."""
    return -(-size // stride)


def i3d_r50(num_classes: int = 400) -> ResNet:
    """I3D ResNet-50 for clips of 32x2: 28.0 M parameters, 43.3 GMAC per view at 256x256."""
    return ResNet(name="i3d_r50", num_classes=num_classes)


def i3d_r50_heavy(num_classes: int = 400) -> ResNet:
    """I3D ResNet-50 for clips of 8x8: every bottleneck spans three frames, no temporal stride in the stem."""
    return ResNet(
        name="i3d_r50_heavy",
        num_classes=num_classes,
        temporal_kernels=((3,) * 3, (3,) * 4, (3,) * 6, (3,) * 3),
        stem_stride=1,
        stem_pool_stride=1,
    )


def _non_local(mode: NonLocalMode, num_classes: int) -> ResNet:
    # The blocks follow exactly the bottlenecks of stages 2 and 3 that span one frame.
    return ResNet(
        name=f"i3d_r50_nl_{mode}",
        num_classes=num_classes,
        non_local_mode=mode,
        non_local_blocks=((), (1, 3), (1, 3, 5), ()),
    )


def i3d_r50_nl_embedded_gaussian(num_classes: int = 400) -> ResNet:
    """I3D ResNet-50 32x2 with five non-local blocks, softmax of embedded inner products."""
    return _non_local("embedded_gaussian", num_classes)


def i3d_r50_nl_gaussian(num_classes: int = 400) -> ResNet:
    """I3D ResNet-50 32x2 with five non-local blocks, softmax of plain inner products."""
    return _non_local("gaussian", num_classes)


def i3d_r50_nl_dot_product(num_classes: int = 400) -> ResNet:
    """I3D ResNet-50 32x2 with five non-local blocks, inner products over the number of keys."""
    return _non_local("dot_product", num_classes)


def i3d_r50_8x8_pytorchvideo(num_classes: int = 400) -> ResNet:
    """pytorchvideo's I3D ResNet-50 for clips of 8x8: the logits of the places that its head fits are averaged."""
    return ResNet(
        name="i3d_r50_8x8_pytorchvideo",
        num_classes=num_classes,
        stem_stride=1,
        stem_pool_stride=1,
        head_window=(4, 7, 7),
    )


def i3d_r50_8x8_slowfast(num_classes: int = 400) -> ResNet:
    """SlowFast's I3D ResNet-50 for clips of 8x8: the probabilities of the places that its head fits are averaged."""
    return ResNet(
        name="i3d_r50_8x8_slowfast",
        num_classes=num_classes,
        stem_stride=1,
        stem_pool_stride=1,
        head_window=(4, 7, 7),
        positions="probabilities",
    )


def _slowfast_non_local(mode: NonLocalMode, num_classes: int) -> ResNet:
    plain = i3d_r50_8x8_slowfast(num_classes)
    return plain.model_copy(
        update={
            "name": f"i3d_r50_8x8_nl_{mode}_slowfast",
            "non_local_mode": mode,
            "non_local_blocks": ((), (1, 3), (1, 3, 5), ()),
            "non_local_form": "slowfast",
        }
    )


def i3d_r50_8x8_nl_embedded_gaussian_slowfast(num_classes: int = 400) -> ResNet:
    """SlowFast's I3D ResNet-50 8x8 with five of its non-local blocks, softmax of scaled inner products."""
    return _slowfast_non_local("embedded_gaussian", num_classes)


def i3d_r50_8x8_nl_dot_product_slowfast(num_classes: int = 400) -> ResNet:
    """SlowFast's I3D ResNet-50 8x8 with five of its non-local blocks, inner products over the number of keys."""
    return _slowfast_non_local("dot_product", num_classes)


def i3d_inception_rgb(num_classes: int = 400) -> Inception:
    """The RGB stream of the original I3D: 12.7 M parameters, 111 GMAC for 64 frames of 224x224."""
    return Inception(name="i3d_inception_rgb", num_classes=num_classes)


def i3d_inception_flow(num_classes: int = 400) -> Inception:
    """The optical flow stream of the original I3D: 12.7 M parameters, 102 GMAC for 64 frames of 224x224."""
    return Inception(name="i3d_inception_flow", num_classes=num_classes, in_channels=2)


NETWORKS: dict[str, Callable[[int], ResNet | Inception]] = {
    "i3d_inception_flow": i3d_inception_flow,
    "i3d_inception_rgb": i3d_inception_rgb,
    "i3d_r50": i3d_r50,
    "i3d_r50_8x8_nl_dot_product_slowfast": i3d_r50_8x8_nl_dot_product_slowfast,
    "i3d_r50_8x8_nl_embedded_gaussian_slowfast": i3d_r50_8x8_nl_embedded_gaussian_slowfast,
    "i3d_r50_8x8_pytorchvideo": i3d_r50_8x8_pytorchvideo,
    "i3d_r50_8x8_slowfast": i3d_r50_8x8_slowfast,
    "i3d_r50_heavy": i3d_r50_heavy,
    "i3d_r50_nl_dot_product": i3d_r50_nl_dot_product,
    "i3d_r50_nl_embedded_gaussian": i3d_r50_nl_embedded_gaussian,
    "i3d_r50_nl_gaussian": i3d_r50_nl_gaussian,
}
"""Every named variant; called with the number of classes."""
