"""A run against an earlier one."""

from __future__ import annotations

from pathlib import Path

import pytest

from i3d_deploy.benchmark import baseline, record
from i3d_deploy.benchmark.record import Record
from i3d_deploy.errors import InputError
from tests.benchmark.records import plain_result, sample_record


def measured(**seconds: float) -> Record:
    """A record in which a video of each artifact takes the given seconds."""
    results = tuple(plain_result(name, rounds=((value,), (value,))) for name, value in seconds.items())
    return sample_record(artifacts=1).replaced(results=results, ratios=(), failures=(), sweeps=())


def test_an_artifact_that_lost_too_much_is_a_regression() -> None:
    found = baseline.compare(measured(a=1.25, b=2.0), measured(a=1.0, b=2.0), max_regression=0.1)
    assert [(change.artifact, change.before, change.now, change.is_regression) for change in found.changes] == [
        ("a", 1.0, 0.8, True),
        ("b", 0.5, 0.5, False),
    ]
    assert found.changes[0].change == pytest.approx(-0.2)
    assert found.has_regression


def test_a_loss_within_the_limit_and_a_gain_are_none() -> None:
    found = baseline.compare(measured(a=1.25, b=1.0), measured(a=1.0, b=2.0), max_regression=0.21)
    assert not found.has_regression
    assert found.warnings == ()


def test_an_artifact_that_is_not_in_this_run_is_listed_and_no_regression() -> None:
    found = baseline.compare(measured(a=1.0), measured(a=1.0, b=2.0), max_regression=0.1)
    assert (found.missing, found.has_regression) == ((("b", 0.5),), False)


def test_a_new_artifact_is_left_out() -> None:
    found = baseline.compare(measured(new=1.0, a=1.0), measured(a=1.0), max_regression=0.1)
    assert [change.artifact for change in found.changes] == ["a"]
    assert not found.has_regression


def test_a_change_of_all_alike_is_laid_on_the_machine() -> None:
    found = baseline.compare(measured(a=1.25, b=2.5), measured(a=1.0, b=2.0), max_regression=0.5)
    assert found.warnings == ("all artifacts changed alike, by -20%: the machine, rather than the artifacts",)


def test_another_machine_is_named() -> None:
    before = measured(a=1.0)
    now = before.replaced(machine=before.machine.replaced(cpu="Another CPU", cores=64, gpus=()))
    found = baseline.compare(now, before, max_regression=0.1)
    assert found.warnings[0] == f"other machine: cpu was {before.machine.cpu}, is Another CPU"
    assert found.warnings[1] == f"other machine: cores was {before.machine.cores}, is 64"


def test_other_protocols_cannot_be_compared() -> None:
    before = measured(a=1.0)
    protocol = before.protocol.replaced(name="32x1", clips=1, crops=1)
    with pytest.raises(InputError, match=r"the baseline measured 32x1 in clips of 32 \(1 views\).*, this run 320x3"):
        baseline.compare(before, before.replaced(protocol=protocol), max_regression=0.1)


def test_clips_of_another_length_cannot_be_compared() -> None:
    before = measured(a=1.0)
    protocol = before.protocol.replaced(clips=40, clip_len=8)
    with pytest.raises(InputError, match=r"320x3 in clips of 8 \(120 views\).*, this run 320x3 in clips of 32"):
        baseline.compare(before, before.replaced(protocol=protocol), max_regression=0.1)


def test_another_backend_is_named() -> None:
    before = measured(a=1.0)
    now = before.replaced(results=(before.results[0].replaced(runner="another 2.0 on cpu, fp32"),))
    found = baseline.compare(now, before, max_regression=0.1)
    assert found.warnings == (f"a was run by {before.results[0].runner}, is by another 2.0 on cpu, fp32",)


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(InputError, match="the baseline has no artifact of this run, only b: names must be the same"):
        baseline.compare(measured(a=1.0), measured(b=1.0), max_regression=0.1)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    written = sample_record()
    path.write_text(written.to_json(), encoding="utf-8")
    assert record.read(path) == written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON document"),
        ('{"version": 1, "results": []}', r"version 1, not 2\): measure again"),
        ("[]", r"version None, not 2\)"),
        ('{"version": 2, "results": []}', "malformed record: "),
    ],
)
def test_what_is_no_record_says_so(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        record.read(path)
