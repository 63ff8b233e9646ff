"""Which video goes into which step, the clips cut from it, and what replaces a video that cannot be read."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i3d_deploy import lists
from i3d_deploy.errors import TrainingError
from i3d_deploy.lists import Annotation
from i3d_deploy.training import clips, dataset
from i3d_deploy.training.clips import TrainViews, ValidationViews
from i3d_deploy.training.dataset import ClipBatch, ClipDataset, Collate, Failure, Key, Order, ValidationDataset
from i3d_deploy.training.recipe import Recipe

SPEC = TrainViews(clip_len=4, frame_interval=2, short_side=36, crop_size=32)
SEED = 5

# 10 videos, 6 a step: two steps, the last one filled up with two videos from the beginning.
WRAPPED = Order(num_videos=10, videos=3, slices=2, seed=SEED)
# 12 videos, 4 a step: three full steps.
FULL = Order(num_videos=12, videos=2, slices=2, seed=SEED)


@pytest.fixture(scope="module")
def entries(motion_data: Path) -> tuple[Annotation, ...]:
    return lists.read(motion_data / "train.txt", kind="video", root=motion_data, num_classes=8)


def broken(name: str) -> Annotation:
    return Annotation(name=name, source=Path("/nowhere") / name, labels=(0,))


@pytest.mark.parametrize(
    ("order", "steps"), [(WRAPPED, 2), (FULL, 3), (Order(num_videos=1, videos=1, slices=1, seed=0), 1)]
)
def test_an_epoch_has_the_steps_to_go_through_the_list(order: Order, steps: int) -> None:
    assert order.steps_per_epoch == steps
    assert order.epoch(0).shape == (steps, order.slices, order.videos)


def test_every_video_comes_once_per_epoch() -> None:
    for epoch in range(4):
        assert sorted(FULL.epoch(epoch).ravel().tolist()) == list(range(12))


def test_the_last_step_is_filled_from_the_beginning() -> None:
    numbers = WRAPPED.epoch(2).ravel()
    assert sorted(numbers[:10].tolist()) == list(range(10))
    np.testing.assert_array_equal(numbers[10:], numbers[:2])


def test_a_list_shorter_than_a_step_goes_round_several_times() -> None:
    order = Order(num_videos=3, videos=4, slices=2, seed=0)
    assert order.steps_per_epoch == 1
    counts = Counter(order.epoch(0).ravel().tolist())
    assert sorted(counts.values()) == [2, 3, 3]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    long = Order(num_videos=100, videos=10, slices=1, seed=0)
    orders = [long.epoch(0), long.epoch(1), Order(num_videos=100, videos=10, slices=1, seed=1).epoch(0)]
    for number, one in enumerate(orders):
        assert all(not np.array_equal(one, other) for other in orders[:number])
    np.testing.assert_array_equal(long.epoch(1), orders[1])


def test_the_order_of_an_epoch_never_changes() -> None:
    # NumPy freezes the streams of RandomState and SeedSequence: another value here would break running runs.
    seed = np.random.SeedSequence([SEED, 3]).generate_state(1)[0]
    expected = np.random.RandomState(seed).permutation(12)
    np.testing.assert_array_equal(FULL.epoch(3).ravel(), expected)


@pytest.mark.parametrize(("videos", "slices"), [(12, 1), (6, 2), (4, 3), (1, 12)])
def test_a_step_has_the_same_videos_in_any_number_of_slices(videos: int, slices: int) -> None:
    order = Order(num_videos=30, videos=videos, slices=slices, seed=SEED)
    whole = Order(num_videos=30, videos=12, slices=1, seed=SEED)
    assert order.videos_per_step == 12
    np.testing.assert_array_equal(order.epoch(1).reshape(-1, 12), whole.epoch(1).reshape(-1, 12))


def keys(order: Order, *, first: int, last: int, slices: Sequence[int]) -> list[list[Key]]:
    return list(order.slice_keys(first_step=first, last_step=last, slices=slices))


@pytest.mark.parametrize("order", [WRAPPED, FULL], ids=["wrapped", "full"])
def test_keys_are_those_of_the_epochs(order: Order) -> None:
    steps = order.steps_per_epoch
    found = keys(order, first=0, last=3 * steps, slices=range(2))
    expected = [
        [(epoch, number) for number in row]
        for epoch in range(3)
        for step in order.epoch(epoch).tolist()
        for row in step
    ]
    assert found == expected


@pytest.mark.parametrize("order", [WRAPPED, FULL], ids=["wrapped", "full"])
def test_keys_from_any_step_are_the_tail_of_the_whole(order: Order) -> None:
    last = 3 * order.steps_per_epoch + 1
    whole = keys(order, first=0, last=last, slices=range(2))
    for first in range(last + 1):
        assert keys(order, first=first, last=last, slices=range(2)) == whole[2 * first :]
    # Up to any step as well.
    for end in range(last + 1):
        assert keys(order, first=0, last=end, slices=range(2)) == whole[: 2 * end]


def test_processes_share_the_slices_of_each_step() -> None:
    whole = keys(FULL, first=1, last=8, slices=range(2))
    assert keys(FULL, first=1, last=8, slices=[0]) == whole[0::2]
    assert keys(FULL, first=1, last=8, slices=[1]) == whole[1::2]


def test_a_sample_is_the_clip_of_its_key(entries: tuple[Annotation, ...]) -> None:
    clip, entry, failures = ClipDataset(entries, SPEC, seed=SEED)[3, 7]
    assert entry == entries[7]
    assert failures == []
    expected = clips.draw(entries[7].source, SPEC, seed=clips.seed_of(SEED, 3, 7, 0))
    np.testing.assert_array_equal(clip, expected)


def test_an_epoch_and_a_run_have_clips_of_their_own(entries: tuple[Annotation, ...]) -> None:
    data = ClipDataset(entries, SPEC, seed=SEED)
    first, later = data[0, 7][0], data[1, 7][0]
    other = ClipDataset(entries, SPEC, seed=SEED + 1)[0, 7][0]
    assert not np.array_equal(first, later)
    assert not np.array_equal(first, other)


def read(entries: Sequence[Annotation], batches: list[list[Key]], *, workers: int) -> list[ClipBatch]:
    """What the loader gives for the keys."""
    batches_read = dataset.read(
        ClipDataset(entries, SPEC, seed=SEED),
        batches=batches,
        collate=Collate(num_classes=None),
        name=lambda key: entries[key[1]].name,
        workers=workers,
        pin_memory=False,
    )
    return list(batches_read)


def test_batches_do_not_depend_on_the_number_of_workers(entries: tuple[Annotation, ...]) -> None:
    # Every third video is broken, so that replacements are drawn as well.
    some = [broken(f"{index}.mp4") if index % 3 == 0 else entry for index, entry in enumerate(entries)]
    order = Order(num_videos=len(some), videos=4, slices=1, seed=SEED)
    batches = keys(order, first=2, last=7, slices=[0])
    alone = read(some, batches, workers=0)
    assert [len(batch.names) for batch in alone] == [4] * 5
    assert sum(len(batch.failures) for batch in alone) > 0
    for workers in (1, 2):
        for found, expected in zip(read(some, batches, workers=workers), alone, strict=True):
            assert torch.equal(found.clips, expected.clips)
            assert torch.equal(found.targets, expected.targets)
            assert (found.names, found.failures) == (expected.names, expected.failures)


def test_a_replacement_is_a_function_of_the_key(entries: tuple[Annotation, ...]) -> None:
    some = [broken("lost.mp4"), *entries[1:]]
    names = []
    for epoch in range(8):
        clip, entry, failures = ClipDataset(some, SPEC, seed=SEED)[epoch, 0]
        again, same, _ = ClipDataset(some, SPEC, seed=SEED)[epoch, 0]
        assert entry == same
        np.testing.assert_array_equal(clip, again)
        # The replacement may be drawn from the broken one's place again; each attempt is told.
        assert set(failures) == {Failure(name="lost.mp4", reason="/nowhere/lost.mp4: no such file")}
        names.append(entry.name)
    assert "lost.mp4" not in names
    assert len(set(names)) > 1


def test_replaced_videos_are_reported_with_the_batch(entries: tuple[Annotation, ...]) -> None:
    some = [broken("lost.mp4"), *entries[1:]]
    (batch,) = read(some, [[(0, 3), (0, 0), (0, 4)]], workers=0)
    assert (batch.names[0], batch.names[2]) == (entries[3].name, entries[4].name)
    assert batch.names[1] in {entry.name for entry in entries[1:]}
    by_name = {entry.name: entry.labels[0] for entry in entries}
    assert batch.targets.tolist() == [by_name[name] for name in batch.names]
    assert {failure.name for failure in batch.failures} == {"lost.mp4"}


def test_too_many_failures_in_turn_stop() -> None:
    some = [broken(f"{index}.mp4") for index in range(5)]
    message = (
        r"^11 videos in turn cannot be read, the last one because of /nowhere/\d.mp4: no such file: "
        "check the list with training/prepare.py$"
    )
    with pytest.raises(TrainingError, match=message):
        ClipDataset(some, SPEC, seed=SEED)[0, 0]


def sample(labels: tuple[int, ...], *, fill: int = 0, failures: int = 0) -> Any:
    """What a data set gives for a video of a gray clip."""
    entry = Annotation(name=f"{fill}.mp4", source=Path("any"), labels=labels)
    pixels = np.full((2, 3, 4, 3), fill, np.uint8)
    return pixels, entry, [Failure(name=f"lost {number}", reason="why") for number in range(failures)]


def test_collated_clips_keep_their_order() -> None:
    batch = Collate(num_classes=None)([sample((3,), fill=7, failures=2), sample((0,), fill=9)])
    assert batch.clips.shape == (2, 2, 3, 4, 3)
    assert batch.clips.dtype == torch.uint8
    assert batch.clips[:, 0, 0, 0, 0].tolist() == [7, 9]
    assert batch.targets.tolist() == [3, 0]
    assert batch.targets.dtype == torch.int64
    assert batch.names == ["7.mp4", "9.mp4"]
    assert [failure.name for failure in batch.failures] == ["lost 0", "lost 1"]


def test_several_classes_become_zeros_and_ones() -> None:
    batch = Collate(num_classes=4)([sample((3, 1)), sample((0,)), sample((0, 1, 2, 3))])
    assert batch.targets.tolist() == [[0, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert batch.targets.dtype == torch.float32


@pytest.mark.gpu
def test_pinned_batches_hold_the_same() -> None:
    batch = Collate(num_classes=4)([sample((3, 1), fill=7, failures=1), sample((0,), fill=9)])
    pinned = batch.pin_memory()
    assert pinned.clips.is_pinned()
    assert pinned.targets.is_pinned()
    assert torch.equal(pinned.clips, batch.clips)
    assert torch.equal(pinned.targets, batch.targets)
    assert (pinned.names, pinned.failures) == (batch.names, batch.failures)


@pytest.mark.gpu
def test_the_loader_pins_where_asked(entries: tuple[Annotation, ...]) -> None:
    batches_read = dataset.read(
        ClipDataset(entries, SPEC, seed=SEED),
        batches=[[(0, 0), (0, 1)]],
        collate=Collate(num_classes=None),
        name=lambda key: entries[key[1]].name,
        workers=1,
        pin_memory=True,
    )
    (batch,) = batches_read
    assert batch.clips.is_pinned()
    assert torch.equal(batch.clips.cpu(), read(entries, [[(0, 0), (0, 1)]], workers=0)[0].clips)


def test_validation_gives_the_views_or_the_reason(entries: tuple[Annotation, ...], small_recipe: Recipe) -> None:
    spec: ValidationViews = small_recipe.validation
    data = ValidationDataset([entries[2], broken("lost.mp4")], spec)
    assert len(data) == 2
    number, views = data[0]
    assert number == 0
    assert isinstance(views, np.ndarray)
    assert views.shape == (1, 8, 32, 32, 3)
    np.testing.assert_array_equal(views, clips.validation_views(entries[2].source, spec))
    assert data[1] == (1, Failure(name="lost.mp4", reason="/nowhere/lost.mp4: no such file"))


def test_a_reader_that_dies_is_told_with_its_videos(entries: tuple[Annotation, ...]) -> None:
    class Deadly(ClipDataset):
        def __getitem__(self, key: Key) -> Any:
            os.kill(os.getpid(), signal.SIGKILL)

    batches = dataset.read(
        Deadly(entries, SPEC, seed=SEED),
        batches=[[(0, 2), (0, 3)]],
        collate=Collate(num_classes=None),
        name=lambda key: entries[key[1]].name,
        workers=1,
    )
    named = f"{entries[2].name}, {entries[3].name}"
    with pytest.raises(
        TrainingError, match=f"has died, or gave no answer for 300 s, at one of {named}: training/prepare"
    ):
        next(batches)
