"""Export a checkpoint to any target, then prove that it answers as the checkpoint does.

An artifact is built and proven under a temporary name; only then does it appear, with the figures on its card. One that
fails is kept aside as ``NAME.failed.SUFFIX`` and never replaces an earlier one that passed.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from i3d_deploy import accuracy, artifact, checkpoint, parity, proof, triton_repository, video
from i3d_deploy.builders import Builders, Built, Optimization, Target
from i3d_deploy.calibration import Clips
from i3d_deploy.card import Card, Engine
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import InputError
from i3d_deploy.flow_cache import FlowCache
from i3d_deploy.measurements import Parity
from i3d_deploy.proof import Proof
from i3d_deploy.recognizer import load
from i3d_deploy.to_tensorrt import EngineOptions
from i3d_deploy.triton_repository import Serving

_TOOLS: dict[Target, tuple[str, ...]] = {
    "safetensors": ("safetensors",),
    "onnx": ("torch", "onnx", "onnxscript"),
    "openvino": ("torch", "onnx", "onnxscript", "openvino"),
    "tensorrt": ("torch", "onnx", "onnxscript"),
}
_QUANTIZERS: dict[Target, tuple[str, ...]] = {
    "onnx": ("onnxruntime",),
    "openvino": ("nncf",),
    "tensorrt": ("onnxruntime",),
}

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One file, or Triton repository, that an export wrote.

    Attributes:
        path: Where it is; under its ``.failed`` name when it failed.
        wanted: Where it would be had it not failed.
        card: Its card, with the figures.
        notes: How its graph was made faster, one line each.
        warnings: What the engine builder warned of.
    """

    path: Path
    wanted: Path
    card: Card
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def has_failed(self) -> bool:
        """Whether the proof or the gate failed (not having been measured is no failure)."""
        return proof.has_failed(self.card)


def export(
    source: Checkpoint,
    *,
    targets: Sequence[Target],
    output: Path,
    name: str,
    engine: Engine | None = None,
    optimization: Optimization | None = None,
    videos: Sequence[Path] = (),
    proof_clips: int | None = 2,
    calibrate: Clips | None = None,
    gate: accuracy.Wanted | None = None,
    tensorrt: EngineOptions | None = None,
    serving: Serving | None = None,
    overwrite: bool = False,
    on_step: Report = lambda text: None,
) -> tuple[Exported, ...]:
    """Export and prove.

    Args:
        source: The checkpoint.
        targets: What to make of it.
        output: Folder of the files, made if need be.
        name: The files' name without ending.
        engine: Input, precision and profile; default: uint8 frames, fp32, 1 / 30 / 30 views.
        optimization: How graphs are made faster; default: by every exact rewrite, in the layout that suits the target.
        videos: Videos to prove it on; default: a generated one.
        proof_clips: Clips of each video to compare; None: as many as the card has.
        calibrate: Clips that int8 and fp8 are calibrated on.
        gate: The accuracy that the files must keep.
        tensorrt: Options of the engine builder.
        serving: Makes a Triton repository too, ``NAME_triton``, with an engine that is run so.
        overwrite: Replace a repository of another checkpoint; files are replaced in any case.
        on_step: Called with a line when a long step begins.

    Returns:
        An entry per file, in the order of the targets, the repository last. A target has two files where only the
        machine that will run them can tell which layout is faster, the second with the layout in its name. A failed
        proof or gate is an entry with ``has_failed``; what cannot run on this machine is recorded as not measured here.

    Raises:
        ExportError: A target could not be built.
        VideoError: A video cannot be read.
        InputError: An argument is out of range, or a repository would replace what is not of this checkpoint.
    """
    if "/" in name or not name:
        raise InputError(f"name {name!r} must be a file name without folder")
    if proof_clips is not None and proof_clips < 1:
        raise InputError(f"proof_clips ({proof_clips}) must be > 0")
    for path in videos:
        video.check(path)  # before the long steps
    clips = parity.given_clips(videos)
    plan = None if gate is None else accuracy.plan(source.card, gate.listed)
    builders = Builders(
        source,
        engine=engine or Engine(),
        calibrate=calibrate,
        optimization=optimization or Optimization(),
        tensorrt=tensorrt or EngineOptions(),
        on_step=on_step,
    )
    for target in targets:
        builders.check(target)
    if serving is not None:
        builders.check_repository(serving)
        for ending, failed in itertools.product(builders.repository_endings(serving), ("", ".failed")):
            triton_repository.check(output / f"{name}{ending}{failed}", source.card, overwrite=overwrite)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".proving-", ignore_cleanup_errors=True) as scratch:
        # Everything is built before the longer proof begins, so that a missing part is known at once.
        built = [entry for target in dict.fromkeys(targets) for entry in builders.build(target)]
        if serving is not None:
            built += builders.build_repository(serving, overwrite=overwrite)
        clips = clips or (parity.generated_clip(Path(scratch)),)
        answered = proof.extend(
            proof.answer(
                source,
                clips=clips,
                num_clips=proof_clips,
                on_step=on_step,
                flow_cache=FlowCache(Path(scratch) / "flow"),
            ),
            source,
            calibrate=calibrate,
            plan=plan,
            max_drop=accuracy.DEFAULT_MAX_DROP if gate is None else gate.max_drop,
            on_step=on_step,
        )
        exported = []
        for entry in built:
            exported.append(
                _prove_and_keep(
                    entry,
                    _card(source, entry),
                    path=output / f"{name}{entry.ending}",
                    scratch=Path(scratch),
                    answered=answered,
                    on_step=on_step,
                )
            )
    return tuple(exported)


def _card(source: Checkpoint, built: Built) -> Card:
    is_quantized = built.engine is not None and built.engine.calibration is not None
    tools = (*_TOOLS[built.target], *(_QUANTIZERS[built.target] if is_quantized else ()))
    versions = {tool: importlib.metadata.version(tool) for tool in tools}
    # What an earlier export found of the file that is exported now says nothing of this one.
    card = accuracy.without_gate(source.card)
    provenance = card.provenance
    provenance = provenance.model_copy(update={"tools": {**provenance.tools, **versions}})
    changes = {"provenance": provenance, "engine": built.engine, "parity": (), "agreement": ()}
    return card.model_copy(update=changes)


def _prove_and_keep(
    built: Built, card: Card, *, path: Path, scratch: Path, answered: Proof, on_step: Report
) -> Exported:
    candidate = scratch / path.name
    built.write(card, candidate)
    card = proof.examine(built.runs(candidate), card, proof=answered, on_step=on_step)
    kept = _failed(built, path) if proof.has_failed(card) else path
    built.write(card, kept)
    of_serving = () if built.serving is None else triton_repository.notes(card, built.serving)
    return Exported(path=kept, wanted=path, card=card, notes=(*built.notes, *of_serving), warnings=built.warnings)


def _failed(built: Built, path: Path) -> Path:
    if built.serving is not None:  # a folder, whose name may have a dot anywhere
        return path.with_name(f"{path.name}.failed")
    return path.with_name(f"{path.stem}.failed{path.suffix}")


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
        clips = parity.given_clips(videos) or (parity.generated_clip(Path(scratch)),)
        problem = parity.card_difference(source.card, recognizer.card)
        if problem is not None:  # before the long steps
            return Parity(runner=recognizer.ran_by, status="failed", reason=problem)
        flow_cache = FlowCache(Path(scratch) / "flow")
        answered = proof.answer(source, clips=clips, num_clips=num_clips, on_step=on_step, flow_cache=flow_cache)
        report = proof.views_report(on_step, f"{recognizer.info.backend} on {path.name}")
        return parity.compare(
            answered.references,
            recognizer,
            clips,
            num_clips=answered.num_clips,
            flow_cache=flow_cache,
            on_views=report,
        )


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
