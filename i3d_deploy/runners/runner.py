"""The seam that every backend implements.

Note [One at a time]
    An engine has one set of buffers and uses every core, or the whole GPU, so a runner runs it for one thread at a
    time; the others wait for their turn. A turn is one run of the engine, over the views of one part: what goes on
    between two parts, decoding above all, is outside of it, and a video that was begun and left keeps nobody waiting.

Note [Forks]
    Threads do not live on in a forked process, those of a backend neither, and a CUDA context cannot be used there. So
    a runner refuses to run anywhere but in the process that made it, where it might otherwise wait for ever.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from i3d_deploy.card import Card
from i3d_deploy.errors import ArtifactError, InputError
from i3d_deploy.frames import Resized
from i3d_deploy.preprocessing import normalize
from i3d_deploy.views import Buffer, Part, Views


@dataclass(frozen=True, kw_only=True)
class RunnerInfo:
    """What is really running, as opposed to what was asked for.

    Attributes:
        backend: Package and version, such as ``onnxruntime 1.32.0``.
        device: ``cpu`` or ``cuda:0`` and so on.
        provider: The backend's own word for what executes (an execution provider, a plug-in).
        precision: Type of the convolutions that the backend reports or the engine was built in.
        threads: CPU threads; 0 where the backend decides.
    """

    backend: str
    device: str
    provider: str
    precision: str
    threads: int = 0

    def __str__(self) -> str:
        threads = f", {self.threads} threads" if self.threads else ""
        return f"{self.backend} {self.provider} on {self.device}, {self.precision}{threads}"


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """What one layer of an engine takes.

    Attributes:
        name: The backend's name for it; of fused layers, of one of them or of all.
        kind: Its operation, in the backend's word.
        seconds: Of one run of the engine, mean over the profiled runs; 0 below the resolution of the backend's clock.
    """

    name: str
    kind: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """Type and shape of an engine's input or output, without N.

    Attributes:
        dtype: ``uint8`` or ``float32``.
        shape: All but the first dimension; -1 where any size will do.
    """

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} of shape (N, {', '.join('any' if size < 0 else str(size) for size in self.shape)})"


def input_of(card: Card) -> Tensor:
    """What an engine takes, or PyTorch's network, which takes floats."""
    frames, height, width, channels = card.view_shape
    frames = frames if card.has_fixed_length else -1
    if card.engine is not None and card.engine.input in ("uint8_nthwc", "float32_nthwc"):
        dtype = card.engine.input.partition("_")[0]
        return Tensor(dtype=dtype, shape=(frames, height, width, channels))
    return Tensor(dtype="float32", shape=(channels, frames, height, width))


def check_fit(path: Path, card: Card, *, source: Tensor, result: Tensor) -> None:
    """Hold an engine against its card: views are made after the card and must fit the engine.

    Args:
        path: The engine, for messages.
        card: Its card.
        source: The engine's input.
        result: The engine's output.

    Raises:
        ArtifactError: They differ.
    """
    logits = Tensor(dtype="float32", shape=(card.network.num_classes,))
    for what, found, expected in (("input", source, input_of(card)), ("output", result, logits)):
        if found != expected:
            raise ArtifactError(f"{path}: the {what} of the engine is {found}, its card says {expected}")


class Runner(ABC):
    """A loaded engine; a context manager that frees it.

    Any number of threads may use one runner: Note [One at a time]. Implementations hold their turn (:meth:`turn`) while
    they use the engine. No other process can use it: Note [Forks].

    Attributes:
        card: The engine's card.
        info: What is really running.
        preferred_batch: Views per call that suit the device; callers may give fewer.
        notes: What had to be assumed about a checkpoint that carries no card.
        is_comparable: Whether its logits should be those of every other runner with the same weights; another program's
            own network says no.
        skips_dropped_frames: Whether a network that is no engine computes no frame that the pool after the stem drops.
    """

    card: Card
    info: RunnerInfo
    preferred_batch: int = 1
    notes: tuple[str, ...] = ()
    is_comparable: bool = True
    skips_dropped_frames: bool = False
    _is_closed = False
    _copied: Resized | None = None

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._spare_buffers = deque[Buffer](maxlen=1)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Have the engine for the calling thread within the block: Note [One at a time]. Blocks may be nested.

        Raises:
            InputError: The runner is closed, or belongs to the process that this one was forked from.
        """
        self.check_usable()
        with self._lock:
            self.check_usable()
            yield

    def check_usable(self) -> None:
        """Tell at once whether the runner can run, without waiting for a turn; raises as :meth:`turn`."""
        if self._process != os.getpid():
            raise InputError(
                f"the network was loaded by process {self._process} and cannot be used in its fork {os.getpid()}: "
                "start processes by multiprocessing's spawn and load it in each of them"
            )
        if self._is_closed:
            raise InputError("the runner is closed")

    def infer(self, views: Resized) -> NDArray[np.float32]:
        """Run the network.

        Args:
            views: (N, T, H, W, C) of the card's (T, H, W, C) and type; any T where the card takes whole videos. N is at
                most the largest of the engine's profile.

        Returns:
            (N, K) float32 logits, owned by the caller.

        Raises:
            InputError: Wrong shape or type, or the runner is closed.
        """
        with self.turn():
            return self._run(self._prepare(views))[: len(views)]

    def infer_parts(self, parts: Iterable[Part]) -> Iterator[tuple[Part, NDArray[np.float32]]]:
        """Run the network over the views of a video; a runner may compute once what several of them have in common.

        Args:
            parts: Views as they become ready: every view of an attempt once, unless a later attempt begins.

        Yields:
            Each part, in order, with the logits of its views, (N, K) float32, owned by the caller: those of
            :meth:`infer` up to rounding.

        Raises:
            InputError: As :meth:`infer`.
        """
        with self._buffer() as buffer:
            for part in parts:
                yield part, self.infer(buffer.cut(part))

    @contextmanager
    def _buffer(self) -> Iterator[Buffer]:
        """What the views of one video are cut into: memory of another video that is done, where there is some."""
        try:
            buffer = self._spare_buffers.pop()
        except IndexError:
            buffer = Buffer()
        try:
            yield buffer
        finally:
            if not self._is_closed:
                self._spare_buffers.append(buffer)

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> Resized:
        """Memory for views from which the engine's device takes them fastest.

        Args:
            shape: (N, T, H, W, C).
            dtype: uint8 or float32.

        Returns:
            A C-contiguous array, uninitialised, owned by the caller.
        """
        return np.empty(shape, dtype)

    def shares(self, views: Views, *, size: int) -> bool:
        """Whether :meth:`infer_parts` computes something once for several of these views.

        Args:
            views: All of a video; their frames need not be there.
            size: Views per part.
        """
        return False

    @property
    def streams(self) -> tuple[Runner, ...]:
        """The networks that it runs: itself, or one of RGB frames and one of their flow."""
        return (self,)

    def feature_maps(self, views: Resized) -> NDArray[np.float32]:
        """Run the network up to its head.

        Args:
            views: (N, T, H, W, C) of the card's C and type; any N, T, H and W that the network takes.

        Returns:
            (N, C, T', H', W') float32, the last feature maps, owned by the caller.

        Raises:
            InputError: Wrong shape or type, the runner is closed, or it gives logits alone.
        """
        raise InputError(f"{self.info.backend} runs an engine, which gives logits alone: give the checkpoint instead")

    def classifier(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Weights (K, C) and biases (K,) that make logits of averaged maps; raises as :meth:`feature_maps`."""
        raise InputError(f"{self.info.backend} runs an engine, which gives logits alone: give the checkpoint instead")

    def profile(self, views: Resized, *, runs: int = 3) -> tuple[LayerTime, ...]:
        """Time every layer by itself.

        The engine is loaded a second time, or watched for the length of this call, so that :meth:`infer` is as fast
        after it as before; meanwhile it takes up to twice the memory. A profiled run is slower than one of
        :meth:`infer`: read the shares, not the sum.

        Args:
            views: As for :meth:`infer`.
            runs: Runs to average over, after one that is not counted.

        Returns:
            Every layer that was executed, the slowest first; nothing where the backend cannot tell.

        Raises:
            InputError: Wrong shape or type, no run, or the runner is closed.
            DeviceError: The device has not the memory.
        """
        if runs < 1:
            raise InputError(f"runs ({runs}) must be > 0")
        with self.turn():
            seconds = self._profile(self._prepare(views), runs)
        layers = [LayerTime(name=name, kind=kind, seconds=of_all / runs) for (name, kind), of_all in seconds.items()]
        return tuple(sorted(layers, key=lambda layer: layer.seconds, reverse=True))

    def transfer(self, views: Resized) -> None:
        """Copy to the device what the engine takes, wait until it is there, and do nothing else: to time the copy.

        On a CPU nothing is copied and this does nothing. Where the engine takes other than the views, normalised or
        filled up, something of that type and shape is copied, made by the first call of its size: time a later one.

        Args:
            views: As for :meth:`infer`.

        Raises:
            InputError: Wrong shape or type, or the runner is closed.
            DeviceError: The device has not the memory.
        """
        with self.turn():
            self._check(views)
            if self.info.device.startswith("cuda"):
                self._transfer(self._like_input(views))

    def _check(self, views: Resized, *, any_size: bool = False) -> None:
        frames, *sides, channels = self.card.view_shape
        dtype = self.card.spatial.dtype
        wanted = ["N", frames if self.card.has_fixed_length else "T", *sides, channels]
        if any_size:
            wanted = ["N", "T", "H", "W", channels]
        is_shaped = views.ndim == len(wanted) and 0 not in views.shape
        fits = all(isinstance(size, str) or size == given for size, given in zip(wanted, views.shape, strict=False))
        if views.dtype != dtype or not is_shaped or not fits:
            shape = ", ".join(str(size) for size in wanted)
            raise InputError(f"views must be {dtype} of shape ({shape}), not {views.dtype} of shape {views.shape}")

    def _prepare(self, views: Resized) -> Resized:
        """What :meth:`_run` takes: the engine's input, or the views themselves for a network that is no engine."""
        self._check(views)
        engine, count = self.card.engine, len(views)
        if engine is None:
            return views
        if count < engine.profile[0]:
            # The last batch of a video may be smaller than the engine takes.
            views = np.concatenate([views, np.repeat(views[-1:], engine.profile[0] - count, axis=0)])
        return normalize(views, self.card.pixels) if engine.input == "float32_ncthw" else views

    def _like_input(self, views: Resized) -> Resized:
        """The views where the engine takes them as they are, else an array like its input: a copy reads no meaning."""
        expected, engine = input_of(self.card), self.card.engine
        count = max(len(views), engine.profile[0] if engine else 1)
        if engine is not None and engine.input != "float32_ncthw" and count == len(views):
            return views
        shape = tuple(views.shape[1] if size < 0 else size for size in expected.shape)
        if self._copied is None or len(self._copied) < count or self._copied.shape[1:] != shape:
            self._copied = np.ones((count, *shape), expected.dtype)
        return self._copied[:count]

    @abstractmethod
    def _run(self, inputs: Resized) -> NDArray[np.float32]:
        """Run the engine on the input it was built for."""

    def _profile(self, inputs: Resized, runs: int) -> Mapping[tuple[str, str], float]:
        """Seconds of all the runs together by name and kind of the layer; an uncounted run goes before them."""
        return {}

    def _transfer(self, inputs: Resized) -> None:  # noqa: B027
        """Copy the engine's input to a CUDA device and wait."""

    def close(self) -> None:
        """Free the engine and its memory; further calls of :meth:`infer` fail, a second close does nothing.

        A run of the engine in another thread is waited for, and the rest of its video fails. In a forked process this
        does nothing: what there is to free is the parent's.
        """
        if self._process != os.getpid():
            return
        with self._lock:
            self._is_closed = True
            self._copied = None
            self._spare_buffers.clear()
            self._free()

    def _free(self) -> None:  # noqa: B027
        """Let go of what the backend holds; may be called again, and before the engine is loaded."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
