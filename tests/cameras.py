"""Cameras on this machine: what a web server and an RTSP server send of pictures."""

from __future__ import annotations

import contextlib
import http.server
import re
import socketserver
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

CLOCK_HZ = 90_000
"""RTP's clock of video."""

FIRST_TICK = 1_000_000
"""Of the clock; any number but 0, which FFmpeg takes for none."""


def gray(level: int, *, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """A frame of one gray."""
    return np.full((height, width, 3), level, np.uint8)


def jpeg(frame: NDArray[np.uint8]) -> bytes:
    is_written, data = cv2.imencode(".jpg", frame[..., ::-1])
    assert is_written
    return data.tobytes()


class WebCamera:
    """Sends JPEG pictures one after the other without times, until it is told to hang up.

    Attributes:
        address: Where it is.
        hang_up: Set, the connections that are open are closed.
        is_gone: Set, it answers with an error.
        connections: Connections so far.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.hang_up = threading.Event()
        self.is_gone = threading.Event()
        self.connections = 0


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Answer in a thread."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def web_camera(*, interval_seconds: float = 0.005, silent_after: int | None = None) -> Iterator[WebCamera]:
    """A web camera, gone afterwards.

    Args:
        interval_seconds: Between pictures.
        silent_after: Pictures after which no more come, and the connection stays.
    """
    is_closing = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if camera.is_gone.is_set():
                self.send_error(503)
                return
            camera.connections += 1
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
            self.end_headers()
            number = 0
            with contextlib.suppress(OSError):
                while not camera.hang_up.wait(None if number == silent_after else interval_seconds):
                    picture = jpeg(gray(number % 256))
                    head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                    self.wfile.write(head.encode() + picture + b"\r\n")
                    number += 1
            if not is_closing.is_set():
                camera.hang_up.clear()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        camera = WebCamera(f"http://127.0.0.1:{server.server_port}/")
        try:
            with serving(server):
                yield camera
        finally:
            is_closing.set()
            camera.hang_up.set()


@contextlib.contextmanager
def web_broadcast(path: Path) -> Iterator[str]:
    """A web server that sends a file without saying how long it is; gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(path.read_bytes())

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, serving(server):
        yield f"http://127.0.0.1:{server.server_port}/"


@contextlib.contextmanager
def rtsp_camera(frames: NDArray[np.uint8], seconds: list[float]) -> Iterator[str]:
    """An RTSP server that sends frames at once, whatever their times, and hangs up.

    Source: RFC 2326 with interleaved data (10.12), RFC 3550 (RTP), RFC 2435 (JPEG in RTP).

    Args:
        frames: (T, H, W, 3) uint8 RGB; sides are multiples of 16.
        seconds: (T,) when each is shown.

    Yields:
        Its address.
    """
    packets = [
        packet
        for number, (frame, shown) in enumerate(zip(frames, seconds, strict=True))
        for packet in _rtp(frame, shown, number)
    ]

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                while (request := self.rfile.readline().decode().split()) and self._answer(request[0]):
                    pass

        def _answer(self, method: str) -> bool:
            headers = dict(re.findall(r"(.+?): (.+)\r\n", "".join(self._lines())))
            answers = {
                "OPTIONS": "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n\r\n",
                "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(_SDP)}\r\n\r\n{_SDP}",
                "SETUP": f"Transport: {headers.get('Transport')}\r\nSession: 1\r\n\r\n",
                "PLAY": "Session: 1\r\nRange: npt=0-\r\n\r\n",
            }
            answer = answers.get(method, "\r\n")
            self.wfile.write(f"RTSP/1.0 200 OK\r\nCSeq: {headers['CSeq']}\r\n{answer}".encode())
            if method == "PLAY":
                for packet in packets:
                    self.wfile.write(b"$\0" + struct.pack(">H", len(packet)) + packet)
            return method not in ("PLAY", "TEARDOWN")

        def _lines(self) -> Iterator[str]:
            while (line := self.rfile.readline().decode()).strip():
                yield line

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server, serving(server):
        yield f"rtsp://127.0.0.1:{server.server_address[1]}/camera"


_SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:track1\r\n"


def _rtp(frame: NDArray[np.uint8], seconds: float, number: int) -> Iterator[bytes]:
    """The one packet of a small picture."""
    data = jpeg(frame)
    tables, scan = _parts(data)
    assert len(scan) < 60_000
    version, last_of_jpeg = 0x80, 0x80 | 26
    yield (
        struct.pack(">BBHII", version, last_of_jpeg, number, FIRST_TICK + round(seconds * CLOCK_HZ), 1)
        + struct.pack(">IBBBB", 0, 1, 255, frame.shape[1] // 8, frame.shape[0] // 8)
        + struct.pack(">BBH", 0, 0, len(tables))
        + tables
        + scan
    )


def _parts(data: bytes) -> tuple[bytes, bytes]:
    """The quantisation tables and the scan of a JPEG file."""
    tables, place = b"", 2
    while True:
        marker, size = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        body = data[place + 4 : place + 2 + size]
        place += 2 + size
        while marker == 0xDB and body:
            tables, body = tables + body[1:65], body[65:]
        if marker == 0xDA:
            return tables, data[place:-2]
