"""The run's side of its worker processes."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from i3d_deploy import doctor
from i3d_deploy.artifact import SUFFIXES
from i3d_deploy.benchmark.record import Layer
from i3d_deploy.card import Card, Precision
from i3d_deploy.errors import I3DError
from i3d_deploy.measurements import Work
from i3d_deploy.runners import RunnerInfo

_WORKER = (sys.executable, "-m", "i3d_deploy.benchmark.worker")
_END_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured: an artifact on a device, or another program's network.

    Attributes:
        name: What the record calls it.
        path: The artifact.
        device: "auto", "cpu", "cuda" or "cuda:1".
        threads: CPU threads; None: the backend's choice.
        precision: Of a checkpoint; None: as suits the device.
        command: The program that opens it, by :func:`i3d_deploy.benchmark.worker.serve`.
    """

    name: str
    path: Path
    device: str = "auto"
    threads: int | None = None
    precision: Precision | None = None
    command: tuple[str, ...] = _WORKER


def subjects(
    paths: Iterable[Path],
    *,
    devices: Iterable[str] = ("auto",),
    threads: Iterable[int | None] = (None,),
    precisions: Iterable[Precision | None] = (None,),
) -> tuple[Subject, ...]:
    """Every artifact on every device with every number of threads, and checkpoints in every precision, under names that
    differ.

    Args:
        paths: The artifacts.
        devices: Where to run them.
        threads: CPU threads; None: the backend's choice.
        precisions: Of checkpoints; None: as suits the device.
    """
    devices, threads, precisions = tuple(devices), tuple(threads), tuple(precisions)
    made: dict[str, Subject] = {}
    for path in paths:
        of_path = (None,) if SUFFIXES.get(path.suffix.lower()) in ("onnx", "openvino", "tensorrt") else precisions
        for device, count, precision in itertools.product(devices, threads, of_path):
            words = [path.name]
            words += [f"in {precision or 'default precision'}"] if len(of_path) > 1 else []
            words += [f"on {device}"] if len(devices) > 1 else []
            words += [f"with {count or 'default'} threads"] if len(threads) > 1 else []
            name = _unused(" ".join(words), made)
            made[name] = Subject(name=name, path=path, device=device, threads=count, precision=precision)
    return tuple(made.values())


def _unused(name: str, taken: dict[str, Subject]) -> str:
    """The name, numbered where two files are called alike."""
    number = 1
    while (unused := name if number == 1 else f"{name} ({number})") in taken:
        number += 1
    return unused


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What a worker says of what it opened.

    Attributes:
        info: What really runs it.
        runner: The same in words.
        card: Its card.
        card_sha256: SHA-256 of the card's JSON.
        preferred_batch: Views per run that suit it.
        is_comparable: Whether its logits should be the first artifact's.
        notes: What had to be assumed.
        seconds: How long opening took.
    """

    info: RunnerInfo
    runner: str
    card: Card
    card_sha256: str
    preferred_batch: int
    is_comparable: bool
    notes: tuple[str, ...]
    seconds: float


class Worker:
    """One worker process; a context manager that ends it.

    Args:
        subject: What it measures.

    Raises:
        I3DError: The subject's program cannot be started.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        try:
            self._process = subprocess.Popen(
                subject.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
            )
        except OSError as error:
            raise I3DError(f"{Path(subject.command[0]).name}: {error.strerror}") from error

    @property
    def process_id(self) -> int:
        """Number of the process."""
        return self._process.pid

    @cached_property
    def opened(self) -> Opened:
        """Open the artifact, once.

        Raises:
            I3DError: It cannot be opened here.
        """
        subject = self.subject
        answer = self.ask(
            "open",
            path=str(subject.path),
            device=subject.device,
            threads=subject.threads,
            precision=subject.precision,
        )
        return Opened(
            **{
                **answer,
                "info": RunnerInfo(**answer["info"]),
                "card": Card.from_json(json.dumps(answer["card"]), where=subject.name),
                "notes": tuple(answer["notes"]),
            }
        )

    def work(self) -> Work | None:
        """What one view costs; None where it is not known.

        Raises:
            I3DError: Its graph does what is not counted.
        """
        answer = self.ask("work")
        return None if answer is None else Work(**answer)

    def memory(self) -> tuple[int, int | None]:
        """Peak bytes on the host, and bytes held on a GPU.

        Raises:
            I3DError: The process ended.
        """
        answer = self.ask("memory")
        return answer["host"], answer["device"]

    def ask(self, do: str, **arguments: Any) -> Any:
        """Have a method of :class:`i3d_deploy.benchmark.worker.Requests` called.

        Raises:
            I3DError: It failed, or the process ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._gone() from error
        line = self._process.stdout.readline()
        if not line:
            raise self._gone()
        answer = json.loads(line)
        if "error" in answer:
            # Records go round: they name no folder.
            text = answer["error"].replace(str(self.subject.path), self.subject.path.name)
            raise I3DError(doctor.without_places(text))
        return answer["value"]

    def slowest_layers(self, views: Path, *, batch: int, runs: int, count: int) -> tuple[Layer, ...]:
        """The slowest layers of a run of the engine.

        Args:
            views: ``.npy`` file of views.
            batch: Views per run.
            runs: Runs to average over.
            count: Layers at most.
        """
        layers = self.ask("profile", views_path=str(views), batch=batch, runs=runs)
        total = sum(layer["seconds"] for layer in layers) or 1.0
        return tuple(Layer(**layer, share=layer["seconds"] / total) for layer in layers[:count])

    def _gone(self) -> I3DError:
        code = self._process.wait()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        hint = " (out of memory?)" if code == -9 else ""
        return I3DError(f"its process {how}{hint}")

    def close(self) -> None:
        """End the process; a second call does nothing."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):  # of a process that has ended with a request unread
                    stream.close()
        try:
            self._process.wait(_END_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, I3DError):
            self._process.kill()  # interrupted: it may be in the middle of a video
        self.close()
