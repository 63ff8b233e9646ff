"""The card: everything that turns a video into a prediction, as one small document that travels with the weights.

Training writes it, every exported file carries it, and the Python runtime, the engines and the benchmark execute it.
Nobody configures pre-processing twice, so it cannot differ.

The card is a pydantic model because it is read from files that strangers made: every field is checked, an unknown one
is refused, errors name the field, and ``Card.model_json_schema()`` documents it for readers in other languages.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from i3d_deploy import geometry, labels, sampling
from i3d_deploy.errors import CardError, InputError, VideoError
from i3d_deploy.network import Network

VERSION = 1
"""Version of the card that this library writes; it reads this one and older ones."""

Scheme = Literal["uniform", "dense", "whole"]
Formula = Literal["mmaction2-0.x", "mmaction2-1.x", "slowfast"]
SpatialFormula = Literal["mmaction2", "slowfast"]
Modality = Literal["rgb", "flow", "rgb+flow"]
FlowMethod = Literal["tvl1", "dis"]
Averaging = Literal["probabilities", "logits"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
EngineInput = Literal["uint8_nthwc", "float32_nthwc", "float32_ncthw"]
Layout = Literal["3d", "2d"]
Rewrite = Literal["merge_pads", "skip_dropped_frames"]
Status = Literal["passed", "failed", "not measured here"]

Count = Annotated[int, Field(ge=1, le=65536)]
Percent = Annotated[float, Field(ge=0, le=100)]
PerChannel = Annotated[tuple[float, ...], Field(min_length=2, max_length=5)]


class Part(BaseModel):
    """A checked, immutable piece of a document: unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def replaced(self, **changes: Any) -> Self:
        """A copy with other values, checked as a new one is.

        Raises:
            InputError: A value is out of range.
        """
        try:
            return self.model_validate({**dict(self), **changes})
        except ValidationError as error:
            raise InputError(first_problem(error)) from error


def first_problem(error: ValidationError) -> str:
    """What is wrong with a document, in one line: the first field at fault and why."""
    first = error.errors()[0]
    # The kind of a network is no field of the document.
    field = re.sub(
        r"\bnetwork\.(resnet|inception|two-stream)\b", "network", ".".join(str(part) for part in first["loc"])
    )
    message = first["msg"].removeprefix("Value error, ")
    return f"{field}: {message}" if field else message


class Sampling(Part):
    """Which frames make the clips of a video.

    Attributes:
        scheme: "uniform" spreads the clips, "dense" draws them from overlapping windows, "whole" makes one clip of all
            frames, however many there are.
        formula: Whose formula places uniform clips; accuracies under them differ. SlowFast's counts in seconds.
        clip_len: T, frames per clip; of whole videos, of one of the usual length.
        frame_interval: Distance of two frames of a clip.
        num_clips: Clips per video.
        sample_range: Frames per window of the dense scheme.
        min_clip_len: Whole videos that have fewer frames are repeated.
        frames_per_second: The rate that the frames are counted at: of a video of another rate frames are left out or
            repeated, and SlowFast's windows are longer or shorter. None: whatever rate a video has.
        out_of_bound: What follows the last frame of a short video.
    """

    scheme: Scheme = "uniform"
    formula: Formula = "mmaction2-0.x"
    clip_len: Count = 32
    frame_interval: Count = 2
    num_clips: Count = 10
    sample_range: Count = 64
    min_clip_len: Count = 1
    frames_per_second: Annotated[float, Field(gt=0, le=1000)] | None = None
    out_of_bound: sampling.OutOfBound = "loop"

    @model_validator(mode="after")
    def _check_whole(self) -> Sampling:
        if self.scheme == "whole" and self.num_clips != 1:
            raise ValueError(f"a whole video is one clip: num_clips ({self.num_clips}) must be 1")
        return self

    def frame_indices(
        self, num_frames: int, frames_per_second: float | None = None, *, num_clips: int | None = None
    ) -> sampling.Indices:
        """Choose the frames of a video.

        Args:
            num_frames: Its length.
            frames_per_second: Its rate; None where it is not known: that of the card.
            num_clips: Another number of clips than the card's.

        Returns:
            (clips, clip_len) int64 in [0, num_frames).

        Raises:
            InputError: Several clips are asked of a whole video.
            VideoError: A video is too long to be taken whole.
        """
        num_clips = self.num_clips if num_clips is None else num_clips
        speed = sampling.speed(frames_per_second, counted_at=self.frames_per_second)
        if self.scheme == "uniform" and self.formula == "slowfast":
            return sampling.slowfast_indices(
                num_frames,
                clip_len=self.clip_len,
                frame_interval=self.frame_interval,
                num_clips=num_clips,
                speed=speed,
            )
        counted = sampling.frames_at_rate(num_frames, speed=speed)
        indices = self._counted_indices(len(counted), num_clips=num_clips)
        return np.asarray(counted[indices])

    def flow_indices(
        self, num_frames: int, frames_per_second: float | None = None, *, num_clips: int | None = None
    ) -> tuple[sampling.Indices, sampling.Indices]:
        """Choose the flow frames of a video: each leads from one counted frame to the next.

        Args:
            num_frames: As for :meth:`frame_indices`.
            frames_per_second: As for :meth:`frame_indices`.
            num_clips: As for :meth:`frame_indices`.

        Returns:
            (clips, clip_len) int64, numbers of flow frames from 0; and (flow frames + 1,) int64, the frames of the
            video that they lie between.

        Raises:
            VideoError: There is one frame only; or as :meth:`frame_indices`.
        """
        speed = sampling.speed(frames_per_second, counted_at=self.frames_per_second)
        counted = sampling.frames_at_rate(num_frames, speed=speed)
        if len(counted) < 2:
            raise VideoError(f"a video of {num_frames} frames has no optical flow: it takes two at the card's rate")
        num_clips = self.num_clips if num_clips is None else num_clips
        return self._counted_indices(len(counted) - 1, num_clips=num_clips), counted

    def span(self, frames_per_second: float | None = None) -> int:
        """Frames of a video, from the first to the last one of a clip.

        Args:
            frames_per_second: As for :meth:`frame_indices`.
        """
        if self.scheme == "whole":
            return (self.min_clip_len - 1) * self.frame_interval + 1
        if self.frames_per_second is None or frames_per_second is None:
            return (self.clip_len - 1) * self.frame_interval + 1
        return int((self.clip_len - 1) * self.frame_interval * frames_per_second / self.frames_per_second) + 1

    def _counted_indices(self, num_frames: int, *, num_clips: int) -> sampling.Indices:
        clip_len, interval = self.clip_len, self.frame_interval
        if self.scheme == "whole":
            if num_clips != 1:
                raise InputError(
                    f"clips ({num_clips}) must be 1: a whole video is one clip; --sampling uniform has more"
                )
            return sampling.whole_indices(num_frames, frame_interval=interval, min_clip_len=self.min_clip_len)
        if self.scheme == "dense":
            starts = sampling.dense_starts(
                num_frames, num_clips=1, sample_range=self.sample_range, num_positions=num_clips
            )
        elif self.formula == "mmaction2-1.x":
            starts = sampling.uniform_starts_1x(
                num_frames, clip_len=clip_len, frame_interval=interval, num_clips=num_clips
            )
        else:
            starts = sampling.uniform_starts(
                num_frames, clip_len=clip_len, frame_interval=interval, num_clips=num_clips
            )
        return sampling.frame_indices(
            starts, num_frames=num_frames, clip_len=clip_len, frame_interval=interval, out_of_bound=self.out_of_bound
        )


class Spatial(Part):
    """Which pixels make the crops of a clip.

    Attributes:
        formula: Whose arithmetic. "mmaction2" rounds the longer side, and the resized pixels to uint8; its three crops
            are left, right, center. "slowfast" cuts off the longer side's fraction and does not round pixels; its crops
            are left, center, right.
        short_side: The shorter side is resized to this many pixels, aspect ratio kept.
        interpolation: Bilinear with half-pixel centers and no antialiasing (OpenCV's INTER_LINEAR).
        num_crops: 3 (those of portrait frames are top, bottom, center in the same order) or 1 (center).
        crop_size: Side of a crop.
    """

    formula: SpatialFormula = "mmaction2"
    short_side: Count = 256
    interpolation: Literal["bilinear"] = "bilinear"
    num_crops: Literal[1, 3] = 3
    crop_size: Count = 256

    @model_validator(mode="after")
    def _check_sides(self) -> Spatial:
        if self.crop_size > self.short_side:
            raise ValueError(f"crop_size ({self.crop_size}) must be <= short_side ({self.short_side})")
        if self.num_crops == 3 and self.crop_size != self.short_side:
            raise ValueError(f"three crops need crop_size ({self.crop_size}) == short_side ({self.short_side})")
        return self

    def boxes(self, height: int, width: int, *, num_crops: int | None = None) -> tuple[geometry.Box, ...]:
        """Cut a resized frame.

        Args:
            height: Rows after the resize.
            width: Columns after the resize.
            num_crops: Another number of crops than the card's: 1 or 3.
        """
        num_crops = self.num_crops if num_crops is None else num_crops
        if num_crops not in (1, 3):
            raise InputError(f"crops ({num_crops}) must be 1 or 3")
        if self.formula == "slowfast":
            crops = geometry.slowfast_crops(height, width, size=self.crop_size)
            return crops if num_crops == 3 else (crops[1],)
        if num_crops == 1:
            return (geometry.center_crop(height, width, size=self.crop_size),)
        return geometry.three_crops(height, width, size=self.crop_size)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a frame after the resize."""
        if self.formula == "slowfast":
            return geometry.slowfast_size(height, width, short_side=self.short_side)
        return geometry.short_side_size(height, width, short_side=self.short_side)

    @property
    def dtype(self) -> Literal["uint8", "float32"]:
        """Type of resized pixels; either way 0 to 255."""
        return "float32" if self.formula == "slowfast" else "uint8"


class Pixels(Part):
    """What a value of 0 to 255 becomes before the network: (value - mean) / std per channel, in ``color`` order.

    Attributes:
        color: "rgb", "xy" of optical flow (the displacement to the right and downwards, in 8 bits), or both.
        mean: One number per channel.
        std: One number per channel.
    """

    color: Literal["rgb", "xy", "rgbxy"] = "rgb"
    mean: PerChannel = (123.675, 116.28, 103.53)
    std: PerChannel = (58.395, 57.12, 57.375)

    @model_validator(mode="after")
    def _check_channels(self) -> Pixels:
        if not len(self.mean) == len(self.std) == len(self.color):
            raise ValueError(f"mean {self.mean} and std {self.std} must have a number for each channel of {self.color}")
        if min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be > 0")
        return self


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


class Engine(Part):
    """How an exported engine is fed and what it computes in.

    Attributes:
        input: "uint8_nthwc": ``frames`` uint8 (N, T, H, W, C), normalised inside; "float32_nthwc": the same as floats
            of 0 to 255, for frames whose pixels are not rounded; "float32_ncthw": normalised floats.
        precision: Type of the convolutions; normalisation, pooling and the classifier stay float32. With "int8" and
            "fp8" they multiply 8-bit numbers, whose ranges were measured on clips.
        profile: Smallest, best and largest N.
        layout: Whether its convolutions are 3D ones, or 2D ones that do the same.
        rewrites: What was done to its graph so that it does less: functions of :mod:`i3d_deploy.rewrites`.
        work: Of one view, counted in the ONNX graph that the engine was made from; None: it was not counted.
        calibration: The clips of "int8" and "fp8".
    """

    input: EngineInput = "uint8_nthwc"
    precision: Precision = "fp32"
    profile: tuple[Count, Count, Count] = (1, 30, 30)
    layout: Layout = "3d"
    rewrites: tuple[Rewrite, ...] = ()
    work: Work | None = None
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _check_profile(self) -> Engine:
        if not self.profile[0] <= self.profile[1] <= self.profile[2]:
            raise ValueError(f"profile {self.profile} must ascend: smallest, best, largest number of views")
        return self


class Provenance(Part):
    """Where the weights came from.

    Attributes:
        origin: Format of the checkpoint that was read ("mmaction2", "i3d-deploy", "random weights").
        sha256: SHA-256 of that file.
        tools: Versions that made the file, by package.
    """

    origin: str
    sha256: str | None = None
    tools: dict[str, str] = {}


class Parity(Part):
    """One measurement of an engine against its PyTorch float32 source.

    Attributes:
        runner: What ran the engine: package, version, provider and the precision it really used.
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


class Card(Part):
    """The whole card.

    Attributes:
        version: Of this document's form.
        network: The numbers that build the network.
        label_set: Name of the labels ("kinetics400", ..., "custom", "numbered").
        labels: K class names in output order.
        modality: What the network is shown: "rgb" frames, the optical "flow" from each frame to the next, or one of two
            networks each: "rgb+flow".
        flow_method: How the flow of a video is computed.
        sampling: Which frames.
        spatial: Which pixels.
        pixels: Their scaling.
        averaging: How the views of a video become one prediction: the mean of "probabilities" or of "logits".
        provenance: Where the weights came from.
        engine: How an exported engine is fed; None on a checkpoint.
        parity: What was measured when it was exported.
        agreement: How far a quantised engine agrees with its source on the clips that it was calibrated on.
        accuracy: What was measured on labelled videos, in training or later.
        gate: Whether the accuracy survived the export, where that was asked.
    """

    version: Annotated[int, Field(ge=1)] = VERSION
    network: Network
    label_set: str
    labels: tuple[str, ...]
    modality: Modality = "rgb"
    flow_method: FlowMethod | None = None
    sampling: Sampling = Sampling()
    spatial: Spatial = Spatial()
    pixels: Pixels = Pixels()
    averaging: Averaging = "probabilities"
    provenance: Provenance
    engine: Engine | None = None
    parity: tuple[Parity, ...] = ()
    agreement: tuple[Agreement, ...] = ()
    accuracy: tuple[Accuracy, ...] = ()
    gate: Gate | None = None

    @model_validator(mode="after")
    def _check_labels(self) -> Card:
        if len(self.labels) != self.network.num_classes:
            raise ValueError(f"{len(self.labels)} labels for a network of {self.network.num_classes} classes")
        problem = self.network.what_is_too_small(self.sampling.clip_len, self.spatial.crop_size)
        if problem is not None:
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _check_modality(self) -> Card:
        if self.modality != self.network.stream:
            raise ValueError(f"modality {self.modality} for a network of {self.network.in_channels} channels")
        if len(self.pixels.mean) != self.network.in_channels:
            raise ValueError(f"pixels.mean {self.pixels.mean} for a network of {self.network.in_channels} channels")
        if (self.flow_method is not None) != ("flow" in self.modality):
            raise ValueError(f"flow_method {self.flow_method} does not go with modality {self.modality}")
        if self.engine is not None and (self.engine.input, self.spatial.dtype) == ("uint8_nthwc", "float32"):
            raise ValueError("engine.input uint8_nthwc does not go with spatial.formula slowfast: pixels are float32")
        if "flow" in self.modality and self.spatial.formula == "slowfast":
            raise ValueError("flow is stored in 8 bits: spatial.formula must be mmaction2")
        return self

    @property
    def view_shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of one view; of whole videos, T is that of one of the usual length."""
        side = self.spatial.crop_size
        return (self.sampling.clip_len, side, side, self.network.in_channels)

    @property
    def has_fixed_length(self) -> bool:
        """Whether all views have the T of :attr:`view_shape`."""
        return self.sampling.scheme != "whole"

    @property
    def num_views(self) -> int:
        """Views per video."""
        return self.sampling.num_clips * self.spatial.num_crops

    def to_json(self, *, indent: int | None = None) -> str:
        """The card as JSON with sorted keys: equal cards give equal bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=indent, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> Card:
        """Read and check a card.

        Args:
            text: The JSON document.
            where: What carried it, for messages.

        Raises:
            CardError: It is no JSON, of a newer version, or a field is missing, unknown or out of range.
        """
        try:
            document = json.loads(text)
            json.dumps(document, ensure_ascii=False).encode()  # text that no file could hold again
        except (ValueError, RecursionError) as error:
            raise CardError(f"the card of {where} is no JSON document: {error}") from error
        version = document.get("version") if isinstance(document, dict) else None
        if not isinstance(version, int) or isinstance(version, bool):
            raise CardError(f"the card of {where} has no version number: not a card of i3d-deploy")
        if version > VERSION:
            raise CardError(
                f"the card of {where} has version {version}, this i3d-deploy reads up to {VERSION}: "
                "pip install --upgrade i3d-deploy"
            )
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise CardError(f"the card of {where} is malformed: {first_problem(error)}") from error


def with_labels(card: Card, name_or_names: str | tuple[str, ...]) -> Card:
    """Give a card other labels.

    Args:
        card: The card.
        name_or_names: A shipped set ("kinetics400", "ucf101", "hmdb51"), or K names.

    Raises:
        InputError: The number of names is not the network's number of classes.
    """
    is_shipped = isinstance(name_or_names, str)
    names = labels.load(name_or_names) if isinstance(name_or_names, str) else name_or_names
    if len(names) != card.network.num_classes:
        raise InputError(f"{len(names)} labels given for a network of {card.network.num_classes} classes")
    label_set = name_or_names if is_shipped else "custom"
    return card.model_copy(update={"label_set": label_set, "labels": names})


def normalize(views: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Turn views into what a float engine takes.

    Args:
        views: (N, T, H, W, C) uint8 or float32, values of 0 to 255.
        pixels: The card's scaling.

    Returns:
        (N, C, T, H, W) float32, contiguous.
    """
    mean, std = (np.array(values, np.float32) for values in (pixels.mean, pixels.std))
    scaled = (views.astype(np.float32) - mean) * (1 / std.astype(np.float64)).astype(np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 4, 1, 2, 3))
