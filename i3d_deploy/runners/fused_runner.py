"""PyTorch as fast as a GPU allows: half precision, everything fused, nothing but the checkpoint needed.

What is computed is in :mod:`i3d_deploy.fused`. Before a network runs, its logits are held against those of the same
network in float32 on the same GPU; a precision that is further off than its limit is not used.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from i3d_deploy import __version__
from i3d_deploy.card import Precision
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import DeviceError
from i3d_deploy.frames import Resized
from i3d_deploy.fused import choice, remembered, stacking
from i3d_deploy.fused.algorithms import available, why_no_kernels
from i3d_deploy.fused.choice import ChosenSteps, Plan, TimedSteps, TryingSteps
from i3d_deploy.fused.graphs import on
from i3d_deploy.fused.lanes import CudaLane, Lane, Pending, Piece, Streams, Upload
from i3d_deploy.fused.networks import FusedNetwork
from i3d_deploy.fused.proof import Proof
from i3d_deploy.fused.stacking import Source
from i3d_deploy.head import I3D
from i3d_deploy.limits import EIGHT_BITS
from i3d_deploy.runners.runner import Runner, RunnerInfo
from i3d_deploy.runners.torch_runner import begin_computing, choose_device
from i3d_deploy.views import Part, Views

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": torch.float16,
}
"""Of maps; with fp8, of those that are not inside of a block."""

TOGETHER = 30
"""Views that are computed at a time at most: those of a video of the usual protocol."""
CHUNK = 3
"""Views that go through the early parts of a network at a time, as soon as they are copied; the copy of the first ones
is all that is waited for."""

Numbers = TypeVar("Numbers", list[int], range)


class WrongPrecisionError(DeviceError):
    """No precision that was asked for is within its limit.

    Attributes:
        reason: What is wrong, without what to do.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}: give --precision fp32")
        self.reason = reason


class FusedRunner(Runner):
    """A checkpoint on a GPU, in half precision or less.

    The first run of a number of views takes much longer than the next ones: what is fastest for it is found out then,
    and kept for the next process (Note [Remembered] in :mod:`i3d_deploy.fused.remembered`).

    Args:
        source: The checkpoint.
        device: "cuda" or "cuda:1"; a CPU works too, and is slower there than other runners.
        precisions: What to compute in: the first whose logits are within its limit.

    Raises:
        DeviceError: PyTorch has not that device.
        WrongPrecisionError: No precision is within its limit.
    """

    skips_dropped_frames = True

    def __init__(
        self, source: Checkpoint, *, device: str = "cuda", precisions: Sequence[Precision] = ("fp16", "bf16")
    ) -> None:
        super().__init__()
        begin_computing()
        self.card, self.notes = source.card, source.notes
        self.device = choose_device(device)
        self.preferred_batch = TOGETHER if self.card.has_fixed_length else 1
        self._plans: dict[int, Plan] = {}
        self._checking: TryingSteps | None = None
        self._fc = source.model.fc
        if self.device.type == "cuda" and (reason := why_no_kernels(self.device)) is not None:
            self.notes = (*self.notes, f"slower than it could be, without kernels of our own: {reason}")
        if (
            self.device.type == "cuda"
            and "fp8" in precisions
            and torch.cuda.get_device_capability(self.device) < (8, 9)
        ):
            name = torch.cuda.get_device_name(self.device)
            raise DeviceError(f"{name} does not multiply in fp8, GPUs from compute capability 8.9 on do: give fp16")
        self._proof = Proof.of(source.model, self.card, self.device)
        self._network, self._precision = self._first_within(source.model, precisions)
        self._lanes = self._make_lanes()
        self._turns = 0
        self.info = RunnerInfo(
            backend=f"torch {torch.__version__}",
            device=str(self.device),
            provider="fused",
            precision=f"{self._precision} with fp16" if self._precision in EIGHT_BITS else self._precision,
        )

    def infer_parts(self, parts: Iterable[Part]) -> Iterator[tuple[Part, NDArray[np.float32]]]:
        """As in any runner; the next part is copied while this one is computed."""
        waiting: list[tuple[Part, list[Pending]]] = []
        for part in parts:
            if not self._is_usual(part.views):
                yield from self._waited(waiting)
                yield from super().infer_parts([part])
                continue
            with self.turn():
                started = [self._start(of_frames(part.views, some)) for some in _split(part.numbers, TOGETHER)]
            yield from self._waited(waiting)
            waiting = [(part, started)]
        yield from self._waited(waiting)

    def _waited(self, waiting: list[tuple[Part, list[Pending]]]) -> Iterator[tuple[Part, NDArray[np.float32]]]:
        while waiting:
            part, started = waiting.pop(0)
            self.check_usable()
            yield part, np.concatenate([pending.wait() for pending in started])

    def shares(self, views: Views, *, size: int) -> bool:
        """As in any runner: frames are copied once for all views that have them."""
        return self._is_usual(views)

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> Resized:
        """As in any runner: page-locked, which a GPU reads by itself."""
        kind = torch.uint8 if np.dtype(dtype) == np.uint8 else torch.float32
        array: Resized = torch.empty(shape, dtype=kind, pin_memory=self.device.type == "cuda").numpy()
        return array

    def feature_maps(self, views: Resized) -> NDArray[np.float32]:
        """As in any runner."""
        with self.turn():
            self._check(views, any_size=True)
            self.plan(len(views))
            source = stacking.of_views(torch.from_numpy(np.require(views, requirements=["C", "W"])).to(self.device))
            with on(self.device):
                maps = self._network.features(self._any_size, source)
            return np.ascontiguousarray(maps.permute(0, 4, 1, 2, 3).float().cpu().numpy())

    def classifier(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As in any runner."""
        with self.turn():
            weight, bias = (tensor.detach().cpu().numpy() for tensor in (self._fc.weight, self._fc.bias))
        return np.array(weight, np.float32), np.array(bias, np.float32)

    def plan(self, views: int) -> Plan:
        """How some number of views of the card's length is computed, found out on the first call.

        Args:
            views: N.

        Raises:
            DeviceError: A convolution comes out right in no way, the logits are not within their limit, or the device
                has not the memory.
        """
        if views not in self._plans:
            closest = min(self._plans.values(), key=lambda plan: abs(math.log(plan.views / views)), default=None)
            with self.turn(), _memory_errors(self.device):
                source = self._proof.source(views, self.device)
                path = self._remembered_at(views)
                found = None if path is None else remembered.read(path)
                plan = choice.plan(self._network, source, chunk=CHUNK, before=closest, remembered=found)
                self._check_plan(plan, source)
                self._plans[views] = plan
                self._checking = None
                if path is not None and found != choice.to_remember(plan):
                    remembered.write(path, choice.to_remember(plan))
        return self._plans[views]

    def _remembered_at(self, views: int) -> Path | None:
        """Where a plan is kept for the next process; None on a CPU, where there is little to choose."""
        if self.device.type != "cuda":
            return None
        return remembered.path_of(
            {
                "i3d_deploy": __version__,
                "torch": torch.__version__,
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
                "ways": [way.name for way in available(self.device, self._network.dtype)],
                "gpu": torch.cuda.get_device_name(self.device),
                "network": self.card.network.model_dump(mode="json"),
                "view": self.card.view_shape,
                "precision": self._precision,
                "views": views,
                "chunk": CHUNK,
            }
        )

    def _check_plan(self, plan: Plan, source: Source) -> None:
        with on(self.device):
            steps = ChosenSteps(plan.choices, self.device)
            logits = self._network.logits(steps, source, groups=plan.groups)
        objection = self._proof.objection(logits, self._precision)
        if objection is not None:
            raise DeviceError(
                f"the logits of {plan.views} views on {self.device} are not those of float32: {objection}: "
                "give --precision fp32"
            )

    def _first_within(self, net: I3D, precisions: Sequence[Precision]) -> tuple[FusedNetwork, Precision]:
        """The network in the first precision whose logits are within its limit."""
        objections = []
        for precision in precisions:
            network = FusedNetwork(
                net,
                self.card.pixels,
                dtype=DTYPES[precision],
                device=self.device,
                has_eight_bits=precision in EIGHT_BITS,
            )
            with on(self.device):
                source = self._proof.source(len(self._proof.views), self.device)
                logits = network.logits(ChosenSteps({}, self.device), source)
            objection = self._proof.objection(logits, precision)
            if objection is None:
                return network, precision
            objections.append(objection)
        raise WrongPrecisionError(
            f"the network's logits on {self.device} are not those of float32: {'; '.join(objections)}"
        )

    @property
    def _any_size(self) -> ChosenSteps:
        """Steps for maps of other sizes than a plan's, in the ways that were found for those, each checked once."""
        if self._checking is None:
            known = {key: found for plan in self._plans.values() for key, found in plan.choices.items()}
            self._checking = TryingSteps(
                self.device, available(self.device, self._network.dtype), known=known, follows=True
            )
        return self._checking

    def _run(self, inputs: Resized) -> NDArray[np.float32]:
        started: list[Pending] = []
        try:
            for some in _split(range(len(inputs)), TOGETHER):
                started.append(self._start(of_cut(inputs[some.start : some.stop])))
        finally:
            rows = [pending.wait() for pending in started]  # the caller's memory is being read
        return np.concatenate(rows)

    def _start(self, upload: Upload) -> Pending:
        # Whole videos come in every length: what is found for the usual one serves all.
        plan = self.plan(len(upload.origins))
        self._turns += 1
        lane = self._lanes[self._turns % len(self._lanes)]
        with torch.inference_mode(), _memory_errors(self.device):
            steps = ChosenSteps(plan.choices, self.device) if self.card.has_fixed_length else self._any_size
            return lane.start(upload, _Planned(self._network, plan, steps))

    def _is_usual(self, views: Views) -> bool:
        first = 0 if self.card.has_fixed_length else 1  # whole videos have any length
        return views.view_shape[first:] == self.card.view_shape[first:] and views.dtype == self.card.spatial.dtype

    @property
    def _pixels(self) -> torch.dtype:
        return torch.uint8 if self.card.spatial.dtype == "uint8" else torch.float32

    def _make_lanes(self) -> list[Lane]:
        _, height, width, _ = self.card.view_shape
        size = height, width
        if self.device.type != "cuda":
            return [Lane(size)]
        streams = Streams(self.device)
        return [
            CudaLane(
                size,
                device=self.device,
                dtype=self._pixels,
                streams=streams,
                is_recorded=self.card.has_fixed_length,
            )
            for _ in range(2)
        ]

    def _like_input(self, views: Resized) -> Resized:
        return views

    def _transfer(self, inputs: Resized) -> None:
        with on(self.device):
            for some in _split(range(len(inputs)), TOGETHER):
                self._lanes[0].fill(of_cut(inputs[some.start : some.stop]))

    def _profile(self, inputs: Resized, runs: int) -> Mapping[tuple[str, str], float]:
        """Each step by itself, on the views at hand; what is left of the whole is what lies between them."""
        source = stacking.of_views(torch.from_numpy(inputs.copy()).to(self.device))
        plan = self.plan(len(source.origins))
        steps = TimedSteps(plan.choices, self.device)
        with on(self.device):
            self._network.logits(steps, source, groups=plan.groups)
        seconds = {key: of_one * runs for key, of_one in steps.seconds.items()}
        rest = plan.seconds[plan.groups] * runs - sum(seconds.values())
        return {**seconds, ("between the steps", "rest"): max(rest, 0.0)}

    def _free(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self._plans.clear()
        self._checking = None
        for name in ("_lanes", "_network"):
            self.__dict__.pop(name, None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class _Planned:
    """A network as it is run over some number of views: :class:`i3d_deploy.fused.lanes.Network`."""

    def __init__(self, network: FusedNetwork, plan: Plan, steps: ChosenSteps) -> None:
        self._network, self._groups, self._steps = network, plan.groups, steps
        self.chunk = plan.chunk

    def early(self, source: Source, out: Tensor | None) -> Tensor:
        return self._network.early(self._steps, source, groups=self._groups, out=out)

    def late(self, maps: Tensor) -> Tensor:
        return self._network.classify(self._network.late(self._steps, maps))


def _split(numbers: Numbers, at_most: int) -> list[Numbers]:
    """Cut a sequence into parts as even as can be."""
    count = -(-len(numbers) // at_most)
    size = -(-len(numbers) // count)
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def of_cut(views: Resized) -> Upload:
    """Views that are cut already, chunk by chunk.

    Args:
        views: (N, T, H, W, C).
    """
    count, frames, height, width, channels = views.shape
    numbers = np.arange(count * frames, dtype=np.int64).reshape(count, frames)
    views = np.ascontiguousarray(views)
    ends = [*range(CHUNK, count, CHUNK), count]
    return Upload(
        pieces=[Piece(arrays=[views[start:end]], views=end) for start, end in zip([0, *ends], ends, strict=False)],
        origins=numbers * (height * width * channels),
        pitch=width * channels,
    )


def of_frames(views: Views, numbers: Sequence[int]) -> Upload:
    """Views of a video from their frames, each of which is there once.

    Args:
        views: All of the video.
        numbers: Which, by their place in the order.
    """
    crops, clips = zip(*(divmod(number, len(views.indices)) for number in numbers), strict=True)
    indices = views.indices[list(clips)]  # N T
    wanted, places = np.unique(indices, return_inverse=True)
    frames = [np.ascontiguousarray(views.by_index[index]) for index in wanted.tolist()]
    _, width, channels = frames[0].shape
    pitch = width * channels
    corners = np.array([views.boxes[crop].top * pitch + views.boxes[crop].left * channels for crop in crops], np.int64)
    places = places.reshape(indices.shape)
    origins = places * frames[0].size + corners[:, None]
    # The frames that a chunk adds to those before, in the order of views the first of those that are left.
    views_ends = [*range(CHUNK, len(numbers), CHUNK), len(numbers)]
    frame_ends = [int(places[:end].max()) + 1 for end in views_ends]
    steps = zip([0, *frame_ends], frame_ends, views_ends, strict=False)
    pieces = [Piece(arrays=frames[start:end], views=views) for start, end, views in steps]
    return Upload(pieces=pieces, origins=origins.astype(np.int64), pitch=pitch)


@contextmanager
def _memory_errors(device: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"{device} has not the memory: give fewer views at a time (--batch)") from error
