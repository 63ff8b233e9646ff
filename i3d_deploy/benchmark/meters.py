"""What a process and the machine use: memory, processor time, energy, clocks.

Everything is read from the system where it tells; what it does not tell is None, never a guess.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from i3d_deploy import doctor
from i3d_deploy.benchmark.record import Gpu, Machine

T = TypeVar("T")

_PROC = Path("/proc")
_POWERCAP = Path("/sys/class/powercap")


def peak_memory_bytes() -> int:
    """Peak resident memory of this process."""
    for line in (_PROC / "self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def machine_cpu_seconds() -> float | None:
    """Processor time of all processes since the machine started; None where this process may not use all its cores."""
    if doctor.usable_cores() != os.cpu_count():
        return None
    try:
        fields = (_PROC / "stat").read_text().partition("\n")[0].split()[1:]
    except OSError:
        return None
    # proc(5): user, nice, system, idle, iowait, irq, softirq, steal; guests are part of user.
    user, nice, system, _, _, interrupt, soft_interrupt, steal = (int(field) for field in fields[:8])
    return (user + nice + system + interrupt + soft_interrupt + steal) / os.sysconf("SC_CLK_TCK")


class Meter:
    """Adds up wall time, processor time and energy over many turns.

    Args:
        device: Where the network runs: "cpu" or "cuda:0".

    Attributes:
        wall_seconds: So far.
        cpu_seconds: Of all threads of this process so far.
        joules: Of the device so far; None where it does not report energy.
        energy_source: What reports it.
        others_seconds: Of all other processes on the machine so far; None where that cannot be told.
        clocks_mhz: Clock at the end of each turn.
    """

    def __init__(self, device: str) -> None:
        self._energy = _Energy(device)
        self.energy_source = self._energy.source
        self.wall_seconds = 0.0
        self.cpu_seconds = 0.0
        self.joules = None if self.energy_source is None else 0.0
        self.others_seconds = None if machine_cpu_seconds() is None else 0.0
        self.clocks_mhz: list[float] = []
        self._device = device

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add what happens inside."""
        joules, everybody = self._energy.read(), machine_cpu_seconds()
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        own = time.process_time() - cpu
        self.wall_seconds += time.perf_counter() - wall
        self.cpu_seconds += own
        everybody_after = machine_cpu_seconds()
        if self.others_seconds is not None and everybody is not None and everybody_after is not None:
            self.others_seconds += max(0.0, everybody_after - everybody - own)
        after, clock = self._energy.read(), clock_mhz(self._device)
        self.clocks_mhz += [] if clock is None else [clock]
        if self.joules is not None and joules is not None and after is not None:
            self.joules += self._energy.difference(joules, after)


class _Energy:
    """The counter of a GPU (NVML), or of the processor packages (powercap), which often only root may read."""

    def __init__(self, device: str) -> None:
        self._device = device
        # Zones within a package, such as intel-rapl:0:1, are part of it.
        found = [] if device.startswith("cuda") else sorted(_POWERCAP.glob("*-rapl:[0-9]*/energy_uj"))
        self._packages = tuple(path for path in found if path.parent.name.count(":") == 1)
        name = "NVML, whole GPU" if device.startswith("cuda") else "powercap, processor packages"
        self.source = None if self.read() is None else name

    def read(self) -> tuple[float, ...] | None:
        """Joules of each counter; None where there is none that may be read."""
        if self._device.startswith("cuda"):
            millijoules = ask_gpu(self._device, lambda nvml, gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu))
            return None if millijoules is None else (millijoules / 1e3,)
        try:
            values = tuple(int(path.read_text()) / 1e6 for path in self._packages)
        except (OSError, ValueError):
            return None
        return values or None

    def difference(self, before: tuple[float, ...], after: tuple[float, ...]) -> float:
        """Joules between two readings; a counter that ran over has begun again at zero."""
        ranges = [self._range(path) for path in self._packages] or [0.0]
        grown = zip(before, after, ranges, strict=True)
        return sum(late - early if late >= early else late - early + full for early, late, full in grown)

    def _range(self, path: Path) -> float:
        """Joules at which a package's counter begins again."""
        try:
            return int(path.with_name("max_energy_range_uj").read_text()) / 1e6
        except (OSError, ValueError):
            return 0.0


def gpu_memory_used(device: str) -> int | None:
    """Bytes in use on a GPU by all processes; None of a CPU, and where NVML does not tell."""
    return ask_gpu(device, lambda nvml, handle: int(nvml.nvmlDeviceGetMemoryInfo(handle).used))


def ask_gpu(device: str, question: Callable[[Any, Any], T]) -> T | None:
    """What NVML says of a GPU.

    Args:
        device: Such as "cuda:0", counted as CUDA counts: among those that are visible.
        question: Given the module and the GPU's handle.

    Returns:
        None of a CPU, and where NVML is not installed, finds no driver, or does not tell this of this GPU.
    """
    nvml = _nvml()
    if nvml is None or not device.startswith("cuda"):
        return None
    try:
        return question(nvml, _handle(nvml, int(device.partition(":")[2] or 0)))
    except (nvml.NVMLError, IndexError, ValueError):  # the latter two of CUDA_VISIBLE_DEVICES
        return None


def _nvml() -> Any:
    """NVML's module, initialised; None where it is not installed or there is no driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _handle(nvml: Any, number: int) -> Any:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return nvml.nvmlDeviceGetHandleByIndex(number)
    # NVML counts all GPUs, CUDA those that are visible.
    name = visible.split(",")[number].strip()
    by_number, by_uuid = nvml.nvmlDeviceGetHandleByIndex, nvml.nvmlDeviceGetHandleByUUID
    return by_number(int(name)) if name.isdecimal() else by_uuid(name)


def clock_mhz(device: str) -> float | None:
    """Clock now: of a GPU's multiprocessors, or the mean of the cores; None where the system does not tell."""
    if device.startswith("cuda"):
        return ask_gpu(device, lambda nvml, gpu: float(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)))
    try:
        lines = (_PROC / "cpuinfo").read_text().splitlines()
    except OSError:
        return None
    clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return round(statistics.mean(clocks), 1) if clocks else None


def machine() -> Machine:
    """The machine in words, never its name or user."""
    seen = doctor.look_at_machine()
    return Machine(
        cpu=seen.cpu,
        cores=seen.cores,
        cpu_features=seen.cpu_features,
        memory_bytes=round(seen.memory_gib * 2**30),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        gpus=_gpus(),
    )


def _gpus() -> tuple[Gpu, ...]:
    nvml = _nvml()
    if nvml is None:
        return ()
    handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(nvml.nvmlDeviceGetCount())]
    return tuple(
        Gpu(
            name=nvml.nvmlDeviceGetName(handle),
            driver=nvml.nvmlSystemGetDriverVersion(),
            memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
            max_clock_mhz=_max_clock_mhz(nvml, handle),
        )
        for handle in handles
    )


def _max_clock_mhz(nvml: Any, handle: Any) -> int | None:
    try:
        return int(nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM))
    except nvml.NVMLError:  # a part of a GPU may not tell
        return None
