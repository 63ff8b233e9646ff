"""One recognizer in several threads and processes."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import i3d_deploy as i3d
from i3d_deploy import video_files
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import InputError
from i3d_deploy.frames import Resized
from i3d_deploy.predictions import Prediction
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.runners import Runner, TwoStreamRunner
from i3d_deploy.runners.onnx_runner import OnnxRunner
from i3d_deploy.runners.openvino_runner import OpenVINORunner
from i3d_deploy.runners.torch_runner import TorchRunner
from tests.sources import noise
from tests.test_two_stream import stream

NAMES = ["tiny.safetensors", "tiny.onnx", "tiny.xml"]
SIZES = [(40, 32, 44), (61, 32, 48), (16, 48, 32), (33, 64, 64), (90, 32, 54), (5, 41, 32), (200, 32, 98), (40, 50, 37)]
"""Frames, height and width. OpenVINO shares the stem between the views of some of them."""
PATIENCE_SECONDS = 60
"""What hangs is an error; nothing else waits for it."""


def videos() -> list[NDArray[np.uint8]]:
    return [noise(*size, seed=seed) for seed, size in enumerate(SIZES)]


def in_threads(calls: Sequence[Callable[[], Prediction]]) -> list[Prediction]:
    """Make calls in threads of their own, which begin together."""
    together = threading.Barrier(len(calls))

    def begin(call: Callable[[], Prediction]) -> Prediction:
        together.wait(PATIENCE_SECONDS)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(begin, calls, timeout=PATIENCE_SECONDS))


@pytest.mark.parametrize("name", NAMES)
def test_eight_threads_get_the_answers_of_one(tiny_exports: Path, name: str) -> None:
    shown = videos()
    with i3d.load(tiny_exports / name, device="cpu") as recognizer:
        alone = [recognizer.predict(video) for video in shown]
        together = in_threads([partial(recognizer.predict, video) for video in shown] * 2)
    for found, expected in zip(together, alone * 2, strict=True):
        np.testing.assert_array_equal(found.logits, expected.logits)
        assert (found.frames, found.warnings) == (expected.frames, expected.warnings)


def test_threads_share_files_and_a_pair_of_streams(clip: Path, clip20: Path) -> None:
    runners = [TorchRunner(stream(kind), device="cpu") for kind in ("rgb", "flow")]
    with Recognizer(TwoStreamRunner(*runners)) as recognizer:
        alone = [recognizer.predict(path).logits for path in (clip, clip20)]
        together = in_threads([partial(recognizer.predict, path) for path in (clip, clip20)] * 4)
    for found, expected in zip(together, alone * 4, strict=True):
        np.testing.assert_array_equal(found.logits, expected)


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_a_recognizer_does_can_be_mixed(tiny_exports: Path, name: str) -> None:
    views = np.concatenate([noise(8, 32, 32, seed=seed)[None] for seed in range(2)])
    shown = videos()[0]
    with i3d.load(tiny_exports / name, device="cpu") as recognizer:
        expected = recognizer.predict(shown).logits, recognizer.infer(views[:1])

        def profiled() -> NDArray[np.float32]:
            assert recognizer._runner.profile(views[1:], runs=1)
            return recognizer.predict(shown).logits

        kinds: list[Callable[[], NDArray[np.float32]]] = [
            lambda: recognizer.predict(shown).logits,
            lambda: recognizer.infer(views[:1]),
            profiled,
        ]
        with ThreadPoolExecutor(6) as threads:
            found = [done.result(PATIENCE_SECONDS) for done in [threads.submit(kind) for kind in kinds * 4]]
    for number, logits in enumerate(found):
        np.testing.assert_array_equal(logits, expected[number % 3 == 1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("begun_in", ["one thread", "several threads"])
def test_streams_can_be_run_in_turns(tiny_exports: Path, name: str, begun_in: str) -> None:
    shown = videos()[:4]
    with i3d.load(tiny_exports / name, device="cpu") as recognizer, ThreadPoolExecutor(3) as threads:
        alone = [recognizer.predict(video).logits for video in shown]
        streams = [recognizer.predict_many(shown) for _ in range(3)]
        for expected in alone:
            if begun_in == "one thread":
                outcomes = [next(stream) for stream in streams]
            else:
                outcomes = list(threads.map(next, streams, timeout=PATIENCE_SECONDS))
            for outcome in outcomes:
                assert isinstance(outcome.result, Prediction)
                np.testing.assert_array_equal(outcome.result.logits, expected)


class Gated(TorchRunner):
    """Runs when it is let."""

    def __init__(self, source: Checkpoint) -> None:
        super().__init__(source, device="cpu")
        self.running, self.may_run = threading.Event(), threading.Event()

    def _run(self, inputs: Resized) -> NDArray[np.float32]:
        self.running.set()
        assert self.may_run.wait(PATIENCE_SECONDS)
        return super()._run(inputs)


def test_decoding_needs_no_turn(tiny_checkpoint: Checkpoint) -> None:
    runner = Gated(tiny_checkpoint)
    recognizer = Recognizer(runner)
    was_read = threading.Event()

    def frames() -> Iterator[NDArray[np.uint8]]:
        yield from noise(20)
        was_read.set()

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(recognizer.predict, noise(20))
        assert runner.running.wait(PATIENCE_SECONDS)
        second = threads.submit(recognizer.predict, frames())
        assert was_read.wait(PATIENCE_SECONDS)  # while the first has the engine
        runner.may_run.set()
        np.testing.assert_array_equal(first.result().logits, second.result().logits)


class Watched:
    """A lock that tells when somebody has to wait for it."""

    def __init__(self, someone_waits: threading.Event) -> None:
        self._lock, self._someone_waits = threading.RLock(), someone_waits

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self._someone_waits.set()
            self._lock.acquire()

    def __exit__(self, *raised: object) -> None:
        self._lock.release()


def test_closing_waits_for_the_run_and_ends_what_is_under_way(tiny_checkpoint: Checkpoint) -> None:
    runner = Gated(tiny_checkpoint)
    runner._lock = Watched(runner.may_run)  # type: ignore[assignment]
    recognizer = Recognizer(runner)
    with ThreadPoolExecutor(2) as threads:
        under_way = threads.submit(recognizer.predict, noise(20))
        assert runner.running.wait(PATIENCE_SECONDS)
        closing = threads.submit(recognizer.close)  # the run goes on once this waits
        with pytest.raises(InputError, match="the runner is closed"):
            under_way.result(PATIENCE_SECONDS)
        closing.result(PATIENCE_SECONDS)
    for call in (recognizer.predict, recognizer.predict_many, recognizer.predict_many_async, recognizer.features):
        with pytest.raises(InputError, match="the runner is closed"):
            call("nowhere.mp4")


@pytest.mark.parametrize("name", NAMES)
def test_closing_amid_predictions_leaves_answers_or_one_error(tiny_exports: Path, name: str) -> None:
    shown = videos()
    recognizer = i3d.load(tiny_exports / name, device="cpu")
    expected = [recognizer.predict(video).logits for video in shown]
    some_are_done = threading.Semaphore(0)

    def predict(number: int) -> bool:
        try:
            found = recognizer.predict(shown[number % 8], on_views=lambda *_: some_are_done.release())
        except InputError as error:
            assert str(error) == "the runner is closed"
            return False
        np.testing.assert_array_equal(found.logits, expected[number % 8])
        return True

    with ThreadPoolExecutor(8) as threads:
        under_way = [threads.submit(predict, number) for number in range(64)]
        for _ in range(3):
            assert some_are_done.acquire(timeout=PATIENCE_SECONDS)
        recognizer.close()
        finished = [done.result(PATIENCE_SECONDS) for done in under_way]
    assert not all(finished)


def test_a_stream_that_was_left_does_not_keep_a_recognizer_open(tiny_exports: Path) -> None:
    with i3d.load(tiny_exports / "tiny.onnx", device="cpu") as recognizer:
        stream = recognizer.predict_many(videos())
        next(stream)
    with pytest.raises(InputError, match="the runner is closed"):
        next(stream)


def test_a_callback_may_close_the_recognizer(tiny_exports: Path) -> None:
    recognizer = i3d.load(tiny_exports / "tiny.onnx", device="cpu")
    with pytest.raises(InputError, match="the runner is closed"):
        recognizer.predict(noise(20), on_views=lambda *_: recognizer.close())


def held_by(runner: Runner) -> list[object]:
    """What a runner has of its backend."""
    match runner:
        case OnnxRunner():
            return [runner._session]
        case OpenVINORunner():
            return [runner._shared_stem, runner._shared_stem._trunk, *runner._requests.values()]
        case TorchRunner():
            return [runner.model]
    raise AssertionError(runner)


@pytest.mark.parametrize("name", NAMES)
def test_with_lets_go_of_the_network(tiny_exports: Path, name: str) -> None:
    with i3d.load(tiny_exports / name, device="cpu") as recognizer:
        recognizer.predict(videos()[0])
        recognizer.infer(noise(8, 32, 32)[None])
        held = [weakref.ref(thing) for thing in held_by(recognizer._runner)]
    gc.collect()
    assert held
    assert [reference() for reference in held] == [None] * len(held)


def test_the_log_of_opencv_is_what_it_was_after_files_were_opened_at_once() -> None:
    level = video_files._log.level
    first, second = video_files._quiet_opencv(), video_files._quiet_opencv()
    first.__enter__()
    second.__enter__()  # in another thread
    first.__exit__(None, None, None)
    assert video_files._log.level == 0 != level
    second.__exit__(None, None, None)
    assert video_files._log.level == level
