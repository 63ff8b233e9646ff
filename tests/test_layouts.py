"""Which layout is exported, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from i3d_deploy import builders, export, layouts
from i3d_deploy.builders import Optimization
from i3d_deploy.card import Engine
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.commands.export import main
from tests.test_to_2d import ranks


@pytest.mark.parametrize(
    ("target", "precision", "expected"),
    [
        ("onnx", "fp32", ["2d"]),
        ("onnx", "fp16", ["3d", "2d"]),
        ("onnx", "bf16", ["3d", "2d"]),
        ("openvino", "fp32", ["3d"]),
        ("openvino", "bf16", ["3d"]),
        ("tensorrt", "fp32", ["3d", "2d"]),
        ("safetensors", "fp32", ["3d"]),
    ],
)
def test_the_table_follows_what_was_measured(target: str, precision: str, expected: list[str]) -> None:
    engine = Engine.model_validate({"precision": precision})
    chosen = layouts.choose(target, engine.precision)
    assert [choice.layout for choice in chosen] == expected
    assert all(choice.reason for choice in chosen)


def test_what_is_asked_for_overrules_the_table() -> None:
    (choice,) = Optimization(layout="3d").choices("onnx", Engine())
    assert (choice.layout, choice.reason) == ("3d", "as asked for")
    (choice,) = Optimization(is_on=False).choices("onnx", Engine())
    assert choice.layout == "3d"
    (choice,) = Optimization(is_on=False, layout="2d").choices("tensorrt", Engine())
    assert choice.layout == "2d"


def test_the_command_says_what_was_saved(tiny_exports: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_exports / "tiny.safetensors"), "--to", "onnx", "--output", str(tmp_path), "--name", "a"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "Note: a.onnx: frames that the stem's pool drops are not computed: 0.003703 instead of" in result.stderr
    assert "Note: a.onnx: its convolutions are 2D: ONNX Runtime ran I3D R50" in result.stderr
    assert ranks(onnx.load(tmp_path / "a.onnx")) == {2}


def test_the_command_leaves_graphs_as_they_are(tiny_exports: Path, tmp_path: Path) -> None:
    arguments = [str(tiny_exports / "tiny.safetensors"), "--to", "onnx", "--output", str(tmp_path), "--name", "a"]
    result = CliRunner().invoke(main, [*arguments, "--no-optimize"])
    assert result.exit_code == 0, result.output
    assert "dropped" not in result.stderr
    assert ranks(onnx.load(tmp_path / "a.onnx")) == {3}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--calibration-views", "8"], "--calibration-views is for the clips of --calibrate: give them"),
        (["--max-drop", "1"], "--max-drop is for the list of --accuracy: give it"),
    ],
)
def test_options_of_others_are_refused_alone(
    tiny_exports: Path, tmp_path: Path, option: list[str], message: str
) -> None:
    arguments = [str(tiny_exports / "tiny.safetensors"), "--to", "onnx", "--output", str(tmp_path), *option]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_both_layouts_are_proven(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    made = export.export(
        tiny_checkpoint, targets=["onnx"], output=tmp_path, name="tiny", engine=Engine(precision="fp16")
    )
    assert [entry.path.name for entry in made] == ["tiny.onnx", "tiny_2d.onnx"]
    assert [entry.card.engine.layout for entry in made if entry.card.engine] == ["3d", "2d"]
    assert [entry.card.parity[0].status for entry in made] == ["passed", "passed"]


def test_openvino_in_2d_answers_as_well(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (made,) = export.export(
        tiny_checkpoint, targets=["openvino"], output=tmp_path, name="tiny", optimization=Optimization(layout="2d")
    )
    assert made.card.parity[0].status == "passed"
    assert made.card.engine is not None and made.card.engine.layout == "2d"


def test_a_target_that_is_none_is_refused() -> None:
    from i3d_deploy.errors import InputError

    with pytest.raises(InputError, match=r"target 'tflite' is not one of safetensors, onnx, openvino, tensorrt"):
        builders.as_target("tflite")
