"""A record on the terminal: what a reader must find there."""

from __future__ import annotations

import io

from rich.console import Console

from i3d_deploy.benchmark import table
from i3d_deploy.benchmark.baseline import Change, Comparison
from i3d_deploy.benchmark.record import Record
from tests.benchmark.records import (
    LONG_NAME,
    NOISY_NAME,
    gpu_record,
    plain_result,
    ratios,
    sample_record,
    single_record,
)

ROUNDS = {"old.onnx": ((19.1,), (18.7,), (18.9,)), "new.xml": ((5.43,), (5.47,), (5.40,))}


def shown(record: Record, *, width: int = 200) -> str:
    text = io.StringIO()
    table.show(record, Console(file=text, width=width))
    return text.getvalue()


def row(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_a_row_has_the_figures_of_an_artifact() -> None:
    # 30 views in 5.43 s; the rounds' ratios to the first are 19.1/5.43, 18.7/5.47 and 18.9/5.40.
    results = tuple(plain_result(name, rounds=rounds) for name, rounds in ROUNDS.items())
    record = single_record().replaced(results=results, ratios=ratios(results))
    cells = row(shown(record), "new.xml").split()
    assert cells[1:4] == ["0.184", "5.52", "5.43"]
    assert cells[-1] == "3.50"


def test_noise_is_marked() -> None:
    assert "noisy" in row(shown(sample_record()), NOISY_NAME)


def test_names_are_shown_as_they_are() -> None:
    assert LONG_NAME in shown(sample_record())
    bracketed = sample_record(artifacts=1)
    result = bracketed.results[0].replaced(artifact="[bold]x.onnx")
    assert "[bold]x.onnx" in shown(bracketed.replaced(results=(result,), sweeps=()))


def test_everything_that_was_measured_is_there() -> None:
    text = shown(sample_record())
    for heading in ("from the file", "times as fast as", "slowest layers of", "what the machine can do", "43.27 GMAC"):
        assert heading in text


def test_what_was_not_measured_is_left_out() -> None:
    text = shown(single_record())
    for heading in ("from the file", "times as fast as", "slowest layers of", "what the machine can do", "GMAC"):
        assert heading not in text


def test_a_gpu_shows_its_name_and_memory() -> None:
    record = gpu_record()
    text = shown(record)
    assert record.machine.gpus[0].name in text
    assert " GPU" in row(text.partition("used")[2], record.results[0].artifact)


def test_energy_and_clock_name_their_source() -> None:
    result = plain_result("a.onnx", rounds=((1.0,),))
    measured = result.model.replaced(
        joules_per_video=12.5, energy_source="powercap, processor packages", clock_mhz=2600
    )
    text = shown(single_record().replaced(results=(result.replaced(model=measured),)))
    assert "12.5" in row(text.partition("used")[2], "a.onnx")
    assert "energy: powercap, processor packages" in text
    assert "clock: 2600 MHz" in text


def test_a_comparison_marks_what_became_slower_and_what_is_noisy() -> None:
    changes = (
        Change(artifact="a", before=2.0, now=1.0, is_regression=True, is_noisy=False),
        Change(artifact="b", before=2.0, now=2.1, is_regression=False, is_noisy=True),
    )
    text = io.StringIO()
    comparison = Comparison(changes=changes, warnings=("another machine",), missing=(("c", 0.5),))
    table.show_comparison(comparison, Console(file=text, width=100))
    assert row(text.getvalue(), "a ").split() == ["a", "2.00", "1.00", "-50.0%", "regression"]
    assert row(text.getvalue(), "b ").split() == ["b", "2.00", "2.10", "+5.0%", "noisy"]
    assert row(text.getvalue(), "c ").split()[:2] == ["c", "0.500"]
    assert "another machine" in text.getvalue()
