"""The scripts in bench/ run and print what they promise. What they measure is no matter of a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROUNDS = 2
FRAMES = 24


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    # One thread: the core may be shared with the workers of the loader, which threads that spin do not bear.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", ROOT / "bench" / script, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("kind", ["video", "frames"])
def test_training_speed_compares_the_loops_and_times_the_decoding(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    done = run(
        "training_speed.py",
        *("--recipe", "motion_tiny", "--set", "batch.videos=2", "--set", f"data.kind={kind}"),
        *("--size", "80x64", "--decode-size", "80x64", "--decode-size", "64x96", "--frames", str(FRAMES)),
        *("--videos-in-list", "2", "--rounds", str(ROUNDS), "--steps", "1", "--workers", "1", "--json", path),
    )
    assert done.returncode == 0, done.stderr
    assert "motion_tiny --set batch.videos=2" in done.stdout
    assert "2 videos a step, clips of 16x64x64, fp32, 1 workers, 1 threads" in done.stdout
    rows = [line.split("  ")[0] for line in done.stdout.splitlines()]
    decoded = [f"{container}, {size}, {FRAMES} frames" for container in ("mp4", "JPEG") for size in ("80x64", "64x96")]
    assert [row for row in rows if row in ("bare", "real", *decoded)] == ["bare", "real", *decoded]

    record = json.loads(path.read_text())
    assert record.keys() == {"version", "i3d_deploy", "machine", "versions", "protocol", "training", "decoding"}
    assert record["protocol"]["recipe"] == "motion_tiny"
    training = record["training"]
    assert len(training["rounds"]) == ROUNDS
    ratios = sorted(entry["real_seconds"] / entry["bare_seconds"] for entry in training["rounds"])
    assert training["ratio"] == pytest.approx(sum(ratios) / 2)
    assert training["spread"] == pytest.approx((ratios[1] - ratios[0]) / training["ratio"])
    assert all(0 <= entry["data_wait"] <= 1 for entry in training["rounds"])
    results = record["decoding"]["results"]
    assert [entry["source"] for entry in results] == decoded
    # A clip has 16 frames in a row. Of JPEG files only they are read, of a video also those before them.
    draws = record["decoding"]["draws"]
    for entry in results:
        assert len(entry["seconds"]) == len(entry["core_seconds"]) == ROUNDS
        if entry["source"].startswith("JPEG"):
            assert entry["frames"] == 16 * draws
        else:
            assert 16 * draws <= entry["frames"] <= FRAMES * draws
