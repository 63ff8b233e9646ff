"""A recipe: everything that one training run needs, as data.

A recipe is a Python file that assigns ``recipe = Recipe(...)``. Defaults live here alone; ``--set name=value``
overrides named fields; the whole resolved recipe is printed, kept beside the run and stored in every checkpoint.

Source of the defaults: mmaction2 0.24.1 configs/recognition/i3d/i3d_r50_32x2x1_100e_kinetics400_rgb.py.
"""

from __future__ import annotations

import difflib
import json
import runpy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from i3d_deploy import __version__, images, labels, lists, prepared_flow
from i3d_deploy.card import Averaging, Card, FlowMethod, Provenance, what_is_too_small
from i3d_deploy.document import Count, Part, first_problem
from i3d_deploy.errors import InputError
from i3d_deploy.lists import Annotation, ListKind
from i3d_deploy.network import OneNetwork
from i3d_deploy.prepared_flow import Prepared
from i3d_deploy.preprocessing import Pixels, Sampling, Spatial
from i3d_deploy.training.clips import Probability, TrainViews, ValidationViews

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Split = Literal["train", "val", "test"]


class Data(Part):
    """Which videos, and what their classes are called.

    Attributes:
        kind: Whether the lists name "video" files or folders of "frames". Of these, a network of frames reads
            ``image_name``, and one of optical flow ``x_00001.jpg`` and ``y_00001.jpg``, whose pairs its lists count.
        flow_method: How that flow was computed, and how it is where there are videos or frames alone; None for a
            network of frames. Where training/prepare.py made the flow, its ``flow.json`` must say the same of method,
            short side and rate (:mod:`i3d_deploy.prepared_flow`).
        folder: Where the data set is; the other paths start from it.
        train_list: The list trained on. ``{split}`` in a list's path stands for ``split``.
        val_list: The list validated on.
        test_list: The list tested on.
        train_root: Folder that the paths in ``train_list`` start from.
        val_root: The same of ``val_list``.
        test_root: The same of ``test_list``.
        split: Number of the official split.
        labels: A shipped label set, or a text file of one name a line.
        with_offset: Lines of frame lists have an offset.
        multi_class: Lines have one or more labels.
        image_name: Names of frames, as for ``str.format``; numbered from 1.
        max_failed: Share of the list's videos that may fail to read before the run stops.
    """

    kind: ListKind = "frames"
    flow_method: FlowMethod | None = None
    folder: str = "."
    train_list: str
    val_list: str
    test_list: str
    train_root: str = "."
    val_root: str = "."
    test_root: str = "."
    split: Annotated[int, Field(ge=1)] = 1
    labels: str = "kinetics400"
    with_offset: bool = False
    multi_class: bool = False
    image_name: str = images.NAME
    max_failed: Probability = 0.05

    @model_validator(mode="after")
    def _check_image_name(self) -> Data:
        try:
            names = {self.image_name.format(number) for number in (1, 2)}
        except (ValueError, IndexError, KeyError) as error:
            raise ValueError(f"image_name {self.image_name!r} is no pattern such as 'img_{{:05}}.jpg'") from error
        if len(names) == 1:
            raise ValueError(f"image_name {self.image_name!r} has no place for the number, such as {{:05}}")
        return self

    def list_path(self, split: Split) -> Path:
        """Where the list of a part of the data is."""
        name: str = getattr(self, f"{split}_list")
        return Path(self.folder, name.replace("{split}", str(self.split)))

    def root(self, split: Split) -> Path:
        """Where the paths in the list of a part of the data start from."""
        return Path(self.folder, getattr(self, f"{split}_root"))

    def read(self, split: Split, *, num_classes: int) -> tuple[Annotation, ...]:
        """Read the list of a part of the data.

        Raises:
            InputError: The list cannot be read or is malformed.
        """
        path = self.list_path(split)
        if not path.exists():
            raise InputError(
                f"list {path}: no such file: training/prepare.py makes it, --set data.folder=FOLDER says where it is"
            )
        return lists.read(
            path,
            kind=self.kind,
            root=self.root(split),
            num_classes=num_classes,
            with_offset=self.with_offset,
            multi_class=self.multi_class,
            image_name=self.image_name,
        )

    def label_names(self) -> tuple[str, tuple[str, ...]]:
        """The label set's name ("custom" for a file) and the names.

        Raises:
            InputError: It is neither a shipped set nor a readable file.
        """
        if self.labels in labels.LABEL_SETS:
            self._check_prepared_labels(labels.load(self.labels))
            return self.labels, labels.load(self.labels)
        return "custom", labels.read(Path(self.folder, self.labels))

    def _check_prepared_labels(self, names: tuple[str, ...]) -> None:
        """The lists of a part of a data set are numbered by the labels that were written with them."""
        path = Path(self.folder, "labels.txt")
        if path.exists() and (prepared := labels.read(path)) != names:
            raise InputError(
                f"{path} has {len(prepared)} other classes than the label set {self.labels} of the recipe: "
                f"--set data.labels=labels.txt --set network.num_classes={len(prepared)}"
            )


class Test(Part):
    """What testing does to a video, and what the published card says.

    Attributes:
        sampling: Which frames.
        spatial: Which pixels.
        averaging: What is averaged over the views.
    """

    __test__ = False  # no test class of pytest

    sampling: Sampling = Sampling()
    spatial: Spatial = Spatial()
    averaging: Averaging = "probabilities"


class Batch(Part):
    """How many videos go into one step of the optimiser.

    Attributes:
        videos: Per process (per GPU) and forward pass.
        accumulate: Forward passes per step.
        lr_reference: Videos per step that the recipe's learning rate is for.
        scale_lr: Scale the learning rate by (videos per step) / ``lr_reference``.
        workers: Processes per GPU that read videos; 0 reads in the training process.
    """

    videos: Count = 8
    accumulate: Count = 1
    lr_reference: Count = 64
    scale_lr: bool = False
    workers: Annotated[int, Field(ge=0, le=256)] = 2


class Optimizer(Part):
    """What a step does with the gradients. Weight decay acts on all parameters, as in the zoo.

    Attributes:
        kind: "sgd" or "adamw".
        lr: Learning rate at its height.
        momentum: Of SGD.
        nesterov: Of SGD.
        betas: Of AdamW.
        weight_decay: L2 penalty of SGD, decoupled decay of AdamW.
        clip_norm: Largest L2 norm of all gradients together; None: as they are.
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: NonNegative = 1e-4
    clip_norm: Positive | None = 40.0


class Schedule(Part):
    """How the learning rate changes.

    Attributes:
        kind: "step" multiplies it by ``gamma`` at every epoch of ``milestones``; "table" sets it by ``table``; "cosine"
            lets it fall to ``floor``.
        milestones: Epochs, counted from 0, at whose beginning "step" acts.
        gamma: Factor of "step".
        table: Rows of "table": a step, counted from 0, and the share of the learning rate from there on.
        floor: Share of the learning rate that "cosine" ends with.
        warmup_epochs: It rises linearly over this many epochs.
        warmup_start: Share of the learning rate that it rises from.
    """

    kind: Literal["step", "table", "cosine"] = "step"
    milestones: tuple[int, ...] = (40, 80)
    gamma: Positive = 0.1
    table: tuple[tuple[int, Positive], ...] = ()
    floor: Probability = 0.0
    warmup_epochs: NonNegative = 0.0
    warmup_start: Probability = 0.1

    @model_validator(mode="after")
    def _check_table(self) -> Schedule:
        steps = [step for step, _ in self.table]
        if self.kind == "table" and (steps[:1] != [0] or steps != sorted(set(steps))):
            raise ValueError(f"the steps of table {steps} must begin with 0 and ascend")
        return self


class Compute(Part):
    """How the network is run in training.

    Attributes:
        autocast: Type of the convolutions; in "fp32", GPUs from Ampere on multiply as TF32, as PyTorch has it.
        channels_last: Store activations channels last, which GPUs and CPUs are faster in.
        compile: Compile the network with torch.compile.
    """

    autocast: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    compile: bool = False


class Norm(Part):
    """What batch normalisation does.

    Attributes:
        freeze: Use the running statistics in training and leave them as they are.
        sync: Take the statistics over all processes.
        precise_batches: Before each validation, measure the running statistics anew over this many batches; 0: never.
    """

    freeze: bool = False
    sync: bool = False
    precise_batches: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _check_frozen(self) -> Norm:
        if self.freeze and (self.sync or self.precise_batches):
            raise ValueError("frozen statistics are neither synchronised nor measured anew")
        return self


class Recipe(Part):
    """The whole recipe.

    Attributes:
        network: The numbers that build the network.
        data: Which videos.
        train: How clips are drawn from them.
        validation: The views that validation averages.
        test: The views of a test; they go on the card.
        pixels: Their scaling.
        batch: Videos per step.
        epochs: Times that the list is gone through; does not count where ``steps`` is given.
        steps: Steps of the run, in place of ``epochs``; None: as many as ``epochs`` take.
        optimizer: What a step does.
        schedule: How the learning rate changes.
        compute: How the network is run.
        norm: What batch normalisation does.
        dropout: Probability before the classifier.
        label_smoothing: Share of the target spread over all classes.
        ema: Decay of the moving average of the weights that is validated and published; None: the weights themselves.
        validate_every: Epochs between validations.
        checkpoint_every: Epochs between checkpoints.
        checkpoint_steps: Steps between checkpoints as well; None: only after epochs.
        keep_every: Checkpoints after a multiple of this many epochs are kept; 0: only the last and the best.
        log_every: Steps between log lines.
    """

    network: OneNetwork
    data: Data
    train: TrainViews = TrainViews()
    validation: ValidationViews = ValidationViews()
    test: Test = Test()
    pixels: Pixels = Pixels()
    batch: Batch = Batch()
    epochs: Annotated[int, Field(ge=1)] = 100
    steps: Annotated[int, Field(ge=1)] | None = None
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    compute: Compute = Compute()
    norm: Norm = Norm()
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    validate_every: Count = 5
    checkpoint_every: Count = 5
    checkpoint_steps: Count | None = None
    keep_every: Annotated[int, Field(ge=0)] = 5
    log_every: Count = 20

    @model_validator(mode="after")
    def _check_sizes(self) -> Recipe:
        problems = {
            "train": self.network.what_is_too_small(self.train.clip_len, self.train.crop_size),
            "validation": what_is_too_small(self.network, self.validation.sampling, self.validation.spatial),
            "test": what_is_too_small(self.network, self.test.sampling, self.test.spatial),
        }
        for name, problem in problems.items():
            if problem is not None:
                raise ValueError(f"{name}: {problem}")
        return self

    @model_validator(mode="after")
    def _check_modality(self) -> Recipe:
        color = {"rgb": "rgb", "flow": "xy"}[self.network.stream]
        if self.pixels.color != color:
            raise ValueError(
                f"pixels.color {self.pixels.color} is not what {self.network.name} is shown: its {len(color)} channels "
                f"are {color}, each with a mean and std"
            )
        if (self.data.flow_method is not None) != (self.network.stream == "flow"):
            problem = "say how: tvl1 or dis" if self.data.flow_method is None else "leave it out"
            raise ValueError(
                f"data.flow_method is {self.data.flow_method} and {self.network.name} is shown {self.network.stream}: "
                f"{problem}"
            )
        if self.network.stream == "flow" and self.test.spatial.formula == "slowfast":
            raise ValueError("test.spatial.formula is slowfast, and flow is kept in 8 bits: give mmaction2")
        return self

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of the run.

        Args:
            steps_per_epoch: Steps that go once through the list.
        """
        return self.epochs * steps_per_epoch if self.steps is None else self.steps

    def card(self) -> Card:
        """The card of what the recipe trains, without provenance of the weights.

        Raises:
            InputError: The labels cannot be read, or are not as many as the network's classes.
        """
        label_set, names = self.data.label_names()
        if len(names) != self.network.num_classes:
            raise InputError(
                f"data.labels ({self.data.labels}) has {len(names)} names for a network of "
                f"{self.network.num_classes} classes: --set network.num_classes={len(names)}"
            )
        return Card(
            network=self.network,
            label_set=label_set,
            labels=names,
            modality=self.network.stream,
            flow_method=self.data.flow_method,
            sampling=self.test.sampling,
            spatial=self.test.spatial,
            pixels=self.pixels,
            averaging=self.test.averaging,
            provenance=Provenance(origin="i3d-deploy training", tools={"i3d-deploy": __version__}),
        )

    def flow_implementation(self, entries: Sequence[Annotation]) -> str | None:
        """Who computed the flow of a list, or will while it is read; None where that is not known, or it is of frames.

        Args:
            entries: The list.

        Raises:
            InputError: Its flow was made in another way than the recipe says.
            MissingExtraError: Nothing that is installed computes the flow of its videos.
        """
        method = self.data.flow_method
        return None if method is None else self.prepared_flow(entries).implementation(method)

    def prepared_flow(self, entries: Sequence[Annotation]) -> Prepared:
        """The flow images of a list, held against the recipe where it is one of flow.

        Args:
            entries: The list.

        Raises:
            InputError: They were made in another way than the recipe says.
        """
        prepared = prepared_flow.of_list(entries)
        if self.data.flow_method is not None:
            prepared_flow.check(
                prepared,
                method=self.data.flow_method,
                short_side=self.test.spatial.short_side,
                frames_per_second=self.test.sampling.frames_per_second,
            )
        return prepared

    def to_json(self, *, indent: int | None = None) -> str:
        """The recipe as JSON, fields in their order."""
        return json.dumps(self.model_dump(mode="json"), indent=indent, ensure_ascii=False)

    def overridden(self, settings: Sequence[str]) -> Self:
        """The recipe with other values.

        Args:
            settings: ``name=value`` each, where the name is a path such as ``optimizer.lr`` and the value is JSON or,
                where it is none, plain text.

        Raises:
            InputError: A name is unknown (similar ones are listed), a value has the wrong type or is out of range, or
                ``epochs`` is set where ``steps`` decides.
        """
        document = self.model_dump(mode="json")
        known = dict(flat(document))
        for setting in settings:
            name, separator, value = setting.partition("=")
            if not separator:
                raise InputError(f"--set {setting}: write name=value, such as optimizer.lr=0.02")
            if name not in known:
                raise InputError(f"--set {setting}: {_unknown(name, list(known))}")
            *path, leaf = name.split(".")
            target = document
            for part in path:
                target = target[part]
            target[leaf] = _parsed(value)
        names = {setting.partition("=")[0] for setting in settings}
        if "epochs" in names and "steps" not in names and document["steps"] is not None:
            raise InputError(
                f"--set epochs={document['epochs']}: steps ({document['steps']}) decides the length of the run: "
                "set steps, or steps=null as well"
            )
        try:
            # Strict, so that neither true is taken for 1 nor text for a number.
            return type(self).model_validate_json(json.dumps(document), strict=True)
        except ValidationError as error:
            given = error.errors()[0]["input"]
            said = "" if isinstance(given, dict) else f", not {given!r}"
            raise InputError(f"--set: {first_problem(error)}{said}") from error


def flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested document as (dotted name, value)."""
    for name, value in document.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differences(one: Recipe, other: Recipe) -> list[str]:
    """Where two recipes differ, a line each: name, one's value, the other's."""
    ours, theirs = (dict(flat(recipe.model_dump(mode="json"))) for recipe in (one, other))
    return [f"{name}: {ours[name]!r} -> {theirs[name]!r}" for name in ours if ours[name] != theirs[name]]


def load(name: str, *, folder: Path) -> Recipe:
    """Run a recipe file.

    Args:
        name: Of a recipe in ``folder``, without ending; or the path of a ``.py`` file, or of a ``recipe.json`` that a
            run has left.
        folder: Where the named recipes are.

    Raises:
        InputError: There is no such recipe (similar names are listed), or the file assigns none.
    """
    path = Path(name) if name.endswith((".py", ".json")) else folder / f"{name}.py"
    if not path.is_file():
        names = sorted(file.stem for file in folder.glob("*.py"))
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names
        raise InputError(f"recipe {name}: no such file; did you mean {', '.join(near)}?")
    if path.suffix == ".json":
        return from_json(path.read_text(encoding="utf-8"), where=str(path))
    try:
        found = runpy.run_path(str(path)).get("recipe")
    except ValidationError as error:
        raise InputError(f"recipe {path}: {first_problem(error)}") from error
    except Exception as error:  # a recipe is a program, which fails in its own ways
        raise InputError(f"recipe {path} cannot be run: {type(error).__name__}: {error}") from error
    if not isinstance(found, Recipe):
        raise InputError(f"recipe {path} assigns no Recipe to the name recipe")
    return found


def from_json(text: str, *, where: str) -> Recipe:
    """Read a recipe that a run has stored.

    Raises:
        InputError: It is malformed.
    """
    try:
        return Recipe.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"the recipe of {where} is malformed: {first_problem(error)}") from error


def _parsed(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return None if value == "None" else value


def _unknown(name: str, known: list[str]) -> str:
    leaf = name.rpartition(".")[2]
    near = [other for other in known if other.rpartition(".")[2] == leaf]
    near += [other for other in difflib.get_close_matches(name, known, n=3, cutoff=0.5) if other not in near]
    hint = f"did you mean {', '.join(near)}?" if near else f"known are {', '.join(known)}"
    return f"there is no {name}; {hint}"
