"""What a run is to measure, before any artifact is opened."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from i3d_deploy.benchmark.record import Over, Protocol
from i3d_deploy.card import Card
from i3d_deploy.errors import InputError

OVERS: tuple[Over, ...] = get_args(Over)

_FRAMES_AND_CROPS = re.compile(r"([1-9]\d{0,5})x([13])")
_MAX_SIZE = 100_000


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """Sizes at which the cost is measured.

    Attributes:
        over: "batch", "clips" or "frames": :class:`i3d_deploy.benchmark.record.Sweep`.
        sizes: Ascending, two at least.
    """

    over: Over
    sizes: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> SweepPlan:
        """Read ``batch=1,2,4``.

        Raises:
            InputError: It names nothing that can be swept, or no two sizes.
        """
        name, _, numbers = text.partition("=")
        over = next((known for known in OVERS if known == name.strip()), None)
        words = [word.strip() for word in numbers.split(",")]
        sizes = {int(word) for word in words if word.isdecimal()} if all(word.isdecimal() for word in words) else set()
        if over is None or len(sizes) < 2 or not 1 <= min(sizes) <= max(sizes) <= _MAX_SIZE:
            raise InputError(
                f"sweep {text!r} must be {', '.join(OVERS[:-1])} or {OVERS[-1]} with two sizes or more from 1 to "
                f"{_MAX_SIZE}, such as batch=1,2,4"
            )
        return cls(over=over, sizes=tuple(sorted(sizes)))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        frames: Frames of all clips of a video; 320 are 10 clips of 32.
        crops: Crops per clip: 1 or 3.
        clips: Clips per video, in place of ``frames``.
        batch: Views per run of the engine; None: what suits each runner.
        min_rounds: Rounds at least; in each, every artifact has a turn of one video or more.
        min_seconds: Timed seconds per artifact at least; a turn has no more than 1000 videos, though.
        max_warmup: Videos at most before the first timed one; fewer, where two in a row take the same time.
        video: A file to time predictions from, whose frames are also the views; None: a generated clip, model only.
        sweeps: Sizes at which to measure the cost as well.
        profiles: Whether to look for the slowest layers.
        ceiling_seconds: For each precision and kind of work, to find what the machine can do; 0: do not.
    """

    frames: int = 320
    crops: int = 3
    clips: int | None = None
    batch: int | None = None
    min_rounds: int = 5
    min_seconds: float = 10.0
    max_warmup: int = 5
    video: Path | None = None
    sweeps: tuple[SweepPlan, ...] = ()
    profiles: bool = False
    ceiling_seconds: float = 0.5

    def __post_init__(self) -> None:
        for name in ("frames", "min_rounds", "max_warmup", "clips", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} ({value}) must be > 0")
        for name in ("min_seconds", "ceiling_seconds"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} ({getattr(self, name)}) must be >= 0")
        if self.crops not in (1, 3):
            raise InputError(f"crops ({self.crops}) must be 1 or 3")

    def protocol(self, card: Card) -> Protocol:
        """The protocol for networks with this card's clips.

        Of networks that take whole videos, the model is measured on one clip of the usual length. Three crops become
        one where the card's crops are smaller than the resized frame.

        Raises:
            InputError: The frames fill no whole number of clips.
        """
        clip_len = card.sampling.clip_len
        can_have_three = card.spatial.formula == "slowfast" or card.spatial.crop_size == card.spatial.short_side
        crops = self.crops if can_have_three else 1
        if not card.has_fixed_length:
            if self.clips not in (None, 1):
                raise InputError(f"clips ({self.clips}) must be 1: this network takes whole videos")
            return self._protocol(clips=1, clip_len=clip_len, crops=crops)
        if self.clips is None and self.frames % clip_len:
            raise InputError(
                f"{self.frames} frames per video are no multiple of the clip's {clip_len}: give another --protocol, "
                "or --clips"
            )
        return self._protocol(clips=self.clips or self.frames // clip_len, clip_len=clip_len, crops=crops)

    def departures(self, protocol: Protocol) -> Iterator[str]:
        """Where a protocol is another than the one asked for, a line each.

        Args:
            protocol: From :meth:`protocol`.
        """
        frames = protocol.clips * protocol.clip_len
        if self.clips is None and frames != self.frames:
            yield (
                f"{self.frames} frames of a video were asked for, {frames} are measured: networks of whole videos are "
                "measured on one clip of the usual length"
            )
        if protocol.crops != self.crops:
            yield (
                f"{self.crops} crops were asked for, {protocol.crops} is measured: the card's crops are smaller than "
                "its frames"
            )

    def _protocol(self, *, clips: int, clip_len: int, crops: int) -> Protocol:
        return Protocol(
            name=f"{clips * clip_len}x{crops}",
            clips=clips,
            clip_len=clip_len,
            crops=3 if crops == 3 else 1,
            batch=self.batch,
            min_rounds=self.min_rounds,
            min_seconds=self.min_seconds,
            max_warmup=self.max_warmup,
        )


def frames_and_crops(name: str) -> tuple[int, int]:
    """Read ``320x3``: frames of all clips of a video, and crops.

    Raises:
        InputError: It is not of that form.
    """
    match = _FRAMES_AND_CROPS.fullmatch(name)
    if match is None:
        raise InputError(f"protocol {name!r} must be FRAMESxCROPS with 1 or 3 crops, such as 320x3")
    return int(match[1]), int(match[2])
