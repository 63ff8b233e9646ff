"""What was found to be the fastest, kept for the next process.

Note [Remembered]
    Finding the fastest way for each convolution takes long, and is the same on the same GPU with the same versions. So
    it is kept in a small file for each network, precision and number of views, in ``i3d-deploy/plans`` of
    ``$XDG_CACHE_HOME`` (``~/.cache``). What is read there is only a hint which way to check first: a way that is wrong
    or not known is not taken, and all are tried.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i3d_deploy import files


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """What was found.

    Attributes:
        groups: Views at a time for each early part of the network.
        ways: The name of the fastest way for each convolution, by what tells it from others.
    """

    groups: tuple[int, ...]
    ways: Mapping[str, str]


def path_of(circumstances: Mapping[str, Any]) -> Path:
    """The file for some circumstances: Note [Remembered].

    Args:
        circumstances: All that the fastest way depends on, as values that JSON holds.
    """
    text = json.dumps(circumstances, sort_keys=True)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "i3d-deploy" / "plans"
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def read(path: Path) -> Remembered | None:
    """What was kept; None where there is nothing that can be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        groups, ways = tuple(document["groups"]), dict(document["ways"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_sound = all(isinstance(size, int) and size > 0 for size in groups)
    return Remembered(groups=groups, ways=ways) if is_sound else None


def write(path: Path, found: Remembered) -> None:
    """Keep what was found; where that cannot be, the next process finds it anew."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as (target,):
            target.write_text(json.dumps({"groups": found.groups, "ways": dict(found.ways)}), encoding="utf-8")
