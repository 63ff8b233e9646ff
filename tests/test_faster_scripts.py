"""The scripts in bench/ that say what could be faster run and print what they promise."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from i3d_deploy import doctor, generated
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


FORMS = ["plain", "shared", "shared, crops only"]


def shared_stem(folder: Path, *, width: int, frames: int = 90) -> subprocess.CompletedProcess[str]:
    """Run the script on a small network and a generated video of 64 rows."""
    video = folder / "clip.mp4"
    generated.write_clip(video, num_frames=frames, height=64, width=width)
    options = ("--side", "64", "--clips", "3", "--rounds", "1", "--warmup", "0", "--json", folder / "record.json")
    return run("shared_stem.py", video, "--small", *options)


# Crops at 0, 10, 20, whose pool windows start at even, odd and even columns; and at 0, 12, 24: at even ones.
@pytest.mark.parametrize("width", [84, 88])
def test_the_shared_stem_gives_the_logits_of_pytorch(width: int, tmp_path: Path) -> None:
    done = shared_stem(tmp_path, width=width)
    assert done.returncode == 0, done.stderr
    (video,) = json.loads((tmp_path / "record.json").read_text())["videos"]
    rows = {(row["precision"], row["form"]): row for row in video["rows"]}
    assert list(rows) == [(precision, form) for precision in ("fp32", "bf16") for form in FORMS]
    for form in FORMS:
        assert rows["fp32", form]["reference_difference"] < 1e-4
        assert rows["fp32", form]["difference"] < 1e-4
        assert f"fp32       {form} " in done.stdout


def test_windows_that_clips_share_are_counted_once(tmp_path: Path) -> None:
    # 74 frames, 3 clips: (74 - 64 + 1) / 3 = 3.67 apart, at 1, 5 and 9. The first and the last are 8 apart, so that
    # window t of the last is window t + 1 of the first, but for its first one, which is padded: 8 + 8 + 2 of 24.
    done = shared_stem(tmp_path, width=84, frames=74)
    assert done.returncode == 0, done.stderr
    assert "18 of 24 windows are unique" in done.stdout
    work = macs_per_view(tmp_path)
    # One window convolves 64/2 rows, and of the columns 84/2 and, at borders inside the frame, twice 4 and twice 3;
    # 16 channels, 3 x 7 x 7 taps a frame. 5 frames a window, 3 in a first one. Plain: 24 windows of 5 x 3 crops.
    of_frame = 16 * 32 * 3 * 7 * 7 / 9
    assert work["shared"] - work["plain"] == pytest.approx(of_frame * (56 * (15 * 5 + 3 * 3) - 3 * 32 * 24 * 5))
    assert work["shared, crops only"] - work["shared"] == pytest.approx(of_frame * 56 * 6 * 5)


def macs_per_view(folder: Path) -> dict[str, float]:
    rows: Sequence[dict[str, Any]] = json.loads((folder / "record.json").read_text())["videos"][0]["rows"]
    return {row["form"]: row["gmacs_per_view"] * 1e9 for row in rows}


def test_crops_at_odd_columns_are_refused(tmp_path: Path) -> None:
    done = shared_stem(tmp_path, width=86)  # (86 - 64) / 2 = 11
    assert done.returncode == 1
    assert "a crop starts at column 11: the stem has stride 2, so only even columns can be shared" in done.stderr
    assert "Traceback" not in done.stderr
