"""Checkpoints of every origin, from its own file to an engine: does each predict a video as PyTorch does?

A file is written as each origin writes its own, with weights filled by name (the rule of tests/README.md); it is read
as any other, exported, and the video is predicted by PyTorch and by every engine, with all views of the card.

    python bench/origins.py clip.mp4 --to onnx --to openvino --to tensorrt --json origins.json
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from i3d_deploy import checkpoint, export, files, model, torch_work
from i3d_deploy.benchmark import meters
from i3d_deploy.builders import TARGETS, Target, as_target
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.commands.options import reports_errors
from i3d_deploy.errors import MissingExtraError
from i3d_deploy.export import Exported
from i3d_deploy.network import NETWORKS, TwoStream
from i3d_deploy.origins import ORIGINS
from i3d_deploy.predictions import Prediction
from i3d_deploy.recognizer import Recognizer, load
from i3d_deploy.runners.torch_runner import TorchRunner
from i3d_deploy.to_tensorrt import EngineOptions

Arrays = dict[str, NDArray[Any]]

_WRITE_TENSORFLOW = """
import sys
import numpy as np
import tensorflow as tf
archive = np.load(sys.argv[1])
names = sorted(archive.files)
tf.raw_ops.SaveV2(prefix=sys.argv[2], tensor_names=names, shape_and_slices=[""] * len(names),
                  tensors=[tf.constant(archive[name]) for name in names])
"""


def fill(name: str, shape: tuple[int, ...], *, gain: float) -> NDArray[Any]:
    """An entry of a network by its name there."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith(("bias", "beta", "_b", "running_mean", "moving_mean", "_rm")):
        values = 0.1 * random.standard_normal(shape)
    elif name.endswith(("running_var", "moving_variance", "_riv")):
        values = 1 + 0.5 * random.random_sample(shape)
    elif len(shape) == 1:
        values = 1 + 0.1 * random.standard_normal(shape)
    else:
        values = random.standard_normal(shape) * np.sqrt(gain / _fan_in(shape))
    if "theta" in name or "phi" in name:
        values = values * 0.2
    return np.asarray(values, np.float32)


def _fan_in(shape: tuple[int, ...]) -> int:
    # TensorFlow's kernels are (T, H, W, in, out), all others (out, in, ...).
    is_channels_last = len(shape) == 5 and shape[0] <= 7
    return int(np.prod(shape[:-1] if is_channels_last else shape[1:]))


def _write_torch(wrap: Callable[[dict[str, torch.Tensor]], Any], arrays: Arrays, path: Path) -> None:
    torch.save(wrap({name: torch.from_numpy(array) for name, array in arrays.items()}), path)


def _write_caffe2(arrays: Arrays, path: Path) -> None:
    path.write_bytes(pickle.dumps({"blobs": arrays}, protocol=2))


def _write_tensorflow(arrays: Arrays, path: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "arrays.npz"
        np.savez(archive, **{f"RGB/inception_i3d/{name}": array for name, array in arrays.items()})
        done = subprocess.run(
            [sys.executable, "-c", _WRITE_TENSORFLOW, str(archive), str(path)], capture_output=True, check=False
        )
    if done.returncode != 0:
        raise MissingExtraError("tensorflow", extra="tensorflow", cause=ModuleNotFoundError(name="tensorflow"))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One checkpoint: its origin, its network, its file and who writes it."""

    origin: str
    network: str
    file: str
    write: Callable[[Arrays, Path], None]


def _torch_row(origin: str, network: str, file: str, wrap: Callable[[Any], Any]) -> Row:
    return Row(origin=origin, network=network, file=file, write=partial(_write_torch, wrap))


def _of_slowfast(state: Any, *, cfg: str = "MODEL:\n  ARCH: i3d\n") -> dict[str, Any]:
    return {"epoch": 195, "model_state": state, "cfg": cfg}


_SOFTMAX = partial(_of_slowfast, cfg="NONLOCAL:\n  INSTANTIATION: softmax\n")

ROWS = (
    _torch_row("mmaction2", "i3d_r50", "i3d_r50.pth", lambda state: {"meta": {}, "state_dict": state}),
    _torch_row("pytorchvideo", "i3d_r50_8x8_pytorchvideo", "I3D_8x8_R50.pyth", lambda state: {"model_state": state}),
    _torch_row("slowfast", "i3d_r50_8x8_slowfast", "checkpoint_epoch_00196.pyth", _of_slowfast),
    _torch_row("slowfast", "i3d_r50_8x8_nl_embedded_gaussian_slowfast", "checkpoint_nln.pyth", _SOFTMAX),
    Row(origin="caffe2", network="i3d_r50_8x8_slowfast", file="I3D_8x8_R50.pkl", write=_write_caffe2),
    _torch_row("pytorch-i3d", "i3d_inception_rgb", "rgb_imagenet.pt", lambda state: state),
    _torch_row("pytorch-i3d", "i3d_inception_flow", "flow_imagenet.pt", lambda state: state),
    Row(origin="kinetics-i3d", network="i3d_inception_rgb", file="model.ckpt", write=_write_tensorflow),
)


def arrays_of(row: Row) -> Arrays:
    """Filled entries under the origin's names."""
    origin, network = ORIGINS[row.origin], NETWORKS[row.network](400)
    with torch.device("meta"):
        net = model.build(network)
    gain = 2.0 if "inception" in row.network else 1.0
    found = {}
    for name, tensor in net.state_dict().items():
        if origin.invents(name) is None:
            theirs = origin.entry(name)
            found[theirs] = fill(theirs, origin.shapes(name, tuple(tensor.shape))[0], gain=gain)
    return found


@dataclass(frozen=True, kw_only=True)
class Exports:
    """What to make of each checkpoint.

    Attributes:
        targets: As ``i3d-export --to``.
        options: Of the TensorRT builder.
    """

    targets: tuple[Target, ...]
    options: EngineOptions

    def make(self, source: Checkpoint, folder: Path, name: str) -> tuple[Exported, ...]:
        """Export; TensorRT, which takes clips of one length, gets those of networks that take whole videos."""
        fixed = source.card.sampling.replaced(scheme="uniform")
        of_clips = Checkpoint(model=source.model, card=source.card.replaced(sampling=fixed))
        is_fixed = source.card.has_fixed_length
        made = []
        for target in self.targets:
            subject = source if is_fixed or target != "tensorrt" else of_clips
            made += export.export(subject, targets=[target], output=folder, name=name, tensorrt=self.options)
        return tuple(made)


def measure(row: Row, video: Path, exports: Exports, folder: Path) -> dict[str, Any]:
    """Write, read, export and predict one."""
    row.write(arrays_of(row), folder / row.file)
    source = checkpoint.load(folder / row.file)
    card = source.card
    assert not isinstance(card.network, TwoStream)
    assert (card.provenance.origin, card.network.name) == (row.origin, row.network)
    exported = exports.make(source, folder, row.network)
    with Recognizer(TorchRunner(source, device="cpu"), flow_cache=folder / "flow") as recognizer:
        reference = recognizer.predict(video)
    return {
        "origin": row.origin,
        "file": row.file,
        "network": row.network,
        "views": reference.views,
        "view_shape": list(card.view_shape),
        "macs_per_view": torch_work.work_of_network(card.network, card.view_shape).macs,
        "engines": [compare(entry, reference, video, folder) for entry in exported],
    }


def compare(entry: Exported, reference: Prediction, video: Path, folder: Path) -> dict[str, Any]:
    """What the proof of an engine found, and how its prediction of the video differs."""
    proven = entry.card.parity[0]
    found: dict[str, Any] = {"file": entry.path.name, "proof": proven.status, "proof_max_logits": proven.max_logits}
    if proven.status == "passed":
        with load(entry.path, device="cpu", flow_cache=folder / "flow") as engine:
            prediction = engine.predict(video)
        found["max_probabilities"] = float(np.abs(prediction.probabilities - reference.probabilities).max())
        found["max_logits"] = float(np.abs(prediction.logits - reference.logits).max())
    return found


@click.command()
@click.argument("video", type=click.Path(path_type=Path, exists=True))
@click.option("--to", "targets", type=click.Choice(TARGETS), multiple=True, default=("onnx",), show_default=True)
@click.option("--only", multiple=True, help="Origins; may be repeated.  [default: all]")
@click.option("--compute-capability", default="8.9", show_default=True, help="GPU that TensorRT builds for.")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
@reports_errors
def main(
    video: Path, targets: tuple[str, ...], only: tuple[str, ...], compute_capability: str, json_path: Path | None
) -> None:
    """Predict VIDEO with the checkpoint of every origin, in PyTorch and in every engine made of it."""
    exports = Exports(
        targets=tuple(as_target(target) for target in targets),
        options=EngineOptions(compute_capability=compute_capability),
    )
    rows = []
    for row in ROWS:
        if only and row.origin not in only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = measure(row, video, exports, Path(folder))
            except MissingExtraError as error:
                click.echo(f"{row.origin}: {error}", err=True)
                continue
        rows.append(found)
        for engine in found["engines"]:
            differs = engine.get("max_probabilities")
            text = ""
            if differs is not None:
                text = f", probabilities differ by {differs:.1e}, logits by {engine['max_logits']:.1e}"
            click.echo(f"{row.origin:12}  {engine['file']}  {found['views']} views  {engine['proof']}{text}")
    if json_path is not None:
        record = {"machine": meters.machine().model_dump(mode="json"), "video": files.sha256(video), "rows": rows}
        with files.replacing(json_path) as (target,):
            target.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
