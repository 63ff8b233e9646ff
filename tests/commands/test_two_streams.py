"""The commands on two streams: exported together, verified against both checkpoints, predicted as one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result

from i3d_deploy import artifact, checkpoint, generated, model
from i3d_deploy.commands import export, features, predict, verify
from i3d_deploy.runners import open_runner
from tests.commands.test_commands import assert_one_line, run
from tests.test_two_stream import stream


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rgb.safetensors, flow.safetensors, clip.mp4, and both exported as i3d.json."""
    folder = tmp_path_factory.mktemp("made")
    generated.write_clip(folder / "clip.mp4", num_frames=24, height=40, width=52)
    for kind in ("rgb", "flow"):
        checkpoint.save(stream(kind), folder / f"{kind}.safetensors")
    rgb, flow, clip = (folder / name for name in ("rgb.safetensors", "flow.safetensors", "clip.mp4"))
    result = run(export.main, rgb, "--flow", flow, "--to", "onnx", "--name", "i3d", "--video", clip, "--output", folder)
    assert result.exit_code == 0, result.output
    assert "i3d.json  i3d_rgb.onnx and i3d_flow.onnx, logits added up" in result.stdout
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def probabilities(*arguments: str | Path) -> dict[str, float]:
    """What ``i3d-predict --json`` says of a video."""
    result = run(predict.main, *arguments, "--json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    return {entry["label"]: entry["probability"] for entry in json.loads(result.stdout)["top"]}


def test_a_pair_predicts_as_its_checkpoints_do(made: Path) -> None:
    of_engines = probabilities(made / "i3d.json", made / "clip.mp4")
    of_checkpoints = probabilities(made / "rgb.safetensors", "--flow", made / "flow.safetensors", made / "clip.mp4")
    assert len(of_engines) == 5
    assert of_engines == pytest.approx(of_checkpoints, abs=1e-6)


@pytest.mark.parametrize("options", [["--model", "i3d_inception_rgb"], ["--flow-method", "tvl1"]])
def test_an_option_of_one_stream_is_not_for_the_other(made: Path, tmp_path: Path, options: list[str]) -> None:
    rgb, flow = (made / f"{kind}.safetensors" for kind in ("rgb", "flow"))
    result = run(predict.main, rgb, "--flow", flow, made / "clip.mp4", "--device", "cpu", *options)
    assert result.exit_code == 0, result.output
    result = run(features.main, rgb, "--flow", flow, made / "clip.mp4", "--window", "9", "--output", tmp_path, *options)
    assert result.exit_code == 0, result.output


def test_the_flow_method_can_be_chosen(made: Path, tmp_path: Path) -> None:
    flow, clip = made / "flow.safetensors", made / "clip.mp4"
    result = run(export.main, flow, "--to", "safetensors", "--flow-method", "tvl1", "--output", tmp_path, "--name", "a")
    assert result.exit_code == 0, result.output
    assert artifact.read_card(tmp_path / "a.safetensors").flow_method == "tvl1"
    of_dis, of_tvl1, of_option = (
        probabilities(path, clip, *options)
        for path, options in ((flow, []), (tmp_path / "a.safetensors", []), (flow, ["--flow-method", "tvl1"]))
    )
    assert of_option == of_tvl1 != of_dis
    result = run(predict.main, made / "rgb.safetensors", clip, "--flow-method", "dis")
    assert_one_line(result, "rgb.safetensors is a network of rgb: --flow-method is for networks of flow")


def test_streams_in_the_wrong_place_are_named(made: Path) -> None:
    rgb, flow, clip = made / "rgb.safetensors", made / "flow.safetensors", made / "clip.mp4"
    result = run(predict.main, rgb, "--flow", rgb, clip, "--flow-method", "dis")
    assert_one_line(result, "rgb.safetensors is a network of rgb: the second stream (--flow) is one of flow")
    result = run(predict.main, flow, "--flow", rgb, clip)
    assert_one_line(result, "flow.safetensors is a network of flow: the first stream is one of rgb")


def test_a_pair_takes_no_second_stream(made: Path) -> None:
    result = run(predict.main, made / "i3d.json", made / "clip.mp4", "--flow", made / "flow.safetensors")
    assert_one_line(result, "i3d.json already has its flow stream: leave out --flow")


def verified(folder: Path, flow: str, *options: str) -> Result:
    """Verify the pair on one clip of the video against rgb.safetensors and a checkpoint of flow."""
    pair, video, rgb = (folder / name for name in ("i3d.json", "clip.mp4", "rgb.safetensors"))
    return run(verify.main, pair, video, "--clips", "1", "--against", rgb, "--flow", folder / flow, *options)


def test_both_streams_are_verified_and_recorded(folder: Path) -> None:
    result = verified(folder, "flow.safetensors", "--record")
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines() if ".onnx" in line] == [
        str(folder / f"i3d_{kind}.onnx") for kind in ("rgb", "flow")
    ]
    for kind in ("rgb", "flow"):
        (figures,) = artifact.read_card(folder / f"i3d_{kind}.onnx").parity
        assert (figures.status, figures.num_views) == ("passed", 1)
    with open_runner(folder / "i3d.json") as pair:  # the files have changed, and belong together still
        assert pair.card.modality == "rgb+flow"


def test_a_stream_of_another_network_fails(folder: Path) -> None:
    other = stream("flow")
    model.randomize(other.model, seed=9)
    checkpoint.save(other, folder / "other.safetensors")
    result = verified(folder, "other.safetensors")
    assert result.exit_code == 1, result.output
    assert [word for word in result.stdout.split() if word.strip(",.:") in ("passed", "failed")] == ["passed", "failed"]


def test_swapped_checkpoints_are_told_before_the_work(folder: Path) -> None:
    rgb, flow = folder / "rgb.safetensors", folder / "flow.safetensors"
    result = run(verify.main, folder / "i3d.json", folder / "clip.mp4", "--against", flow, "--flow", rgb)
    assert_one_line(result, "flow.safetensors is a network of flow: the first stream is one of rgb")
    assert "PyTorch float32 on clip.mp4" not in result.stderr


def test_flow_of_another_method_is_told_before_the_work(folder: Path) -> None:
    checkpoint.save(stream("flow", flow_method="tvl1"), folder / "other.safetensors")
    result = verified(folder, "other.safetensors")
    assert result.exit_code == 1, result.output
    assert "card: the artifact's optical flow is by dis, the checkpoint's by tvl1: --flow-method" in result.stdout
    assert result.stderr.count("PyTorch float32 on clip.mp4\n") == 1  # of the first stream


def test_how_far_the_flow_is_is_told(folder: Path) -> None:
    result = verified(folder, "flow.safetensors")
    assert "optical flow by dis of clip.mp4\n" in result.stderr


def test_how_many_checkpoints_it_takes(made: Path) -> None:
    rgb, flow = made / "rgb.safetensors", made / "flow.safetensors"
    assert_one_line(run(verify.main, made / "i3d.json", "--against", rgb), "has two streams: give", "--flow", code=2)
    result = run(verify.main, made / "i3d_rgb.onnx", "--against", rgb, "--flow", flow)
    assert_one_line(result, "--flow goes with the .json of two streams, and", code=2)
