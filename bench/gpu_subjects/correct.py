"""Whether the fused networks answer as PyTorch's do in float32, on this device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gpu_subjects.setting import R50, Setting
from gpu_subjects.sheet import NotHereError, Sheet, Table
from i3d_deploy.card import Precision
from i3d_deploy.errors import DeviceError
from i3d_deploy.frames import Resized
from i3d_deploy.fused.choice import Plan
from i3d_deploy.limits import logits_limit
from i3d_deploy.runners import fused_runner
from i3d_deploy.runners.torch_runner import TorchRunner

NAMES = (
    "i3d_r50_nl_embedded_gaussian",
    "i3d_r50_nl_gaussian",
    "i3d_r50_nl_dot_product",
    "i3d_inception_rgb",
    "i3d_inception_flow",
)
SMALL_NAMES = ("i3d_r50_nl_gaussian", "i3d_inception_flow")
COMPARED = 2


def run(setting: Setting, sheet: Sheet) -> None:
    """Logits of the fused runner beside those of PyTorch in float32."""
    sheet.protocol(compared_views=COMPARED, weights="random, seed 0", views_together=fused_runner.TOGETHER)
    table = sheet.table("logits against PyTorch in float32")
    plans: list[tuple[str, Precision, Plan]] = []
    left_out = []
    for name, precision in _order(setting):
        if setting.seconds_left < 0:
            left_out.append(f"{name} in {precision}")
            continue
        plan = _compare(setting, table, name, precision)
        plans += [] if plan is None else [(name, precision, plan)]
    _list_refused(sheet, plans)
    if left_out:
        raise NotHereError(f"out of time before {', '.join(left_out)}")


def _order(setting: Setting) -> Iterator[tuple[str, Precision]]:
    """The R50, then the main precision of all other networks, then the rest."""
    others = SMALL_NAMES if setting.is_small else NAMES
    yield from ((R50, precision) for precision in setting.precisions)
    yield from ((name, precision) for precision in setting.precisions for name in others)


def _compare(setting: Setting, table: Table, name: str, precision: Precision) -> Plan | None:
    """One row for each reference; how it was run, where it was."""
    card = setting.card(name)
    # As many as are computed at a time when a video's views are, so that its plan serves here.
    views = setting.views(card, setting.sizes.views)
    devices = [str(setting.device)] + (["cpu"] if name == R50 and setting.device.type == "cuda" else [])
    references = {device: _expected(setting, name, device, views[:COMPARED]) for device in devices}
    try:
        runner = setting.runner(name, precision)
        found = setting.plan(name, precision, len(views))
        logits = runner.infer(views)[:COMPARED]
    except DeviceError as error:
        table.row(
            network=name,
            precision=precision,
            reference=devices[0],
            difference=None,
            allowed=None,
            std_of_logits=None,
            is_right=False,
            seconds_to_find_the_plan=None,
            what=str(error),
        )
        return None
    for device, expected in references.items():
        limit = logits_limit(card, expected, computed_in=precision)
        difference = float(np.abs(logits - expected).max())
        table.row(
            network=name,
            precision=precision,
            reference=device,
            difference=difference,
            allowed=limit,
            std_of_logits=float(expected.std()),
            is_right=difference <= limit,
            seconds_to_find_the_plan=found.seconds_to_find,
            what=str(runner.info),
        )
    return found.plan


def _expected(setting: Setting, name: str, device: str, views: Resized) -> NDArray[np.float32]:
    def compute() -> NDArray[np.float32]:
        with TorchRunner(setting.checkpoint(name), device=device) as runner:
            return runner.infer(views)

    expected: NDArray[np.float32] = setting.keep(("expected", name, device), compute)
    return expected


def _list_refused(sheet: Sheet, plans: list[tuple[str, Precision, Plan]]) -> None:
    table = sheet.table("ways that were refused")
    count = 0
    for name, precision, plan in plans:
        for (kind, shape, *_), choice in plan.choices.items():
            count += len(choice.seconds) + len(choice.refused)
            for way, reason in choice.refused.items():
                table.row(
                    network=name,
                    precision=precision,
                    weights="x".join(map(str, kind[0])),
                    maps="x".join(map(str, shape)),
                    way=way,
                    reason=reason,
                )
    sheet.note(f"{len(table.rows)} of {count} ways were refused")
