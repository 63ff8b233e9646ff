"""Our network through ``torch.onnx.export`` as it comes, in OpenVINO as it comes.

No setting is changed: the graph takes one view as normalised floats, and OpenVINO chooses threads and precision.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plain_onnx import check_device, export

from i3d_deploy import checkpoint, untracked
from i3d_deploy.benchmark.worker import OpenRequest
from i3d_deploy.preprocessing import normalize
from i3d_deploy.runners import Runner, RunnerInfo

with untracked.imports():
    import openvino

_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}


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
            converted = openvino.convert_model(export(source, Path(folder)))
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
        check_device(request.device)
        return cls(checkpoint.load(request.path), threads=request.threads)

    def _run(self, inputs: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        clips = normalize(inputs, self.card.pixels)
        # Calling a compiled model copies its results, so that the next run leaves them alone.
        return np.concatenate([self._compiled(clips[i : i + 1])[0] for i in range(len(clips))])
