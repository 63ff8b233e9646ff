"""The published figure, by ``i3d-bench`` itself; and what it could be at most."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from pathlib import Path

from gpu_subjects import floors, rates
from gpu_subjects.clock import timed
from gpu_subjects.setting import R50, Setting
from gpu_subjects.sheet import NotHereError, Sheet
from i3d_deploy import checkpoint
from i3d_deploy.benchmark import record as records
from i3d_deploy.benchmark.record import Record
from i3d_deploy.frames import Resized
from i3d_deploy.predictions import average_views
from i3d_deploy.runners import Runner, fused_runner

COMMAND = "from i3d_deploy.commands.bench import main; main()"
LATE = ("layer3", "layer4")
"""Parts that all views go through together: Note [Parts] in :mod:`i3d_deploy.fused.networks`."""


def run(setting: Setting, sheet: Sheet) -> None:
    """Videos a second of an R50, the recorded network alone, and floors."""
    fastest = _by_runner(setting, sheet)
    failure = None
    try:
        fastest = _show(sheet, _bench(setting, sheet))
    except NotHereError as error:
        failure = error
    _show_alone(setting, sheet)
    _show_floors(setting, sheet, fastest)
    if failure is not None:
        raise failure


def _by_runner(setting: Setting, sheet: Sheet) -> float:
    """The runner in this process, lest nothing is known where ``i3d-bench`` does not come to its end."""
    table = sheet.table("the runner in this process: uint8 views in page-locked memory to probabilities in host memory")
    medians = []
    for precision in setting.precisions:
        runner = setting.runner(R50, precision)
        card, views = runner.card, setting.sizes.views
        setting.plan(R50, precision, views)  # before the first run finds it, whose time nobody takes
        given = runner.allocate((views, *card.view_shape), card.spatial.dtype)
        given[:] = setting.views(card, views)

        def once(runner: Runner = runner, given: Resized = given) -> object:
            return average_views(runner.infer(given), over=runner.card.averaging)

        times = timed(once, setting.device, warmup=3, repeats=setting.sizes.repeats, together=5)
        medians.append(times.median)
        table.row(
            precision=precision, videos_per_s=1 / times.median, ms_per_video=times.median * 1e3, spread=times.spread
        )
    return min(medians)


def _show_alone(setting: Setting, sheet: Sheet) -> None:
    table = sheet.table(
        "the network alone, views on the device to logits there: its chunks and its late parts, each recorded"
    )
    views = setting.sizes.views
    for precision in setting.precisions:
        found = setting.plan(R50, precision, views)
        table.row(
            precision=precision,
            chunk=found.plan.chunk,
            ms_per_video=found.seconds * 1e3,
            videos_per_s=1 / found.seconds,
            seconds_to_find_the_plan=found.seconds_to_find,
        )


def _bench(setting: Setting, sheet: Sheet) -> Record:
    """A run of ``i3d-bench``; its record is kept beside the others."""
    protocol = "16x1" if setting.is_small else "320x3"
    path = setting.folder / f"{setting.date}_gpu_r50.json"
    path.unlink(missing_ok=True)
    precisions = ("fp32", *setting.precisions) if setting.device.type == "cuda" else ("fp32",)
    options = [part for precision in precisions for part in ("--precision", precision)]
    options += ["--protocol", protocol, "--device", str(setting.device)]
    options += ["--videos", "1", "--warmup", "1", "--seconds", "0"] if setting.is_small else ["--seconds", "5"]
    options += ["--ceilings", "0" if setting.is_small else "0.2"]
    sheet.protocol(command=f"i3d-bench {R50}.safetensors {' '.join(options)}")
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / f"{R50}.safetensors"
        checkpoint.save(setting.checkpoint(R50), artifact)
        command = [sys.executable, "-c", COMMAND, str(artifact), *options, "--json", str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            output, _ = process.communicate(timeout=max(10, setting.seconds_left))
        except subprocess.TimeoutExpired as error:
            process.terminate()  # and it ends its workers
            process.communicate()
            raise NotHereError(f"i3d-bench was not done after {error.timeout:.0f} s") from error
    if not path.exists():
        raise NotHereError(f"i3d-bench: {' '.join(output.split())[-600:]}")
    return records.read(path)


def _show(sheet: Sheet, found: Record) -> float:
    """The record as a table; seconds per video of the fastest."""
    table = sheet.table("i3d-bench: uint8 views in host memory to probabilities in host memory")
    for result in found.results:
        line = result.roofline
        table.row(
            artifact=result.artifact,
            videos_per_s=result.videos_per_second,
            ms_per_video=result.model.median * 1e3,
            spread=result.model.spread,
            of_ceiling=None if line is None else f"{line.share:.0%}",
            difference=result.difference,
            allowed=result.difference_allowed,
            device_MiB=None if result.peak_device_bytes is None else result.peak_device_bytes / 2**20,
            clock_MHz=result.model.clock_mhz,
        )
    for failure in found.failures:
        sheet.note(f"{failure.artifact} was not timed: {failure.reason}")
    return min(result.model.median for result in found.results)


def _show_floors(setting: Setting, sheet: Sheet, fastest: float) -> None:
    source, views, ceilings = setting.checkpoint(R50), setting.sizes.views, rates.measured(setting)
    work = floors.work_of(source)
    layers = floors.layers_of(source, views)
    view_bytes = math.prod(source.card.view_shape)
    by_layers = sum(layer.floor_seconds(ceilings) for layer in layers)
    late = sum(layer.floor_seconds(ceilings) for layer in layers if layer.part in LATE)
    chunk = min(fused_runner.CHUNK, views)
    whole, first = (rates.upload_seconds(setting, n * view_bytes) for n in (views, chunk))
    least = {
        "arithmetic, plain": 2 * work.plain * views / ceilings.operations,
        "arithmetic, stem4": 2 * work.stem4 * views / ceilings.operations,
        "each layer by itself": by_layers,
        "copy of all views": whole,
        "copy of the first chunk, then each layer by itself": None if first is None else first + by_layers,
        "copy of all views, then the last chunk and the late parts": (
            None if whole is None else whole + (by_layers - late) * chunk / views + late
        ),
    }
    table = sheet.table(f"floors, {ceilings.source}")
    for name, seconds in least.items():
        if seconds is not None:
            table.row(
                floor=name,
                ms_per_video=seconds * 1e3,
                videos_per_s=1 / seconds,
                share=seconds / fastest,
            )
    sheet.note("share: of the time of a video above, of i3d-bench where it was measured")
