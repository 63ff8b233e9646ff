"""From a checkpoint to each target, before anything is proven.

Every engine starts from the same ONNX graph, traced once per input and precision and then rewritten for its target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from i3d_deploy import checkpoint, layouts, to_tensorrt, triton_repository
from i3d_deploy.calibration import Clips
from i3d_deploy.card import Card, Engine, Layout, Precision, Rewrite
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import InputError
from i3d_deploy.frames import Resized
from i3d_deploy.measurements import Work
from i3d_deploy.preprocessing import normalize
from i3d_deploy.tensorrt_flavor import load_flavor
from i3d_deploy.to_tensorrt import EngineOptions
from i3d_deploy.triton_repository import Serving

if TYPE_CHECKING:
    import onnx

Target = Literal["safetensors", "onnx", "openvino", "tensorrt"]
TARGETS: tuple[Target, ...] = get_args(Target)
SUFFIXES: dict[Target, str] = {
    "safetensors": ".safetensors",
    "onnx": ".onnx",
    "openvino": ".xml",
    "tensorrt": ".engine",
}
"""File ending of each target."""

REWRITES: tuple[Rewrite, ...] = get_args(Rewrite)
"""What is done to graphs unless one asks for them as they are."""


def as_target(name: str) -> Target:
    """Check a target's name."""
    for target in TARGETS:
        if name == target:
            return target
    raise InputError(f"target {name!r} is not one of {', '.join(TARGETS)}")


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How graphs are made faster.

    Attributes:
        is_on: Whether the exact rewrites are done.
        layout: Of the convolutions; None: what suits the target, and 3D where the rewrites are off.
    """

    is_on: bool = True
    layout: Layout | None = None

    def choices(self, target: Target, engine: Engine) -> tuple[layouts.Choice, ...]:
        """The layouts to build for a target."""
        if self.layout is not None:
            return (layouts.Choice(layout=self.layout, reason="as asked for"),)
        if not self.is_on:
            return (layouts.Choice(layout="3d", reason="as the network was trained"),)
        return layouts.choose(target, engine.precision)


@dataclass(frozen=True, kw_only=True)
class Built:
    """One engine in memory.

    Attributes:
        target: What it is.
        ending: Of its file's name, the suffix included; of its folder's name where it is in a repository.
        write: Writes it with a card to a path.
        engine: What its card says of it; None of weights alone.
        serving: How a server runs it, where it is in a repository.
        notes: How its graph was made faster, one line each.
        warnings: What the engine builder warned of.
    """

    target: Target
    ending: str
    write: Callable[[Card, Path], None]
    engine: Engine | None = None
    serving: Serving | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def runs(self, path: Path) -> Path:
        """The file that is loaded to run it, where it was written to a path."""
        return path if self.serving is None else triton_repository.engine_path(path, self.serving)


@dataclass(frozen=True)
class _Graph:
    model: onnx.ModelProto
    engine: Engine
    notes: tuple[str, ...]


class Builders:
    """Builds each target, sharing the ONNX graphs between those that start from the same.

    Args:
        source: The checkpoint.
        engine: Input, precision and profile.
        calibrate: Clips that int8 and fp8 are calibrated on.
        optimization: How graphs are made faster.
        tensorrt: Options of the engine builder.
        on_step: Called with a line when a long step begins.

    Raises:
        InputError: Clips are missing, or there is no use for them.
    """

    def __init__(
        self,
        source: Checkpoint,
        *,
        engine: Engine,
        calibrate: Clips | None,
        optimization: Optimization,
        tensorrt: EngineOptions,
        on_step: Callable[[str], None],
    ) -> None:
        _check_clips(engine.precision, calibrate)
        if engine.input == "uint8_nthwc" and source.card.spatial.dtype == "float32":
            engine = engine.model_copy(update={"input": "float32_nthwc"})
        self._source = source
        if calibrate is not None:
            engine = engine.model_copy(update={"calibration": calibrate.described()})
        self._engine = engine
        self._clips = calibrate
        self._optimization = optimization
        self._tensorrt = tensorrt
        self._on_step = on_step
        self._traced: dict[Engine, onnx.ModelProto] = {}
        self._graphs: dict[Engine, _Graph] = {}
        self._quantized: dict[Engine, onnx.ModelProto] = {}

    def check(self, target: Target) -> None:
        """Refuse what cannot be built here, before the long steps.

        Raises:
            InputError: The target has not this precision, or not in this layout.
            MissingExtraError: What it takes is not installed.
        """
        precision = self._engine.precision
        if target == "openvino" and precision == "fp8":
            raise InputError("OpenVINO has no fp8 on CPUs: export it in int8, or fp8 to onnx and tensorrt")
        if target == "openvino" and precision == "int8" and self._optimization.layout == "2d":
            # OpenVINO 2026.4 ends the process with a segmentation fault when it compiles such a graph.
            raise InputError("OpenVINO cannot run int8 with 2D convolutions: leave out --layout 2d")
        if target == "tensorrt" and not self._source.card.has_fixed_length:
            raise InputError(
                "TensorRT engines are built for clips of one length, and this network takes whole videos: "
                "give --sampling uniform, with --clip-len 64 for example"
            )
        if target == "safetensors":
            return
        # Exporters are imported when used, so that one needs none of the others installed; here, because an interrupt
        # in the middle of onnx's import ends the process with a segmentation fault, and nothing is written yet.
        from i3d_deploy import to_onnx, work  # noqa: F401

        if target == "openvino":
            from i3d_deploy import to_openvino  # noqa: F401
        if target == "openvino" and precision == "int8":
            from i3d_deploy import quantize_openvino  # noqa: F401
        elif precision in ("int8", "fp8"):
            from i3d_deploy import quantize_onnx  # noqa: F401

    def check_repository(self, serving: Serving) -> None:
        """Refuse a repository whose engine cannot be built here, or not be served; raises as :meth:`check`."""
        self.check(serving.backend)
        if serving.backend == "tensorrt":
            if self._tensorrt.flavor == "tensorrt_rtx":
                raise InputError("Triton runs plans of tensorrt, not of tensorrt_rtx: leave out --tensorrt-flavor")
            load_flavor("tensorrt")
        if (serving.backend, serving.is_on_gpu, self._engine.precision) == ("onnx", False, "bf16"):
            raise InputError(
                "ONNX Runtime cannot run bf16 on a CPU: give --triton-device gpu, or --triton-backend openvino"
            )

    def repository_endings(self, serving: Serving) -> tuple[str, ...]:
        """Of the names of the repositories that :meth:`build_repository` builds."""
        return tuple(f"{layout}{triton_repository.ENDING}" for layout, _ in self._choices(serving.backend))

    def build_repository(self, serving: Serving, *, overwrite: bool = False) -> tuple[Built, ...]:
        """Build a Triton repository, or one for each layout; raises as :meth:`build`.

        Args:
            serving: How it is to be run.
            overwrite: Replace one of another checkpoint when it is written.
        """
        if serving.backend == "tensorrt":  # the engine of another flavour that was built before is no help
            self._tensorrt = replace(self._tensorrt, flavor="tensorrt")
        return tuple(
            replace(
                built,
                ending=f"{built.ending.removesuffix(SUFFIXES[built.target])}{triton_repository.ENDING}",
                write=partial(triton_repository.write, built.write, serving, overwrite=overwrite),
                serving=serving,
            )
            for built in self.build(serving.backend)
        )

    def build(self, target: Target) -> tuple[Built, ...]:
        """Build one target, in one layout or in both.

        Raises:
            ExportError: It could not be built.
        """
        if target == "safetensors":
            return (Built(target=target, ending=SUFFIXES[target], write=self._write_weights),)
        return tuple(
            self._build(target, choice, ending=f"{layout}{SUFFIXES[target]}")
            for layout, choice in self._choices(target)
        )

    def _choices(self, target: Target) -> list[tuple[str, layouts.Choice]]:
        """The layouts that a target is built in, each with what names say of it."""
        choices = self._optimization.choices(target, self._engine)
        return [(f"_{choice.layout}" if number else "", choice) for number, choice in enumerate(choices)]

    def _write_weights(self, card: Card, path: Path) -> None:
        checkpoint.save(Checkpoint(model=self._source.model, card=card), path)

    def _build(self, target: Target, choice: layouts.Choice, *, ending: str) -> Built:
        rewrites = REWRITES if self._optimization.is_on else ()
        engine = self._engine.model_copy(update={"layout": choice.layout, "rewrites": rewrites})
        # OpenVINO chooses its types when it compiles, and int8 is made of the float32 graph.
        is_float = target == "openvino" or engine.precision == "int8"
        graph = self._graph(engine.model_copy(update={"precision": "fp32"}) if is_float else engine)
        built = partial(
            Built,
            target=target,
            ending=ending,
            engine=graph.engine.model_copy(update={"precision": engine.precision}),
            notes=(*graph.notes, f"its convolutions are {choice.layout.upper()}: {choice.reason}"),
            warnings=self._warnings(),
        )
        if target == "openvino":
            from i3d_deploy import to_openvino

            self._on_step("converting to OpenVINO")
            model = to_openvino.convert(graph.model)
            return built(write=partial(to_openvino.write, self._in_int8(model)))
        if target == "onnx":
            from i3d_deploy import to_onnx

            return built(write=partial(to_onnx.write, self._in_eight_bits(graph.model, engine)))
        model = self._in_eight_bits(graph.model, engine)
        self._on_step("building the TensorRT engine")
        plan = to_tensorrt.build(
            model.SerializeToString(),
            profile=engine.profile,
            options=self._tensorrt,
            on_progress=lambda phase: self._on_step(f"building the TensorRT engine: {phase}"),
        )
        return built(write=partial(to_tensorrt.write, plan), warnings=(*self._warnings(), *plan.warnings))

    def _warnings(self) -> tuple[str, ...]:
        experimental = ("fp8 is experimental: its engines have not run on a GPU yet",)
        of_clips = () if self._clips is None else self._clips.warnings
        return (*(experimental if self._engine.precision == "fp8" else ()), *of_clips)

    def _in_int8(self, model: Any) -> Any:
        """An OpenVINO model quantised, where that is asked for."""
        if self._clips is None:
            return model
        from i3d_deploy import quantize_openvino

        return quantize_openvino.quantize(model, self._views, num_views=self._clips.num_views)

    def _in_eight_bits(self, graph: onnx.ModelProto, engine: Engine) -> onnx.ModelProto:
        """A graph quantised, where that is asked for; once for all targets that take it."""
        if engine.precision != "int8" and engine.precision != "fp8":
            return graph
        from i3d_deploy import quantize_onnx

        if engine not in self._quantized:
            self._quantized[engine] = quantize_onnx.quantize(graph, self._views(), engine.precision)
        return self._quantized[engine]

    def _views(self) -> Iterator[Resized]:
        """The calibration views as the engine takes them."""
        assert self._clips is not None
        card = self._source.card
        report = partial(self._report_view, self._engine.precision)
        for view in self._clips.views(card, on_views=report):
            yield normalize(view, card.pixels) if self._engine.input == "float32_ncthw" else view

    def _report_view(self, precision: Precision, done: int, total: int) -> None:
        self._on_step(f"calibrating {precision}: view {done} of {total}")

    def _graph(self, engine: Engine) -> _Graph:
        """The graph of an engine, rewritten and counted."""
        if engine not in self._graphs:
            from i3d_deploy import to_onnx, work

            traced = self._trace(engine.model_copy(update={"layout": "3d", "rewrites": ()}))
            model = to_onnx.optimize(traced, engine)
            # The length of whole videos is open: they are counted as one of the usual length.
            usual = traced if self._source.card.has_fixed_length else self._trace_usual(engine)
            plain, left = work.count(usual), work.count(to_onnx.optimize(usual, engine))
            notes = (_saving(plain, left),) if left.macs < plain.macs else ()
            changed = tuple(name for name in engine.rewrites if to_onnx.changes(traced, name))
            done = {"work": left, "rewrites": changed}
            self._graphs[engine] = _Graph(model, engine.model_copy(update=done), notes)
        return self._graphs[engine]

    def _trace_usual(self, engine: Engine) -> onnx.ModelProto:
        """The graph for a video of the usual length."""
        from i3d_deploy import to_onnx

        card = self._source.card
        fixed = card.replaced(sampling=card.sampling.replaced(scheme="uniform"))
        return to_onnx.convert(self._source.model, fixed, engine)

    def _trace(self, engine: Engine) -> onnx.ModelProto:
        from i3d_deploy import to_onnx

        if engine not in self._traced:
            self._on_step(f"tracing {self._source.card.network.name} in {engine.precision}")
            self._traced[engine] = to_onnx.convert(self._source.model, self._source.card, engine)
        return self._traced[engine]


def _check_clips(precision: Precision, clips: Clips | None) -> None:
    is_quantized = precision in ("int8", "fp8")
    if is_quantized and clips is None:
        raise InputError(
            f"{precision} is calibrated on real clips: give a list or a folder of videos (--calibrate LIST_OR_FOLDER), "
            "such as some dozen of those that the network was trained on"
        )
    if clips is not None and not is_quantized:
        raise InputError(f"clips to calibrate on are for int8 and fp8, not for {precision}")


def _saving(plain: Work, left: Work) -> str:
    share = 1 - left.macs / plain.macs
    return (
        f"frames that the stem's pool drops are not computed: {left.macs / 1e9:.4g} instead of {plain.macs / 1e9:.4g} "
        f"GMAC per view, {share:.1%} less"
    )
