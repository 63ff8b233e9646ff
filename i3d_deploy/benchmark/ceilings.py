"""What the machine can do, measured: the fastest matrix product, convolution and memory copy that was seen.

Every backend that is installed is asked, in every precision it has, with shapes of the network's own layers and larger
ones; of several shapes and many runs the highest rate counts, for a ceiling is what happens when nothing disturbs.
Each backend is measured in a process of its own, so that its threads disturb neither the artifacts nor the other
backends, and a crash costs that backend alone::

    python -m i3d_deploy.benchmark.ceilings --device cpu --threads 2

prints one JSON list of :class:`~i3d_deploy.benchmark.record.Ceiling` on standard output and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

import click

from i3d_deploy import doctor
from i3d_deploy.benchmark import trials
from i3d_deploy.benchmark.record import Ceiling
from i3d_deploy.benchmark.trials import Run, Trial
from i3d_deploy.errors import DeviceError, I3DError, InputError, MissingExtraError
from i3d_deploy.runners.device_memory import find_gpu

Section = Callable[[str, int], list[Trial]]

_CPU_SECTIONS: dict[str, Section] = {
    "numpy": trials.copy_trials,
    "torch": trials.torch_trials,
    "openvino": trials.openvino_trials,
    "onnxruntime": trials.onnx_trials,
}
_CUDA_SECTIONS: dict[str, Section] = {"torch": trials.cuda_trials}
_TIMEOUT_SECONDS = 600
_DEVICES = re.compile(r"auto|cpu|cuda(:\d+)?")
_PRECISIONS = re.compile(r"fp32|tf32|fp16|bf16|int8|fp8")


def measure(device: str = "auto", threads: int | None = None, seconds_each: float = 0.5) -> tuple[Ceiling, ...]:
    """Measure every installed backend in this process.

    A backend that is not installed is left out; one that fails leaves a line on standard error and costs no other.

    Args:
        device: "cpu", "cuda" or "cuda:1"; "auto" is cuda:0 where the driver offers a GPU. A GPU is measured through
            PyTorch alone.
        threads: CPU threads; None: the cores that this process may use.
        seconds_each: Time for each precision and kind of work, beside the preparation.

    Raises:
        InputError: An argument is out of range.
    """
    device, threads = _checked(device, threads)
    found: list[Ceiling] = []
    for name in _sections(device):
        found += measure_backend(name, device=device, threads=threads, seconds_each=seconds_each)
    return tuple(found)


def measure_backend(name: str, *, device: str, threads: int, seconds_each: float) -> tuple[Ceiling, ...]:
    """Measure one backend in this process, as :func:`measure` does.

    Args:
        name: "numpy", "torch", "openvino" or "onnxruntime".
        device: "cpu" or "cuda:1".
        threads: CPU threads.
        seconds_each: Time for each precision and kind of work.

    Raises:
        InputError: That backend measures nothing on the device.
    """
    sections = _sections(device)
    if name not in sections:
        raise InputError(f"{name} measures nothing on {device}: {', '.join(sections)}")
    try:
        found = sections[name](device, threads)
    except Exception as error:  # whatever a broken installation raises
        reason = error.__cause__ if isinstance(error, MissingExtraError) else error
        if not isinstance(reason, ModuleNotFoundError):
            _note(name, error)
        return ()
    return tuple(ceilings_of(found, seconds_each=seconds_each))


def ceilings_of(wanted: Iterable[Trial], *, seconds_each: float) -> Iterator[Ceiling]:
    """Time the trials; those that measure the same stand side by side and give one ceiling.

    Args:
        wanted: What to time.
        seconds_each: Time for each precision and kind of work.
    """
    for (precision, work, backend), group in groupby(
        wanted, lambda trial: (trial.precision, trial.work, trial.backend)
    ):
        try:
            rate = highest_rate(tuple(group), seconds=seconds_each)
        except Exception as error:  # backends share no narrower base
            _note(f"{precision} {work} with {backend}", error)
            continue
        yield Ceiling(precision=precision, work=work, backend=backend, per_second=rate)


def highest_rate(wanted: tuple[Trial, ...], *, seconds: float) -> float:
    """The highest rate of several trials.

    Args:
        wanted: At least one. The first is the smallest; of the others those are left out that could not run twice in an
            equal share of the time.
        seconds: Time for all.

    Returns:
        Operations or bytes per second.
    """
    first, *others = wanted
    run = first.prepare()
    run()
    rate = first.amount / _seconds(run)
    fitting = [trial for trial in others if 2 * trial.amount / rate <= seconds / len(wanted)]
    share = seconds / (1 + len(fitting))
    best = first.amount / _least_seconds(run, seconds=share)
    del run  # and the data of the first
    for trial in fitting:
        best = max(best, trial.amount / _least_seconds(trial.prepare(), seconds=share))
    return best


def _least_seconds(run: Run, *, seconds: float) -> float:
    """The shortest of the runs that fit in the time, of two at least; the one before them is not timed."""
    run()
    end = time.perf_counter() + seconds
    least = min(_seconds(run), _seconds(run))
    while time.perf_counter() < end:
        least = min(least, _seconds(run))
    return least


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _note(what: str, error: Exception) -> None:
    reason = " ".join(str(error).split())
    print(f"ceilings: {what} was not measured: {type(error).__name__}: {reason}", file=sys.stderr)


def _checked(device: str, threads: int | None) -> tuple[str, int]:
    if _DEVICES.fullmatch(device) is None:
        raise InputError(f"device {device!r} cannot be measured: give auto, cpu, cuda or cuda:N")
    if threads is not None and threads < 1:
        raise InputError(f"threads ({threads}) must be > 0")
    device = _auto() if device == "auto" else "cuda:0" if device == "cuda" else device
    return device, threads or doctor.usable_cores()


def _auto() -> str:
    try:
        find_gpu()
    except DeviceError:
        return "cpu"
    return "cuda:0"


def _sections(device: str) -> dict[str, Section]:
    return _CPU_SECTIONS if device == "cpu" else _CUDA_SECTIONS


def measure_apart(device: str = "auto", threads: int | None = None, seconds_each: float = 0.5) -> tuple[Ceiling, ...]:
    """Measure every installed backend, each in a process of its own; arguments as for :func:`measure`.

    Raises:
        I3DError: Every one of the processes died; one alone leaves a line on standard error.
        InputError: An argument is out of range.
    """
    device, threads = _checked(device, threads)
    found: list[Ceiling] = []
    died: list[I3DError] = []
    names = tuple(_sections(device))
    for name in names:
        try:
            found += _measured_by_process(name, device=device, threads=threads, seconds_each=seconds_each)
        except I3DError as error:
            died.append(error)
            _note(name, error)
    if len(died) == len(names):
        raise died[0]
    return tuple(found)


def _measured_by_process(name: str, *, device: str, threads: int, seconds_each: float) -> tuple[Ceiling, ...]:
    options = [f"--backend={name}", f"--device={device}", f"--threads={threads}", f"--seconds-each={seconds_each}"]
    command = [sys.executable, "-m", "i3d_deploy.benchmark.ceilings", *options]
    # Threads of OpenMP that wait actively would disturb whatever runs next to them.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, env=environment, text=True, encoding="utf-8", timeout=_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise I3DError(f"what {name} can do on {device} was not found out in {_TIMEOUT_SECONDS} seconds") from error
    code = done.returncode
    if code != 0:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        raise I3DError(f"the process that measures what {name} can do on {device} {how}")
    return tuple(Ceiling.model_validate(entry) for entry in json.loads(done.stdout))


def highest(ceilings: Iterable[Ceiling], precision: str) -> Ceiling | None:
    """The highest matrix product or convolution in a precision; None where there is none.

    Args:
        ceilings: What was measured.
        precision: As a runner reports it: of "fp32 with fp16 weights" and "mixed int8" the first name counts.
    """
    name = base_precision(precision)
    suited = [ceiling for ceiling in ceilings if ceiling.work != "copy" and ceiling.precision == name]
    return max(suited, key=lambda ceiling: ceiling.per_second, default=None)


def memory(ceilings: Iterable[Ceiling]) -> Ceiling | None:
    """The fastest copy, in bytes read and written per second; None where there is none."""
    copies = [ceiling for ceiling in ceilings if ceiling.work == "copy"]
    return max(copies, key=lambda ceiling: ceiling.per_second, default=None)


def higher(one: Iterable[Ceiling], other: Iterable[Ceiling]) -> tuple[Ceiling, ...]:
    """Of two measurements of a machine, the higher of each precision, kind of work and backend."""
    best: dict[tuple[str, str, str], Ceiling] = {}
    for ceiling in (*one, *other):
        key = (ceiling.precision, ceiling.work, ceiling.backend)
        if key not in best or ceiling.per_second > best[key].per_second:
            best[key] = ceiling
    return tuple(best.values())


def on_device(ceilings: Iterable[Ceiling], device: str) -> tuple[Ceiling, ...]:
    """Those of one device: an artifact on the CPU is not held against a GPU.

    Args:
        ceilings: Of any devices.
        device: As a runner reports it: "cpu" or "cuda:0".
    """
    return tuple(ceiling for ceiling in ceilings if ceiling.backend.endswith(f" on {device}"))


def base_precision(precision: str) -> str | None:
    """The type that layers compute in, from a runner's words; None where they name none."""
    found = _PRECISIONS.search(precision)
    return found.group() if found else None


@click.command()
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=int, help="CPU threads.  [default: the cores this process may use]")
@click.option("--seconds-each", default=0.5, show_default=True, help="Time for each precision and kind of work.")
@click.option("--backend", type=click.Choice(sorted(_CPU_SECTIONS)), help="Only this one, in this process.")
def main(device: str, threads: int | None, seconds_each: float, backend: str | None) -> None:
    """Print what the machine can do as a JSON list."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        if backend is None:
            found = measure_apart(device, threads, seconds_each)
        else:
            device, threads = _checked(device, threads)
            found = measure_backend(backend, device=device, threads=threads, seconds_each=seconds_each)
    except I3DError as error:
        raise click.ClickException(str(error)) from error
    with answers:
        print(json.dumps([ceiling.model_dump(mode="json") for ceiling in found]), file=answers)


if __name__ == "__main__":
    main()
