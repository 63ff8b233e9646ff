"""``i3d-bench`` as a user and as a careless user would use it; speed itself is never asserted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from i3d_deploy import generated
from i3d_deploy.benchmark import schedule
from i3d_deploy.benchmark.record import Record
from i3d_deploy.commands import bench
from tests.commands.test_commands import assert_one_line, run

QUICK = ("--protocol", "16x3", "--videos", "2", "--seconds", "0", "--warmup", "1", "--ceilings", "0")


@pytest.fixture(scope="module")
def artifacts(tiny_exports: Path) -> tuple[Path, Path]:
    return tiny_exports / "tiny.onnx", tiny_exports / "tiny.xml"


@pytest.fixture(scope="module")
def record(artifacts: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of the two artifacts, and beside it the page."""
    path = tmp_path_factory.mktemp("bench") / "bench.json"
    result = run(bench.main, *artifacts, *QUICK, "--json", path, "--html", path.with_suffix(".html"))
    assert result.exit_code == 0, result.output
    assert "videos/s" in result.stdout
    return path


def changed(record: Path, target: Path, **per_artifact: float) -> Path:
    """A record in which artifacts had so many videos per second."""
    document: dict[str, Any] = json.loads(record.read_text())
    for result in document["results"]:
        result["videos_per_second"] = per_artifact[result["artifact"].partition(".")[2]]
    target.write_text(json.dumps(document))
    return target


def test_the_json_has_the_headline_of_each_artifact(record: Path) -> None:
    document = json.loads(record.read_text())
    assert document["version"] == 2
    assert [result["artifact"] for result in document["results"]] == ["tiny.onnx", "tiny.xml"]
    headlines = [result["videos_per_second"] for result in document["results"]]
    assert document["videos_per_second"] == max(headlines) > 0


def test_the_page_is_beside_it(record: Path) -> None:
    page = record.with_suffix(".html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "tiny.xml" in page


def test_the_schema_describes_the_record(record: Path) -> None:
    result = run(bench.main, "--schema")
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    assert set(schema["properties"]) == set(json.loads(record.read_text())) == set(Record.model_fields)


def test_a_baseline_that_was_slower_passes(artifacts: tuple[Path, Path], record: Path, tmp_path: Path) -> None:
    slower = changed(record, tmp_path / "slower.json", onnx=1e-3, xml=1e-3)
    result = run(bench.main, *artifacts, *QUICK, "--baseline", slower)
    assert result.exit_code == 0, result.output
    assert "against the baseline" in result.stdout
    assert "regression" not in result.stdout


def test_a_baseline_that_was_faster_is_a_regression(artifacts: tuple[Path, Path], record: Path, tmp_path: Path) -> None:
    faster = changed(record, tmp_path / "faster.json", onnx=1e-3, xml=1e9)
    result = run(bench.main, *artifacts, *QUICK, "--baseline", faster)
    assert_one_line(result, "videos/s fell by more than 10 % against", "faster.json")
    assert result.stdout.count("regression") == 1


def test_an_artifact_that_was_not_asked_for_does_no_harm(
    artifacts: tuple[Path, Path], record: Path, tmp_path: Path
) -> None:
    slower = changed(record, tmp_path / "slower.json", onnx=1e-3, xml=1e-3)
    result = run(bench.main, artifacts[0], *QUICK, "--baseline", slower)
    assert result.exit_code == 0
    assert "not in this run" in result.stdout


def test_a_limit_without_a_baseline_is_a_mistake(artifacts: tuple[Path, Path]) -> None:
    result = run(bench.main, artifacts[0], *QUICK, "--max-regression", "5")
    assert_one_line(result, "--max-regression", "give one", code=2)


def test_record_and_page_are_two_files(artifacts: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "bench"
    assert_one_line(run(bench.main, artifacts[0], "--json", path, "--html", path), "the same file", code=2)


def test_the_record_is_there_when_the_reader_of_the_table_has_gone(
    artifacts: tuple[Path, Path], tmp_path: Path
) -> None:
    code = "import sys; from i3d_deploy.commands.bench import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, str(artifacts[0]), *QUICK, "--json", str(tmp_path / "bench.json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    process.stdout.close()
    process.wait(timeout=120)
    assert json.loads((tmp_path / "bench.json").read_text())["results"]


def test_a_damaged_video_is_noted(artifacts: tuple[Path, Path], tmp_path: Path) -> None:
    video, path = tmp_path / "short.mp4", tmp_path / "bench.json"
    generated.write_clip(video, num_frames=5, height=32, width=48)
    result = run(bench.main, artifacts[0], *QUICK, "--end-to-end", video, "--json", path)
    assert result.exit_code == 0, result.output
    note = "the video: 5 frames are fewer than the 15 that a clip spans: they are repeated"
    assert json.loads(path.read_text())["notes"] == [note]
    assert note in result.stdout


def test_an_artifact_that_does_not_run_is_named_and_the_others_are_measured(
    artifacts: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "bench.json"
    (tmp_path / "none.xml").write_bytes(b"")
    result = run(bench.main, artifacts[0], tmp_path / "none.xml", *QUICK, "--json", path)
    assert_one_line(result, "none.xml was not timed: ", "the file is empty")
    document = json.loads(path.read_text())
    assert [entry["artifact"] for entry in document["results"]] == ["tiny.onnx"]
    assert [entry["artifact"] for entry in document["failures"]] == ["none.xml"]


def test_a_path_that_is_not_there_is_told_at_once(
    artifacts: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "run", None)
    result = run(bench.main, artifacts[0], tmp_path / "none.xml")
    assert_one_line(result, f"{tmp_path / 'none.xml'}: no such file")


@pytest.mark.parametrize("protocol", ["320", "320x2", "x3", "-8x3"])
def test_a_protocol_is_frames_x_crops(artifacts: tuple[Path, Path], protocol: str) -> None:
    result = run(bench.main, artifacts[0], f"--protocol={protocol}")
    assert_one_line(result, "must be FRAMESxCROPS with 1 or 3 crops", code=2)


def test_a_sweep_is_a_name_and_sizes(artifacts: tuple[Path, Path]) -> None:
    assert_one_line(run(bench.main, artifacts[0], "--sweep", "batch"), "such as batch=1,2,4", code=2)


def test_frames_that_fill_no_clips_are_one_line(artifacts: tuple[Path, Path]) -> None:
    result = run(bench.main, artifacts[0], "--protocol", "30x3")
    assert_one_line(result, "30 frames per video are no multiple of the clip's 8")


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_what_could_not_be_written_at_the_end_is_known_at_the_beginning(
    artifacts: tuple[Path, Path], tmp_path: Path, option: str
) -> None:
    result = run(bench.main, artifacts[0], option, tmp_path / "none" / "file")
    assert_one_line(result, "give a file in a folder that exists", code=2)


def test_a_baseline_that_is_none_is_known_at_the_beginning(artifacts: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text('{"version": 1, "results": []}')
    assert_one_line(run(bench.main, artifacts[0], "--baseline", path), "old.json", "version 1, not 2")
    assert_one_line(run(bench.main, artifacts[0], "--baseline", tmp_path / "none.json"), "No such file")


def children(process_id: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_workers_and_leaves_no_file(
    artifacts: tuple[Path, Path], tmp_path: Path, how: signal.Signals
) -> None:
    code = "import sys; from i3d_deploy.commands.bench import main; main(sys.argv[1:])"
    arguments = [str(artifacts[0]), "--videos", "1000000", "--ceilings", "0", "--json", str(tmp_path / "bench.json")]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any(line.startswith("timing") for line in process.stderr)
    workers = children(process.pid)
    assert workers
    if how == signal.SIGINT:
        # As a terminal does: the workers are told as well.
        for each in (*workers, process.pid):
            os.kill(each, how)
    else:
        process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + how
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "a worker goes on"
        time.sleep(0.1)
