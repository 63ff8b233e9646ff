"""OpenVINO, on the CPU (or another of its devices by name).

Note [Two forms]
    The views of a video that overlap are run with their stem shared (:mod:`i3d_deploy.runners.shared_stem`), which is
    decided for each video by its frames alone, so that a clip always gives the same answer. That form is compiled when
    the first such video comes, in 0.5 s, and the one for views by themselves is let go for it, since both have all
    weights: 570 MiB at the peak in fp32, not 795. Where both kinds of videos come, both are kept.

Note [Some of the cores]
    OpenVINO holds its threads to cores, from the first one on, in every process that uses it. Two processes of one
    thread each were on the same core: a view took 1.84 s where it took 0.91 s alone, and 1.2 s in threads that are free
    (I3D R50, fp32, two cores). So threads are held to cores only where they are as many as there are cores; there, that
    was 1.0 to 1.1 times as fast in six rounds.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i3d_deploy.artifact import read_engine_card
from i3d_deploy.card import Precision
from i3d_deploy.errors import ArtifactError, DeviceError
from i3d_deploy.frames import Resized
from i3d_deploy.openvino_core import CORE, openvino
from i3d_deploy.runners import stem_windows
from i3d_deploy.runners.runner import Runner, RunnerInfo, Tensor, check_fit
from i3d_deploy.runners.shared_stem import LEAST_SAVED, SharedStem
from i3d_deploy.runners.stem_graphs import Stem, find_stem
from i3d_deploy.views import Part, Views

_HINTS: dict[Precision, str] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", "int8": "bf16"}
"""What a precision asks of the device; of int8, what is computed between the convolutions."""
_DTYPES = {"uint8_t": "uint8", "u8": "uint8", "float": "float32", "f32": "float32"}
_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}


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
        least_saved: Share of the stem's work from which on it is shared between the views of a video; above 1: never.
    """

    least_saved: float = LEAST_SAVED

    def __init__(self, path: Path, *, device: str = "auto", threads: int | None = None) -> None:
        super().__init__()
        self.card, engine = read_engine_card(path)
        self._device = "CPU" if device == "auto" else device.upper()
        if self._device not in CORE.available_devices:
            available = ", ".join(name.lower() for name in CORE.available_devices)
            raise DeviceError(f"OpenVINO has no device {device!r} here, only {available}")
        self._options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": self._precision_hint(engine.precision),
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads
            if self._device == "CPU" and threads < (os.cpu_count() or 1):
                self._options["ENABLE_CPU_PINNING"] = False  # Note [Some of the cores]
        self.preferred_batch = engine.profile[0]
        self._path = path
        self._requests: dict[int, Any] = {}
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

    def shares(self, views: Views, *, size: int) -> bool:
        """As in any runner: the stem, where that saves enough of it and views are wanted one by one."""
        saved = self.saved_share(views) if size == 1 and self.least_saved <= 1 else None
        return saved is not None and saved >= self.least_saved

    def saved_share(self, views: Views) -> float | None:
        """Share of the stem's work that the views of a video have in common.

        Args:
            views: As for :meth:`shares`.

        Returns:
            Below 0 where sharing would be more work; None where the stem cannot be shared, or in a forked process.
        """
        if self._process != os.getpid() or not self._is_usual(views):
            return None
        with self._lock:
            stem, shape = None if self._is_closed else self._stem, stem_windows.shape_of(views.boxes)
        if stem is None or shape is None:
            return None
        windows = [stem.temporal.windows(clip) for clip in views.indices.tolist()]
        return stem_windows.saved_share(windows, shape)

    def _is_usual(self, views: Views) -> bool:
        return self._device == "CPU" and self.preferred_batch == 1 and views.view_shape == self.card.view_shape

    def infer_parts(self, parts: Iterable[Part]) -> Iterator[tuple[Part, NDArray[np.float32]]]:
        """As in any runner: Note [Two forms]."""
        self.check_usable()
        for _, attempt in itertools.groupby(parts, key=lambda part: part.attempt):
            yield from self._infer_attempt(attempt)

    def _infer_attempt(self, parts: Iterator[Part]) -> Iterator[tuple[Part, NDArray[np.float32]]]:
        first = next(parts)
        is_shared = self.shares(first.views, size=len(first.numbers))
        rest = itertools.chain([first], parts)
        if not is_shared:
            yield from super().infer_parts(rest)
            return
        with self.turn():
            shared = self._shared_stem
        yield from shared.infer(rest, turn=self.turn)

    @functools.cached_property
    def _stem(self) -> Stem | None:
        """What views share, if this network has it."""
        return find_stem(self._static_model(1))

    @functools.cached_property
    def _shared_stem(self) -> SharedStem:
        assert self._stem is not None, "only videos that can be shared come here"
        self._requests.clear()
        return SharedStem(
            self._static_model(1),
            self._stem,
            # Not a method of this runner: the two would keep each other, and all weights, until they are collected.
            compile_model=functools.partial(_compiled, self._device, self._options, self._path),
            is_bf16=self._options["INFERENCE_PRECISION_HINT"] == "bf16",
        )

    def _precision_hint(self, precision: Precision) -> str:
        """What to compute in, apart from int8: the card's precision, or f32 where the device lacks it.

        Left alone, OpenVINO computes in bf16 wherever the CPU can, also where fp16 was asked for.
        """
        hint = _HINTS.get(precision, "f32")
        is_able = _NAMES[hint].upper() in CORE.get_property(self._device, "OPTIMIZATION_CAPABILITIES")
        return hint if is_able else "f32"

    def _request(self, num_views: int) -> Any:
        """Compile for a number of views on first use."""
        if num_views not in self._requests:
            self._requests[num_views] = self._compiled(num_views).create_infer_request()
        return self._requests[num_views]

    def _static_model(self, num_views: int) -> Any:
        """The network with static shapes, which are faster than dynamic ones; the length of whole videos is open."""
        try:
            model = CORE.read_model(self._path)
            model.reshape([num_views, *_shape(model.input(0))])
        except RuntimeError as error:
            raise _cannot_load(self._path, error) from error
        return model

    def _compiled(self, num_views: int, **options: Any) -> Any:
        model = self._static_model(num_views)
        return _compiled(self._device, {**self._options, **options}, self._path, model)

    def _run(self, inputs: Resized) -> NDArray[np.float32]:
        request = self._request(len(inputs))
        request.infer([inputs], share_inputs=True)
        return np.array(request.get_output_tensor(0).data, np.float32)

    def _profile(self, inputs: Resized, runs: int) -> Mapping[tuple[str, str], float]:
        request = self._compiled(len(inputs), PERF_COUNT=True).create_infer_request()
        request.infer([inputs], share_inputs=True)
        seconds: dict[tuple[str, str], float] = defaultdict(float)
        for _ in range(runs):
            request.infer([inputs], share_inputs=True)
            for node in request.profiling_info:
                # The others were fused into one that was, or found out when the model was compiled.
                if node.status == openvino.ProfilingInfo.Status.EXECUTED:
                    seconds[node.node_name, node.node_type] += node.real_time.total_seconds()
        return seconds

    def _free(self) -> None:
        self._requests.clear()
        for name in ("_shared_stem", "_stem"):
            self.__dict__.pop(name, None)


def _compiled(device: str, options: dict[str, Any], path: Path, model: Any) -> Any:
    try:
        return CORE.compile_model(model, device, options)
    except RuntimeError as error:
        raise _cannot_load(path, error) from error


def _cannot_load(path: Path, error: RuntimeError) -> ArtifactError:
    reason = str(error).strip().rpartition("\n")[2]
    return ArtifactError(f"{path}: OpenVINO cannot load it: {reason}")


def _shape(port: Any) -> tuple[int, ...]:
    """Shape of an input or output without N; -1 where a size is open."""
    return tuple(dimension.get_length() if dimension.is_static else -1 for dimension in list(port.partial_shape)[1:])
