"""Cases of a test on a CUDA device, beside the same test's cases on the CPU."""

from __future__ import annotations

from typing import Any, Literal

import onnxruntime
import pytest
import torch

from tests.gpu import IS_DEMANDED

HAS_CUDA = {
    "PyTorch": torch.cuda.is_available(),
    "ONNX Runtime": "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
}


def on_cuda(*values: Any, by: Literal["PyTorch", "ONNX Runtime"]) -> Any:
    """Parameters of a test that is marked ``gpu`` and skipped where a backend has no CUDA, unless a GPU is demanded."""
    may_skip = not IS_DEMANDED and not HAS_CUDA[by]
    return pytest.param(*values, marks=[pytest.mark.gpu, pytest.mark.skipif(may_skip, reason=f"{by} without CUDA")])
