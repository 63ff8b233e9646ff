"""Loaded engines behind one small seam: uint8 views in, logits out."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from i3d_deploy import artifact, two_stream
from i3d_deploy.errors import InputError
from i3d_deploy.runners.runner import LayerTime, Runner, RunnerInfo
from i3d_deploy.runners.two_stream_runner import TwoStreamRunner

__all__ = ["LayerTime", "Runner", "RunnerInfo", "TwoStreamRunner", "open_runner", "open_two_streams"]


def open_runner(path: Path, *, device: str = "auto", threads: int | None = None) -> Runner:
    """Load whatever a file is into the backend that runs it.

    Args:
        path: ``.safetensors``, ``.onnx``, ``.xml``, ``.engine``, the ``.json`` of two streams, or a foreign checkpoint.
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
    if kind == "two-stream":
        pair = two_stream.read(path)
        return open_two_streams(pair.rgb, pair.flow, device=device, threads=threads)
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


def open_two_streams(rgb: Path, flow: Path, *, device: str = "auto", threads: int | None = None) -> Runner:
    """Load two files as the streams of one network.

    Args:
        rgb: The network of frames; as for :func:`open_runner`.
        flow: The network of optical flow.
        device: As for :func:`open_runner`.
        threads: As for :func:`open_runner`.

    Raises:
        InputError: They do not go together.
        I3DError: As :func:`open_runner`.
    """
    two_stream.check_single(rgb)
    with ExitStack() as opened:
        streams = [opened.enter_context(open_runner(path, device=device, threads=threads)) for path in (rgb, flow)]
        runner = TwoStreamRunner(*streams)
        opened.pop_all()
    return runner


def _gpu_number(device: str) -> int:
    name, _, number = device.partition(":")
    if device == "auto" or (name == "cuda" and (number or "0").isdecimal()):
        return int(number or 0)
    raise InputError(f"device {device!r} cannot run a TensorRT engine: auto, cuda or cuda:N")
