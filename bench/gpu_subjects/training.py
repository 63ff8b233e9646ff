"""A step of training: the project's own beside a plain PyTorch loop, in turns, on clips that are on the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

from gpu_subjects.clock import Times, timed
from gpu_subjects.rates import measured
from gpu_subjects.setting import R50, Setting
from gpu_subjects.sheet import Sheet
from gpu_subjects.throughput import watched
from i3d_deploy import torch_work
from i3d_deploy.benchmark import timing
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.training import distributed, recipe
from i3d_deploy.training.dataset import ClipBatch
from i3d_deploy.training.learner import Learner
from i3d_deploy.training.recipe import Recipe

RECIPES = Path(__file__).parents[2] / "training" / "recipes"
RECIPE = "i3d_r50_video_32x2x1_100e_kinetics400_rgb"
FORWARD_AND_BACKWARD = 3
"""A backward pass multiplies twice as much as a forward pass."""

Step = Callable[[], object]


def run(setting: Setting, sheet: Sheet) -> None:
    """Time steps of the learner and of plain loops."""
    spec = recipe.load(RECIPE, folder=RECIPES)
    spec = spec.replaced(compute=spec.compute.replaced(autocast="bf16"), optimizer=spec.optimizer.replaced(lr=1e-5))
    source = setting.checkpoint(R50)
    length, height, width = (8, 32, 32) if setting.is_small else (32, 224, 224)
    videos = setting.sizes.training_videos
    clips = torch.randint(0, 256, (videos, length, height, width, 3), dtype=torch.uint8)
    batch = ClipBatch(
        clips=clips.to(setting.device),
        targets=(torch.arange(videos) % source.card.network.num_classes).to(setting.device),
        names=[],
        failures=[],
    )
    rates = measured(setting)
    macs = torch_work.work_of_network(source.card.network, (length, height, width, 3)).macs
    operations = FORWARD_AND_BACKWARD * 2 * macs * videos
    sheet.protocol(clips=list(clips.shape), autocast="bf16", recipe=RECIPE, rates=rates.source)
    steps: dict[str, Step] = {}
    held = {}
    with distributed.joined(str(setting.device)) as process:
        makers: dict[str, Callable[[], Step]] = {
            "i3d-deploy": lambda: _ours(setting.checkpoint(R50), spec, process, batch),
            "plain PyTorch loop": lambda: _plain(setting, batch, memory_format=torch.contiguous_format),
            "plain PyTorch loop, channels_last_3d": lambda: _plain(
                setting, batch, memory_format=torch.channels_last_3d
            ),
        }
        for name, make in makers.items():
            with watched(setting.device) as memory:
                steps[name] = make()
                timed(steps[name], setting.device, warmup=2, repeats=1)
            held[name] = memory.cells
        rounds: dict[str, list[Times]] = {name: [] for name in steps}
        for _ in range(setting.sizes.repeats):
            for name, step in steps.items():
                rounds[name].append(timed(step, setting.device, warmup=1, repeats=3))
    _show(sheet, rounds, held, videos=videos, operations=operations, ceiling=rates.operations)


def _show(
    sheet: Sheet,
    rounds: dict[str, list[Times]],
    held: dict[str, dict[str, float | None]],
    *,
    videos: int,
    operations: int,
    ceiling: float,
) -> None:
    ours = [times.seconds for times in rounds["i3d-deploy"]]
    table = sheet.table("steps of training, in turns")
    for name, turns in rounds.items():
        seconds = Times(seconds=tuple(times.median for times in turns))
        ratio = timing.ratio(name, [times.seconds for times in turns], "i3d-deploy", ours)
        table.row(
            loop=name,
            ms=seconds.median * 1e3,
            spread=seconds.spread,
            videos_per_s=videos / seconds.median,
            utilisation=operations / seconds.median / ceiling,
            times_as_long_as_ours=1 / ratio.ratio,
            **held[name],
        )
    sheet.note("utilisation: three times the forward pass's arithmetic over the time, of the rate of a large product")


def _ours(source: Checkpoint, spec: Recipe, process: distributed.Process, batch: ClipBatch) -> Step:
    learner = Learner(source.model, spec, process=process, seed=0)
    return lambda: learner.step([batch], step=0, lr=1e-5)


def _plain(setting: Setting, batch: ClipBatch, *, memory_format: torch.memory_format) -> Step:
    """As one would write it."""
    source, device = setting.checkpoint(R50), setting.device
    network = source.model.to(device).train()
    network.to(memory_format=memory_format)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-5, momentum=0.9, weight_decay=1e-4)
    mean, std = (torch.tensor(values, device=device) for values in (source.card.pixels.mean, source.card.pixels.std))

    def step() -> None:
        clips = ((batch.clips.float() - mean) / std).permute(0, 4, 1, 2, 3).contiguous(memory_format=memory_format)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = functional.cross_entropy(network(clips), batch.targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 40.0)
        optimizer.step()

    return step
