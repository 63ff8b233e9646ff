"""Speed, correctness and memory on a GPU, subject by subject: tables as they come, and a record of each.

    python bench/gpu.py --out gpu-records
    python bench/gpu.py --only headline --only layers --out gpu-records
    python bench/gpu.py --only floors --device cpu --out gpu-records       # arithmetic alone, no GPU needed
    python bench/gpu.py --small --device cpu --out gpu-records             # a dry run: the figures mean nothing

Subjects come in order of importance and have a time each; one that fails, hangs or crashes is told, and the others go
on: they run in a process of their own, which is started again where it is lost. A record is written with every row, so
that a run that is cut off loses none. What each subject measures, and what is still unknown: ``bench/gpu.md``.
"""

from __future__ import annotations

import datetime
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from gpu_subjects.sheet import NotHereError, Sheet

from i3d_deploy import __version__, doctor
from i3d_deploy.benchmark import meters
from i3d_deploy.commands.options import reports_errors
from i3d_deploy.errors import I3DError

if TYPE_CHECKING:
    from gpu_subjects.setting import Setting

PATIENCE_SECONDS = 60
"""Beyond its time that a subject may take to stop by itself."""

START_SECONDS = 120
"""That the process which measures may take until its first subject."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One thing to measure.

    Attributes:
        module: Of ``gpu_subjects``; imported by the process that measures.
        minutes: That it may take.
        function: Measures it.
    """

    module: str
    minutes: float
    function: str = "run"

    def run(self, setting: Setting, sheet: Sheet) -> None:
        """Measure it."""
        getattr(importlib.import_module(f"gpu_subjects.{self.module}"), self.function)(setting, sheet)


SUBJECTS = {
    "ceilings": Subject(module="rates", minutes=0.5),
    "correct": Subject(module="correct", minutes=3),
    "headline": Subject(module="headline", minutes=5),
    "layers": Subject(module="layers", minutes=1.5, function="run_layers"),
    "groups": Subject(module="layers", minutes=1.5, function="run_groups"),
    "peers": Subject(module="others", minutes=4),
    "batch": Subject(module="throughput", minutes=1.5, function="run_batch"),
    "networks": Subject(module="throughput", minutes=2, function="run_networks"),
    "end_to_end": Subject(module="from_files", minutes=1),
    "training": Subject(module="training", minutes=1),
    "floors": Subject(module="floors", minutes=0.5),
}


@click.command()
@click.option("--only", multiple=True, type=click.Choice(tuple(SUBJECTS)), help="Subject; repeats. All otherwise.")
@click.option("--small", "is_small", is_flag=True, help="Small networks and sizes: a dry run.")
@click.option("--device", default="cuda", show_default=True, help="cuda, cuda:N or cpu.")
@click.option("--out", "folder", type=click.Path(path_type=Path), default=Path("gpu-records"), show_default=True)
@click.option("--minutes", type=click.FloatRange(min=0.05), help="For each subject.  [default: as suits it]")
@click.option(
    "--videos",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of videos for end_to_end.  [default: generated ones]",
)
@click.option("--threads", type=click.IntRange(min=1), help="That decode at a time.  [default: the cores]")
@click.option("--progress", type=click.Path(path_type=Path), hidden=True, help="Written by the process that measures.")
@reports_errors
def main(
    only: tuple[str, ...],
    is_small: bool,
    device: str,
    folder: Path,
    minutes: float | None,
    videos: Path | None,
    threads: int | None,
    progress: Path | None,
) -> None:
    """Measure speed, correctness and memory on a GPU."""
    names = [name for name in SUBJECTS if name in only or not only]
    folder.mkdir(parents=True, exist_ok=True)
    if progress is None:
        _watch(names, folder=folder, minutes=minutes)
        return
    from gpu_subjects.setting import Setting

    from i3d_deploy.runners.torch_runner import choose_device

    setting = Setting(
        device=choose_device(device),
        is_small=is_small,
        folder=folder,
        date=_today(),
        videos=videos,
        threads=threads or doctor.usable_cores(),
    )
    for name in names:
        _measure(name, setting, minutes=minutes or SUBJECTS[name].minutes, progress=progress)


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _watch(names: Sequence[str], *, folder: Path, minutes: float | None) -> None:
    """Let another process measure; start it again without the subject at which it was lost."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # and the other process ends as well
    given, remaining = _without_only(sys.argv[1:]), list(names)
    lost: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        progress = Path(scratch) / "progress"
        # Plans that are kept from other runs would leave nothing to find, and nothing to compare the fastest with.
        environment = {**os.environ, "XDG_CACHE_HOME": scratch}
        while remaining:
            progress.write_text("")
            warnings = [f"-W{option}" for option in sys.warnoptions]
            only = [part for name in remaining for part in ("--only", name)]
            command = [sys.executable, *warnings, __file__, *given, *only, "--progress", str(progress)]
            reason = _wait(subprocess.Popen(command, env=environment, process_group=0), progress, minutes=minutes)
            begun = progress.read_text().split()
            if reason is not None:
                if not begun:
                    raise I3DError(f"nothing was measured: {reason}")
                lost[begun[-1]] = reason
                click.echo(f"\n{begun[-1]}: {reason}")
            remaining = remaining[remaining.index(begun[-1]) + 1 :]
    _summarize(names, folder, lost)


def _summarize(names: Sequence[str], folder: Path, lost: Mapping[str, str]) -> None:
    """Every subject in a line; exit 1 where one failed."""
    click.echo("\n## summary\n\n| subject | status | seconds | reason |\n| --- | --- | --- | --- |")
    has_failed = False
    for name in names:
        path = folder / f"{_today()}_gpu_{name}.json"
        record = json.loads(path.read_text()) if path.exists() else {}
        status = "failed" if name in lost else record.get("status", "failed")
        reason = lost.get(name) or record.get("reason") or ""
        has_failed |= status == "failed"
        click.echo(f"| {name} | {status} | {record.get('wall_seconds', 0):.0f} | {reason} |")
    if has_failed:
        raise SystemExit(1)


def _without_only(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--only":
            next(rest)
        elif not argument.startswith("--only="):
            kept.append(argument)
    return kept


def _wait(process: subprocess.Popen[bytes], progress: Path, *, minutes: float | None) -> str | None:
    """Until it has ended, or a subject takes far too long; why it was lost, if it was."""
    current, since = "", time.monotonic()
    try:
        while process.poll() is None:
            time.sleep(0.2)
            begun = progress.read_text().split()
            if begun and begun[-1] != current:
                current, since = begun[-1], time.monotonic()
            allowed = PATIENCE_SECONDS + 60 * (minutes or SUBJECTS[current].minutes) if current else START_SECONDS
            if time.monotonic() - since > allowed:
                return f"stopped after {allowed:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return None if process.returncode == 0 else f"the process ended with {process.returncode}"


def _measure(name: str, setting: Setting, *, minutes: float, progress: Path) -> None:
    with progress.open("a") as file:
        file.write(f"{name}\n")
    setting.ends_at = time.monotonic() + 60 * minutes
    path = setting.folder / f"{setting.date}_gpu_{name}.json"
    protocol = {"is_small": setting.is_small, "minutes": minutes, "repeats": setting.sizes.repeats}
    sheet = Sheet(path, subject=name, head=_head(setting), protocol=protocol)
    try:
        SUBJECTS[name].run(setting, sheet)
    except NotHereError as error:
        sheet.finish("partly measured", str(error))
    except Exception as error:  # one subject costs no other
        sheet.finish("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:600]}")
        traceback.print_exc()
        _require_device(setting)
    else:
        sheet.finish("complete")


def _require_device(setting: Setting) -> None:
    """End this process where a kernel has left the GPU unusable to it."""
    if setting.device.type == "cuda":
        import torch

        torch.cuda.synchronize(setting.device)
        torch.cuda.empty_cache()


def _head(setting: Setting) -> dict[str, Any]:
    return {
        "i3d_deploy": __version__,
        "date": setting.date,
        "device": str(setting.device),
        "machine": meters.machine().model_dump(mode="json"),
        "gpu": _gpu(setting),
        "versions": doctor.installed_versions(),
    }


def _gpu(setting: Setting) -> dict[str, Any] | None:
    """What the GPU is and how it is clocked; None of a CPU."""
    import torch

    device = setting.device
    if device.type != "cuda":
        return None
    properties, name = torch.cuda.get_device_properties(device), str(device)
    questions: dict[str, Callable[[Any, Any], Any]] = {
        "driver": lambda nvml, gpu: nvml.nvmlSystemGetDriverVersion(),
        "sm_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
        "max_sm_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
        "power_watts": lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1e3,
        "power_limit_watts": lambda nvml, gpu: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1e3,
        "temperature_celsius": lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
    }
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "processors": properties.multi_processor_count,
        "l2_bytes": getattr(properties, "L2_cache_size", None),
        "memory_bytes": properties.total_memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": doctor.installed_versions().get("triton") or _version("triton"),
        **{question: meters.ask_gpu(name, ask) for question, ask in questions.items()},
    }


def _version(module: str) -> str | None:
    try:
        return str(__import__(module).__version__)
    except ImportError:
        return None


if __name__ == "__main__":
    main()
