"""How the flow images of a list were made: ``flow.json``, which training/prepare.py leaves beside their folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from i3d_deploy import flow
from i3d_deploy.card import FlowMethod
from i3d_deploy.errors import InputError
from i3d_deploy.flow_images import is_flow_folder
from i3d_deploy.images import FrameFolder
from i3d_deploy.lists import Annotation

NAME = "flow.json"


class Record(BaseModel):
    """What such a file says.

    Attributes:
        method: How the flow was computed.
        frames_per_second: Rate of the frames that it was computed between; None: all frames of a video.
        implementation: Who computed it, as :func:`i3d_deploy.flow.implementation`.
        short_side: Pixels of the shorter side of these frames; None: see ``size``.
        size: Their width and height; None as well: frames were left as large as they were.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    method: FlowMethod
    frames_per_second: float | None
    implementation: str
    short_side: int | None = None
    size: tuple[int, int] | None = None

    @property
    def least_side(self) -> int | None:
        """Pixels of the shorter side; None where it is that of the video."""
        return min(self.size) if self.size is not None else self.short_side


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The flow images of a list.

    Attributes:
        records: What is known of their making, by file.
        has_unknown: Whether there are some of which nothing is known.
        has_others: Whether there are videos and frames, whose flow is computed when it is wanted.
    """

    records: dict[Path, Record]
    has_unknown: bool
    has_others: bool

    @property
    def is_all_read(self) -> bool:
        """Whether all flow of the list is there, so that none is computed."""
        return not self.has_others

    def implementation(self, method: FlowMethod) -> str | None:
        """Who computed the flow of the list, or will on this machine; None where it is not known.

        Args:
            method: How it is computed where it is not there yet.

        Raises:
            MissingExtraError: It is not there, and nothing that is installed computes it.
        """
        if self.has_unknown:
            return None
        names = [record.implementation for record in self.records.values()]
        if self.has_others:
            names.append(flow.implementation(method))
        return " and ".join(sorted(set(names)))


def of_list(entries: Sequence[Annotation]) -> Prepared:
    """Look for the records of a list: in the folders above its folders of flow, the nearest one of each.

    Args:
        entries: The list. Of the folders that lie in one folder, the first one is looked at.
    """
    records: dict[Path, Record] = {}
    has_unknown = has_others = False
    firsts = {_folder(entry): entry for entry in reversed(entries)}
    for folder, entry in firsts.items():
        if folder is None or not isinstance(entry.source, FrameFolder) or not is_flow_folder(entry.source.path):
            has_others = True
            continue
        found = _nearest(folder)
        if found is None:
            has_unknown = True
        else:
            records[found[0]] = found[1]
    return Prepared(records=records, has_unknown=has_unknown, has_others=has_others)


def _folder(entry: Annotation) -> Path | None:
    """Where the folder of a line lies; None of a video."""
    return entry.source.path.parent.absolute() if isinstance(entry.source, FrameFolder) else None


def _nearest(folder: Path) -> tuple[Path, Record] | None:
    for parent in (folder, *folder.parents):
        path = parent / NAME
        try:
            return path, Record.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):  # none, or another file of this name, such as a result
            continue
    return None


def check(prepared: Prepared, *, method: FlowMethod | None, short_side: int, frames_per_second: float | None) -> None:
    """Hold the flow of a list against what a recipe says of it.

    Args:
        prepared: From :func:`of_list`.
        method: The recipe's ``data.flow_method``.
        short_side: The recipe's ``test.spatial.short_side``.
        frames_per_second: The recipe's ``test.sampling.frames_per_second``; None goes with flow of any rate.

    Raises:
        InputError: They differ; the message names both.
    """
    for path, record in prepared.records.items():
        differences = []
        if record.method != method:
            differences.append(f"method {record.method}, and data.flow_method is {method}")
        if record.least_side not in (None, short_side):
            differences.append(f"a short side of {record.least_side}, and test.spatial.short_side is {short_side}")
        if frames_per_second not in (None, record.frames_per_second):
            rate = (
                "every frame of a video"
                if record.frames_per_second is None
                else f"{record.frames_per_second:g} frames a second"
            )
            differences.append(f"{rate}, and test.sampling.frames_per_second is {frames_per_second:g}")
        if differences:
            raise InputError(
                f"{path}: the flow was made with {'; '.join(differences)}: make it anew with training/prepare.py flow, "
                "or --set the recipe to what it is"
            )
