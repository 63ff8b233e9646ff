"""The scripts in bench/ run and print what they promise. What they measure is no matter of a test."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from i3d_deploy.origins import MMACTION2
from tests import goldens
from tests.benchmark.records import sample_record, timing

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


MARKED = "# Speed\n\n<!-- records:r50 -->\nold\n<!-- /records -->\n\n<!-- records:other -->\nkept\n<!-- /records -->\n"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A record, and a Markdown file with a place for it."""
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "r50.json").write_text(sample_record().to_json(), encoding="utf-8")
    (tmp_path / "README.md").write_text(MARKED, encoding="utf-8")
    return tmp_path


def fill(kept: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("readme_chart.py", kept / "records" / "r50.json", "--into", kept / "README.md", *arguments)


def test_a_kept_record_becomes_a_table_and_a_chart(kept: Path) -> None:
    done = fill(kept)
    assert done.returncode == 0, done.stderr
    text = (kept / "README.md").read_text(encoding="utf-8")
    assert text.startswith(
        "# Speed\n\n<!-- records:r50 -->\n\n![videos/s of 6 artifacts](records/r50.svg)\n\n| artifact |"
    )
    assert text.endswith("<!-- /records -->\n\n<!-- records:other -->\nkept\n<!-- /records -->\n")
    assert "old" not in text.replace("i3d_r50_old.onnx", "")
    row = "| `i3d_r50_int8.xml` | openvino 2026.4.1, cpu | int8 | 0.585 | 1.71 | 1.8 % | 11.1 | 92 % | 229 MiB |"
    assert row in text
    assert "| 0.107 | 9.31 | 14 %, noisy | 2.05, noisy | 61 % | 512 MiB |" in text
    assert "| `i3d_r50_<fp8>.engine` | not timed: built for TensorRT-RTX 1.7; no NVIDIA driver was found |" in text
    last = next(line for line in text.splitlines() if line.startswith("2 cores of AMD EPYC"))
    for part in ("openvino 2026.4.1", "320x3: 30 views", "3 rounds in turns", "2026-11-25", "(records/r50.json)"):
        assert part in last
    chart = (kept / "records" / "r50.svg").read_text(encoding="utf-8")
    assert chart.startswith("<svg ")
    assert "fill: #ffffff" in chart  # on which dark text can be read in dark mode
    before = (text, chart)
    assert fill(kept).stdout == ""  # nothing to write
    assert before == ((kept / "README.md").read_text(encoding="utf-8"), chart)


def test_figures_from_the_file_and_times_that_did_not_settle_are_told(kept: Path) -> None:
    record = sample_record(artifacts=2)
    first, second = record.results
    assert first.end_to_end is not None and second.end_to_end is not None
    steady = first.end_to_end.replaced(video="a_b.mp4", frames=1, timing=timing([(20.0,), (20.2,), (20.1,)]))
    noisy = second.end_to_end.replaced(video="a_b.mp4", frames=1, timing=timing([(9.0,), (11.0,), (10.05,)]))
    cold = second.model.replaced(is_warm=False)
    record = record.replaced(
        results=(first.replaced(end_to_end=steady), second.replaced(end_to_end=noisy, model=cold)),
    )
    (kept / "records" / "r50.json").write_text(record.to_json(), encoding="utf-8")
    fill(kept)
    text = (kept / "README.md").read_text(encoding="utf-8")
    assert "| 20.1 s |" in text
    assert "| 10.1 s, noisy; 2.00 times as fast, noisy |" in text
    assert r"model only, and from the file of a\_b.mp4 (1 frame), 3 rounds in turns, times of " in text
    assert "`peer: onnxruntime, plain torch.onnx export` not seen to settle in the warm-up, 2026-11-25" in text


def test_check_finds_what_is_stale_and_writes_nothing(kept: Path) -> None:
    done = fill(kept, "--check")
    assert done.returncode == 1
    assert re.search(
        r"^Error: not up to date: .*r50\.svg, .*README\.md: run python bench/readme_chart\.py", done.stderr
    )
    assert (kept / "README.md").read_text(encoding="utf-8") == MARKED
    assert not (kept / "records" / "r50.svg").exists()
    fill(kept)
    assert fill(kept, "--check").returncode == 0
    (kept / "README.md").write_text((kept / "README.md").read_text(encoding="utf-8").replace("0.585", "0.685"))
    assert fill(kept, "--check").returncode == 1


def test_a_file_without_a_place_for_a_record_is_told_how_to_get_one(kept: Path) -> None:
    (kept / "README.md").write_text("# Speed\n", encoding="utf-8")
    done = fill(kept)
    assert done.returncode == 1
    assert "has no place for r50: write <!-- records:r50 --> and below it <!-- /records -->" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_record_of_another_version_is_refused(kept: Path) -> None:
    (kept / "records" / "r50.json").write_text('{"version": 1, "results": []}', encoding="utf-8")
    done = fill(kept)
    assert done.returncode == 1
    assert "not a record of i3d-bench that can be read here (version 1, not 2)" in done.stderr


def test_the_kept_tables_and_charts_are_those_of_their_records() -> None:
    records = (
        ROOT / "bench" / "records" / f"2026-11-25_r50_{name}.json" for name in ("one_view_cpu_2_cores", "cpu_2_cores")
    )
    documents = ("--into", ROOT / "README.md", "--into", ROOT / "bench" / "README.md")
    done = run("readme_chart.py", *records, *documents, "--check")
    assert done.returncode == 0, done.stderr


def test_the_table_of_peers_is_that_of_its_record() -> None:
    done = run("peers/compare.py", "--from", ROOT / "bench" / "records" / "2026-11-25_peers_cpu_2_cores.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in (ROOT / "bench" / "README.md").read_text(encoding="utf-8")


def test_the_overhead_is_that_of_an_idle_runner(tiny_exports: Path, tmp_path: Path) -> None:
    path = tmp_path / "overhead.json"
    done = run("overhead.py", tiny_exports / "tiny.onnx", "--protocol", "16x3", "--videos", "2", "--json", path)
    assert done.returncode == 0, done.stderr
    assert "idle runner: " in done.stdout
    real, idle = json.loads(path.read_text())["results"]
    assert (real["artifact"], idle["provider"], idle["is_comparable"]) == ("tiny.onnx", "idle", False)


@pytest.mark.parametrize("options", [(), ("--waits", "1")], ids=["computes", "waits"])
def test_every_way_to_run_a_stream_is_compared_with_the_first(
    tiny_exports: Path, clip: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    path = tmp_path / "overlap.json"
    done = run(
        "overlap.py",
        *(tiny_exports / "tiny.onnx", clip),
        *("--videos", "2", "--rounds", str(ROUNDS)),
        *("--patience", "0", "--device", "cpu", *options, "--json"),
        path,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(path.read_text())
    assert record["videos"] == ["clip.mp4", "clip.mp4"]
    ways = [row["way"] for row in record["results"]]
    assert ways[0] == "one after the other, all decoder, all OpenCV threads"
    assert "overlapped, 1 decoder, all OpenCV threads" in ways
    assert [len(turns) for turns in record["rounds"]] == [len(ways)] * ROUNDS
    assert record["results"][0]["ratio"] == 1
    assert all(way in done.stdout for way in ways)


def test_the_filled_network_is_the_goldens(tmp_path: Path) -> None:
    # The script fills each tensor by its name in mmaction2, as the golden tests do.
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); import compare; from i3d_deploy import checkpoint\n"
        "torch.save(compare.fill(checkpoint.random(compare.NAME)).model.state_dict(), sys.argv[2])"
    )
    path = tmp_path / "filled.pt"
    subprocess.run([sys.executable, "-c", code, ROOT / "bench" / "peers", path], check=True, timeout=300)
    found = torch.load(path)
    expected = goldens.filled_state(goldens.load_json("keys_mmaction_i3d_r50.json"))
    assert len(found) == len(expected)
    for name, tensor in found.items():
        np.testing.assert_allclose(tensor, expected[MMACTION2.entry(name)], rtol=0, atol=1e-6)


def test_a_soak_of_a_stream_tells_memory_lag_and_what_was_dropped(tiny_exports: Path, tmp_path: Path) -> None:
    path = tmp_path / "soak.json"
    options = ["--minutes", "0.05", "--every", "0.2", "--break-seconds", "1", "--json", str(path)]
    done = run("stream_soak.py", tiny_exports / "tiny.onnx", *options)
    assert done.returncode == 0, done.stderr
    record = json.loads(path.read_text())
    found = record["result"]
    assert re.match(r"tiny\.onnx +\d+ s +\d+ +\d+ MiB +\d+ predictions  lag ", done.stdout)
    assert found["predictions"] == len(record["lag_seconds"]) > 0
    assert found["median_lag_seconds"] <= found["max_lag_seconds"]
    assert record["memory_mib"][0][1] > 0
    assert record["notices"][-1].startswith("stopped: ")
    assert "127.0.0.1" not in path.read_text()


def test_many_videos_compares_actors_with_a_loop(tiny_exports: Path, clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "many.json"
    done = run(
        "many_videos.py",
        *(tiny_exports / "tiny.onnx", clip, "--videos", "4", "--clips", "1", "--crops", "1"),
        *("--way", "0x1", "--way", "1x1", "--rounds", "1", "--json", path),
    )
    assert done.returncode == 0, done.stderr
    assert "tiny.onnx, 4 videos, 1 clips x 1 crops" in done.stdout
    rows = json.loads(path.read_text())["results"]
    assert [(row["way"], len(row["ratios"])) for row in rows] == [("loop, 1", 1), ("1 x 1", 1)]
    assert rows[0]["ratio"] == 1
    assert all(row["seconds"] > 0 and row["start_seconds"] > 0 for row in rows)


def test_kernels_sm90_lists_what_a_network_becomes_without_a_gpu() -> None:
    done = run("kernels_sm90.py", "--views", "2", "--only", "x2x2 8x128x128x64", "--processes", "1")
    assert done.returncode == 0, done.stderr
    heading, _, layer, pool, total, stacked, stacking = done.stdout.splitlines()
    assert heading == "i3d_r50, 2 views, fp16, for compute capability 9.0"
    assert layer == "1 x 1x3x3/1x2x2 8x128x128x64 max pool, limited by memory"
    # 2 * 8 * 64 * (128 * 128 + 64 * 64) values of two bytes, at 4.3 TB/s.
    assert pool.split()[-3:] == ["0.0", "41.9", "0.010"]
    assert total == "these layers at their ceilings: 0.01 ms"
    assert stacked == "stacking (2, 8, 256, 256, 16)"
    # 2 * 256 * 256 * (32 * 3 + 8 * 16 * 2) bytes.
    assert stacking.split()[-2:] == ["46.1", "0.011"]


def test_everything_for_a_gpu_runs_small_on_a_cpu(tmp_path: Path) -> None:
    done = run("gpu.py", "--small", "--device", "cpu", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.partition("## summary")[2]
    subjects = re.findall(r"^\| (\w+) \| (complete|partly measured) \|", summary, re.MULTILINE)
    names = ["ceilings", "correct", "headline", "layers", "groups", "peers", "batch", "networks", "end_to_end"]
    assert [name for name, _ in subjects] == [*names, "training", "floors"]
    assert [name for name, status in subjects if status == "partly measured"] == ["ceilings"]
    assert "copies from host to device need a GPU" in summary
    assert "decoding on the GPU: needs a GPU" in done.stdout

    (path,) = tmp_path.glob("*_gpu_correct.json")
    record = json.loads(path.read_text())
    assert (record["status"], record["device"], record["protocol"]["is_small"]) == ("complete", "cpu", True)
    assert {"date", "machine", "versions", "i3d_deploy", "gpu", "wall_seconds"} <= record.keys()
    logits, refused = record["tables"]
    assert all(row["is_right"] and row["difference"] <= row["allowed"] for row in logits["rows"])
    assert {row["network"] for row in logits["rows"]} == {"i3d_r50", "i3d_r50_nl_gaussian", "i3d_inception_flow"}
    assert refused["rows"] == []
    (path,) = tmp_path.glob("*_gpu_peers.json")
    answers, speeds = json.loads(path.read_text())["tables"]
    # All contestants have the same weights and views.
    assert all(row["largest_difference_of_a_probability"] < 0.01 for row in answers["rows"])
    assert [row["contestant"] for row in speeds["rows"]] == [row["contestant"] for row in answers["rows"]]
    assert len(list(tmp_path.iterdir())) == len(subjects) + 1  # i3d-bench has a record of its own


def test_the_floors_of_a_gpu_are_those_of_the_script(tmp_path: Path) -> None:
    done = run("gpu.py", "--only", "floors", "--device", "cpu", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    notes = (ROOT / "bench" / "gpu.md").read_text(encoding="utf-8")
    tables = [block for block in done.stdout.partition("## summary")[0].split("\n\n") if block.startswith("| ")]
    assert len(tables) == 4
    assert all(table.strip() in notes for table in tables)
    # The arithmetic of the stem, by hand: 30 views of 64 maps of 8x128x128, each sum over 7x7 of 16 channels.
    stem = 30 * 64 * 8 * 128 * 128 * 7 * 7 * 16
    assert f"| stem 1x7x7 | 1 | {stem / 1e9:.1f} |" in done.stdout


def test_a_subject_that_cannot_be_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    subjects = ("--only", "end_to_end", "--only", "groups", "--only", "layers", "--minutes", "1")
    done = run("gpu.py", "--small", "--device", "cpu", *subjects, "--videos", folder, "--out", tmp_path / "records")
    assert done.returncode == 0, done.stderr
    summary = done.stdout.partition("## summary")[2]
    assert re.search(r"\| end_to_end \| partly measured \| \d+ \| .* has no video that can be read \|", summary)
    assert [line.split()[1] for line in summary.splitlines() if "complete" in line] == ["layers", "groups"]
