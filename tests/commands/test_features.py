"""``i3d-features`` as a user and as a careless user would use it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

from i3d_deploy import checkpoint, files, flow, generated, two_stream, video_files
from i3d_deploy.commands import features
from i3d_deploy.frames import Resized
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.runners.torch_runner import TorchRunner
from i3d_deploy.two_stream import Pair
from tests.commands.test_commands import assert_one_line, run
from tests.test_features import checkpoint_of, runner_of


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rgb.safetensors and flow.safetensors, narrow Inceptions, and both as pair.json."""
    folder = tmp_path_factory.mktemp("artifacts")
    for stream in ("rgb", "flow"):
        made = checkpoint_of(f"i3d_inception_{stream}", head_window=(2, 1, 1))
        checkpoint.save(made, folder / f"{stream}.safetensors")
    two_stream.write(folder / "pair.json", Pair(rgb=folder / "rgb.safetensors", flow=folder / "flow.safetensors"))
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three videos of 36x48: a.mp4 and b/a.mp4 with 40 frames, b/short.avi with 5."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "b").mkdir()
    for seed, (name, count) in enumerate({"a": 40, "b/a": 40, "b/short": 5}.items()):
        generated.write_clip(folder / f"{name}.mp4", num_frames=count, height=36, width=48, seed=seed)
    (folder / "b" / "short.mp4").rename(folder / "b" / "short.avi")
    return folder


def recognizer_of(stream: str) -> Recognizer:
    """The same network, without a file."""
    return Recognizer(runner_of(f"i3d_inception_{stream}", head_window=(2, 1, 1)))


def compute(artifacts: Path, *arguments: str | Path) -> Result:
    """Invoke the command with the RGB network on a CPU."""
    return run(features.main, artifacts / "rgb.safetensors", *arguments, "--device", "cpu")


def document(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text())


def files_in(folder: Path) -> list[str]:
    """All files of a folder, by their paths in it."""
    return sorted(entry.relative_to(folder).as_posix() for entry in folder.rglob("*") if entry.is_file())


def test_a_folder_keeps_its_structure(artifacts: Path, videos: Path, tmp_path: Path) -> None:
    result = compute(artifacts, videos, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    names = ["a.json", "a.npy", "b/a.json", "b/a.npy", "b/short.json", "b/short.npy"]
    assert files_in(tmp_path / "out") == names
    assert len(result.stdout.splitlines()) == 3
    assert "a.npy  (3, 16): 40 frames at 25 a second, 3 windows, the last filled with 8 frames" in result.stdout
    note = document(tmp_path / "out" / "b" / "short.json")
    assert (note["video"], note["shape"], note["padded_frames"]) == ("b/short.avi", [1, 16], 11)
    assert (note["start_seconds"], note["end_seconds"]) == ([0.0], [0.2])
    assert note["streams"]["rgb"]["artifact_sha256"] == files.sha256(artifacts / "rgb.safetensors")
    texts = [(tmp_path / "out" / name).read_text() for name in names if name.endswith(".json")]
    assert not any(str(folder) in text for text in texts for folder in (videos, artifacts, tmp_path))


def test_the_array_is_that_of_the_recognizer(artifacts: Path, videos: Path, tmp_path: Path) -> None:
    options = ["--window", "12", "--stride", "6", "--crops", "10", "--last", "shift", "--fps", "12.5"]
    result = compute(artifacts, videos / "a.mp4", "--output", tmp_path, *options, "--crop-size", "36", "--batch", "7")
    assert result.exit_code == 0, result.output
    expected = recognizer_of("rgb").features(
        videos / "a.mp4", window=12, stride=6, crops=10, last="shift", frames_per_second=12.5, crop_size=36, batch=7
    )
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected.values)
    note = document(tmp_path / "a.json")
    assert note["settings"] == {
        "window": 12,
        "stride": 6,
        "layer": "pool",
        "crops": 10,
        "last": "shift",
        "frames_per_second": 12.5,
        "crop_size": 36,
    }
    assert note["start_frames"] == [0, 6, 8]
    assert expected.end_seconds is not None
    assert note["end_seconds"] == expected.end_seconds.tolist()


def test_flow_that_is_kept_is_computed_once(
    artifacts: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = recognizer_of("flow").features(videos / "a.mp4", stride=8)
    for stride in ("16", "8"):
        arguments = [str(videos / "a.mp4"), "--stride", stride, "--output", str(tmp_path / stride), "--device", "cpu"]
        result = run(features.main, artifacts / "flow.safetensors", *arguments, "--flow-cache", tmp_path / "flow")
        assert result.exit_code == 0, result.output
        monkeypatch.setattr(flow, "compute", None)
    np.testing.assert_array_equal(np.load(tmp_path / "8" / "a.npy"), expected.values)


@pytest.mark.parametrize("given", ["rgb", "pair"])
def test_two_streams_are_concatenated(artifacts: Path, videos: Path, tmp_path: Path, given: str) -> None:
    more = ["--flow", str(artifacts / "flow.safetensors")] if given == "rgb" else []
    name = "rgb.safetensors" if given == "rgb" else "pair.json"
    result = run(features.main, artifacts / name, videos / "a.mp4", "--output", tmp_path, "--device", "cpu", *more)
    assert result.exit_code == 0, result.output
    expected = recognizer_of("rgb").features(videos / "a.mp4", flow=recognizer_of("flow"))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected.values)
    note = document(tmp_path / "a.json")
    assert (note["num_frames"], list(note["streams"])) == (39, ["rgb", "flow"])
    assert note["streams"]["flow"]["flow"] == flow.implementation("dis")


def test_one_stream_of_a_pair(artifacts: Path, videos: Path, tmp_path: Path) -> None:
    for stream in ("rgb", "flow", "both"):
        options = ["--output", str(tmp_path / stream), "--stream", stream, "--device", "cpu"]
        assert run(features.main, artifacts / "pair.json", videos / "a.mp4", *options).exit_code == 0
    rgb, of_flow, both = (np.load(tmp_path / stream / "a.npy") for stream in ("rgb", "flow", "both"))
    assert (rgb.shape, of_flow.shape, both.shape) == ((3, 16), (3, 16), (3, 32))
    np.testing.assert_array_equal(both[:, 16:], of_flow)
    np.testing.assert_array_equal(both[:2, :16], rgb[:2])


def test_a_run_goes_on_where_it_stopped(artifacts: Path, videos: Path, tmp_path: Path) -> None:
    assert compute(artifacts, videos, "--output", tmp_path).exit_code == 0
    before = (tmp_path / "a.npy").stat().st_mtime_ns
    (tmp_path / "b" / "a.npy").unlink()
    result = compute(artifacts, videos, "--output", tmp_path)
    assert result.exit_code == 0
    assert "2 videos done before, with the same settings" in result.stderr
    assert len(result.stdout.splitlines()) == 1
    assert ((tmp_path / "a.npy").stat().st_mtime_ns, len(files_in(tmp_path))) == (before, 6)
    assert "3 videos done before" in compute(artifacts, videos, "--output", tmp_path).stderr


def test_other_settings_overwrite_nothing_unasked(artifacts: Path, videos: Path, tmp_path: Path) -> None:
    compute(artifacts, videos / "a.mp4", "--output", tmp_path)
    result = compute(artifacts, videos, "--output", tmp_path, "--stride", "8")
    assert_one_line(result, "a.npy was made otherwise (settings.stride was 16, now 8)", "--overwrite")
    assert files_in(tmp_path) == ["a.json", "a.npy"]
    result = compute(artifacts, videos / "a.mp4", "--output", tmp_path, "--stride", "8", "--overwrite")
    assert (result.exit_code, document(tmp_path / "a.json")["settings"]["stride"]) == (0, 8)


def test_another_video_of_the_same_name_is_not_taken_for_done(artifacts: Path, videos: Path, tmp_path: Path) -> None:
    assert compute(artifacts, videos / "a.mp4", "--output", tmp_path).exit_code == 0
    result = compute(artifacts, videos / "b" / "a.mp4", "--output", tmp_path)
    assert_one_line(result, "a.npy was made otherwise (video_sha256 was ", "give another --output, or --overwrite")


def test_videos_of_one_name_are_kept_apart(artifacts: Path, videos: Path, tmp_path: Path) -> None:
    result = compute(artifacts, videos / "a.mp4", videos / "b" / "a.mp4", "--output", tmp_path)
    assert_one_line(result, "a.mp4 and ", "b/a.mp4 would both be written to", "give the folder above both")
    assert files_in(tmp_path) == []


def test_a_video_that_is_given_twice_is_computed_once(artifacts: Path, videos: Path, tmp_path: Path) -> None:
    result = compute(artifacts, videos / "a.mp4", videos / "a.mp4", "--output", tmp_path)
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 1)


def test_a_broken_video_does_not_stop_the_others(artifacts: Path, videos: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    result = compute(artifacts, broken, videos / "a.mp4", "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert f"Error: {broken}: no video stream that can be decoded\n" in result.stderr
    assert files_in(tmp_path / "out") == ["a.json", "a.npy"]


def test_a_short_video_is_reported_where_the_rest_is_dropped(artifacts: Path, videos: Path, tmp_path: Path) -> None:
    result = compute(artifacts, videos / "b", "--output", tmp_path, "--last", "drop")
    assert_one_line(result, "short.avi: 5 frames are fewer than a window of 16")
    assert files_in(tmp_path) == ["a.json", "a.npy"]


def test_what_is_wrong_with_a_video_is_said_and_written(artifacts: Path, videos: Path, tmp_path: Path) -> None:
    for number, frame in enumerate(video_files.read(videos / "a.mp4"), 1):
        (tmp_path / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "images" / f"img_{number:05}.png"), frame)
    result = compute(artifacts, tmp_path / "images", "--output", tmp_path / "out")
    text = "the video does not say its rate: its frames are taken to be 25 a second"
    assert f"Warning: {tmp_path / 'images'}: {text}" in result.stderr
    assert document(tmp_path / "out" / "images.json")["warnings"] == [text]


def test_frames_between_the_windows_are_told(artifacts: Path, videos: Path, tmp_path: Path) -> None:
    result = compute(artifacts, videos / "a.mp4", "--output", tmp_path, "--stride", "18")
    text = "4 frames lie between the windows: the stride (18) is longer than a window (16)"
    assert f"Warning: {videos / 'a.mp4'}: {text}" in result.stderr
    assert document(tmp_path / "a.json")["warnings"] == [text]


@pytest.mark.parametrize(
    ("options", "part", "code"),
    [
        (["--stream", "flow"], "--stream flow takes a network of flow, and ", 2),
        (["--stream", "both"], "rgb.safetensors is a network of rgb: give one with --flow", 2),
        (["--flow", "{folder}/rgb.safetensors"], "rgb: the second stream (--flow) is one of flow", 1),
        (
            ["--flow", "{folder}/rgb.safetensors", "--flow-method", "dis"],
            "rgb: the second stream (--flow) is one of",
            1,
        ),
        (["--fps", "fast"], "'fast' is neither a number nor source", 2),
        (["--fps", "-1"], "frames_per_second (-1.0) must be", 1),
        (["--window", "8"], "window (8) is too short: i3d_inception_rgb takes 9 frames or more", 1),
        (["--window", "0"], "0 is not in the range x>=1", 2),
        (["--window", "100000000"], "window (100000000) must be <= 1500", 1),
        (["--crops", "3"], "'3' is not one of '1', '10'", 2),
        (["--model", "i3d_r50"], "holds the network i3d_inception_rgb, not i3d_r50", 1),
    ],
)
def test_misuse_is_explained(
    artifacts: Path, videos: Path, tmp_path: Path, options: list[str], part: str, code: int
) -> None:
    filled = [option.format(folder=artifacts) for option in options]
    assert_one_line(compute(artifacts, videos, "--output", tmp_path / "out", *filled), part, code=code)
    assert not (tmp_path / "out").exists()


def test_an_engine_is_refused_before_the_work(artifacts: Path, videos: Path, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"x")
    result = run(features.main, tmp_path / "a.onnx", videos, "--output", tmp_path / "out")
    assert_one_line(result, "a.onnx is an engine, which gives logits alone: give the checkpoint that it was made from")


def test_a_pair_of_engines_is_refused(videos: Path, tmp_path: Path) -> None:
    for name in ("rgb.onnx", "flow.onnx"):
        (tmp_path / name).write_bytes(b"x")
    two_stream.write(tmp_path / "pair.json", Pair(rgb=tmp_path / "rgb.onnx", flow=tmp_path / "flow.onnx"))
    result = run(features.main, tmp_path / "pair.json", videos, "--output", tmp_path / "out")
    assert_one_line(
        result, "pair.json is a pair of engines", "RGB --flow FLOW, or a pair exported with --to safetensors"
    )


def test_a_pair_takes_no_second_stream(artifacts: Path, videos: Path, tmp_path: Path) -> None:
    flow_path = artifacts / "flow.safetensors"
    result = run(features.main, artifacts / "pair.json", videos, "--flow", flow_path, "--output", tmp_path / "out")
    assert_one_line(result, "pair.json already has its flow stream: leave out --flow")


def test_the_output_is_needed(artifacts: Path, videos: Path) -> None:
    assert_one_line(compute(artifacts, videos), "Missing option '--output'", code=2)


def test_interrupting_leaves_whole_pairs(
    artifacts: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps, left = TorchRunner.feature_maps, [4]  # three windows of the first video, and one

    def until_stopped(runner: TorchRunner, views: Resized) -> NDArray[np.float32]:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return maps(runner, views)

    monkeypatch.setattr(TorchRunner, "feature_maps", until_stopped)
    result = compute(artifacts, videos, "--output", tmp_path / "out")
    stopped = "stopped: 1 of 3 videos are done; the same command goes on"
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (130, stopped)
    assert files_in(tmp_path / "out") == ["a.json", "a.npy"]


def test_the_settings_in_the_help_are_options(artifacts: Path, videos: Path, tmp_path: Path) -> None:
    rows = re.findall(r"^  (--window .*)$", features.EPILOG, re.MULTILINE)
    assert len(rows) == 5
    for number, row in enumerate(rows):
        filled = row.replace("FLOW", str(artifacts / "flow.safetensors")).replace("224", "36").split()
        result = compute(artifacts, videos / "a.mp4", "--output", tmp_path / str(number), *filled)
        assert result.exit_code == 0, result.output
    shapes = [document(tmp_path / str(number) / "a.json")["shape"] for number in range(5)]
    # Of 40 frames, 39 of which have flow: (39 - 16) // 4 + 1, (39 - 16) // 16 + 1, ..., 39 - 21 + 1.
    assert shapes == [[6, 32], [2, 32], [2, 32], [2, 10, 16], [19, 32]]
