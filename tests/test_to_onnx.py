"""The ONNX graph: its surface, its types, its bytes, its equality."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from i3d_deploy import model, to_onnx
from i3d_deploy.artifact import read_card
from i3d_deploy.card import Engine
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.preprocessing import normalize
from tests import narrowed


def test_folding_keeps_the_answer(tiny_checkpoint: Checkpoint) -> None:
    inputs = torch.from_numpy(np.random.RandomState(0).standard_normal((2, 3, 8, 32, 32)))
    net = model.build(tiny_checkpoint.card.network)
    net.load_state_dict(tiny_checkpoint.model.state_dict())
    net = net.double()
    folded = to_onnx.fold_batch_norms(net)
    assert not any(isinstance(module, torch.nn.BatchNorm3d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm3d) for module in net.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(inputs), net(inputs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", narrowed.DISTINCT)
def test_every_network_folds_and_exports(name: str) -> None:
    numbers = narrowed.small(name, 7)
    net = model.build(numbers)
    model.randomize(net, seed=0)
    graph = to_onnx.convert(net, narrowed.card_of(numbers, frames=8, side=32), Engine())
    operators = {node.op_type for node in graph.graph.node}
    allowed = {"Add", "Cast", "Conv", "Div", "Gemm", "MatMul", "MaxPool", "ReduceMean", "Relu", "Reshape"}
    allowed |= {"Mul", "Softmax", "Sub", "Transpose"}
    if numbers.head_window is not None:  # several places, and what PyTorch cannot pad inside
        allowed |= {
            "AveragePool",
            "Concat",
            "Exp",
            "Log",
            "LogSoftmax",
            "Pad",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceSum",
        }
    assert operators <= allowed


@pytest.mark.parametrize(("precision", "opset", "weights"), [("fp32", 18, 1), ("fp16", 18, 10), ("bf16", 22, 16)])
def test_precision_is_in_the_graph(tiny_checkpoint: Checkpoint, precision: str, opset: int, weights: int) -> None:
    engine = Engine.model_validate({"precision": precision})
    graph = to_onnx.convert(tiny_checkpoint.model, tiny_checkpoint.card, engine)
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", opset)]
    assert graph.ir_version == 10
    by_name = {entry.name: entry.data_type for entry in graph.graph.initializer}
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    assert {by_name[node.input[1]] for node in convolutions} == {weights}
    (classifier,) = [node for node in graph.graph.node if node.op_type == "Gemm"]
    assert by_name[classifier.input[1]] == onnx.TensorProto.FLOAT


def test_the_surface_is_frames_to_logits(tiny_exports: Path) -> None:
    graph = onnx.load(tiny_exports / "tiny.onnx").graph
    (frames,), (logits,) = graph.input, graph.output
    dimensions = [entry.dim_param or entry.dim_value for entry in frames.type.tensor_type.shape.dim]
    assert (frames.name, frames.type.tensor_type.elem_type) == ("frames", onnx.TensorProto.UINT8)
    assert dimensions == ["N", 8, 32, 32, 3]
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    assert [entry.dim_param or entry.dim_value for entry in logits.type.tensor_type.shape.dim] == ["N", 7]


def test_float_input_takes_normalised_ncthw(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    import onnxruntime

    engine = Engine(input="float32_ncthw")
    graph = to_onnx.convert(tiny_checkpoint.model, tiny_checkpoint.card, engine)
    frames = np.random.RandomState(1).randint(0, 256, (3, 8, 32, 32, 3)).astype(np.uint8)
    inputs = normalize(frames, tiny_checkpoint.card.pixels)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"frames": inputs})
    with torch.no_grad():
        expected = tiny_checkpoint.model(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


EXPORT_AGAIN = """
import sys
from pathlib import Path
from i3d_deploy import checkpoint, export
source = checkpoint.load(Path(sys.argv[1]))
export.export(source, targets=["onnx"], output=Path(sys.argv[2]), name="tiny")
"""


def test_two_exports_are_byte_identical(tiny_exports: Path, tmp_path: Path) -> None:
    # From the file that the first export wrote, in other processes and folders.
    folders = [tmp_path / "first", tmp_path / "second folder"]
    for folder in folders:
        command = [sys.executable, "-c", EXPORT_AGAIN, str(tiny_exports / "tiny.safetensors"), str(folder)]
        subprocess.run(command, check=True)
    first, second = ((folder / "tiny.onnx").read_bytes() for folder in folders)
    assert first == second


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.xml", "tiny.safetensors"])
def test_no_artifact_holds_a_path_or_a_time(tiny_exports: Path, name: str) -> None:
    content = (tiny_exports / name).read_bytes()
    for path in (str(tiny_exports), str(Path.home()), str(Path(__file__).parents[1]), "site-packages", ".py"):
        assert path.encode() not in content
    assert not re.search(rb"20\d\d-\d\d-\d\d", content)
    assert read_card(tiny_exports / name).provenance.tools


def test_a_profile_of_one_view_exports(tiny_checkpoint: Checkpoint) -> None:
    graph = to_onnx.convert(tiny_checkpoint.model, tiny_checkpoint.card, Engine(profile=(1, 1, 1)))
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
