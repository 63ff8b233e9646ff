"""What seconds come to, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from i3d_deploy.benchmark import timing
from i3d_deploy.benchmark.record import Stages
from i3d_deploy.benchmark.timing import Usage


def test_every_video_counts_once() -> None:
    usage = Usage(
        wall_seconds=12.0,
        cpu_seconds=18.0,
        cores=2,
        others_seconds=2.4,
        joules=60.0,
        energy_source="a meter",
        clock_mhz=2600.0,
    )
    found = timing.summarize([[2.0, 2.2], [1.9], [2.1, 2.0]], views=30, warmup=[[3.0], [2.0, 2.2], [2.05]], usage=usage)
    assert found.rounds == ((2.0, 2.2), (1.9,), (2.1, 2.0))
    assert (found.videos, found.median, found.fastest, found.slowest) == (5, 2.0, 1.9, 2.2)
    assert (found.videos_per_second, found.views_per_second) == (0.5, 15.0)
    # Of 1.9, 2.0, 2.0, 2.1, 2.2: the 90th percentile lies at position 3.6, the 95th at 3.8, the 99th at 3.96.
    assert (found.p90, found.p95, found.p99) == pytest.approx((2.16, 2.18, 2.196))
    # The rounds' medians are 2.1, 1.9 and 2.05.
    assert found.spread == pytest.approx(0.2 / 2.05)
    assert found.is_noisy
    assert (found.warmup_videos, found.is_warm) == (4, True)
    assert (found.cpu_utilisation, found.others_utilisation) == pytest.approx((0.75, 0.1))
    assert (found.joules_per_video, found.energy_source) == (12.0, "a meter")
    assert found.clock_mhz == 2600.0


def test_an_outlier_within_a_turn_does_not_make_a_run_noisy() -> None:
    usage = Usage(wall_seconds=1.0, cpu_seconds=1.0, cores=1)
    found = timing.summarize([[1.0, 1.0, 5.0], [1.0, 1.02, 1.0]], views=1, warmup=[[1.0]], usage=usage)
    assert (found.spread, found.is_noisy, found.slowest) == (0.0, False, 5.0)
    assert not found.is_warm
    assert found.joules_per_video is None


def test_one_round_has_no_spread() -> None:
    assert timing.spread_of([2.0]) is None
    assert not timing.is_noisy(None)


def test_above_five_percent_is_noisy() -> None:
    assert not timing.is_noisy(0.05)
    assert timing.is_noisy(0.051)


def test_a_drift_that_meets_both_leaves_the_ratio() -> None:
    # The machine becomes twice as slow; the one stays three times as fast as the other.
    found = timing.ratio("new.onnx", [[1.0, 1.1, 0.9], [2.0]], "old.onnx", [[3.0], [6.0, 6.0]])
    assert (found.artifact, found.against, found.ratio) == ("new.onnx", "old.onnx", 3.0)
    assert (found.spread, found.is_noisy) == (0.0, False)


def test_ratios_that_differ_are_noisy() -> None:
    found = timing.ratio("a", [[1.0], [1.0], [1.0]], "b", [[2.0], [2.1], [2.2]])
    assert found.ratio == 2.1
    assert found.spread == pytest.approx(0.2 / 2.1)
    assert found.is_noisy


def test_stages_are_medians_and_overlap_is_taken_round_by_round() -> None:
    # The second round is twice as slow throughout, the third decodes slowly beside it.
    rounds = [[4.0], [8.0, 8.0], [5.0]]
    stages = [
        Stages(decode=1.0, views=0.5, transfer=0.0, compute=3.5),
        Stages(decode=2.0, views=1.0, transfer=0.0, compute=7.0),
        Stages(decode=4.0, views=0.5, transfer=0.0, compute=3.5),
    ]
    assert timing.median_stages(stages) == Stages(decode=2.0, views=0.5, transfer=0.0, compute=3.5)
    # 5/4, 10/8, 8/5.
    assert timing.overlap(stages, rounds) == 1.25


def test_the_fitted_line_has_fixed_cost_and_slope() -> None:
    line = timing.fit([1, 2, 4], [3.0, 5.0, 9.0])
    assert line is not None
    assert (line.fixed, line.slope) == pytest.approx((1.0, 2.0))


def test_one_size_has_no_line() -> None:
    assert timing.fit([4, 4], [1.0, 2.0]) is None
