"""What a process and the machine use: memory, processor time, energy, clocks.

Everything is read from the system where it tells; what it does not tell is None, never a guess.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from i3d_deploy import doctor
from i3d_deploy.benchmark.record import Gpu, Machine

_PROC = Path("/proc")
_POWERCAP = Path("/sys/class/powercap")


def peak_memory_bytes() -> int:
    """Peak resident memory of this process."""
    for line in (_PROC / "self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Meter:
    """Adds up wall time, processor time and energy over many turns.

    Args:
        device: Where the network runs: "cpu" or "cuda:0".

    Attributes:
        wall_seconds: So far.
        cpu_seconds: Of all threads of this process so far.
        joules: Of the device so far; None where it does not report energy.
        energy_source: What reports it.
    """

    def __init__(self, device: str) -> None:
        self._energy = _Energy(device)
        self.energy_source = self._energy.source
        self.wall_seconds = 0.0
        self.cpu_seconds = 0.0
        self.joules = None if self.energy_source is None else 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add what happens inside."""
        joules, cpu, wall = self._energy.read(), time.process_time(), time.perf_counter()
        yield
        self.wall_seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu
        after = self._energy.read()
        if self.joules is not None and joules is not None and after is not None:
            self.joules += self._energy.difference(joules, after)


class _Energy:
    """The counter of a GPU (NVML), or of the processor packages (powercap), which often only root may read."""

    def __init__(self, device: str) -> None:
        self.source: str | None = None
        self._gpu: Any = None
        self._packages: tuple[Path, ...] = ()
        if device.startswith("cuda"):
            self._gpu = _nvml_handle(device)
            self.source = "NVML, whole GPU" if self._gpu is not None else None
        else:
            self._packages = tuple(sorted(_POWERCAP.glob("*-rapl:[0-9]*/energy_uj")))
            self.source = "powercap, processor packages" if self._packages else None
        if self.read() is None:
            self.source = None

    def read(self) -> tuple[float, ...] | None:
        """Joules of each counter."""
        try:
            if self._gpu is not None:
                return (_nvml().nvmlDeviceGetTotalEnergyConsumption(self._gpu) / 1e3,)
            values = tuple(int(path.read_text()) / 1e6 for path in self._packages if path.parent.name.count(":") == 1)
        except Exception:  # NVML's error has no public base before it is imported; powercap gives OSError
            return None
        return values or None

    def difference(self, before: tuple[float, ...], after: tuple[float, ...]) -> float:
        """Joules between two readings; a counter that ran over starts again at zero."""
        return sum(late - early if late >= early else late for early, late in zip(before, after, strict=True))


def device_memory_used(device: str) -> int | None:
    """Bytes in use on a GPU by all processes; None of a CPU, and where NVML is not installed."""
    handle = _nvml_handle(device) if device.startswith("cuda") else None
    return None if handle is None else int(_nvml().nvmlDeviceGetMemoryInfo(handle).used)


def _nvml() -> Any:
    import pynvml

    return pynvml


def _nvml_handle(device: str) -> Any:
    """NVML's handle of a CUDA device; None where NVML or the driver is missing."""
    try:
        nvml = _nvml()
        nvml.nvmlInit()
        number = int(device.partition(":")[2] or 0)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible:
            # NVML counts all GPUs, CUDA those that are visible.
            name = visible.split(",")[number].strip()
            return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else _by_uuid(nvml, name)
        return nvml.nvmlDeviceGetHandleByIndex(number)
    except Exception:  # as in read
        return None


def _by_uuid(nvml: Any, name: str) -> Any:
    return nvml.nvmlDeviceGetHandleByUUID(name)


def clock_mhz() -> float | None:
    """Mean clock of the cores now; None where the system does not tell."""
    try:
        lines = (_PROC / "cpuinfo").read_text().splitlines()
    except OSError:
        return None
    clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return round(statistics.mean(clocks), 1) if clocks else None


def machine(*, clock_at_start: float | None = None) -> Machine:
    """The machine in words, never its name or user.

    Args:
        clock_at_start: :func:`clock_mhz` from before the run.
    """
    seen = doctor.look_at_machine()
    now = clock_mhz()
    return Machine(
        cpu=seen.cpu,
        cores=seen.cores,
        cpu_features=seen.cpu_features,
        memory_bytes=round(seen.memory_gib * 2**30),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        clock_mhz=None if now is None else (clock_at_start or now, now),
        gpus=_gpus(),
    )


def _gpus() -> tuple[Gpu, ...]:
    try:
        nvml = _nvml()
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
        return tuple(
            Gpu(
                name=nvml.nvmlDeviceGetName(handle),
                driver=nvml.nvmlSystemGetDriverVersion(),
                memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
                clock_mhz=nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
                max_clock_mhz=nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
            )
            for handle in handles
        )
    except Exception:  # no NVML, no driver, no GPU
        return ()
