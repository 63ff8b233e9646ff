"""What was found to be the fastest is kept, and is a hint only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from i3d_deploy import model
from i3d_deploy.fused import choice, remembered
from i3d_deploy.fused.algorithms import Algorithm, MatrixProduct, ThreeDimensions, TwoDimensions
from i3d_deploy.fused.convolution import Convolution
from i3d_deploy.fused.networks import FusedNetwork
from i3d_deploy.fused.remembered import Remembered
from i3d_deploy.fused.stacking import of_views
from i3d_deploy.preprocessing import Pixels
from tests.narrowed import small

FOUND = Remembered(groups=(1, 1, 3), ways={"a": "conv3d", "b": "matmul"})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_written_is_read(cache: Path) -> None:
    path = remembered.path_of({"gpu": "NVIDIA H200", "views": 30})
    assert path.parent == cache / "i3d-deploy" / "plans"
    assert remembered.read(path) is None
    remembered.write(path, FOUND)
    assert remembered.read(path) == FOUND


def test_other_circumstances_have_another_file() -> None:
    circumstances = {"gpu": "NVIDIA H200", "views": 30}
    assert remembered.path_of(circumstances) == remembered.path_of(dict(reversed(circumstances.items())))
    assert remembered.path_of(circumstances) != remembered.path_of({**circumstances, "views": 29})


@pytest.mark.parametrize("text", ["", "{}", '{"groups": [0], "ways": {}}', '{"groups": 3, "ways": {}}', "[1, 2]"])
def test_a_damaged_file_is_no_hint(text: str) -> None:
    path = remembered.path_of({})
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert remembered.read(path) is None


def test_a_folder_that_cannot_be_is_none(cache: Path) -> None:
    cache.write_text("a file")
    remembered.write(remembered.path_of({}), FOUND)
    assert remembered.read(remembered.path_of({})) is None


class Counted(ThreeDimensions):
    """Counts what is asked of it."""

    runs = 0

    def run(self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None, out: Tensor | None) -> Tensor:
        Counted.runs += 1
        return super().run(convolution, x, shortcut=shortcut, out=out)


def test_ways_that_are_remembered_are_checked_and_no_other_is_tried() -> None:
    net = model.build(small("i3d_r50", 5))
    model.randomize(net, seed=1)
    network = FusedNetwork(net, Pixels(), dtype=torch.float32, device=torch.device("cpu"))
    source = of_views(torch.randint(0, 256, (2, 8, 32, 32, 3), dtype=torch.uint8))
    ways: list[Algorithm] = [Counted(), TwoDimensions(), MatrixProduct()]
    first = choice.plan(network, source, ways=ways)
    texts = [choice.as_text(key) for key in first.choices]
    Counted.runs = 0
    hints = Remembered(groups=first.groups, ways=dict.fromkeys(texts, "conv2d"))
    again = choice.plan(network, source, ways=ways, remembered=hints)
    assert Counted.runs == 0
    assert choice.to_remember(again) == hints
    unknown = Remembered(groups=(7, 7, 7), ways=dict.fromkeys(texts, "a way of another version"))
    assert choice.plan(network, source, ways=ways, remembered=unknown).groups == first.groups
    assert Counted.runs > 0
