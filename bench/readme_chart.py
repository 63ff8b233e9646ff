"""Kept records as tables of a Markdown file and charts beside the records.

    python bench/readme_chart.py bench/records/2026-11-25_r50.json --into README.md

The Markdown file marks the place, by the record's name without ``.json``; what stands between is replaced:

    <!-- records:2026-11-25_r50 -->
    <!-- /records -->

The chart is ``bench/records/2026-11-25_r50.svg``. With ``--check`` nothing is written, and the exit code is 1 when the
Markdown file or a chart is not what it would be.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import click

from i3d_deploy import files
from i3d_deploy.benchmark import charts, wording
from i3d_deploy.benchmark.record import EndToEnd, Record, Result, read
from i3d_deploy.commands.options import reports_errors
from i3d_deploy.errors import InputError

WIDTH_INCHES = 6.0
BACKGROUND = "#ffffff"
"""GitHub shows the chart in dark mode as well, where dark text needs it."""

HEADINGS = ("artifact", "run by", "precision", "videos/s", "s/video", "spread", "ratio", "of ceiling", "peak memory")
END = "<!-- /records -->"


@click.command()
@click.argument("records", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    *("--into", "documents"),
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Markdown file with the marks; it may be given several times.",
)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 when a file is not up to date.")
@reports_errors
def main(records: tuple[Path, ...], documents: tuple[Path, ...], check: bool) -> None:
    """Put RECORDS into Markdown files and draw a chart of each.

    Example: python bench/readme_chart.py bench/records/2026-11-25_r50.json --into README.md
    """
    wanted = {path.with_suffix(".svg"): chart(read(path)) for path in records}
    wanted |= {document: filled(document, records) for document in documents}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if check and stale:
        given = " ".join(str(path) for path in records)
        into = " ".join(f"--into {path}" for path in documents)
        names = ", ".join(map(str, stale))
        raise InputError(f"not up to date: {names}: run python bench/readme_chart.py {given} {into}")
    for path in stale:
        with files.replacing(path) as (target,):
            target.write_text(wanted[path], encoding="utf-8")
        click.echo(f"wrote {path}")


def chart(record: Record) -> str:
    """The chart of a record, to stand alone."""
    title = f"{record.protocol.name}, {wording.short(record.machine.cpu, 40)}"
    gpus = ", ".join(gpu.name for gpu in record.machine.gpus)
    title = f"{record.protocol.name}, {gpus}" if gpus else title
    return charts.throughput(record, width=WIDTH_INCHES, background=BACKGROUND, title=title, id_prefix="records")


def filled(document: Path, records: tuple[Path, ...]) -> str:
    """The text of a Markdown file with what belongs between its marks.

    Raises:
        InputError: It has no marks for a record, or a record cannot be read.
    """
    text = document.read_text(encoding="utf-8")
    for path in records:
        start = f"<!-- records:{path.stem} -->"
        pattern = re.compile(re.escape(start) + r"(?:(?!<!-- records:).)*?" + re.escape(END), re.DOTALL)
        if not pattern.search(text):
            raise InputError(f"{document} has no place for {path.stem}: write {start} and below it {END}")
        block = "\n".join([start, "", *_block(read(path), path, document), "", END])
        text = pattern.sub(lambda _, block=block: block, text)  # type: ignore[misc]
    return text


def _block(record: Record, path: Path, document: Path) -> Iterator[str]:
    """Chart, table, and the line below it."""
    folder = document.resolve().parent
    picture, source = (
        Path(os.path.relpath(one.resolve(), folder)).as_posix() for one in (path.with_suffix(".svg"), path)
    )
    yield f"![videos/s of {len(record.results)} artifacts]({picture})"
    yield ""
    # Of artifacts that were also timed from the video file.
    from_file = ("from the file",) if any(result.end_to_end for result in record.results) else ()
    yield _row((*HEADINGS, *from_file))
    yield _row(["---"] * len((*HEADINGS, *from_file)))
    for result in record.results:
        cells = _cells(record, result)
        yield _row([*cells, _from_file(record, result)] if from_file else cells)
    for failure in record.failures:
        reason = f"not timed: {_plain(failure.reason)}"
        yield _row([_code(failure.artifact), reason, *[wording.DASH] * (len((*HEADINGS, *from_file)) - 2)])
    yield ""
    yield (
        f"{_plain(wording.machine(record.machine))}; {_plain(wording.versions(record))}; {record.protocol.name}: "
        f"{wording.views(record.protocol)}, {_what(record)}, {wording.rounds(record)} in turns{_warmth(record)}, "
        f"{record.date} ([record]({source}))."
    )


def _cells(record: Record, result: Result) -> list[str]:
    timing, first = result.model, record.results[0].artifact
    ratio = wording.ratio_of(record, result.artifact, first)
    memory = wording.memory(result.peak_host_bytes)
    if result.peak_device_bytes is not None:
        memory += f", device {wording.memory(result.peak_device_bytes)}"
    against = "1" if result is record.results[0] else wording.DASH
    return [
        _code(result.artifact),
        _plain(f"{result.backend}, {result.device}"),
        _plain(result.precision),
        wording.significant(timing.videos_per_second),
        wording.significant(timing.median),
        wording.spread(timing.spread, is_noisy=timing.is_noisy),
        against if ratio is None else wording.significant(ratio.ratio) + (", noisy" if ratio.is_noisy else ""),
        wording.DASH if result.roofline is None else wording.percent(result.roofline.share),
        memory,
    ]


def _from_file(record: Record, result: Result) -> str:
    """Seconds of a video from its file, and how many times as fast as the first artifact."""
    first, own = record.results[0].end_to_end, result.end_to_end
    if own is None:
        return wording.DASH
    text = f"{wording.significant(own.timing.median)} s{_noise(own)}"
    if first is None or own is first:
        return text
    ratio = wording.significant(first.timing.median / own.timing.median)
    return f"{text}; {ratio} times as fast{_noise(first, own)}"


def _noise(*measured: EndToEnd) -> str:
    return ", noisy" if any(entry.timing.is_noisy for entry in measured) else ""


def _what(record: Record) -> str:
    """What was timed."""
    videos = {(entry.video, entry.frames) for result in record.results if (entry := result.end_to_end) is not None}
    named = " and ".join(f"{video} ({wording.counted(frames, 'frame')})" for video, frames in sorted(videos))
    return f"model only, and from the file of {_plain(named)}" if named else "model only"


def _warmth(record: Record) -> str:
    """Which artifacts were not seen to take the same time twice before the clock began to count."""
    cold = [result.artifact for result in record.results if not result.model.is_warm]
    if not cold:
        return ""
    named = "" if len(cold) == len(record.results) else f" of {', '.join(map(_code, cold))}"
    return f", times{named} not seen to settle in the warm-up"


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def _code(name: str) -> str:
    """A name as code, which may hold anything but a bar and backticks."""
    name = wording.printable(name).replace("|", r"\|")
    return f"`` {name} ``" if "`" in name else f"`{name}`"


def _plain(text: str) -> str:
    """A text that Markdown and HTML take for nothing but text."""
    return re.sub(r"([\\`*_\[\]<>|&~])", r"\\\1", wording.printable(text))


if __name__ == "__main__":
    main()
