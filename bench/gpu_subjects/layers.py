"""Where the time of a video goes, layer by layer, and the groups of views that were tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_subjects.floors import kind_of
from gpu_subjects.rates import Rates, measured
from gpu_subjects.setting import R50, Setting
from gpu_subjects.sheet import Sheet
from i3d_deploy.fused.choice import Choice, ChosenSteps, Key, TimedSteps
from i3d_deploy.fused.convolution import Convolution
from i3d_deploy.fused.graphs import on

RUNNERS_UP = 3


@dataclass(kw_only=True)
class Spent:
    """What convolutions of one kind and size took.

    Attributes:
        first: Name of one of them.
        words: Its kind.
        way: How it was run.
        count: Runs.
        seconds: Of all of them.
    """

    first: str
    words: str
    way: str
    count: int
    seconds: float


class KeyedSteps(TimedSteps):
    """Times each step, of convolutions of the same kind and size the first.

    Args:
        choices: What was found.
        device: What computes.

    Attributes:
        spent: By kind and size.
    """

    def __init__(self, choices: Mapping[Key, Choice], device: torch.device) -> None:
        super().__init__(choices, device)
        self.spent: dict[Key, Spent] = {}

    def convolve(
        self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """As of :class:`i3d_deploy.fused.networks.Steps`."""
        key = convolution.kind, tuple(x.shape), x.stride(3), shortcut is not None
        if key in self.spent:
            spent = self.spent[key]
            spent.count, spent.seconds = spent.count + 1, spent.seconds * (spent.count + 1) / spent.count
            return ChosenSteps.convolve(self, convolution, x, shortcut=shortcut, out=out)
        way, before = self.way(convolution, x, shortcut), sum(self.seconds.values())
        result = super().convolve(convolution, x, shortcut=shortcut, out=out)
        self.spent[key] = Spent(
            first=convolution.name,
            words=kind_of(convolution.window, has_shortcut=shortcut is not None, is_rectified=convolution.is_rectified),
            way="plain" if way is None else way.name,
            count=1,
            seconds=sum(self.seconds.values()) - before,
        )
        return result


def run_layers(setting: Setting, sheet: Sheet) -> None:
    """Each kind and size of convolution of the chosen plan."""
    precision, views, rates = setting.precisions[0], setting.sizes.views, measured(setting)
    found = setting.plan(R50, precision, views)
    plan = found.plan
    sheet.protocol(precision=precision, views=views, groups=list(plan.groups), rates=rates.source)
    steps = KeyedSteps(plan.choices, setting.device)
    with on(setting.device):
        setting.network(R50, precision).logits(steps, setting.source(R50, views), groups=plan.groups)
    table = sheet.table(f"layers of the chosen plan, {precision}, {views} views in groups {_text(plan.groups)}")
    of_convolutions, least = 0.0, 0.0
    for key, spent in sorted(steps.spent.items(), key=lambda entry: -entry[1].seconds):
        choice = plan.choices.get(key)
        floor = None if choice is None else _floor(choice, rates) * spent.count
        of_convolutions += spent.seconds
        least += floor or 0.0
        table.row(
            first=spent.first,
            kind=spent.words,
            maps="x".join(map(str, key[1])),
            count=spent.count,
            way=spent.way,
            ms=spent.seconds * 1e3,
            of_floor=None if floor is None else f"{floor / spent.seconds:.0%}",
            runners_up=_runners_up(choice),
            refused=0 if choice is None else len(choice.refused),
        )
    _show_rest(sheet, steps.seconds, whole=found.seconds, of_convolutions=of_convolutions, least=least)


def _show_rest(
    sheet: Sheet, seconds: Mapping[tuple[str, str], float], *, whole: float, of_convolutions: float, least: float
) -> None:
    table = sheet.table("all of it")
    others = {f"{name}, {way}": spent for (name, way), spent in seconds.items() if way in ("stack", "max pool")}
    parts = {"convolutions": of_convolutions, **others}
    parts["between the steps (the whole less the steps)"] = whole - of_convolutions - sum(others.values())
    for name, spent in (*parts.items(), ("the whole, recorded", whole)):
        table.row(what=name, ms=spent * 1e3, share=spent / whole)
    sheet.note(f"floor of the convolutions, each by itself: {least * 1e3:.2f} ms")


def run_groups(setting: Setting, sheet: Sheet) -> None:
    """How many views went through each part at a time, and what that took."""
    views = setting.sizes.views
    for precision in setting.precisions:
        if setting.seconds_left < 0:
            sheet.note(f"out of time before {precision}")
            continue
        found = setting.plan(R50, precision, views)
        table = sheet.table(f"groups of views for each part, {precision}, {views} views")
        for groups, seconds in sorted(found.plan.seconds.items(), key=lambda entry: entry[1]):
            table.row(
                groups=_text(groups),
                ms_per_video=seconds * 1e3,
                videos_per_s=1 / seconds,
                is_chosen=groups == found.plan.groups,
            )
        sheet.note(f"{precision}: the plan was found in {found.seconds_to_find:.1f} s")


def _floor(choice: Choice, rates: Rates) -> float:
    return max(2 * choice.macs / rates.operations, choice.moved_bytes / rates.moved_bytes)


def _runners_up(choice: Choice | None) -> str:
    if choice is None:
        return "not tried in this size"
    ranked = sorted(choice.seconds.items(), key=lambda entry: entry[1])[1 : RUNNERS_UP + 1]
    return "; ".join(f"{name} {seconds * 1e3:.3f}" for name, seconds in ranked)


def _text(groups: tuple[int, ...]) -> str:
    return "-".join(map(str, groups))
