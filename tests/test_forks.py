"""A recognizer and the processes that are started beside it."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import i3d_deploy as i3d
from i3d_deploy.errors import InputError

PATIENCE_SECONDS = 120
"""What hangs is an error; nothing else waits for it."""

SCRIPT = """
import json, multiprocessing, sys
import i3d_deploy as i3d

path, clip = sys.argv[1:]

def told(call):
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def use(recognizer):
    found = [
        told(lambda: recognizer.predict(clip)),
        told(lambda: next(recognizer.predict_many([clip]))),
        told(lambda: recognizer.infer(None)),
    ]
    with recognizer:
        pass
    return [*found, told(lambda: recognizer.predict(clip))]

def load(path):
    return told(lambda: i3d.load(path, device="cpu").predict(clip).views)

def put(answers, call, argument):
    answers.put(call(argument))

def in_child(method, call, argument):
    context = multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    process = context.Process(target=put, args=(answers, call, argument))
    process.start()
    process.join()
    return answers.get() if process.exitcode == 0 else f"exit code {process.exitcode}"

if __name__ == "__main__":
    found = {"loaded in a fork of what has not loaded": in_child("fork", load, path)}
    with i3d.load(path, device="cpu") as recognizer:
        found["loaded in a fork of what has loaded"] = in_child("fork", load, path)
        recognizer.predict(clip)
        found["loaded in a fork of what has computed"] = in_child("fork", load, path)
        found["used in a fork"] = in_child("fork", use, recognizer)
        found["loaded in a spawned process"] = in_child("spawn", load, path)
        found["used by the parent afterwards"] = recognizer.predict(clip).views
    print(json.dumps(found))
"""


@pytest.mark.parametrize("name", ["tiny.safetensors", "tiny.onnx", "tiny.xml"])
def test_processes_load_their_own_and_are_told_so(tiny_exports: Path, clip: Path, tmp_path: Path, name: str) -> None:
    # In a Python of its own, whose threads are known when it forks.
    script = tmp_path / "started.py"
    script.write_text(SCRIPT)
    command: list[str | Path] = [sys.executable, "-W", "ignore", script, tiny_exports / name, clip]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    used = found.pop("used in a fork")
    assert len(used) == 4
    for line in used:
        assert line.startswith("InputError: the network was loaded by process ")
        assert line.endswith("start processes by multiprocessing's spawn and load it in each of them")
    would_hang = (
        "InputError: PyTorch would wait for ever: this process was forked from one in which it had computed; "
        "start processes by multiprocessing's spawn"
    )
    assert found == {
        "loaded in a fork of what has not loaded": 6,
        "loaded in a fork of what has loaded": would_hang if name == "tiny.safetensors" else 6,
        "loaded in a fork of what has computed": would_hang if name == "tiny.safetensors" else 6,
        "loaded in a spawned process": 6,
        "used by the parent afterwards": 6,  # whom the forks have not harmed
    }


HELD = """
import json, multiprocessing, pathlib, sys, threading
from i3d_deploy import runners, views
from i3d_deploy.recognizer import Recognizer

path, clip = sys.argv[1:]

def told(call):
    try:
        return call()
    except Exception as error:
        return type(error).__name__

def use(answers, recognizer, runner, prepared):
    answers.put([told(lambda: runner.shares(prepared, size=1)), told(lambda: recognizer.logits(prepared))])

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    with runners.open_runner(pathlib.Path(path), device="cpu") as runner:
        recognizer, prepared = Recognizer(runner), views.prepare(clip, runner.card)
        is_held, may_end = threading.Event(), threading.Event()

        def hold():
            with runner.turn():
                is_held.set()
                may_end.wait()

        threading.Thread(target=hold).start()
        is_held.wait()
        answers = context.SimpleQueue()
        process = context.Process(target=use, args=(answers, recognizer, runner, prepared))
        process.start()
        process.join(10)
        process.kill()
        may_end.set()
        print(json.dumps(None if answers.empty() else answers.get()))
"""


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.xml"])
def test_a_fork_does_not_wait_for_a_turn_that_the_parent_has(
    tiny_exports: Path, clip: Path, tmp_path: Path, name: str
) -> None:
    script = tmp_path / "held.py"
    script.write_text(HELD)
    command: list[str | Path] = [sys.executable, "-W", "ignore", script, tiny_exports / name, clip]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", '[false, "InputError"]\n')


def test_a_recognizer_is_not_pickled(tiny_exports: Path) -> None:
    with (
        i3d.load(tiny_exports / "tiny.onnx", device="cpu") as recognizer,
        pytest.raises(InputError, match=r"cannot be pickled: give the other process the path, and load it there$"),
    ):
        pickle.dumps(recognizer)
