"""Views a second and memory by the number of views, and by network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from gpu_subjects.clock import timed
from gpu_subjects.setting import R50, Setting
from gpu_subjects.sheet import NotHereError, Sheet
from i3d_deploy.benchmark import meters
from i3d_deploy.errors import DeviceError
from i3d_deploy.fused import choice, stacking
from i3d_deploy.fused.algorithms import ThreeDimensions
from i3d_deploy.predictions import average_views
from i3d_deploy.runners import fused_runner

BATCHES = (30, 1, 120, 10, 60, 15, 2, 5, 3, 6)
"""In order of importance."""
SMALL_BATCHES = (2, 1)

NETWORKS = (
    "i3d_r50_nl_embedded_gaussian",
    "i3d_inception_rgb",
    "i3d_r50_8x8_slowfast",
    "i3d_inception_flow",
    "i3d_r50_nl_dot_product",
    "i3d_r50_nl_gaussian",
    "i3d_r50_heavy",
    "i3d_r50_8x8_pytorchvideo",
    "i3d_r50_8x8_nl_embedded_gaussian_slowfast",
    "i3d_r50_8x8_nl_dot_product_slowfast",
)
SMALL_NETWORKS = ("i3d_r50_nl_dot_product", "i3d_inception_flow")


@dataclass(kw_only=True)
class Memory:
    """Bytes on a device beyond those before; None of a CPU.

    Attributes:
        peak: At most, in PyTorch's tensors.
        device: At the end, of all that the device holds, by NVML.
    """

    peak: int | None = None
    device: int | None = None

    @property
    def cells(self) -> dict[str, float | None]:
        """For a table."""
        amounts = {"tensors_MiB": self.peak, "device_MiB": self.device}
        return {name: None if amount is None else amount / 2**20 for name, amount in amounts.items()}


@contextmanager
def watched(device: torch.device) -> Iterator[Memory]:
    """What the block takes beyond what was there."""
    found = Memory()
    if device.type != "cuda":
        yield found
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    held, used = torch.cuda.memory_allocated(device), meters.gpu_memory_used(str(device))
    yield found
    torch.cuda.synchronize(device)
    found.peak = torch.cuda.max_memory_allocated(device) - held
    after = meters.gpu_memory_used(str(device))
    found.device = None if used is None or after is None else after - used


def run_batch(setting: Setting, sheet: Sheet) -> None:
    """Views a second of the recorded R50 by the number of views that are computed together."""
    precision = setting.precisions[0]
    found, network = setting.plan(R50, precision, setting.sizes.views), setting.network(R50, precision)
    # Only ways that were the fastest of some layer of a whole video, since all would take minutes; and one that always
    # fits.
    fastest = {chosen.way.name: chosen.way for chosen in found.plan.choices.values()}
    ways = list({**fastest, ThreeDimensions().name: ThreeDimensions()}.values())
    sheet.protocol(precision=precision, ways=[way.name for way in ways], clock="views and logits on the device")
    card = setting.card(R50)
    table = sheet.table(f"views together, {precision}")
    for count in SMALL_BATCHES if setting.is_small else BATCHES:
        if setting.seconds_left < 0:
            raise NotHereError(f"out of time before {count} views")
        pixels = torch.from_numpy(setting.views(card, min(count, setting.sizes.views))).to(setting.device)
        pixels = pixels.repeat(-(-count // len(pixels)), 1, 1, 1, 1)[:count]
        with watched(setting.device) as memory:
            plan = choice.plan(network, stacking.of_views(pixels), chunk=fused_runner.CHUNK, ways=ways)
        seconds = plan.seconds[plan.groups]
        table.row(
            views=count,
            ms=seconds * 1e3,
            views_per_s=count / seconds,
            groups="-".join(map(str, plan.groups)),
            **memory.cells,
        )
    sheet.note("memory: beyond weights and views, and while ways are still tried, which takes more than running")


def run_networks(setting: Setting, sheet: Sheet) -> None:
    """Every other network by the project's runner: uint8 views in host memory to probabilities there."""
    precision, views = setting.precisions[0], setting.sizes.views
    sheet.protocol(precision=precision, views=views, views_together=fused_runner.TOGETHER)
    table = sheet.table(f"networks, {precision}, {views} views: uint8 views in host memory to probabilities there")
    for name in SMALL_NETWORKS if setting.is_small else NETWORKS:
        if setting.seconds_left < 0:
            raise NotHereError(f"out of time before {name}")
        card = setting.card(name)
        per_video = card.sampling.num_clips * card.spatial.num_crops
        try:
            with watched(setting.device) as memory:
                runner = setting.runner(name, precision)
                given = runner.allocate((views, *card.view_shape), card.spatial.dtype)
                given[:] = setting.views(card, views)
                times = timed(
                    lambda: average_views(runner.infer(given), over=card.averaging),  # noqa: B023
                    setting.device,
                    repeats=setting.sizes.repeats,
                )
        except DeviceError as error:
            sheet.note(f"{name}: {error}")
            continue
        table.row(
            network=name,
            view="x".join(map(str, card.view_shape)),
            ms=times.median * 1e3,
            spread=times.spread,
            views_per_s=views / times.median,
            views_of_a_video=per_video,
            videos_per_s=views / times.median / per_video,
            **memory.cells,
        )
        # The plan and what is recorded of it stay for no other subject.
        setting.kept.pop(("runner", name, precision)).close()
    sheet.note("memory: with weights; where a subject before has loaded the network, without them")
