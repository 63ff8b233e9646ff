"""The fastest right way is taken for each convolution, and what is known is not tried again."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from i3d_deploy import model
from i3d_deploy.errors import DeviceError
from i3d_deploy.fused import choice
from i3d_deploy.fused.algorithms import Algorithm, MatrixProduct, ThreeDimensions, TwoDimensions
from i3d_deploy.fused.choice import Choice, ChosenSteps, Key, TimedSteps, TryingSteps
from i3d_deploy.fused.convolution import Convolution
from i3d_deploy.fused.networks import FusedNetwork
from i3d_deploy.fused.plain import PlainSteps
from i3d_deploy.fused.stacking import Source, of_views
from i3d_deploy.network import ResNet
from i3d_deploy.preprocessing import Pixels
from tests.fused.cases import CASES, expected, made

CPU = torch.device("cpu")
PLAIN = ThreeDimensions()


@dataclass(frozen=True)
class Repeated(ThreeDimensions):
    """Right, and a hundred times as slow."""

    name: str = "repeated"

    def run(self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None, out: Tensor | None) -> Tensor:
        for _ in range(99):
            super().run(convolution, x, shortcut=shortcut, out=out)
        return super().run(convolution, x, shortcut=shortcut, out=out)


@dataclass(frozen=True)
class Shifted(ThreeDimensions):
    """Right for so many views, and wrong for more."""

    name: str = "shifted"
    right_views: int = 0

    def run(self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None, out: Tensor | None) -> Tensor:
        result = super().run(convolution, x, shortcut=shortcut, out=out)
        return result if len(x) <= self.right_views else result.roll(1, dims=3)


@dataclass(frozen=True)
class Unwritten(ThreeDimensions):
    """Leaves the result as it was."""

    name: str = "unwritten"

    def run(self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None, out: Tensor | None) -> Tensor:
        assert out is not None, "there is something to leave as it was"
        return out


@dataclass(frozen=True)
class Unable(ThreeDimensions):
    """Finds no kernel."""

    name: str = "unable"

    def run(self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None, out: Tensor | None) -> Tensor:
        raise RuntimeError("no engine for these sizes\nwith a second line")


def tried(
    ways: Sequence[Algorithm],
    *,
    views: int = 1,
    known: Mapping[Key, Choice] | None = None,
    follows: bool = False,
    out: Tensor | None = None,
) -> tuple[Choice, Mapping[Key, Choice]]:
    """What is found for one convolution of some views, and all that is known then; its result is right."""
    case = dataclasses.replace(CASES["1x3x3"], shape=(views, 2, 5, 6, 16))
    convolution, x, shortcut = made(case, dtype=torch.float64)
    steps = TryingSteps(CPU, ways, known=known, follows=follows)
    result = steps.convolve(convolution, x, shortcut=shortcut, out=out)
    torch.testing.assert_close(result, expected(convolution, x, shortcut), rtol=0, atol=1e-12)
    return [*steps.choices.values()][-1], steps.choices


@pytest.mark.parametrize("ways", [(PLAIN, Repeated()), (Repeated(), PLAIN)], ids=["first", "last"])
def test_the_fastest_is_taken(ways: Sequence[Algorithm]) -> None:
    found, _ = tried(ways)
    assert found.way == PLAIN
    assert found.seconds.keys() == {"conv3d", "repeated"}
    assert found.refused == {}
    # 2 * 5 * 6 positions, each of 24 sums over 3 * 3 * 16; input, weights, shortcut and result, each once.
    assert found.macs == 60 * 24 * 144
    assert found.moved_bytes == 8 * (60 * 16 + 24 * 144 + 2 * 60 * 24)


def test_wrong_ways_are_refused_by_name_however_fast() -> None:
    found, _ = tried([Shifted(), Unable(), Repeated()])
    assert found.way == Repeated()
    assert found.seconds.keys() == {"repeated"}
    assert found.refused == {
        "shifted": "its result is wrong",
        "unable": "RuntimeError: no engine for these sizes",
    }


def test_a_right_result_of_before_is_not_taken_for_another_ways() -> None:
    found, _ = tried([PLAIN, Unwritten()], out=torch.empty(1, 2, 5, 6, 24, dtype=torch.float64))
    assert found.refused == {"unwritten": "its result is wrong"}


def test_ways_that_do_not_fit_are_not_tried() -> None:
    found, _ = tried([MatrixProduct(), PLAIN])
    assert found.seconds.keys() == {"conv3d"}
    assert found.refused == {}


def test_no_right_way_is_an_error() -> None:
    reasons = "shifted: its result is wrong; unable: RuntimeError: no engine for these sizes"
    expected_message = f"random cannot be computed on cpu in torch.float64: install another PyTorch ({reasons})"
    with pytest.raises(DeviceError, match=re.escape(expected_message)):
        tried([Shifted(), Unable()])


def test_what_is_known_is_not_tried_again() -> None:
    first, known = tried([Repeated()])
    again, _ = tried([PLAIN], known=known)
    assert again is first


def test_for_other_numbers_of_views_what_is_known_is_only_checked() -> None:
    _, known = tried([Repeated()])
    for follows, names in ((True, {"repeated"}), (False, {"conv3d"})):
        found, of_both = tried([PLAIN], views=2, known=known, follows=follows)
        assert found.seconds.keys() == names
        assert len(of_both) == 2


def test_what_is_known_and_wrong_for_other_numbers_of_views_is_refused() -> None:
    first, known = tried([Shifted(right_views=1)])
    assert first.way.name == "shifted"
    found, _ = tried([PLAIN], views=2, known=known, follows=True)
    assert found.way == PLAIN
    assert found.refused == {"shifted": "its result is wrong"}


WAYS: list[Algorithm] = [TwoDimensions(), PLAIN]


@pytest.fixture(scope="module")
def network() -> FusedNetwork:
    """Two early parts and two late ones."""
    kernels = ((3,), (1,), (3,))
    net = model.build(ResNet(name="small", num_classes=5, width=4, temporal_kernels=kernels))
    model.randomize(net, seed=0)
    return FusedNetwork(net, Pixels(), dtype=torch.float64, device=CPU)


def source_of(views: int) -> Source:
    pixels = np.random.default_rng(0).integers(0, 256, (views, 8, 32, 32, 3), dtype=np.uint8)
    return of_views(torch.from_numpy(pixels))


def sizes_of(choices: Mapping[Key, Choice], channels: int) -> set[int]:
    """Numbers of views for which something was found, of convolutions of so many channels."""
    return {shape[0] for _, shape, *_ in choices if shape[-1] == channels}


def test_early_parts_are_tried_chunk_by_chunk_and_late_ones_together(network: FusedNetwork) -> None:
    plan = choice.plan(network, source_of(5), chunk=2, ways=WAYS)
    assert (plan.views, plan.chunk, plan.groups) == (5, 2, (2, 2))
    assert sizes_of(plan.choices, 16) >= {2, 1}  # the stem: chunks, and what is left
    assert sizes_of(plan.choices, 32) == {5}  # what goes into the last part
    assert plan.seconds.keys() == {plan.groups}
    with torch.inference_mode():
        steps = ChosenSteps(plan.choices, CPU)
        maps = [network.early(steps, source_of(5).of(slice(start, start + 2))) for start in (0, 2, 4)]
        logits = network.classify(network.late(steps, torch.cat(maps)))
        right = network.logits(PlainSteps(), source_of(5))
    torch.testing.assert_close(logits, right, rtol=0, atol=1e-12)


def test_a_plan_follows_one_for_about_as_many_views(network: FusedNetwork) -> None:
    before = choice.plan(network, source_of(4), chunk=2, ways=[PLAIN])
    near = choice.plan(network, source_of(6), chunk=2, ways=WAYS, before=before)
    assert {found.way.name for found in near.choices.values()} == {"conv3d"}
    assert before.choices.items() <= near.choices.items()
    far = choice.plan(network, source_of(9), chunk=2, ways=WAYS, before=before)
    names = {name for (_, shape, *_), found in far.choices.items() if shape[0] == 9 for name in found.seconds}
    assert names == {"conv2d", "conv3d"}


def test_groups_divide_a_chunk_in_all_early_parts_but_the_last() -> None:
    cuda = torch.device("cuda")
    assert choice.groups_to_try(6, parts=3, device=cuda) == [(6, 6, 6), (3, 3, 6), (2, 2, 6), (1, 1, 6)]
    assert choice.groups_to_try(1, parts=2, device=cuda) == [(1, 1)]
    assert choice.groups_to_try(6, parts=3, device=CPU) == [(6, 6, 6)]


def test_steps_are_timed_under_the_way_that_runs_them(network: FusedNetwork) -> None:
    plan = choice.plan(network, source_of(2), ways=[PLAIN])
    steps = TimedSteps(plan.choices, CPU)
    with torch.inference_mode():
        logits = network.logits(steps, source_of(2))
        right = network.logits(PlainSteps(), source_of(2))
    torch.testing.assert_close(logits, right, rtol=0, atol=1e-12)
    assert {"conv1", "layer1.0.conv1", "layer3.0.downsample"} <= {
        name for name, kind in steps.seconds if kind == "conv3d"
    }
    assert {kind for _, kind in steps.seconds} == {"stack", "conv3d", "max pool"}
    assert all(seconds > 0 for seconds in steps.seconds.values())
