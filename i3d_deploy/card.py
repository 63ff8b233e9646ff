"""The card: everything that turns a video into a prediction, as one small document that travels with the weights.

Training writes it, every exported file carries it, and the Python runtime, the engines and the benchmark execute it.
Nobody configures pre-processing twice, so it cannot differ. ``Card.model_json_schema()`` documents it for readers in
other languages.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from i3d_deploy import labels
from i3d_deploy.document import Count, Part, first_problem
from i3d_deploy.errors import CardError, InputError
from i3d_deploy.measurements import Accuracy, Agreement, Calibration, Gate, Parity, Work
from i3d_deploy.network import Network
from i3d_deploy.preprocessing import Pixels, Sampling, Spatial

VERSION = 1
"""Version of the card that this library writes; it reads this one and older ones."""

Modality = Literal["rgb", "flow", "rgb+flow"]
FlowMethod = Literal["tvl1", "dis"]
Averaging = Literal["probabilities", "logits"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
EngineInput = Literal["uint8_nthwc", "float32_nthwc", "float32_ncthw"]
Layout = Literal["3d", "2d"]
Rewrite = Literal["merge_pads", "skip_dropped_frames"]


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
    tools: dict[str, str] = Field(default={})


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
        flow_implementation: Who computed the flow that the network was trained on: package, version and algorithm.
            None: it is not known, and left out of the JSON.
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
    flow_implementation: str | None = None
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
        problem = what_is_too_small(self.network, self.sampling, self.spatial)
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
        if self.flow_implementation is not None and self.flow_method is None:
            raise ValueError(f"flow_implementation {self.flow_implementation!r} without a flow_method")
        if self.engine is not None and (self.engine.input, self.spatial.dtype) == ("uint8_nthwc", "float32"):
            raise ValueError("engine.input uint8_nthwc does not go with spatial.formula slowfast: pixels are float32")
        if "flow" in self.modality and self.spatial.formula == "slowfast":
            raise ValueError("flow is stored in 8 bits: spatial.formula must be mmaction2")
        return self

    @model_serializer(mode="wrap")
    def _without_the_unknown(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = serialize(self)
        if self.flow_implementation is None:
            document.pop("flow_implementation", None)
        return document

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


def what_is_too_small(network: Network, sampling: Sampling, spatial: Spatial) -> str | None:
    """Why the shortest views of a video do not get through a network; None where all do.

    Args:
        network: The network's numbers.
        sampling: Which frames make them; of whole videos also those of the usual length are checked.
        spatial: Which pixels.
    """
    problem = network.what_is_too_small(sampling.clip_len, spatial.crop_size)
    if problem is None and sampling.scheme == "whole":
        problem = network.what_is_too_small(sampling.min_clip_len, spatial.crop_size)
        return None if problem is None else problem.replace("clip_len", "min_clip_len")
    return problem


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
