"""Which layout of convolutions, 3D or 2D, suits what will run a file: a small table of what was measured.

The two give the same answer (``to_2d`` turns one into the other), so this is about speed alone, and on another machine
``i3d-bench`` with both files has the last word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from i3d_deploy.card import Layout, Precision


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One layout to export.

    Attributes:
        layout: "3d" or "2d".
        reason: Why, for the reader of the export.
    """

    layout: Layout
    reason: str


Target = Literal["onnx", "openvino", "tensorrt"]


@dataclass(frozen=True)
class _Row:
    target: Target
    precisions: tuple[Precision, ...]
    choices: tuple[Choice, ...]


_UNMEASURED = "3D and 2D are both made, since only i3d-bench on the GPU can tell which is faster there"
_BOTH = (Choice(layout="3d", reason=_UNMEASURED), Choice(layout="2d", reason=_UNMEASURED))
_2D_IN_ONNX_RUNTIME = "ONNX Runtime ran I3D R50 1.2 times as fast so on a CPU; for a GPU, try --layout 3d"
_3D_IN_EIGHT_BITS = "8-bit engines have been made and compared in 3D only"
_3D_IN_OPENVINO = "OpenVINO ran I3D R50 no faster in 2D on a CPU"

# Measured: I3D R50, one view, two cores of an AMD EPYC; bench/README.md has the figures. ONNX Runtime's CPU provider
# computes fp16 in fp32 and has neither bf16 nor fp8 convolutions: such files are for GPUs.
_TABLE = (
    _Row("onnx", ("fp32",), (Choice(layout="2d", reason=_2D_IN_ONNX_RUNTIME),)),
    _Row("onnx", ("fp16", "bf16"), _BOTH),
    _Row("openvino", ("fp32", "fp16", "bf16"), (Choice(layout="3d", reason=_3D_IN_OPENVINO),)),
    _Row("tensorrt", ("fp32", "fp16", "bf16"), _BOTH),
    _Row("onnx", ("int8", "fp8"), (Choice(layout="3d", reason=_3D_IN_EIGHT_BITS),)),
    _Row("openvino", ("int8",), (Choice(layout="3d", reason=_3D_IN_OPENVINO),)),
    _Row("tensorrt", ("int8", "fp8"), (Choice(layout="3d", reason=_3D_IN_EIGHT_BITS),)),
)
_PLAIN = Choice(layout="3d", reason="as the network was trained")


def choose(target: str, precision: Precision) -> tuple[Choice, ...]:
    """The layouts to export for a target.

    Args:
        target: "onnx", "openvino", "tensorrt" or another.
        precision: Of the engine.

    Returns:
        One, or both where only the machine that runs the file can tell.
    """
    for row in _TABLE:
        if row.target == target and precision in row.precisions:
            return row.choices
    return (_PLAIN,)
