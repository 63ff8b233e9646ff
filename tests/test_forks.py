"""A recognizer and the processes that are started beside it.

Each of these starts a Python of its own, whose threads are known when it forks.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import i3d_deploy as i3d
from i3d_deploy.errors import InputError

NAMES = ["tiny.safetensors", "tiny.onnx", "tiny.xml"]
PATIENCE_SECONDS = 120

SCRIPT = """
import multiprocessing, sys
import i3d_deploy as i3d

path, clip, method, at = sys.argv[1:]

def told(call):
    try:
        print(call(), flush=True)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)

def predict_in_the_child(recognizer):
    told(lambda: recognizer.predict(clip))
    told(lambda: next(recognizer.predict_many([clip])))
    told(lambda: recognizer.infer(None))
    with recognizer:
        pass
    told(lambda: recognizer.predict(clip))

def load_in_the_child(path):
    told(lambda: i3d.load(path, device="cpu").predict(clip).views)

def start(target, argument):
    process = multiprocessing.get_context(method).Process(target=target, args=(argument,))
    process.start()
    process.join()
    assert process.exitcode == 0, process.exitcode

if __name__ == "__main__":
    with i3d.load(path, device="cpu") as recognizer:
        if at == "use":
            recognizer.predict(clip)
            start(predict_in_the_child, recognizer)
            print(recognizer.predict(clip).views)
        elif at == "load":
            recognizer.predict(clip)
            start(load_in_the_child, path)
        else:
            start(load_in_the_child, path)
"""


def run(tmp_path: Path, *arguments: str | Path) -> list[str]:
    script = tmp_path / "started.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, *arguments], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_a_fork_is_told_to_load_its_own(tiny_exports: Path, clip: Path, tmp_path: Path, name: str) -> None:
    *in_child, in_parent = run(tmp_path, tiny_exports / name, clip, "fork", "use")
    assert in_parent == "6"  # which the fork has not harmed
    assert len(in_child) == 4
    for line in in_child:
        assert line.startswith("InputError: the network was loaded by process ")
        assert line.endswith("start processes by multiprocessing's spawn and load it in each of them")


@pytest.mark.parametrize("name", NAMES)
def test_a_spawned_process_loads_its_own(tiny_exports: Path, clip: Path, tmp_path: Path, name: str) -> None:
    assert run(tmp_path, tiny_exports / name, clip, "spawn", "load") == ["6"]


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.xml"])
def test_a_fork_can_load_its_own(tiny_exports: Path, clip: Path, tmp_path: Path, name: str) -> None:
    assert run(tmp_path, tiny_exports / name, clip, "fork", "load") == ["6"]


def test_a_fork_of_what_computed_in_pytorch_says_that_it_would_hang(
    tiny_exports: Path, clip: Path, tmp_path: Path
) -> None:
    (line,) = run(tmp_path, tiny_exports / "tiny.safetensors", clip, "fork", "load")
    assert line == (
        "InputError: PyTorch would wait for ever: this process was forked from one in which it had computed; "
        "start processes by multiprocessing's spawn"
    )


def test_a_fork_of_what_has_not_computed_loads_pytorch(tiny_exports: Path, clip: Path, tmp_path: Path) -> None:
    assert run(tmp_path, tiny_exports / "tiny.safetensors", clip, "fork", "load before it is used") == ["6"]


def test_a_recognizer_is_not_pickled(tiny_exports: Path) -> None:
    with (
        i3d.load(tiny_exports / "tiny.onnx", device="cpu") as recognizer,
        pytest.raises(InputError, match=r"cannot be pickled: give the other process the path, and load it there$"),
    ):
        pickle.dumps(recognizer)
