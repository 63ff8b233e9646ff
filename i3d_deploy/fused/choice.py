"""Which way is the fastest for each convolution, found by trying them where they will be used.

Note [Trying]
    No rule says which of cuDNN's 2D and 3D convolutions, cuBLAS and the project's own kernels is the fastest for a size
    on a GPU: it changes with their versions. So each is run on the network's own data, checked
    (Note [Wrong convolutions] in :mod:`i3d_deploy.fused.sampled`), timed, and the fastest that is right is kept. How
    many views go through a part of the network at a time is tried likewise. For about as many views the same is taken,
    checked on their sizes again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from i3d_deploy.errors import DeviceError
from i3d_deploy.fused import sampled
from i3d_deploy.fused.algorithms import Algorithm, available, has_kernels
from i3d_deploy.fused.convolution import Convolution, Kind, Window
from i3d_deploy.fused.graphs import exact_sums, on, seconds_of
from i3d_deploy.fused.networks import FusedNetwork
from i3d_deploy.fused.plain import PlainSteps
from i3d_deploy.fused.remembered import Remembered
from i3d_deploy.fused.stacking import Source, Stacking

Key = tuple[Kind, tuple[int, ...], int, bool]
"""A convolution, the shape and the distance of pixels of what comes in, and whether a shortcut is added."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was found for one convolution of one size.

    Attributes:
        way: The fastest that is right.
        seconds: Of one run, by name of the algorithm, of all that were tried and are right; no number of one that was
            known and only checked.
        refused: Why others are not taken, by name of the algorithm.
        macs: Multiply-accumulates.
        moved_bytes: What must be read and written at the least.
    """

    way: Algorithm
    seconds: Mapping[str, float]
    refused: Mapping[str, str]
    macs: int
    moved_bytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a network is run over some number of views.

    Attributes:
        views: N.
        chunk: Views that go through the early parts at a time, as soon as they are copied.
        groups: Views at a time for each early part: Note [Parts] in :mod:`i3d_deploy.fused.networks`.
        choices: What was found for each convolution, in groups of this and of other sizes.
        seconds: Of the whole network by groups that were tried: the early parts of one chunk, as often as there are
            chunks (the last one counts as a full one), and the late parts, each timed by itself.
    """

    views: int
    chunk: int
    groups: tuple[int, ...]
    choices: Mapping[Key, Choice]
    seconds: Mapping[tuple[int, ...], float]


class ChosenSteps(PlainSteps):
    """Runs each convolution in the way that was chosen; one of another size as another of its kind, or plainly.

    Args:
        choices: What was found.
        device: What computes.
    """

    def __init__(self, choices: Mapping[Key, Choice], device: torch.device) -> None:
        self._choices = choices
        self._of_kind = {kind: choice.way for (kind, *_), choice in choices.items()}
        self.has_kernels = has_kernels(device)

    def stack(self, stacking: Stacking, source: Source) -> Tensor:
        """As of :class:`i3d_deploy.fused.networks.Steps`."""
        return stacking.stack(source) if self.has_kernels else super().stack(stacking, source)

    def convolve(
        self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """As of :class:`i3d_deploy.fused.networks.Steps`."""
        way = self.way(convolution, x, shortcut)
        if way is None:
            return super().convolve(convolution, x, shortcut=shortcut, out=out)
        return way.run(convolution, x, shortcut=shortcut, out=out)

    def way(self, convolution: Convolution, x: Tensor, shortcut: Tensor | None) -> Algorithm | None:
        """How a convolution is run; None: plainly."""
        choice = self._choices.get(_key(convolution, x, shortcut))
        way = self._of_kind.get(convolution.kind) if choice is None else choice.way
        return way if way is not None and way.fits(convolution, x) else None

    def max_pool(self, x: Tensor, window: Window, *, out: Tensor | None = None) -> Tensor:
        """As of :class:`i3d_deploy.fused.networks.Steps`."""
        if not self.has_kernels:
            return super().max_pool(x, window, out=out)
        from i3d_deploy.fused import tiled

        return tiled.max_pool(x, window, out=out)


class TryingSteps(ChosenSteps):
    """Tries every way for each convolution that it meets for the first time: Note [Trying].

    Args:
        device: What computes.
        ways: What is tried.
        known: What was found before, which is kept.
        follows: Whether a convolution whose kind is known in another size takes the same way, which is only checked; a
            wrong one is refused, and all are tried.
        remembered: Names of ways by :func:`as_text` of a key, of which each is likewise only checked.

    Attributes:
        choices: What was found.
    """

    def __init__(
        self,
        device: torch.device,
        ways: Sequence[Algorithm],
        *,
        known: Mapping[Key, Choice] | None = None,
        follows: bool = False,
        remembered: Mapping[str, str] | None = None,
    ) -> None:
        self.choices: dict[Key, Choice] = dict(known or {})
        super().__init__(self.choices, device)
        self._device, self._ways, self._follows = device, ways, follows
        self._remembered = remembered or {}

    def following(self) -> TryingSteps:
        """The same for other sizes, in which the ways that were found are only checked."""
        return TryingSteps(self._device, self._ways, known=self.choices, follows=True, remembered=self._remembered)

    def convolve(
        self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """As of :class:`i3d_deploy.fused.networks.Steps`."""
        key = _key(convolution, x, shortcut)
        if key not in self.choices:
            self.choices[key] = self._choose(key, convolution, x, shortcut, out)
        return super().convolve(convolution, x, shortcut=shortcut, out=out)

    def _probable(self, key: Key) -> Algorithm | None:
        """The way that was found before, for this size or another one."""
        named = [way for way in self._ways if way.name == self._remembered.get(as_text(key))]
        if named:
            return named[0]
        return self._of_kind.get(key[0]) if self._follows else None

    def _choose(
        self, key: Key, convolution: Convolution, x: Tensor, shortcut: Tensor | None, out: Tensor | None
    ) -> Choice:
        seconds: dict[str, float] = {}
        refused: dict[str, str] = {}
        right: dict[str, Algorithm] = {}
        known = self._probable(key)
        for way in self._ways if known is None else (known, *self._ways):
            if way.name in seconds or way.name in refused or not way.fits(convolution, x):
                continue
            run = partial(way.run, convolution, x, shortcut=shortcut, out=out)
            _poison(convolution, x, out)
            try:
                if not sampled.agrees(convolution, x, run(), shortcut=shortcut):
                    refused[way.name] = "its result is wrong"
                    continue
                than = min(seconds.values(), default=math.inf)
                # What is taken without comparing need not be timed.
                seconds[way.name] = math.nan if way == known else seconds_of(run, self._device, than=than)
            except Exception as error:  # whatever a library raises for sizes that it has no kernel for
                if isinstance(error, torch.AcceleratorError):
                    torch.cuda.synchronize(self._device)  # raises if the GPU computes nothing any more in this process
                refused[way.name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                continue
            right[way.name] = way
            if way == known:
                break
        if not seconds:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
            raise DeviceError(
                f"{convolution.name} cannot be computed on {self._device} in {x.dtype}: install another PyTorch "
                f"({reasons})"
            )
        return Choice(
            way=right[min(seconds, key=seconds.__getitem__)],
            seconds=seconds,
            refused=refused,
            macs=convolution.work(x),
            moved_bytes=convolution.moved_bytes(x, has_shortcut=shortcut is not None),
        )


class TimedSteps(ChosenSteps):
    """Times each step by itself, again and again.

    Args:
        choices: What was found.
        device: What computes.

    Attributes:
        seconds: By name and kind of the step, of all groups together.
    """

    def __init__(self, choices: Mapping[Key, Choice], device: torch.device) -> None:
        super().__init__(choices, device)
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self._device = device

    def stack(self, stacking: Stacking, source: Source) -> Tensor:
        """As of :class:`i3d_deploy.fused.networks.Steps`."""
        run = partial(super().stack, stacking, source)
        self.seconds["frames to images", "stack"] += seconds_of(run, self._device)
        return run()

    def convolve(
        self, convolution: Convolution, x: Tensor, *, shortcut: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """As of :class:`i3d_deploy.fused.networks.Steps`."""
        run = partial(super().convolve, convolution, x, shortcut=shortcut, out=out)
        way = self.way(convolution, x, shortcut)
        self.seconds[convolution.name, "plain" if way is None else way.name] += seconds_of(run, self._device)
        return run()

    def max_pool(self, x: Tensor, window: Window, *, out: Tensor | None = None) -> Tensor:
        """As of :class:`i3d_deploy.fused.networks.Steps`."""
        run = partial(super().max_pool, x, window, out=out)
        sizes = "x".join(str(size) for size in x.shape[1:])
        self.seconds[f"pool of {sizes}", "max pool"] += seconds_of(run, self._device)
        return run()


def plan(
    network: FusedNetwork,
    source: Source,
    *,
    chunk: int | None = None,
    ways: Sequence[Algorithm] | None = None,
    before: Plan | None = None,
    remembered: Remembered | None = None,
) -> Plan:
    """Find the fastest way to run a network over as many views as a source has.

    Args:
        network: The network.
        source: Views such as those that will come.
        chunk: Views that go through the early parts at a time; None: all.
        ways: What is tried for convolutions; None: all that the device has.
        before: What was found for another number of views: it is kept for the same sizes; for others, where neither
            number is more than twice the other, the same ways are only checked.
        remembered: What another process has found for as many views; its ways are only checked.

    Raises:
        DeviceError: A convolution comes out right in no way.
    """
    device, views = network.device, len(source.origins)
    chunk = min(chunk or views, views)
    ways = available(device, network.dtype) if ways is None else ways
    known = {} if before is None else before.choices
    follows = before is not None and max(views, before.views) <= 2 * min(views, before.views)
    hints = None if remembered is None else remembered.ways
    steps = TryingSteps(device, ways, known=known, follows=follows, remembered=hints)
    tried = groups_to_try(chunk, parts=network.early_parts, device=device)
    if remembered is not None and remembered.groups in tried:
        tried = [remembered.groups]
    elif steps.has_kernels:
        _compile_ahead(network, source, tried)
    chunks = -(-views // chunk)
    early: dict[tuple[int, ...], float] = {}
    with on(device), exact_sums(chooses=True):
        for groups in tried:
            maps, early[groups] = _try_early(network, steps, source, chunk=chunk, groups=groups)
        maps = maps.repeat(chunks, 1, 1, 1, 1)[:views]
        network.late(steps, maps)
        chosen = ChosenSteps(steps.choices, device)
        late = seconds_of(lambda: network.classify(network.late(chosen, maps)), device)
    seconds = {groups: chunks * of_one + late for groups, of_one in early.items()}
    groups = min(seconds, key=seconds.__getitem__)
    return Plan(views=views, chunk=chunk, groups=groups, choices=steps.choices, seconds=seconds)


def to_remember(plan: Plan) -> Remembered:
    """What the next process need not find again."""
    return Remembered(groups=plan.groups, ways={as_text(key): choice.way.name for key, choice in plan.choices.items()})


def as_text(key: Key) -> str:
    """A convolution of some size, the same in every process."""
    return repr(key)


def _try_early(
    network: FusedNetwork, steps: TryingSteps, source: Source, *, chunk: int, groups: tuple[int, ...]
) -> tuple[Tensor, float]:
    """Try the early parts on the first chunk, and on as many views as the last one has, if those are fewer.

    Returns:
        Maps (N, T, H, W, C) of the first chunk, and the seconds that it takes.
    """
    some, rest = source.of(slice(0, chunk)), source.of(slice(0, len(source.origins) % chunk))
    maps = network.early(steps, some, groups=groups)
    if len(rest.origins):
        of_rest = steps.following()
        network.early(of_rest, rest, groups=groups)
        steps.choices.update(of_rest.choices)
    chosen = ChosenSteps(steps.choices, network.device)
    return maps, seconds_of(partial(network.early, chosen, some, groups=groups), network.device)


def _compile_ahead(network: FusedNetwork, source: Source, tried: Sequence[tuple[int, ...]]) -> None:
    """Have the kernels that will be launched compiled by all cores."""
    from i3d_deploy.fused.ahead import compile_ahead
    from i3d_deploy.fused.layers import Recording

    recording = Recording(network.dtype)
    with on(network.device):
        for groups in tried:
            network.features(recording, source, groups=groups)
    major, minor = torch.cuda.get_device_capability(network.device)
    compile_ahead(recording.layers, arch=10 * major + minor)


def groups_to_try(chunk: int, *, parts: int, device: torch.device) -> list[tuple[int, ...]]:
    """Groups worth a try: all views of a chunk together, or fewer in all early parts but the last.

    Args:
        chunk: Views of a chunk.
        parts: Early ones of the network.
        device: A CPU has no choice.
    """
    sizes = [size for size in range(1, chunk) if chunk % size == 0] if device.type == "cuda" else []
    return [(size,) * (parts - 1) + (chunk,) for size in (chunk, *reversed(sizes))]


def _poison(convolution: Convolution, x: Tensor, out: Tensor | None) -> None:
    """Leave no right result of before where the next one is written: memory that was freed is the next to be used."""
    memory = convolution.new_result(x) if out is None else out
    memory.fill_(float("nan"))


def _key(convolution: Convolution, x: Tensor, shortcut: Tensor | None) -> Key:
    return convolution.kind, tuple(x.shape), x.stride(3), shortcut is not None
