"""The marker ``gpu``: what needs a GPU is skipped without one, and fails where one is demanded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
CONFTEST = "from tests.gpu import pytest_collection_modifyitems as pytest_collection_modifyitems\n"
TEST = """
import pytest
from i3d_deploy.runners.device_memory import find_gpu

@pytest.mark.gpu
def test_on_a_gpu():
    find_gpu()

def test_anywhere():
    pass
"""


@pytest.mark.parametrize(
    ("demand", "exit_code", "outcome"),
    [("0", 0, "1 passed, 1 skipped in "), ("1", 1, "1 failed, 1 passed in ")],
    ids=["not demanded", "demanded"],
)
def test_without_a_gpu_its_tests_fail_where_one_is_demanded(
    tmp_path: Path, demand: str, exit_code: int, outcome: str
) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_on_a_gpu.py").write_text(TEST)
    options = ["-q", "-c", str(PROJECT), "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    # No GPU is visible, also where there is one.
    environment = {"FAIL_WITHOUT_GPU": demand, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == exit_code, result.stdout + result.stderr
    assert outcome in result.stdout
    assert ("DeviceError" in result.stdout) is (demand == "1")
