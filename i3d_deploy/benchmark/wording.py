"""A record in words: figures with their units, short names, and the sentences about machine and protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from i3d_deploy.benchmark.record import Machine, Protocol, Ratio, Record, Timing

CLOCK = (
    "one video from uint8 views in host memory to averaged probabilities in host memory, copies to and from the "
    "device and its synchronisation included; decoding and cutting views not"
)
"""What the clock of the model-only figures included."""

DASH = "–"  # noqa: RUF001 - an en dash, for "not known"

_ELLIPSIS = "…"


def significant(value: float, digits: int = 3) -> str:
    """A figure with so many digits that count, never in exponent form: 0.0420, 3.37, 1,234."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded if decimals else value:,.{decimals}f}"


def small(value: float) -> str:
    """A difference that is many times smaller than 1: 1.6e-6."""
    number, _, exponent = f"{value:.1e}".partition("e")
    return f"{number.removesuffix('.0')}e{int(exponent)}"


def seconds(value: float) -> str:
    """A duration in s, ms or µs."""
    if value == 0 or abs(value) >= 1:
        return f"{significant(value)} s"
    return f"{significant(value * 1e3)} ms" if abs(value) >= 1e-3 else f"{significant(value * 1e6)} µs"


def durations(named: Mapping[str, float]) -> str:
    """Several durations in one unit, that of the first: "median 3.37, p90 3.41 s"."""
    first = next(iter(named.values()))
    unit, size = ("s", 1.0) if first >= 1 else ("ms", 1e-3)
    return ", ".join(f"{name} {significant(value / size)}" for name, value in named.items()) + f" {unit}"


def memory(size_bytes: float) -> str:
    """An amount of memory in KiB, MiB or GiB."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if abs(size_bytes) >= size:
            return f"{significant(size_bytes / size)} {unit}"
    return f"{significant(size_bytes / 2**10)} KiB"


def percent(share: float) -> str:
    """A share between 0 and 1 in percent."""
    return f"{significant(100 * share, 2 if abs(share) < 0.995 else 3)} %"


def spread(value: float | None, *, is_noisy: bool) -> str:
    """A spread, marked where the measurement is noisy."""
    if value is None:
        return "one round"
    return f"{percent(value)}, noisy" if is_noisy else percent(value)


def rate(per_second: float, precision: str) -> str:
    """A ceiling: operations per second, or bytes per second of a memory copy."""
    unit = {"bytes": "B/s", "int8": "OP/s"}.get(precision, "FLOP/s")
    prefix, size = ("T", 1e12) if per_second >= 1e12 else ("G", 1e9)
    return f"{significant(per_second / size)} {prefix}{unit}"


def counted(count: int, what: str) -> str:
    """A count and its noun, which takes an s in the plural."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def printable(text: str) -> str:
    """A text from outside on one line, with nothing that a document cannot hold."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def short(name: str, length: int) -> str:
    """A name cut in its middle: the network is at its beginning, precision and kind of file are at its end."""
    name = printable(name)
    if len(name) <= length:
        return name
    end = (length - 1) // 2
    return name[: length - 1 - end] + _ELLIPSIS + name[len(name) - end :]


def short_names(names: Sequence[str], length: int) -> tuple[str, ...]:
    """Short names that differ where the long ones do: those that would be alike get their place in front."""
    cut = [short(name, length) for name in names]
    return tuple(
        f"{place}: {short(name, length - 4)}" if cut.count(cut[place - 1]) > 1 else cut[place - 1]
        for place, name in enumerate(names, start=1)
    )


def machine(found: Machine) -> str:
    """The machine in one line."""
    parts = [f"{counted(found.cores, 'core')} of {found.cpu}"]
    if found.memory_bytes is not None:
        parts.append(memory(found.memory_bytes))
    parts += [gpu.name for gpu in found.gpus] or ["no GPU"]
    return ", ".join([*parts, found.system])


def views(protocol: Protocol) -> str:
    """What one video is."""
    clips, crops = counted(protocol.clips, "clip"), counted(protocol.crops, "crop")
    return f"{counted(protocol.views, 'view')} of {counted(protocol.clip_len, 'frame')} per video ({clips}, {crops})"


def rounds_of(timing: Timing) -> str:
    """In how many rounds an artifact was timed."""
    return _rounds({len(timing.rounds)})


def rounds(record: Record) -> str:
    """How many rounds were run."""
    return _rounds({len(result.model.rounds) for result in record.results})


def _rounds(counts: set[int]) -> str:
    least, most = min(counts), max(counts)
    return counted(most, "round") if least == most else f"{least} to {most} rounds"


def versions(record: Record) -> str:
    """All versions in one line."""
    return ", ".join([f"i3d-deploy {record.i3d_deploy}", *(f"{name} {text}" for name, text in record.versions.items())])


def ratio_of(record: Record, artifact: str, against: str) -> Ratio | None:
    """The ratio of two artifacts; None where the record has none."""
    return next((pair for pair in record.ratios if (pair.artifact, pair.against) == (artifact, against)), None)
