"""What the subjects share: the device, networks of full or small size, and what took long to make."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from i3d_deploy import generated, model, origins
from i3d_deploy.card import Card, Precision, Provenance
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.frames import Resized
from i3d_deploy.fused import stacking
from i3d_deploy.fused.choice import Plan
from i3d_deploy.fused.networks import FusedNetwork
from i3d_deploy.fused.stacking import Source
from i3d_deploy.network import NETWORKS, Inception, ResNet
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.runners.fused_runner import DTYPES, FusedRunner

R50 = "i3d_r50"

_BLOCK = (4, 3, 5, 2, 4, 3)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large what is measured is.

    Attributes:
        views: Per video.
        matrix: Side of the matrices of a large product.
        copied_bytes: Of a large copy.
        repeats: Times that are taken of a thing.
        seconds: That a contestant's turn lasts.
        frames: Of a generated clip.
        frame: Its height and width.
        clips: How many of them.
        training_videos: In a step of training.
    """

    views: int = 30
    matrix: int = 8192
    copied_bytes: int = 2**31
    repeats: int = 7
    seconds: float = 0.5
    frames: int = 300
    frame: tuple[int, int] = (256, 340)
    clips: int = 32
    training_videos: int = 8


SMALL = Sizes(
    views=2,
    matrix=64,
    copied_bytes=2**20,
    repeats=2,
    seconds=0,
    frames=24,
    frame=(36, 48),
    clips=2,
    training_videos=2,
)


@dataclass(kw_only=True)
class Setting:
    """One run.

    Attributes:
        device: What is measured.
        is_small: Whether networks and sizes are small: a dry run, whose figures mean nothing.
        folder: Where records go.
        date: Of today.
        videos: A folder of clips; None: they are generated.
        threads: That decode at a time.
        ends_at: When the subject's time is over, by ``time.monotonic``.
        kept: What took long to make, by a name.
    """

    device: torch.device
    is_small: bool
    folder: Path
    date: str
    videos: Path | None = None
    threads: int = 1
    ends_at: float = float("inf")
    kept: dict[Any, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> Sizes:
        """How large what is measured is."""
        return SMALL if self.is_small else Sizes()

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """What the project's networks are computed in, the main one first."""
        return ("fp16", "bf16") if self.device.type == "cuda" else ("fp32", "bf16")

    @property
    def dtype(self) -> torch.dtype:
        """Of the main precision."""
        return DTYPES[self.precisions[0]]

    @property
    def seconds_left(self) -> float:
        """Of the subject's time."""
        return self.ends_at - time.monotonic()

    def checkpoint(self, name: str = R50) -> Checkpoint:
        """A network with seeded random weights, made anew."""
        card = self.card(name)
        assert isinstance(card.network, ResNet | Inception), "pairs of networks are not measured"
        net = model.build(card.network)
        model.randomize(net, seed=0)
        return Checkpoint(model=net, card=card)

    def card(self, name: str) -> Card:
        """The card of such a network, as its origin tests it."""
        numbers = _numbers(name, is_small=self.is_small)
        small = {
            "sampling": Sampling(clip_len=8, frame_interval=1, num_clips=2),
            "spatial": Spatial(short_side=32, crop_size=32, num_crops=1),
        }
        return Card(
            network=numbers,
            label_set="numbered",
            labels=tuple(str(index) for index in range(numbers.num_classes)),
            provenance=Provenance(origin="random weights, seed 0"),
            **{**origins.usual_conventions(numbers).parts, **(small if self.is_small else {})},
        )

    def views(self, card: Card, count: int) -> Resized:
        """Views of a generated clip, each beginning at another of its frames.

        Args:
            card: Whose views.
            count: N.
        """
        length, height, width, channels = card.view_shape
        clip = np.stack([*generated.frames(num_frames=length, height=height, width=width)])[..., :channels]
        views: Resized = np.stack([np.roll(clip, number, axis=0) for number in range(count)]).astype(card.spatial.dtype)
        return views

    def runner(self, name: str, precision: Precision) -> FusedRunner:
        """The project's own runner, loaded once."""
        made: FusedRunner = self.keep(
            ("runner", name, precision),
            lambda: FusedRunner(self.checkpoint(name), device=str(self.device), precisions=(precision,)),
        )
        return made

    def network(self, name: str, precision: Precision) -> FusedNetwork:
        """The network that such a runner has, loaded once."""

        def make() -> FusedNetwork:
            source = self.checkpoint(name)
            return FusedNetwork(source.model, source.card.pixels, dtype=DTYPES[precision], device=self.device)

        made: FusedNetwork = self.keep(("network", name, precision), make)
        return made

    def plan(self, name: str, precision: Precision, views: int) -> Found:
        """How the project's runner runs a network over some number of views, found out once."""

        def find() -> Found:
            runner = self.runner(name, precision)
            began = time.perf_counter()
            return Found(plan=runner.plan(views), views=views, seconds_to_find=time.perf_counter() - began)

        found: Found = self.keep(("plan", name, precision, views), find)
        return found

    def source(self, name: str, views: int) -> Source:
        """Views of a network, on the device."""
        card = self.card(name)
        return stacking.of_views(torch.from_numpy(self.views(card, views)).to(self.device))

    def keep(self, name: Any, make: Callable[[], Any]) -> Any:
        """Something that is made at the first call.

        Args:
            name: Of what.
            make: Makes it.
        """
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]


@dataclass(frozen=True, kw_only=True)
class Found:
    """How a network is run over some views.

    Attributes:
        plan: What was found.
        views: How many together.
        seconds_to_find: How long that took.
    """

    plan: Plan
    views: int
    seconds_to_find: float

    @property
    def seconds(self) -> float:
        """Of the whole network, views on the device to logits there, as :class:`Plan` adds it up."""
        return self.plan.seconds[self.plan.groups]


def _numbers(name: str, *, is_small: bool) -> ResNet | Inception:
    """A network, or one of the same kinds of layers with few channels and blocks, for views of 8x32x32."""
    if not is_small:
        return NETWORKS[name](400)
    numbers = NETWORKS[name](8)
    if isinstance(numbers, Inception):
        mixed = ((_BLOCK,), (_BLOCK,), (_BLOCK,))
        return numbers.model_copy(update={"stem": (4, 4, 6), "mixed": mixed, "head_window": (1, 1, 1)})
    blocks = ((), (1,), (1,), ()) if numbers.non_local_mode else ()
    few = {"width": 4, "temporal_kernels": ((3,), (3, 1), (3, 1), (1,)), "non_local_blocks": blocks}
    return numbers.model_copy(update={**few, "head_window": (4, 1, 1) if numbers.head_window else None})
