"""What is in export/triton, as far as it goes without a server; with one, ``test_triton_server.py`` runs the client."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import i3d_deploy as i3d

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "export" / "triton" / "client.py"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def client() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("triton_client", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_server_is_held_against_the_engine_that_was_proven(client: Any, tiny_exports: Path, clip: Path) -> None:
    engine = tiny_exports / "tiny.onnx"
    logits = i3d.load(engine).predict(clip, clips=1).logits
    found = client.prove(logits, engine, clip, clips=1, crops=None)
    assert found.startswith("3 views: logits differ from onnxruntime ")
    assert found.endswith(" by at most 0.0e+00 (allowed 1.0e-03)")
    for off in (2e-3, np.nan):
        logits[2, 5] += np.float32(off)
        with pytest.raises(i3d.InputError, match=r", allowed is 1\.0e-03: the server does not answer as was proven"):
            client.prove(logits, engine, clip, clips=1, crops=None)
    with pytest.raises(i3d.InputError, match=r"logits of \(3, 7\), .*tiny.onnx of \(1, 7\): not its engine"):
        client.prove(logits, engine, clip, clips=1, crops="1")


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


def test_the_image_has_all_that_is_needed_in_versions_that_ran_in_the_server() -> None:
    installed = re.findall(r"^ +(numpy==.*) \$\{EXTRAS\}$", SCRIPT.with_name("Dockerfile").read_text(), re.MULTILINE)
    wanted = shlex.split(installed[0].replace("opencv-python-headless", "opencv-python"))
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    of_wanted, of_needed = ({re.split("[=>]", each)[0] for each in group} for group in (wanted, needed))
    assert of_wanted == of_needed
    makefile = (ROOT / "Makefile").read_text()
    assert [each for each in wanted if "==" in each and each not in makefile.split()] == []
