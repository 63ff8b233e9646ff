"""Reading while computing gives what reading before computing gives, and leaves nothing behind."""

from __future__ import annotations

import copy
import dataclasses
import gc
import itertools
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from i3d_deploy import reading, resizing, video, views
from i3d_deploy.card import Card
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import ArtifactError, InputError, VideoError
from i3d_deploy.frames import Frame, Resized, Watcher
from i3d_deploy.images import FrameFolder
from i3d_deploy.predictions import Outcome, Prediction
from i3d_deploy.reading import Cutting
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.runners.runner import Runner
from i3d_deploy.runners.torch_runner import TorchRunner
from i3d_deploy.sampling import Indices
from i3d_deploy.video import Source
from i3d_deploy.views import Buffer, Views
from tests.goldens import shared_file
from tests.raw_avi import write_avi
from tests.sources import IS_CUT_AT_PROMISE

DECODE = "i3d-decode"


@pytest.fixture
def runner(tiny_checkpoint: Checkpoint) -> TorchRunner:
    return TorchRunner(tiny_checkpoint, device="cpu")


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert decoding_threads() == []


def decoding_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(DECODE)]


def noise(num_frames: int, height: int = 48, width: int = 64, *, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.RandomState(seed).randint(0, 256, (num_frames, height, width, 3)).astype(np.uint8)


def plain_views(source: Source, card: Card) -> list[NDArray[np.uint8]]:
    """Decode, then cut: all clips of the left crop, then of the right one, then of the center."""
    side = card.spatial.short_side
    frames = video.collect(
        source,
        choose=card.sampling.frame_indices,
        transform=lambda frame: resizing.by_short_side(frame, short_side=side),
    )
    height, width = frames.by_index[int(frames.indices[0, 0])].shape[:2]
    boxes = card.spatial.boxes(height, width)
    return [
        np.stack([frames.by_index[int(index)][box.top : box.bottom, box.left : box.right] for index in clip])
        for box in boxes
        for clip in frames.indices
    ]


def plain_logits(runner: Runner, source: Source) -> NDArray[np.float32]:
    return np.concatenate([runner.infer(view[None]) for view in plain_views(source, runner.card)])


SHARED = [
    "arm_wrestling.mp4",
    "corrupted.mp4",  # 28 of 50 frames decode
    "filling_eyebrows.avi",
    "flipping_pancake.mkv",  # promises one frame too many
    "rotation_0.mov",
    "rotation_90.mov",
]


@pytest.mark.parametrize("name", SHARED)
def test_a_file_gives_what_decoding_it_first_gives(runner: TorchRunner, name: str) -> None:
    path = shared_file(f"videos/{name}")
    prediction = Recognizer(runner).predict(path)
    np.testing.assert_array_equal(prediction.logits, plain_logits(runner, path))
    prepared = views.prepare(path, runner.card)
    assert (prediction.frames, prediction.warnings) == (prepared.num_frames, prepared.warnings)


@pytest.mark.parametrize("promised", [0, pytest.param(14, marks=IS_CUT_AT_PROMISE), 30])
def test_a_wrong_count_voids_what_was_computed(runner: TorchRunner, tmp_path: Path, promised: int) -> None:
    write_avi(tmp_path / "clip.avi", noise(20), promised=promised)
    prediction = Recognizer(runner).predict(tmp_path / "clip.avi")
    np.testing.assert_array_equal(prediction.logits, plain_logits(runner, tmp_path / "clip.avi"))
    says = f"the container says {promised} frames" if promised else "the container does not say how many frames"
    assert (prediction.frames, prediction.warnings) == (20, (f"{says}, 20 decode",))


def sources_of_every_kind(folder: Path) -> list[Source]:
    pixels = noise(20)
    write_avi(folder / "clip.avi", pixels)
    (folder / "frames").mkdir()
    for number, frame in enumerate(pixels, 1):
        assert cv2.imwrite(str(folder / "frames" / f"img_{number:05d}.png"), frame[..., ::-1])
    listed = FrameFolder(path=folder / "frames", num_frames=20, image_name="img_{:05}.png")
    return [folder / "clip.avi", str(folder / "clip.avi"), folder / "frames", listed, pixels, list(pixels)]


def test_every_kind_of_source_is_read_one_ahead(runner: TorchRunner, tmp_path: Path) -> None:
    sources = sources_of_every_kind(tmp_path)
    outcomes = list(Recognizer(runner).predict_many([*sources, iter(noise(20))]))
    expected = plain_logits(runner, noise(20))
    assert [outcome.source is source for outcome, source in zip(outcomes, sources, strict=False)] == [True] * 6
    for outcome in outcomes:
        np.testing.assert_array_equal(prediction_of(outcome).logits, expected)


def prediction_of(outcome: Outcome) -> Prediction:
    assert isinstance(outcome.result, Prediction)
    return outcome.result


@pytest.mark.parametrize("batch", [1, 4, 6, 7])
def test_rows_are_in_the_order_of_the_views_in_any_batch(runner: TorchRunner, tmp_path: Path, batch: int) -> None:
    write_avi(tmp_path / "clip.avi", noise(40))
    found = Recognizer(runner).predict(tmp_path / "clip.avi", batch=batch).logits
    np.testing.assert_allclose(found, plain_logits(runner, tmp_path / "clip.avi"), rtol=0, atol=1e-5)


def test_a_video_that_cannot_be_read_is_an_outcome_and_not_an_end(
    runner: TorchRunner, tmp_path: Path, clip: Path
) -> None:
    (tmp_path / "empty.mp4").touch()
    sources = [tmp_path / "none.mp4", clip, tmp_path / "empty.mp4", tmp_path / "empty.mp4", clip]
    outcomes = list(Recognizer(runner).predict_many(sources))
    assert [outcome.source for outcome in outcomes] == sources
    said = [str(outcome.result).rpartition(": ")[2] for outcome in outcomes if isinstance(outcome.result, VideoError)]
    assert said == ["no such file", "the file is empty", "the file is empty"]
    expected = plain_logits(runner, clip)
    for number in (1, 4):
        np.testing.assert_array_equal(prediction_of(outcomes[number]).logits, expected)


def test_a_share_too_small_is_an_outcome(runner: TorchRunner) -> None:
    path = shared_file("videos/corrupted.mp4")
    (outcome,) = Recognizer(runner).predict_many([path], min_decoded_share=0.9)
    assert isinstance(outcome.result, VideoError)
    assert "only 28 of 50 frames decode, fewer than 90%" in str(outcome.result)


def test_outcomes_keep_nothing_of_videos_that_cannot_be_read(runner: TorchRunner, tmp_path: Path) -> None:
    write_avi(tmp_path / "clip.avi", noise(20), promised=100)
    outcomes = list(Recognizer(runner).predict_many([tmp_path / "clip.avi"] * 3))
    assert ["only 20 of 100 frames decode" in str(outcome.result) for outcome in outcomes] == [True] * 3
    gc.collect()
    assert reading.Reading not in map(type, gc.get_objects())


def test_views_say_which_video_they_are_of(runner: TorchRunner, clip: Path) -> None:
    told: list[tuple[int, int, int]] = []
    outcomes = Recognizer(runner).predict_many([clip, clip], crops=1, on_views=lambda *numbers: told.append(numbers))
    assert [prediction_of(outcome).views for outcome in outcomes] == [2, 2]
    assert told == [(0, 1, 2), (0, 2, 2), (1, 1, 2), (1, 2, 2)]


def test_sources_are_asked_for_one_ahead_and_no_further(runner: TorchRunner, clip: Path) -> None:
    asked = itertools.count()
    outcomes = Recognizer(runner).predict_many(str(clip) for _ in asked)
    for number in range(3):
        next(outcomes)
        assert next(asked) == number * 2 + 2  # this look counts too
    outcomes.close()
    assert decoding_threads() == []


def test_nothing_is_read_before_the_first_outcome_is_asked_for(runner: TorchRunner) -> None:
    def never() -> Iterator[Path]:
        raise AssertionError
        yield Path()

    Recognizer(runner).predict_many(never())
    assert decoding_threads() == []


@pytest.mark.parametrize("source", ["clip.mp4", Path("clip.mp4")], ids=["text", "path"])
def test_one_video_is_no_list_of_them(runner: TorchRunner, source: str | Path) -> None:
    with pytest.raises(InputError, match=r"sources is one video, 'clip.mp4': give a list of them"):
        Recognizer(runner).predict_many(source)  # type: ignore[arg-type]


def test_no_source_gives_no_outcome(runner: TorchRunner) -> None:
    assert list(Recognizer(runner).predict_many([])) == []


def test_what_the_sources_raise_is_raised(runner: TorchRunner, clip: Path) -> None:
    def failing() -> Iterator[Path]:
        yield clip
        yield clip
        raise OSError("the list is gone")

    outcomes = Recognizer(runner).predict_many(failing())
    next(outcomes)
    with pytest.raises(OSError, match="the list is gone"):
        next(outcomes)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"clips": 0}, r"clips \(0\) must be > 0"), ({"crops": 2}, r"crops \(2\)"), ({"batch": 0}, r"batch \(0\)")],
)
def test_bad_options_end_the_run(runner: TorchRunner, clip: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(Recognizer(runner).predict_many([clip], **options))  # type: ignore[arg-type]


def test_an_array_of_another_type_ends_the_run(runner: TorchRunner, clip: Path) -> None:
    sources: list[Source] = [clip, np.zeros((4, 8, 8), np.uint8), clip]
    outcomes = Recognizer(runner).predict_many(sources)
    next(outcomes)
    with pytest.raises(InputError, match="frames must be uint8"):
        next(outcomes)


def test_a_damaged_network_ends_the_run(tiny_checkpoint: Checkpoint, clip: Path) -> None:
    broken = copy.deepcopy(tiny_checkpoint)
    broken.model.fc.weight.data[0, 0] = float("nan")
    with pytest.raises(ArtifactError, match="6 logits are not finite"):
        list(Recognizer(TorchRunner(broken, device="cpu")).predict_many([clip, clip]))


@dataclass(frozen=True)
class Gate:
    """Passes on what a watcher is told, each frame only when it is let through."""

    inner: Watcher
    allowed: threading.Semaphore

    def planned(self, indices: Indices) -> None:
        self.inner.planned(indices)

    def before_frame(self) -> None:
        self.allowed.acquire()
        self.inner.before_frame()

    def decoded(self, index: int, frame: Resized) -> None:
        self.inner.decoded(index, frame)


def gated(card: Card, allowed: threading.Semaphore) -> Cutting:
    """Cutting of a video whose frames come when they are let through."""

    class Gated(Cutting):
        def cut(self, source: Source, *, watcher: Watcher | None = None) -> Views:
            assert watcher is not None
            return super().cut(source, watcher=Gate(watcher, allowed))

    return Gated(sampling=card.sampling, spatial=card.spatial)


def test_the_first_clip_is_handed_over_before_the_rest_is_decoded(tiny_checkpoint: Checkpoint) -> None:
    # Of 40 frames, clips of 8 taken every 2nd start at 6 and 18: (40 - 16 + 1) / 2 = 12.5 apart, shifted by half of it.
    card, pixels, allowed = tiny_checkpoint.card, noise(40), threading.Semaphore(0)
    expected = plain_views(pixels, card)
    with reading.opened(pixels, gated(card, allowed)) as opened:
        parts, buffer = opened.parts(3), Buffer()
        # The frames 6, 8, ..., 20 of the first clip, among which those of the second one begin at 18.
        allowed.release(8)
        first = next(parts)
        assert (first.attempt, first.numbers, len(first.views)) == (1, [0, 2, 4], 6)
        np.testing.assert_array_equal(buffer.cut(first), np.stack([expected[number] for number in (0, 2, 4)]))
        allowed.release(6)
        (second,) = parts
        assert second.numbers == [1, 3, 5]
        np.testing.assert_array_equal(buffer.cut(second), np.stack([expected[number] for number in (1, 3, 5)]))


def test_a_reading_that_is_left_is_stopped_at_its_next_frame(tiny_checkpoint: Checkpoint) -> None:
    allowed = threading.Semaphore(0)
    with reading.opened(noise(40), gated(tiny_checkpoint.card, allowed)):
        assert decoding_threads() == [DECODE]
        threading.Timer(0.1, allowed.release).start()
    assert decoding_threads() == []


def test_a_generator_of_frames_is_read_by_the_thread_that_asks(runner: TorchRunner) -> None:
    readers = set()

    def frames() -> Iterator[Frame]:
        for frame in noise(20):
            readers.add(threading.current_thread())
            yield frame

    Recognizer(runner).predict(frames())
    assert readers == {threading.current_thread()}


def test_parts_are_cut_into_the_same_memory(tiny_checkpoint: Checkpoint) -> None:
    expected = plain_views(noise(40), tiny_checkpoint.card)
    parts, buffer = views.prepare(noise(40), tiny_checkpoint.card).parts(4), Buffer()
    first = buffer.cut(next(parts))
    kept = first.copy()
    np.testing.assert_array_equal(kept, np.stack([expected[number] for number in (0, 2, 4, 1)]))
    second = buffer.cut(next(parts))  # of the two views that are left
    assert np.shares_memory(first, second)
    np.testing.assert_array_equal(second, np.stack([expected[number] for number in (3, 5)]))
    np.testing.assert_array_equal(first[2:], kept[2:])


def test_no_view_costs_an_allocation(tiny_checkpoint: Checkpoint) -> None:
    card = tiny_checkpoint.card
    prepared = views.prepare(noise(40), card, clips=20)
    buffer = Buffer()
    buffer.cut(next(prepared.parts(1)))
    tracemalloc.start()
    try:
        count = sum(len(buffer.cut(part)) for part in prepared.parts(1))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 60
    view_bytes = int(np.prod(card.view_shape))
    assert peak_bytes < view_bytes  # 24 kB: less than one view for lists of numbers


def test_a_stream_keeps_the_frames_of_two_videos(tiny_checkpoint: Checkpoint) -> None:
    # An idle network: only the path around it is measured.
    class Idle(TorchRunner):
        def _run(self, inputs: Resized) -> NDArray[np.float32]:
            return np.zeros((len(inputs), 7), np.float32)

    card = tiny_checkpoint.card
    many = card.replaced(spatial=card.spatial.model_copy(update={"short_side": 128, "crop_size": 128}))
    recognizer = Recognizer(Idle(dataclasses.replace(tiny_checkpoint, card=many), device="cpu"))
    frames = noise(16, 128, 160)
    list(recognizer.predict_many([frames]))
    one_video = frames.nbytes
    tracemalloc.start()
    try:
        for _ in recognizer.predict_many(list(frames) for _ in range(8)):
            pass
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3.5 * one_video


INTERRUPTED = """
import os, signal, sys, threading, time
import numpy as np
from i3d_deploy import model
from i3d_deploy.card import Card, Provenance
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.network import ResNet
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.runners.torch_runner import TorchRunner

network = ResNet(name="tiny", num_classes=2, width=8, temporal_kernels=((1,),))
card = Card(
    network=network,
    label_set="custom",
    labels=("a", "b"),
    sampling=Sampling(clip_len=8, num_clips=2),
    spatial=Spatial(short_side=32, crop_size=32),
    provenance=Provenance(origin="random weights"),
)
recognizer = Recognizer(TorchRunner(Checkpoint(model=model.build(network), card=card), device="cpu"))

def endless():
    while True:
        time.sleep(0.01)
        yield np.zeros((32, 32, 3), np.uint8)

print("started", flush=True)
try:
    list(recognizer.predict_many([endless()]))
except KeyboardInterrupt:
    print([thread.name for thread in threading.enumerate()], flush=True)
"""


def test_an_interrupt_ends_it_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=20)
    assert stdout == "['MainThread']\n"
    assert process.returncode == 0
