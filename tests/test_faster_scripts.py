"""The scripts in bench/ that say what could be faster run and print what they promise."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from i3d_deploy import builders, doctor, export, generated
from i3d_deploy.checkpoint import Checkpoint
from tests.benchmark.records import sample_record

ROOT = Path(__file__).parents[1]
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-W", "error", ROOT / "bench" / script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@needs_compiler
def test_the_register_peak_is_measured_on_each_number_of_threads(tmp_path: Path) -> None:
    path = tmp_path / "peak.json"
    done = run(
        "register_peak.py", "--threads", "1", "--threads", "2", "--rounds", "1", "--seconds", "0.001", "--json", path
    )
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["GOP/s", "1", "thread", "2", "threads"]
    assert [row.split()[0] for row in rows] == ["fp32", "bf16", "int8"]
    document = json.loads(path.read_text())
    features = doctor.look_at_machine().cpu_features
    has = {entry["precision"] for entry in document["peaks"]}
    assert ("bf16" in has) == ("avx512_bf16" in features)
    for name, row in zip(("fp32", "bf16", "int8"), rows, strict=True):
        assert ("left out: this CPU has no instruction for it" in row) == (name not in has)
    assert [entry["threads"] for entry in document["peaks"]] == [1, 2] * len(has)
    assert all(entry["per_second"] > 0 for entry in document["peaks"])


@needs_compiler
def test_an_artifact_is_held_against_the_peak_of_its_precision(tmp_path: Path) -> None:
    kept, path = tmp_path / "record.json", tmp_path / "peak.json"
    record = sample_record()
    kept.write_text(record.to_json(), encoding="utf-8")
    done = run("register_peak.py", "--rounds", "1", "--seconds", "0.001", "--against", kept, "--rates", "--json", path)
    assert done.returncode == 0, done.stderr
    document = json.loads(path.read_text())
    peaks = {(entry["precision"], entry["threads"]): entry["per_second"] for entry in document["peaks"]}
    shares = {entry["artifact"]: entry for entry in document["shares"]}
    assert list(shares) == [result.artifact for result in record.results]
    threads = min(2, doctor.usable_cores())  # the record's artifacts used 2
    for result in record.results:
        known = peaks.get((result.precision, threads))
        if known is None or result.device != "cpu":
            assert shares[result.artifact]["share"] is None
            continue
        assert result.roofline is not None
        achieved = 2 * result.roofline.macs_per_view * 30 / result.model.median
        assert shares[result.artifact]["share"] == pytest.approx(achieved / known)
        line = next(line for line in done.stdout.splitlines() if line.startswith(result.artifact))
        assert re.search(rf"% of the {result.precision} peak, {threads} threads: [\d.,]+ of [\d.,]+ GOP/s", line)


def test_without_a_c_compiler_there_is_one_clear_line() -> None:
    done = run("register_peak.py", "--cc", "no-such-compiler")
    assert done.returncode == 1
    assert done.stderr == (
        "Error: no C compiler 'no-such-compiler' here: install one (gcc or clang), or name it with --cc\n"
    )


def test_rates_need_a_record() -> None:
    done = run("register_peak.py", "--rates")
    assert done.returncode == 1
    assert done.stderr == "Error: --rates says more about the artifacts of a record: give one with --against\n"


def test_both_forms_of_the_stem_are_timed_on_each_video(tiny_exports: Path, tmp_path: Path) -> None:
    videos: list[str | Path] = []
    for width in (32, 44):
        videos += ["--video", tmp_path / f"{width}.mp4"]
        generated.write_clip(tmp_path / f"{width}.mp4", num_frames=40, height=32, width=width)
    path = tmp_path / "record.json"
    done = run("shared_stem.py", tiny_exports / "tiny.xml", *videos, "--rounds", "2", "--json", path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())["results"]
    assert [(row["artifact"], row["video"], len(row["rounds"])) for row in rows] == [
        ("tiny.xml", "32.mp4", 2),
        ("tiny.xml", "44.mp4", 2),
    ]
    # Three times the same crop. Of 44 columns 22, and 7 at each of two borders, instead of 3 * 16.
    assert [row["saved"] for row in rows] == pytest.approx([2 / 3, 1 - 36 / 48])
    for row, line in zip(rows, done.stdout.splitlines(), strict=True):
        assert min(row["plain"], row["shared"], row["ratio"]) > 0
        assert f"saved {row['saved']:5.1%}" in line


def test_a_network_whose_stem_cannot_be_shared_is_refused(
    tiny_checkpoint: Checkpoint, clip20: Path, tmp_path: Path
) -> None:
    plain = builders.Optimization(is_on=False)
    export.export(tiny_checkpoint, targets=["openvino"], output=tmp_path, name="plain", optimization=plain)
    done = run("shared_stem.py", tmp_path / "plain.xml", "--video", clip20)
    assert done.returncode == 1
    assert done.stderr == f"Error: {tmp_path / 'plain.xml'}: the views of {clip20} cannot share the stem\n"
