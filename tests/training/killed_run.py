"""Runs training/train.py and ends it with SIGKILL when some function is called for the n-th time.

Usage: killed_run.py MODULE:NAME COUNT TRAIN_ARGUMENTS...
"""

from __future__ import annotations

import importlib
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

TRAIN = Path(__file__).parents[2] / "training" / "train.py"


def main() -> None:
    place, count, *arguments = sys.argv[1:]
    module_name, _, path = place.partition(":")
    owner: Any = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original = getattr(owner, name)
    calls = 0

    def killing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, killing)
    sys.argv = [str(TRAIN), *arguments]
    runpy.run_path(str(TRAIN), run_name="__main__")


if __name__ == "__main__":
    main()
