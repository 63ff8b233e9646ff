"""What a user would pick instead of i3d-deploy: the names, and how each is opened.

The other modules of this folder hold a contestant or two and import its packages. They are imported when it is opened,
so that one that is not installed costs no other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from i3d_deploy.benchmark.worker import OpenRequest
from i3d_deploy.errors import DeviceError
from i3d_deploy.runners import Runner

Opener = Callable[[OpenRequest], Runner]


def _mmaction2() -> Opener:
    from toolbox import ToolboxRunner

    return ToolboxRunner.open


def _mmaction2_by_view() -> Opener:
    from toolbox import ToolboxRunner

    return partial(ToolboxRunner.open, views_per_run=1)


def _pytorchvideo() -> Opener:
    from hub_network import HubRunner

    return HubRunner.open


def _onnxruntime() -> Opener:
    from plain_onnx import PlainOnnxRunner

    return PlainOnnxRunner.open


def _openvino() -> Opener:
    from plain_openvino import PlainOpenVINORunner

    return PlainOpenVINORunner.open


def _compiled() -> Opener:
    from compiled import CompiledRunner

    return CompiledRunner.open


CONTESTANTS: dict[str, Callable[[], Opener]] = {
    "mmaction2": _mmaction2,
    "mmaction2, one view at a time": _mmaction2_by_view,
    "pytorchvideo i3d_r50": _pytorchvideo,
    "torch.onnx in ONNX Runtime": _onnxruntime,
    "OpenVINO default conversion": _openvino,
    "torch.compile": _compiled,
}
"""Name of each in a record, and what imports it."""


def open_contestant(request: OpenRequest, *, name: str) -> Runner:
    """Open a contestant.

    Args:
        request: The checkpoint whose weights it gets, and where it runs.
        name: A key of :data:`CONTESTANTS`.

    Raises:
        DeviceError: Its packages cannot be imported here.
        I3DError: What its runner raises.
    """
    try:
        opener = CONTESTANTS[name]()
    except (ImportError, AssertionError, RuntimeError) as error:  # mmaction2 and torchvision check versions at import
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DeviceError(f"{name} cannot be imported here ({reason}): make peers") from error
    return opener(request)
