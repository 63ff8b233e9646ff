"""From an ONNX graph to a TensorRT engine and the note beside it.

Networks are strongly typed: every tensor has the type that the ONNX graph gives it, so precision is chosen there and
no builder flag changes it. TensorRT 11 and TensorRT-RTX know nothing else.

Note [Which GPU an engine is for]
    ``tensorrt`` builds on the GPU that will run the engine, and for it alone. ``tensorrt_rtx`` also builds without a
    GPU, for one compute capability or, left alone, for all of 8.0, 8.6, 8.9, 12.0 and later (its documentation,
    "CPU-Only AOT and TensorRT-RTX Engines"), which is called "8.0+" here. It has none for Hopper (9.0).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i3d_deploy import files
from i3d_deploy.artifact import EngineNote, engine_note_path
from i3d_deploy.card import Card
from i3d_deploy.errors import DeviceError, ExportError, InputError
from i3d_deploy.runners.device_memory import Gpu, find_gpu
from i3d_deploy.tensorrt_flavor import PORTABLE, Flavor, FlavorName, Messages, is_installed, load_flavor

Profile = tuple[int, int, int]
"""Smallest, best and largest number of views per call."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How TensorRT builds.

    Attributes:
        flavor: Package to build with; None takes ``tensorrt`` where it is installed and there is a GPU, else
            ``tensorrt_rtx``.
        compute_capability: GPU to build for: "8.9", "current", or "8.0+"; None takes this machine's GPU or, where
            ``tensorrt_rtx`` finds none, "8.0+". See Note [Which GPU an engine is for].
        timing_cache: File of kernel timings, read if it exists and written after the build; ``tensorrt`` only.
        workspace_bytes: Most device memory that a layer may use for itself; None leaves it the whole device.
        optimization_level: 0 (fast build) to 5 (fast engine); None is TensorRT's own default.
    """

    flavor: FlavorName | None = None
    compute_capability: str | None = None
    timing_cache: Path | None = None
    workspace_bytes: int | None = None
    optimization_level: int | None = None

    def __post_init__(self) -> None:
        wanted = self.compute_capability
        if wanted not in (None, "current", PORTABLE) and not re.fullmatch(r"\d+\.\d", str(wanted)):
            raise InputError(f"compute_capability {wanted!r} must look like 8.9, or be current or {PORTABLE}")
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise InputError(f"workspace_bytes ({self.workspace_bytes}) must be > 0")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise InputError(f"optimization_level ({self.optimization_level}) must be 0 to 5")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A built engine.

    Attributes:
        content: The serialized engine.
        flavor: Package that built it.
        version: Of that package.
        compute_capability: GPU it is for: "8.9", or "8.0+".
        warnings: What TensorRT warned of while it built.
    """

    content: bytes
    flavor: FlavorName
    version: str
    compute_capability: str
    warnings: tuple[str, ...] = ()


def build(
    onnx: bytes | Path,
    *,
    profile: Profile,
    options: EngineOptions | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Plan:
    """Build an engine.

    Args:
        onnx: A model, serialized or in a file, with one input of shape (N, ...) where only N is dynamic.
        profile: N the engine accepts and is tuned for.
        options: How to build.
        on_progress: Called with what TensorRT is doing, a few words, from any thread; what it raises ends the build.

    Raises:
        InputError: An option is out of range, or the flavour has it not.
        DeviceError: The flavour or the compute capability asked for needs a GPU.
        ExportError: TensorRT cannot read the model or build it; with its reasons.
        MissingExtraError: TensorRT is not installed.
    """
    options = options or EngineOptions()
    if not 1 <= profile[0] <= profile[1] <= profile[2]:
        raise InputError(f"profile {profile} must ascend from 1: smallest, best, largest number of views")
    flavor = load_flavor(options.flavor or _suitable_flavor())
    if options.timing_cache is not None and flavor.name == "tensorrt_rtx":
        raise InputError("timing_cache is for the tensorrt package: TensorRT-RTX times kernels where the engine runs")
    target = _choose_target(flavor, options.compute_capability)
    with flavor.listening() as messages:
        content = _Build(flavor, messages, target).run(onnx, profile, options, on_progress)
    return Plan(
        content=content,
        flavor=flavor.name,
        version=flavor.version,
        compute_capability=target.compute_capability,
        warnings=tuple(messages.warnings),
    )


def write(plan: Plan, card: Card, path: Path) -> None:
    """Write the plan, then the note that describes it; a crash leaves no plan with a note of another.

    Args:
        plan: From :func:`build`.
        card: With engine and, once measured, parity.
        path: The ``.engine`` file; the note is ``.engine.json`` beside it.
    """
    note = EngineNote(
        card=card,
        sha256=hashlib.sha256(plan.content).hexdigest(),
        flavor=plan.flavor,
        version=plan.version,
        compute_capability=plan.compute_capability,
    )
    with files.replacing(path, engine_note_path(path)) as (plan_path, note_path):
        plan_path.write_bytes(plan.content)
        note_path.write_text(note.to_text(), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class _Target:
    """GPU to build for: its compute capability, and the member of ``ComputeCapability``, None for the default."""

    compute_capability: str
    member: str | None = None


def _choose_target(flavor: Flavor, wanted: str | None) -> _Target:
    if flavor.name == "tensorrt":
        return _target_of_tensorrt(flavor, wanted)
    if wanted is None:
        wanted = PORTABLE if _gpu_or_none() is None else "current"
    if wanted == PORTABLE:
        return _Target(compute_capability=PORTABLE)
    if wanted == "current":
        return _Target(compute_capability=find_gpu().compute_capability, member="CURRENT")
    members = _members(flavor)
    if wanted not in members:
        hopper = "; for Hopper GPUs there is the tensorrt package: pip install 'i3d-deploy[tensorrt]'"
        raise InputError(
            f"{flavor} cannot build for compute_capability {wanted}, only for {', '.join(members)}, current and "
            f"{PORTABLE}{hopper if wanted == '9.0' else ''}"
        )
    return _Target(compute_capability=wanted, member=members[wanted])


def _suitable_flavor() -> FlavorName | None:
    """Without a GPU only ``tensorrt_rtx`` builds; otherwise whatever is installed."""
    return "tensorrt_rtx" if _gpu_or_none() is None and is_installed("tensorrt_rtx") else None


def _target_of_tensorrt(flavor: Flavor, wanted: str | None) -> _Target:
    try:
        gpu = find_gpu()
    except DeviceError as error:
        raise DeviceError(f"{flavor} builds on a GPU, tensorrt_rtx without one: {error}") from error
    if wanted not in (None, "current", gpu.compute_capability):
        raise InputError(
            f"{flavor} builds for the GPU of this machine (compute capability {gpu.compute_capability}), not for "
            f"compute_capability {wanted}: build there, or use tensorrt_rtx"
        )
    return _Target(compute_capability=gpu.compute_capability)


def _gpu_or_none() -> Gpu | None:
    try:
        return find_gpu()
    except DeviceError:
        return None


def _members(flavor: Flavor) -> dict[str, str]:
    """The flavour's compute capabilities in ascending order, and their names in ``ComputeCapability``: SM89 is 8.9."""
    numbers = sorted(int(name[2:]) for name in flavor.module.ComputeCapability.__members__ if name.startswith("SM"))
    return {f"{number // 10}.{number % 10}": f"SM{number}" for number in numbers}


class _Build:
    """One build: each step asks TensorRT for an object and turns None into the reason why."""

    def __init__(self, flavor: Flavor, messages: Messages, target: _Target) -> None:
        self._flavor = flavor
        self._trt = flavor.module
        self._messages = messages
        self._target = target

    def run(
        self, onnx: bytes | Path, profile: Profile, options: EngineOptions, on_progress: Callable[[str], None] | None
    ) -> bytes:
        builder = self._create_builder()
        network = self._present(builder.create_network(self._network_flags()), "make a network")
        # The parser owns the weights and the monitor is called: both must live until the engine is built.
        parser = self._trt.OnnxParser(network, self._flavor.logger)
        self._parse(parser, network, onnx)
        config = self._present(builder.create_builder_config(), "make a configuration")
        self._configure(config, options)
        self._add_profile(builder, network, config, profile)
        monitor = _make_monitor(self._trt, on_progress) if on_progress else None
        if monitor is not None:
            config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if monitor is not None and monitor.failure is not None:
            raise monitor.failure
        content = bytes(self._present(plan, "build the engine"))
        if options.timing_cache is not None:
            self._write_timing_cache(config, options.timing_cache)
        return content

    def _create_builder(self) -> Any:
        try:
            return self._trt.Builder(self._flavor.logger)
        except TypeError as error:  # how pybind11 reports a null pointer in a constructor
            raise self._failure("start a builder") from error

    def _network_flags(self) -> int:
        # TensorRT 10 has weakly typed networks unless told; later ones ignore the flag and may drop it.
        flag = getattr(self._trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return 0 if flag is None else 1 << int(flag)

    def _parse(self, parser: Any, network: Any, onnx: bytes | Path) -> None:
        # The path is where external weights are.
        parsed = parser.parse(onnx.read_bytes(), str(onnx)) if isinstance(onnx, Path) else parser.parse(onnx)
        if not parsed:
            errors = [_describe_parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
            reason = "; ".join(errors) or self._messages.reason()
            raise ExportError(f"{self._flavor} cannot read the ONNX model: {reason}")
        # The parser takes bytes that are no model for an empty one.
        if (network.num_inputs, network.num_outputs) != (1, 1):
            raise ExportError(
                f"{self._flavor} found {network.num_inputs} inputs and {network.num_outputs} outputs in the ONNX "
                "model, there must be one of each"
            )

    def _configure(self, config: Any, options: EngineOptions) -> None:
        # TF32, on by default, would round the inputs of float32 convolutions to 10 bits of mantissa.
        config.clear_flag(self._trt.BuilderFlag.TF32)
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(self._trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if self._target.member is not None:
            config.num_compute_capabilities = 1
            member = getattr(self._trt.ComputeCapability, self._target.member)
            if not config.set_compute_capability(member, 0):
                raise self._failure(f"build for compute capability {self._target.compute_capability}")
        if options.timing_cache is not None:
            self._read_timing_cache(config, options.timing_cache)

    def _add_profile(self, builder: Any, network: Any, config: Any, profile: Profile) -> None:
        tensor = network.get_input(0)
        batch, *view = tuple(tensor.shape)
        if -1 in view:
            raise ExportError(f"input {tensor.name} has shape {(batch, *view)}: N alone must be dynamic")
        if batch != -1 and set(profile) != {batch}:
            raise ExportError(
                f"input {tensor.name} has {batch} views in every call, not {profile[0]} to {profile[2]}: "
                "make N dynamic in the ONNX model"
            )
        shapes = [(num_views, *view) for num_views in profile]
        optimization = self._present(builder.create_optimization_profile(), "make a profile")
        optimization.set_shape(tensor.name, *shapes)
        if config.add_optimization_profile(optimization) < 0:
            raise self._failure(f"use the profile {profile}")

    def _read_timing_cache(self, config: Any, path: Path) -> None:
        content = path.read_bytes() if path.exists() else b""
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, False):
            raise self._failure(f"use the timing cache {path}, which is of another version or GPU: delete it")

    def _write_timing_cache(self, config: Any, path: Path) -> None:
        cache = self._present(config.get_timing_cache(), "return the timing cache")
        content = bytes(self._present(cache.serialize(), "serialize the timing cache"))
        with files.replacing(path) as (target,):
            target.write_bytes(content)

    def _present(self, thing: Any, action: str) -> Any:
        if thing is None:
            raise self._failure(action)
        return thing

    def _failure(self, action: str) -> ExportError:
        target = f" for compute capability {self._target.compute_capability}"
        return ExportError(f"{self._flavor} could not {action}{target}: {self._messages.reason()}")


def _describe_parser_error(error: Any) -> str:
    node = f"node {error.node_name()} ({error.node_operator()}): " if error.node_operator() else ""
    return f"{node}{error.desc()}"


def _make_monitor(trt: Any, on_progress: Callable[[str], None]) -> Any:
    """An ``IProgressMonitor`` that hands each phase, and its steps, to ``on_progress``.

    An exception must not pass through the C++ of the builder: it is kept in ``failure`` and the build is told to stop.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc] # the package has no type hints
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # super() would leave the C++ half unmade
            self.failure: BaseException | None = None
            self._num_steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._num_steps[phase_name] = num_steps
            self._report(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            pass

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._report(f"{phase_name} {step + 1}/{self._num_steps.get(phase_name, step + 1)}")
            return self.failure is None

        def _report(self, text: str) -> None:
            if self.failure is not None:
                return
            try:
                on_progress(text)
            except BaseException as error:  # KeyboardInterrupt too
                self.failure = error

    return Monitor()
