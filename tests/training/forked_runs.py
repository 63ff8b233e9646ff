"""Runs in processes of their own, forked where everything is imported already: they begin at once."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
from typing import Any

import matplotlib.pyplot  # noqa: F401 - loaded once for all runs, as is TensorBoard
import torch
import torch.utils.tensorboard

from i3d_deploy.training import loop
from i3d_deploy.training.recipe import Recipe

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def kill(spec: Recipe, options: loop.Options, *, place: str, count: int) -> None:
    """Train, and end the process with SIGKILL when a function is called for the ``count``-th time."""
    process = PROCESSES.Process(target=_killed, args=(place, count, spec, options))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def train_together(spec: Recipe, options: loop.Options, *, processes: int) -> None:
    """Train in several processes, which find each other as torchrun's do."""
    store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
        "localhost", 0, is_master=True, wait_for_workers=False
    )
    environment = {"WORLD_SIZE": processes, "MASTER_ADDR": "localhost", "MASTER_PORT": store.port}
    environment |= {"TORCHELASTIC_USE_AGENT_STORE": True}
    started = [
        PROCESSES.Process(target=_one_of, args=({**environment, "RANK": rank, "LOCAL_RANK": rank}, spec, options))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * processes


def _killed(place: str, count: int, spec: Recipe, options: loop.Options) -> None:
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
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, killing)
    torch.set_num_threads(1)
    loop.train(spec, options)


def _one_of(environment: dict[str, Any], spec: Recipe, options: loop.Options) -> None:
    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(1)
    loop.train(spec, options)
