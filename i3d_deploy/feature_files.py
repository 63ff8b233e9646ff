"""Features on the disk: ``NAME.npy`` with ``NAME.json`` beside it, and going on where a run stopped.

The document says what the features depend on, and when each window begins and ends. It is written last: a pair of which
it is missing is no pair.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from i3d_deploy import __version__, files, flow
from i3d_deploy.card import Card
from i3d_deploy.errors import InputError
from i3d_deploy.features import Features, Settings
from i3d_deploy.video_files import SUFFIXES

Basis = dict[str, Any]
"""What features depend on, as it stands in the document."""


def targets(names: Mapping[str, str], *, output: Path) -> dict[str, Path]:
    """Where the features of videos go: of ``a/b.mp4`` to ``a/b.npy`` in the output folder.

    Args:
        names: By path or URL of the video, what it is called: a path below the output folder.
        output: The folder.

    Returns:
        The ``.npy`` file by path or URL of the video.

    Raises:
        InputError: Two videos would get the same file.
    """
    owners: dict[Path, str] = {}
    for source, name in names.items():
        target = output / f"{_stem(name)}.npy"
        if target in owners:
            raise InputError(
                f"{owners[target]} and {source} would both be written to {target}: rename one, give the folder above "
                "both (what is below it is kept), or give each another --output"
            )
        owners[target] = source
    return {source: target for target, source in owners.items()}


def _stem(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    return path.with_suffix("") if path.suffix.lower() in SUFFIXES else path


def basis(source: str, video_name: str, streams: Iterable[tuple[Card, str | None]], settings: Settings) -> Basis:
    """What the features of a video depend on.

    Args:
        source: Path or URL of the video: what it holds is part of it, where it lies is not.
        video_name: What it is called.
        streams: Of each network the card, and the SHA-256 of its file.
        settings: With the values of the card where it decides.
    """
    of_streams = {
        card.modality: {
            "network": card.network.name,
            "origin": card.provenance.origin,
            "artifact_sha256": sha256,
            "short_side": card.spatial.short_side,
            "flow": None if card.flow_method is None else flow.implementation(card.flow_method),
        }
        for card, sha256 in streams
    }
    return {
        "video": video_name,
        "video_sha256": _sha256(Path(source)),
        "streams": of_streams,
        "settings": asdict(settings),
    }


def _sha256(video: Path) -> str | None:
    """Of a file, or of the names and sizes of a folder's images; None of a URL."""
    if not video.is_dir():
        return files.sha256(video) if video.is_file() else None
    images = sorted(f"{entry.name} {entry.stat().st_size}\n" for entry in video.iterdir() if entry.is_file())
    return hashlib.sha256("".join(images).encode()).hexdigest()


def is_there(target: Path) -> bool:
    """Whether there are any features, or a note of them, whatever they depend on."""
    return target.exists() or _note_of(target).exists()


def is_done(target: Path, wanted: Basis) -> bool:
    """Whether the features are there already.

    Args:
        target: The ``.npy`` file.
        wanted: What they are to depend on.

    Raises:
        InputError: There are others, which nobody asked to overwrite.
    """
    note = _note_of(target)
    if not note.exists():
        if target.exists():
            raise InputError(
                f"{target} is there without {note.name}, which says what it holds: remove it, or give --overwrite"
            )
        return False
    try:
        document = json.loads(note.read_text(encoding="utf-8"))
        found = {key: document[key] for key in wanted}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{note} is not of i3d-features: remove it, or give --overwrite") from error
    differences = _differences(_flat(found), _flat(wanted))
    if differences:
        raise InputError(
            f"{target} was made otherwise ({'; '.join(differences)}): give another --output, or --overwrite"
        )
    return target.exists()


def write(target: Path, features: Features, of: Basis) -> None:
    """Write the pair, whole or not at all.

    Args:
        target: The ``.npy`` file; its folder is made if need be.
        features: What goes into it.
        of: What they depend on.

    Raises:
        OSError: A file cannot be written.
    """
    document = {
        **of,
        "shape": list(features.values.shape),
        "num_frames": features.num_frames,
        "frames_per_second": features.frames_per_second,
        "padded_frames": features.padded_frames,
        "start_frames": features.start_frames.tolist(),
        "end_frames": features.end_frames.tolist(),
        "start_seconds": _rounded(features.start_seconds),
        "end_seconds": _rounded(features.end_seconds),
        "warnings": list(features.warnings),
        "i3d_deploy": __version__,
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in document.items()]
    with files.replacing(target, _note_of(target)) as (array, text):
        with array.open("wb") as stream:
            np.save(stream, features.values, allow_pickle=False)
        text.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _note_of(target: Path) -> Path:
    return target.with_suffix(".json")


def _rounded(seconds: np.ndarray | None) -> list[float] | None:
    return None if seconds is None else [round(second, 6) for second in seconds.tolist()]


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The values that differ, a line each."""
    keys = {**new, **old}
    return [f"{key} was {old.get(key)}, now {new.get(key)}" for key in keys if old.get(key) != new.get(key)]


def _flat(document: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The values of a document by their names, those of the parts in it included."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{path}{key}.")
        else:
            found[path + key] = value
    return found
