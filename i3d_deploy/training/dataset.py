"""Reading clips for training: which video goes into which step, and batches of uint8 clips.

The order of an epoch is a function of the seed and the epoch, and a sample one of its key (epoch, number of the video):
neither the number of worker processes nor a resumed run changes what the network sees.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from i3d_deploy.errors import TrainingError, VideoError
from i3d_deploy.flow_frames import FlowWanted
from i3d_deploy.lists import Annotation
from i3d_deploy.training import clips
from i3d_deploy.training.clips import TrainViews, ValidationViews

Key = tuple[int, int]
"""(epoch, number of the video in its list)."""

MAX_REPLACEMENTS = 10
WORKER_TIMEOUT_SECONDS = 300


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A video that could not be read.

    Attributes:
        name: As the list has it.
        reason: What was wrong.
    """

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which videos go into which step.

    An epoch is a permutation of the list, wrapped at its end so that every step is full. A step is cut into slices, one
    for each forward pass of each process: two processes, or one that accumulates two passes, see the same slices.

    Attributes:
        num_videos: Length of the list.
        videos: Per slice.
        slices: Per step.
        seed: Of the run.
    """

    num_videos: int
    videos: int
    slices: int
    seed: int

    @property
    def videos_per_step(self) -> int:
        """Videos that one step of the optimiser sees."""
        return self.videos * self.slices

    @property
    def steps_per_epoch(self) -> int:
        """Steps that go once through the list."""
        return -(-self.num_videos // self.videos_per_step)

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """The numbers of an epoch's videos, (steps, slices, videos)."""
        order = np.random.RandomState(clips.seed_of(self.seed, epoch)).permutation(self.num_videos)
        full = np.resize(order, self.steps_per_epoch * self.videos_per_step)
        return full.reshape(self.steps_per_epoch, self.slices, self.videos).astype(np.int64)

    def slice_keys(self, *, first_step: int, last_step: int, slices: Sequence[int]) -> Iterator[list[Key]]:
        """The keys of some slices of every step in [first_step, last_step), slice after slice."""
        step = first_step
        while step < last_step:
            epoch, begin = divmod(step, self.steps_per_epoch)
            numbers = self.epoch(epoch)
            end = min(self.steps_per_epoch, begin + last_step - step)
            for row in numbers[begin:end]:
                for number in slices:
                    yield [(epoch, int(index)) for index in row[number]]
            step += end - begin


@dataclass(kw_only=True)
class ClipBatch:
    """Clips for one forward pass.

    Attributes:
        clips: (N, T, H, W, C) uint8, C of RGB or of flow.
        targets: (N,) int64 class numbers, or (N, K) float32 of 0 and 1 where a video has several classes.
        names: Of the videos, as the list has them.
        failures: Videos that could not be read and were replaced.
    """

    clips: Tensor
    targets: Tensor
    names: list[str]
    failures: list[Failure]

    def pin_memory(self) -> ClipBatch:
        """The same batch in memory that a GPU copies from; called by the DataLoader."""
        return ClipBatch(
            clips=self.clips.pin_memory(),
            targets=self.targets.pin_memory(),
            names=self.names,
            failures=self.failures,
        )


class ClipDataset(Dataset[tuple[NDArray[np.uint8], Annotation, list[Failure]]]):
    """One random clip for each key; a video that cannot be read is replaced by another one.

    Args:
        entries: The list.
        spec: How a clip is drawn.
        seed: Of the run.
        flow: The optical flow that is wanted in place of the frames.
    """

    def __init__(
        self, entries: Sequence[Annotation], spec: TrainViews, *, seed: int, flow: FlowWanted | None = None
    ) -> None:
        self._entries = entries
        self._spec = spec
        self._seed = seed
        self._flow = flow

    def __getitem__(self, key: Key) -> tuple[NDArray[np.uint8], Annotation, list[Failure]]:
        epoch, index = key
        failures: list[Failure] = []
        for attempt in range(MAX_REPLACEMENTS + 1):
            seed = clips.seed_of(self._seed, epoch, index, attempt)
            chosen = index if attempt == 0 else np.random.RandomState(seed).randint(len(self._entries))
            entry = self._entries[chosen]
            try:
                return clips.draw(entry.source, self._spec, seed=seed, flow=self._flow), entry, failures
            except VideoError as error:
                failures.append(Failure(name=entry.name, reason=str(error)))
        raise TrainingError(
            f"{len(failures)} videos in turn cannot be read, the last one because of {failures[-1].reason}: "
            "check the list with training/prepare.py"
        )


@dataclass(frozen=True, kw_only=True)
class Collate:
    """Puts samples together.

    Attributes:
        num_classes: K of targets with several classes; None: targets are class numbers.
    """

    num_classes: int | None

    def __call__(self, samples: list[tuple[NDArray[np.uint8], Annotation, list[Failure]]]) -> ClipBatch:
        drawn, entries, failures = zip(*samples, strict=True)
        return ClipBatch(
            clips=torch.from_numpy(np.stack(drawn)),
            targets=self._targets(entries),
            names=[entry.name for entry in entries],
            failures=[failure for some in failures for failure in some],
        )

    def _targets(self, entries: Sequence[Annotation]) -> Tensor:
        if self.num_classes is None:
            return torch.tensor([entry.labels[0] for entry in entries])
        targets = torch.zeros(len(entries), self.num_classes)
        for row, entry in zip(targets, entries, strict=True):
            row[list(entry.labels)] = 1
        return targets


class ValidationDataset(Dataset[tuple[int, NDArray[np.uint8] | Failure]]):
    """The fixed views of each video of a list, (V, T, H, W, C) uint8, or why it cannot be read."""

    def __init__(self, entries: Sequence[Annotation], spec: ValidationViews, *, flow: FlowWanted | None = None) -> None:
        self._entries = entries
        self._spec = spec
        self._flow = flow

    def __getitem__(self, index: int) -> tuple[int, NDArray[np.uint8] | Failure]:
        entry = self._entries[index]
        try:
            return index, clips.validation_views(entry.source, self._spec, flow=self._flow)
        except VideoError as error:
            return index, Failure(name=entry.name, reason=str(error))

    def __len__(self) -> int:
        return len(self._entries)


def read(
    dataset: Dataset[Any],
    *,
    batches: Iterable[list[Any]],
    collate: Callable[[list[Any]], Any],
    name: Callable[[Any], str],
    workers: int,
    pin_memory: bool = False,
) -> Iterator[Any]:
    """Read batches of a data set in worker processes.

    Args:
        dataset: The data set.
        batches: Lists of its keys.
        collate: From the samples of a batch to the batch.
        name: From a key to the name of its video, for messages.
        workers: Processes; 0 reads in this one.
        pin_memory: Whether a GPU copies from the batches.

    Raises:
        TrainingError: Too many videos cannot be read, or a worker has died or hangs.
    """
    awaited: deque[list[Any]] = deque()

    def noted() -> Iterator[list[Any]]:
        for batch in batches:
            awaited.append(batch)
            yield batch

    loader = DataLoader(
        dataset,
        batch_sampler=noted(),
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        timeout=WORKER_TIMEOUT_SECONDS if workers else 0,
    )
    try:
        for batch in loader:
            awaited.popleft()
            yield batch
    except TrainingError as error:
        # Of a worker it arrives with the traceback there as its message.
        raise TrainingError(str(error).rpartition("TrainingError: ")[2].strip()) from error
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        names = ", ".join(sorted({name(key) for keys in awaited for key in keys}))
        raise TrainingError(
            f"a process that reads videos has died, or gave no answer for {WORKER_TIMEOUT_SECONDS} s, at one of {names}"
            ": training/prepare.py finds such videos; take them from the list, or where memory was short, give fewer "
            "batch.workers"
        ) from error


def _start_worker(_: int) -> None:
    # The workers share the cores already; OpenCV would start a thread for every core in each of them.
    cv2.setNumThreads(0)
    # Ctrl-C reaches all processes of a terminal; the training process ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
