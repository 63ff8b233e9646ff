"""OpenVINO, on the CPU (or another of its devices by name).

Note [Two views at a time]
    One view is fastest with all cores on it. Of many views, two at a time, each on half of the cores, take less in
    int8: 1.03 times as fast on two cores, and no faster in fp32 and bf16 (``i3d_r50``, median of 9 rounds in turns,
    OpenVINO 2026.4.1). The logits are the same. For that the network is compiled a second time, which takes 0.3 to
    0.5 s: done when a second video comes, since one alone would be slower for it.

Note [The second video]
    Sharing the stem between the views of a video (:mod:`i3d_deploy.runners.shared_stem`) takes other compiled models,
    which take 0.5 s to make and win 0.1 to 0.7 s a video: they too are made when a second such video comes. They
    replace what was compiled before, since both have all weights: 570 MiB at the peak in fp32, not 795.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import untracked
from i3d_deploy.artifact import read_engine_card
from i3d_deploy.card import Precision
from i3d_deploy.errors import ArtifactError, DeviceError, MissingExtraError
from i3d_deploy.runners import stem_windows
from i3d_deploy.runners.runner import Runner, RunnerInfo, Tensor, check_fit
from i3d_deploy.runners.shared_stem import LEAST_SAVED, SharedStem
from i3d_deploy.runners.stem_graphs import Stem, find_stem
from i3d_deploy.views import Part, Views

try:
    with untracked.imports():
        import openvino
except ImportError as error:
    raise MissingExtraError("openvino", extra="openvino", cause=error) from error

_HINTS: dict[Precision, str] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "bf16"}
"""What a precision asks of the device; of int8, what is computed between the convolutions."""
_NUM_STREAMS = 2
_DTYPES = {"uint8_t": "uint8", "u8": "uint8", "float": "float32", "f32": "float32"}
_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}


class _Run:
    """A request that has been started, and what it reads.

    Args:
        request: An idle one.
        inputs: As the network takes them, left alone until it has finished.
        num_views: Views among them; the rest fills up.
    """

    def __init__(self, request: Any, inputs: NDArray[np.uint8] | NDArray[np.float32], *, num_views: int) -> None:
        self.request, self._inputs, self._num_views = request, inputs, num_views
        request.start_async([inputs], share_inputs=True)

    def finish(self) -> NDArray[np.float32]:
        """Wait for its logits."""
        self.request.wait()
        return np.array(self.request.get_output_tensor(0).data[: self._num_views], np.float32)


class OpenVINORunner(Runner):
    """An ``.xml`` and ``.bin`` pair in OpenVINO.

    Args:
        path: The ``.xml``, with its card.
        device: "auto" or "cpu"; other words are passed on in capitals ("gpu", "npu").
        threads: CPU threads; default: OpenVINO's choice.

    Raises:
        ArtifactError: The files are damaged.
        CardError: There is no card.
        DeviceError: OpenVINO has not that device.

    Attributes:
        least_saved: Share of the stem's work to be saved by sharing it, for sharing to be tried; above 1: never.
    """

    least_saved: float = LEAST_SAVED

    def __init__(self, path: Path, *, device: str = "auto", threads: int | None = None) -> None:
        self.card, engine = read_engine_card(path)
        self._core = openvino.Core()
        self._device = "CPU" if device == "auto" else device.upper()
        if self._device not in self._core.available_devices:
            available = ", ".join(name.lower() for name in self._core.available_devices)
            raise DeviceError(f"OpenVINO has no device {device!r} here, only {available}")
        self._options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": self._precision_hint(engine.precision),
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads
        self.preferred_batch = engine.profile[0]
        self._path = path
        self._requests: dict[int, Any] = {}
        self._streams: list[Any] = []
        self._has_run_many = self._has_met_overlap = False
        compiled = self._request(1).get_compiled_model()
        source, result = (
            Tensor(dtype=_DTYPES.get(port.element_type.to_string(), port.element_type.to_string()), shape=_shape(port))
            for port in (compiled.input(0), compiled.output(0))
        )
        check_fit(path, self.card, source=source, result=result)
        used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.info = RunnerInfo(
            backend=f"openvino {openvino.__version__.partition('-')[0]}",
            device=self._device.lower(),
            provider=", ".join(compiled.get_property("EXECUTION_DEVICES")),
            precision=f"int8 with {_NAMES.get(used, used)}" if engine.precision == "int8" else _NAMES.get(used, used),
            threads=compiled.get_property("INFERENCE_NUM_THREADS") if self._device == "CPU" else 0,
        )
        if engine.precision == "int8" and self.info.threads >= _NUM_STREAMS:
            self.batches_held = _NUM_STREAMS + 1  # one is cut while the others are computed

    def shares(self, views: Views) -> bool:
        """As in any runner; not the first video that is worth it: Note [The second video]."""
        is_worth = self._is_worth_sharing(views)
        is_first = is_worth and not self._has_met_overlap
        self._has_met_overlap = self._has_met_overlap or is_worth
        return is_worth and not is_first

    def _is_worth_sharing(self, views: Views) -> bool:
        is_usual = self._device == "CPU" and self.preferred_batch == 1 and views.view_shape == self.card.view_shape
        shape = stem_windows.shape_of(views.boxes)
        if self._is_closed or not is_usual or shape is None or self.least_saved > 1 or self._stem is None:
            return False
        windows = [self._stem.temporal.windows(clip) for clip in views.indices.tolist()]
        return stem_windows.saved_share(windows, shape) >= self.least_saved

    def infer_parts(self, parts: Iterable[Part]) -> Iterator[NDArray[np.float32]]:
        """As in any runner, in the form of :mod:`i3d_deploy.runners.shared_stem` where the network has one."""
        if self._is_closed or self._stem is None:
            return super().infer_parts(parts)
        return self._shared_stem.infer(parts)

    @functools.cached_property
    def _stem(self) -> Stem | None:
        """What views share, if this network has it."""
        return find_stem(self._static_model(1))

    @functools.cached_property
    def _shared_stem(self) -> SharedStem:
        assert self._stem is not None, "only videos that can be shared come here"
        # Both forms have all weights: the plain one is compiled again should a video need it.
        self._requests.clear()
        self._streams.clear()
        return SharedStem(
            self._static_model(1),
            self._stem,
            compile_model=lambda model: self._compile_model(model, self._options),
            is_bf16=self._options["INFERENCE_PRECISION_HINT"] == "bf16",
        )

    def infer_each(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        """As in any runner; several at a time in int8: Note [Two views at a time]."""
        if self.batches_held == 1:
            yield from super().infer_each(batches)
            return
        waiting = iter(batches)
        first = list(itertools.islice(waiting, 2))
        is_in_streams = self._has_run_many and len(first) > 1
        self._has_run_many = len(first) > 1
        run = self._run_in_streams if is_in_streams else super().infer_each
        yield from run(itertools.chain(first, waiting))

    def _run_in_streams(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[np.float32]]:
        running: deque[_Run] = deque()
        try:
            for views in batches:
                inputs = self._prepare(views)
                is_odd = len(inputs) != self.preferred_batch  # the streams are compiled for that number alone
                while running and (is_odd or len(running) == _NUM_STREAMS):
                    yield running.popleft().finish()
                if is_odd:
                    yield self._run(inputs)[: len(views)]
                else:
                    running.append(_Run(self._idle_stream(running), inputs, num_views=len(views)))
            while running:
                yield running.popleft().finish()
        finally:
            for run in running:
                run.request.wait()  # it still reads its views

    def _idle_stream(self, running: Iterable[_Run]) -> Any:
        """A request that does not run, each on its share of the cores."""
        if not self._streams:
            options = {**self._options, "NUM_STREAMS": _NUM_STREAMS}
            del options["PERFORMANCE_HINT"]
            compiled = self._compiled(self.preferred_batch, options)
            self._streams = [compiled.create_infer_request() for _ in range(_NUM_STREAMS)]
        busy = [run.request for run in running]
        return next(request for request in self._streams if all(request is not other for other in busy))

    def _precision_hint(self, precision: Precision) -> str:
        """What to compute in, apart from int8: the card's precision, or f32 where the device lacks it.

        Left alone, OpenVINO computes in bf16 wherever the CPU can, also where fp16 was asked for.
        """
        hint = _HINTS.get(precision, "f32")
        is_able = _NAMES[hint].upper() in self._core.get_property(self._device, "OPTIMIZATION_CAPABILITIES")
        return hint if is_able else "f32"

    def _request(self, num_views: int) -> Any:
        """Compile for a number of views on first use."""
        if num_views not in self._requests:
            self._requests[num_views] = self._compile(num_views, self._options)
        return self._requests[num_views]

    def _compile(self, num_views: int, options: dict[str, Any]) -> Any:
        """One request of the network compiled for a number of views."""
        return self._compiled(num_views, options).create_infer_request()

    def _static_model(self, num_views: int) -> Any:
        """Static shapes are faster than dynamic ones."""
        try:
            model = self._core.read_model(self._path)
            model.reshape([num_views, *_shape(model.input(0))])
        except RuntimeError as error:
            raise self._cannot_load(error) from error
        return model

    def _compiled(self, num_views: int, options: dict[str, Any]) -> Any:
        return self._compile_model(self._static_model(num_views), options)

    def _compile_model(self, model: Any, options: dict[str, Any]) -> Any:
        try:
            return self._core.compile_model(model, self._device, options)
        except RuntimeError as error:
            raise self._cannot_load(error) from error

    def _cannot_load(self, error: RuntimeError) -> ArtifactError:
        reason = str(error).strip().rpartition("\n")[2]
        return ArtifactError(f"{self._path}: OpenVINO cannot load it: {reason}")

    def _run(self, inputs: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        request = self._request(len(inputs))
        request.infer([inputs], share_inputs=True)
        return np.array(request.get_output_tensor(0).data, np.float32)

    def _profile(self, inputs: NDArray[np.uint8] | NDArray[np.float32], runs: int) -> Mapping[tuple[str, str], float]:
        request = self._compile(len(inputs), {**self._options, "PERF_COUNT": True})
        request.infer([inputs], share_inputs=True)
        seconds: dict[tuple[str, str], float] = defaultdict(float)
        for _ in range(runs):
            request.infer([inputs], share_inputs=True)
            for node in request.profiling_info:
                # The others were fused into one that was, or found out when the model was compiled.
                if node.status == openvino.ProfilingInfo.Status.EXECUTED:
                    seconds[node.node_name, node.node_type] += node.real_time.total_seconds()
        return seconds

    def close(self) -> None:
        """Free the compiled models; a second call does nothing."""
        super().close()
        self._requests.clear()
        self._streams.clear()
        self.__dict__.pop("_shared_stem", None)


def _shape(port: Any) -> tuple[int, ...]:
    """Shape of an input or output without N."""
    return tuple(dimension.get_length() for dimension in list(port.partial_shape)[1:])
