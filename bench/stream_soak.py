"""What a stream costs when it goes on for long: memory, lag, and what is dropped.

A web server on this machine sends a generated clip (340x256) over and over as JPEG pictures, as network cameras do, and
breaks the connection now and then. ``i3d-predict --stream`` reads it in a process of its own, whose resident memory is
read every second.

    python bench/stream_soak.py i3d_r50_fp32.onnx --minutes 10 --every 1 --json soak.json
"""

from __future__ import annotations

import contextlib
import json
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import click
import cv2

from i3d_deploy import files, generated
from i3d_deploy.benchmark import meters
from i3d_deploy.commands.options import reports_errors

FRAMES_PER_SECOND = 25
CLIP_FRAMES = 250
PATIENCE_SECONDS = 600
"""How long the first prediction may take, loading included."""
PREDICT = "from i3d_deploy.commands.predict import main; main()"


class Camera(BaseHTTPRequestHandler):
    """Sends the pictures at their rate, and breaks each connection after a while."""

    pictures: ClassVar[list[bytes]] = []
    break_seconds: ClassVar[float] = 0

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
        self.end_headers()
        began = time.monotonic()
        number = 0
        with contextlib.suppress(OSError):  # whoever looked has gone
            while time.monotonic() - began < self.break_seconds:
                picture = self.pictures[number % len(self.pictures)]
                head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                self.wfile.write(head.encode() + picture + b"\r\n")
                number += 1
                time.sleep(max(0.0, began + number / FRAMES_PER_SECOND - time.monotonic()))

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


@dataclass(kw_only=True)
class Soak:
    """What was seen of one run.

    Attributes:
        predictions: The command's lines, without their labels.
        memory: (seconds, resident bytes) of its process, from the first prediction on.
        notices: What it wrote to stderr.
        exit_code: After Ctrl-C.
    """

    predictions: list[dict[str, Any]] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    exit_code: int = 0


@contextlib.contextmanager
def served(*, break_seconds: float) -> Iterator[str]:
    """A web server that sends the clip; gives its address."""
    Camera.pictures = [picture(frame) for frame in generated.frames(num_frames=CLIP_FRAMES)]
    Camera.break_seconds = break_seconds
    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def picture(frame: Any) -> bytes:
    """A frame as JPEG."""
    is_written, data = cv2.imencode(".jpg", frame[..., ::-1])
    assert is_written, "OpenCV writes JPEG"
    return data.tobytes()


def resident_bytes(process: int) -> int:
    """Resident memory of a process now."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{process}/status does not tell the resident memory")


def soak(artifact: Path, address: str, *, every: float, seconds: float) -> Soak:
    """Run the command on the stream for a while from its first prediction on, then press Ctrl-C."""
    options = [
        "--stream",
        address,
        "--every-seconds",
        str(every),
        "--frames-per-second",
        str(FRAMES_PER_SECOND),
        "--json",
    ]
    command = [sys.executable, "-c", PREDICT, str(artifact), *options]
    seen = Soak()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None, "both are pipes"
        has_begun = threading.Event()
        readers = [
            threading.Thread(target=read_predictions, args=(process.stdout, seen, has_begun)),
            threading.Thread(target=lambda: seen.notices.extend(line.rstrip() for line in process.stderr or ())),
        ]
        for reader in readers:
            reader.start()
        if not has_begun.wait(PATIENCE_SECONDS):
            process.kill()
        began = time.monotonic()
        while process.poll() is None and (elapsed := time.monotonic() - began) <= seconds:
            seen.memory.append((elapsed, resident_bytes(process.pid)))
            time.sleep(min(1.0, seconds / 10))
        process.send_signal(signal.SIGINT)
        seen.exit_code = process.wait()
        for reader in readers:
            reader.join()
    return seen


def read_predictions(lines: Any, seen: Soak, has_begun: threading.Event) -> None:
    """Keep the command's lines as they come; it has also begun when there will be none."""
    for line in lines:
        found = json.loads(line)
        found.pop("top", None)
        seen.predictions.append(found)
        has_begun.set()
    has_begun.set()


def lags(seen: Soak) -> list[float]:
    """How late each prediction was."""
    return [found["lag_seconds"] for found in seen.predictions]


def figures(seen: Soak) -> dict[str, Any]:
    """The row of a run: memory of its first and its last minute, each the median."""
    last = seen.memory[-1][0]
    minute = min(60.0, last / 2)
    final = seen.predictions[-1]
    return {
        "seconds": round(last, 1),
        "first_minute_mib": statistics.median(size for at, size in seen.memory if at <= minute) / 2**20,
        "last_minute_mib": statistics.median(size for at, size in seen.memory if at >= last - minute) / 2**20,
        "predictions": len(seen.predictions),
        "median_lag_seconds": statistics.median(lags(seen)),
        "max_lag_seconds": max(lags(seen)),
        "dropped_windows": final["dropped_windows"],
        "dropped_frames": final["dropped_frames"],
        "reconnects": final["reconnects"],
    }


def row(name: str, found: dict[str, Any]) -> str:
    """The line of the table."""
    return (
        f"{name:28} {found['seconds']:7.0f} s  {found['first_minute_mib']:6.0f} {found['last_minute_mib']:6.0f} MiB  "
        f"{found['predictions']:5} predictions  lag {found['median_lag_seconds']:.2f}, at most "
        f"{found['max_lag_seconds']:.2f} s  {found['dropped_windows']} windows ({found['dropped_frames']} frames) "
        f"dropped  {found['reconnects']} reconnects"
    )


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path, exists=True))
@click.option("--minutes", type=float, default=10, show_default=True)
@click.option("--every", type=float, default=1, show_default=True, help="Seconds from a window to the next.")
@click.option("--break-seconds", type=float, default=120, show_default=True, help="How long a connection lasts.")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
@reports_errors
def main(artifact: Path, minutes: float, every: float, break_seconds: float, json_path: Path | None) -> None:
    """Predict a stream with ARTIFACT for a while and print what it took."""
    # What is started in the background may ignore Ctrl-C, and so would the process that is to be ended with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with served(break_seconds=break_seconds) as address:
        seen = soak(artifact, address, every=every, seconds=minutes * 60)
    if not seen.predictions or seen.exit_code != 130:
        raise click.ClickException("\n".join(["the stream did not last until Ctrl-C:", *seen.notices[-3:]]))
    found = figures(seen)
    click.echo(row(artifact.name, found))
    if json_path is None:
        return
    protocol = {
        "frames_per_second": FRAMES_PER_SECOND,
        "every_seconds": every,
        "break_seconds": break_seconds,
        "minutes": minutes,
    }
    record = {
        "machine": meters.machine().model_dump(mode="json"),
        "opencv": version("opencv-python"),
        "protocol": protocol,
        "artifact": artifact.name,
        "result": found,
        "notices": [notice.replace(address, "http://camera/") for notice in seen.notices],
        "lag_seconds": [round(lag, 3) for lag in lags(seen)],
        "memory_mib": [[round(at), round(size / 2**20)] for at, size in seen.memory[::10]],
    }
    with files.replacing(json_path) as (target,):
        target.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
