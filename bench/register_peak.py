"""What the cores' registers can do at most, and how much of it an engine reaches.

Loops of multiply-accumulates that touch no memory (register_peak.c), compiled on the spot for this CPU, in fp32 (FMA),
bf16 (vdpbf16ps) and int8 (vpdpbusd), on one thread and on all cores. No convolution can be faster; the best real ones
reach 80 to 90 % of it. Best of several rounds, two operations per multiply-accumulate. Instructions that the CPU lacks
are left out; AMX tiles are not measured.

    python bench/register_peak.py
    python bench/register_peak.py --against bench.json --rates

A record that ``i3d-bench --json`` wrote is held against it: per artifact the share of the peak of its precision, on as
many threads as it used: 2 * multiply-accumulates of a view / seconds of a view / peak. Both must come from one machine,
and best from one hour.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from i3d_deploy import doctor, files
from i3d_deploy.benchmark import meters, record, wording
from i3d_deploy.benchmark.record import Record, Result
from i3d_deploy.commands.options import reports_errors
from i3d_deploy.errors import I3DError, InputError

SOURCE = Path(__file__).with_name("register_peak.c")
PRECISIONS = ("fp32", "bf16", "int8")
TRIAL_STEPS = 100_000


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most that some threads did in one precision.

    Attributes:
        precision: "fp32", "bf16" or "int8".
        threads: How many ran.
        per_second: Operations, two per multiply-accumulate.
    """

    precision: str
    threads: int
    per_second: float


@dataclass(frozen=True, kw_only=True)
class Share:
    """One artifact of a record beside the peak.

    Attributes:
        artifact: Its name.
        precision: As the record has it.
        per_second: Operations per second of the artifact; None where the record does not tell its work.
        peak: What it is held against; None where that was not measured.
        reason: Why there is no share.
    """

    artifact: str
    precision: str
    per_second: float | None = None
    peak: Peak | None = None
    reason: str = ""

    @property
    def share(self) -> float | None:
        """Of the peak."""
        if self.per_second is None or self.peak is None:
            return None
        return self.per_second / self.peak.per_second


def compile_loops(compiler: str, folder: Path) -> ctypes.CDLL:
    """Compile the loops for this CPU.

    Raises:
        I3DError: There is no C compiler, or it does not compile them.
    """
    library = folder / "register_peak.so"
    command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise I3DError(f"no C compiler {compiler!r} here: install one (gcc or clang), or name it with --cc") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or "it says nothing").splitlines()[-1]
        raise I3DError(f"{compiler} does not compile {SOURCE.name}: {last}") from error
    return ctypes.CDLL(str(library))


def loop_of(library: ctypes.CDLL, precision: str) -> Any:
    """The compiled loop of a precision; None where the CPU has no instruction for it."""
    loop = getattr(library, f"register_peak_{precision}", None)
    if loop is not None:
        loop.argtypes, loop.restype = [ctypes.c_int64], ctypes.c_int64
    return loop


def operations_per_second(loop: Any, *, threads: int, rounds: int, seconds: float) -> float:
    """The best of several rounds of about so many seconds on so many threads."""
    start = time.perf_counter()
    loop(TRIAL_STEPS)
    steps = max(TRIAL_STEPS, round(TRIAL_STEPS * seconds / (time.perf_counter() - start)))
    with ThreadPoolExecutor(threads) as pool:
        return max(_one_round(pool, loop, threads=threads, steps=steps) for _ in range(rounds))


def _one_round(pool: ThreadPoolExecutor, loop: Any, *, threads: int, steps: int) -> float:
    barrier = threading.Barrier(threads)

    def turn() -> tuple[float, float, int]:
        barrier.wait()
        start = time.perf_counter()
        macs = loop(steps)  # ctypes lets the other threads run meanwhile
        return start, time.perf_counter(), macs

    turns = [future.result() for future in [pool.submit(turn) for _ in range(threads)]]
    elapsed = max(end for _, end, _ in turns) - min(start for start, _, _ in turns)
    return 2 * sum(macs for _, _, macs in turns) / elapsed


def measure(library: ctypes.CDLL, *, threads: set[int], rounds: int, seconds: float) -> list[Peak]:
    """Measure every precision that the CPU has, on each number of threads."""
    loops = {precision: loop_of(library, precision) for precision in PRECISIONS}
    return [
        Peak(
            precision=precision,
            threads=count,
            per_second=operations_per_second(loop, threads=count, rounds=rounds, seconds=seconds),
        )
        for precision, loop in loops.items()
        if loop is not None
        for count in sorted(threads)
    ]


def threads_of(result: Result) -> int:
    """Threads that an artifact used."""
    return min(result.threads, doctor.usable_cores()) or doctor.usable_cores()


def share_of(result: Result, *, views: int, peaks: list[Peak]) -> Share:
    """Hold one artifact against the peaks."""
    share = Share(artifact=result.artifact, precision=result.precision)
    if result.device != "cpu":
        return replace(share, reason=f"ran on {result.device}")
    if result.roofline is None:
        return replace(share, reason="the record does not tell its work")
    share = replace(share, per_second=2 * result.roofline.macs_per_view * views / result.model.median)
    precision = result.precision.split()[0]  # of "int8 with bf16" and "fp32 with fp16 weights" what is multiplied
    found = [peak for peak in peaks if (peak.precision, peak.threads) == (precision, threads_of(result))]
    return replace(share, peak=found[0]) if found else replace(share, reason=f"no {precision} instruction was measured")


def table(peaks: list[Peak]) -> str:
    """GOP/s of every precision, a column per number of threads."""
    counts = sorted({peak.threads for peak in peaks})
    lines = [f"{'GOP/s':9}" + "".join(f"  {count:>3} {'thread' if count == 1 else 'threads'}" for count in counts)]
    for precision in PRECISIONS:
        rates = {peak.threads: peak.per_second / 1e9 for peak in peaks if peak.precision == precision}
        cells = "".join(f"  {wording.significant(rates[count]):>11}" for count in counts if count in rates)
        lines.append(f"{precision:9}" + (cells or "  left out: this CPU has no instruction for it"))
    return "\n".join(lines)


def share_line(share: Share, *, rates: bool) -> str:
    """One artifact in one line."""
    if share.share is None:
        text = f"{wording.DASH} ({share.reason})"
    else:
        assert share.peak is not None and share.per_second is not None
        text = f"{wording.percent(share.share):>6} of the {share.peak.precision} peak, {share.peak.threads} threads"
        if rates:
            achieved, peak = (wording.significant(rate / 1e9) for rate in (share.per_second, share.peak.per_second))
            text += f": {achieved} of {peak} GOP/s"
    return f"{share.artifact:32}  {share.precision:14}  {text}"


@click.command()
@click.option("--threads", type=click.IntRange(min=1), multiple=True, help="May be repeated.  [default: 1, all cores]")
@click.option("--rounds", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.001), default=0.05, show_default=True, help="Of a round, about.")
@click.option("--cc", "compiler", default="cc", show_default=True, help="The C compiler.")
@click.option(
    "--against", "record_path", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="RECORD"
)
@click.option("--rates", is_flag=True, help="With --against: operations per second beside the shares.")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
@reports_errors
def main(
    threads: tuple[int, ...],
    rounds: int,
    seconds: float,
    compiler: str,
    record_path: Path | None,
    rates: bool,
    json_path: Path | None,
) -> None:
    """Measure the peak of this machine's registers, and hold a RECORD of i3d-bench against it."""
    if rates and record_path is None:
        raise InputError("--rates says more about the artifacts of a record: give one with --against")
    known = None if record_path is None else record.read(record_path)
    counts = set(threads or (1, doctor.usable_cores()))
    counts |= {threads_of(result) for result in known.results if result.device == "cpu"} if known else set()
    with tempfile.TemporaryDirectory() as folder:
        library = compile_loops(compiler, Path(folder))
        peaks = measure(library, threads=counts, rounds=rounds, seconds=seconds)
    click.echo(table(peaks))
    shares = [share_of(result, views=known.protocol.views, peaks=peaks) for result in known.results] if known else []
    if known is not None:
        _print_shares(known, shares, rates=rates)
    if json_path is not None:
        _write(json_path, peaks, shares)


def _print_shares(known: Record, shares: list[Share], *, rates: bool) -> None:
    here = meters.machine()
    click.echo("")
    if (here.cpu, here.cores) != (known.machine.cpu, known.machine.cores):
        click.echo(
            f"The record is of another machine ({known.machine.cpu}, {known.machine.cores} cores; here {here.cpu}, "
            f"{here.cores} cores): the shares mean nothing."
        )
    for share in shares:
        click.echo(share_line(share, rates=rates))


def _write(path: Path, peaks: list[Peak], shares: list[Share]) -> None:
    document = {
        "machine": meters.machine().model_dump(mode="json"),
        "peaks": [asdict(peak) for peak in peaks],
        "shares": [{**asdict(share), "share": share.share} for share in shares],
    }
    with files.replacing(path) as (target,):
        target.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
