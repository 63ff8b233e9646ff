"""Nothing that this library imports reports its use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from i3d_deploy import untracked

IMPORTS = """
import sys
import i3d_deploy.{module}
assert "{package}" in sys.modules
assert sys.modules.get("openvino_telemetry") is None
"""


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("to_openvino", "openvino"),
        ("runners.openvino_runner", "openvino"),
        ("quantize_openvino", "nncf"),
        ("runners.onnx_runner", "onnxruntime"),
        ("quantize_onnx", "onnxruntime"),
    ],
)
def test_an_import_leaves_nothing_in_the_home_folder(tmp_path: Path, module: str, package: str) -> None:
    # Whoever sends a report first writes an identifier there.
    code = IMPORTS.format(module=module, package=package)
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / ".cache")}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "intel").exists()
    assert not (tmp_path / ".cache" / "Microsoft").exists()


def test_the_reporter_is_what_it_was_afterwards() -> None:
    code = (
        "import openvino_telemetry as before, sys; from i3d_deploy import untracked\n"
        "with untracked.imports():\n"
        "    assert sys.modules['openvino_telemetry'] is None\n"
        "assert sys.modules['openvino_telemetry'] is before\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("chosen", [None, "0"])
def test_the_switch_of_onnxruntime_is_what_it_was_afterwards(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    if chosen is not None:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", chosen)
    with untracked.imports():
        assert os.environ["ORT_DISABLE_TELEMETRY"] == (chosen or "1")
    assert os.environ.get("ORT_DISABLE_TELEMETRY") == chosen


@pytest.mark.parametrize("chosen", [None, "1"])
def test_the_switch_of_ray_is_what_it_was_afterwards(monkeypatch: pytest.MonkeyPatch, chosen: str | None) -> None:
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    if chosen is not None:
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", chosen)
    with untracked.ray():
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == (chosen or "0")
    assert os.environ.get("RAY_USAGE_STATS_ENABLED") == chosen
