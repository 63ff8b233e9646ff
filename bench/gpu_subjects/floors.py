"""What the network's arithmetic and memory traffic take at the least: counted, not timed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from gpu_subjects.rates import Rates, measured
from gpu_subjects.setting import R50, Setting
from gpu_subjects.sheet import Sheet
from i3d_deploy import torch_work
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.fused import layers, stacking
from i3d_deploy.fused.convolution import Window
from i3d_deploy.fused.layers import Recording
from i3d_deploy.fused.networks import FusedNetwork

OTHERS = (
    "i3d_r50_heavy",
    "i3d_r50_nl_embedded_gaussian",
    "i3d_r50_nl_gaussian",
    "i3d_r50_8x8_slowfast",
    "i3d_r50_8x8_nl_embedded_gaussian_slowfast",
    "i3d_inception_rgb",
    "i3d_inception_flow",
)
"""Those that are left out do the work of one of these."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One step of the network over all views.

    Attributes:
        part: "stem", "layer1" and so on.
        kind: In words.
        macs: Multiply-accumulates, those with channels of zeros included.
        moved_bytes: Inputs, weights, shortcut and result, each once.
    """

    part: str
    kind: str
    macs: int
    moved_bytes: int

    def product_seconds(self, rates: Rates) -> float:
        """Its arithmetic at the rate of a large product."""
        return 2 * self.macs / rates.operations

    def copy_seconds(self, rates: Rates) -> float:
        """Its traffic at the rate of a copy."""
        return self.moved_bytes / rates.moved_bytes

    def floor_seconds(self, rates: Rates) -> float:
        """The longer of the two."""
        return max(self.product_seconds(rates), self.copy_seconds(rates))


def kind_of(window: Window, *, has_shortcut: bool, is_rectified: bool) -> str:
    """A convolution in words, without its sizes.

    Args:
        window: What it spans.
        has_shortcut: Whether one is added.
        is_rectified: Whether a ReLU follows.
    """
    words = "x".join(map(str, window.kernel))
    if window.kernel[1] == 7:
        return f"stem {words}"
    words += " + shortcut" if has_shortcut else ""
    words += "" if is_rectified else ", no ReLU"
    return words + (f", stride {window.stride[1]}" if window.stride[1] > 1 else "")


def layers_of(source: Checkpoint, views: int) -> list[Layer]:
    """Every step of a fused network in half precision.

    Args:
        source: The network; its weights do not matter.
        views: N.
    """
    nowhere, dtype = torch.device("meta"), torch.float16
    network = FusedNetwork(source.model, source.card.pixels, dtype=dtype, device=nowhere)
    pixels = torch.empty((views, *source.card.view_shape), dtype=torch.uint8, device=nowhere)
    x = Recording(dtype).stack(network.stacking, stacking.of_views(pixels))
    moved = pixels.numel() + x.numel() * dtype.itemsize
    found = [Layer(part="stem", kind="frames to stacked images", macs=0, moved_bytes=moved)]
    for number, part in enumerate(network.parts):
        steps = Recording(dtype)
        x = part.run(steps, x, None)
        name = f"layer{number}" if number else "stem"
        found += [_layer(name, recorded) for recorded in steps.layers.elements()]
    return found


def _layer(part: str, recorded: layers.Layer) -> Layer:
    kernel = "x".join(map(str, recorded.window.kernel))
    kind = f"max pool {kernel}"
    if recorded.out_channels is not None:
        kind = kind_of(recorded.window, has_shortcut=recorded.has_shortcut, is_rectified=recorded.is_rectified)
    return Layer(part=part, kind=kind, macs=recorded.macs, moved_bytes=recorded.moved_bytes)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Multiply-accumulates of one view.

    Attributes:
        plain: As the network was trained.
        stem4: Without the frames of the stem that the pool after it drops: :mod:`i3d_deploy.rewrites`.
    """

    plain: int
    stem4: int


def work_of(source: Checkpoint) -> Work:
    """Count an R50's work.

    Args:
        source: The network.
    """
    network, (_, height, width, _) = source.card.network, source.card.view_shape
    plain = torch_work.work_of_network(network, source.card.view_shape).macs
    stem = source.model.get_submodule("conv1")
    assert isinstance(stem, torch.nn.Conv3d), "a ResNet begins with a convolution"
    frames = source.card.view_shape[0] // (stem.stride[0] * 2)
    dropped = frames * math.ceil(height / 2) * math.ceil(width / 2) * stem.weight.numel()
    return Work(plain=plain, stem4=plain - dropped)


def run(setting: Setting, sheet: Sheet) -> None:
    """Floors of a video of an R50 from its work alone."""
    source, views, rates = setting.checkpoint(R50), setting.sizes.views, measured(setting)
    sheet.note(f"{rates.source}; {views} views of {'x'.join(map(str, source.card.view_shape[:3]))}, half precision")
    work = work_of(source)
    table = sheet.table("arithmetic alone")
    for name, macs in (("plain", work.plain), ("stem4", work.stem4)):
        seconds = 2 * macs * views / rates.operations
        table.row(
            network=name,
            GMAC_per_view=round(macs / 1e9, 2),
            TFLOP_per_video=round(2 * macs * views / 1e12, 2),
            ms_per_video=round(seconds * 1e3, 2),
            videos_per_s=1 / seconds,
        )
    listed = layers_of(source, views)
    _show(sheet, "each layer by itself, by part", listed, rates, lambda layer: layer.part)
    _show(sheet, "each layer by itself, by kind", listed, rates, lambda layer: layer.kind)
    _show_others(setting, sheet, rates)
    sheet.note(
        "at least: the longer of arithmetic and traffic of each layer, added up. Maps that the next layer finds in the "
        "cache cost less, so groups of views can go below it."
    )


def _show(sheet: Sheet, title: str, listed: Sequence[Layer], rates: Rates, name: Callable[[Layer], str]) -> None:
    grouped: dict[str, list[Layer]] = defaultdict(list)
    for layer in listed:
        grouped[name(layer)].append(layer)
    table = sheet.table(title)
    total = sum(layer.floor_seconds(rates) for layer in listed)
    for words, some in [*grouped.items(), ("all", list(listed))]:
        least = sum(layer.floor_seconds(rates) for layer in some)
        table.row(
            layer=words,
            count=len(some),
            GMAC=round(sum(layer.macs for layer in some) / 1e9, 1),
            GB=round(sum(layer.moved_bytes for layer in some) / 1e9, 2),
            arithmetic_ms=round(sum(layer.product_seconds(rates) for layer in some) * 1e3, 3),
            traffic_ms=round(sum(layer.copy_seconds(rates) for layer in some) * 1e3, 3),
            at_least_ms=round(least * 1e3, 3),
            share=least / total,
        )


def _show_others(setting: Setting, sheet: Sheet, rates: Rates) -> None:
    table = sheet.table(f"arithmetic alone, other networks as they were trained, {setting.sizes.views} views")
    for name in OTHERS[:1] if setting.is_small else OTHERS:
        card = setting.card(name)
        macs = torch_work.work_of_network(card.network, card.view_shape).macs
        seconds = 2 * macs * setting.sizes.views / rates.operations
        table.row(
            network=name,
            view="x".join(map(str, card.view_shape)),
            GMAC_per_view=round(macs / 1e9, 2),
            TFLOP=round(2 * macs * setting.sizes.views / 1e12, 2),
            ms=round(seconds * 1e3, 2),
        )
