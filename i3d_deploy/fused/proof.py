"""Are the logits of a fused network those of the network that it was made from? Asked before anybody gets them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from i3d_deploy.card import Card, Precision
from i3d_deploy.fused import stacking
from i3d_deploy.fused.graphs import on
from i3d_deploy.fused.stacking import Source
from i3d_deploy.head import I3D
from i3d_deploy.limits import EIGHT_BITS, EIGHT_BITS_COSINE, logits_limit, smallest_cosine
from i3d_deploy.preprocessing import normalize

VIEWS = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class Proof:
    """Views, and what PyTorch's own network says of them in float32.

    Attributes:
        card: Of the network.
        views: (N, T, H, W, C) of the card, blobs that move, on the CPU.
        expected: (N, K) logits.
    """

    card: Card
    views: Tensor
    expected: NDArray[np.float32]

    @classmethod
    def of(cls, net: I3D, card: Card, device: torch.device) -> Self:
        """Compute what is expected.

        Args:
            net: In eval mode.
            card: Its card.
            device: Where.
        """
        views = _blobs(card)
        clips = torch.from_numpy(normalize(views.numpy(), card.pixels)).to(device)
        moved = copy.deepcopy(net).to(device)
        with on(device):
            logits = torch.cat([moved(clips[number : number + 1]) for number in range(VIEWS)])
        return cls(card=card, views=views, expected=logits.cpu().numpy())

    def source(self, views: int, device: torch.device) -> Source:
        """So many views on a device: the views again and again.

        Args:
            views: N.
            device: Where.
        """
        few = stacking.of_views(self.views[:views].to(device))
        times = -(-views // len(self.views))
        return replace(few, origins=few.origins.repeat(times, 1)[:views])

    def objection(self, logits: Tensor, precision: Precision) -> str | None:
        """Why logits are not those that are expected; None where they are.

        Args:
            logits: (N, K) of :meth:`source`.
            precision: What they are computed in.
        """
        found = logits.float().cpu().numpy()
        expected = self.expected[np.arange(len(found)) % len(self.expected)]
        limit = logits_limit(self.card, self.expected, computed_in=precision)
        difference = float(np.abs(found - expected).max())
        if not difference <= limit:  # also where it is no number
            return f"in {precision} they differ by {difference:.2g}, allowed {limit:.2g}"
        if precision in EIGHT_BITS and (cosine := smallest_cosine(found, expected)) < EIGHT_BITS_COSINE:
            return f"in {precision} their cosine is {cosine:.3f}, at least {EIGHT_BITS_COSINE} is needed"
        return None


def _blobs(card: Card) -> Tensor:
    frames, height, width, channels = card.view_shape
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(VIEWS, channels, 4, 8, 8, generator=generator)
    fine = [functional.interpolate(view[None], (frames, height, width), mode="trilinear") for view in coarse]
    dtype = torch.uint8 if card.spatial.dtype == "uint8" else torch.float32
    return torch.cat([(255 * view).round().to(dtype).permute(0, 2, 3, 4, 1) for view in fine]).contiguous()
