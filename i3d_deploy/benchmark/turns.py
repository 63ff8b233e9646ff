"""Taking turns: warm-up until stable, then rounds in which every artifact has its turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from i3d_deploy.benchmark import timing
from i3d_deploy.errors import I3DError

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


WARMUP_SECONDS = 0.5
"""Of a turn of the warm-up at least: within a few milliseconds no clock rises."""

SETTLE_SECONDS = 0.05
"""Before each turn, so that threads of the one before, which wait actively for more work, have gone to sleep."""


@dataclass(kw_only=True)
class Turns:
    """The seconds of one participant.

    Attributes:
        warmup: Per turn of the warm-up, of each video.
        rounds: Per round, of each video of the turn.
        reason: Why it dropped out; None while it takes part.
    """

    warmup: list[list[float]] = field(default_factory=list)
    rounds: list[list[float]] = field(default_factory=list)
    reason: str | None = None


class Once(Protocol[T_contra]):
    """Times one video after the other until so many seconds have passed, at least one."""

    def __call__(self, participant: T_contra, seconds: float, /, *, counts: bool) -> Sequence[float]:
        """Take a turn.

        Args:
            participant: Whose turn it is.
            seconds: That must pass.
            counts: False in the warm-up.
        """


def take_turns(
    participants: Sequence[T],
    once: Once[T],
    *,
    min_rounds: int,
    min_seconds: float,
    max_warmup: int,
    on_turn: Callable[[T, str], None] = lambda participant, text: None,
) -> list[Turns]:
    """Time participants in turns.

    Each round begins with another one, so that nobody always follows the same. A participant whose turn fails drops
    out; the others go on.

    Args:
        participants: Who takes part.
        once: Times a turn.
        min_rounds: Rounds.
        min_seconds: Seconds per participant; they are shared out evenly over the rounds.
        max_warmup: Turns at most before the first timed one; it ends for each where two turns take the same time.
        on_turn: Called before each turn with what it is.

    Returns:
        One entry per participant.
    """
    turns = [Turns() for _ in participants]

    def take(place: int, seconds: float, text: str, *, counts: bool) -> None:
        participant, own = participants[place], turns[place]
        if own.reason is not None or (not counts and timing.is_warm(own.warmup)):
            return
        on_turn(participant, text)
        time.sleep(SETTLE_SECONDS)
        try:
            (own.rounds if counts else own.warmup).append(list(once(participant, seconds, counts=counts)))
        except I3DError as error:
            own.reason = str(error)

    places = range(len(participants))
    for number in range(max_warmup):
        for place in places:
            take(place, min(WARMUP_SECONDS, min_seconds), f"warm-up {number + 1}", counts=False)
    for number in range(min_rounds):
        for place in _rotated(places, number):
            take(place, min_seconds / min_rounds, f"round {number + 1} of {min_rounds}", counts=True)
    return turns


def _rotated(places: Sequence[int], by: int) -> list[int]:
    first = by % len(places) if places else 0
    return [*places[first:], *places[:first]]
