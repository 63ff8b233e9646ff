"""Plans check themselves."""

from __future__ import annotations

from typing import Any

import pytest

from i3d_deploy.benchmark.plan import Plan, SweepPlan, frames_and_crops
from i3d_deploy.card import Card, Provenance
from i3d_deploy.errors import InputError
from i3d_deploy.network import ResNet
from i3d_deploy.preprocessing import Sampling, Spatial


@pytest.fixture
def card(tiny_network: ResNet) -> Card:
    """A card of clips of 32 frames."""
    labels = tuple(str(number) for number in range(tiny_network.num_classes))
    return Card(
        network=tiny_network,
        label_set="numbered",
        labels=labels,
        sampling=Sampling(clip_len=32),
        provenance=Provenance(origin="random weights"),
    )


def test_320x3_is_10_clips_of_32_frames_under_3_crops(card: Card) -> None:
    frames, crops = frames_and_crops("320x3")
    protocol = Plan(frames=frames, crops=crops).protocol(card)
    assert (protocol.name, protocol.clips, protocol.clip_len, protocol.crops, protocol.views) == (
        "320x3",
        10,
        32,
        3,
        30,
    )


@pytest.mark.parametrize(("name", "clips", "views"), [("320x1", 10, 10), ("32x1", 1, 1), ("64x3", 2, 6)])
def test_other_protocols(card: Card, name: str, clips: int, views: int) -> None:
    frames, crops = frames_and_crops(name)
    protocol = Plan(frames=frames, crops=crops).protocol(card)
    assert (protocol.name, protocol.clips, protocol.views) == (name, clips, views)


def test_clips_take_the_place_of_frames(card: Card) -> None:
    short = card.replaced(sampling=Sampling(clip_len=8, frame_interval=8))
    protocol = Plan(clips=10, crops=3).protocol(short)
    assert (protocol.name, protocol.views) == ("80x3", 30)


def test_frames_must_fill_whole_clips(card: Card) -> None:
    with pytest.raises(InputError, match=r"20 frames per video are no multiple of the clip's 32.*--clips"):
        Plan(frames=20).protocol(card)


def test_where_the_protocol_is_another_than_the_one_asked_for(card: Card) -> None:
    plan = Plan(frames=64, crops=3)
    assert list(plan.departures(plan.protocol(card))) == []
    whole = card.replaced(
        sampling=Sampling(scheme="whole", clip_len=32, num_clips=1, min_clip_len=9),
        spatial=Spatial(short_side=64, crop_size=32, num_crops=1),
    )
    assert list(plan.departures(plan.protocol(whole))) == [
        "64 frames of a video were asked for, 32 are measured: networks of whole videos are measured on one clip of "
        "the usual length",
        "3 crops were asked for, 1 is measured: the card's crops are smaller than its frames",
    ]
    assert list(Plan(clips=1, crops=1).departures(plan.protocol(whole))) == []


@pytest.mark.parametrize("name", ["320", "320x2", "0x3", "320x3x1", "x3", "3 20x3"])
def test_a_protocol_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="must be FRAMESxCROPS with 1 or 3 crops, such as 320x3"):
        frames_and_crops(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_rounds": 0}, r"min_rounds \(0\) must be > 0"),
        ({"max_warmup": 0}, r"max_warmup \(0\) must be > 0"),
        ({"min_seconds": -1.0}, r"min_seconds \(-1.0\) must be >= 0"),
        ({"min_seconds": float("nan")}, r"min_seconds \(nan\) must be >= 0"),
        ({"ceiling_seconds": -1}, r"ceiling_seconds \(-1\) must be >= 0"),
        ({"crops": 2}, r"crops \(2\) must be 1 or 3"),
        ({"batch": 0}, r"batch \(0\) must be > 0"),
        ({"clips": 0}, r"clips \(0\) must be > 0"),
    ],
)
def test_a_plan_checks_itself(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan(**options)


def test_sizes_of_a_sweep_are_sorted_and_counted_once() -> None:
    assert SweepPlan.parse("batch=4,1,2,2") == SweepPlan(over="batch", sizes=(1, 2, 4))
    assert SweepPlan.parse("frames= 300, 100").sizes == (100, 300)


@pytest.mark.parametrize("text", ["batch", "batch=", "batch=2", "batch=0,1", "crops=1,3", "clips=1,two", "batch=1,-2"])
def test_a_sweep_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"must be batch, clips or frames with two sizes or more.*such as batch=1,2,4"):
        SweepPlan.parse(text)
