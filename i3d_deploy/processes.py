"""The processes that torchrun starts: which one this is, and how they wait for and tell each other.

PyTorch is imported only where there are several.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from i3d_deploy.errors import I3DError, MissingExtraError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """One of the processes; alone, unless torchrun started it.

    Attributes:
        rank: Its number among all.
        world_size: How many there are.
        local_rank: Its number on its machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all.

        Raises:
            I3DError: One of the others has ended; it has said why.
        """
        if self.world_size > 1:
            from torch import distributed

            with peers_expected(self):
                distributed.barrier()

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in order of rank; every process gets them.

        Raises:
            I3DError: As :meth:`wait`.
        """
        if self.world_size == 1:
            return [value]
        from torch import distributed

        gathered: list[Any] = [None] * self.world_size
        with peers_expected(self):
            distributed.all_gather_object(gathered, value)
        return gathered

    def share(self, value: T) -> T:
        """The first process's value.

        Raises:
            I3DError: As :meth:`wait`.
        """
        if self.world_size == 1:
            return value
        from torch import distributed

        holder: list[Any] = [value]
        with peers_expected(self):
            distributed.broadcast_object_list(holder, src=0)
        shared: T = holder[0]
        return shared


def from_environment() -> Processes:
    """What torchrun says of this process."""
    names = {"rank": "RANK", "world_size": "WORLD_SIZE", "local_rank": "LOCAL_RANK"}
    return Processes(**{name: int(os.environ[key]) for name, key in names.items() if key in os.environ})


@contextmanager
def joined(*, backend: str = "gloo") -> Iterator[Processes]:
    """Join the processes that torchrun started, or be alone.

    Args:
        backend: "gloo" for the CPU, "nccl" for GPUs.

    Raises:
        MissingExtraError: There are several, and torch is not installed, by which they talk to each other.
    """
    processes = from_environment()
    if processes.world_size == 1:
        yield processes
        return
    try:
        from torch import distributed
    except ImportError as error:
        raise MissingExtraError("torch", extra="train", cause=error) from error
    # The fastest process waits for the slowest, however long that takes; a dead one closes its connections.
    distributed.init_process_group(backend, timeout=timedelta(days=30))
    try:
        yield processes
    finally:
        distributed.destroy_process_group()


@contextmanager
def peers_expected(processes: Processes) -> Iterator[None]:
    """Say it in one line where another process has gone away.

    Raises:
        I3DError: One of the others has ended; it has said why.
    """
    from torch import distributed

    try:
        yield
    except RuntimeError as error:
        is_lost_peer = isinstance(error, distributed.DistBackendError) or "gloo" in str(error)
        if not is_lost_peer:
            raise
        raise I3DError(f"process {processes.rank}: another process of this run has failed, see above") from error
