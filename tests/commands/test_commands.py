"""The command line as a user and as a careless user would use it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

import cv2
import onnx
import pytest
import torch
from click import Command
from click.testing import CliRunner, Result

from i3d_deploy import artifact, generated, to_onnx
from i3d_deploy.commands import bench, doctor, export, features, predict, verify

COMMANDS = {"bench": bench.main, "doctor": doctor.main, "export": export.main, "predict": predict.main}
COMMANDS |= {"features": features.main, "verify": verify.main}


def run(command: Command, *arguments: str | Path) -> Result:
    """Invoke a command; a traceback is a bug."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def assert_one_line(result: Result, *parts: str, code: int = 1) -> None:
    """The result is a failure told in one line on stderr."""
    assert result.exit_code == code, result.output
    lines = result.stderr.strip().splitlines()
    message = lines[-1]
    assert message.startswith("Error: "), result.stderr
    assert sum(line.startswith("Error: ") for line in lines) == 1, result.stderr
    for part in parts:
        assert part in message


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """A limit on file size stands for the full disk: both end the write in an OSError, for Python ignores SIGXFSZ."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_is_there_with_an_example(name: str) -> None:
    result = run(COMMANDS[name], "--help")
    assert result.exit_code == 0
    assert "Example: i3d-" in result.output or name == "doctor"


def test_the_scripts_are_installed() -> None:
    installed = entry_points(group="console_scripts")
    scripts = {entry.name: entry.load() for entry in installed if entry.name.startswith("i3d-")}
    assert scripts == {f"i3d-{name}": command for name, command in COMMANDS.items()}


def test_help_does_not_import_the_heavy_packages() -> None:
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    try: importlib.import_module(f'i3d_deploy.commands.{name}').main(['--help'])\n"
        "    except SystemExit: pass\n"
        "    heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt_rtx'} & sys.modules.keys()\n"
        "    assert not heavy, (name, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code, *sorted(COMMANDS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") == len(COMMANDS)


@pytest.fixture(scope="module")
def every_target(tiny_exports: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """An export to all targets, and its folder."""
    folder = tmp_path_factory.mktemp("targets") / "out"
    targets = ["--to", "onnx", "--to", "openvino", "--to", "tensorrt", "--compute-capability", "8.9"]
    return run(export.main, tiny_exports / "tiny.safetensors", *targets, "--output", folder), folder


@pytest.fixture(scope="module")
def changed(tiny_exports: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with another card, proven on a given video."""
    folder = tmp_path_factory.mktemp("changed")
    names = folder / "labels.txt"
    names.write_text("".join(f"action {number}\n" for number in range(7)))
    options = ["--labels", str(names), "--sampling", "dense", "--averaging", "logits", "--name", "mine"]
    options += ["--to", "onnx", "--output", str(folder), "--video", str(clip)]
    result = run(export.main, tiny_exports / "tiny.safetensors", *options)
    assert result.exit_code == 0, result.output
    return folder / "mine.onnx"


class TestExport:
    """``i3d-export``."""

    def test_a_native_checkpoint_goes_to_every_target(self, every_target: tuple[Result, Path]) -> None:
        result, folder = every_target
        assert result.exit_code == 0, result.output
        assert sorted(entry.name for entry in folder.iterdir()) == [
            "tiny_fp32.bin",
            "tiny_fp32.engine",
            "tiny_fp32.engine.json",
            "tiny_fp32.onnx",
            "tiny_fp32.xml",
            "tiny_fp32_2d.engine",
            "tiny_fp32_2d.engine.json",
        ]
        assert result.stdout.count("passed") == 2
        assert result.stdout.count("not measured here") == 2

    def test_a_given_video_is_named_by_its_hash(self, changed: Path, clip: Path) -> None:
        (entry,) = artifact.read_card(changed).parity
        assert entry.clips[0].startswith("given ")
        assert str(clip) not in changed.read_bytes().decode("latin-1")

    def test_labels_and_sampling_go_on_the_card(self, changed: Path) -> None:
        card = artifact.read_card(changed)
        assert (card.labels[6], card.label_set) == ("action 6", "custom")
        assert (card.sampling.scheme, card.averaging) == ("dense", "logits")

    def test_a_network_of_clips_takes_whole_videos_of_any_length(self, tiny_exports: Path, tmp_path: Path) -> None:
        options = ["--to", "safetensors", "--output", str(tmp_path), "--name", "whole", "--sampling", "whole"]
        result = run(export.main, tiny_exports / "tiny.safetensors", *options)
        assert result.exit_code == 0, result.output
        card = artifact.read_card(tmp_path / "whole.safetensors")
        # Strides of 2 three times, the last one rounding down: 5 frames become 3, 2 and 1.
        assert (card.sampling.scheme, card.sampling.num_clips, card.sampling.min_clip_len) == ("whole", 1, 5)
        # A video of 3 frames taken every 2 is repeated up to that.
        short = tmp_path / "short.mp4"
        generated.write_clip(short, num_frames=3, height=48, width=64)
        predicted = run(predict.main, tmp_path / "whole.safetensors", short)
        assert predicted.exit_code == 0, predicted.output
        assert "3 frames are fewer than the 9 that a clip spans: they are repeated" in predicted.output

    def test_describe_prints_the_card(self, tiny_exports: Path) -> None:
        result = run(export.main, "--describe", tiny_exports / "tiny.xml")
        assert json.loads(result.stdout) == json.loads(artifact.read_card(tiny_exports / "tiny.xml").to_json())

    @pytest.mark.parametrize(
        ("arguments", "part"),
        [
            (["x.pth"], "say what to make with --to"),
            (["--to", "onnx"], "give a checkpoint, or --model NAME --random-weights"),
            (["x.pth", "--to", "onnx", "--random-weights"], "not both"),
            (["x.pth", "--to", "onnx", "--profile", "3", "2", "1"], "must ascend"),
            (["x.pth", "--to", "caffe"], "'caffe' is not one of"),
        ],
    )
    def test_misuse_is_explained(self, arguments: Sequence[str], part: str) -> None:
        assert_one_line(run(export.main, *arguments), part, code=2)

    def test_a_missing_checkpoint_is_named(self, tmp_path: Path) -> None:
        assert_one_line(run(export.main, tmp_path / "x.pth", "--to", "onnx"), "x.pth: no such file")

    def test_a_checkpoint_of_another_network_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "resnet.pth"
        torch.save({"state_dict": {"layer1.0.conv1.weight": torch.zeros(1)}}, path)
        result = run(export.main, path, "--to", "onnx", "--output", tmp_path / "out")
        assert_one_line(result, "not an I3D of SlowFast (Caffe2), kinetics-i3d (TensorFlow), mmaction2")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("content", [b"", b"no checkpoint"])
    def test_an_output_that_cannot_be_made_is_named(self, tiny_exports: Path, tmp_path: Path, content: bytes) -> None:
        blocked = tmp_path / "file"
        blocked.write_bytes(content)
        result = run(export.main, tiny_exports / "tiny.safetensors", "--to", "onnx", "--output", blocked / "out")
        assert_one_line(result, str(blocked))
        assert blocked.read_bytes() == content

    def test_a_bad_proof_video_leaves_nothing(self, tiny_exports: Path, tmp_path: Path) -> None:
        video = tmp_path / "broken.mp4"
        video.write_bytes(b"no video")
        output = tmp_path / "out"
        result = run(
            export.main, tiny_exports / "tiny.safetensors", "--to", "onnx", "--output", output, "--video", video
        )
        assert_one_line(result, "broken.mp4: no video stream")
        assert not output.exists()

    def test_rtx_says_what_it_can_build_for(self, tiny_exports: Path, tmp_path: Path) -> None:
        options = ["--to", "tensorrt", "--tensorrt-flavor", "tensorrt_rtx", "--compute-capability", "9.0"]
        result = run(export.main, tiny_exports / "tiny.safetensors", *options, "--output", tmp_path)
        assert_one_line(result, "9.0", "8.9", "Hopper")

    def test_random_weights_take_the_labels_given(self, tmp_path: Path) -> None:
        options = ["--model", "i3d_r50", "--random-weights", "--labels", "hmdb51", "--clip-len", "8"]
        result = run(export.main, *options, "--to", "safetensors", "--output", tmp_path, "--proof-clips", "1")
        assert result.exit_code == 0, result.output
        card = artifact.read_card(tmp_path / "i3d_r50_fp32.safetensors")
        assert (card.network.num_classes, card.label_set, card.labels[0]) == (51, "hmdb51", "brush_hair")

    def test_weights_are_not_called_what_they_are_not(self, tiny_exports: Path) -> None:
        result = run(export.main, tiny_exports / "tiny.safetensors", "--to", "safetensors", "--precision", "fp16")
        assert_one_line(result, "safetensors keeps the float32 weights", code=2)

    def test_a_missing_torch_gives_the_pip_command(self, tiny_exports: Path) -> None:
        code = (
            "import sys; sys.modules['torch'] = None\nfrom i3d_deploy.commands.export import main; main(sys.argv[1:])"
        )
        arguments = [str(tiny_exports / "tiny.safetensors"), "--to", "onnx"]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert done.stderr.strip() == "Error: torch is not installed: pip install 'i3d-deploy[export]'"

    def test_a_full_disk_leaves_nothing(self, tiny_exports: Path, tmp_path: Path) -> None:
        output = tmp_path / "out"
        with files_limited_to(200_000):
            result = run(export.main, tiny_exports / "tiny.safetensors", "--to", "onnx", "--output", output)
        assert_one_line(result, "")
        assert list(output.iterdir()) == []

    def test_interrupting_leaves_nothing(self, tiny_exports: Path, tmp_path: Path) -> None:
        output = tmp_path / "out"
        code = "import sys; from i3d_deploy.commands.export import main; main(sys.argv[1:])"
        arguments = [str(tiny_exports / "tiny.safetensors"), "--to", "onnx", "--output", str(output)]
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while not output.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 130
        assert stderr.strip().splitlines()[-1] == "stopped"
        assert list(output.iterdir()) == []


class TestVerify:
    """``i3d-verify``."""

    def test_an_export_is_proven_again(self, tiny_exports: Path, clip: Path) -> None:
        result = run(verify.main, tiny_exports / "tiny.xml", clip, "--against", tiny_exports / "tiny.safetensors")
        assert result.exit_code == 0, result.output
        assert "passed" in result.stdout

    def test_another_checkpoint_fails(self, tiny_exports: Path, tmp_path: Path) -> None:
        card, path = artifact.read_card(tiny_exports / "tiny.onnx"), tmp_path / "dense.onnx"
        dense = card.replaced(sampling=card.sampling.replaced(scheme="dense"))
        to_onnx.write(onnx.load(tiny_exports / "tiny.onnx"), dense, path)
        result = run(verify.main, path, "--against", tiny_exports / "tiny.safetensors")
        assert result.exit_code == 1
        assert "indices: the artifact's card chooses other frames" in result.stdout

    def test_a_checkpoint_is_needed(self, tiny_exports: Path) -> None:
        assert_one_line(run(verify.main, tiny_exports / "tiny.onnx"), "--against", code=2)

    def test_figures_can_be_stored(self, tiny_exports: Path, clip: Path, tmp_path: Path) -> None:
        path = tmp_path / "tiny.onnx"
        path.write_bytes((tiny_exports / "tiny.onnx").read_bytes())
        result = run(verify.main, path, clip, "--against", tiny_exports / "tiny.safetensors", "--record")
        assert result.exit_code == 0, result.output
        assert artifact.read_card(path).parity[0].clips[0].startswith("given ")


class TestPredict:
    """``i3d-predict``."""

    def test_options_go_on_the_card_of_a_checkpoint(self, tiny_exports: Path, clip: Path) -> None:
        checkpoint = tiny_exports / "tiny.safetensors"
        usual, dense = (
            json.loads(run(predict.main, checkpoint, clip, "--json", *options).stdout)
            for options in ([], ["--sampling", "dense"])
        )
        assert usual["views"] == dense["views"] == 6
        assert usual["top"] != dense["top"]

    def test_an_engine_keeps_its_card(self, tiny_exports: Path, clip: Path) -> None:
        result = run(predict.main, tiny_exports / "tiny.onnx", clip, "--sampling", "dense")
        assert_one_line(result, "Error: --sampling is for checkpoints: ", "tiny.onnx carries its card", code=2)
        options = ["--flow-method", "dis", "--allow-hash-mismatch"]
        result = run(predict.main, tiny_exports / "tiny.onnx", clip, *options)
        assert_one_line(result, "--flow-method, --allow-hash-mismatch are for checkpoints: ", code=2)

    def test_more_clips_than_anybody_waits_for_are_refused(self, tiny_exports: Path, clip: Path) -> None:
        result = run(predict.main, tiny_exports / "tiny.onnx", clip, "--clips", "1000000")
        assert_one_line(result, "clips (1000000) must be > 0 and <= 1000")

    def test_a_text_file_is_no_checkpoint(self, clip: Path, tmp_path: Path) -> None:
        (tmp_path / "text.pth").write_text("epoch 1\n")
        result = run(predict.main, tmp_path / "text.pth", clip)
        assert_one_line(result, "text.pth: not a PyTorch checkpoint, or a damaged one")
        assert result.stderr.rstrip().endswith("a damaged one")

    def test_an_annotated_copy_on_a_full_disk_keeps_the_old_one(
        self, tiny_exports: Path, clip: Path, tmp_path: Path
    ) -> None:
        output = tmp_path / "out.mp4"
        output.write_bytes(b"old")
        with files_limited_to(8000):
            result = run(predict.main, tiny_exports / "tiny.onnx", clip, "--annotate", output)
        assert_one_line(result, "is the disk full?")
        assert output.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [output]

    def test_json_is_one_object_a_line(self, tiny_exports: Path, clip: Path) -> None:
        result = run(predict.main, tiny_exports / "tiny.onnx", clip, clip, "--json", "--top", "2")
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert len(lines) == 2
        assert lines[0] == lines[1]
        assert set(lines[0]) == {"video", "top", "views", "frames", "warnings"}
        assert (lines[0]["video"], lines[0]["views"], lines[0]["frames"]) == (str(clip), 6, 40)
        assert [set(entry) for entry in lines[0]["top"]] == [{"label", "index", "probability"}] * 2

    def test_text_lists_the_labels(self, tiny_exports: Path, clip: Path) -> None:
        result = run(predict.main, tiny_exports / "tiny.xml", clip, "--top", "3", "--clips", "1", "--crops", "1")
        assert result.exit_code == 0
        assert len(result.stdout.strip().splitlines()) == 4
        assert "(40 frames, 1 view, openvino" in result.stdout

    def test_folders_and_lists_are_expanded(self, tiny_exports: Path, clip: Path, tmp_path: Path) -> None:
        inside = tmp_path / "videos" / "more"
        inside.mkdir(parents=True)
        for name in ("b.mp4", "a.MP4"):
            (inside / name).write_bytes(clip.read_bytes())
        (inside / "notes.md").write_text("no video")
        names = tmp_path / "list.txt"
        names.write_text(f"{clip}\n\n{inside}\n")
        result = run(predict.main, tiny_exports / "tiny.onnx", names, "--json", "--clips", "1")
        assert [Path(json.loads(line)["video"]).name for line in result.stdout.splitlines()] == [
            "clip.mp4",
            "a.MP4",
            "b.mp4",
        ]

    def test_a_folder_of_frames_is_one_video(self, tiny_exports: Path, tmp_path: Path) -> None:
        for number, frame in enumerate(generated.frames(num_frames=12, height=40, width=40), 1):
            cv2.imwrite(str(tmp_path / f"img_{number:05}.png"), frame)
        result = run(predict.main, tiny_exports / "tiny.onnx", tmp_path, "--json")
        assert json.loads(result.stdout)["frames"] == 12

    def test_a_broken_video_does_not_stop_the_others(self, tiny_exports: Path, clip: Path, tmp_path: Path) -> None:
        broken = tmp_path / "broken.mp4"
        broken.write_bytes(b"no video")
        result = run(predict.main, tiny_exports / "tiny.onnx", broken, clip, "--json")
        first, second = (json.loads(line) for line in result.stdout.splitlines())
        assert result.exit_code == 1
        assert set(first) == {"video", "error"}
        assert "no video stream that can be decoded" in first["error"]
        assert second["frames"] == 40

    def test_a_broken_video_is_one_line(self, tiny_exports: Path, tmp_path: Path) -> None:
        assert_one_line(run(predict.main, tiny_exports / "tiny.onnx", tmp_path / "x.mp4"), "x.mp4: no such file")

    def test_annotate_writes_a_video(self, tiny_exports: Path, clip: Path, tmp_path: Path) -> None:
        output = tmp_path / "out.mp4"
        result = run(predict.main, tiny_exports / "tiny.onnx", clip, "--annotate", output)
        assert result.exit_code == 0, result.output
        assert int(cv2.VideoCapture(str(output)).get(cv2.CAP_PROP_FRAME_COUNT)) == 40

    def test_annotate_takes_one_video(self, tiny_exports: Path, clip: Path) -> None:
        result = run(predict.main, tiny_exports / "tiny.onnx", clip, clip, "--annotate", "out.mp4")
        assert_one_line(result, "--annotate takes one video, not 2", code=2)

    def test_explain_writes_a_video_and_a_chart(self, tiny_exports: Path, clip: Path, tmp_path: Path) -> None:
        checkpoint, output = tiny_exports / "tiny.safetensors", tmp_path / "out.mp4"
        result = run(predict.main, checkpoint, clip, "--explain", output, "--explain-class", "jump", "--json")
        assert result.exit_code == 0, result.output
        assert result.stderr.splitlines()[-2:] == [f"{output} written", f"{tmp_path / 'out.png'} written"]
        assert int(cv2.VideoCapture(str(output)).get(cv2.CAP_PROP_FRAME_COUNT)) == 40
        assert cv2.imread(str(tmp_path / "out.png")) is not None
        explained = json.loads(result.stdout)
        usual = json.loads(run(predict.main, checkpoint, clip, "--json").stdout)
        assert [entry["label"] for entry in explained["top"]] == [entry["label"] for entry in usual["top"]]
        probabilities = [[entry["probability"] for entry in record["top"]] for record in (explained, usual)]
        assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-6)

    @pytest.mark.parametrize(
        ("options", "part", "code"),
        [
            (["--explain", "out.gif"], "explained videos are written as .mp4", 1),
            (["--explain", "out.mp4", "--explain-class", "jumps"], "no class 'jumps'", 1),
            (["--explain-class", "jump"], "--explain-class goes with --explain", 2),
            (["--explain", "out.mp4", "--annotate", "out.mp4"], "cannot both write out.mp4", 2),
        ],
    )
    def test_misuse_of_explain_is_one_line(
        self, tiny_exports: Path, clip: Path, options: Sequence[str], part: str, code: int
    ) -> None:
        result = run(predict.main, tiny_exports / "tiny.safetensors", clip, *options)
        assert_one_line(result, part, code=code)
        assert not Path("out.mp4").exists()

    def test_explain_takes_one_video_and_a_checkpoint(self, tiny_exports: Path, clip: Path, tmp_path: Path) -> None:
        output = tmp_path / "out.mp4"
        two = run(predict.main, tiny_exports / "tiny.safetensors", clip, clip, "--explain", output)
        assert_one_line(two, "--explain takes one video, not 2", code=2)
        engine = run(predict.main, tiny_exports / "tiny.onnx", clip, "--explain", output)
        assert_one_line(engine, "give the checkpoint instead")
        broken = tmp_path / "broken.mp4"
        broken.write_bytes(b"no video")
        unread = run(predict.main, tiny_exports / "tiny.safetensors", broken, "--explain", output)
        assert_one_line(unread, "broken.mp4: no video stream that can be decoded")
        assert list(tmp_path.iterdir()) == [broken]

    @pytest.mark.parametrize(
        ("name", "content", "part"),
        [
            ("a.onnx", b"", "the file is empty"),
            ("a.onnx", b"hello", "not a whole ONNX file"),
            ("a.mp4", b"hello", "unknown kind of file"),
            ("a.xml", b"<net/>", "is not beside it"),
            ("a.engine", b"hello", "carries no card"),
            ("a.safetensors", b"hello", "not a whole safetensors file"),
        ],
    )
    def test_what_is_no_artifact_is_one_line(
        self, clip: Path, tmp_path: Path, name: str, content: bytes, part: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        assert_one_line(run(predict.main, tmp_path / name, clip), name, part)

    def test_an_artifact_without_card_is_one_line(self, tiny_exports: Path, clip: Path, tmp_path: Path) -> None:
        graph = onnx.load(tiny_exports / "tiny.onnx")
        del graph.metadata_props[:]
        onnx.save(graph, tmp_path / "plain.onnx")
        assert_one_line(run(predict.main, tmp_path / "plain.onnx", clip), "carries no card", "i3d-export")

    def test_an_altered_plan_is_refused(self, every_target: tuple[Result, Path], clip: Path, tmp_path: Path) -> None:
        _, folder = every_target
        for name in ("tiny_fp32.engine", "tiny_fp32.engine.json"):
            shutil.copy2(folder / name, tmp_path)
        path = tmp_path / "tiny_fp32.engine"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        assert_one_line(run(predict.main, path, clip), "its SHA-256 is", "the plan was altered or replaced")


def test_a_folder_without_permission_is_named(tiny_exports: Path) -> None:
    # Nobody may make folders there, not even root.
    output = Path("/sys/i3d-deploy")
    result = run(export.main, tiny_exports / "tiny.safetensors", "--to", "onnx", "--output", output)
    assert_one_line(result, "/sys/i3d-deploy: ", "ermi")


@pytest.mark.parametrize("name", ["bench", "verify"])
def test_interrupting_leaves_no_file(tiny_exports: Path, tmp_path: Path, name: str) -> None:
    arguments = {
        "bench": [str(tiny_exports / "tiny.onnx"), "--videos", "1000000", "--json", str(tmp_path / "bench.json")],
        "verify": [str(tiny_exports / "tiny.onnx"), "--against", str(tiny_exports / "tiny.safetensors")],
    }
    code = f"import sys; from i3d_deploy.commands.{name} import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments[name]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    process.stderr.readline()  # its first step has begun
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.strip().splitlines()[-1] == "stopped"
    assert list(tmp_path.iterdir()) == []


def test_interrupting_while_the_network_loads_is_one_line(tiny_exports: Path, clip: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    os.mkfifo(labels)
    code = "import sys; from i3d_deploy.commands.predict import main; main(sys.argv[1:])"
    arguments = [str(tiny_exports / "tiny.safetensors"), str(clip), "--labels", str(labels)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with labels.open("w"):  # once the command has opened it too, and reads
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, "", "stopped\n")


@pytest.mark.parametrize("name", ["bench", "predict", "verify"])
@pytest.mark.parametrize(
    ("artifact_name", "content", "part"),
    [
        ("newer.onnx", None, "version 9, this i3d-deploy reads up to 1"),
        ("empty.onnx", b"", "the file is empty"),
        ("cut.onnx", b"\x08\x0a\x3a\xff\xff\xff\x7f", "not a whole ONNX file"),
        ("nowhere.xml", None, "no such file"),
    ],
)
def test_every_command_refuses_bad_artifacts(
    tiny_exports: Path, clip: Path, tmp_path: Path, name: str, artifact_name: str, content: bytes | None, part: str
) -> None:
    path = tmp_path / artifact_name
    if artifact_name == "newer.onnx":
        graph = onnx.load(tiny_exports / "tiny.onnx")
        graph.metadata_props[0].value = graph.metadata_props[0].value.replace('"version": 1', '"version": 9')
        onnx.save(graph, path)
    elif content is not None:
        path.write_bytes(content)
    arguments: dict[str, list[str | Path]] = {
        "bench": [path],
        "predict": [path, clip],
        "verify": [path, clip, "--against", tiny_exports / "tiny.safetensors"],
    }
    assert_one_line(run(COMMANDS[name], *arguments[name]), artifact_name, part)


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        (
            "tiny.safetensors",
            ("--device", "cpu", "--precision", "fp16"),
            ("(fp16) needs a GPU", "give fp32, or export it"),
        ),
        ("tiny.onnx", ("--precision", "fp32"), ("(fp32) is for checkpoints", "tiny.onnx has the one")),
    ],
    ids=["half precision on a CPU", "of an engine"],
)
def test_a_precision_that_cannot_be_is_told_in_a_line(
    tiny_exports: Path, clip: Path, name: str, options: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    assert_one_line(run(predict.main, tiny_exports / name, clip, *options), "precision", *parts)


def test_a_checkpoint_is_predicted_in_the_precision_asked_for(tiny_exports: Path, clip: Path) -> None:
    result = run(predict.main, tiny_exports / "tiny.safetensors", clip, "--device", "cpu", "--precision", "fp32")
    assert result.exit_code == 0, result.stderr
    assert "eager on cpu, fp32" in result.stdout
