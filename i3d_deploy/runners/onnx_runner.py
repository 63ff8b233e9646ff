"""ONNX Runtime, on the CPU or through CUDA."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import untracked
from i3d_deploy.artifact import read_engine_card
from i3d_deploy.card import Card
from i3d_deploy.errors import ArtifactError, DeviceError, MissingExtraError
from i3d_deploy.frames import Resized
from i3d_deploy.runners.runner import Runner, RunnerInfo, Tensor, check_fit

try:
    with untracked.imports():
        import onnxruntime
except ImportError as error:
    raise MissingExtraError("onnxruntime", extra="cpu", cause=error) from error

Providers = list[str | tuple[str, dict[str, str]]]

_LOG_FATAL = 4
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_KERNEL_TIME = "_kernel_time"
_NOT_IMPLEMENTED = getattr(onnxruntime.capi.onnxruntime_pybind11_state, "NotImplemented")  # noqa: B009


class OnnxRunner(Runner):
    """An ``.onnx`` file in ONNX Runtime.

    Args:
        path: The file, with its card.
        device: "auto" (CUDA where it really works), "cpu", "cuda" or "cuda:1".
        threads: CPU threads within an operator; default: the cores this process may use.

    Raises:
        ArtifactError: The file is damaged.
        CardError: It has no card.
        DeviceError: CUDA was asked for and is not there, or the device lacks an operator in the file's precision.
    """

    def __init__(self, path: Path, *, device: str = "auto", threads: int | None = None) -> None:
        super().__init__()
        self.card, engine = read_engine_card(path)
        threads = threads or len(os.sched_getaffinity(0))
        self._path, self._providers, self._is_fp8 = path, _providers(device), engine.precision == "fp8"
        self._device = device
        # On a CPU, where this many views run at a time, a fixed number is faster; it is given up once another comes.
        self._fixed_views = engine.profile[0] if self._providers == [_CPU] else None
        session = self._open(threads, num_views=self._fixed_views)
        _check_fit(path, self.card, session)
        provider = session.get_providers()[0]
        is_cpu = provider == _CPU
        if is_cpu and self._fixed_views is None:  # CUDA is installed and does not work here
            self._providers = [_CPU]
            self._fixed_views = engine.profile[0]
            session = self._open(threads, num_views=self._fixed_views)
        self._device = "cpu" if is_cpu else _cuda_name(device)
        self._session: onnxruntime.InferenceSession | None = session
        self.preferred_batch = engine.profile[0] if is_cpu else engine.profile[1]
        self.info = RunnerInfo(
            backend=f"onnxruntime {onnxruntime.__version__}",
            device=self._device,
            provider=provider,
            # The CPU has no fp16 convolutions: ONNX Runtime casts them, so the weights alone are rounded.
            precision="fp32 with fp16 weights" if is_cpu and engine.precision == "fp16" else engine.precision,
            threads=threads,
        )

    def _run(self, inputs: Resized) -> NDArray[np.float32]:
        assert self._session is not None, "infer checks that the runner is open"
        if self._fixed_views not in (None, len(inputs)):
            self._fixed_views, self._session = None, None  # both at once would take the memory of both
            self._session = self._open(self.info.threads, num_views=None)
        return _infer(self._session, inputs)

    def _profile(self, inputs: Resized, runs: int) -> Mapping[tuple[str, str], float]:
        with tempfile.TemporaryDirectory(prefix="i3d-") as folder:
            trace = Path(folder, "profile")
            num_views = len(inputs) if len(inputs) == self._fixed_views else None
            session = self._open(self.info.threads, num_views=num_views, trace=trace)
            try:
                for _ in range(1 + runs):
                    _infer(session, inputs)
            finally:
                written = Path(session.end_profiling())
            return sum_layers(json.loads(written.read_text(encoding="utf-8")))

    def _transfer(self, inputs: Resized) -> None:
        number = int(self.info.device.partition(":")[2])
        try:
            onnxruntime.OrtValue.ortvalue_from_numpy(inputs, "cuda", number)  # returns when the copy is there
        except Exception as error:  # the bindings' exceptions share no narrower base
            raise DeviceError(
                f"ONNX Runtime cannot copy {len(inputs)} views to {self.info.device}: {_reason(error)}"
            ) from error

    def _open(self, threads: int, *, num_views: int | None, trace: Path | None = None) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        if self._is_fp8:
            # The extended optimisations of ONNX Runtime 1.32 give wrong numbers for 8-bit floats.
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.intra_op_num_threads = threads
        # A memory pattern is a second block for all activations beside the arena that the first run filled: on a CPU
        # plain I3D R50 takes 517 MiB without it, not 644, and is no slower. Not measured on a GPU.
        options.enable_mem_pattern = self._providers != [_CPU]
        if num_views is not None:
            options.add_free_dimension_override_by_name("N", num_views)
        if trace is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(trace)
        session = _load(self._path, options, providers=self._providers)
        if self._device.startswith("cuda") and session.get_providers()[0] != _CUDA:
            raise DeviceError(_why_no_cuda(self._device))
        return session

    def _free(self) -> None:
        self._session = None


def sum_layers(events: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Add up the layers of a profile that ONNX Runtime wrote, without its first run.

    Args:
        events: The document: one entry per run, per executed node and per kernel of a GPU. A node's time is that of the
            host, which on a GPU is done when the kernels are queued; there those count. Only builds of ONNX Runtime
            with CUPTI record them, and they do not find the node of every kernel: such a kernel stands for itself.

    Returns:
        Seconds of all runs but the first, by name and operation; nothing of a GPU whose kernels were not recorded.

    Source:
        ONNX Runtime, core/common/profiler.cc and gpu_profiler_common.h.
    """
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    seconds: dict[tuple[str, str], float] = defaultdict(float)
    for name, kind, event in _layer_events(events):
        if event["ts"] >= starts[1]:
            seconds[name, kind] += event["dur"] * 1e-6
    return dict(seconds)


def _layer_events(events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    nodes = [event for event in events if event["cat"] == "Node" and event["name"].endswith(_KERNEL_TIME)]
    kernels = [event for event in events if event["cat"] == "Kernel"]
    if not kernels and any(event["args"]["provider"] != _CPU for event in nodes):
        return
    for event in nodes:
        if event["args"]["provider"] == _CPU:
            yield event["name"].removesuffix(_KERNEL_TIME), event["args"]["op_name"], event
    for event in kernels:
        name = event["args"].get("parent_name", event["name"]).removesuffix(_KERNEL_TIME)
        yield name, event["args"].get("op_name", "kernel"), event


def _infer(session: onnxruntime.InferenceSession, inputs: Resized) -> NDArray[np.float32]:
    try:
        (logits,) = session.run(["logits"], {"frames": inputs})
    except Exception as error:  # the bindings' exceptions share no narrower base
        raise ArtifactError(f"ONNX Runtime cannot run {len(inputs)} views: {_reason(error)}") from error
    return np.asarray(logits, np.float32)


def _check_fit(path: Path, card: Card, session: onnxruntime.InferenceSession) -> None:
    if (len(session.get_inputs()), len(session.get_outputs())) != (1, 1):
        raise ArtifactError(f"{path}: the graph must have one input and one output")
    (frames,), (logits,) = session.get_inputs(), session.get_outputs()
    dtypes = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
    source, result = (
        Tensor(dtype=dtypes.get(tensor.type, tensor.type), shape=_sizes(tensor.shape)) for tensor in (frames, logits)
    )
    check_fit(path, card, source=source, result=result)


def _sizes(shape: Sequence[Any]) -> tuple[int, ...]:
    """Sizes without N; -1 where one is open."""
    return tuple(size if isinstance(size, int) else -1 for size in shape[1:])


def _cuda_name(device: str) -> str:
    return device if ":" in device else "cuda:0"


def _providers(device: str) -> Providers:
    if device == "cpu" or (device == "auto" and _CUDA not in onnxruntime.get_available_providers()):
        return [_CPU]
    if device != "auto" and not device.startswith("cuda"):
        raise DeviceError(f"device {device!r} is not one ONNX Runtime is used with here: auto, cpu, cuda, cuda:N")
    number = _cuda_name(device).partition(":")[2] if device != "auto" else "0"
    # TF32 has ten bits of mantissa: an fp32 engine must not use it.
    cuda = (_CUDA, {"device_id": number, "use_tf32": "0"})
    return [cuda, _CPU]


def _why_no_cuda(device: str) -> str:
    what = f"ONNX Runtime {onnxruntime.__version__} cannot use {device}"
    if _CUDA not in onnxruntime.get_available_providers():
        return f"{what}, it is a build for CPUs: pip install 'i3d-deploy[gpu]' on a machine with a GPU"
    return (
        f"{what}: there is no such GPU or no driver for it, or CUDA's libraries are missing, which "
        "pip install 'onnxruntime-gpu[cuda,cudnn]' brings"
    )


def _load(path: Path, options: onnxruntime.SessionOptions, *, providers: Providers) -> onnxruntime.InferenceSession:
    options.log_severity_level = _LOG_FATAL  # what matters is raised or reported by RunnerInfo
    names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
    installed = onnxruntime.get_available_providers()
    usable = [provider for provider, name in zip(providers, names, strict=True) if name in installed]
    try:
        session = _start(path, options, usable)
    except _NOT_IMPLEMENTED as error:
        raise DeviceError(f"ONNX Runtime {onnxruntime.__version__} cannot run {path} here: {_reason(error)}") from error
    except Exception as error:  # the bindings' exceptions share no narrower base
        raise ArtifactError(f"{path}: ONNX Runtime cannot load it: {_reason(error)}") from error
    session.disable_fallback()  # a run that fails on a GPU would be repeated on the CPU, then and from then on
    return session


def _start(path: Path, options: onnxruntime.SessionOptions, providers: Providers) -> onnxruntime.InferenceSession:
    if providers == [_CPU]:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    # Both print what they miss to stdout, where commands print their results.
    with contextlib.redirect_stdout(sys.stderr):
        onnxruntime.preload_dlls()  # pip puts CUDA's libraries where the loader does not look
        return onnxruntime.InferenceSession(str(path), options, providers=providers)


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0].rpartition(" : ")[2]
