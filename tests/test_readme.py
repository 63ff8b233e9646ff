"""Every command and example of the README, run as shown on a small network."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from i3d_deploy import checkpoint
from tests.test_two_stream import stream

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ZOO_FILE = "i3d_r50_32x2x1_100e_kinetics400_rgb_20200614-c25ef9a4.pth"
SMALL_FILES = {
    ZOO_FILE: "checkpoint.safetensors",
    "rgb_imagenet.pt": "rgb.safetensors",
    "flow_imagenet.pt": "flow.safetensors",
}
"""Small networks in place of the checkpoints that the README names."""
COMMANDS = re.findall(r"^    ((?:i3d-|python ).*)$", README, re.MULTILINE)
SMALLER = {
    "i3d-bench": "--seconds 0 --videos 2 --ceilings 0",
    "training/prepare.py": "--train 16 --val 8 --test 8",
    "training/train.py": "--set epochs=1 --set batch.videos=8",
    "--accuracy": "--max-drop 100",  # so few videos and epochs make the accuracy a matter of chance
}
"""What is added to a command so that its run takes seconds."""
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tiny_exports: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README names; the commands run in it one after the other."""
    path = tmp_path_factory.mktemp("readme")
    shutil.copy(tiny_exports / "tiny.safetensors", path / "checkpoint.safetensors")
    for kind in ("rgb", "flow"):
        checkpoint.save(stream(kind), path / f"{kind}.safetensors")
    shutil.copy(clip, path / "clip.mp4")
    (path / "training").symlink_to(ROOT / "training")
    (path / "videos").mkdir()
    shutil.copy(clip, path / "videos")
    return path


def test_the_readme_has_commands() -> None:
    assert {command.split()[0] for command in COMMANDS} == {
        "i3d-bench",
        "i3d-doctor",
        "i3d-export",
        "i3d-features",
        "i3d-predict",
        "i3d-verify",
        "python",
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run_as_shown(folder: Path, command: str) -> None:
    for name, small in SMALL_FILES.items():
        command = command.replace(name, small)
    words = shlex.split(command)
    words += next((options.split() for script, options in SMALLER.items() if script in words), [])
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_run_as_shown(folder: Path, example: str) -> None:
    done = subprocess.run([sys.executable, "-c", example], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 2


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
