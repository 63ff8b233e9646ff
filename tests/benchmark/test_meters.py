"""Meters against work whose use is known."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from i3d_deploy import doctor
from i3d_deploy.benchmark import meters

MIB = 2**20


def test_processor_time_is_that_of_this_process() -> None:
    meter = meters.Meter("cpu")
    with meter.running():
        time.sleep(0.2)
    idle = meter.cpu_seconds
    assert meter.wall_seconds >= 0.2
    with meter.running():
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
    assert meter.cpu_seconds - idle >= 0.2


PEAK = """
from i3d_deploy.benchmark import meters
start = meters.peak_memory_bytes()
block = bytearray(b"1") * (200 * 2**20)
del block
print(start, meters.peak_memory_bytes())
"""


def test_the_peak_of_memory_is_what_was_in_use_at_most() -> None:
    # In a process of its own: others than this test have used memory here.
    done = subprocess.run([sys.executable, "-c", PEAK], check=True, capture_output=True, text=True)
    start, peak = (int(word) for word in done.stdout.split())
    assert 190 * MIB < peak - start < 250 * MIB


def test_a_machine_is_told_without_names() -> None:
    found = meters.machine()
    assert found.cores == doctor.usable_cores() >= 1
    assert found.memory_bytes is not None
    assert found.memory_bytes > 2**29
    assert found.cpu


def test_energy_is_reported_or_left_out() -> None:
    meter = meters.Meter("cpu")
    with meter.running():
        pass
    assert (meter.joules is None) == (meter.energy_source is None)


def test_energy_of_processor_packages_is_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Two packages; the zone within the first is part of it and must not count twice.
    counters = {"intel-rapl:0": 1_000_000, "intel-rapl:0:0": 500_000, "intel-rapl:1": 2_000_000}
    for zone, microjoules in counters.items():
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "energy_uj").write_text(f"{microjoules}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text("5000000\n")
    monkeypatch.setattr(meters, "_POWERCAP", tmp_path)
    meter = meters.Meter("cpu")
    with meter.running():
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text("4000000\n")
        (tmp_path / "intel-rapl:1" / "energy_uj").write_text("2500000\n")
    assert (meter.joules, meter.energy_source) == (3.5, "powercap, processor packages")
    with meter.running():
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text("1000000\n")  # past 5 J it began again: 4 to 5 and 0 to 1
    assert meter.joules == 5.5


@pytest.mark.gpu
def test_a_gpu_reports_energy_memory_and_clocks() -> None:
    meter = meters.Meter("cuda:0")
    with meter.running():
        time.sleep(1.0)
    assert meter.energy_source == "NVML, whole GPU"
    assert meter.joules is not None
    assert meter.joules > 1
    assert (meters.gpu_memory_used("cuda:0") or 0) > 0
    assert (meters.clock_mhz("cuda:0") or 0) > 0
    assert all(gpu.max_clock_mhz and gpu.memory_bytes for gpu in meters.machine().gpus)
