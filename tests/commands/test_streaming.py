"""``i3d-predict --stream``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import i3d_deploy as i3d
from i3d_deploy import video_files
from i3d_deploy.commands import predict
from tests.commands.test_commands import assert_one_line, run
from tests.raw_avi import write_avi
from tests.sources import noise

COMMAND = [sys.executable, "-c", "from i3d_deploy.commands.predict import main; main()"]


def test_json_is_one_object_a_window(tiny_exports: Path, clip: Path) -> None:
    options = [
        "--stream",
        str(clip),
        "--no-drop",
        "--window-seconds",
        "1",
        "--every-seconds",
        "0.6",
        "--json",
        "--top",
        "2",
    ]
    result = run(predict.main, tiny_exports / "tiny.onnx", *options)
    assert result.exit_code == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    # 40 frames at 25 a second: windows of 25 frames from frame 0 and 15 on
    assert [(line["start_seconds"], line["end_seconds"]) for line in lines] == [(0, 1), (0.6, 1.6)]
    with i3d.load(tiny_exports / "tiny.onnx", device="cpu") as loaded:
        frames = np.stack(list(video_files.read(clip)))
        expected = loaded.predict(frames[15:], clips=1, crops=1).top(2)
    assert [(entry["label"], entry["probability"]) for entry in lines[1]["top"]] == expected
    counters = {"dropped_windows": 0, "dropped_frames": 0, "reconnects": 0}
    for line in lines:
        assert line.keys() == {"stream", "start_seconds", "end_seconds", "top", "lag_seconds", "warnings", *counters}
        assert {name: line[name] for name in counters} == counters
        assert line["stream"] == str(clip)
        assert line["lag_seconds"] >= 0
        assert line["warnings"] == []
    assert result.stderr.splitlines()[-1] == (
        "ended: 2 predictions of 1.60 s, 0 windows (0 frames) dropped, 0 reconnections"
    )


def test_text_is_a_line_a_window(tiny_exports: Path, clip: Path) -> None:
    result = run(predict.main, tiny_exports / "tiny.onnx", "--stream", clip, "--no-drop")
    lines = result.stdout.splitlines()
    assert [line.split(" s  ")[0].split() for line in lines] == [["0.00", "-", "0.60"], ["0.60", "-", "1.20"]]
    assert all(line.count("%") == 3 and "(lag " in line for line in lines)


def test_warnings_of_windows_are_told_once(tiny_exports: Path, clip: Path) -> None:
    options = ["--stream", str(clip), "--no-drop", "--window-seconds", "0.4", "--json"]
    result = run(predict.main, tiny_exports / "tiny.onnx", *options)
    warning = "10 frames are fewer than the 15 that a clip spans: they are repeated"
    assert [json.loads(line)["warnings"] for line in result.stdout.splitlines()] == [[warning]] * 4
    assert result.stderr.count(warning) == 1
    assert f"Warning: {clip}: {warning}" in result.stderr.splitlines()


def test_a_damaged_file_may_have_as_few_frames_as_told(tiny_exports: Path, tmp_path: Path) -> None:
    write_avi(tmp_path / "clip.avi", noise(16), promised=40)
    options = ["--stream", str(tmp_path / "clip.avi"), "--no-drop"]
    few = run(predict.main, tiny_exports / "tiny.onnx", *options)
    assert_one_line(few, "only 16 of 40 frames decode, fewer than 50%", "(--min-decoded) sets how much is enough")
    enough = run(predict.main, tiny_exports / "tiny.onnx", *options, "--min-decoded", "0.4")
    assert enough.exit_code == 0
    assert "clip.avi: the container says 40 frames, 16 decode" in enough.stderr


def test_closed_standard_input_is_told(tiny_exports: Path) -> None:
    arguments = [str(tiny_exports / "tiny.onnx"), "--stream", "-", "--size", "64x48", "--frames-per-second", "25"]
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, *arguments]
    done = subprocess.run(closed, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "Error: standard input is closed: --stream - reads frames from it"


def test_clips_and_crops_are_one_unless_told(tiny_exports: Path, clip: Path) -> None:
    options = ["--stream", str(clip), "--no-drop", "--window-seconds", "1.6", "--json"]
    one, six = (
        json.loads(run(predict.main, tiny_exports / "tiny.onnx", *options, *views).stdout)
        for views in ([], ["--clips", "2", "--crops", "3"])
    )
    with i3d.load(tiny_exports / "tiny.onnx", device="cpu") as loaded:
        assert one["top"] == loaded.predict(clip, clips=1, crops=1).entries()
        assert six["top"] == loaded.predict(clip, clips=2, crops=3).entries()


def test_standard_input_carries_raw_frames(tiny_exports: Path) -> None:
    pixels = noise(15)
    options = ["--stream", "-", "--size", "64x48", "--frames-per-second", "25", "--json"]
    command = [*COMMAND, str(tiny_exports / "tiny.onnx"), *options]
    done = subprocess.run(command, input=pixels.tobytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    with i3d.load(tiny_exports / "tiny.onnx", device="cpu") as loaded:
        assert found["top"] == loaded.predict(pixels, clips=1, crops=1).entries()
    assert (found["start_seconds"], found["end_seconds"]) == (0, 0.6)


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
def test_an_interrupt_ends_it_cleanly(tiny_exports: Path, options: list[str]) -> None:
    arguments = [str(tiny_exports / "tiny.onnx"), "--stream", "-", "--size", "64x48", "--frames-per-second", "25"]
    process = subprocess.Popen(
        [*COMMAND, *arguments, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(noise(15).tobytes())
    process.stdin.flush()
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)  # although its standard input is still open
    stdout, stderr = process.communicate()
    assert (first != b"", stdout, process.returncode) == (True, b"", 130)
    assert stderr.decode().splitlines()[1:] == [
        "stopped: 1 prediction of 0.60 s, 0 windows (0 frames) dropped, 0 reconnections"
    ]


def test_a_reader_that_goes_ends_it(tiny_exports: Path) -> None:
    arguments = [str(tiny_exports / "tiny.onnx"), "--stream", "-", "--size", "64x48", "--frames-per-second", "25"]
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(noise(15).tobytes())
    process.stdin.flush()
    process.stdout.readline()
    process.stdout.close()
    process.stdin.write(noise(15).tobytes())
    process.stdin.flush()
    assert process.wait(timeout=60) == 1
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.stdin.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give VIDEOS, or --stream and a camera, URL, file or -"),
        (["clip.mp4", "--window-seconds", "2"], "--window-seconds goes with --stream"),
        (["clip.mp4", "--window-seconds", "0"], "--window-seconds goes with --stream"),
        (["clip.mp4", "--no-drop"], "--no-drop goes with --stream"),
        (["--stream", ""], "--stream takes a camera, URL, file or -, not an empty name"),
        (["--stream", "clip.mp4", "--explain-class", "1"], "--explain-class does not go with --stream"),
        (["--stream", "clip.mp4", "other.mp4"], "--stream clip.mp4 is predicted in place of VIDEOS: 'other.mp4'"),
        (["--stream", "clip.mp4", "--annotate", "out.mp4"], "--annotate does not go with --stream"),
        (["--stream", "clip.mp4", "--size", "64x48"], "--size goes with --stream -"),
        (["--stream", "-", "--size", "64x48"], "standard input carries raw rgb24 frames: say --size WIDTHxHEIGHT and "),
        (["--stream", "-"], "as in ffmpeg -i INPUT -f rawvideo -pix_fmt rgb24 "),
    ],
    ids=[
        "nothing",
        "window",
        "window of 0",
        "no-drop",
        "empty",
        "class",
        "both",
        "annotate",
        "size",
        "no rate",
        "no size",
    ],
)
def test_what_does_not_go_together_is_told(tiny_exports: Path, arguments: list[str], message: str) -> None:
    result = run(predict.main, tiny_exports / "tiny.onnx", *arguments)
    assert_one_line(result, message, code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stream", "nothing.mp4"], "nothing.mp4: no such file"),
        (["--stream", "-", "--size", "big", "--frames-per-second", "25"], "size 'big' is not WIDTHxHEIGHT in pixels"),
        (["--stream", "clip.mp4", "--every-seconds", "0"], "every_seconds (0) must be > 0 and <= 1e+06"),
        (["--stream", "clip.mp4", "--every-seconds", "inf"], "every_seconds (inf) must be > 0 and <= 1e+06"),
        (["--stream", "clip.mp4", "--window-seconds", "inf"], "window_seconds (inf) must be > 0 and <= 1e+06"),
        (["--stream", "99999999999"], "a camera's number (99999999999) must be from 0 to 99"),
        (["--stream", "/dev/video3"], "/dev/video3: a camera is given by its number: 3 (--stream 3)"),
        (["--stream", "/"], "/: a stream is one file, URL, camera or pipe, not a folder"),
    ],
    ids=["no file", "size", "every", "endless every", "endless window", "camera", "device", "folder"],
)
def test_what_cannot_be_predicted_is_told(tiny_exports: Path, arguments: list[str], message: str) -> None:
    assert_one_line(run(predict.main, tiny_exports / "tiny.onnx", *arguments), message)


def test_an_error_is_json_where_that_was_asked(tiny_exports: Path) -> None:
    result = run(predict.main, tiny_exports / "tiny.onnx", "--stream", "nothing.mp4", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"stream": "nothing.mp4", "error": "nothing.mp4: no such file"}
