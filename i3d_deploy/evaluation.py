"""Testing on a labelled list: from a recipe and a loaded network to the zoo's result files and metrics.

The recipe says which videos and which views, whatever the card of the network says; where the two differ, a note says
so. Several processes, as torchrun starts them, share the list; every video that is through is in a journal beside the
result, so that a killed evaluation goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from i3d_deploy import artifact, reading, two_stream, untracked
from i3d_deploy.card import Card
from i3d_deploy.errors import ArtifactError, InputError, VideoError
from i3d_deploy.flow_images import is_flow_folder
from i3d_deploy.images import FrameFolder
from i3d_deploy.journal import Entry, Journal
from i3d_deploy.network import NETWORKS
from i3d_deploy.origins import ORIGINS
from i3d_deploy.processes import Processes
from i3d_deploy.reading import Cutting, Reading
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.results import OF_THE_CARD, AverageClips, Plan, Result, average, check_out
from i3d_deploy.runners import Runner, TwoStreamRunner, open_runner
from i3d_deploy.training.recipe import Recipe, Split, flat


class Listener(Protocol):
    """What an evaluation tells while it runs."""

    def note(self, text: str) -> None:
        """Say what was assumed, or what differs from the card."""

    def failure(self, text: str) -> None:
        """Say which video cannot be read, and why."""

    def video(self, done: int, total: int, top1: float | None) -> None:
        """Count the videos of this process that are through.

        Args:
            done: How many.
            total: Of how many.
            top1: Share of the readable ones that is right so far; None before there is one, or without averaging.
        """


class _Silent:
    """Nobody listens."""

    def note(self, text: str) -> None: ...

    def failure(self, text: str) -> None: ...

    def video(self, done: int, total: int, top1: float | None) -> None: ...


def open_recognizer(
    path: Path,
    recipe: Recipe,
    plan: Plan,
    *,
    device: str = "auto",
    threads: int | None = None,
    flow_cache: Path | None = None,
    processes: Processes | None = None,
) -> Recognizer:
    """Load a network and hold it against the recipe. The views that a checkpoint takes become those of the plan.

    Of two streams, the one that is shown what the recipe's network is shown is held against the recipe; the other one
    takes the same frames and pixels, and scales them as its own card says.

    Args:
        path: What :func:`i3d_deploy.load` takes.
        recipe: The recipe that the plan was made of.
        plan: What is evaluated.
        device: As for :func:`i3d_deploy.load`; of several processes each takes its own GPU.
        threads: CPU threads; default: the backend's choice.
        flow_cache: As for :func:`i3d_deploy.load`.
        processes: Those that share the list.

    Returns:
        The recognizer; its notes say where the file's card differs from the recipe.

    Raises:
        InputError: The network has other classes or is shown something else, the engine takes other views than the
            recipe makes, or a network that is shown frames gets a list of flow images alone.
        I3DError: As :func:`i3d_deploy.load`.
    """
    open_one = partial(
        _open, recipe=recipe, plan=plan, device=device, threads=threads, processes=processes or Processes()
    )
    with ExitStack() as opened:
        if artifact.identify(path).kind == "two-stream":
            files = two_stream.read(path)
            rgb = opened.enter_context(open_one(files.rgb, stream="rgb", pair=path))
            flow = opened.enter_context(open_one(files.flow, stream="flow", pair=path))
            runner = _joined(path, rgb, flow)
        else:
            runner = opened.enter_context(open_one(path, stream=recipe.network.stream, pair=None))
        _check_listed(path, runner.card, plan)
        runner.notes = (*runner.notes, *_other_flow(runner.card, plan))
        is_flow_read = plan.prepared is not None and plan.prepared.is_all_read
        recognizer = Recognizer(runner, flow_cache=flow_cache, is_flow_read=is_flow_read)
        opened.pop_all()
    return recognizer


def _joined(path: Path, rgb: Runner, flow: Runner) -> Runner:
    try:
        return TwoStreamRunner(rgb, flow)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _open(
    path: Path,
    *,
    stream: str,
    pair: Path | None,
    recipe: Recipe,
    plan: Plan,
    device: str,
    threads: int | None,
    processes: Processes,
) -> Runner:
    """Load one network; its notes say where it differs from the recipe."""
    kind = artifact.identify(path).kind
    device = _device(device, kind, processes)
    if kind not in ("safetensors", "checkpoint"):
        runner = open_runner(path, device=device, threads=threads)
        try:
            _check_network(path, runner.card, plan, stream=stream, pair=pair)
            _check_engine(path, runner.card, recipe, plan)
            runner.notes = (*runner.notes, *_differences(runner.card, recipe, plan))
            runner.card = _as_planned(path, runner.card, recipe, plan)
        except InputError:
            runner.close()
            raise
        return runner
    from i3d_deploy import checkpoint
    from i3d_deploy.runners.torch_runner import TorchRunner

    is_named = kind == "checkpoint" and recipe.network.name in NETWORKS and recipe.network.stream == stream
    found = checkpoint.load(path, network=recipe.network.name if is_named else None)
    _check_network(path, found.card, plan, stream=stream, pair=pair)
    # A checkpoint of the zoo has no card: what had to be assumed is overruled by the recipe and differs from nothing.
    is_assumed = kind == "checkpoint" and found.card.provenance.origin in ORIGINS
    differences = _network_differences(found.card, recipe) if is_assumed else _differences(found.card, recipe, plan)
    changes: dict[str, Any] = {"pixels": plan.pixels} if _is_of(found.card, recipe) else {}
    if is_assumed and changes:
        changes["flow_method"] = recipe.data.flow_method
    card = _as_planned(path, found.card, recipe, plan, **changes)
    return TorchRunner(replace(found, card=card, notes=tuple(differences)), device=device, threads=threads)


def _as_planned(path: Path, card: Card, recipe: Recipe, plan: Plan, **changes: Any) -> Card:
    """A card that says of the views what the recipe says."""
    averaging = recipe.test.averaging
    try:
        return card.replaced(sampling=plan.sampling, spatial=plan.spatial, averaging=averaging, **changes)
    except InputError as error:
        raise InputError(f"{path} cannot take the views of the recipe: {error}") from error


def _is_of(card: Card, recipe: Recipe) -> bool:
    """Whether a network is shown what that of the recipe is shown."""
    return card.modality == recipe.network.stream


def _device(device: str, kind: artifact.Kind, processes: Processes) -> str:
    """Give each process its own GPU, where there are any."""
    if processes.world_size == 1 or device not in ("auto", "cuda") or kind == "openvino":
        return device
    own = f"cuda:{processes.local_rank}"
    if device == "cuda" or kind == "tensorrt":
        return own
    import torch

    if not torch.cuda.is_available():
        return device
    if kind == "onnx":
        try:
            with untracked.imports():
                import onnxruntime
        except ImportError:
            return device  # the runner says what to install
        return own if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else device
    return own


def _check_network(path: Path, card: Card, plan: Plan, *, stream: str, pair: Path | None) -> None:
    """Whether a network is shown what it should be, and knows the recipe's classes."""
    if card.modality != stream and pair is not None:
        raise InputError(
            f"{pair}: its {stream} stream {path.name} is shown {card.modality}: export the pair again with i3d-export "
            "RGB --flow FLOW"
        )
    if card.modality != stream:
        raise InputError(
            f"{path} is shown {card.modality}, the network of the recipe {stream}: take the recipe that it was trained "
            "by"
        )
    if card.network.num_classes != len(plan.labels):
        trained = "it was" if pair is None else "both streams were"
        raise InputError(
            f"{path} has {card.network.num_classes} classes, the recipe has {len(plan.labels)}: take the recipe that "
            f"{trained} trained by"
        )


def _check_listed(path: Path, card: Card, plan: Plan) -> None:
    """Whether there are frames for a network that is shown any."""
    if "rgb" in card.modality and all(_is_flow_alone(annotation.source) for annotation in plan.annotations):
        raise InputError(
            f"list {plan.listed}: its folders hold flow images and no frames, which {path} is shown: take a list of "
            "videos or frames, or keep the frames beside the flow with training/prepare.py flow --rgb"
        )


def _other_flow(card: Card, plan: Plan) -> Iterator[str]:
    """Say so where the flow images of the list were computed by others than those that the network was trained on."""
    if plan.prepared is None or not plan.prepared.is_all_read or card.flow_method is None:
        return
    found = plan.prepared.implementation(card.flow_method)
    if found is not None and card.flow_implementation not in (None, found):
        yield f"the flow of the list was computed by {found}; the card's was computed by {card.flow_implementation}"


def _is_flow_alone(source: Path | FrameFolder) -> bool:
    return isinstance(source, FrameFolder) and is_flow_folder(source.path) and not source.image(0).exists()


def _check_engine(path: Path, card: Card, recipe: Recipe, plan: Plan) -> None:
    ours, theirs = (shape[:2] for shape in (plan.view_shape, card.view_shape))
    if ours != theirs or (card.has_fixed_length and plan.sampling.scheme == "whole"):
        length = "any number of" if plan.sampling.scheme == "whole" else ours[0]
        raise InputError(
            f"{path} takes views of {theirs[0]} frames of {theirs[1]}x{theirs[1]}, the recipe makes views of {length} "
            f"frames of {ours[1]}x{ours[1]}: export the checkpoint again for these, or --set test.sampling.clip_len "
            "and test.spatial.crop_size to what it takes"
        )
    if _is_of(card, recipe) and card.pixels != plan.pixels:
        raise InputError(
            f"{path} scales pixels by mean {card.pixels.mean} and std {card.pixels.std}, the recipe by "
            f"{plan.pixels.mean} and {plan.pixels.std}: an engine does it inside, so export one from the recipe's run"
        )


def _network_differences(card: Card, recipe: Recipe) -> Iterator[str]:
    if not _is_of(card, recipe):
        return
    theirs, ours = card.network.model_dump(), recipe.network.model_dump()
    for name in theirs:
        if theirs[name] != ours.get(name):
            yield f"network.{name} is {theirs[name]} as the file says; the recipe says {ours.get(name)}"


def _differences(card: Card, recipe: Recipe, plan: Plan) -> Iterator[str]:
    """Where a card says something else than the recipe, a line each."""
    yield from _network_differences(card, recipe)
    if _is_of(card, recipe) and card.flow_method != recipe.data.flow_method:
        yield f"flow is computed by {card.flow_method} as the card says; the recipe says {recipe.data.flow_method}"
    for part in ("sampling", "spatial", "pixels"):
        theirs, ours = dict(flat(getattr(card, part).model_dump())), dict(flat(getattr(plan, part).model_dump()))
        for name in theirs if part != "pixels" or _is_of(card, recipe) else ():
            if theirs[name] != ours[name]:
                yield f"{part}.{name} is {ours[name]} as the recipe says; the card says {theirs[name]}"
    averaging = OF_THE_CARD.get(plan.averaging)
    if averaging not in (None, card.averaging):
        yield f"averaging is over {averaging}; the card says {card.averaging}"
    if card.labels != plan.labels:
        number = next(n for n, names in enumerate(zip(card.labels, plan.labels, strict=True)) if len(set(names)) > 1)
        yield f"labels are the recipe's; class {number} is {plan.labels[number]!r}, on the card {card.labels[number]!r}"


def evaluate(
    recognizer: Recognizer,
    plan: Plan,
    journal: Journal,
    *,
    processes: Processes | None = None,
    batch: int | None = None,
    listener: Listener | None = None,
) -> Result | None:
    """Run a network over the videos that the journal does not have yet.

    Args:
        recognizer: The network; views of the plan must fit it.
        plan: What is evaluated.
        journal: Where every video that is through is kept.
        processes: Those that share the list.
        batch: Views per run of the engine; default: what suits the device.
        listener: Hears about the progress.

    Returns:
        The whole result in the first process, once all are through; None in the others.

    Raises:
        ArtifactError: The network's answer is not finite.
        InputError: The journal is of another evaluation.
    """
    processes = processes or Processes()
    _run_share(recognizer, plan, journal, processes=processes, batch=batch, listener=listener or _Silent())
    processes.wait()
    if not processes.is_first:
        return None
    found = journal.read()
    missing = len(plan.annotations) - len(found)
    if missing:
        raise InputError(
            f"{journal.folder} lacks {missing} of {len(plan.annotations)} videos: all processes must see this folder"
        )
    return Result(plan=plan, entries=tuple(found[index] for index in range(len(plan.annotations))))


def _run_share(
    recognizer: Recognizer,
    plan: Plan,
    journal: Journal,
    *,
    processes: Processes,
    batch: int | None,
    listener: Listener,
) -> None:
    share = range(processes.rank, len(plan.annotations), processes.world_size)
    before = journal.read()
    finished = [before[index] for index in share if index in before and before[index].rows is not None]
    hits = [_is_hit(entry, plan) for entry in finished]
    if finished:
        listener.note(f"{len(finished)} of {len(share)} videos are in {journal.folder}, it goes on with the others")
    waiting = sorted(set(share).difference(entry.index for entry in finished))
    sources = (plan.annotations[index].source for index in waiting)
    cutting = Cutting(sampling=plan.sampling, spatial=plan.spatial, flow=recognizer.flow)
    with journal.writing(processes.rank) as writer, closing(reading.one_ahead(sources, cutting)) as started:
        for done, (index, opened) in enumerate(zip(waiting, started, strict=True), len(finished) + 1):
            entry = _answer(recognizer, plan, index, opened, batch=batch)
            writer.add(entry)
            if entry.error is None:
                hits.append(_is_hit(entry, plan))
            else:
                listener.failure(entry.error)
            top1 = None if plan.averaging == "none" or not hits else sum(hits) / len(hits)
            listener.video(done, len(share), top1)


def _answer(recognizer: Recognizer, plan: Plan, index: int, opened: Reading, *, batch: int | None) -> Entry:
    try:
        logits = recognizer.logits(opened, batch=batch)
    except VideoError as error:
        return Entry(index=index, error=str(error))
    if not np.isfinite(logits).all():
        raise ArtifactError(
            f"{plan.annotations[index].name}: {np.count_nonzero(~np.isfinite(logits))} logits are not finite: the "
            f"weights are damaged, or too large for {recognizer.info.precision}"
        )
    return Entry(index=index, rows=average(logits, over=plan.averaging), warnings=opened.views().warnings)


def _is_hit(entry: Entry, plan: Plan) -> bool:
    return entry.rows is not None and int(entry.rows[0].argmax()) in plan.annotations[entry.index].labels


def run(
    path: Path,
    recipe: Recipe,
    *,
    out: Path,
    split: Split = "test",
    averaging: AverageClips | None = None,
    names: Sequence[str] = (),
    confusion: bool = False,
    device: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
    flow_cache: Path | None = None,
    skip_broken: bool = False,
    fresh: bool = False,
    processes: Processes | None = None,
    listener: Listener | None = None,
) -> Result | None:
    """Evaluate a file with a network as a recipe says, and write the result.

    Args:
        path: What :func:`i3d_deploy.load` takes.
        recipe: The recipe.
        out: The result, ``.json`` or ``.pkl``; the journal is a folder beside it until the result is written.
        split: Which of the recipe's lists.
        averaging: Another averaging than the recipe's.
        names: Metrics that will be asked of the result: refused before the work where they cannot be had.
        confusion: The same of a confusion matrix.
        device: As for :func:`i3d_deploy.load`; of several processes each takes its own GPU.
        threads: CPU threads; default: the backend's choice.
        batch: Views per run of the engine; default: what suits the device.
        flow_cache: As for :func:`i3d_deploy.load`.
        skip_broken: Write a result with rows of zeros for videos that cannot be read.
        fresh: Start anew where a journal is left.
        processes: Those that share the list, from :func:`i3d_deploy.processes.joined`.
        listener: Hears about the progress.

    Returns:
        The result in the first process, None in the others.

    Raises:
        InputError: Something does not fit, or a journal of another evaluation is left.
        VideoError: Videos cannot be read, and ``skip_broken`` was not given.
        I3DError: As :func:`i3d_deploy.load`.
    """
    processes, listener = processes or Processes(), listener or _Silent()
    check_out(out)
    if batch is not None and batch < 1:
        raise InputError(f"batch ({batch}) must be > 0")
    plan = Plan.of(recipe, split=split, averaging=averaging)
    plan.check(names, confusion=confusion)
    artifact.identify(path)
    journal = Journal(out.with_name(out.name + ".partial"), plan.identity(path))
    if processes.is_first:
        if fresh:
            journal.remove()
        journal.read()
    processes.wait()  # nobody writes before the journal is known to be the right one
    with open_recognizer(
        path, recipe, plan, device=device, threads=threads, flow_cache=flow_cache, processes=processes
    ) as recognizer:
        listener.note(f"videos: {len(plan.annotations)}, views per video: {plan.num_views}, {recognizer.info}")
        for note in recognizer.notes:
            listener.note(note)
        result = evaluate(recognizer, plan, journal, processes=processes, batch=batch, listener=listener)
    if result is None:
        return None
    if not skip_broken:
        result.require_all(kept_in=journal.folder)
    result.write(out)
    journal.remove()
    return result
