"""libi3d through ctypes: what a C program sees of it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

OK, INPUT, VIDEO, CARD, ARTIFACT, BACKEND, DEVICE, MEMORY, INTERNAL = range(9)
RGB, BGR = range(2)


class Options(ctypes.Structure):
    """i3d_options."""

    _fields_ = (("size", ctypes.c_uint32), ("threads", ctypes.c_int32), ("device", ctypes.c_char_p))


class Description(ctypes.Structure):
    """i3d_description."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("num_classes", ctypes.c_uint32),
        ("clip_len", ctypes.c_uint32),
        ("frame_interval", ctypes.c_uint32),
        ("num_clips", ctypes.c_uint32),
        ("num_crops", ctypes.c_uint32),
        ("crop_size", ctypes.c_uint32),
        ("takes_whole_videos", ctypes.c_uint32),
        ("has_float_pixels", ctypes.c_uint32),
        ("frames_per_second", ctypes.c_double),
        ("network", ctypes.c_char_p),
        ("label_set", ctypes.c_char_p),
        ("precision", ctypes.c_char_p),
        ("backend", ctypes.c_char_p),
        ("device", ctypes.c_char_p),
        ("card", ctypes.c_char_p),
    )


class Image(ctypes.Structure):
    """i3d_image."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("color", ctypes.c_int32),
        ("data", ctypes.c_void_p),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("row_stride", ctypes.c_int64),
    )


class Frames(ctypes.Structure):
    """i3d_frames."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("color", ctypes.c_int32),
        ("data", ctypes.c_void_p),
        ("num_frames", ctypes.c_int64),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("row_stride", ctypes.c_int64),
        ("frame_stride", ctypes.c_int64),
        ("frames_per_second", ctypes.c_double),
    )


READ_FRAME = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64, ctypes.POINTER(Image))


class Reader(ctypes.Structure):
    """i3d_reader."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("reserved", ctypes.c_int32),
        ("read", READ_FRAME),
        ("user", ctypes.c_void_p),
        ("num_frames", ctypes.c_int64),
        ("frames_per_second", ctypes.c_double),
    )


class RunOptions(ctypes.Structure):
    """i3d_run_options."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("clips", ctypes.c_int32),
        ("crops", ctypes.c_int32),
        ("batch", ctypes.c_int32),
    )


class StreamOptions(ctypes.Structure):
    """i3d_stream_options."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("clips", ctypes.c_int32),
        ("crops", ctypes.c_int32),
        ("batch", ctypes.c_int32),
        ("window_seconds", ctypes.c_double),
        ("every_seconds", ctypes.c_double),
        ("frames_per_second", ctypes.c_double),
    )


class Window(ctypes.Structure):
    """i3d_window."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("has_ended", ctypes.c_int32),
        ("start_seconds", ctypes.c_double),
        ("end_seconds", ctypes.c_double),
        ("lag_seconds", ctypes.c_double),
        ("dropped_windows", ctypes.c_int64),
        ("dropped_frames", ctypes.c_int64),
    )


Sized = TypeVar("Sized", Options, Description, Image, Frames, Reader, RunOptions, StreamOptions, Window)


def sized(kind: type[Sized]) -> Sized:
    """What the i3d_..._init() of the header make."""
    made = kind()
    made.size = ctypes.sizeof(kind)
    return made


def image_of(frame: NDArray[np.uint8], *, color: int = RGB) -> Image:
    """A frame in memory, which must outlive it."""
    image = sized(Image)
    image.color, image.data, image.row_stride = color, frame.ctypes.data, frame.strides[0]
    image.height, image.width = frame.shape[:2]
    return image


class NativeError(Exception):
    """A status that is not I3D_OK, with its line of text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class NativePrediction:
    """What an i3d_prediction holds."""

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float32]
    frames: int
    warnings: tuple[str, ...]
    top: list[int]


class Library:
    """The functions of libi3d."""

    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        for name in ("i3d_last_error", "i3d_version", "i3d_label", "i3d_warning"):
            getattr(self.c, name).restype = ctypes.c_char_p
        for name in ("i3d_probabilities", "i3d_logits"):
            getattr(self.c, name).restype = ctypes.POINTER(ctypes.c_float)
        self.c.i3d_num_frames.restype = ctypes.c_int64

    def check(self, status: int) -> None:
        """Raise what went wrong."""
        if status != OK:
            raise NativeError(status, self.c.i3d_last_error().decode())

    @contextmanager
    def recognizer(self, path: Path, *, threads: int = 1, device: str | None = None) -> Iterator[Handle]:
        """Load an engine and free it."""
        options = sized(Options)
        options.threads = threads
        options.device = None if device is None else device.encode()
        handle = ctypes.c_void_p()
        self.check(self.c.i3d_create(str(path).encode(), ctypes.byref(options), ctypes.byref(handle)))
        try:
            yield Handle(self, handle)
        finally:
            self.c.i3d_destroy(handle)


class Handle:
    """A recognizer."""

    def __init__(self, library: Library, handle: ctypes.c_void_p) -> None:
        self._library, self._c, self._handle = library, library.c, handle

    def describe(self, description: Description | None = None) -> Description:
        """What i3d_describe tells, in a structure of the caller's."""
        description = description or sized(Description)
        self._library.check(self._c.i3d_describe(self._handle, ctypes.byref(description)))
        return description

    def labels(self) -> list[str]:
        """All names, in order."""
        count = self.describe().num_classes
        assert self._c.i3d_label(self._handle, ctypes.c_uint32(count)) is None
        return [self._c.i3d_label(self._handle, ctypes.c_uint32(index)).decode() for index in range(count)]

    def indices(self, num_frames: int, rate: float | None = None, *, clips: int = 0) -> NDArray[np.int64]:
        """(clips, clip_len), asked for twice: the sizes, then the numbers."""
        number, length = ctypes.c_uint64(), ctypes.c_uint64()
        options = self._run_options(clips=clips)

        def ask(out: Any, capacity: int) -> None:
            self._library.check(
                self._c.i3d_frame_indices(
                    self._handle,
                    ctypes.c_int64(num_frames),
                    ctypes.c_double(rate or 0),
                    ctypes.byref(options),
                    out,
                    ctypes.c_uint64(capacity),
                    ctypes.byref(number),
                    ctypes.byref(length),
                )
            )

        ask(None, 0)
        found = np.empty((number.value, length.value), np.int64)
        ask(found.ctypes.data_as(ctypes.c_void_p), found.size)
        return found

    def views(self, frames: Frames, *, clips: int = 0, crops: int = 0) -> NDArray[Any]:
        """(V, T, H, W, 3)."""
        description = self.describe()
        options, size = self._run_options(clips=clips, crops=crops), ctypes.c_uint64()

        def ask(out: Any, capacity: int) -> None:
            self._library.check(
                self._c.i3d_views(
                    self._handle,
                    ctypes.byref(frames),
                    ctypes.byref(options),
                    out,
                    ctypes.c_uint64(capacity),
                    ctypes.byref(size),
                )
            )

        ask(None, 0)
        found = np.empty(size.value, np.uint8)
        ask(found.ctypes.data_as(ctypes.c_void_p), found.size)
        dtype = np.float32 if description.has_float_pixels else np.uint8
        length = -1 if description.takes_whole_videos else description.clip_len
        side = description.crop_size
        views = found.view(dtype)
        return views.reshape((1, length, side, side, 3) if length < 0 else (-1, length, side, side, 3))

    def run(self, frames: Frames, *, clips: int = 0, crops: int = 0, batch: int = 0) -> NativePrediction:
        """Predict frames in memory."""
        options, prediction = self._run_options(clips=clips, crops=crops, batch=batch), ctypes.c_void_p()
        return self.taken(
            self._c.i3d_run(self._handle, ctypes.byref(frames), ctypes.byref(options), ctypes.byref(prediction)),
            prediction,
        )

    def run_file(self, path: Path) -> NativePrediction:
        """Predict a video file."""
        options, prediction = self._run_options(), ctypes.c_void_p()
        name = str(path).encode()
        return self.taken(
            self._c.i3d_run_file(self._handle, name, ctypes.byref(options), ctypes.byref(prediction)), prediction
        )

    def run_reader(
        self, read: Callable[[int], NDArray[np.uint8] | int], num_frames: int, rate: float = 0, *, clips: int = 0
    ) -> NativePrediction:
        """Predict frames that a function gives: BGR, or a code in their place."""
        kept: list[NDArray[np.uint8]] = []

        def give(_user: int, index: int, image: Any) -> int:
            found = read(index)
            if isinstance(found, int):
                return found
            kept[:] = [found]
            image[0] = image_of(found, color=BGR)
            return 0

        reader, options, prediction = sized(Reader), self._run_options(clips=clips), ctypes.c_void_p()
        reader.read, reader.num_frames, reader.frames_per_second = READ_FRAME(give), num_frames, rate
        return self.taken(
            self._c.i3d_run_reader(self._handle, ctypes.byref(reader), ctypes.byref(options), ctypes.byref(prediction)),
            prediction,
        )

    @contextmanager
    def stream(self, **options: float) -> Iterator[NativeStream]:
        """Begin a stream and free it."""
        chosen, stream = sized(StreamOptions), ctypes.c_void_p()
        for name, value in options.items():
            setattr(chosen, name, value)
        self._library.check(self._c.i3d_stream_create(self._handle, ctypes.byref(chosen), ctypes.byref(stream)))
        try:
            yield NativeStream(self._library, self, stream)
        finally:
            self._c.i3d_stream_destroy(stream)

    def _run_options(self, *, clips: int = 0, crops: int = 0, batch: int = 0) -> RunOptions:
        options = sized(RunOptions)
        options.clips, options.crops, options.batch = clips, crops, batch
        return options

    def taken(self, status: int, prediction: ctypes.c_void_p) -> NativePrediction:
        """Read a prediction and free it."""
        self._library.check(status)
        c = self._c
        views, classes = c.i3d_num_views(prediction), c.i3d_num_classes(prediction)
        logits = np.ctypeslib.as_array(c.i3d_logits(prediction), (views, classes)).copy()
        probabilities = np.ctypeslib.as_array(c.i3d_probabilities(prediction), (classes,)).copy()
        warnings: list[str] = []
        while (line := c.i3d_warning(prediction, ctypes.c_uint32(len(warnings)))) is not None:
            warnings.append(line.decode())
        top = np.empty(classes + 3, np.uint32)
        count = c.i3d_top(prediction, ctypes.c_uint32(len(top)), top.ctypes.data_as(ctypes.c_void_p))
        found = NativePrediction(
            logits=logits,
            probabilities=probabilities,
            frames=c.i3d_num_frames(prediction),
            warnings=tuple(warnings),
            top=top[:count].tolist(),
        )
        c.i3d_prediction_destroy(prediction)
        return found


class NativeStream:
    """A stream of a recognizer."""

    def __init__(self, library: Library, handle: Handle, stream: ctypes.c_void_p) -> None:
        self._library, self._c, self._handle, self._stream = library, library.c, handle, stream

    def push(self, frame: NDArray[np.uint8], seconds: float) -> None:
        """Give an RGB frame."""
        image = image_of(frame)
        self._library.check(self._c.i3d_stream_push(self._stream, ctypes.byref(image), ctypes.c_double(seconds)))

    def restart(self) -> None:
        """Begin anew."""
        self._library.check(self._c.i3d_stream_restart(self._stream))

    def cancel(self) -> None:
        """End it at once."""
        self._library.check(self._c.i3d_stream_cancel(self._stream))

    def end(self, frame_seconds: float = 0) -> None:
        """No frame follows."""
        self._library.check(self._c.i3d_stream_end(self._stream, ctypes.c_double(frame_seconds)))

    def next(self, wait_seconds: float = -1) -> tuple[Window, NativePrediction | None]:
        """The newest window, and what is said of it."""
        window, prediction = sized(Window), ctypes.c_void_p()
        self._library.check(
            self._c.i3d_stream_next(
                self._stream, ctypes.c_double(wait_seconds), ctypes.byref(window), ctypes.byref(prediction)
            )
        )
        return window, None if prediction.value is None else self._handle.taken(OK, prediction)


def frames_of(array: NDArray[np.uint8], *, color: int = RGB, rate: float = 0) -> Frames:
    """Frames in memory, strides as NumPy has them; the array must outlive them."""
    frames = sized(Frames)
    frames.color, frames.data = color, array.ctypes.data
    frames.num_frames, frames.height, frames.width = array.shape[:3]
    frames.frame_stride, frames.row_stride = array.strides[:2]
    frames.frames_per_second = rate
    return frames
