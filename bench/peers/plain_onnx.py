"""Our network through ``torch.onnx.export`` as it comes, in ONNX Runtime as it comes.

No setting is changed: the graph takes normalised floats, and ONNX Runtime chooses threads and precision.
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

_CUDA = "CUDAExecutionProvider"


class PlainOnnxRunner(Runner):
    """The plain export in ONNX Runtime with default session options.

    Args:
        source: The checkpoint.
        device: "cpu", "cuda" or "cuda:0".
        threads: CPU threads within an operator; None: ONNX Runtime's choice.
        views_per_run: N of the graph.

    Raises:
        DeviceError: ONNX Runtime fell back to the CPU.
    """

    is_comparable = True

    def __init__(
        self,
        source: checkpoint.Checkpoint,
        *,
        device: str = "cpu",
        threads: int | None = None,
        views_per_run: int = 1,
    ) -> None:
        super().__init__()
        self.card, self._views_per_run = source.card, views_per_run
        is_cuda = device.startswith("cuda")
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        with tempfile.TemporaryDirectory() as folder:
            path = export(source, Path(folder), views=views_per_run)
            providers = [_CUDA, "CPUExecutionProvider"] if is_cuda else ["CPUExecutionProvider"]
            self._session: Any = onnxruntime.InferenceSession(path, options, providers=providers)
        used = self._session.get_providers()
        if is_cuda and _CUDA not in used:
            raise DeviceError(f"ONNX Runtime runs on {', '.join(used)}, not on the GPU: install onnxruntime-gpu")
        self.info = RunnerInfo(
            backend=f"onnxruntime {onnxruntime.__version__}",
            device=device,
            provider=used[0],
            precision="tf32" if is_cuda else "fp32",
            threads=threads or 0,
        )

    @classmethod
    def open(cls, request: OpenRequest) -> PlainOnnxRunner:
        """Read a checkpoint of ours, export it and load the result."""
        check_device(request.device)
        return cls(checkpoint.load(request.path), threads=request.threads)

    def _run(self, inputs: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        name, size = self._session.get_inputs()[0].name, self._views_per_run
        clips = normalize(inputs, self.card.pixels)
        starts = range(0, len(clips), size)
        return np.concatenate([self._session.run(None, {name: clips[i : i + size]})[0] for i in starts])

    def infer_on_device(self, clips: torch.Tensor) -> NDArray[np.float32]:
        """Logits of clips that are on a GPU, without copying them to the host.

        Args:
            clips: (N, C, T, H, W) float32, normalised, contiguous, N that of the graph.
        """
        torch.cuda.synchronize(clips.device)
        binding = self._session.io_binding()
        device = clips.device.index or 0
        name = self._session.get_inputs()[0].name
        binding.bind_input(name, "cuda", device, np.float32, tuple(clips.shape), clips.data_ptr())
        binding.bind_output(self._session.get_outputs()[0].name, "cpu")
        self._session.run_with_iobinding(binding)
        return np.asarray(binding.copy_outputs_to_cpu()[0], np.float32)


def export(source: checkpoint.Checkpoint, folder: Path, *, views: int = 1) -> Path:
    """The network as an ONNX file with its weights beside it: float NCTHW, nothing folded beforehand.

    Args:
        source: The checkpoint.
        folder: Where to write it.
        views: N.
    """
    frames, height, width, channels = source.card.view_shape
    path = folder / "network.onnx"
    torch.onnx.export(source.model, (torch.rand(views, channels, frames, height, width),), path, dynamo=True)
    return path


def check_device(device: str) -> None:
    """Refuse a GPU where contestants of the CPU are compared."""
    if device not in ("auto", "cpu"):
        raise DeviceError(f"the plain exports run on the CPU, not on {device!r}: give auto or cpu")
