"""Streams of libi3d: windows worked out by hand, and against the Python runtime."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import i3d_deploy as i3d
from i3d_deploy.stream_sources import TimedFrame
from tests.cpp import native
from tests.cpp.native import Library, NativeError
from tests.sources import noise


@pytest.fixture(scope="module")
def engine(tiny_exports: Path) -> Path:
    """An engine of clips of 8 frames, every other one: a window has 15."""
    return tiny_exports / "tiny.xml"


@pytest.mark.parametrize(
    ("rate", "options"),
    [
        (10.0, {}),
        (25.0, {"every_seconds": 0.5}),
        (7.0, {"window_seconds": 3.0, "every_seconds": 1.0, "clips": 2, "crops": 3}),
        (4.0, {"window_seconds": 6.0}),  # each frame is shown more than once, and the gap is within a window
    ],
    ids=str,
)
def test_windows_and_predictions_are_those_of_python(
    library: Library, engine: Path, rate: float, options: dict[str, float]
) -> None:
    frames = noise(80, 48, 64)
    times = [5 + number / rate + 0.01 * (number % 3) for number in range(40)]
    times += [times[-1] + 5 + number / rate for number in range(40)]  # after a gap longer than a window
    with i3d.load(engine, threads=1) as recognizer, library.recognizer(engine) as handle:
        timed = [TimedFrame(frame=frame, seconds=seconds) for frame, seconds in zip(frames, times, strict=True)]
        expected = list(recognizer.stream(timed, frames_per_second=10.0, drop=False, **options))  # type: ignore[arg-type]
        with handle.stream(frames_per_second=10.0, **options) as stream:
            found = []
            for frame, seconds in zip(frames, times, strict=True):
                stream.push(frame, seconds)
                window, prediction = stream.next(0)
                if prediction is not None:
                    found.append((window, prediction))
    assert len(found) == len(expected) > 1
    for (window, prediction), other in zip(found, expected, strict=True):
        assert window.start_seconds == pytest.approx(other.start_seconds, abs=1e-9)
        assert window.end_seconds == pytest.approx(other.end_seconds, abs=1e-9)
        assert (window.dropped_windows, window.dropped_frames) == (0, 0)
        np.testing.assert_allclose(prediction.logits, other.prediction.logits, rtol=0, atol=1e-4)
        assert prediction.warnings == other.prediction.warnings
    assert any(prediction.warnings for _, prediction in found)


def test_windows_that_nobody_takes_are_dropped_and_counted(library: Library, engine: Path) -> None:
    frames = noise(47, 48, 64)
    with library.recognizer(engine) as handle, handle.stream(frames_per_second=10.0, every_seconds=1.0) as stream:
        for number, frame in enumerate(frames[:45]):
            stream.push(frame, number / 10)
        window, prediction = stream.next()  # windows began at 0, 1, 2 and 3 s and had 1.5 s
        assert prediction is not None
        assert (window.start_seconds, window.end_seconds) == pytest.approx((3.0, 4.5))
        assert (window.dropped_windows, window.dropped_frames) == (3, 30)
        assert stream.next(0)[1] is None
        stream.end(0.1)
        window, prediction = stream.next()
        assert prediction is None
        assert window.has_ended
        assert (window.dropped_windows, window.dropped_frames) == (3, 30)


def test_a_stream_without_a_window_says_why(library: Library, engine: Path) -> None:
    with library.recognizer(engine) as handle:
        for step, words in ((40.0, "up to 40.000000 s apart.*times in seconds"), (0.1, "was full$")):
            with handle.stream(frames_per_second=10.0) as stream:
                for number in range(10):
                    stream.push(noise(1, 48, 64)[0], number * step)
                stream.end()
                with pytest.raises(NativeError, match=words) as error:
                    stream.next()
                assert error.value.status == native.VIDEO
        with handle.stream(frames_per_second=10.0) as stream:
            for number in range(10):
                stream.push(noise(1, 48, 64 + number % 2)[0], number / 10)
            stream.end()
            with pytest.raises(
                NativeError, match="its frames changed from 64x48 to 65x48, and no window spans a change"
            ):
                stream.next()


def test_the_end_completes_a_window(library: Library, engine: Path) -> None:
    frames = noise(14, 48, 64)
    with library.recognizer(engine) as handle, handle.stream(frames_per_second=10.0) as stream:
        for number, frame in enumerate(frames):
            stream.push(frame, number / 10)
        assert stream.next(0)[1] is None
        with pytest.raises(NativeError, match="frame_seconds") as error:
            stream.end(3e6)
        assert error.value.status == native.INPUT
        stream.end(0.2)  # the last frame is shown at 1.4 s too
        window, prediction = stream.next()
        assert prediction is not None
        assert window.end_seconds == pytest.approx(1.5)


def test_a_lost_connection_and_another_size_begin_anew(library: Library, engine: Path) -> None:
    with library.recognizer(engine) as handle, handle.stream(frames_per_second=10.0) as stream:
        for number in range(10):
            stream.push(noise(1, 48, 64)[0], number / 10)
        stream.restart()  # and times begin anew
        for number in range(10):
            stream.push(noise(1, 48, 64)[0], number / 10)
        for number in range(10, 25):
            assert stream.next(0)[1] is None
            stream.push(noise(1, 64, 48)[0], number / 10)
        window, prediction = stream.next(0)
        assert prediction is not None
        assert window.start_seconds == pytest.approx(1.0)
        lost = "the connection was lost before the window, and none spans that"
        changed = "frames changed from 64x48 to 48x64 before the window, and none spans a change"
        assert prediction.warnings == (lost, changed)


def test_a_pause_that_ends_in_another_size_is_told_as_in_python(library: Library, engine: Path) -> None:
    frames = [*noise(10, 48, 64), *noise(15, 64, 48)]
    times = [number / 10 + (0 if number < 10 else 28) for number in range(25)]
    timed = [TimedFrame(frame=frame, seconds=seconds) for frame, seconds in zip(frames, times, strict=True)]
    with i3d.load(engine, threads=1) as recognizer:
        (expected,) = recognizer.stream(timed, frames_per_second=10.0, drop=False)
    with library.recognizer(engine) as handle, handle.stream(frames_per_second=10.0) as stream:
        for frame, seconds in zip(frames, times, strict=True):
            stream.push(frame, seconds)
        _, prediction = stream.next(0)
    assert prediction is not None
    assert prediction.warnings == expected.prediction.warnings
    assert [line[:27] for line in prediction.warnings] == ["no frame came for 28.1 s be", "frames changed from 64x48 t"]


def test_a_connection_lost_before_the_first_frame_is_not_told(library: Library, engine: Path) -> None:
    with library.recognizer(engine) as handle, handle.stream(frames_per_second=10.0) as stream:
        stream.restart()
        for number in range(15):
            stream.push(noise(1, 48, 64)[0], number / 10)
        _, prediction = stream.next(0)
    assert prediction is not None
    assert prediction.warnings == ()


def test_one_thread_gives_and_another_takes(library: Library, engine: Path) -> None:
    frames = noise(60, 48, 64)
    with library.recognizer(engine) as handle, handle.stream(frames_per_second=10.0, every_seconds=0.1) as stream:

        def give() -> None:
            for number, frame in enumerate(frames):
                stream.push(frame, number / 10)
            stream.end(0.1)

        giver = threading.Thread(target=give)
        giver.start()
        taken, dropped = 0, 0
        while True:
            window, prediction = stream.next()
            if prediction is None:
                break
            taken, dropped = taken + 1, window.dropped_windows
        giver.join()
    assert window.has_ended
    assert taken + dropped == 46  # of 15 frames each, one frame apart


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "frames_per_second"),
        ({"frames_per_second": -1.0}, "frames_per_second"),
        ({"frames_per_second": 1001.0}, r"frames_per_second \(1001.000000\) must be > 0 and <= 1000"),
        ({"frames_per_second": 10.0, "window_seconds": 1e6}, "from 1 to 3000"),
        ({"frames_per_second": 10.0, "every_seconds": 0.01}, "every_seconds"),
        ({"frames_per_second": 10.0, "clips": 2000}, "clips"),
        ({"frames_per_second": 10.0, "crops": 2}, "crops"),
        ({"frames_per_second": 10.0, "batch": -7}, "batch"),
    ],
    ids=str,
)
def test_options_that_cannot_be(library: Library, engine: Path, options: dict[str, float], words: str) -> None:
    with (
        library.recognizer(engine) as handle,
        pytest.raises(NativeError, match=words) as error,
        handle.stream(**options),
    ):
        pass
    assert error.value.status == native.INPUT


def test_times_must_ascend(library: Library, engine: Path) -> None:
    with library.recognizer(engine) as handle, handle.stream(frames_per_second=10.0) as stream:
        stream.push(noise(1, 48, 64)[0], 1.0)
        for seconds in (1.0, 0.5, float("nan"), 1.7e18, float("inf")):
            with pytest.raises(NativeError, match="time") as error:
                stream.push(noise(1, 48, 64)[0], seconds)
            assert error.value.status == native.INPUT


def test_a_refused_frame_loses_nothing(library: Library, engine: Path) -> None:
    with library.recognizer(engine) as handle, handle.stream(frames_per_second=10.0) as stream:
        for number in range(15):
            if number == 10:
                with pytest.raises(NativeError, match="narrower than 1:16") as error:
                    stream.push(noise(1, 64, 2)[0], 0.95)
                assert error.value.status == native.VIDEO
            stream.push(noise(1, 48, 64)[0], number / 10)
        assert stream.next(0)[1] is not None


def test_another_thread_ends_a_stream(library: Library, engine: Path) -> None:
    with library.recognizer(engine) as handle, handle.stream(frames_per_second=10.0) as stream:
        canceller = threading.Thread(target=stream.cancel)
        canceller.start()
        window, prediction = stream.next()
        canceller.join()
        assert window.has_ended
        assert prediction is None
        with pytest.raises(NativeError, match="the stream has ended") as error:
            stream.push(noise(1, 48, 64)[0], 1.0)
        assert error.value.status == native.INPUT
