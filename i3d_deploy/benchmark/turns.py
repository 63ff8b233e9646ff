"""Taking turns: warm-up until stable, then rounds in which every artifact has its turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from i3d_deploy.benchmark import timing
from i3d_deploy.errors import I3DError

T = TypeVar("T")


@dataclass(kw_only=True)
class Turns:
    """The seconds of one participant.

    Attributes:
        warmup: Of each video before the first timed one.
        rounds: Per round, of each video of the turn.
        reason: Why it dropped out; None while it takes part.
    """

    warmup: list[float] = field(default_factory=list)
    rounds: list[list[float]] = field(default_factory=list)
    reason: str | None = None


def take_turns(
    participants: Sequence[T],
    once: Callable[[T, float], Sequence[float]],
    *,
    min_rounds: int,
    min_seconds: float,
    max_warmup: int,
    on_turn: Callable[[T, str], None] = lambda participant, text: None,
) -> list[Turns]:
    """Time participants in turns.

    A participant whose turn fails drops out; the others go on.

    Args:
        participants: Who takes part.
        once: Given a participant and seconds, times one video after the other until those have passed, at least one.
        min_rounds: Rounds.
        min_seconds: Seconds per participant; they are shared out evenly over the rounds.
        max_warmup: Videos at most before the first timed one.
        on_turn: Called before each turn with what it is.

    Returns:
        One entry per participant.
    """
    turns = [Turns() for _ in participants]

    def take(participant: T, own: Turns, seconds: float, text: str) -> list[float]:
        on_turn(participant, text)
        try:
            return list(once(participant, seconds))
        except I3DError as error:
            own.reason = str(error)
            return []

    for number in range(max_warmup):
        for participant, own in zip(participants, turns, strict=True):
            if own.reason is None and not timing.is_warm(own.warmup):
                own.warmup += take(participant, own, 0, f"warm-up {number + 1}")
    for number in range(min_rounds):
        for participant, own in zip(participants, turns, strict=True):
            if own.reason is None:
                text = f"round {number + 1} of {min_rounds}"
                own.rounds.append(take(participant, own, min_seconds / min_rounds, text))
    return turns
