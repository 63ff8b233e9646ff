"""libi3d, built with CMake from this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from filelock import FileLock

from tests.cpp.native import Library

SOURCE = Path(__file__).parents[2] / "export" / "cpp"


def build(folder: Path, *, preset: str, target: str = "all", **options: str) -> None:
    """Configure and build; skips where there are no compilers.

    Args:
        folder: Where to.
        preset: Of CMakePresets.json.
        target: What to build.
        options: Of CMakeLists.txt, in place of the preset's.
    """
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("CMake and a C++ compiler are not installed")
    definitions = [f"-D{name}={value}" for name, value in {**options, "Python3_EXECUTABLE": sys.executable}.items()]
    run("cmake", "--preset", preset, "-S", ".", "-B", str(folder), *definitions, cwd=SOURCE)
    run("cmake", "--build", str(folder), "--target", target, "--parallel", "2")


def run(*command: str, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run a program that must succeed, and return what it printed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build folder of a user: preset openvino. Test processes that run side by side share it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, done = shared / "libi3d", shared / "libi3d.built"
    with FileLock(shared / "libi3d.lock"):
        if not done.exists():
            build(folder, preset="openvino")
            done.touch()
    return folder


@pytest.fixture(scope="session")
def library(built: Path) -> Library:
    """The library, loaded."""
    return Library(built / "libi3d.so")


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder with the test programs, under AddressSanitizer and UBSan."""
    folder = tmp_path_factory.mktemp("sanitized")
    build(folder, preset="sanitize", I3D_BACKENDS="openvino", I3D_WITH_OPENCV="OFF")
    return folder
