"""The seam that every backend implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from i3d_deploy.card import Card, Engine, normalize
from i3d_deploy.errors import ArtifactError, InputError


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
class Tensor:
    """Type and shape of an engine's input or output, without N.

    Attributes:
        dtype: ``uint8`` or ``float32``.
        shape: All but the first dimension.
    """

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} of shape (N, {', '.join(map(str, self.shape))})"


def check_fit(path: Path, card: Card, engine: Engine, *, source: Tensor, result: Tensor) -> None:
    """Hold an engine against its card: views are made after the card and must fit the engine.

    Args:
        path: The engine, for messages.
        card: Its card.
        engine: The card's engine part.
        source: The engine's input.
        result: The engine's output.

    Raises:
        ArtifactError: They differ.
    """
    frames, height, width, channels = card.view_shape
    views = (
        Tensor(dtype="uint8", shape=card.view_shape)
        if engine.input == "uint8_nthwc"
        else Tensor(dtype="float32", shape=(channels, frames, height, width))
    )
    logits = Tensor(dtype="float32", shape=(card.network.num_classes,))
    for what, found, expected in (("input", source, views), ("output", result, logits)):
        if found != expected:
            raise ArtifactError(f"{path}: the {what} of the engine is {found}, its card says {expected}")


class Runner(ABC):
    """A loaded engine; a context manager that frees it.

    Not thread-safe: use one runner per thread.

    Attributes:
        card: The engine's card.
        info: What is really running.
        preferred_batch: Views per call that suit the device; callers may give fewer.
        notes: What had to be assumed about a checkpoint that carries no card.
    """

    card: Card
    info: RunnerInfo
    preferred_batch: int = 1
    notes: tuple[str, ...] = ()
    _is_closed = False

    def infer(self, views: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the network.

        Args:
            views: (N, T, H, W, 3) uint8 with the (T, H, W, 3) of the card; N is at most the largest of the engine's
                profile.

        Returns:
            (N, K) float32 logits, owned by the caller.

        Raises:
            InputError: Wrong shape or type, or the runner is closed.
        """
        if self._is_closed:
            raise InputError("the runner is closed")
        expected = self.card.view_shape
        if views.dtype != np.uint8 or views.ndim != 5 or views.shape[1:] != expected or len(views) == 0:
            wanted = "(N, " + ", ".join(map(str, expected)) + ")"
            raise InputError(f"views must be uint8 of shape {wanted}, not {views.dtype} of shape {views.shape}")
        engine, count = self.card.engine, len(views)
        if engine is None:
            return self._run(views)
        if count < engine.profile[0]:
            # The last batch of a video may be smaller than the engine takes.
            views = np.concatenate([views, np.repeat(views[-1:], engine.profile[0] - count, axis=0)])
        inputs = normalize(views, self.card.pixels) if engine.input == "float32_ncthw" else views
        return self._run(inputs)[:count]

    @abstractmethod
    def _run(self, inputs: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the engine on the input it was built for."""

    def close(self) -> None:
        """Free the engine and its memory; further calls of :meth:`infer` fail, a second close does nothing."""
        self._is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
