"""Loaded engines behind one small seam: uint8 views in, logits out."""

from __future__ import annotations

from pathlib import Path

from i3d_deploy import artifact
from i3d_deploy.errors import InputError
from i3d_deploy.runners.runner import LayerTime, Runner, RunnerInfo

__all__ = ["LayerTime", "Runner", "RunnerInfo", "open_runner"]


def open_runner(path: Path, *, device: str = "auto", threads: int | None = None) -> Runner:
    """Load whatever a file is into the backend that runs it.

    Args:
        path: ``.safetensors``, ``.pth``, ``.onnx``, ``.xml`` or ``.engine``.
        device: "auto", "cpu", "cuda" or "cuda:1".
        threads: CPU threads; default: the backend's choice.

    Raises:
        ArtifactError: The file is missing, damaged or of an unknown kind.
        CardError: It carries no card, or a malformed or newer one.
        DeviceError: The machine has not the device.
        MissingExtraError: The backend is not installed.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads ({threads}) must be > 0")
    kind = artifact.identify(path).kind
    # Each backend is imported when used, so that one needs none of the others installed.
    if kind == "onnx":
        from i3d_deploy.runners.onnx_runner import OnnxRunner

        return OnnxRunner(path, device=device, threads=threads)
    if kind == "openvino":
        from i3d_deploy.runners.openvino_runner import OpenVINORunner

        return OpenVINORunner(path, device=device, threads=threads)
    if kind == "tensorrt":
        from i3d_deploy.runners.tensorrt_runner import TensorRTRunner

        return TensorRTRunner(path, device=_gpu_number(device))
    from i3d_deploy.runners.torch_runner import TorchRunner

    return TorchRunner.open(path, device=device, threads=threads)


def _gpu_number(device: str) -> int:
    name, _, number = device.partition(":")
    if device == "auto" or (name == "cuda" and (number or "0").isdecimal()):
        return int(number or 0)
    raise InputError(f"device {device!r} cannot run a TensorRT engine: auto, cuda or cuda:N")
