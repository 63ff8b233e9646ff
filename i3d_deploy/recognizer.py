"""Video in, labels out: the card's pipeline around a runner."""

from __future__ import annotations

import difflib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Iterator
from contextlib import aclosing, closing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import evidence, features, flow, flow_frames, reading, stream_sources, streams, video
from i3d_deploy.card import Card, Precision
from i3d_deploy.errors import ArtifactError, InputError, MissingExtraError, VideoError
from i3d_deploy.features import Features, Layer, Settings
from i3d_deploy.flow_cache import FlowCache
from i3d_deploy.flow_frames import FlowWanted
from i3d_deploy.frames import Resized
from i3d_deploy.moments import Rate
from i3d_deploy.predictions import Explanation, Outcome, Prediction, average_views
from i3d_deploy.reading import Cutting, Reading
from i3d_deploy.runners import Runner, RunnerInfo, open_runner, open_two_streams
from i3d_deploy.stream_sources import StreamSource
from i3d_deploy.streams import StreamSettings, WindowPrediction
from i3d_deploy.views import Views
from i3d_deploy.windows import Last


class Recognizer:
    """A loaded network that takes videos; a context manager that frees it.

    Any number of threads may use one recognizer, and each gets the answers that it would get alone. Their videos are
    decoded, resized and cut in parallel; the engine, which has the cores or the GPU for itself, runs for one of them at
    a time, part by part in turns. Each prediction under way keeps the frames of its own video.
    :meth:`close` waits for the part that is being run; what is under way in other threads then fails with
    :class:`InputError`, as does all that comes later.

    A recognizer belongs to the process that loaded it: it cannot be pickled, and refuses to run in a fork. Start
    processes by multiprocessing's spawn, and load the file in each.

    Attributes:
        card: What is done to a video, and the labels.
        info: What really runs the network.
        notes: What had to be assumed about a checkpoint that carries no card, one line each.

    Args:
        runner: The loaded network.
        flow_cache: Folder where optical flow is kept, for networks that take flow.
        is_flow_read: Whether flow will only be read, so that it does not matter who computes it here.
    """

    def __init__(self, runner: Runner, *, flow_cache: Path | None = None, is_flow_read: bool = False) -> None:
        self._runner = runner
        self._flow_cache = None if flow_cache is None else FlowCache(flow_cache)
        self.card: Card = runner.card
        self.info: RunnerInfo = runner.info
        self._flow_by = None if is_flow_read else _flow_by(runner.card)
        self.notes: tuple[str, ...] = (*runner.notes, *_meaning(runner.card, flow_by=self._flow_by))

    @property
    def ran_by(self) -> str:
        """What turns a video into logits, for records: what runs the network, and who computes its flow."""
        return str(self.info) if self._flow_by is None else f"{self.info}, flow by {self._flow_by}"

    @property
    def flow(self) -> FlowWanted | None:
        """The optical flow that the network is shown; None of a network of frames."""
        return flow_frames.wanted_of(self.card, cache=self._flow_cache)

    def predict(
        self,
        source: video.Source,
        *,
        clips: int | None = None,
        crops: int | None = None,
        batch: int | None = None,
        min_decoded_share: float = video.MIN_DECODED_SHARE,
        on_views: Callable[[int, int], None] | None = None,
    ) -> Prediction:
        """Recognise the action in a video.

        Args:
            source: A video file or URL, a folder of frames (``img_00001.jpg`` ...), a (T, H, W, 3) uint8 RGB array, or
                an iterable of (H, W, 3) uint8 RGB frames. A network of flow computes the flow of these, or takes a
                folder of flow that was computed before (``x_00001.jpg``, ``y_00001.jpg`` ...); of such a folder, a pair
                of networks takes the frames that lie beside it (``img_00001.jpg`` ...).
            clips: Another number of clips than the card's.
            crops: Another number of crops than the card's: 1 or 3.
            batch: Views per run of the engine; default: what suits the device. Only rounding depends on it.
            min_decoded_share: A damaged file needs at least this share of the frames that its container promises.
            on_views: Called with (views done, views in all) after each run of the engine.

        Raises:
            VideoError: No usable frame; the message says why.
            InputError: An argument is out of range, or the recognizer is closed.
            ArtifactError: The network's answer is not finite.
        """
        self._check(batch)
        cutting = self._cutting(clips=clips, crops=crops, min_decoded_share=min_decoded_share)
        with reading.opened(source, cutting) as opened:
            return self._predict(opened, batch=batch, on_views=on_views)

    def predict_many(
        self,
        sources: Iterable[video.Source],
        *,
        clips: int | None = None,
        crops: int | None = None,
        batch: int | None = None,
        min_decoded_share: float = video.MIN_DECODED_SHARE,
        on_views: Callable[[int, int, int], None] | None = None,
    ) -> Generator[Outcome, None, None]:
        """Recognise the actions in many videos; the next one is decoded while this one is computed.

        Args:
            sources: Each as for :meth:`predict`; any number. The next one is asked for before this one's outcome is
                there. Iterables of frames are read in a thread.
            clips: As for :meth:`predict`.
            crops: As for :meth:`predict`.
            batch: As for :meth:`predict`.
            min_decoded_share: As for :meth:`predict`.
            on_views: Called with (number of the video from 0, its views done, its views in all) after each run.

        Returns:
            One outcome for each source, in order, made when it is asked for. A video that cannot be read is one too.
            When the iterator is closed, the thread that decodes has ended; closing waits for the frame being read.

        Raises:
            InputError: An argument is out of range, or the recognizer is closed.
            ArtifactError: The network's answer is not finite.
        """
        self._check(batch)
        _check_many(sources)
        cutting = self._cutting(clips=clips, crops=crops, min_decoded_share=min_decoded_share)
        return self._outcomes(sources, cutting, batch=batch, on_views=on_views)

    def _outcomes(
        self,
        sources: Iterable[video.Source],
        cutting: Cutting,
        *,
        batch: int | None,
        on_views: Callable[[int, int, int], None] | None,
    ) -> Generator[Outcome, None, None]:
        with closing(reading.one_ahead(sources, cutting)) as started:
            for number, opened in enumerate(started):
                tell = None if on_views is None else partial(on_views, number)
                yield self._outcome(opened, batch=batch, on_views=tell)

    def _outcome(
        self, opened: Reading, *, batch: int | None, on_views: Callable[[int, int], None] | None = None
    ) -> Outcome:
        result: Prediction | VideoError
        try:
            result = self._predict(opened, batch=batch, on_views=on_views)
        except VideoError as error:
            result = error.with_traceback(None)  # which holds what was read of the video
        return Outcome(source=opened.source, result=result)

    async def predict_async(
        self,
        source: video.Source,
        *,
        clips: int | None = None,
        crops: int | None = None,
        batch: int | None = None,
        min_decoded_share: float = video.MIN_DECODED_SHARE,
    ) -> Prediction:
        """Recognise the action in a video while asyncio's event loop goes on: :meth:`predict` in threads of its own.

        When it is cancelled, its threads have ended once it raises :class:`asyncio.CancelledError`: after the frame
        that is being read and the part that is being run.

        Args:
            source: As for :meth:`predict`.
            clips: As for :meth:`predict`.
            crops: As for :meth:`predict`.
            batch: As for :meth:`predict`.
            min_decoded_share: As for :meth:`predict`.

        Raises:
            I3DError: As :meth:`predict`.
        """
        outcomes = self.predict_many_async(
            [source], clips=clips, crops=crops, batch=batch, min_decoded_share=min_decoded_share
        )
        async with aclosing(outcomes):
            outcome = await anext(outcomes)
        if isinstance(outcome.result, VideoError):
            raise outcome.result
        return outcome.result

    def predict_many_async(
        self,
        sources: Iterable[video.Source] | AsyncIterable[video.Source],
        *,
        clips: int | None = None,
        crops: int | None = None,
        batch: int | None = None,
        min_decoded_share: float = video.MIN_DECODED_SHARE,
    ) -> AsyncGenerator[Outcome, None]:
        """Recognise the actions in many videos while asyncio's event loop goes on: ``async for outcome in ...``.

        As with :meth:`predict_many` the next video is decoded while this one is computed, and no further one is begun
        before its outcome is asked for: whoever is slow to ask holds the work up, not the memory.

        Args:
            sources: As for :meth:`predict_many`, or an asynchronous iterable. A plain one is asked for its next source
                in a thread, so that it may block.
            clips: As for :meth:`predict`.
            crops: As for :meth:`predict`.
            batch: As for :meth:`predict`.
            min_decoded_share: As for :meth:`predict`.

        Returns:
            As :meth:`predict_many`. When the iterator is closed (``contextlib.aclosing`` does, where a loop may be
            left) or its task is cancelled, its threads have ended, as in :meth:`predict_async`.

        Raises:
            I3DError: As :meth:`predict_many`.
        """
        self._check(batch)
        _check_many(sources)
        cutting = self._cutting(clips=clips, crops=crops, min_decoded_share=min_decoded_share)
        return reading.one_ahead_async(sources, cutting, partial(self._outcome, batch=batch))

    def _check(self, batch: int | None) -> None:
        """Check before a video is read."""
        self._runner.check_usable()
        if batch is not None and batch < 1:
            raise InputError(f"batch ({batch}) must be > 0")

    def stream(
        self,
        source: StreamSource,
        *,
        window_seconds: float | None = None,
        every_seconds: float | None = None,
        clips: int = 1,
        crops: int = 1,
        batch: int | None = None,
        frames_per_second: float | None = None,
        drop: bool = True,
        min_decoded_share: float = video.MIN_DECODED_SHARE,
        reconnects: int = streams.RECONNECTS,
        on_notice: Callable[[str], None] = streams.nobody,
    ) -> Generator[WindowPrediction[Prediction], None, None]:
        """Recognise the actions in a stream while it comes, window by window.

        The prediction of a window is that of :meth:`predict` of its frames, by their times at the card's rate. Several
        streams take a thread each. In asyncio ``await asyncio.to_thread(next, windows, None)`` gives the next window,
        and None at the end; ``export/python/README.md`` has it whole, with how a stream is left.

        Args:
            source: The number of a camera (as text too), a URL (RTSP, HTTP and what else FFmpeg reads), a video file, a
                :class:`i3d_deploy.stream_sources.RawVideo` of a pipe, or an iterable of
                :class:`i3d_deploy.stream_sources.TimedFrame`. It is read in another thread.
            window_seconds: Duration of a window, to the nearest frame; default: what a clip of the card spans.
            every_seconds: From the beginning of a window to that of the next one; default: one after the other.
            clips: Clips of a window.
            crops: Crops of a clip: 1 or 3.
            batch: As for :meth:`predict`.
            frames_per_second: Rate that frames are counted at, for a card without one; default: the source's.
            drop: Whether a window is left out when a newer one is complete before it is computed, so that predictions
                do not fall behind; and a file is read at its own pace. False: every window is predicted, and a file is
                read as fast as that goes.
            min_decoded_share: As for :meth:`predict`; where a file has less, the error comes after its last window.
            reconnects: Attempts in a row to connect again to a camera or URL, with growing delays.
            on_notice: Told in a line what happens to the stream, such as a lost connection; in the thread that reads.

        Returns:
            A prediction with the time of its window, its lag and what was dropped, for each window. When the iterator
            is closed, the thread that reads has ended; closing waits for the frame that is being read.

        Raises:
            VideoError: The source cannot be opened, is lost for good, or ends before a window is full.
            InputError: An argument is out of range, the source has no rate, or this is a network of optical flow.
            ArtifactError: The network's answer is not finite.
        """
        self._check(batch)
        settings = StreamSettings(
            window_seconds=window_seconds,
            every_seconds=every_seconds,
            clips=clips,
            crops=crops,
            frames_per_second=frames_per_second,
            drop=drop,
            min_decoded_share=min_decoded_share,
            reconnects=reconnects,
            on_notice=on_notice,
        )
        settings.check(self.card)
        found = stream_sources.resolved(source)

        def predict(prepared: Views) -> Prediction:
            return self._prediction(self.logits(prepared, batch=batch), prepared)

        return streams.predictions(found, self.card, settings, predict=predict)

    def _cutting(self, *, clips: int | None, crops: int | None, min_decoded_share: float) -> Cutting:
        return Cutting(
            sampling=self.card.sampling,
            spatial=self.card.spatial,
            flow=self.flow,
            clips=clips,
            crops=crops,
            min_decoded_share=min_decoded_share,
        )

    def _predict(
        self, opened: Reading, *, batch: int | None, on_views: Callable[[int, int], None] | None
    ) -> Prediction:
        logits = self.logits(opened, batch=batch, on_views=on_views)
        return self._prediction(logits, opened.views())

    def _prediction(self, logits: NDArray[np.float32], prepared: Views) -> Prediction:
        if not np.isfinite(logits).all():
            raise ArtifactError(
                f"{np.count_nonzero(~np.isfinite(logits))} logits are not finite: the weights are damaged, or too "
                f"large for {self.info.precision}; export in bf16 or fp32"
            )
        return Prediction(
            labels=self.card.labels,
            logits=logits,
            probabilities=average_views(logits, over=self.card.averaging),
            frames=prepared.num_frames,
            warnings=prepared.warnings,
        )

    def logits(
        self,
        prepared: Views | Reading,
        *,
        batch: int | None = None,
        on_views: Callable[[int, int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Run the engine over the views of a video, batch by batch, so that memory does not grow with their number.

        Args:
            prepared: From :func:`i3d_deploy.views.prepare`, or a video that is still being read.
            batch: Views per run; default: what suits the device.
            on_views: Called with (views done, views in all) after each run; it starts over where the container's count
                of frames proves wrong.

        Returns:
            (V, K) float32 in the order of the views.

        Raises:
            VideoError: No usable frame in what is being read.
            InputError: The crops do not fit its frames.
        """
        rows = np.empty((0, self.card.network.num_classes), np.float32)
        attempt, done = 0, 0
        for part, logits in self._runner.infer_parts(prepared.parts(batch or self._runner.preferred_batch)):
            if part.attempt != attempt:
                attempt, done = part.attempt, 0
                rows = np.empty((len(part.views), self.card.network.num_classes), np.float32)
            rows[part.numbers] = logits
            done += len(part.numbers)
            if on_views is not None:
                on_views(done, len(part.views))
        return rows

    def features(
        self,
        source: video.Source,
        *,
        window: int = 16,
        stride: int = 16,
        layer: Layer = "pool",
        crops: int = 1,
        last: Last = "repeat",
        frames_per_second: Rate | None = None,
        crop_size: int | None = None,
        flow: Recognizer | None = None,
        batch: int | None = None,
        min_decoded_share: float = video.MIN_DECODED_SHARE,
        on_windows: Callable[[int], None] | None = None,
    ) -> Features:
        """Compute a vector for each window of a video, of any length.

        Args:
            source: As for :meth:`predict`. Memory does not grow with its length, but for the features themselves.
            window: Frames a window.
            stride: Frames from the first one of a window to that of the next.
            layer: "pool", the vector that is classified, or "mixed_5c", the mean over the last feature maps.
            crops: 1, the center; or 10: the corners and the center, and the same of the mirrored frame.
            last: What becomes of frames after the last full window: "repeat", "loop", "shift" or "drop".
            frames_per_second: Rate that the frames are counted at, or "source" for all of them; default: the card's.
            crop_size: Side of a crop in pixels; default: the card's.
            flow: A network of optical flow: its features follow those of this network, which is one of RGB frames.
            batch: Crops of windows per run of a network; default: what suits the device. Only rounding depends on it.
            min_decoded_share: As for :meth:`predict`.
            on_windows: Called with the number of windows that are done.

        Raises:
            VideoError: No usable frame, or too few for a window; the message says why.
            InputError: An argument is out of range, the networks do not go together, or this is an exported engine.
            ArtifactError: A network's answer is not finite.
        """
        self._check(batch)
        settings = Settings(
            window=window,
            stride=stride,
            layer=layer,
            crops=crops,
            last=last,
            frames_per_second=frames_per_second,
            crop_size=crop_size,
        )
        return features.extract(
            source,
            [*self._runner.streams, *(flow._runner.streams if flow is not None else ())],
            settings,
            batch=batch,
            min_decoded_share=min_decoded_share,
            flow_cache=self._flow_cache if flow is None or self._flow_cache else flow._flow_cache,
            on_windows=on_windows,
        )

    def explain(
        self,
        source: video.Source,
        label: str | int | None = None,
        *,
        clips: int | None = None,
        crops: int | None = None,
        batch: int | None = None,
        min_decoded_share: float = video.MIN_DECODED_SHARE,
        on_views: Callable[[int, int], None] | None = None,
    ) -> Explanation:
        """Recognise the action in a video, and find what in it speaks for a class; the network runs once.

        Args:
            source: As for :meth:`predict`.
            label: A class, by name or number; default: the most probable one.
            clips: As for :meth:`predict`.
            crops: As for :meth:`predict`.
            batch: As for :meth:`predict`.
            min_decoded_share: As for :meth:`predict`.
            on_views: As for :meth:`predict`.

        Raises:
            VideoError: No usable frame; the message says why.
            InputError: There is no such class, an argument is out of range, or this is an exported engine.
            ArtifactError: The network's answer is not finite.
        """
        self._check(batch)
        evidence.head_of(self._runner)  # of a checkpoint only: say so before the video is read
        index = None if label is None else self._number(label)
        prepared = self._cutting(clips=clips, crops=crops, min_decoded_share=min_decoded_share).cut(source)
        found = evidence.gather(self._runner, prepared, batch=batch, on_views=on_views)
        prediction = self._prediction(found.logits, prepared)
        inexact = (
            "the network averages the probabilities of several places: evidence adds up to the mean of their logits, "
            "not to the logit of their mean probability"
        )
        return Explanation(
            prediction=prediction,
            index=prediction.top_indices(1)[0] if index is None else index,
            evidence=found,
            averaging=self.card.averaging,
            notes=() if found.is_exact else (inexact,),
        )

    def _number(self, label: str | int) -> int:
        """The number of a class."""
        labels = self.card.labels
        if label in labels:
            return labels.index(str(label))
        if str(label).isdecimal() and int(label) < len(labels):
            return int(label)
        near = difflib.get_close_matches(str(label), labels, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise InputError(f"no class {label!r}: give a label of the card or a number from 0 to {len(labels) - 1}{hint}")

    def infer(self, batch: Resized) -> NDArray[np.float32]:
        """Run the engine once.

        Args:
            batch: (N, T, H, W, C) views.

        Returns:
            (N, K) float32 logits.
        """
        return self._runner.infer(batch)

    def close(self) -> None:
        """Free the engine and its memory; further calls fail, but a second close does nothing.

        In a forked process this does nothing: what there is to free is the parent's.
        """
        self._runner.close()

    def __reduce__(self) -> NoReturn:
        raise InputError("a recognizer cannot be pickled: give the other process the path, and load it there")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _flow_by(card: Card) -> str | None:
    """Who computes the flow that a network is shown; None where it is shown none, or nobody here does."""
    try:
        return None if card.flow_method is None else flow.implementation(card.flow_method)
    except MissingExtraError:  # told when flow is wanted: a folder of flow images needs nobody
        return None


def _meaning(card: Card, *, flow_by: str | None) -> Iterator[str]:
    if flow_by is not None and card.flow_implementation not in (None, flow_by):
        yield f"flow is computed by {flow_by} here; the card's was computed by {card.flow_implementation}"
    if card.provenance.origin.startswith("random weights"):
        yield "the weights are random: the time that this takes means something, the labels do not"


def _check_many(sources: object) -> None:
    if isinstance(sources, (str, Path)):
        raise InputError(f"sources is one video, {str(sources)!r}: give a list of them")


def load(
    path: str | Path,
    *,
    flow: str | Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    precision: Precision | None = None,
    flow_cache: str | Path | None = None,
) -> Recognizer:
    """Load a network from any file that i3d-deploy knows.

    Args:
        path: ``.onnx``, ``.xml`` (OpenVINO), ``.engine`` (TensorRT), ``.safetensors``, the ``.json`` of two streams, or
            a checkpoint of mmaction2, pytorchvideo, SlowFast, pytorch-i3d or kinetics-i3d.
        flow: The same of the optical flow stream, where ``path`` is the RGB stream of a two-stream network: their
            logits are added up.
        device: "auto", "cpu", "cuda" or "cuda:1".
        threads: CPU threads; default: the backend's choice.
        precision: What a checkpoint is computed in: "fp32", as it was trained, or on a GPU "fp16" or "bf16", which is
            made to be fast, or "fp8", which has less to move and multiply and is further off: measure its accuracy.
            Default: on a GPU fp16 where that keeps the logits within the limit that exports are held to, else bf16,
            else fp32; on a CPU fp32. An engine has the precision that it was exported in.
        flow_cache: Folder where optical flow is kept, made if need be; for networks that take flow.

    Raises:
        ArtifactError: The file is missing, damaged or of an unknown kind.
        CheckpointError: A checkpoint cannot be read, or fits no network.
        CardError: It carries no card, or a malformed or newer one.
        DeviceError: The machine has not the device, or the precision's logits are not within its limit.
        InputError: A precision is given for an engine, or less than fp32 for a CPU.
        MissingExtraError: The backend is not installed.
    """
    if flow is None:
        runner = open_runner(Path(path), device=device, threads=threads, precision=precision)
    else:
        runner = open_two_streams(Path(path), Path(flow), device=device, threads=threads, precision=precision)
    return Recognizer(runner, flow_cache=None if flow_cache is None else Path(flow_cache))
