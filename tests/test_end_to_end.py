"""The whole way: a checkpoint under mmaction2's names, exported by the command line, run on real clips from the file.

Expected are the original toolbox's logits and probabilities for the same files.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import i3d_deploy as i3d
from i3d_deploy import artifact
from i3d_deploy.commands import export as export_command
from i3d_deploy.commands import predict as predict_command
from tests import goldens

CLIPS = ["arm_wrestling.mp4", "filling_eyebrows.avi"]
NETWORKS = [("i3d_r50", "uniform"), ("i3d_r50", "dense"), ("i3d_nl_dot_product", "uniform")]
# Per view, as the project promises for float32.
LOGITS_TOLERANCES = {"i3d_r50": 1e-4, "i3d_nl_dot_product": 1e-3}
PROBABILITIES_TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Per network and sampling, a folder with the checkpoint and its exports."""
    made = {}
    for network, scheme in NETWORKS:
        folder = tmp_path_factory.mktemp(f"{network}_{scheme}")
        state = goldens.filled_state(goldens.load_json(f"keys_mmaction_{network}.json"))
        tensors = {name: torch.from_numpy(value) for name, value in state.items()}
        torch.save({"meta": {}, "state_dict": tensors}, folder / f"{network}.pth")
        command = [str(folder / f"{network}.pth"), "--output", str(folder), "--name", "model", "--sampling", scheme]
        targets = ["--to", "openvino"]
        if scheme == "uniform":
            targets += ["--to", "onnx"]
        commands = [[*command, *targets, "--proof-clips", "1"]]
        if (network, scheme) == ("i3d_r50", "uniform"):
            for_a_gpu = ["--to", "tensorrt", "--compute-capability", "8.9", "--layout", "3d"]
            commands.append([*command, *for_a_gpu, "--proof-clips", "1"])
        for words in commands:
            done = CliRunner().invoke(export_command.main, words)
            assert done.exit_code == 0, done.output
        made[network, scheme] = folder
    return made


# Each case runs 30 views of a whole network, so not every combination is one. Dense sampling on the first clip is
# predicted by the command line below; what proofs measure on single clips is in the cards.
CASES = [
    ("i3d_r50", "uniform", CLIPS[0], ".pth"),
    ("i3d_r50", "uniform", CLIPS[0], ".onnx"),
    ("i3d_r50", "dense", CLIPS[1], ".xml"),
    ("i3d_nl_dot_product", "uniform", CLIPS[1], ".xml"),
]


@pytest.mark.parametrize(("network", "scheme", "clip", "suffix"), CASES)
def test_predictions_equal_the_original_from_the_file(
    folders: dict[tuple[str, str], Path], network: str, scheme: str, clip: str, suffix: str
) -> None:
    video = goldens.shared_file(f"videos/{clip}")
    golden = goldens.load_npz("end_to_end.npz")
    key = f"{network}/{scheme}/{video.stem}"
    assert hashlib.sha256(video.read_bytes()).hexdigest() == str(golden[f"{key}/sha256"])
    folder = folders[network, scheme]
    path = folder / f"{network}.pth" if suffix == ".pth" else folder / f"model{suffix}"
    with i3d.load(path, device="cpu") as recognizer:
        prediction = recognizer.predict(video)
    indices = recognizer.card.sampling.frame_indices(prediction.frames)
    np.testing.assert_array_equal(indices.ravel(), golden[f"{key}/frame_inds"])
    tolerance = LOGITS_TOLERANCES[network]
    np.testing.assert_allclose(prediction.logits, golden[f"{key}/logits_per_view"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(prediction.probabilities, golden[f"{key}/prob"], rtol=0, atol=PROBABILITIES_TOLERANCE)


@pytest.mark.parametrize("network", ["i3d_r50", "i3d_nl_dot_product"])
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_exports_carry_their_proof(folders: dict[tuple[str, str], Path], network: str, suffix: str) -> None:
    (measured,) = artifact.read_card(folders[network, "uniform"] / f"model{suffix}").parity
    assert (measured.status, measured.num_views) == ("passed", 3)
    assert measured.max_logits is not None and measured.max_logits < LOGITS_TOLERANCES[network]


def test_a_proof_that_needs_a_gpu_is_not_passed(folders: dict[tuple[str, str], Path]) -> None:
    (entry,) = artifact.read_card(folders["i3d_r50", "uniform"] / "model.engine").parity
    assert entry.status == "not measured here"


def test_the_tensorrt_engine_is_for_the_gpu_asked_for(folders: dict[tuple[str, str], Path]) -> None:
    path = folders["i3d_r50", "uniform"] / "model.engine"
    note = artifact.read_engine_note(path)
    assert (note.flavor, note.compute_capability) == ("tensorrt_rtx", "8.9")
    assert note.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stat().st_size > 100 << 20  # 28 M float32 weights are in it


def test_the_command_line_prints_the_original_probabilities(folders: dict[tuple[str, str], Path]) -> None:
    video = goldens.shared_file(f"videos/{CLIPS[0]}")
    path = folders["i3d_r50", "dense"] / "model.xml"
    done = CliRunner().invoke(predict_command.main, [str(path), str(video), "--json", "--top", "400"])
    assert done.exit_code == 0, done.output
    top = json.loads(done.stdout)["top"]
    golden = goldens.load_npz("end_to_end.npz")[f"i3d_r50/dense/{video.stem}/prob"]
    found = {entry["index"]: entry["probability"] for entry in top}
    np.testing.assert_allclose([found[index] for index in range(400)], golden, rtol=0, atol=PROBABILITIES_TOLERANCE)
    assert [entry["index"] for entry in top[:5]] == np.argsort(-golden)[:5].tolist()
