"""The runners that need no GPU, behind their one seam."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from i3d_deploy import export, to_onnx, to_openvino
from i3d_deploy.artifact import read_card
from i3d_deploy.card import Card, Engine
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import ArtifactError, DeviceError, I3DError, InputError
from i3d_deploy.preprocessing import normalize
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.runners import open_runner
from i3d_deploy.runners.openvino_runner import OpenVINORunner
from i3d_deploy.runners.torch_runner import TorchRunner
from i3d_deploy.views import prepare

NAMES = ["tiny.safetensors", "tiny.onnx", "tiny.xml"]


def some_views(count: int) -> np.ndarray:
    """Random views of the tiny network's shape."""
    return np.random.RandomState(count).randint(0, 256, (count, 8, 32, 32, 3)).astype(np.uint8)


def some_frames(count: int, *, seed: int = 0) -> np.ndarray:
    """A random video whose crops are of the tiny network's size."""
    return np.random.RandomState(seed).randint(0, 256, (count, 32, 44, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 3, 31])
def test_logits_equal_pytorch(tiny_exports: Path, tiny_checkpoint: Checkpoint, name: str, count: int) -> None:
    views = some_views(count)
    with torch.no_grad():
        expected = tiny_checkpoint.model(torch.from_numpy(normalize(views, tiny_checkpoint.card.pixels))).numpy()
    with open_runner(tiny_exports / name, device="cpu") as runner:
        first = runner.infer(views)
        kept = first.copy()
        second = runner.infer(views[:1])
    np.testing.assert_allclose(first, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(second, expected[:1], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(first, kept)  # the caller owns the result


@pytest.fixture
def torch_threads() -> Iterator[None]:
    """PyTorch has one number of threads for the whole process: put it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one core")
@pytest.mark.parametrize(
    ("threads", "are_held"), [(1, False), (None, True), (os.cpu_count(), True)], ids=["one", "default", "all"]
)
def test_openvino_holds_its_threads_to_cores_where_it_has_them_all(
    tiny_exports: Path, threads: int | None, are_held: bool
) -> None:
    with OpenVINORunner(tiny_exports / "tiny.xml", device="cpu", threads=threads) as runner:
        assert runner._request(1).get_compiled_model().get_property("ENABLE_CPU_PINNING") is are_held


@pytest.mark.usefixtures("torch_threads")
@pytest.mark.parametrize("name", NAMES)
def test_what_really_runs_is_reported(tiny_exports: Path, name: str) -> None:
    with open_runner(tiny_exports / name, device="cpu", threads=1) as runner:
        assert runner.info.device == "cpu"
        assert runner.info.precision == "fp32"
        assert runner.info.threads == 1
        backend = {"tiny.safetensors": "torch", "tiny.onnx": "onnxruntime", "tiny.xml": "openvino"}[name]
        assert runner.info.backend.startswith(f"{backend} ")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "views",
    [
        np.zeros((1, 8, 32, 32, 3), np.float32),
        np.zeros((8, 32, 32, 3), np.uint8),
        np.zeros((1, 8, 32, 33, 3), np.uint8),
        np.zeros((0, 8, 32, 32, 3), np.uint8),
    ],
    ids=["floats", "no batch", "another width", "no view"],
)
def test_views_of_another_shape_are_refused(tiny_exports: Path, name: str, views: np.ndarray) -> None:
    with (
        open_runner(tiny_exports / name, device="cpu") as runner,
        pytest.raises(InputError, match=r"views must be uint8 of shape \(N, 8, 32, 32, 3\), not"),
    ):
        runner.infer(views)


@pytest.mark.parametrize(("name", "device"), [("tiny.onnx", "cuda:99"), ("tiny.safetensors", "cuda:99")])
def test_a_device_that_is_absent_is_an_error(tiny_exports: Path, name: str, device: str) -> None:
    with pytest.raises(DeviceError, match="cannot use"):
        open_runner(tiny_exports / name, device=device)


def test_openvino_lists_its_devices(tiny_exports: Path) -> None:
    with pytest.raises(DeviceError, match="OpenVINO has no device 'tpu' here, only cpu"):
        open_runner(tiny_exports / "tiny.xml", device="tpu")


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [("tiny.onnx", "tpu", "device 'tpu'"), ("tiny.safetensors", "tpu", "cannot use device 'tpu'")],
)
def test_an_unknown_device_is_an_error(tiny_exports: Path, name: str, device: str, message: str) -> None:
    with pytest.raises(I3DError, match=message):
        open_runner(tiny_exports / name, device=device)


def test_no_thread_is_an_error(tiny_exports: Path) -> None:
    with pytest.raises(InputError, match=r"threads \(0\) must be > 0"):
        open_runner(tiny_exports / "tiny.onnx", threads=0)


def test_float_input_is_normalised_by_the_runner(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    exported = export.export(
        tiny_checkpoint,
        targets=["onnx", "openvino"],
        output=tmp_path,
        name="float",
        engine=Engine(input="float32_ncthw"),
    )
    assert [entry.card.parity[0].status for entry in exported] == ["passed", "passed"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_openvino_never_computes_in_another_reduced_type(
    tiny_checkpoint: Checkpoint, tmp_path: Path, precision: str
) -> None:
    (exported,) = export.export(
        tiny_checkpoint,
        targets=["openvino"],
        output=tmp_path,
        name="reduced",
        engine=Engine.model_validate({"precision": precision}),
    )
    assert exported.card.parity[0].status == "passed"
    with open_runner(exported.path, device="cpu") as runner:
        assert runner.info.precision in (precision, "fp32")


def test_a_graph_that_onnx_runtime_cannot_load_is_an_error(tiny_exports: Path, tmp_path: Path) -> None:
    graph = onnx.load(tiny_exports / "tiny.onnx")
    graph.graph.node[5].op_type = "Nonsense"
    path = tmp_path / "nonsense.onnx"
    onnx.save(graph, path)
    with pytest.raises(ArtifactError, match=r"nonsense\.onnx: ONNX Runtime cannot load it: .*Nonsense"):
        open_runner(path, device="cpu")


def test_cut_weights_are_an_error(tiny_exports: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.xml"
    path.write_bytes((tiny_exports / "tiny.xml").read_bytes())
    path.with_suffix(".bin").write_bytes((tiny_exports / "tiny.bin").read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"tiny\.xml: OpenVINO cannot load it"):
        open_runner(path)


def test_a_batch_below_the_profile_is_filled_up(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    (exported,) = export.export(
        tiny_checkpoint, targets=["onnx"], output=tmp_path, name="four", engine=Engine(profile=(4, 4, 8))
    )
    views = some_views(2)
    with torch.no_grad():
        expected = tiny_checkpoint.model(torch.from_numpy(normalize(views, tiny_checkpoint.card.pixels))).numpy()
    with open_runner(exported.path, device="cpu") as runner:
        np.testing.assert_allclose(runner.infer(views), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_closed_runner_says_so(tiny_exports: Path, name: str) -> None:
    runner = open_runner(tiny_exports / name, device="cpu")
    runner.close()
    runner.close()
    with pytest.raises(InputError, match="the runner is closed"):
        runner.infer(some_views(1))


@pytest.mark.parametrize("name", ["tiny.onnx", "tiny.xml"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spatial": {"short_side": 40, "crop_size": 40}}, "input of the engine is uint8 .*its card says uint8"),
        ({"network": {"num_classes": 8}, "labels": tuple("abcdefgh")}, r"output of the engine is float32 .*\(N, 8\)"),
    ],
    ids=["views", "classes"],
)
def test_an_engine_unlike_its_card_is_refused(
    tiny_exports: Path, tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    for suffix in (".onnx", ".xml", ".bin"):
        shutil.copy(tiny_exports / f"tiny{suffix}", tmp_path)
    document = json.loads(read_card(tmp_path / name).to_json())
    for part, values in changes.items():
        document[part] = {**document[part], **values} if isinstance(values, dict) else values
    card = Card.from_json(json.dumps(document), where="the test")
    if name == "tiny.onnx":
        to_onnx.write(onnx.load(tmp_path / name), card, tmp_path / name)
    else:
        to_openvino.rewrite(card, tmp_path / name)
    with pytest.raises(ArtifactError, match=message):
        open_runner(tmp_path / name, device="cpu")


def test_any_runner_cuts_the_views_of_all_videos_into_the_same_memory(tiny_checkpoint: Checkpoint) -> None:
    given: list[np.ndarray] = []

    class Noted(TorchRunner):
        def infer(self, views: np.ndarray) -> np.ndarray:
            given.append(views)
            return super().infer(views)

    runner = Noted(tiny_checkpoint, device="cpu")
    for seed in range(2):
        Recognizer(runner).predict(some_frames(40, seed=seed), batch=4)
    assert [len(batch) for batch in given] == [4, 2] * 2
    assert all(np.shares_memory(given[0], batch) for batch in given)


def test_any_runner_takes_parts(tiny_checkpoint: Checkpoint) -> None:
    runner = TorchRunner(tiny_checkpoint, device="cpu")
    prepared = prepare(some_frames(40), tiny_checkpoint.card)
    found = np.concatenate([logits for _, logits in runner.infer_parts(prepared.parts(4))])
    expected = np.concatenate(list(prepared.batches(6)))[prepared.by_clip()]
    np.testing.assert_allclose(found, runner.infer(expected), rtol=0, atol=1e-5)
