"""The order of turns, with participants whose seconds are written down."""

from __future__ import annotations

from collections.abc import Sequence

from i3d_deploy.benchmark.turns import Turns, take_turns
from i3d_deploy.errors import I3DError


class Script:
    """Takes turns of given seconds and notes who had them."""

    def __init__(self, **seconds: list[float]) -> None:
        self.left = seconds
        self.log: list[tuple[str, float]] = []
        self.counted: list[bool] = []

    def once(self, name: str, seconds: float, *, counts: bool) -> Sequence[float]:
        self.log.append((name, seconds))
        self.counted += [counts]
        if not self.left[name]:
            raise I3DError(f"{name} has broken down")
        return [self.left[name].pop(0)]

    def run(self, *, rounds: int, warmup: int = 5, seconds: float = 0.0) -> dict[str, Turns]:
        names = list(self.left)
        taken = take_turns(names, self.once, min_rounds=rounds, min_seconds=seconds, max_warmup=warmup)
        return dict(zip(names, taken, strict=True))


def test_artifacts_take_turns() -> None:
    script = Script(a=[1.0] * 9, b=[2.0] * 9, c=[3.0] * 9)
    found = script.run(rounds=3, warmup=1)
    assert (found["a"].warmup, found["a"].rounds) == ([[1.0]], [[1.0], [1.0], [1.0]])
    assert (found["c"].warmup, found["c"].rounds) == ([[3.0]], [[3.0], [3.0], [3.0]])
    # After the warm-up each round begins with another one.
    assert "".join(name for name, _ in script.log) == "abc" + "abc" + "bca" + "cab"
    assert script.counted == [False] * 3 + [True] * 9


def test_warm_up_ends_for_each_where_two_videos_take_the_same_time() -> None:
    # a is stable at once, b with its fourth video: 1.5 and 1.45 differ by less than 5 %.
    found = Script(a=[1.0, 1.0, 7.0], b=[3.0, 2.0, 1.5, 1.45, 8.0]).run(rounds=1)
    assert (found["a"].warmup, found["a"].rounds) == ([[1.0], [1.0]], [[7.0]])
    assert (found["b"].warmup, found["b"].rounds) == ([[3.0], [2.0], [1.5], [1.45]], [[8.0]])


def test_warm_up_ends_after_the_videos_allowed() -> None:
    found = Script(a=[5.0, 4.0, 3.0, 2.0]).run(rounds=1, warmup=3)
    assert (found["a"].warmup, found["a"].rounds) == ([[5.0], [4.0], [3.0]], [[2.0]])


def test_seconds_are_shared_out_over_the_rounds() -> None:
    script = Script(a=[1.0] * 9)
    script.run(rounds=4, warmup=1, seconds=10.0)
    assert [seconds for _, seconds in script.log] == [0.5, 2.5, 2.5, 2.5, 2.5]


def test_who_breaks_down_drops_out_and_the_others_go_on() -> None:
    found = Script(a=[1.0, 1.0, 1.0], b=[2.0] * 9).run(rounds=4, warmup=2)
    assert found["a"].reason == "a has broken down"
    assert (found["b"].reason, found["b"].rounds) == (None, [[2.0]] * 4)
