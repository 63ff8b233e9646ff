"""The client for Triton as far as it goes without a server; with one, ``test_triton_server.py`` runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "export" / "triton" / "client.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_its_help_has_an_example() -> None:
    done = run("--help")
    assert done.returncode == 0, done.stderr
    assert "Example: python client.py clip.mp4 --model i3d_r50_video" in done.stdout


@pytest.mark.parametrize("name", ["clip.mp4", "missing.mp4"])
def test_what_goes_wrong_is_one_line(clip: Path, name: str) -> None:
    # Nobody listens on port 1.
    done = run(clip.with_name(name), "--model", "i3d_video", "--url", "127.0.0.1:1")
    assert done.returncode == 1
    message = done.stderr.strip()
    assert message.startswith("Error: ") and "\n" not in message, message
    assert ("127.0.0.1:1" if name == "clip.mp4" else "missing.mp4: no such file") in message
