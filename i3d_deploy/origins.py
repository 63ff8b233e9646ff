"""Where checkpoints come from: what each project calls the entries, how it stores them, and how it tests.

A foreign checkpoint is renamed by one table, from this library's entry names to the origin's, and its card gets the
origin's way of testing, so that it predicts as it did at home.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from i3d_deploy.card import Averaging, FlowMethod, Modality
from i3d_deploy.network import Inception, ResNet
from i3d_deploy.preprocessing import Pixels, Sampling, Spatial

Table = tuple[tuple[str, str], ...]
"""Regular expressions and what replaces them, one after the other."""

Shape = tuple[int, ...]

# Source: mmaction2 0.24.1 ConvModule, ResNet3d, NonLocal3d (its pooled g and phi are sequences, hence the 0), I3DHead.
_MMACTION: Table = (
    (r"^fc\.", "cls_head.fc_cls."),
    (r"^(?=conv|bn|layer)", "backbone."),
    (r"\bconv(\d)\.", r"conv\1.conv."),
    (r"\bbn(\d)\.", r"conv\1.bn."),
    (r"\bdownsample\.0\.", "downsample.conv."),
    (r"\bdownsample\.1\.", "downsample.bn."),
    (r"\bnon_local\.(g|phi)\.", r"non_local_block.\1.0.conv."),
    (r"\bnon_local\.theta\.", "non_local_block.theta.conv."),
    (r"\bnon_local\.out\.", "non_local_block.conv_out.conv."),
    (r"\bnon_local\.bn\.", "non_local_block.conv_out.bn."),
)

# Source: pytorchvideo 0.1.5 models/resnet.py; block 2 is the pool after the first stage, which has no entries.
_PYTORCHVIDEO: Table = (
    (r"^fc\.", "blocks.6.proj."),
    (r"^conv1\.", "blocks.0.conv."),
    (r"^bn1\.", "blocks.0.norm."),
    (r"^layer1\.", "blocks.1.res_blocks."),
    (r"^layer2\.", "blocks.3.res_blocks."),
    (r"^layer3\.", "blocks.4.res_blocks."),
    (r"^layer4\.", "blocks.5.res_blocks."),
    (r"\bdownsample\.0\.", "branch1_conv."),
    (r"\bdownsample\.1\.", "branch1_norm."),
    (r"\bconv1\.", "branch2.conv_a."),
    (r"\bconv2\.", "branch2.conv_b."),
    (r"\bconv3\.", "branch2.conv_c."),
    (r"\bbn1\.", "branch2.norm_a."),
    (r"\bbn2\.", "branch2.norm_b."),
    (r"\bbn3\.", "branch2.norm_c."),
)

# Source: SlowFast models/video_model_builder.py ResNet, resnet_helper.py, nonlocal_helper.py.
_SLOWFAST: Table = (
    (r"^fc\.", "head.projection."),
    (r"^conv1\.", "s1.pathway0_stem.conv."),
    (r"^bn1\.", "s1.pathway0_stem.bn."),
    (r"^layer(\d)\.(\d)\.non_local\.bn\.", r"layer\1.pathway0_nonlocal\2.bn."),
    (r"^layer(\d)\.(\d)\.non_local\.(\w+)\.", r"layer\1.pathway0_nonlocal\2.conv_\3."),
    (r"^layer(\d)\.(\d)\.", r"layer\1.pathway0_res\2."),
    (r"^layer1\.", "s2."),
    (r"^layer2\.", "s3."),
    (r"^layer3\.", "s4."),
    (r"^layer4\.", "s5."),
    (r"\bdownsample\.0\.", "branch1."),
    (r"\bdownsample\.1\.", "branch1_bn."),
    (r"(?<=\d\.)conv1\.", "branch2.a."),
    (r"(?<=\d\.)conv2\.", "branch2.b."),
    (r"(?<=\d\.)conv3\.", "branch2.c."),
    (r"(?<=\d\.)bn1\.", "branch2.a_bn."),
    (r"(?<=\d\.)bn2\.", "branch2.b_bn."),
    (r"(?<=\d\.)bn3\.", "branch2.c_bn."),
)

# Source: SlowFast utils/c2_model_loading.py get_name_convert_func, backwards.
_CAFFE2: Table = (
    *_SLOWFAST,
    (r"^head\.projection\.weight$", "pred_w"),
    (r"^head\.projection\.bias$", "pred_b"),
    (r"^s1\.pathway0_stem\.conv\.weight$", "conv1_w"),
    (r"^s1\.pathway0_stem\.bn\.", "res_conv1_bn."),
    (r"^s(\d)\.pathway0_nonlocal(\d)\.bn\.", r"nonlocal_conv\1_\2_bn."),
    (r"^s(\d)\.pathway0_nonlocal(\d)\.conv_(\w+)\.weight$", r"nonlocal_conv\1_\2_\3_w"),
    (r"^s(\d)\.pathway0_nonlocal(\d)\.conv_(\w+)\.bias$", r"nonlocal_conv\1_\2_\3_b"),
    (r"^s(\d)\.pathway0_res(\d)\.branch1\.weight$", r"res\1_\2_branch1_w"),
    (r"^s(\d)\.pathway0_res(\d)\.branch1_bn\.", r"res\1_\2_branch1_bn."),
    (r"^s(\d)\.pathway0_res(\d)\.branch2\.(\w)\.weight$", r"res\1_\2_branch2\3_w"),
    (r"^s(\d)\.pathway0_res(\d)\.branch2\.(\w)_bn\.", r"res\1_\2_branch2\3_bn."),
    (r"_bn\.weight$", "_bn_s"),
    (r"_bn\.bias$", "_bn_b"),
    (r"_bn\.running_mean$", "_bn_rm"),
    (r"_bn\.running_var$", "_bn_riv"),
)

# Source: pytorch-i3d pytorch_i3d.py InceptionI3d.
_PYTORCH_I3D: Table = (
    (r"^fc\.", "logits.conv3d."),
    (r"^conv1a\.", "Conv3d_1a_7x7."),
    (r"^conv2b\.", "Conv3d_2b_1x1."),
    (r"^conv2c\.", "Conv3d_2c_3x3."),
    (r"^mixed", "Mixed_"),
    (r"\.conv\.", ".conv3d."),
)

# Source: kinetics-i3d i3d.py, whose Mixed_5b calls the second convolution of Branch_2 0a, and Sonnet's batch
# normalisation, which has no factor.
_DEEPMIND: Table = (
    (r"^fc\.weight$", "Logits/Conv3d_0c_1x1/conv_3d/w"),
    (r"^fc\.bias$", "Logits/Conv3d_0c_1x1/conv_3d/b"),
    (r"^conv1a\.", "Conv3d_1a_7x7/"),
    (r"^conv2b\.", "Conv3d_2b_1x1/"),
    (r"^conv2c\.", "Conv3d_2c_3x3/"),
    (r"^mixed(\w+)\.b0\.", r"Mixed_\1/Branch_0/Conv3d_0a_1x1/"),
    (r"^mixed(\w+)\.b([12])a\.", r"Mixed_\1/Branch_\2/Conv3d_0a_1x1/"),
    (r"^mixed5b\.b2b\.", "Mixed_5b/Branch_2/Conv3d_0a_3x3/"),
    (r"^mixed(\w+)\.b([12])b\.", r"Mixed_\1/Branch_\2/Conv3d_0b_3x3/"),
    (r"^mixed(\w+)\.b3b\.", r"Mixed_\1/Branch_3/Conv3d_0b_1x1/"),
    (r"conv\.weight$", "conv_3d/w"),
    (r"bn\.bias$", "batch_norm/beta"),
    (r"bn\.running_mean$", "batch_norm/moving_mean"),
    (r"bn\.running_var$", "batch_norm/moving_variance"),
)


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """How an origin tests its networks.

    Attributes:
        sampling: Which frames.
        spatial: Which pixels.
        pixels: Their scaling.
        averaging: What is averaged over the views.
        modality: What the network is shown.
        flow_method: How the flow of a video is computed.
        text: In words, for the note that says what was assumed.
    """

    sampling: Sampling
    spatial: Spatial
    pixels: Pixels
    averaging: Averaging = "probabilities"
    modality: Modality = "rgb"
    flow_method: FlowMethod | None = None
    text: str = ""

    @property
    def parts(self) -> dict[str, Any]:
        """The parts of a card."""
        return {part.name: getattr(self, part.name) for part in fields(self) if part.name != "text"}


def _of_mmaction2(network: ResNet | Inception) -> Conventions:
    # The heavy network was trained on clips of 8x8.
    is_heavy = isinstance(network, ResNet) and network.stem_stride == 1
    sampling = Sampling(clip_len=8, frame_interval=8) if is_heavy else Sampling()
    return Conventions(sampling=sampling, spatial=Spatial(), pixels=Pixels())


def _of_slowfast(network: ResNet | Inception) -> Conventions:
    return Conventions(
        sampling=Sampling(formula="slowfast", clip_len=8, frame_interval=8, frames_per_second=30.0),
        spatial=Spatial(formula="slowfast"),
        # (x / 255 - 0.45) / 0.225
        pixels=Pixels(mean=(114.75,) * 3, std=(57.375,) * 3),
        text="10 windows of 64 frames at 30 per second, 8 frames of each, under three crops of 256 as SlowFast cuts "
        "them, mean 0.45 and std 0.225, probabilities averaged",
    )


def _of_i3d(network: ResNet | Inception) -> Conventions:
    half = (127.5,) * network.in_channels  # x / 255 * 2 - 1
    return Conventions(
        sampling=Sampling(
            scheme="whole", clip_len=64, frame_interval=1, num_clips=1, min_clip_len=9, frames_per_second=25.0
        ),
        spatial=Spatial(short_side=256, crop_size=224, num_crops=1),
        pixels=Pixels(color="rgb" if network.in_channels == 3 else "xy", mean=half, std=half),
        averaging="logits",
        modality="rgb" if network.in_channels == 3 else "flow",
        flow_method=None if network.in_channels == 3 else "tvl1",
        text="the whole video at 25 frames per second, the center crop of 224, values of -1 to 1, logits averaged over "
        "time",
    )


@dataclass(frozen=True, kw_only=True)
class Origin:
    """One project whose checkpoints are read.

    Attributes:
        name: What ``--origin`` takes.
        title: For messages.
        table: From this library's entry names to the origin's.
        looks: What the names of its entries look like.
        conventions: How it tests a network.
        ignored: Entries that are no weights of the network.
        invented: This library's entries that the origin has not, and what they are.
        is_channels_last: Whether kernels are stored as (T, H, W, in, out).
        classifier_axes: Sizes of 1 behind the classifier's weights, which is a convolution there.
        drops_axes: Whether sizes of 1 at the end of a shape may be missing.
    """

    name: str
    title: str
    table: Table
    looks: re.Pattern[str]
    conventions: Callable[[ResNet | Inception], Conventions]
    ignored: re.Pattern[str] = re.compile(r"(?!)")
    invented: Mapping[str, float] = field(default_factory=dict)
    is_channels_last: bool = False
    classifier_axes: int = 0
    drops_axes: bool = False

    def entry(self, name: str) -> str:
        """What the origin calls an entry of ours.

        Args:
            name: In a ``state_dict`` of this library, such as ``layer1.0.conv1.weight``.

        Returns:
            The origin's name, without a scope before it; one of its own also for entries that it has not.
        """
        for pattern, replacement in self.table:
            name = re.sub(pattern, replacement, name)
        return name

    def invents(self, name: str) -> float | None:
        """The value of an entry of ours that the origin has not; None where it has it."""
        return next((value for ending, value in self.invented.items() if name.endswith(ending)), None)

    def shapes(self, name: str, shape: Shape) -> tuple[Shape, ...]:
        """The shapes that an entry of ours may have there.

        Args:
            name: In a ``state_dict`` of this library.
            shape: In that ``state_dict``: (out, in, T, H, W) of a kernel.

        Returns:
            The usual one first. Entries have the same values in the same order in all of them, but for kernels of
            origins that keep channels last: (T, H, W, in, out).
        """
        if name == "fc.weight":
            shape = (*shape, *(1,) * self.classifier_axes)
        if self.is_channels_last:
            if len(shape) == 5:
                out_channels, in_channels, *window = shape
                return ((*window, in_channels, out_channels),)
            return (shape, (1,) * (5 - len(shape)) + shape)
        if self.drops_axes and len(shape) == 5:
            return tuple(shape[:rank] for rank in range(5, 0, -1) if set(shape[rank:]) <= {1})
        return (shape,)


MMACTION2 = Origin(
    name="mmaction2",
    title="mmaction2",
    table=_MMACTION,
    looks=re.compile(r"(backbone|cls_head)\."),
    conventions=_of_mmaction2,
)
PYTORCHVIDEO = Origin(
    name="pytorchvideo",
    title="pytorchvideo",
    table=_PYTORCHVIDEO,
    looks=re.compile(r"blocks\.\d+\."),
    conventions=_of_slowfast,
)
SLOWFAST = Origin(
    name="slowfast",
    title="SlowFast",
    table=_SLOWFAST,
    looks=re.compile(r"s[1-5]\.pathway0_|head\.projection\."),
    conventions=_of_slowfast,
)
CAFFE2 = Origin(
    name="caffe2",
    title="SlowFast (Caffe2)",
    table=_CAFFE2,
    looks=re.compile(r"(conv1|pred|res_conv1_bn|res\d_\d+_branch[12][abc]?|nonlocal_conv\d_\d+)_"),
    conventions=_of_slowfast,
    ignored=re.compile(r".*(momentum|lr|model_iter)"),
    invented={"num_batches_tracked": 0},
    drops_axes=True,
)
PYTORCH_I3D = Origin(
    name="pytorch-i3d",
    title="pytorch-i3d",
    table=_PYTORCH_I3D,
    looks=re.compile(r"(Conv3d_\d\w_\dx\d|Mixed_\d\w|logits)\."),
    conventions=_of_i3d,
    classifier_axes=3,
)
DEEPMIND = Origin(
    name="kinetics-i3d",
    title="kinetics-i3d (TensorFlow)",
    table=_DEEPMIND,
    looks=re.compile(r"(?:(?:RGB|Flow)/inception_i3d/)?(Conv3d_\d\w_\dx\d|Mixed_\d\w|Logits)/"),
    conventions=_of_i3d,
    ignored=re.compile(r".*(/Momentum|/Adam(_1)?|/ExponentialMovingAverage)$|global_step$"),
    invented={"bn.weight": 1, "num_batches_tracked": 0},
    is_channels_last=True,
    classifier_axes=3,
)

CHARADES_CLASSES = 157
"""K of the data set with several labels a video that pytorch-i3d has checkpoints of as well."""

ORIGINS: dict[str, Origin] = {
    origin.name: origin for origin in (CAFFE2, DEEPMIND, MMACTION2, PYTORCH_I3D, PYTORCHVIDEO, SLOWFAST)
}
"""Every origin, by name."""


def usual_conventions(network: ResNet | Inception) -> Conventions:
    """How the project that a network comes from tests it."""
    if isinstance(network, Inception):
        return _of_i3d(network)
    return _of_mmaction2(network) if network.head_window is None else _of_slowfast(network)


def recognise(names: Iterable[str]) -> Origin | None:
    """Tell where a checkpoint comes from by the names of its entries.

    Args:
        names: Of all entries; a few may be others.

    Returns:
        The origin that more than half of them look like; None where there is none.
    """
    listed = list(names)
    return next((origin for origin in ORIGINS.values() if _is_of(listed, origin)), None)


def _is_of(names: Sequence[str], origin: Origin) -> bool:
    return sum(origin.looks.match(name) is not None for name in names) * 2 > len(names)


def wrapped_in(names: Iterable[str], origin: Origin | None = None) -> str:
    """What a module that holds the network, such as a trainer's, has put before the names of all entries.

    Args:
        names: Of all entries.
        origin: Whose they are; None: anybody's.

    Returns:
        The longest beginning of whole words, such as ``model.``, that all names share and without which they are
        recognised; often nothing.
    """
    listed = list(names)
    words = min(listed, default="").split(".")[:-1]
    for count in range(len(words), 0, -1):
        wrapper = ".".join(words[:count]) + "."
        if not all(name.startswith(wrapper) for name in listed):
            continue
        inner = [name.removeprefix(wrapper) for name in listed]
        if recognise(inner) is not None if origin is None else _is_of(inner, origin):
            return wrapper
    return ""


def scope_of(names: Iterable[str]) -> str:
    """What stands before every name of a kinetics-i3d checkpoint: ``RGB/inception_i3d/``, or nothing."""
    scopes = {match[0] if (match := re.match(r"(RGB|Flow)/inception_i3d/", name)) else "" for name in names}
    return max(scopes, key=len, default="")


def find_network(origin: Origin, shapes: Mapping[str, Shape], *, scope: str = "", words: str = "") -> str | None:
    """Tell the variant from names and shapes of an origin's entries.

    Args:
        origin: Where they come from.
        shapes: Their shapes by name.
        scope: What stands before every name.
        words: What the file says of itself, such as its training configuration and its name.

    Returns:
        A key of :data:`i3d_deploy.network.NETWORKS`; None where it leaves open which of two it is.
    """

    def shape(name: str) -> Shape:
        return shapes.get(scope + origin.entry(name), ())

    if origin in (PYTORCH_I3D, DEEPMIND):
        stem = shape("conv1a.conv.weight")
        channels_axis = 3 if origin.is_channels_last else 1
        is_flow = len(stem) == 5 and stem[channels_axis] == 2
        return "i3d_inception_flow" if is_flow else "i3d_inception_rgb"
    if origin is PYTORCHVIDEO:
        return "i3d_r50_8x8_pytorchvideo"
    is_mmaction2 = origin is MMACTION2
    if not any("non_local" in name or "nonlocal" in name for name in shapes):
        second = shape("layer2.1.conv1.weight")
        is_heavy = len(second) == 5 and second[2] == 3
        return ("i3d_r50_heavy" if is_heavy else "i3d_r50") if is_mmaction2 else "i3d_r50_8x8_slowfast"
    form = "i3d_r50_nl_{}" if is_mmaction2 else "i3d_r50_8x8_nl_{}_slowfast"
    if is_mmaction2 and not any("theta" in name for name in shapes):
        return form.format("gaussian")
    if origin is CAFFE2:
        return form.format("embedded_gaussian")  # of the published files, which say nothing of themselves
    # SlowFast says it in this field. Its configurations have "softmax" elsewhere too: all of them as MODEL.HEAD_ACT.
    said = None if is_mmaction2 else re.search(r"\bINSTANTIATION:\s*(dot_product|softmax)\b", words)
    if said:
        return form.format({"dot_product": "dot_product", "softmax": "embedded_gaussian"}[said[1]])
    found = [mode for mode in ("dot_product", "embedded_gaussian") if mode in words]
    return form.format(found[0]) if len(found) == 1 else None


def num_classes(origin: Origin, shapes: Mapping[str, Shape], *, scope: str = "") -> int:
    """K by the classifier's bias; 400 where there is none, which is an error to be told with others."""
    bias: Any = shapes.get(scope + origin.entry("fc.bias"), ())
    return int(bias[-1]) if len(bias) > 0 and bias[-1] > 0 else 400
