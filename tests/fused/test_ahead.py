"""What is compiled ahead is in Triton's cache when it is launched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from i3d_deploy import doctor
from i3d_deploy.fused.ahead import compile_ahead
from i3d_deploy.fused.compiling import instead_of_running
from i3d_deploy.fused.convolution import Window
from i3d_deploy.fused.layers import Layer, Placed


def layer(views: int, *, out_channels: int | None) -> Layer:
    """A 1x1x1 convolution of 64 channels, or a pool of two frames."""
    is_pool = out_channels is None
    window = Window(kernel=(2, 1, 1), stride=(2, 1, 1)) if is_pool else Window(kernel=(1, 1, 1))
    return Layer(
        x=Placed(sizes=(views, 2, 4, 4, 64), pixel=64),
        out=Placed(sizes=(views, 1 if is_pool else 2, 4, 4, out_channels or 64), pixel=out_channels or 64),
        window=window,
        out_channels=out_channels,
        has_shortcut=False,
        is_rectified=not is_pool,
        dtype=torch.float16,
        out_dtype=torch.float16,
    )


def launched(layers: list[Layer]) -> int:
    """How many kernels are launched, with every tile that is tried."""
    with instead_of_running() as compiled:
        for each in layers:
            for tile in each.tiles:
                each.launch(tile)
    return len(compiled)


def test_what_is_compiled_ahead_is_not_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(doctor, "usable_cores", lambda: 2)  # with one, nothing is compiled ahead
    # Two and six views have the same kernels.
    layers = [layer(views, out_channels=channels) for views in (2, 6) for channels in (64, None)]
    compile_ahead(layers, arch=90)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.cubin")}
    assert len(before) == len(layers[0].tiles) + 1
    assert launched(layers) == len(before)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.cubin")} == before

    launched([layer(1, out_channels=128)])  # of which nothing is there
    assert len([*tmp_path.rglob("*.cubin")]) > len(before)
