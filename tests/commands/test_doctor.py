"""``i3d-doctor`` as it is typed."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from i3d_deploy import doctor
from i3d_deploy.commands.doctor import main
from i3d_deploy.doctor import Ability, Gpu, Machine, Package, Problem, Report

MACHINE = Machine(
    i3d_deploy="0.1.0",
    python="CPython 3.12.1",
    system="Debian, x86_64",
    cpu="Xeon",
    cores=8,
    cpu_features=("avx512_vnni",),
    memory_gib=31.3,
    gpus=(Gpu(name="NVIDIA L4", compute_capability="8.9", memory="22.5 GiB", driver="580.65.06"),),
)
MISSING = Report(
    machine=MACHINE,
    packages=(Package(name="onnxruntime", state="missing"),),
    problems=(),
    abilities=(
        Ability(name="run .onnx", works=False, how="onnxruntime is missing: pip install 'i3d-deploy[gpu]'"),
        Ability(name="run .xml", works=True, how="openvino 2026.4.1 (CPU)"),
    ),
)
CONFLICT = Report(
    machine=MACHINE,
    packages=(Package(name="cv2", state="installed", version="5.0", distributions=("a", "b")),),
    problems=(Problem(what="a and b are both installed", mend=("pip uninstall -y a b", "pip install 'b>=4,<6'")),),
    abilities=(),
)


def run(monkeypatch: pytest.MonkeyPatch, report: Report, *arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(doctor, "examine", lambda: report)
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def test_missing_package_is_told_with_its_command_and_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = run(monkeypatch, MISSING)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert code == 0
    assert "no run .onnx onnxruntime is missing: pip install 'i3d-deploy[gpu]'" in lines
    assert "yes run .xml openvino 2026.4.1 (CPU)" in lines
    assert "CPU Xeon, 8 usable cores; avx512_vnni" in lines
    assert "GPU NVIDIA L4, 22.5 GiB, compute capability 8.9, driver 580.65.06" in lines


def test_problem_is_told_with_the_commands_that_mend_it_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    code, text = run(monkeypatch, CONFLICT)
    assert code == 1
    assert "Problem: a and b are both installed\n    pip uninstall -y a b\n    pip install 'b>=4,<6'\n" in text


@pytest.mark.parametrize(("report", "code"), [(MISSING, 0), (CONFLICT, 1)])
def test_json_holds_the_whole_report(monkeypatch: pytest.MonkeyPatch, report: Report, code: int) -> None:
    exit_code, text = run(monkeypatch, report, "--json")
    found = json.loads(text)
    assert exit_code == code
    assert sorted(found) == ["abilities", "machine", "packages", "problems"]
    assert found["machine"]["gpus"][0]["compute_capability"] == "8.9"
    assert [ability["works"] for ability in found["abilities"]] == [ability.works for ability in report.abilities]


def test_this_machine_is_examined_without_naming_places() -> None:
    result = CliRunner().invoke(main, ["--json"])
    assert result.exit_code in (0, 1), result.output
    found = json.loads(result.stdout)
    states = {package["name"]: package["state"] for package in found["packages"]}
    # This test runs on both of them.
    assert (states["numpy"], states["cv2"]) == ("installed", "installed")
    for place in (sys.prefix, str(Path.cwd())):
        assert place not in result.output


NVIDIA_SMI = """#!/bin/sh
echo "NVIDIA H200, 9.0, 143771, 580.95.05"
echo "NVIDIA L4, 8.9, 23034, 580.95.05"
"""


@pytest.mark.parametrize("driver", ["stand-in", pytest.param("real", marks=pytest.mark.gpu)])
def test_every_gpu_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: str) -> None:
    if driver == "stand-in":
        program = tmp_path / "nvidia-smi"
        program.write_text(NVIDIA_SMI)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        expected = [("NVIDIA H200", "9.0", "580.95.05"), ("NVIDIA L4", "8.9", "580.95.05")]
    else:
        expected = gpus_of_nvml()
    report = Report(machine=doctor.look_at_machine(), packages=(), problems=(), abilities=())
    _, text = run(monkeypatch, report)
    found = re.findall(r"GPU +(.+), \d+\.\d GiB, compute capability (.+), driver (.+?) *$", text, re.MULTILINE)
    assert found == expected


def gpus_of_nvml() -> list[tuple[str, str, str]]:
    """Name, compute capability and driver of this machine's GPUs, from NVIDIA's library rather than its program."""
    import pynvml

    pynvml.nvmlInit()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        version = pynvml.nvmlSystemGetDriverVersion()
        capabilities = [pynvml.nvmlDeviceGetCudaComputeCapability(handle) for handle in handles]
        names = [pynvml.nvmlDeviceGetName(handle) for handle in handles]
    finally:
        pynvml.nvmlShutdown()
    return [(name, f"{major}.{minor}", version) for name, (major, minor) in zip(names, capabilities, strict=True)]


def test_help_ends_with_an_example() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert result.output.strip().endswith("Example: i3d-doctor --json")
