"""Our network through ``torch.onnx.export`` as it comes, in ONNX Runtime and in OpenVINO as they come.

No setting is changed: the graph takes one view as normalised floats, and the backends choose threads and precision.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from i3d_deploy import checkpoint, untracked
from i3d_deploy.benchmark.worker import OpenRequest
from i3d_deploy.errors import DeviceError
from i3d_deploy.preprocessing import normalize
from i3d_deploy.runners import Runner, RunnerInfo

with untracked.imports():
    import onnxruntime
    import openvino

_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}


class PlainOnnxRunner(Runner):
    """The plain export in ONNX Runtime with default session options, on the CPU.

    Args:
        source: The checkpoint.
        threads: CPU threads within an operator; None: ONNX Runtime's choice.
    """

    is_comparable = True

    def __init__(self, source: checkpoint.Checkpoint, *, threads: int | None = None) -> None:
        super().__init__()
        self.card = source.card
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        with tempfile.TemporaryDirectory() as folder:
            path = _export(source, Path(folder))
            self._session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.info = RunnerInfo(
            backend=f"onnxruntime {onnxruntime.__version__}",
            device="cpu",
            provider=self._session.get_providers()[0],
            precision="fp32",
            threads=threads or 0,
        )

    @classmethod
    def open(cls, request: OpenRequest) -> PlainOnnxRunner:
        """Read a checkpoint of ours, export it and load the result."""
        _check_device(request.device)
        return cls(checkpoint.load(request.path), threads=request.threads)

    def _run(self, inputs: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        name = self._session.get_inputs()[0].name
        clips = normalize(inputs, self.card.pixels)
        return np.concatenate([self._session.run(None, {name: clips[i : i + 1]})[0] for i in range(len(clips))])


class PlainOpenVINORunner(Runner):
    """The plain export through ``openvino.convert_model``, compiled for the CPU with default properties.

    Args:
        source: The checkpoint.
        threads: CPU threads; None: OpenVINO's choice.
    """

    is_comparable = True

    def __init__(self, source: checkpoint.Checkpoint, *, threads: int | None = None) -> None:
        super().__init__()
        self.card = source.card
        options = {} if threads is None else {"INFERENCE_NUM_THREADS": threads}
        with tempfile.TemporaryDirectory() as folder:
            converted = openvino.convert_model(_export(source, Path(folder)))
            self._compiled: Any = openvino.Core().compile_model(converted, "CPU", options)
        used = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.info = RunnerInfo(
            backend=f"openvino {openvino.__version__.partition('-')[0]}",
            device="cpu",
            provider=", ".join(self._compiled.get_property("EXECUTION_DEVICES")),
            precision=_NAMES.get(used, used),
            threads=self._compiled.get_property("INFERENCE_NUM_THREADS"),
        )

    @classmethod
    def open(cls, request: OpenRequest) -> PlainOpenVINORunner:
        """Read a checkpoint of ours, export it, convert and compile the result."""
        _check_device(request.device)
        return cls(checkpoint.load(request.path), threads=request.threads)

    def _run(self, inputs: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        clips = normalize(inputs, self.card.pixels)
        # Calling a compiled model copies its results, so that the next run leaves them alone.
        return np.concatenate([self._compiled(clips[i : i + 1])[0] for i in range(len(clips))])


def _export(source: checkpoint.Checkpoint, folder: Path) -> Path:
    """The network as an ONNX file with its weights beside it: one view, float NCTHW, nothing folded beforehand."""
    frames, height, width, channels = source.card.view_shape
    path = folder / "network.onnx"
    torch.onnx.export(source.model, (torch.rand(1, channels, frames, height, width),), path, dynamo=True)
    return path


def _check_device(device: str) -> None:
    if device not in ("auto", "cpu"):
        raise DeviceError(f"the plain exports run on the CPU, not on {device!r}: give auto or cpu")
