"""From video files to probabilities: decoding on the cores, computing on the device."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from gpu_subjects.clock import wait_for
from gpu_subjects.setting import R50, Setting
from gpu_subjects.sheet import NotHereError, Sheet
from i3d_deploy import Recognizer, files, generated, video
from i3d_deploy.errors import VideoError

COMPARED_FRAMES = 64
MAX_CLIPS = 64


def run(setting: Setting, sheet: Sheet) -> None:
    """Threads that share one recognizer; then the GPU's own decoder, where there is one."""
    precision, views = setting.precisions[0], setting.sizes.views
    with _clips(setting) as paths:
        recognizer = Recognizer(setting.runner(R50, precision))
        recognizer.predict(paths[0])  # what is found out once is found out here
        computing = setting.plan(R50, precision, views).seconds
        sheet.protocol(
            precision=precision,
            clips=len(paths),
            clip_source="generated, MPEG-4 part 2" if setting.videos is None else "given",
            ms_to_compute_a_video=computing * 1e3,
        )
        table = sheet.table("videos from files to probabilities, decoded on the CPU")
        for threads in _thread_counts(setting):
            if setting.seconds_left < 0:
                sheet.note(f"out of time before {threads} threads")
                continue
            # Not all in the first turn: what is decoded ahead at the start is as long as the end.
            work = [path for path in paths for _ in range(max(1, 2 * threads // len(paths)))]
            seconds, failures = _predict_all(recognizer, work, threads)
            done = len(work) - failures
            table.row(
                threads=threads,
                videos=done,
                videos_per_s=done / seconds,
                utilisation=computing * done / seconds,
                unreadable=failures,
            )
        sheet.note(
            "utilisation: share of the time that computing the videos takes on the device, by the recorded network"
        )
        _decode_on_gpu(setting, sheet, paths)


def _thread_counts(setting: Setting) -> list[int]:
    counts = {1, setting.threads // 2, setting.threads, 2 * setting.threads}
    return [1, 2] if setting.is_small else sorted(counts - {0})


def _predict_all(recognizer: Recognizer, paths: list[Path], threads: int) -> tuple[float, int]:
    """Seconds, and videos that could not be read."""

    def predict(path: Path) -> int:
        try:
            recognizer.predict(path)
        except VideoError:
            return 1
        return 0

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        failures = sum(pool.map(predict, paths))
    return time.perf_counter() - began, failures


@contextmanager
def _clips(setting: Setting) -> Iterator[list[Path]]:
    """The given folder's videos, or generated ones."""
    if setting.videos is not None:
        found = sorted(path for path in setting.videos.iterdir() if _is_readable(path))
        if not found:
            raise NotHereError(f"{setting.videos} has no video that can be read")
        yield found[:MAX_CLIPS]
        return
    height, width = setting.sizes.frame
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number:03}.mp4" for number in range(setting.sizes.clips)]
        generated.write_clip(paths[0], num_frames=setting.sizes.frames, height=height, width=width)
        for path in paths[1:]:
            with files.replacing(path) as (target,):
                target.write_bytes(paths[0].read_bytes())
        yield paths


def _is_readable(path: Path) -> bool:
    try:
        video.check(path)
    except VideoError:
        return False
    return True


def _decode_on_gpu(setting: Setting, sheet: Sheet, paths: list[Path]) -> None:
    if setting.device.type != "cuda":
        sheet.note("decoding on the GPU: needs a GPU")
        return
    table = sheet.table("decoding by PyNvVideoCodec beside OpenCV")
    for path in paths[:4]:
        try:
            seconds, count, frames = _by_gpu(path)
        except Exception as error:  # the package, the driver or the chip has not what it takes
            sheet.note(
                f"decoding on the GPU: {path.suffix}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            )
            continue
        began = time.perf_counter()
        expected, total = _by_opencv(path)
        opencv_seconds = time.perf_counter() - began
        fit = frames.shape == expected.shape
        table.row(
            video=path.name,
            frames=count,
            gpu_frames_per_s=count / seconds,
            opencv_frames_per_s=total / opencv_seconds,
            compared=len(frames),
            largest_difference=int(np.abs(frames.astype(np.int16) - expected).max()) if fit else None,
            mean_difference=float(np.abs(frames.astype(np.int16) - expected).mean()) if fit else None,
            shapes=f"{frames.shape} {expected.shape}",
        )


def _by_gpu(path: Path) -> tuple[float, int, NDArray[np.uint8]]:
    """Seconds to decode all, how many there are, and the first of them (N, H, W, 3)."""
    import PyNvVideoCodec as nvc  # noqa: N813

    def decoder() -> Any:
        return nvc.SimpleDecoder(str(path), gpu_id=0, use_device_memory=True, output_color_type=nvc.OutputColorType.RGB)

    opened = decoder()
    count = len(opened)
    first = [torch.from_dlpack(opened[number]).cpu().numpy() for number in range(min(COMPARED_FRAMES, count))]
    timed = decoder()
    wait_for(torch.device("cuda"))
    began = time.perf_counter()
    for start in range(0, count, COMPARED_FRAMES):
        timed.get_batch_frames(min(COMPARED_FRAMES, count - start))
    wait_for(torch.device("cuda"))
    return time.perf_counter() - began, count, np.stack(first)


def _by_opencv(path: Path) -> tuple[NDArray[np.uint8], int]:
    """The first frames (N, H, W, 3) RGB, and how many there are."""
    capture = cv2.VideoCapture(str(path))
    frames, count = [], 0
    while True:
        is_there, frame = capture.read()
        if not is_there:
            break
        count += 1
        if len(frames) < COMPARED_FRAMES:
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    capture.release()
    return np.asarray(np.stack(frames), np.uint8), count
