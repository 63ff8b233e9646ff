"""A wheel holds the whole package: installs for development would not show that something is missing."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_has_every_file_of_the_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if name.startswith("i3d_deploy/")}
    files = {path.relative_to(ROOT) for path in (ROOT / "i3d_deploy").rglob("*") if path.is_file()}
    assert found == {path.as_posix() for path in files if "__pycache__" not in path.parts}
