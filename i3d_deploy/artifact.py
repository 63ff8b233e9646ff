"""Files that carry a card: which kind a file is, and reading its card without loading the engine.

============ ================ ==========================
suffix       contents         where the card is
============ ================ ==========================
safetensors  PyTorch weights  metadata
onnx         ONNX graph       ``metadata_props``
xml + bin    OpenVINO IR      ``rt_info``
engine, plan TensorRT plan    ``.engine.json`` beside it
json         two streams      in the files of both
============ ================ ==========================
"""

from __future__ import annotations

import hashlib
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from i3d_deploy import files, tensorflow_files, two_stream
from i3d_deploy.card import Card, Engine
from i3d_deploy.errors import ArtifactError, CardError

CARD_KEY = "i3d_card"
"""Name of the card in every file."""

Kind = Literal["safetensors", "onnx", "openvino", "tensorrt", "checkpoint", "two-stream"]
SUFFIXES: dict[str, Kind] = {
    ".safetensors": "safetensors",
    ".onnx": "onnx",
    ".xml": "openvino",
    ".engine": "tensorrt",
    ".plan": "tensorrt",
    ".pth": "checkpoint",
    ".pt": "checkpoint",
    ".pyth": "checkpoint",
    ".ckpt": "checkpoint",
    ".pkl": "checkpoint",
    ".json": "two-stream",
}

# ModelProto.metadata_props, a repeated message of key (1) and value (2).
_ONNX_METADATA_FIELD = 14
_MAX_HEADER_BYTES = 64 << 20


class EngineNote(BaseModel):
    """The document beside a TensorRT plan.

    Attributes:
        card: The card.
        sha256: Of the plan; checked before anything of it is read, because a plan is native code.
        flavor: Package that built it.
        version: Version of that package; a plan runs under this one only.
        compute_capability: GPU it was built for: "8.9", or "8.0+" for all that tensorrt_rtx has from 8.0 on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    card: Card
    sha256: str
    flavor: Literal["tensorrt", "tensorrt_rtx"]
    version: str
    compute_capability: str

    def to_text(self) -> str:
        """The document as JSON."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Artifact:
    """A file that exists, of a known kind, with its size checked."""

    path: Path
    kind: Kind


def identify(path: Path) -> Artifact:
    """Tell what a file is by its suffix.

    Raises:
        ArtifactError: It does not exist, is empty, or has an unknown suffix.
    """
    if tensorflow_files.is_checkpoint(path):
        return Artifact(path, "checkpoint")
    problem = files.what_is_wrong(path)
    if problem is not None:
        raise ArtifactError(f"{path}: {problem}{_engine_inside(path)}")
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise ArtifactError(f"{path}: unknown kind of file, allowed are {', '.join(SUFFIXES)}, .index")
    return Artifact(path, kind)


def parts(path: Path) -> Iterator[tuple[str, Path]]:
    """The files that a network is in, each with a name that does not depend on where they are.

    Raises:
        ArtifactError: A pair of streams is malformed, or one of its files is missing or another one.
    """
    suffix = path.suffix.lower()
    yield suffix, path
    if suffix == ".xml":
        yield ".bin", path.with_suffix(".bin")
    elif suffix == ".json":
        pair = two_stream.read(path)
        for stream, file in (("rgb", pair.rgb), ("flow", pair.flow)):
            yield from ((stream + name, part) for name, part in parts(file))


def sha256(*paths: Path) -> str:
    """SHA-256 of all files that networks are in: of one file its own, of several that of the lines of theirs.

    Raises:
        ArtifactError: As :func:`parts`.
        CheckpointError: A file of a TensorFlow checkpoint is missing.
        OSError: A file cannot be read.
    """
    digests: list[str] = []
    for path in paths:
        if tensorflow_files.is_checkpoint(path):
            digests.append(tensorflow_files.sha256(path))
        else:
            digests += (files.sha256(part) for _, part in parts(path))
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _engine_inside(path: Path) -> str:
    """Where the engine of a Triton repository is, for messages; empty where the path is none."""
    names = ("model.onnx", "model.xml", "model.plan")
    found = next((file for name in names for file in sorted(path.glob(f"*/1/{name}"))), None)
    return "" if found is None else f": the engine of this Triton repository is {found}"


def read_card(path: Path) -> Card:
    """Read the card of an exported file or native checkpoint, without its weights.

    Raises:
        ArtifactError: The file is missing, truncated or of an unknown kind.
        CardError: It carries no card, or a malformed or newer one.
    """
    artifact = identify(path)
    if artifact.kind == "tensorrt":
        return read_engine_note(path).card
    if artifact.kind == "two-stream":
        pair = two_stream.read(path)
        return two_stream.combine(read_card(pair.rgb), read_card(pair.flow))
    if artifact.kind == "checkpoint":
        raise CardError(f"{path} carries no card: it is a foreign checkpoint; i3d-export gives it one")
    readers = {"safetensors": _safetensors_metadata, "onnx": _onnx_metadata, "openvino": _openvino_metadata}
    text = readers[artifact.kind](path).get(CARD_KEY)
    if not isinstance(text, str):
        raise CardError(f"{path} carries no card: export it with i3d-export, which writes one")
    return Card.from_json(text, where=str(path))


def read_engine_card(path: Path) -> tuple[Card, Engine]:
    """Read the card of an exported engine, which says how to feed it.

    Raises:
        ArtifactError: As :func:`read_card`.
        CardError: As :func:`read_card`, or it is the card of a checkpoint.
    """
    card = read_card(path)
    if card.engine is None:
        raise CardError(f"the card of {path} does not say how to feed the engine: export it with i3d-export")
    return card, card.engine


def engine_note_path(path: Path) -> Path:
    """Where the document beside a TensorRT plan is."""
    return path.with_name(path.name + ".json")


def read_engine_note(path: Path) -> EngineNote:
    """Read the document beside a TensorRT plan and check the plan against it.

    Args:
        path: The plan.

    Raises:
        ArtifactError: The document is missing, or the plan is not the one it describes.
        CardError: The card in it is malformed or newer.
    """
    note_path = engine_note_path(path)
    try:
        text = note_path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(f"{path} carries no card: {note_path.name} beside it is missing or unreadable") from error
    try:
        document = json.loads(text)
        card = Card.from_json(json.dumps(document["card"]), where=str(note_path))
        note = EngineNote.model_validate({**document, "card": card})
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        raise CardError(f"{note_path} is malformed: {str(error).partition(chr(10))[0]}") from error
    found = files.sha256(path)
    if found != note.sha256:
        raise ArtifactError(
            f"{path}: its SHA-256 is {found[:8]}..., {note_path.name} describes {note.sha256[:8]}...: "
            "the plan was altered or replaced; export it again"
        )
    return note


def write_engine_note(path: Path, note: EngineNote) -> None:
    """Replace the document beside a TensorRT plan.

    Args:
        path: The plan.
        note: What to say of it.
    """
    with files.replacing(engine_note_path(path)) as (target,):
        target.write_text(note.to_text(), encoding="utf-8")


def _safetensors_metadata(path: Path) -> dict[str, str]:
    """The ``__metadata__`` of the header: 8 bytes of its length, then JSON."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(_MAX_HEADER_BYTES, path.stat().st_size):
            raise ArtifactError(f"{path}: not a whole safetensors file")
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{path}: not a whole safetensors file: {error}") from error
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _openvino_metadata(path: Path) -> dict[str, str]:
    if not path.with_suffix(".bin").exists():
        raise ArtifactError(f"{path}: {path.with_suffix('.bin').name} with the weights is not beside it")
    if path.stat().st_size > _MAX_HEADER_BYTES:
        raise ArtifactError(f"{path}: larger than any OpenVINO graph")
    try:
        # Entities that expand without end are refused by expat from 2.4.1 on.
        root = ElementTree.parse(path).getroot()  # noqa: S314
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter two: a strange encoding
        raise ArtifactError(f"{path}: not a whole OpenVINO file: {error}") from error
    if root.tag != "net":
        raise ArtifactError(f"{path}: an XML file, but not of OpenVINO")
    node = root.find(f"./rt_info/{CARD_KEY}")
    value = None if node is None else node.get("value")
    return {} if value is None else {CARD_KEY: value}


def _onnx_metadata(path: Path) -> dict[str, str]:
    """The ``metadata_props`` of an ONNX file, found by stepping over its top-level fields.

    Reading the card so needs no onnx package and touches no weights, and a cut file is seen at once.
    """
    content = np.memmap(path, np.uint8, mode="r").data
    metadata: dict[str, str] = {}
    try:
        for field, value in _fields(content):
            if field == _ONNX_METADATA_FIELD and isinstance(value, memoryview):
                entry = {number: bytes(text) for number, text in _fields(value) if isinstance(text, memoryview)}
                metadata[entry[1].decode()] = entry.get(2, b"").decode()
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: not a whole ONNX file") from error
    return metadata


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protobuf message; IndexError where it is cut or no protobuf."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        wire_type = key & 7
        if key >> 3 == 0:
            raise IndexError("field 0")  # a download that was never filled in
        if wire_type == 0:
            number, position = _varint(message, position)
            yield key >> 3, number
            continue
        if wire_type == 2:
            length, position = _varint(message, position)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:
            raise IndexError(f"wire type {wire_type}")
        if position + length > len(message):
            raise IndexError("cut")
        yield key >> 3, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    number, shift = 0, 0
    while shift < 70:
        byte = message[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position
    raise IndexError("varint")
