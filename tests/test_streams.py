"""A window of a stream is predicted as a video of its frames; what is too much is dropped; nothing is left behind."""

from __future__ import annotations

import dataclasses
import gc
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from i3d_deploy import resizing, stream_sources, video_files
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.predictions import Prediction
from i3d_deploy.preprocessing import Spatial
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.runners.torch_runner import TorchRunner
from i3d_deploy.stream_sources import Arrival, OpenStream, TimedFrame
from i3d_deploy.streams import WindowPrediction
from tests.cameras import web_camera
from tests.sources import noise
from tests.test_two_stream import stream as of_two_streams
from tests.test_video_files import direct as direct

READ = "i3d-stream"
PATIENCE_SECONDS = 60
TENTHS = tuple(number / 10 for number in range(40))
SHORT = ("4 frames are fewer than the 15 that a clip spans: they are repeated",)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert reading_threads() == []


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == READ]


def recognizer(
    checkpoint: Checkpoint, *, sampling: dict[str, Any] | None = None, spatial: dict[str, Any] | None = None
) -> Recognizer:
    """The tiny network under another card."""
    card = checkpoint.card.replaced(
        sampling=checkpoint.card.sampling.replaced(**(sampling or {})),
        spatial=checkpoint.card.spatial.replaced(**(spatial or {})),
    )
    return Recognizer(TorchRunner(dataclasses.replace(checkpoint, card=card), device="cpu"))


def timed(frames: NDArray[np.uint8], seconds: Iterable[float]) -> Iterator[TimedFrame]:
    return (TimedFrame(frame=frame, seconds=at) for frame, at in zip(frames, seconds, strict=False))


def times(found: Sequence[WindowPrediction[Prediction]]) -> list[tuple[float, float]]:
    return [(round(window.start_seconds, 9), round(window.end_seconds, 9)) for window in found]


@pytest.mark.parametrize(
    ("sampling", "spatial"),
    [
        ({}, {}),
        ({"formula": "mmaction2-1.x"}, {}),
        ({"scheme": "dense", "sample_range": 16}, {}),
        ({"scheme": "whole", "num_clips": 1, "min_clip_len": 8}, {}),
        ({"formula": "slowfast"}, {"formula": "slowfast"}),
    ],
    ids=["uniform", "uniform 1.x", "dense", "whole", "slowfast"],
)
def test_a_window_is_predicted_as_the_video_of_its_frames(
    tiny_checkpoint: Checkpoint, sampling: dict[str, Any], spatial: dict[str, Any]
) -> None:
    pixels = noise(40)
    counted_at_five = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38]
    with recognizer(tiny_checkpoint, sampling={"frames_per_second": 5.0, **sampling}, spatial=spatial) as loaded:
        found = list(loaded.stream(timed(pixels, TENTHS), window_seconds=3.2, every_seconds=0.6, drop=False))
        assert times(found) == [(0, 3.2), (0.6, 3.8)]
        for first, window in zip((0, 3), found, strict=True):
            expected = loaded.predict(pixels[counted_at_five[first : first + 16]], clips=1, crops=1)
            np.testing.assert_array_equal(window.prediction.logits, expected.logits)
            np.testing.assert_array_equal(window.prediction.probabilities, expected.probabilities)
            assert window.prediction.frames == 16


def test_more_clips_and_crops_are_those_of_the_video(tiny_checkpoint: Checkpoint) -> None:
    pixels = noise(30)
    with recognizer(tiny_checkpoint) as loaded:
        options: dict[str, Any] = {"frames_per_second": 10, "clips": 3, "crops": 3}
        found = list(loaded.stream(timed(pixels, TENTHS), window_seconds=3, drop=False, **options))
        expected = loaded.predict(pixels, clips=3, crops=3)
    assert [window.prediction.views for window in found] == [9]
    np.testing.assert_array_equal(found[0].prediction.logits, expected.logits)


def test_frames_that_come_unevenly_are_taken_by_their_times(tiny_checkpoint: Checkpoint) -> None:
    pixels = noise(8)
    # at ten a second: 0.1 is nearest to 0.12; 0.2 and 0.3 to 0.26; 0.4 to 0.42, 0.5 to 0.55, 0.6 and 0.7 to 0.64
    seconds = (0.0, 0.03, 0.12, 0.26, 0.42, 0.55, 0.64, 0.78)
    with recognizer(tiny_checkpoint, sampling={"frame_interval": 1, "frames_per_second": 10.0}) as loaded:
        found = list(loaded.stream(timed(pixels, seconds), drop=False))
        expected = loaded.predict(pixels[[0, 2, 3, 3, 4, 5, 6, 6]], clips=1, crops=1)
    assert times(found) == [(0, 0.8)]
    np.testing.assert_array_equal(found[0].prediction.logits, expected.logits)


@pytest.mark.parametrize(
    ("sampling", "frames"),
    [
        ({}, 15),  # 8 frames, 2 apart: 7 * 2 + 1
        ({"scheme": "whole", "num_clips": 1, "min_clip_len": 8, "frame_interval": 1}, 8),
        ({"formula": "slowfast"}, 16),  # 8 frames over the duration of 8 * 2
    ],
    ids=["uniform", "whole", "slowfast"],
)
def test_a_window_spans_a_clip_unless_told(tiny_checkpoint: Checkpoint, sampling: dict[str, Any], frames: int) -> None:
    with recognizer(tiny_checkpoint, sampling={"frames_per_second": 10.0, **sampling}) as loaded:
        found = list(loaded.stream(timed(noise(40), TENTHS), drop=False))
    assert {window.prediction.frames for window in found} == {frames}
    assert {window.prediction.warnings for window in found} == {()}
    assert [round(window.start_seconds * 10) for window in found] == list(range(0, 40 - frames + 1, frames))


def test_a_window_shorter_than_a_clip_repeats_frames_and_says_so(tiny_checkpoint: Checkpoint) -> None:
    pixels = noise(5)
    with recognizer(tiny_checkpoint) as loaded:
        found = next(loaded.stream(timed(pixels, TENTHS), window_seconds=0.5, frames_per_second=10))
        expected = loaded.predict(pixels, clips=1, crops=1)
    assert found.prediction.warnings == ("5 frames are fewer than the 15 that a clip spans: they are repeated",)
    assert found.prediction.warnings == expected.warnings
    np.testing.assert_array_equal(found.prediction.logits, expected.logits)


def test_a_file_is_read_at_its_own_rate(tiny_checkpoint: Checkpoint, clip: Path) -> None:
    with recognizer(tiny_checkpoint) as loaded:
        found = list(loaded.stream(clip, every_seconds=0.4, drop=False))
        assert times(found) == [(0, 0.6), (0.4, 1.0), (0.8, 1.4)]
        frames = np.stack(list(video_files.read(clip)))
        expected = loaded.predict(frames[10:25], clips=1, crops=1)
    np.testing.assert_array_equal(found[1].prediction.logits, expected.logits)
    assert {(window.dropped_windows, window.dropped_frames, window.reconnects) for window in found} == {(0, 0, 0)}


def test_a_window_of_a_whole_file_is_predicted_as_the_file(tiny_checkpoint: Checkpoint, clip: Path) -> None:
    # 40 frames at 25 a second are 48 at 30, of which the last one is after the last frame of the file.
    with recognizer(tiny_checkpoint, sampling={"frames_per_second": 30.0}) as loaded:
        found = list(loaded.stream(clip, window_seconds=1.6, clips=2, crops=3, drop=False))
        expected = loaded.predict(clip)
    assert [window.prediction.frames for window in found] == [48]
    np.testing.assert_array_equal(found[0].prediction.logits, expected.logits)


def test_the_lag_is_counted_from_the_last_frame(tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10_000.0

    @contextmanager
    def opened(*_: object) -> Iterator[OpenStream]:
        came_at = [now - 1000, now - 1000, now - 1000, now - 500]
        arrivals = (
            Arrival(timed=frame, came_at=at) for frame, at in zip(timed(noise(4), TENTHS), came_at, strict=True)
        )
        yield OpenStream(arrivals=arrivals, frames_per_second=10)

    monkeypatch.setattr(stream_sources, "opened", opened)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with recognizer(tiny_checkpoint) as loaded:
        found = next(loaded.stream("rtsp://camera/1", window_seconds=0.4))
    assert found.lag_seconds == 500


def test_what_comes_while_a_window_is_computed_is_dropped_and_counted(tiny_checkpoint: Checkpoint) -> None:
    pixels = noise(14)
    is_taken, has_all_come, may_end = threading.Event(), threading.Event(), threading.Event()

    def come() -> Iterator[TimedFrame]:
        frames = timed(pixels, TENTHS)
        for _ in range(4):
            yield next(frames)
        assert is_taken.wait(PATIENCE_SECONDS)
        for _ in range(8):
            yield next(frames)
        has_all_come.set()
        assert may_end.wait(PATIENCE_SECONDS)
        yield from frames

    options: dict[str, Any] = {"window_seconds": 0.4, "every_seconds": 0.2, "frames_per_second": 10}
    with recognizer(tiny_checkpoint) as loaded, closing(loaded.stream(come(), **options)) as predictions:
        first = next(predictions)
        is_taken.set()
        assert has_all_come.wait(PATIENCE_SECONDS)
        second = next(predictions)
        may_end.set()
        third = next(predictions)
        expected = loaded.predict(pixels[8:12], clips=1, crops=1)
    # Windows begin with frames 0, 2, 4, 6, 8 and 10; frames 4 to 7 were in dropped ones only.
    assert times([first, second, third]) == [(0, 0.4), (0.8, 1.2), (1.0, 1.4)]
    assert [window.dropped_windows for window in (first, second, third)] == [0, 3, 3]
    assert [window.dropped_frames for window in (first, second, third)] == [0, 4, 4]
    np.testing.assert_array_equal(second.prediction.logits, expected.logits)


def test_without_dropping_the_source_waits(tiny_checkpoint: Checkpoint) -> None:
    num_asked = 0

    def come() -> Iterator[TimedFrame]:
        nonlocal num_asked
        for frame in timed(noise(40), TENTHS):
            num_asked += 1
            yield frame

    options: dict[str, Any] = {"window_seconds": 0.4, "frames_per_second": 10, "drop": False}
    with recognizer(tiny_checkpoint) as loaded, closing(loaded.stream(come(), **options)) as predictions:
        found = []
        for prediction in predictions:
            found.append(prediction)
            # One window is taken, one waits, and the next one is complete at most.
            assert num_asked <= 4 * (len(found) + 2)
    assert [round(window.start_seconds, 9) for window in found] == [0, 0.4, 0.8, 1.2, 1.6, 2, 2.4, 2.8, 3.2, 3.6]
    assert found[-1].dropped_windows == 0


def test_a_frame_is_resized_once_however_many_windows_it_is_in(
    tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    resized: list[int] = []
    real = resizing.by_card

    def counted(frame: NDArray[np.uint8], spatial: Spatial) -> Any:
        resized.append(int(frame[0, 0, 0]))
        return real(frame, spatial)

    monkeypatch.setattr(resizing, "by_card", counted)
    pixels = np.stack([np.full((40, 40, 3), number, np.uint8) for number in range(30)])
    with recognizer(tiny_checkpoint) as loaded:
        options: dict[str, Any] = {"window_seconds": 1, "every_seconds": 0.2, "frames_per_second": 10, "drop": False}
        assert len(list(loaded.stream(timed(pixels, TENTHS), **options))) == 11
    assert resized == list(range(30))


def test_an_iterator_may_be_collected_where_it_is_read(
    tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    is_left, reader = threading.Event(), list[threading.Thread]()

    def come() -> Iterator[TimedFrame]:
        reader.append(threading.current_thread())
        yield from timed(noise(4), TENTHS)
        assert is_left.wait(PATIENCE_SECONDS)
        gc.collect()
        yield from timed(noise(4), TENTHS[4:])

    gc.disable()  # so that nobody collects before
    try:
        with recognizer(tiny_checkpoint) as loaded:
            circle: list[Any] = [loaded.stream(come(), window_seconds=0.4, frames_per_second=10)]
            circle.append(circle)
            next(circle[0])
            del circle
            is_left.set()
            reader[0].join()
    finally:
        gc.enable()
    assert told == []


def test_closing_ends_the_thread(tiny_checkpoint: Checkpoint, clip: Path) -> None:
    with recognizer(tiny_checkpoint) as loaded:
        predictions = loaded.stream(clip)
        next(predictions)
        assert reading_threads() == [READ]
        predictions.close()
        assert reading_threads() == []
        never_begun = loaded.stream(clip)
        never_begun.close()


def test_an_error_of_the_engine_ends_the_thread(tiny_checkpoint: Checkpoint, clip: Path) -> None:
    loaded = recognizer(tiny_checkpoint)
    loaded.close()
    with pytest.raises(InputError, match="the runner is closed"):
        next(loaded.stream(clip))


def test_an_error_of_the_source_comes_after_its_windows(tiny_checkpoint: Checkpoint) -> None:
    def come() -> Iterator[TimedFrame]:
        yield from timed(noise(4), TENTHS)
        raise RuntimeError("unplugged")

    with recognizer(tiny_checkpoint) as loaded:
        predictions = loaded.stream(come(), window_seconds=0.4, frames_per_second=10)
        assert next(predictions).end_seconds == 0.4
        with pytest.raises(RuntimeError, match="unplugged"):
            next(predictions)


def test_frames_of_another_size_begin_anew(tiny_checkpoint: Checkpoint) -> None:
    def come() -> Iterator[TimedFrame]:
        yield from timed(noise(6), TENTHS)
        yield from timed(noise(4, 64, 48), TENTHS[6:])

    with recognizer(tiny_checkpoint) as loaded:
        found = list(loaded.stream(come(), window_seconds=0.4, frames_per_second=10, drop=False))
    assert times(found) == [(0, 0.4), (0.6, 1.0)]
    changed = "frames changed from 64x48 to 48x64 before the window, and none spans a change"
    assert [window.prediction.warnings for window in found] == [SHORT, (*SHORT, changed)]


def test_a_pause_longer_than_a_window_is_told_with_the_first_one_after_it(tiny_checkpoint: Checkpoint) -> None:
    seconds = [*TENTHS[:6], *(number + 3.5 for number in TENTHS[:9])]
    with recognizer(tiny_checkpoint) as loaded:
        found = list(loaded.stream(timed(noise(15), seconds), window_seconds=0.4, frames_per_second=10, drop=False))
    assert times(found) == [(0, 0.4), (3.5, 3.9), (3.9, 4.3)]
    pause = "no frame came for 3 s before the window, and none spans so long a pause"
    assert [window.prediction.warnings for window in found] == [SHORT, (*SHORT, pause), SHORT]


def test_a_pause_that_ends_in_another_size_is_told_as_well(tiny_checkpoint: Checkpoint) -> None:
    def come() -> Iterator[TimedFrame]:
        yield from timed(noise(5), TENTHS)
        yield from timed(noise(4, 64, 48), (number + 28.4 for number in TENTHS))

    with recognizer(tiny_checkpoint) as loaded:
        _, found = loaded.stream(come(), window_seconds=0.4, frames_per_second=10, drop=False)
    pause = "no frame came for 28 s before the window, and none spans so long a pause"
    changed = "frames changed from 64x48 to 48x64 before the window, and none spans a change"
    assert found.prediction.warnings == (*SHORT, pause, changed)


def test_what_lay_before_a_dropped_window_is_told_with_the_next(tiny_checkpoint: Checkpoint) -> None:
    is_taken, has_all_come = threading.Event(), threading.Event()

    def come() -> Iterator[TimedFrame]:
        yield from timed(noise(4), TENTHS)
        assert is_taken.wait(PATIENCE_SECONDS)
        yield from timed(noise(8), (number + 5 for number in TENTHS))
        has_all_come.set()

    options: dict[str, Any] = {"window_seconds": 0.4, "frames_per_second": 10}
    with recognizer(tiny_checkpoint) as loaded, closing(loaded.stream(come(), **options)) as predictions:
        next(predictions)
        is_taken.set()
        assert has_all_come.wait(PATIENCE_SECONDS)
        second = next(predictions)
    assert (second.start_seconds, second.dropped_windows) == (5.4, 1)
    assert second.prediction.warnings[1].startswith("no frame came for 4.7 s before the window")


def test_a_camera_slower_than_the_card_is_told(tiny_checkpoint: Checkpoint) -> None:
    with recognizer(tiny_checkpoint, sampling={"frame_interval": 1, "frames_per_second": 25.0}) as loaded:
        (found,) = loaded.stream(timed(noise(4), TENTHS), drop=False)
    told = "4 frames are fewer than the 8 that are taken of a window at 25 a second: they are repeated"
    assert found.prediction.warnings == (told,)


def test_sizes_that_keep_changing_are_told_in_the_end(tiny_checkpoint: Checkpoint) -> None:
    frames = [noise(1, 48, 64 + number % 2)[0] for number in range(9)]
    come = (TimedFrame(frame=frame, seconds=number / 10) for number, frame in enumerate(frames))
    with (
        recognizer(tiny_checkpoint) as loaded,
        pytest.raises(VideoError, match=r"full: .* from 65x48 to 64x48, and no"),
    ):
        list(loaded.stream(come, window_seconds=0.4, frames_per_second=10))


@pytest.mark.parametrize("away_seconds", [0, 28])
def test_a_window_spans_no_lost_connection(
    tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, away_seconds: int
) -> None:
    seconds = [*TENTHS[:5], *(number + away_seconds for number in TENTHS[5:10])]

    @contextmanager
    def opened(*_: object) -> Iterator[OpenStream]:
        arrivals = (
            Arrival(timed=frame, came_at=0, is_after_gap=number == 5)
            for number, frame in enumerate(timed(noise(10), seconds))
        )
        yield OpenStream(arrivals=arrivals, frames_per_second=10, reconnects=1)

    monkeypatch.setattr(stream_sources, "opened", opened)
    with recognizer(tiny_checkpoint) as loaded:
        found = list(loaded.stream("rtsp://camera/1", window_seconds=0.4, drop=False))
    assert times(found) == [(0, 0.4), (away_seconds + 0.5, away_seconds + 0.9)]
    assert found[1].reconnects == 1
    pause = "no frame came for 28.1 s before the window, and none spans so long a pause"
    lost = "the connection was lost before the window, and none spans that"
    told = (*SHORT, pause, lost) if away_seconds else (*SHORT, lost)
    assert [window.prediction.warnings for window in found] == [SHORT, told]


@pytest.mark.usefixtures("direct")
def test_a_camera_that_comes_back_is_predicted_further(tiny_checkpoint: Checkpoint) -> None:
    notices: list[str] = []
    options: dict[str, Any] = {"window_seconds": 0.1, "frames_per_second": 100, "on_notice": notices.append}
    with (
        web_camera() as camera,
        recognizer(tiny_checkpoint) as loaded,
        closing(loaded.stream(camera.address, **options)) as predictions,
    ):
        first = next(predictions)
        camera.hang_up.set()
        again = next(window for window in predictions if window.reconnects == 1)
    assert first.reconnects == 0
    assert again.start_seconds > first.end_seconds
    assert [notice.split(": ")[1] for notice in notices] == [
        "the connection was lost; attempt 1 of 10 to connect again in 0.5 s",
        "connected again",
    ]


def test_a_stream_shorter_than_a_window_is_an_error(tiny_checkpoint: Checkpoint, clip: Path) -> None:
    with (
        recognizer(tiny_checkpoint) as loaded,
        pytest.raises(VideoError, match=r"clip\.mp4 ended before a window of 2 s was full: give shorter windows \(w"),
    ):
        list(loaded.stream(clip, window_seconds=2, drop=False))


@pytest.mark.parametrize(
    ("every", "message"),
    [(0.2, "its frames are up to 0.2 s apart"), (40, "its frames are up to 40 s apart")],
    ids=["slow", "milliseconds"],
)
def test_frames_too_far_apart_for_a_window_are_told(tiny_checkpoint: Checkpoint, every: float, message: str) -> None:
    notices: list[str] = []
    options: dict[str, Any] = {"window_seconds": 0.16, "frames_per_second": 25, "on_notice": notices.append}
    why = rf"{message}, and no window spans a gap longer than itself, 0\.16 s: give longer windows \(window_seconds\)"
    with recognizer(tiny_checkpoint) as loaded, pytest.raises(VideoError, match=rf"0\.16 s was full: {why}"):
        list(loaded.stream(timed(noise(40), [number * every for number in range(40)]), **options))
    (notice,) = notices
    assert re.match(rf"the iterable of frames: no window was full yet: {why}", notice)


def test_a_source_without_a_rate_is_asked_for_one(tiny_checkpoint: Checkpoint) -> None:
    with recognizer(tiny_checkpoint) as loaded:
        message = r"the iterable of frames does not say its rate, and the card counts at none: give frames_per_second"
        with pytest.raises(InputError, match=message):
            next(loaded.stream(timed(noise(4), TENTHS)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_seconds": 0}, r"window_seconds \(0\) must be > 0"),
        ({"window_seconds": math.inf}, r"window_seconds \(inf\) must be > 0 and <= 1e\+06"),
        ({"every_seconds": -1}, r"every_seconds \(-1\) must be > 0"),
        ({"every_seconds": math.inf}, r"every_seconds \(inf\) must be > 0 and <= 1e\+06"),
        ({"reconnects": -1}, r"reconnects \(-1\) must be >= 0"),
        ({"batch": 0}, r"batch \(0\) must be > 0"),
        ({"crops": 2}, r"crops \(2\) must be 1 or 3"),
        ({"clips": 0}, r"clips \(0\) must be > 0"),
        ({"frames_per_second": 25}, "is for cards without a rate: this one counts 10 frames a second"),
    ],
)
def test_arguments_are_checked_before_anything_is_opened(
    tiny_checkpoint: Checkpoint, options: dict[str, Any], message: str
) -> None:
    with (
        recognizer(tiny_checkpoint, sampling={"frames_per_second": 10.0}) as loaded,
        pytest.raises(InputError, match=message),
    ):
        loaded.stream("nothing.mp4", **options)


@pytest.mark.parametrize("source", [None, 0.5], ids=str)
def test_what_is_no_source_is_told_at_once(tiny_checkpoint: Checkpoint, source: Any) -> None:
    message = rf"a stream is the number of a camera, .* or an iterable of TimedFrame, not {type(source).__name__}$"
    with recognizer(tiny_checkpoint) as loaded, pytest.raises(InputError, match=message):
        loaded.stream(source)


def test_networks_of_flow_are_refused() -> None:
    with (
        Recognizer(TorchRunner(of_two_streams("flow"), device="cpu")) as loaded,
        pytest.raises(InputError, match="this is a network of flow, and the flow of a stream is not computed"),
    ):
        loaded.stream("clip.mp4")


def test_a_window_longer_than_a_network_takes_is_refused_at_once(tiny_checkpoint: Checkpoint) -> None:
    sampling = {"scheme": "whole", "num_clips": 1, "min_clip_len": 8, "frame_interval": 1}
    with (
        recognizer(tiny_checkpoint, sampling=sampling) as loaded,
        pytest.raises(VideoError, match="1600 frames are too many for a whole video at once, which may have 1500"),
    ):
        next(loaded.stream(timed(noise(4), TENTHS), window_seconds=160, frames_per_second=10))


def test_a_whole_window_is_one_clip(tiny_checkpoint: Checkpoint) -> None:
    with (
        recognizer(tiny_checkpoint, sampling={"scheme": "whole", "num_clips": 1, "min_clip_len": 8}) as loaded,
        pytest.raises(InputError, match=r"clips \(2\) must be 1: a whole video is one clip"),
    ):
        loaded.stream("clip.mp4", clips=2)


ABANDONED = """
import sys, threading
import numpy as np
import i3d_deploy as i3d
from i3d_deploy.stream_sources import Arrival, OpenStream, TimedFrame

def come():
    for number in range(15):
        yield TimedFrame(frame=np.zeros((32, 32, 3), np.uint8), seconds=number / 25)
    threading.Event().wait()

recognizer = i3d.load(sys.argv[1], device="cpu")
predictions = recognizer.stream(come(), frames_per_second=25)
print(next(predictions).end_seconds)
"""


def test_an_iterator_that_is_never_closed_does_not_keep_the_process(tiny_exports: Path) -> None:
    command = [sys.executable, "-c", ABANDONED, str(tiny_exports / "tiny.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0.6\n", "")
