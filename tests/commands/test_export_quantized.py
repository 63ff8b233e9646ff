"""``i3d-export`` to eight bits and with a gate on accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from i3d_deploy import artifact, checkpoint, generated, recognizer, video_files
from i3d_deploy.commands import export
from tests import narrowed
from tests.commands.test_commands import assert_one_line, run


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos and a list of them with labels."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(2):
        generated.write_clip(folder / f"{number}.mp4", num_frames=20, height=48, width=64, seed=number)
    (folder / "list.txt").write_text("0.mp4 0\n1.mp4 1\n")
    return folder


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_eight_bits_need_clips(tiny_exports: Path, tmp_path: Path, precision: str) -> None:
    result = run(
        export.main, tiny_exports / "tiny.safetensors", "--to", "onnx", "--precision", precision, "--output", tmp_path
    )
    assert_one_line(result, f"{precision} is calibrated on real clips", "--calibrate LIST_OR_FOLDER")
    assert list(tmp_path.iterdir()) == []


def test_other_precisions_take_none(tiny_exports: Path, clips: Path, tmp_path: Path) -> None:
    result = run(
        export.main, tiny_exports / "tiny.safetensors", "--to", "onnx", "--calibrate", clips, "--output", tmp_path
    )
    assert_one_line(result, "clips to calibrate on are for int8 and fp8, not for fp32")


@pytest.mark.parametrize("options", [[], ["--no-optimize"]], ids=str)
def test_openvino_has_no_int8_in_2d(tiny_exports: Path, clips: Path, tmp_path: Path, options: list[str]) -> None:
    arguments = ("--to", "openvino", "--precision", "int8", "--layout", "2d", "--calibrate", clips)
    result = run(export.main, tiny_exports / "tiny.safetensors", *arguments, *options, "--output", tmp_path / "out")
    assert_one_line(result, "OpenVINO cannot run int8 with 2D convolutions")
    assert not (tmp_path / "out").exists()


def test_openvino_has_no_fp8(tiny_exports: Path, clips: Path, tmp_path: Path) -> None:
    arguments = ("--to", "openvino", "--precision", "fp8", "--calibrate", clips, "--output", tmp_path)
    result = run(export.main, tiny_exports / "tiny.safetensors", *arguments)
    assert_one_line(result, "OpenVINO has no fp8 on CPUs")


def test_a_list_that_is_none_ends_before_the_work(tiny_exports: Path, tmp_path: Path) -> None:
    arguments = ("--to", "onnx", "--accuracy", tmp_path / "none.txt", "--output", tmp_path / "out")
    result = run(export.main, tiny_exports / "tiny.safetensors", *arguments)
    assert_one_line(result, "none.txt: no such file")
    assert not (tmp_path / "out").exists()


def test_logits_that_overflow_on_the_list_are_a_failure(tiny_exports: Path, clips: Path, tmp_path: Path) -> None:
    # A weight beyond float16's 65504, which the ReLU behind it hides on a dark video.
    source = checkpoint.load(tiny_exports / "tiny.safetensors")
    kernel = narrowed.resnet(source.model).conv1.weight
    with torch.no_grad():
        kernel[0] = 0
        kernel[(0, 0, *(size // 2 for size in kernel.shape[2:]))] = 1e6
    checkpoint.save(source, tmp_path / "large.safetensors")
    video_files.write(tmp_path / "dark.mp4", iter([np.zeros((32, 48, 3), np.uint8)] * 20), frames_per_second=25.0)
    result = run(
        export.main,
        *(tmp_path / "large.safetensors", "--to", "onnx", "--precision", "fp16", "--no-optimize", "--name", "tiny"),
        *("--video", tmp_path / "dark.mp4", "--accuracy", clips / "list.txt", "--output", tmp_path / "out"),
    )
    assert result.exit_code == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny.failed.onnx"]
    assert "    top-1 on list: failed, PyTorch float32" in result.stdout
    assert "    failed: 0.mp4: 42 logits are not finite" in result.stdout


def test_a_damaged_clip_is_left_out_with_a_warning(tiny_exports: Path, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged.mp4").write_bytes((clips / "0.mp4").read_bytes()[:1000])
    (tmp_path / "list.json").write_text(f'[{{"filename": "{clips / "0.mp4"}"}}, {{"filename": "damaged.mp4"}}]')
    result = run(
        export.main,
        *(tiny_exports / "tiny.safetensors", "--to", "onnx", "--precision", "int8", "--calibration-views", "2"),
        *("--calibrate", tmp_path / "list.json", "--output", tmp_path, "--name", "tiny"),
    )
    assert result.exit_code == 0, result.output
    assert f"Warning: tiny.onnx: calibration leaves out a video: {tmp_path / 'damaged.mp4'}: no video" in result.stderr


def test_fp8_is_experimental_and_runs_in_onnx_runtime(tiny_exports: Path, clips: Path, tmp_path: Path) -> None:
    result = run(
        export.main,
        *(tiny_exports / "tiny.safetensors", "--to", "onnx", "--to", "tensorrt", "--precision", "fp8"),
        *("--calibrate", clips, "--calibration-views", "3", "--accuracy", clips / "list.txt", "--max-drop", "100"),
        *("--compute-capability", "8.9", "--layout", "3d", "--output", tmp_path, "--name", "tiny"),
    )
    assert result.exit_code == 0, result.output
    assert "Warning: tiny.onnx: fp8 is experimental" in result.stderr
    assert "on the calibration views (3): same first class in" in result.stdout
    assert "top-1 on list: not measured here, PyTorch float32" in result.stdout
    onnx_card, engine_card = (artifact.read_card(tmp_path / name) for name in ("tiny.onnx", "tiny.engine"))
    assert [card.parity[0].status for card in (onnx_card, engine_card)] == ["passed", "not measured here"]
    assert onnx_card.gate is not None and onnx_card.gate.status == "passed"
    assert engine_card.gate is not None and engine_card.gate.status == "not measured here"
    assert engine_card.engine is not None and engine_card.engine.precision == "fp8"
    assert str(tmp_path) not in onnx_card.to_json() + engine_card.to_json()
    assert str(clips) not in onnx_card.to_json() + engine_card.to_json()


def test_two_exports_to_int8_are_the_same_bytes(tiny_exports: Path, clips: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        result = run(
            export.main,
            *(tiny_exports / "tiny.safetensors", "--to", "onnx", "--precision", "int8", "--calibrate", clips),
            *("--calibration-views", "2", "--output", tmp_path / name, "--name", "tiny"),
        )
        assert result.exit_code == 0, result.output
    assert (tmp_path / "one/tiny.onnx").read_bytes() == (tmp_path / "two/tiny.onnx").read_bytes()
    with recognizer.load(tmp_path / "one/tiny.onnx") as loaded:
        assert loaded.info.precision == "int8"
        assert len(loaded.predict(clips / "0.mp4").logits) == 6
