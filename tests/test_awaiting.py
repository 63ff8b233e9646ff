"""Predictions beside asyncio's event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import i3d_deploy as i3d
from i3d_deploy import awaiting
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.frames import Resized
from i3d_deploy.predictions import Outcome, Prediction
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.runners.torch_runner import TorchRunner
from tests.sources import noise

PATIENCE_SECONDS = 60
"""What hangs is an error; nothing else waits for it."""


def working_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("i3d-")]


def logits_of(outcome: Outcome) -> NDArray[np.float32]:
    assert isinstance(outcome.result, Prediction)
    return outcome.result.logits


async def as_they_come(videos: list[NDArray[np.uint8]]) -> AsyncIterator[NDArray[np.uint8]]:
    for video in videos:
        await asyncio.sleep(0)
        yield video


@pytest.mark.parametrize("name", ["tiny.safetensors", "tiny.onnx", "tiny.xml"])
@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
def test_outcomes_are_those_of_predict_many(tiny_exports: Path, clip: Path, name: str, kind: str) -> None:
    videos = [noise(20 + number, seed=number) for number in range(3)]

    async def main(recognizer: Recognizer) -> list[Outcome]:
        sources = videos if kind == "plain" else as_they_come(videos)
        return [outcome async for outcome in recognizer.predict_many_async(sources, clips=3, batch=2)]

    with i3d.load(tiny_exports / name, device="cpu") as recognizer:
        expected = list(recognizer.predict_many(videos, clips=3, batch=2))
        found = asyncio.run(main(recognizer))
        assert logits_of(found[0]).shape == (9, 7)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(logits_of(one), logits_of(other))
        assert found[1].source is videos[1]
    assert working_threads() == []


def test_one_video_is_predicted_or_raises(tiny_exports: Path, clip: Path) -> None:
    with i3d.load(tiny_exports / "tiny.onnx", device="cpu") as recognizer:
        found = asyncio.run(recognizer.predict_async(clip, crops=1))
        np.testing.assert_array_equal(found.logits, recognizer.predict(clip, crops=1).logits)
        with pytest.raises(VideoError, match=r"nowhere\.mp4: no such file"):
            asyncio.run(recognizer.predict_async("nowhere.mp4"))


def test_no_video_gives_no_outcome(tiny_exports: Path) -> None:
    async def main(recognizer: Recognizer) -> list[Outcome]:
        return [outcome async for outcome in recognizer.predict_many_async([])]

    with i3d.load(tiny_exports / "tiny.onnx", device="cpu") as recognizer:
        assert asyncio.run(main(recognizer)) == []


def test_a_video_that_cannot_be_read_is_an_outcome(tiny_exports: Path, clip: Path) -> None:
    async def main(recognizer: Recognizer) -> list[Outcome]:
        return [outcome async for outcome in recognizer.predict_many_async(["nowhere.mp4", clip])]

    with i3d.load(tiny_exports / "tiny.onnx", device="cpu") as recognizer:
        broken, whole = asyncio.run(main(recognizer))
    assert isinstance(broken.result, VideoError)
    assert isinstance(whole.result, Prediction)


def test_bad_arguments_are_told_by_the_call(tiny_exports: Path) -> None:
    with i3d.load(tiny_exports / "tiny.onnx", device="cpu") as recognizer:
        with pytest.raises(InputError, match=r"batch \(0\) must be > 0"):
            recognizer.predict_many_async([], batch=0)
        with pytest.raises(InputError, match=r"sources is one video, 'clip\.mp4': give a list of them"):
            recognizer.predict_many_async("clip.mp4")


class Gated(TorchRunner):
    """Runs when it is let, and counts."""

    def __init__(self, source: Checkpoint) -> None:
        super().__init__(source, device="cpu")
        self.running, self.may_run = threading.Event(), threading.Event()
        self.runs = 0

    def _run(self, inputs: Resized) -> NDArray[np.float32]:
        self.running.set()
        assert self.may_run.wait(PATIENCE_SECONDS)
        self.runs += 1
        return super()._run(inputs)


def test_the_loop_goes_on_while_the_engine_runs(tiny_checkpoint: Checkpoint) -> None:
    runner = Gated(tiny_checkpoint)

    async def main() -> Prediction:
        predicting = asyncio.create_task(Recognizer(runner).predict_async(noise(20)))
        beats = 0
        while beats < 100 or not runner.running.is_set():  # a heart that beats while the engine does not return
            await asyncio.sleep(0)
            beats += 1
        assert not predicting.done()
        runner.may_run.set()
        return await predicting

    assert asyncio.run(main()).views == 6


def test_the_loop_goes_on_while_a_plain_iterable_blocks(tiny_exports: Path) -> None:
    asked, may_go_on = threading.Event(), threading.Event()

    def sources() -> Iterator[NDArray[np.uint8]]:
        asked.set()
        assert may_go_on.wait(PATIENCE_SECONDS)
        yield noise(20)

    async def main(recognizer: Recognizer) -> list[Outcome]:
        async def collect() -> list[Outcome]:
            return [outcome async for outcome in recognizer.predict_many_async(sources())]

        collecting = asyncio.create_task(collect())
        while not asked.is_set():
            await asyncio.sleep(0)
        may_go_on.set()
        return await collecting

    with i3d.load(tiny_exports / "tiny.onnx", device="cpu") as recognizer:
        assert len(asyncio.run(main(recognizer))) == 1


@pytest.mark.parametrize("kind", ["plain", "asynchronous"])
def test_who_is_slow_to_ask_holds_the_work_up(tiny_exports: Path, kind: str) -> None:
    given: list[int] = []

    def plain() -> Iterator[NDArray[np.uint8]]:
        for number in range(5):
            given.append(number)
            yield noise(20)

    async def asynchronous() -> AsyncIterator[NDArray[np.uint8]]:
        for video in plain():
            yield video

    async def main(recognizer: Recognizer) -> list[int]:
        begun = []
        async with aclosing(recognizer.predict_many_async(plain() if kind == "plain" else asynchronous())) as outcomes:
            async for _ in outcomes:
                for _ in range(100):
                    await asyncio.sleep(0)
                begun.append(len(given))
        return begun

    with i3d.load(tiny_exports / "tiny.onnx", device="cpu") as recognizer:
        assert asyncio.run(main(recognizer)) == [2, 3, 4, 5, 5]  # the one that was asked for, and the next


def test_cancelling_leaves_nothing_running(tiny_checkpoint: Checkpoint) -> None:
    runner = Gated(tiny_checkpoint)

    async def main() -> None:
        predicting = asyncio.create_task(Recognizer(runner).predict_async(noise(20)))
        while not runner.running.is_set():
            await asyncio.sleep(0)
        predicting.cancel()
        await asyncio.sleep(0)
        predicting.cancel()  # whoever is impatient
        for _ in range(100):
            await asyncio.sleep(0)
        assert not predicting.done()  # what runs on has not been left
        runner.may_run.set()
        with pytest.raises(asyncio.CancelledError):
            await predicting
        assert working_threads() == []

    asyncio.run(main())
    assert runner.runs == 1  # of six


def test_what_is_raised_after_two_cancellations_is_not_reported() -> None:
    running, may_fail = threading.Event(), threading.Event()
    told: list[dict[str, Any]] = []

    def broken() -> None:
        running.set()
        assert may_fail.wait(PATIENCE_SECONDS)
        raise VideoError("nothing there")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        with ThreadPoolExecutor(1) as thread:
            waiting = asyncio.create_task(awaiting.run(thread, broken))
            while not running.is_set():
                await asyncio.sleep(0)
            for _ in range(2):
                waiting.cancel()
                await asyncio.sleep(0)
            may_fail.set()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(main())
    gc.collect()
    assert told == []


def test_cancelling_stops_the_decoder(tiny_exports: Path) -> None:
    read = 0

    def endless() -> Iterator[NDArray[np.uint8]]:
        nonlocal read
        while True:
            read += 1
            yield np.zeros((32, 32, 3), np.uint8)

    async def main(recognizer: Recognizer) -> None:
        predicting = asyncio.create_task(recognizer.predict_async(endless()))
        while read < 10:
            await asyncio.sleep(0)
        predicting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await predicting
        assert working_threads() == []

    with i3d.load(tiny_exports / "tiny.onnx", device="cpu") as recognizer:
        asyncio.run(main(recognizer))


def test_cancelling_reaches_a_source_that_is_waited_for(tiny_exports: Path) -> None:
    ended: list[str] = []

    async def sources() -> AsyncIterator[NDArray[np.uint8]]:
        yield noise(20)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("source")

    async def main(recognizer: Recognizer) -> None:
        asking = asyncio.create_task(anext(recognizer.predict_many_async(sources())))
        for _ in range(100):
            await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert ended == ["source"]
        assert working_threads() == []

    with i3d.load(tiny_exports / "tiny.onnx", device="cpu") as recognizer:
        asyncio.run(main(recognizer))


def test_leaving_a_loop_leaves_nothing_running(tiny_exports: Path) -> None:
    async def main(recognizer: Recognizer) -> None:
        async with aclosing(recognizer.predict_many_async(noise(20) for _ in range(5))) as outcomes:
            async for outcome in outcomes:
                assert isinstance(outcome.result, Prediction)
                break
        assert working_threads() == []

    with i3d.load(tiny_exports / "tiny.onnx", device="cpu") as recognizer:
        asyncio.run(main(recognizer))


def test_predictions_at_once_are_those_of_one_after_the_other(tiny_exports: Path) -> None:
    videos = [noise(20 + number, seed=number) for number in range(4)]

    async def main(recognizer: Recognizer) -> list[Prediction]:
        return list(await asyncio.gather(*(recognizer.predict_async(video) for video in videos)))

    with i3d.load(tiny_exports / "tiny.xml", device="cpu") as recognizer:
        found = asyncio.run(main(recognizer))
        for video, prediction in zip(videos, found, strict=True):
            np.testing.assert_array_equal(prediction.logits, recognizer.predict(video).logits)


def test_what_a_function_raises_comes_through() -> None:
    def broken() -> None:
        raise VideoError("nothing there")

    async def main() -> None:
        with ThreadPoolExecutor(1) as thread:
            await awaiting.run(thread, broken)

    with pytest.raises(VideoError, match="nothing there"):
        asyncio.run(main())
