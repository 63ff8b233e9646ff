"""Frames of uint8 become what the stem multiplies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from i3d_deploy.fused.convolution import Window
from i3d_deploy.fused.stacking import Source, Stacking, of_views
from i3d_deploy.preprocessing import Pixels, normalize

CPU = torch.device("cpu")
STEM = Window(kernel=(5, 7, 7), stride=(4, 2, 2), padding=(2, 3, 3))


def stacking(window: Window = STEM) -> Stacking:
    return Stacking(Pixels(), window, dtype=torch.float32, device=CPU)


def test_frames_lie_side_by_side_and_outside_is_zero() -> None:
    views = np.random.default_rng(0).integers(0, 256, (2, 8, 5, 6, 3), dtype=np.uint8)
    images = stacking().stack_plainly(of_views(torch.from_numpy(views)))
    assert images.shape == (2, 2, 5, 6, 16)
    scaled = torch.from_numpy(normalize(views, Pixels())).permute(0, 2, 3, 4, 1)  # N T H W C
    # The first image is of frames -2 to 2, the second one of 2 to 6.
    expected = torch.zeros(2, 2, 5, 6, 16)
    expected[:, 0, ..., 6:15] = torch.cat([scaled[:, 0], scaled[:, 1], scaled[:, 2]], -1)
    expected[:, 1, ..., :15] = torch.cat([scaled[:, frame] for frame in range(2, 7)], -1)
    torch.testing.assert_close(images, expected, rtol=0, atol=0)


def test_views_are_cut_from_frames_that_lie_in_any_order() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (3, 6, 9, 3), dtype=np.uint8)
    cut = np.stack([frames[[2, 0], 1:5, 2:6], frames[[1, 1], 0:4, 4:8]])
    size, pitch = 6 * 9 * 3, 9 * 3
    first, second = pitch + 2 * 3, 4 * 3  # where the crops begin in a frame
    source = Source(
        pixels=torch.from_numpy(frames.ravel()),
        origins=torch.tensor([[2 * size + first, first], [size + second, size + second]]),
        pitch=torch.tensor([pitch]),
        size=(4, 4),
    )
    plain = stacking(Window(kernel=(1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3)))
    images, expected = (plain.stack_plainly(views) for views in (source, of_views(torch.from_numpy(cut))))
    torch.testing.assert_close(images, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("colors", "frames", "channels"), [(3, 5, 16), (2, 7, 16), (3, 7, 32), (3, 1, 16)])
def test_channels_are_filled_up(colors: int, frames: int, channels: int) -> None:
    pixels = Pixels() if colors == 3 else Pixels(color="xy", mean=(128.0, 128.0), std=(1.0, 1.0))
    window = Window(kernel=(frames, 7, 7), stride=(2, 2, 2), padding="same")
    assert Stacking(pixels, window, dtype=torch.float16, device=CPU).channels == channels
