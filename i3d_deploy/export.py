"""Export a checkpoint to any target, then prove that it answers as the checkpoint does.

An artifact is built and proven under a temporary name; only then does it appear, with the figures on its card. One that
fails is kept aside as ``NAME.failed.SUFFIX`` and never replaces an earlier one that passed.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from i3d_deploy import artifact, checkpoint, doctor, parity, video, views
from i3d_deploy.card import Card, Engine, Parity, Work
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import DeviceError, InputError, MissingExtraError
from i3d_deploy.parity import Answer, Clip
from i3d_deploy.recognizer import Recognizer, load
from i3d_deploy.runners.torch_runner import TorchRunner
from i3d_deploy.to_tensorrt import EngineOptions

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

_TOOLS: dict[Target, tuple[str, ...]] = {
    "safetensors": ("safetensors",),
    "onnx": ("torch", "onnx", "onnxscript"),
    "openvino": ("torch", "onnx", "onnxscript", "openvino"),
    "tensorrt": ("torch", "onnx", "onnxscript"),
}

Write = Callable[[Card, Path], None]
Report = Callable[[str], None]


def as_target(name: str) -> Target:
    """Check a target's name."""
    for target in TARGETS:
        if name == target:
            return target
    raise InputError(f"target {name!r} is not one of {', '.join(TARGETS)}")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One file that an export wrote.

    Attributes:
        path: Where it is; under its ``.failed`` name when it failed.
        card: Its card, with the figures.
        warnings: What the engine builder warned of.
    """

    path: Path
    card: Card
    warnings: tuple[str, ...] = ()

    @property
    def has_failed(self) -> bool:
        """Whether the proof failed (not having been measured is no failure)."""
        return any(entry.status == "failed" for entry in self.card.parity)


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The source's side of the proof, computed once for all targets.

    Attributes:
        clips: The videos.
        references: The source's answers.
        num_clips: Clips of each video that were compared.
    """

    clips: tuple[Clip, ...]
    references: tuple[Answer, ...]
    num_clips: int | None


def export(
    source: Checkpoint,
    *,
    targets: Sequence[Target],
    output: Path,
    name: str,
    engine: Engine | None = None,
    videos: Sequence[Path] = (),
    proof_clips: int | None = 2,
    tensorrt: EngineOptions | None = None,
    on_step: Report = lambda text: None,
) -> tuple[Exported, ...]:
    """Export and prove.

    Args:
        source: The checkpoint.
        targets: What to make of it.
        output: Folder of the files, made if need be.
        name: The files' name without ending.
        engine: Input, precision and profile; default: uint8 frames, fp32, 1 / 30 / 30 views.
        videos: Videos to prove it on; default: a generated one.
        proof_clips: Clips of each video to compare; None: as many as the card has.
        tensorrt: Options of the engine builder.
        on_step: Called with a line when a long step begins.

    Returns:
        One entry per target, in order. A failed proof is an entry with ``has_failed``; what cannot run on this machine
        is recorded as not measured here.

    Raises:
        ExportError: A target could not be built.
        VideoError: A video cannot be read.
        InputError: An argument is out of range.
    """
    if "/" in name or not name:
        raise InputError(f"name {name!r} must be a file name without folder")
    if proof_clips is not None and proof_clips < 1:
        raise InputError(f"proof_clips ({proof_clips}) must be > 0")
    for path in videos:
        video.check(path)  # before the long steps
    clips = parity.given_clips(videos)
    engine = engine or Engine()
    builders = _Builders(source, engine=engine, tensorrt=tensorrt or EngineOptions(), on_step=on_step)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".proving-", ignore_cleanup_errors=True) as scratch:
        # Everything is built before the longer proof begins, so that a missing part is known at once.
        writers = {target: builders.build(target) for target in dict.fromkeys(targets)}
        proof = _reference(source, clips=clips, scratch=Path(scratch), num_clips=proof_clips, on_step=on_step)
        exported = []
        for target, write in writers.items():
            card = _card(source, target, engine=engine, work=builders.work.get(target))
            path = output / f"{name}{SUFFIXES[target]}"
            path, card = _prove_and_keep(write, card, path=path, scratch=Path(scratch), proof=proof, on_step=on_step)
            exported.append(Exported(path=path, card=card, warnings=builders.warnings.get(target, ())))
    return tuple(exported)


class _Builders:
    """Builds each target, sharing the ONNX graph between those that start from it."""

    def __init__(self, source: Checkpoint, *, engine: Engine, tensorrt: EngineOptions, on_step: Report) -> None:
        self._source = source
        self._engine = engine
        self._tensorrt = tensorrt
        self._on_step = on_step
        self._graphs: dict[Engine, onnx.ModelProto] = {}
        self.warnings: dict[Target, tuple[str, ...]] = {}
        self.work: dict[Target, Work] = {}

    def build(self, target: Target) -> Write:
        """Build one target and return the function that writes it."""
        # Exporters are imported when used, so that one needs none of the others installed.
        if target == "safetensors":
            return lambda card, path: checkpoint.save(Checkpoint(model=self._source.model, card=card), path)
        from i3d_deploy import to_onnx
        from i3d_deploy import work as works

        engine = self._engine.model_copy(update={"precision": "fp32"}) if target == "openvino" else self._engine
        graph = self._graph(engine)
        self.work[target] = works.count(graph)
        if target == "openvino":
            from i3d_deploy import to_openvino

            self._on_step("converting to OpenVINO")
            return partial(to_openvino.write, to_openvino.convert(graph))
        if target == "onnx":
            return partial(to_onnx.write, graph)
        from i3d_deploy import to_tensorrt

        self._on_step("building the TensorRT engine")
        plan = to_tensorrt.build(
            graph.SerializeToString(),
            profile=self._engine.profile,
            options=self._tensorrt,
            on_progress=lambda phase: self._on_step(f"building the TensorRT engine: {phase}"),
        )
        self.warnings[target] = plan.warnings
        return partial(to_tensorrt.write, plan)

    def _graph(self, engine: Engine) -> onnx.ModelProto:
        from i3d_deploy import to_onnx

        if engine not in self._graphs:
            self._on_step(f"tracing {self._source.card.network.name} in {engine.precision}")
            self._graphs[engine] = to_onnx.convert(self._source.model, self._source.card, engine)
        return self._graphs[engine]


def _card(source: Checkpoint, target: Target, *, engine: Engine, work: Work | None) -> Card:
    versions = {tool: importlib.metadata.version(tool) for tool in _TOOLS[target]}
    provenance = source.card.provenance
    provenance = provenance.model_copy(update={"tools": {**provenance.tools, **versions}})
    found = None if target == "safetensors" else engine.model_copy(update={"work": work})
    return source.card.model_copy(update={"provenance": provenance, "engine": found})


def _reference(
    source: Checkpoint, *, clips: tuple[Clip, ...], scratch: Path, num_clips: int | None, on_step: Report
) -> Proof:
    clips = clips or (parity.generated_clip(scratch),)
    # On the CPU, the same on every machine.
    recognizer = Recognizer(TorchRunner(source, device="cpu"))
    references = []
    for clip in clips:
        report = _views_report(on_step, f"PyTorch float32 on {clip.path.name}")
        prepared = views.prepare(clip.path, source.card, clips=num_clips)
        references.append(parity.answer(recognizer, prepared, on_views=report))
    return Proof(clips=clips, references=tuple(references), num_clips=num_clips)


def _views_report(on_step: Report, what: str) -> Callable[[int, int], None]:
    return lambda done, total: on_step(f"{what}: view {done} of {total}")


def _prove_and_keep(
    write: Write, card: Card, *, path: Path, scratch: Path, proof: Proof, on_step: Report
) -> tuple[Path, Card]:
    candidate = scratch / path.name
    write(card, candidate)
    figures = prove(candidate, proof=proof, on_step=on_step)
    card = card.model_copy(update={"parity": (figures,)})
    if figures.status == "failed":
        path = path.with_name(f"{path.stem}.failed{path.suffix}")
    write(card, path)
    return path, card


def prove(path: Path, *, proof: Proof, device: str = "auto", on_step: Report = lambda text: None) -> Parity:
    """Hold one file against the source's answers, if this machine can run it.

    Args:
        path: The artifact.
        proof: The source's side.
        device: Where to run the artifact.
        on_step: Called with a line as views are done.
    """
    try:
        recognizer = load(path, device=device)
    except (DeviceError, MissingExtraError) as error:
        reason = doctor.without_places(str(error).replace(f"{path.parent}/", ""))
        return Parity(runner="none", status="not measured here", reason=reason)
    with recognizer:
        report = _views_report(on_step, f"{recognizer.info.backend} on {path.name}")
        return parity.compare(proof.references, recognizer, proof.clips, num_clips=proof.num_clips, on_views=report)


def verify(
    path: Path,
    source: Checkpoint,
    *,
    videos: Sequence[Path] = (),
    num_clips: int | None = None,
    device: str = "auto",
    on_step: Report = lambda text: None,
) -> Parity:
    """The proof of an export, later or on another machine.

    Args:
        path: The artifact.
        source: The checkpoint it is said to be made from.
        videos: Videos to prove it on; default: a generated one.
        num_clips: Clips of each video to compare; None: as many as the card has.
        device: Where to run the artifact.
        on_step: Called with a line as views are done.

    Raises:
        DeviceError: This machine cannot run the artifact.
    """
    with load(path, device=device) as recognizer, tempfile.TemporaryDirectory(prefix="i3d-proof-") as scratch:
        clips = parity.given_clips(videos)
        proof = _reference(source, clips=clips, scratch=Path(scratch), num_clips=num_clips, on_step=on_step)
        report = _views_report(on_step, f"{recognizer.info.backend} on {path.name}")
        return parity.compare(proof.references, recognizer, proof.clips, num_clips=num_clips, on_views=report)


def record(path: Path, figures: Parity) -> Card:
    """Store a measurement on the card of an artifact.

    Args:
        path: The artifact, replaced as a whole.
        figures: From :func:`verify`. It replaces what the card says of the same runner, and that nothing was measured.

    Returns:
        The card as it is now in the file.
    """
    found = artifact.read_card(path)
    kept = [entry for entry in found.parity if entry.runner != figures.runner and entry.status != "not measured here"]
    card = found.replaced(parity=(*kept, figures))
    kind = artifact.identify(path).kind
    if kind == "onnx":
        import onnx

        from i3d_deploy import to_onnx

        to_onnx.write(onnx.load(path), card, path)
    elif kind == "openvino":
        from i3d_deploy import to_openvino

        to_openvino.rewrite(card, path)
    elif kind == "tensorrt":
        artifact.write_engine_note(path, artifact.read_engine_note(path).model_copy(update={"card": card}))
    else:
        checkpoint.save(Checkpoint(model=checkpoint.load(path).model, card=card), path)
    return card
