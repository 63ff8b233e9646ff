"""Loaded engines behind one small seam: uint8 views in, logits out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from i3d_deploy import artifact, two_stream
from i3d_deploy.card import Precision
from i3d_deploy.errors import InputError
from i3d_deploy.runners.runner import LayerTime, Runner, RunnerInfo
from i3d_deploy.runners.two_stream_runner import TwoStreamRunner

if TYPE_CHECKING:
    from i3d_deploy.checkpoint import Checkpoint

__all__ = ["LayerTime", "Runner", "RunnerInfo", "TwoStreamRunner", "open_checkpoint", "open_runner", "open_two_streams"]


def open_runner(
    path: Path, *, device: str = "auto", threads: int | None = None, precision: Precision | None = None
) -> Runner:
    """Load whatever a file is into the backend that runs it.

    Args:
        path: ``.safetensors``, ``.onnx``, ``.xml``, ``.engine``, the ``.json`` of two streams, or a foreign checkpoint.
        device: "auto", "cpu", "cuda" or "cuda:1".
        threads: CPU threads; default: the backend's choice.
        precision: Of a checkpoint: as for :func:`open_checkpoint`. An engine has that of its export.

    Raises:
        ArtifactError: The file is missing, damaged or of an unknown kind.
        CardError: It carries no card, or a malformed or newer one.
        DeviceError: The machine has not the device.
        InputError: A precision is given for an engine, or one that the device is not for.
        MissingExtraError: The backend is not installed.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads ({threads}) must be > 0")
    kind = artifact.identify(path).kind
    if kind == "two-stream":
        pair = two_stream.read(path)
        return open_two_streams(pair.rgb, pair.flow, device=device, threads=threads, precision=precision)
    if kind in ("safetensors", "checkpoint"):
        from i3d_deploy import checkpoint

        return open_checkpoint(lambda: checkpoint.load(path), device=device, threads=threads, precision=precision)
    if precision is not None:
        raise InputError(
            f"precision ({precision}) is for checkpoints: {path} has the one that it was exported in "
            "(i3d-export --precision)"
        )
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
    raise AssertionError(f"no runner for {kind}")


def open_checkpoint(
    read: Callable[[], Checkpoint],
    *,
    device: str = "auto",
    threads: int | None = None,
    precision: Precision | None = None,
) -> Runner:
    """Run a checkpoint in PyTorch: on a GPU as fast as it allows, on a CPU as it was trained.

    Args:
        read: Reads it, once the arguments are known to fit.
        device: As for :func:`open_runner`.
        threads: As for :func:`open_runner`.
        precision: "fp32": PyTorch's own network, on any device. "fp16", "bf16" or "fp8", for GPUs: the fused one.
            None: on a GPU the first of fp16, bf16 and fp32 whose logits are within its limit of float32's, elsewhere
            fp32.

    Raises:
        DeviceError: PyTorch has not that device, or the precision's logits are not within its limit.
        InputError: Less than fp32 is asked of a CPU; or as ``read`` raises.
    """
    from i3d_deploy.runners.torch_runner import TorchRunner, begin_computing, choose_device

    if precision not in (None, "fp32", "fp16", "bf16", "fp8"):
        raise InputError(f"precision ({precision}) must be fp32, fp16, bf16 or fp8 where a checkpoint is run")
    begin_computing()
    is_cuda = choose_device(device).type == "cuda"
    if precision == "fp32" or (precision is None and not is_cuda):
        return TorchRunner(read(), device=device, threads=threads)
    if not is_cuda:
        raise InputError(
            f"precision ({precision}) needs a GPU where a checkpoint is run: give fp32, or export it "
            f"(i3d-export --to openvino --precision {'int8' if precision == 'fp8' else 'bf16'})"
        )
    from i3d_deploy.runners.fused_runner import FusedRunner, WrongPrecisionError

    source = read()
    try:
        return FusedRunner(source, device=device, precisions=(precision,) if precision else ("fp16", "bf16"))
    except WrongPrecisionError as error:
        if precision is not None:
            raise
        note = f"computed in fp32: {error.reason}"
        return TorchRunner(replace(source, notes=(*source.notes, note)), device=device, threads=threads)


def open_two_streams(
    rgb: Path,
    flow: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    precision: Precision | None = None,
) -> Runner:
    """Load two files as the streams of one network.

    Args:
        rgb: The network of frames; as for :func:`open_runner`.
        flow: The network of optical flow.
        device: As for :func:`open_runner`.
        threads: As for :func:`open_runner`.
        precision: As for :func:`open_runner`.

    Raises:
        InputError: They do not go together.
        I3DError: As :func:`open_runner`.
    """
    two_stream.check_single(rgb)
    with ExitStack() as opened:
        streams = [
            opened.enter_context(open_runner(path, device=device, threads=threads, precision=precision))
            for path in (rgb, flow)
        ]
        runner = TwoStreamRunner(*streams)
        opened.pop_all()
    return runner


def _gpu_number(device: str) -> int:
    name, _, number = device.partition(":")
    if device == "auto" or (name == "cuda" and (number or "0").isdecimal()):
        return int(number or 0)
    raise InputError(f"device {device!r} cannot run a TensorRT engine: auto, cuda or cuda:N")
