"""What a card records of a network: its work, what it was calibrated on, and how right its answers are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from i3d_deploy.document import Count, Part, Percent

Status = Literal["passed", "failed", "not measured here"]


class Work(Part):
    """How much an engine multiplies for one view.

    Attributes:
        macs: Multiply-accumulates: output elements times weights per output, of every convolution, linear layer and
            matrix product. Biases, normalisation, ReLU, pooling, softmax and additions are not counted.
        elements: Elements of the inputs, weights and outputs of those layers, each once per layer; times the bytes of
            an element the least memory traffic of a network whose layers run one by one.
    """

    macs: Annotated[int, Field(ge=0)]
    elements: Annotated[int, Field(ge=0)]


class Calibration(Part):
    """The clips on which the ranges of a quantised engine were measured.

    Attributes:
        num_videos: Videos.
        num_views: Views of them in all.
        sha256: SHA-256 over the SHA-256 of each file, in order: the same clips give the same one.
    """

    num_videos: Annotated[int, Field(ge=1)]
    num_views: Annotated[int, Field(ge=1)]
    sha256: str


class Parity(Part):
    """One measurement of an engine against its PyTorch float32 source.

    Attributes:
        runner: What ran the engine: package, version, provider and the precision it really used; and who computed the
            flow that it was shown.
        status: "passed", "failed", or "not measured here" where the engine cannot run on the exporting machine.
        reason: Why it was not measured, or which stage failed.
        clips: "generated" or "given" and the SHA-256 of each video file.
        num_views: Views compared.
        max_logits: Largest difference of a logit of any view.
        max_logits_allowed: The limit it was held against.
        cosine: Smallest cosine similarity of a view's logits.
        top1_agreement: Share of views with the same first class.
        max_probabilities: Largest difference of an averaged probability.
    """

    runner: str
    status: Status
    reason: str | None = None
    clips: tuple[str, ...] = ()
    num_views: int = 0
    max_logits: float | None = None
    max_logits_allowed: float | None = None
    cosine: float | None = None
    top1_agreement: float | None = None
    max_probabilities: float | None = None


class Agreement(Part):
    """How far an engine agrees with its PyTorch float32 source on clips without labels.

    Attributes:
        runner: What ran the engine, as in :class:`Parity`.
        num_views: Views compared: those that it was calibrated on.
        top1: Share of views with the same first class, in percent.
        kl_divergence: Mean over the views of the Kullback-Leibler divergence of the engine's probabilities from the
            source's, in nats: 0 where they are equal.
    """

    runner: str
    num_views: Annotated[int, Field(ge=1)]
    top1: Percent
    kl_divergence: Annotated[float, Field(ge=0)]


class Accuracy(Part):
    """One evaluation on a labelled list.

    Attributes:
        data: What was evaluated: the list's name and its part, such as "kinetics400_val_list_videos (val)".
        runner: What ran the network, as in :class:`Parity`.
        num_videos: Videos evaluated.
        views_per_video: Views that were averaged.
        top1: Share of videos whose label is the most probable class, in percent.
        top5: Share of videos whose label is among the five most probable classes, in percent.
        mean_class: Mean of the classes' own accuracies, in percent.
        mean_average_precision: Mean of the classes' average precisions, in percent, where videos have several classes.
    """

    data: str
    runner: str
    num_videos: Annotated[int, Field(ge=1)]
    views_per_video: Count
    top1: Percent | None = None
    top5: Percent | None = None
    mean_class: Percent | None = None
    mean_average_precision: Percent | None = None


class Gate(Part):
    """Whether an engine kept its source's accuracy when it was exported.

    Attributes:
        data: The labelled list.
        status: As in :class:`Parity`.
        reason: Why it was not measured, by how much it failed, or that an answer was not finite.
        max_drop: Percentage points of top-1 that the engine may lose.
        source_top1: Top-1 of the PyTorch float32 source, in percent.
        top1: Top-1 of the engine, in percent.
    """

    data: str
    status: Status
    reason: str | None = None
    max_drop: Percent
    source_top1: Percent
    top1: Percent | None = None
