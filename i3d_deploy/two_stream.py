"""Two networks behind one card: one is shown the frames, the other their optical flow, and their logits are added up.

The pair is a small JSON document beside the two files, such as ``i3d.json`` beside ``i3d_rgb.onnx`` and
``i3d_flow.onnx``. It holds their names and SHA-256, and no card: the pair's card follows from theirs.

Source: Carreira and Zisserman 2017; kinetics-i3d ``evaluate_sample.py`` adds the logits of both streams.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from i3d_deploy import files
from i3d_deploy.card import Card, Provenance
from i3d_deploy.document import Part
from i3d_deploy.errors import ArtifactError, InputError
from i3d_deploy.network import TwoStream
from i3d_deploy.preprocessing import Pixels

_MAX_BYTES = 1 << 20


class _Stream(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["i3d-deploy two-stream"]
    version: Literal[1]
    rgb: _Stream
    flow: _Stream


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The files of two streams.

    Attributes:
        rgb: Of the network that is shown frames.
        flow: Of the network that is shown their optical flow.
    """

    rgb: Path
    flow: Path


def write(path: Path, pair: Pair) -> None:
    """Write the document of a pair, replaced as a whole.

    Args:
        path: A ``.json`` file in the folder of both files.
        pair: The files.

    Raises:
        InputError: They are in other folders.
    """
    if path.suffix.lower() != ".json":
        raise InputError(f"{path}: a pair of streams is written as .json")
    for file in (pair.rgb, pair.flow):
        if file.resolve().parent != path.resolve().parent:
            raise InputError(f"{file} is not beside {path}: put both streams into one folder")
    streams = {
        name: _Stream(file=file.name, sha256=files.sha256(file))
        for name, file in (("rgb", pair.rgb), ("flow", pair.flow))
    }
    document = _Document(format="i3d-deploy two-stream", version=1, **streams)
    with files.replacing(path) as (target,):
        target.write_text(document.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> Pair:
    """Read the document of a pair and check its files.

    Raises:
        ArtifactError: It is no such document, or a file is missing or another one.
    """
    problem = files.what_is_wrong(path)
    if problem is not None:
        raise ArtifactError(f"{path}: {problem}")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("too large")
        document = _Document.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, RecursionError, ValidationError) as error:
        raise ArtifactError(
            f"{path}: not a pair of streams: i3d-export RGB --flow FLOW writes one beside its two files"
        ) from error
    found = []
    for stream in (document.rgb, document.flow):
        file = path.parent / stream.file
        if "/" in stream.file or stream.file in ("", ".", ".."):
            raise ArtifactError(f"{path}: {stream.file!r} is no name of a file beside it")
        problem = files.what_is_wrong(file)
        if problem is not None:
            raise ArtifactError(f"{path}: it also needs {stream.file} beside it: {problem}")
        digest = files.sha256(file)
        if digest != stream.sha256:
            raise ArtifactError(
                f"{file}: its SHA-256 is {digest[:8]}..., {path.name} describes {stream.sha256[:8]}...: "
                "the file was replaced; export the pair again"
            )
        found.append(file)
    return Pair(rgb=found[0], flow=found[1])


def check_single(path: Path) -> None:
    """Refuse a pair where the first of two streams is wanted.

    Raises:
        InputError: It is the document of a pair.
    """
    if path.suffix.lower() == ".json":
        raise InputError(f"{path} already has its flow stream: leave out --flow")


def combine(rgb: Card, flow: Card) -> Card:
    """The card of two streams.

    Args:
        rgb: The card of the network of frames.
        flow: The card of the network of flow.

    Returns:
        A card whose views have five channels: the frames' three, then the flow's two.

    Raises:
        InputError: They are not of these two kinds, or treat a video in different ways.
    """
    for stream, card in (("rgb", rgb), ("flow", flow)):
        if card.modality != stream:
            raise InputError(f"{card.network.name} is shown {card.modality}: it is no {stream} stream of a pair")
    for part in ("labels", "sampling", "spatial", "averaging"):
        if getattr(rgb, part) != getattr(flow, part):
            difference = _difference(getattr(rgb, part), getattr(flow, part))
            raise InputError(
                f"the two streams differ in {part} ({difference}): give both the same when they are exported"
            )
    assert not isinstance(rgb.network, TwoStream) and not isinstance(flow.network, TwoStream)
    pixels = Pixels(color="rgbxy", mean=rgb.pixels.mean + flow.pixels.mean, std=rgb.pixels.std + flow.pixels.std)
    return Card(
        network=TwoStream(rgb=rgb.network, flow=flow.network),
        label_set=rgb.label_set,
        labels=rgb.labels,
        modality="rgb+flow",
        flow_method=flow.flow_method,
        flow_implementation=flow.flow_implementation,
        sampling=rgb.sampling,
        spatial=rgb.spatial,
        pixels=pixels,
        averaging=rgb.averaging,
        provenance=Provenance(origin=f"{rgb.provenance.origin} + {flow.provenance.origin}"),
    )


def _difference(of_rgb: Any, of_flow: Any) -> str:
    """The first thing in which parts of two cards differ."""
    if isinstance(of_rgb, Part):
        name = next(name for name in type(of_rgb).model_fields if getattr(of_rgb, name) != getattr(of_flow, name))
        return f"{name} is {getattr(of_rgb, name)} of rgb and {getattr(of_flow, name)} of flow"
    if isinstance(of_rgb, tuple):
        if len(of_rgb) != len(of_flow):
            return f"{len(of_rgb)} of rgb and {len(of_flow)} of flow"
        number = next(number for number, names in enumerate(zip(of_rgb, of_flow, strict=True)) if len(set(names)) > 1)
        return f"class {number} is {of_rgb[number]!r} of rgb and {of_flow[number]!r} of flow"
    return f"{of_rgb} of rgb and {of_flow} of flow"
