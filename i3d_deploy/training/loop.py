"""The training loop: from a recipe to ``model.safetensors`` with its card.

Note [Exact resumption]
    A checkpoint lies between two steps. Everything that a step does is a function of the state in it and of the number
    of the step: the order of the videos and the clips cut from them (``dataset``), the learning rate
    (``optimization``), and the dropout, whose generator is seeded anew for every slice of a step (``learner``). So a
    run that goes on from a checkpoint takes the same steps as one that never stopped, bit for bit where the device
    computes deterministically.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from i3d_deploy import checkpoint, files, flow_frames, model
from i3d_deploy.artifact import CARD_KEY
from i3d_deploy.card import Card
from i3d_deploy.errors import InputError, TrainingError
from i3d_deploy.measurements import Accuracy
from i3d_deploy.training import dataset, distributed, optimization, progress, recipe, snapshots
from i3d_deploy.training.clips import seed_of
from i3d_deploy.training.dataset import ClipBatch, ClipDataset, Collate, Failure, Order
from i3d_deploy.training.distributed import Process
from i3d_deploy.training.learner import Learner, Slice
from i3d_deploy.training.progress import Reporter
from i3d_deploy.training.recipe import Recipe
from i3d_deploy.training.snapshots import Snapshots, State
from i3d_deploy.training.validation import Validation, validate

RECIPE_FILE = "recipe.json"
PUBLISHED_FILE = "model.safetensors"
CHECKPOINTS_FOLDER = "checkpoints"
FAILED_FILE = "failed_videos.txt"

_FREE_FIELDS = {
    "batch.workers",
    "checkpoint_every",
    "checkpoint_steps",
    "data.folder",
    "data.max_failed",
    *(f"data.{split}_{what}" for split in ("train", "val", "test") for what in ("list", "root")),
    "keep_every",
    "log_every",
}
"""What a resumed run may change: the weights do not depend on it. That the list says the same is checked apart."""

_INITIAL_WEIGHTS, _NORM_CLIPS = 1 << 40, 1 << 41
"""What is drawn with a seed of its own, in the place where epochs and steps have their number."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is said of a run on the command line and belongs to no recipe.

    Attributes:
        work_dir: Where everything is written.
        seed: Of the order, the clips, the fresh weights and the dropout; None: drawn, and printed.
        deterministic: Use deterministic algorithms only.
        validate: Evaluate every few epochs and keep the best.
        resume: Go on from the newest whole checkpoint, or start where there is none.
        init: A file of initial weights, as for :func:`i3d_deploy.checkpoint.initialize`.
        device: As for :func:`i3d_deploy.training.distributed.joined`.
    """

    work_dir: Path
    seed: int | None = None
    deterministic: bool = False
    validate: bool = False
    resume: bool = False
    init: Path | None = None
    device: str = "auto"


def train(spec: Recipe, options: Options, *, on_start: Callable[[], None] = lambda: None) -> Path:
    """Train a recipe, in every process that torchrun started.

    SIGINT (Ctrl-C) and SIGTERM end a run of one process after the step it is in, with a checkpoint.

    Args:
        spec: What to do.
        options: Where and how.
        on_start: Called once everything is found to be in order, before the first step.

    Returns:
        The published ``model.safetensors``: the best weights by validation, or the last ones without it.

    Raises:
        TrainingError: The work-dir holds another run, the loss is not a number, too many videos cannot be read, or the
            run was interrupted.
        InputError: A list or the labels do not fit.
        CheckpointError: The initial weights do not fit.
        DeviceError: The machine has not the device.
    """
    if options.seed is not None and options.seed < 0:
        raise InputError(f"seed ({options.seed}) must be >= 0")
    with distributed.joined(options.device) as process, _algorithms(options, process):
        run = _Run(spec, options, process)
        on_start()
        with run.reporter, _interrupts(process) as is_interrupted:
            run.train(is_interrupted)
        if process.is_first:
            run.publish()
        process.wait()
    return options.work_dir / PUBLISHED_FILE


@contextmanager
def _algorithms(options: Options, process: Process) -> Iterator[None]:
    """Deterministic algorithms where asked; the setting is put back, as is the random state."""
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    is_cuda = process.device.type == "cuda"
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS asks for
        # On a GPU the backward pass of max pooling has no deterministic form and only warns.
        torch.use_deterministic_algorithms(True, warn_only=is_cuda)
    torch.backends.cudnn.benchmark = not options.deterministic
    try:
        with torch.random.fork_rng(devices=[process.device] if is_cuda else []):
            yield
    finally:
        torch.use_deterministic_algorithms(was_deterministic, warn_only=only_warned)
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def _interrupts(process: Process) -> Iterator[Callable[[], bool]]:
    """Whether the run was told to end; a second signal ends it at once. Several processes would not agree on a step."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, before[number])

    if process.world_size == 1 and threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(kw_only=True)
class _Window:
    """What this process did since the last record."""

    steps: list[int] = field(default_factory=list)
    names: list[list[str]] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    videos: int = 0
    wait_seconds: float = 0.0
    began: float = field(default_factory=time.perf_counter)

    def add(self, step: int, batches: list[ClipBatch], slices: list[Slice]) -> None:
        """Note a step."""
        for batch, found in zip(batches, slices, strict=True):
            self.steps.append(step)
            self.names.append(batch.names)
            self.slices.append(found)
            self.failures += batch.failures
            self.videos += len(batch.names)

    def losses(self) -> list[float]:
        """The loss of each slice.

        Raises:
            TrainingError: One is not finite, or the gradients of its step are not.
        """
        found: list[float] = torch.stack([entry.loss for entry in self.slices]).tolist()
        norms = [0.0 if entry.gradient_norm is None else float(entry.gradient_norm) for entry in self.slices]
        for step, names, loss, norm in zip(self.steps, self.names, found, norms, strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = f"the loss of step {step} is {loss}"
                if math.isfinite(loss):
                    what = f"the gradients of step {step} have the norm {norm}"
                raise TrainingError(
                    f"{what}, with the videos {', '.join(names)}: look at them, or start a run in another --work-dir "
                    "with a lower optimizer.lr or a longer schedule.warmup_epochs, --init with a checkpoint of this one"
                )
        return found


class _Run:
    """One run, in one process."""

    def __init__(self, spec: Recipe, options: Options, process: Process) -> None:
        self._spec, self._options, self._process = spec, options, process
        self._card = spec.card()
        self._flow = flow_frames.wanted_of(self._card)
        self._train_entries = spec.data.read("train", num_classes=spec.network.num_classes)
        self._val_entries = spec.data.read("val", num_classes=spec.network.num_classes) if options.validate else ()
        self._card = self._card.replaced(flow_implementation=spec.flow_implementation(self._train_entries))
        self._val_flow_by = spec.flow_implementation(self._val_entries) if self._val_entries else None
        self._snapshots = Snapshots(options.work_dir / CHECKPOINTS_FOLDER)
        notes: list[str] = []
        # Only the first process reads and writes the work-dir: machines need not share it.
        saved = process.share(self._read_work_dir(notes) if process.is_first else None)
        self._seed: int = process.share(_seed(options, saved))
        self._order = Order(
            num_videos=len(self._train_entries),
            videos=spec.batch.videos,
            slices=spec.batch.accumulate * process.world_size,
            seed=self._seed,
        )
        self._total_steps = spec.total_steps(self._order.steps_per_epoch)
        self._peak_lr = optimization.peak_lr(spec, videos_per_step=self._order.videos_per_step)
        self._step = 0
        self._best: dict[str, Any] | None = None
        self._failed: dict[str, str] = {}
        self._learner = self._make_learner(saved, notes)
        if saved is not None:
            self._go_on(saved)
        if process.is_first:
            self._write_recipe()
        self.reporter = Reporter(
            options.work_dir, total_steps=self._total_steps, first_step=self._step, is_enabled=process.is_first
        )
        for note in [*notes, *self._describe()]:
            self.reporter.line(note)

    def _read_work_dir(self, notes: list[str]) -> State | None:
        """The checkpoint to go on from."""
        if not self._options.resume and (self._snapshots.steps or (self._options.work_dir / PUBLISHED_FILE).exists()):
            raise TrainingError(
                f"{self._options.work_dir} holds a run: give --resume to go on with it, or another --work-dir"
            )
        self._snapshots.sweep()
        saved = self._snapshots.newest(on_damaged=notes.append)
        if saved is not None:
            self._check_recipe(saved["recipe"])
        elif self._options.resume:
            notes.append(f"{self._options.work_dir} holds no checkpoint to go on from: starting at the beginning")
        return saved

    def _check_recipe(self, text: str) -> None:
        stored = recipe.from_json(text, where=str(self._options.work_dir))
        changes = [
            line for line in recipe.differences(stored, self._spec) if line.partition(":")[0] not in _FREE_FIELDS
        ]
        if changes:
            raise TrainingError(
                f"{self._options.work_dir} holds a run of another recipe: {'; '.join(changes[:5])}; "
                "give the recipe and --set as before, or another --work-dir, with --init where it is to go on from the "
                "weights"
            )

    def _write_recipe(self) -> None:
        """Leave the recipe in the work-dir, for whoever looks."""
        with files.replacing(self._options.work_dir / RECIPE_FILE) as (target,):
            target.write_text(self._spec.to_json(indent=2) + "\n", encoding="utf-8")

    def _make_learner(self, saved: State | None, notes: list[str]) -> Learner:
        torch.manual_seed(seed_of(self._seed, _INITIAL_WEIGHTS))
        network = model.build(self._spec.network)
        if saved is None and self._options.init is not None:
            notes.append(checkpoint.initialize(network, self._options.init, label_names=self._card.labels))
        elif saved is None:
            notes.append("fresh weights; --init gives others")
        return Learner(network, self._spec, process=self._process, seed=self._seed)

    def _go_on(self, saved: State) -> None:
        if saved["videos_per_step"] != self._order.videos_per_step:
            raise TrainingError(
                f"the checkpoint is of a run with {saved['videos_per_step']} videos a step, this one has "
                f"{self._order.videos_per_step}: resume with the same batch.videos, batch.accumulate and number of "
                "processes in all"
            )
        if saved["list"] != self._list_digest():
            raise TrainingError(
                f"{self._spec.data.list_path('train')} is not the list that the run began with: resume with that one, "
                "or start another run with --init and a checkpoint of this one"
            )
        for name in ("validate", "deterministic"):
            was_given = saved[name]
            if was_given != getattr(self._options, name):
                raise TrainingError(f"the run began with{'' if was_given else 'out'} --{name}: resume it so")
        self._learner.load(saved)
        self._step = saved["step"]
        self._best = saved["best"]
        self._failed = dict(saved["failed"])

    def _list_digest(self) -> str:
        """What the list says, wherever it is."""
        lines = (f"{entry.name} {entry.labels}\n" for entry in self._train_entries)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _describe(self) -> Iterator[str]:
        order, spec = self._order, self._spec
        if self._step:
            yield f"going on after step {self._step} of {self._total_steps}"
        yield (
            f"{order.num_videos} videos, {order.videos_per_step} a step "
            f"({spec.batch.videos} x {spec.batch.accumulate} passes x {self._process.world_size} processes), "
            f"{order.steps_per_epoch} steps an epoch, {self._total_steps / order.steps_per_epoch:g} epochs; "
            f"seed {self._seed}; {self._process.device}"
        )
        scaled = " (scaled to the batch)" if spec.batch.scale_lr else ""
        yield f"learning rate {self._peak_lr:.6g}{scaled}; the recipe's {spec.optimizer.lr:g} is for " + (
            f"{spec.batch.lr_reference} videos a step"
        )

    def train(self, is_interrupted: Callable[[], bool]) -> None:
        """Take the steps that are left.

        Args:
            is_interrupted: Whether to end after the step.
        """
        batches = self._read_clips()
        window = _Window()
        while self._step < self._total_steps:
            began = time.perf_counter()
            slices = [next(batches) for _ in range(self._spec.batch.accumulate)]
            window.wait_seconds += time.perf_counter() - began
            window.add(self._step, slices, self._learner.step(slices, step=self._step, lr=self._lr(self._step)))
            self._step += 1
            self.reporter.show(self._step)
            if self._is_due(self._spec.log_every) or self._ends_epoch() or self._is_due(self._spec.checkpoint_steps):
                self._record(window)
                window = _Window()
            if self._options.validate and self._ends_epoch(self._spec.validate_every):
                self._validate()
                window = _Window()
            if self._ends_epoch(self._spec.checkpoint_every) or self._is_due(self._spec.checkpoint_steps):
                self._save()
                window = _Window()
            if is_interrupted() and self._step < self._total_steps:
                if window.steps:
                    self._record(window)
                self._save()
                raise TrainingError(f"interrupted after step {self._step}, which is saved: --resume goes on from there")

    def _lr(self, step: int) -> float:
        steps_per_epoch = self._order.steps_per_epoch
        share = optimization.lr_share(
            self._spec.schedule, step=step, steps_per_epoch=steps_per_epoch, total_steps=self._total_steps
        )
        return self._peak_lr * share

    def _is_due(self, every_steps: int | None) -> bool:
        return every_steps is not None and self._step % every_steps == 0

    def _ends_epoch(self, every_epochs: int = 1) -> bool:
        """Whether the last step ended an epoch of that many, or the run."""
        is_last = self._step == self._total_steps
        return is_last or self._step % (every_epochs * self._order.steps_per_epoch) == 0

    def _read_clips(self) -> Iterator[ClipBatch]:
        process, order = self._process, self._order
        keys = order.slice_keys(
            first_step=self._step,
            last_step=self._total_steps,
            slices=range(process.rank, order.slices, process.world_size),
        )
        return self._load_clips(keys)

    def _load_clips(self, keys: Iterator[list[dataset.Key]]) -> Iterator[ClipBatch]:
        several = self._spec.network.num_classes if self._spec.data.multi_class else None
        return dataset.read(
            ClipDataset(self._train_entries, self._spec.train, seed=self._seed, flow=self._flow),
            batches=keys,
            collate=Collate(num_classes=several),
            name=lambda key: self._train_entries[key[1]].name,
            workers=self._spec.batch.workers,
            pin_memory=self._process.device.type == "cuda",
        )

    def _record(self, window: _Window) -> None:
        losses = window.losses()
        sums = (sum(losses), len(losses), int(sum(int(entry.correct) for entry in window.slices)), window.videos)
        gathered = self._process.gather((sums, window.failures, window.wait_seconds))
        loss, slices, correct, videos = (sum(column) for column in zip(*(some for some, _, _ in gathered), strict=True))
        seconds = time.perf_counter() - window.began
        values = {
            "loss": loss / slices,
            "top1": 100 * correct / videos,
            "lr": self._lr(self._step - 1),
            "videos_per_second": videos / seconds,
            "data_wait": window.wait_seconds / seconds,
        }
        self.reporter.record("train", step=self._step, epoch=self._epochs_done(), values=values)
        self._count_failures([failure for _, some, _ in gathered for failure in some])

    def _epochs_done(self) -> float:
        return self._step / self._order.steps_per_epoch

    def _count_failures(self, failures: list[Failure]) -> None:
        fresh = {failure.name: failure.reason for failure in failures if failure.name not in self._failed}
        if not fresh:
            return
        self._failed |= fresh
        path = self._options.work_dir / FAILED_FILE
        if self._process.is_first:
            with files.replacing(path) as (target,):
                text = "".join(f"{name}: {reason}\n" for name, reason in self._failed.items())
                target.write_text(text, encoding="utf-8")
        for name, reason in fresh.items():
            self.reporter.line(f"replaced by another video: {name}: {reason}")
        allowed = self._spec.data.max_failed
        if len(self._failed) > allowed * len(self._train_entries):
            listed = ", ".join(list(self._failed)[:5]) + (", ..." if len(self._failed) > 5 else "")
            raise TrainingError(
                f"{len(self._failed)} of {len(self._train_entries)} videos cannot be read, more than data.max_failed "
                f"({allowed:.0%}): {listed}; all of them are in {path}; mend them and --resume, or allow more of them"
            )

    def _validate(self) -> None:
        if self._spec.norm.precise_batches:
            self._learner.measure_norms(self._norm_clips())
        else:
            self._learner.share_norms()
        found = validate(
            self._learner.evaluated,
            self._val_entries,
            self._spec.validation,
            flow=self._flow,
            averaging=self._spec.test.averaging,
            multi_class=self._spec.data.multi_class,
            max_failed=self._spec.data.max_failed,
            batch=self._spec.batch.videos,
            workers=self._spec.batch.workers,
            process=self._process,
        )
        values = {**found.percents, "videos": found.num_videos}
        self.reporter.record("val", step=self._step, epoch=self._epochs_done(), values=values)
        for failure in found.failures:
            self.reporter.line(f"left out of the validation: {failure.name}: {failure.reason}")
        if self._process.is_first:
            self._keep_best(found)

    def _keep_best(self, found: Validation) -> None:
        # A run that was killed while it replaced the best one has left it incomplete.
        is_lost = self._best is not None and snapshots.what_is_wrong(self._snapshots.best) is not None
        if self._best is None or is_lost or found.main > self._best["percent"]:
            self._best = {"step": self._step, "percent": found.main}
            card = self._card.replaced(accuracy=self._accuracy(found))
            self._snapshots.save(self._state(card), self._snapshots.best)

    def _norm_clips(self) -> Iterator[ClipBatch]:
        """Training clips that are not those of any epoch."""
        order, process = self._order, self._process
        epoch = _NORM_CLIPS + self._step
        numbers = order.epoch(epoch).reshape(-1, order.videos)[process.rank :: process.world_size]
        kept = numbers[: self._spec.norm.precise_batches]
        return self._load_clips([(epoch, int(index)) for index in row] for row in kept)

    def _accuracy(self, found: Validation) -> tuple[Accuracy, ...]:
        flow_by = "" if self._val_flow_by is None else f", flow by {self._val_flow_by}"
        return (
            Accuracy(
                data=f"{self._spec.data.list_path('val').stem} (validation)",
                runner=f"torch {torch.__version__}, {self._spec.compute.autocast}{flow_by}",
                num_videos=found.num_videos,
                views_per_video=found.views_per_video,
                **found.percents,
            ),
        )

    def _state(self, card: Card) -> State:
        return {
            **self._learner.state(),
            CARD_KEY: card.to_json(),
            "recipe": self._spec.to_json(),
            "step": self._step,
            "seed": self._seed,
            "videos_per_step": self._order.videos_per_step,
            "list": self._list_digest(),
            "validate": self._options.validate,
            "deterministic": self._options.deterministic,
            "best": self._best,
            "failed": self._failed,
        }

    def _save(self) -> None:
        if not self._process.is_first:
            return
        self._snapshots.save(self._state(self._card), self._snapshots.path(self._step))
        kept_steps = self._spec.keep_every * self._order.steps_per_epoch
        self._snapshots.prune(newest=self._step, keep=lambda step: kept_steps > 0 and step % kept_steps == 0)

    def publish(self) -> None:
        """Write the weights with their card, and draw the curves."""
        folder = self._options.work_dir
        path = self._snapshots.best if self._best is not None else self._snapshots.path(self._total_steps)
        problem = snapshots.what_is_wrong(path)
        if problem is not None:
            raise TrainingError(f"{path} cannot be published: {problem}")
        checkpoint.save(checkpoint.load(path), folder / PUBLISHED_FILE)
        progress.draw_curves(folder, title=self._spec.network.name)
        if self._best is not None:
            epochs = self._best["step"] / self._order.steps_per_epoch
            self.reporter.line(f"best validation: {self._best['percent']:.2f} % after {epochs:g} epochs")


def _seed(options: Options, saved: State | None) -> int:
    if saved is None:
        return secrets.randbits(31) if options.seed is None else options.seed
    stored = int(saved["seed"])
    if options.seed not in (None, stored):
        raise TrainingError(f"the run in {options.work_dir} has the seed {stored}, not {options.seed}")
    return stored
