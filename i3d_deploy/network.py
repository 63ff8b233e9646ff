"""The numbers that build each network, without PyTorch.

A variant is a function that spells its numbers. A checkpoint and every exported file carry them on the card, so that
loading needs nothing else.

Source: mmaction2 0.24.1 configs/_base_/models/i3d_r50.py and configs/recognition/i3d/*.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

NonLocalMode = Literal["embedded_gaussian", "gaussian", "dot_product"]
NON_LOCAL_MODES: tuple[str, ...] = get_args(NonLocalMode)

Count = Annotated[int, Field(ge=1, le=65536)]
TemporalKernel = Literal[1, 3]
PerStage = Annotated[tuple[tuple[TemporalKernel, ...], ...], Field(min_length=1, max_length=4)]


class Network(BaseModel):
    """The numbers of one I3D ResNet.

    Attributes:
        name: What the variant is called; ``i3d-export --model`` takes it.
        num_classes: K, the length of the logits.
        width: Channels of the stem; stage s has 4 * width * 2**s output channels.
        temporal_kernels: Per stage, per bottleneck: frames that its first convolution spans.
        stem_kernel: Frames that the stem convolution spans.
        stem_stride: Temporal stride of the stem convolution.
        stem_pool_stride: Temporal stride of the max pool after the stem.
        non_local_mode: How non-local blocks compare positions; None: there are none.
        non_local_blocks: Per stage, which bottlenecks (0-based) are followed by a non-local block.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    num_classes: Count = 400
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

    @model_validator(mode="after")
    def _check_blocks(self) -> Network:
        if any(len(stage) == 0 for stage in self.temporal_kernels):
            raise ValueError("every stage needs at least one bottleneck")
        if (self.non_local_mode is None) != (not any(self.non_local_blocks)):
            raise ValueError("non_local_mode and non_local_blocks go together")
        for stage, blocks in enumerate(self.non_local_blocks):
            count = len(self.temporal_kernels[stage]) if stage < len(self.temporal_kernels) else 0
            if any(not 0 <= block < count for block in blocks):
                raise ValueError(f"stage {stage} has {count} bottlenecks, not a number {max(blocks)}")
        return self

    def what_is_too_small(self, clip_len: int, crop_size: int) -> str | None:
        """Why views of a size do not get through the network's strides; None where they do.

        Args:
            clip_len: T, frames of a view.
            crop_size: Its side in pixels.
        """
        frames = _strided(_strided(clip_len, self.stem_stride), self.stem_pool_stride) // 2
        if frames < 1:
            return f"clip_len ({clip_len}) is too short: the network halves it to no frame at all"
        side = _strided(_strided(crop_size, 2), 2)
        for stage, blocks in enumerate(self.non_local_blocks):
            # The non-local blocks take maxima of 2x2 windows.
            if blocks and (side_here := _strided(side, 2**stage)) < 2:
                return f"crop_size ({crop_size}) is too small: {side_here} pixel is left at a non-local block"
        return None

    @property
    def num_features(self) -> int:
        """Channels of the last feature maps, the length of the pooled vector."""
        return int(4 * self.width * 2 ** (len(self.temporal_kernels) - 1))


def _strided(size: int, stride: int) -> int:
    """Size after a padded convolution or pool with a stride: rounded up."""
    return -(-size // stride)


def i3d_r50(num_classes: int = 400) -> Network:
    """I3D ResNet-50 for clips of 32x2: 28.0 M parameters, 43.3 GMAC per view at 256x256."""
    return Network(name="i3d_r50", num_classes=num_classes)


def i3d_r50_heavy(num_classes: int = 400) -> Network:
    """I3D ResNet-50 for clips of 8x8: every bottleneck spans three frames, no temporal stride in the stem."""
    return Network(
        name="i3d_r50_heavy",
        num_classes=num_classes,
        temporal_kernels=((3,) * 3, (3,) * 4, (3,) * 6, (3,) * 3),
        stem_stride=1,
        stem_pool_stride=1,
    )


def _non_local(mode: NonLocalMode, num_classes: int) -> Network:
    # The blocks follow exactly the bottlenecks of stages 2 and 3 that span one frame.
    return Network(
        name=f"i3d_r50_nl_{mode}",
        num_classes=num_classes,
        non_local_mode=mode,
        non_local_blocks=((), (1, 3), (1, 3, 5), ()),
    )


def i3d_r50_nl_embedded_gaussian(num_classes: int = 400) -> Network:
    """I3D ResNet-50 32x2 with five non-local blocks, softmax of embedded inner products."""
    return _non_local("embedded_gaussian", num_classes)


def i3d_r50_nl_gaussian(num_classes: int = 400) -> Network:
    """I3D ResNet-50 32x2 with five non-local blocks, softmax of plain inner products."""
    return _non_local("gaussian", num_classes)


def i3d_r50_nl_dot_product(num_classes: int = 400) -> Network:
    """I3D ResNet-50 32x2 with five non-local blocks, inner products over the number of keys."""
    return _non_local("dot_product", num_classes)


NETWORKS: dict[str, Callable[[int], Network]] = {
    "i3d_r50": i3d_r50,
    "i3d_r50_heavy": i3d_r50_heavy,
    "i3d_r50_nl_dot_product": i3d_r50_nl_dot_product,
    "i3d_r50_nl_embedded_gaussian": i3d_r50_nl_embedded_gaussian,
    "i3d_r50_nl_gaussian": i3d_r50_nl_gaussian,
}
"""Every named variant; called with the number of classes."""
