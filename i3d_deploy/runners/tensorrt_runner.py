"""TensorRT engines, of either flavour, on one GPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i3d_deploy.artifact import EngineNote, identify, read_engine_note
from i3d_deploy.errors import ArtifactError, CardError, DeviceError, InputError
from i3d_deploy.frames import Resized
from i3d_deploy.runners.device_memory import Gpu, find_gpu, open_device_memory
from i3d_deploy.runners.runner import Runner, RunnerInfo, Tensor, check_fit
from i3d_deploy.tensorrt_flavor import FLAVORS, PORTABLE, Flavor, Messages, load_flavor


class TensorRTRunner(Runner):
    """An ``.engine`` and its note on one GPU, with buffers for the largest batch of its profile.

    The plan is native code: nothing of it is read before its SHA-256 and the version that built it are checked.

    Args:
        path: The ``.engine``, with its note beside it.
        device: Index of the GPU.

    Raises:
        ArtifactError: The plan was altered, is of another TensorRT version, or does not load here.
        CardError: There is no note, or it describes no engine.
        DeviceError: There is no such GPU, or it has too little memory.
        MissingExtraError: The TensorRT that built it is not installed, or neither pycuda nor cuda-python is.
    """

    def __init__(self, path: Path, *, device: int = 0) -> None:
        super().__init__()
        note = read_engine_note(identify(path).path)
        engine = note.card.engine
        if engine is None:
            raise CardError(f"{path}: the card beside it describes no engine; export it again")
        self._path = path
        self._flavor = load_flavor(note.flavor)
        _check_version(note, self._flavor)
        gpu = find_gpu(device)
        self.card = note.card
        self.info = RunnerInfo(
            backend=f"{note.flavor} {note.version}",
            device=f"cuda:{device}",
            provider=f"{gpu.name} (compute capability {gpu.compute_capability})",
            precision=engine.precision,
        )
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._memory = open_device_memory(device)
        try:
            with self._memory.current(), self._flavor.listening() as messages:
                self._load(path, note, gpu, messages)
                self._allocate(messages)
        except BaseException:
            self.close()
            raise

    def _load(self, path: Path, note: EngineNote, gpu: Gpu, messages: Messages) -> None:
        trt = self._flavor.module
        try:
            self._runtime = trt.Runtime(self._flavor.logger)
        except TypeError as error:  # how pybind11 reports a null pointer in a constructor
            raise DeviceError(f"{self._flavor} does not start: {messages.reason()}") from error
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            # For another GPU the file is fine and the machine is not.
            is_for_this_gpu = note.compute_capability in (gpu.compute_capability, PORTABLE)
            failure = ArtifactError if is_for_this_gpu else DeviceError
            raise failure(
                f"{path}: {self._flavor} cannot load this engine, built for compute capability "
                f"{note.compute_capability}, on {gpu.name} with {gpu.compute_capability}: {messages.reason()}"
            )
        self._input_name, self._output_name = _find_names(path, self._flavor, self._engine)
        self._input = _describe(path, self._flavor, self._engine, self._input_name)
        self._output = _describe(path, self._flavor, self._engine, self._output_name)
        check_fit(path, note.card, source=self._input, result=self._output)
        self._context = self._make_context(messages)

    def _allocate(self, messages: Messages) -> None:
        """Give the engine its buffers, once: their addresses never change."""
        shapes = self._engine.get_tensor_profile_shape(self._input_name, 0)
        self._smallest, self.preferred_batch, largest = (shape[0] for shape in shapes)
        self._largest = largest
        self._host_input = self._memory.allocate_pinned((largest, *self._input.shape), np.dtype(self._input.dtype))
        self._host_output = self._memory.allocate_pinned((largest, *self._output.shape), np.dtype(self._output.dtype))
        self._input_address = self._memory.allocate(self._host_input.nbytes)
        self._output_address = self._memory.allocate(self._host_output.nbytes)
        self._attach_buffers(self._context, messages)

    def _make_context(self, messages: Messages) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise DeviceError(f"{self._path}: {self._flavor} cannot prepare this engine: {messages.reason()}")
        return context

    def _attach_buffers(self, context: Any, messages: Messages) -> None:
        addresses = {self._input_name: self._input_address, self._output_name: self._output_address}
        for name, address in addresses.items():
            self._require(context.set_tensor_address(name, address), f"the address of {name}", messages)

    def _run(self, inputs: Resized) -> NDArray[np.float32]:
        source, result = self._fill(inputs), self._host_output[: len(inputs)]
        with self._memory.current(), self._flavor.listening() as messages:
            self._memory.copy_to_device(self._input_address, source)
            self._execute(self._context, len(inputs), messages)
            self._memory.copy_to_host(result, self._output_address)
            self._memory.synchronize()
        return result.copy()

    def _profile(self, inputs: Resized, runs: int) -> Mapping[tuple[str, str], float]:
        profiler = make_profiler(self._flavor.module)
        self._transfer(inputs)
        with self._memory.current(), self._flavor.listening() as messages:
            context = self._make_context(messages)
            self._attach_buffers(context, messages)
            context.profiler = profiler
            for run in range(1 + runs):
                self._execute(context, len(inputs), messages)
                self._memory.synchronize()
                if run == 0:
                    profiler.seconds.clear()
            del context  # while the device is current, and before the profiler, which it does not own
        return {(name, "layer"): seconds for name, seconds in profiler.seconds.items()}

    def _transfer(self, inputs: Resized) -> None:
        source = self._fill(inputs)
        with self._memory.current():
            self._memory.copy_to_device(self._input_address, source)
            self._memory.synchronize()

    def _fill(self, inputs: Resized) -> NDArray[Any]:
        """Put the views where copies to the device start."""
        num_views = len(inputs)
        if not self._smallest <= num_views <= self._largest:
            raise InputError(
                f"{num_views} views in one call, the profile of this engine takes {self._smallest} to {self._largest}: "
                "give fewer at a time, or export it with another profile"
            )
        source = self._host_input[:num_views]
        source[...] = inputs
        return source

    def _execute(self, context: Any, num_views: int, messages: Messages) -> None:
        """Put a run on the stream."""
        shape = (num_views, *self._input.shape)
        self._require(context.set_input_shape(self._input_name, shape), f"the shape {shape}", messages)
        self._require(context.execute_async_v3(self._memory.stream), "to run", messages)

    def _require(self, accepted: bool, what: str, messages: Messages) -> None:
        if not accepted:
            raise DeviceError(f"{self._flavor} refused {what}: {messages.reason()}")

    def _free(self) -> None:
        if self._runtime is not None:
            with self._memory.current():
                # Each of them uses the one before it.
                self._context = None
                self._engine = None
                self._runtime = None
        self._memory.close()


def make_profiler(module: Any) -> Any:
    """A collector of layer times for ``IExecutionContext.profiler``.

    TensorRT names the layers, by the nodes it fused, and tells no kind of them.

    Args:
        module: TensorRT's package.

    Returns:
        An ``IProfiler`` with ``seconds``, the sum of all runs by name of the layer.
    """

    class Profiler(module.IProfiler):  # type: ignore[misc] # the package has no type hints
        def __init__(self) -> None:
            module.IProfiler.__init__(self)  # super() would leave the C++ half unmade
            self.seconds: dict[str, float] = defaultdict(float)

        def report_layer_time(self, name: str, milliseconds: float) -> None:
            self.seconds[name] += milliseconds * 1e-3

    return Profiler()


def _check_version(note: EngineNote, flavor: Flavor) -> None:
    if note.version != flavor.version:
        raise ArtifactError(
            f"Engine built for {FLAVORS[note.flavor]} {note.version}, running {flavor.version}: "
            "rebuild with i3d-export --to tensorrt"
        )


def _find_names(path: Path, flavor: Flavor, engine: Any) -> tuple[str, str]:
    """The one input and the one output of an engine."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    is_input = [engine.get_tensor_mode(name) == flavor.module.TensorIOMode.INPUT for name in names]
    if sorted(is_input) != [False, True]:
        raise ArtifactError(f"{path}: the engine must have one input and one output, not {', '.join(names)}")
    return names[is_input.index(True)], names[is_input.index(False)]


def _describe(path: Path, flavor: Flavor, engine: Any, name: str) -> Tensor:
    types = flavor.module.DataType
    dtypes = {types.UINT8: "uint8", types.FLOAT: "float32"}
    found = engine.get_tensor_dtype(name)
    if found not in dtypes:
        raise ArtifactError(f"{path}: {name} of the engine is {found}, it must be uint8 or float32")
    return Tensor(dtype=dtypes[found], shape=tuple(engine.get_tensor_shape(name))[1:])
