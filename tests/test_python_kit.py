"""export/python: a service on a real port, and its page in a real browser."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import uvicorn
from click.testing import CliRunner

import i3d_deploy as i3d
from i3d_deploy import generated
from i3d_deploy.errors import InputError
from i3d_deploy.predictions import softmax
from i3d_deploy.stream_sources import TimedFrame
from tests.browser import HAS_CHROMIUM, Page

KIT = Path(__file__).parents[1] / "export" / "python"
README = (KIT / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^    ((?:python|curl|I3D_ARTIFACT).*)$", README, re.MULTILINE)
PATIENCE_SECONDS = 60
MAX_BYTES = 400_000


def imported(name: str) -> Any:
    """A module of the kit, which is a folder of scripts."""
    spec = importlib.util.spec_from_file_location(f"kit_{name}", KIT / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where annotations are looked up
    spec.loader.exec_module(module)
    return module


app = imported("app")


@dataclass(frozen=True)
class Service:
    """A running service."""

    app: Any
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            return answer.status, json.loads(text) if path != "/" and method != "HEAD" else text, answer.headers
        finally:
            connection.close()

    def predict(self, clip: bytes, name: str = "clip.mp4", **asked: str) -> tuple[int, Any]:
        parameters = urllib.parse.urlencode({"name": name, **asked})
        status, found, _ = self.ask("POST", f"/predict?{parameters}", clip)
        return status, found


class Server(uvicorn.Server):
    """Tells when it answers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.answers = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.answers.set()


@contextmanager
def running(made: Any, lifespan: Literal["auto", "off"] = "auto") -> Iterator[Service]:
    """Run a service; yields once it answers."""
    server = Server(uvicorn.Config(made, port=0, log_level="warning", lifespan=lifespan))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert server.answers.wait(PATIENCE_SECONDS)
        yield Service(made, server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)


@pytest.fixture
def service(tiny_exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service of the tiny network; its temporary files are in ``uploads``."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "uploads"))
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "")  # so that it is put back
    monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS")
    (tmp_path / "uploads").mkdir()
    made = app.create_app(tiny_exports / "tiny.onnx", max_megabytes=MAX_BYTES / 1e6)
    with running(made) as service:
        yield service
    assert not list((tmp_path / "uploads").iterdir())
    with pytest.raises(InputError, match="the runner is closed"):
        made.state.recognizer.predict("clip.mp4")


def by_frame(report: Any, label: str) -> list[float | None]:
    """The probability of a label at each frame; None where no window lies."""
    found: list[float | None] = [None] * report["frames"]
    place = report["labels"].index(label)
    for moment in report["moments"]:
        if moment["probabilities"] is not None:
            span = slice(moment["start_frame"], moment["end_frame"])
            found[span] = [moment["probabilities"][place]] * (span.stop - span.start)
    return found


def test_labels_over_time_are_means_of_windows(service: Service, tiny_exports: Path, clip: Path) -> None:
    status, report = service.predict(clip.read_bytes())
    assert (status, report["name"], report["frames"], report["frames_per_second"]) == (200, "clip.mp4", 40, 25.0)
    # A clip of 8 frames taken every 2 spans 15, so that 6 windows overlap by half: 2 * 40 / 15 = 5.3.
    with i3d.load(tiny_exports / "tiny.onnx") as recognizer:
        prediction = recognizer.predict(clip, clips=6, crops=1)
        windows = recognizer.card.sampling.frame_indices(40, num_clips=6)
    probabilities = softmax(prediction.logits)
    assert [(top["label"], top["probability"]) for top in report["top"]] == prediction.top(5)
    assert len(report["labels"]) == 5
    for label in report["labels"]:
        for frame, found in enumerate(by_frame(report, label)):
            seen = [
                row for row, window in zip(probabilities, windows, strict=True) if min(window) <= frame <= max(window)
            ]
            assert (found is None) == (not seen)
            if seen:
                expected = np.mean([row[prediction.labels.index(label)] for row in seen])
                assert found == pytest.approx(expected, abs=1e-6)


def test_labels_are_in_the_order_of_their_highest_moments(service: Service, clip: Path) -> None:
    _, report = service.predict(clip.read_bytes())
    curves = [by_frame(report, label) for label in report["labels"]]
    highest = [max((found, -frame) for frame, found in enumerate(curve) if found is not None) for curve in curves]
    assert [-frame for _, frame in highest] == sorted(-frame for _, frame in highest)


def test_a_clip_shorter_than_a_window_is_one_window(service: Service, tmp_path: Path) -> None:
    generated.write_clip(tmp_path / "short.mp4", num_frames=4, height=48, width=64)
    status, report = service.predict((tmp_path / "short.mp4").read_bytes(), name="short.mp4")
    assert status == 200
    # Frames 0, 2 and these again.
    assert [(moment["start_frame"], moment["end_frame"]) for moment in report["moments"]] == [(0, 3)]
    assert report["warnings"] == ["4 frames are fewer than the 15 that a clip spans: they are repeated"]


PLAYLIST = "ffconcat version 1.0\nfile {path}\n"


@pytest.mark.parametrize("top", [1, 3, 99])
def test_as_many_labels_are_told_as_asked(service: Service, clip: Path, top: int) -> None:
    _, every = service.predict(clip.read_bytes(), top="7")
    status, found = service.predict(clip.read_bytes(), top=str(top))
    assert status == 200
    assert found["top"] == every["top"][:top]
    assert [len(every["top"]), len(found["top"]), len(found["labels"])] == [7, min(top, 7), min(top, 7)]
    lengths = {len(moment["probabilities"]) for moment in found["moments"] if moment["probabilities"] is not None}
    assert lengths == {len(found["labels"])}


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("top", "0", "top ('0'): input should be greater than or equal to 1"),
        ("top", "-1", "top ('-1'): input should be greater than or equal to 1"),
        ("top", "a\nb", r"top ('a\nb'): input should be a valid integer, unable to parse string as an integer"),
        ("topk", "3", "topk ('3'): extra inputs are not permitted"),
    ],
    ids=["none", "fewer", "no number", "unknown"],
)
def test_parameters_that_are_not_allowed_are_told_in_one_line(
    service: Service, parameter: str, value: str, message: str
) -> None:
    expected = {"detail": f"{message}; parameters are name and top"}
    assert service.predict(b"not looked at", **{parameter: value}) == (422, expected)


def test_everything_in_an_answer_is_described(service: Service, clip: Path) -> None:
    _, document, _ = service.ask("GET", "/openapi.json")
    described = document["components"]["schemas"]
    undescribed = [
        (name, field)
        for name, schema in described.items()
        for field, found in schema["properties"].items()
        if not found.get("description")
    ]
    assert undescribed == []
    _, found = service.predict(clip.read_bytes())
    for name, part in [("Report", found), ("Top", found["top"][0]), ("Moment", found["moments"][0])]:
        assert set(described[name]["properties"]) == set(part)
        missing = {field for field in part if f"`{field}`" not in README}
        assert missing == set()
    answers = document["paths"]["/predict"]["post"]["responses"]
    schemas = {status: answer["content"]["application/json"]["schema"]["$ref"] for status, answer in answers.items()}
    report, problem = "#/components/schemas/Report", "#/components/schemas/Problem"
    assert schemas == {"200": report, "400": problem, "413": problem, "415": problem, "422": problem, "503": problem}


def test_its_health_is_told_while_the_engine_is_busy(service: Service, clip: Path) -> None:
    at_work = service.app.state.turns
    with ThreadPoolExecutor(app.AT_ONCE) as threads:
        with service.app.state.recognizer._runner.turn():
            predicting = [threads.submit(service.predict, clip.read_bytes()) for _ in range(app.AT_ONCE)]
            end = time.monotonic() + PATIENCE_SECONDS
            while at_work.borrowed_tokens < app.AT_ONCE:
                assert time.monotonic() < end
                time.sleep(0.01)
            status, health, _ = service.ask("GET", "/healthz")
            assert not any(each.done() for each in predicting)
        assert [each.result(PATIENCE_SECONDS)[0] for each in predicting] == [200] * app.AT_ONCE
    assert status == 200
    assert health.pop("ran_by").startswith("onnxruntime ")
    assert health == {"ready": True, "engine": "tiny.onnx", "network": "tiny"}


def test_a_service_without_its_network_is_not_ready(tiny_exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As where it is mounted in another application, which does not start it.
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "")  # so that it is put back
    with running(app.create_app(tiny_exports / "tiny.onnx"), lifespan="off") as service:
        status, health, _ = service.ask("GET", "/healthz")
        assert service.ask("HEAD", "/healthz")[0] == 503
        problem = {"detail": "the network is not loaded: the lifespan of the application has not begun"}
        assert service.ask("GET", "/about")[:2] == (503, problem)
        assert service.predict(b"") == (503, problem)
    assert (status, health) == (503, {"ready": False, "engine": "tiny.onnx", "network": None, "ran_by": None})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "notes.txt: the file is empty"),
        (b"This is no video.\n" * 99, "notes.txt: no video stream that can be decoded"),
        (
            bytes(cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1]),
            "notes.txt: no video stream that can be decoded",
        ),
    ],
    ids=["nothing", "text", "a picture"],
)
def test_what_is_no_video_is_told_in_one_line(service: Service, content: bytes, message: str) -> None:
    assert service.predict(content, name="notes.txt") == (422, {"detail": message})


def test_a_form_is_told_to_send_the_file_itself(service: Service) -> None:
    status, found, _ = service.ask(
        "POST", "/predict", b"--x\r\n", **{"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert (status, found) == (415, {"detail": "a form: send the file itself, as curl --data-binary @clip.mp4 does"})


def test_a_playlist_leads_nowhere(service: Service, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class WithSecret(tempfile.TemporaryDirectory[str]):
        def __enter__(self) -> str:
            shutil.copy(clip, Path(self.name, "secret"))
            return super().__enter__()

    monkeypatch.setattr(tempfile, "TemporaryDirectory", WithSecret)
    playlist = b"ffconcat version 1.0\nfile secret\n"
    assert service.predict(playlist) == (422, {"detail": "clip.mp4: no video stream that can be decoded"})
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "")
    status, found = service.predict(playlist)
    assert (status, found["frames"]) == (200, 40)  # so FFmpeg would follow it


def test_a_clip_that_is_too_large_is_refused(service: Service) -> None:
    message = "the clip is larger than 0.4 MB: cut it, or make it smaller"
    assert service.predict(bytes(MAX_BYTES + 1)) == (413, {"detail": message})


def test_answers_that_are_not_finite_are_told(service: Service, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = service.app.state.recognizer._runner
    monkeypatch.setattr(runner, "_run", lambda inputs: np.full((len(inputs), 7), np.nan, np.float32))
    status, found = service.predict(clip.read_bytes())
    assert status == 422
    assert "42 logits are not finite: the weights are damaged" in found["detail"]


def test_a_clip_whose_sender_leaves_is_removed(service: Service, tmp_path: Path, clip: Path) -> None:
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 9999\r\n\r\nthe beginning")
    assert service.predict(clip.read_bytes())[0] == 200  # and the fixture sees that nothing is left


def test_requests_at_once_are_answered_as_one_after_the_other(service: Service, tmp_path: Path) -> None:
    clips = []
    for seed in range(4):
        path = tmp_path / f"{seed}.mp4"
        generated.write_clip(path, num_frames=20 + 7 * seed, height=48, width=64, seed=seed)
        clips.append(path.read_bytes())
    alone = [service.predict(clip) for clip in clips]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(service.predict, clips * 3, timeout=PATIENCE_SECONDS)) == alone * 3


def test_the_service_answers_while_the_engine_is_busy(service: Service, clip: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        with service.app.state.recognizer._runner.turn():
            predicting = threads.submit(service.predict, clip.read_bytes())
            status, about, _ = service.ask("GET", "/about")
            assert not predicting.done()
        assert predicting.result(PATIENCE_SECONDS)[0] == 200
    assert (status, about["network"], about["max_bytes"]) == (200, "tiny", MAX_BYTES)
    assert about["ran_by"].startswith("onnxruntime ")
    assert about["notes"] == ["the weights are random: the time that this takes means something, the labels do not"]


def test_a_clip_whose_sender_does_not_wait_is_not_begun(
    service: Service, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer, turns = service.app.state.recognizer, service.app.state.turns
    predict, begun = recognizer.predict, list[Path]()

    def noted(source: Path, **options: Any) -> Any:
        begun.append(source)
        return predict(source, **options)

    def wait_until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    monkeypatch.setattr(recognizer, "predict", noted)
    data = clip.read_bytes()
    with ThreadPoolExecutor(app.AT_ONCE) as threads:
        with recognizer._runner.turn():
            waiting = [threads.submit(service.predict, data) for _ in range(app.AT_ONCE)]
            wait_until(lambda: len(begun) == app.AT_ONCE)
            with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_SECONDS) as connection:
                head = f"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: {len(data)}\r\n\r\n"
                connection.sendall(head.encode() + data)
                wait_until(lambda: turns.statistics().tasks_waiting == 1)
            assert service.ask("GET", "/about")[0] == 200  # by now the service knows that the connection is closed
        assert [answer.result(PATIENCE_SECONDS)[0] for answer in waiting] == [200] * app.AT_ONCE
    assert service.predict(data)[0] == 200  # whose turn comes after that of the one who left
    assert len(begun) == app.AT_ONCE + 1


def test_the_page_asks_nobody_else(service: Service) -> None:
    status, page, headers = service.ask("GET", "/")
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert re.findall(r"(?:src|href)\s*=\s*[\"']([^\"']*)", page) == ["data:,"]
    assert re.findall(r"https?://[^\s\"'`]*", page) == ["http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/svg"]


def test_the_artifact_can_come_from_the_environment(
    tiny_exports: Path, monkeypatch: pytest.MonkeyPatch, clip: Path
) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "")  # so that it is put back
    monkeypatch.setenv("I3D_ARTIFACT", str(tiny_exports / "tiny.xml"))
    assert app.create_app().title == "Labels over time"
    monkeypatch.delenv("I3D_ARTIFACT")
    with pytest.raises(SystemExit, match="Error: the environment variable I3D_ARTIFACT does not say which"):
        app.create_app()


@pytest.mark.parametrize(("before", "after"), [("", ""), ("threads;1", "|threads;1")], ids=["nothing", "something"])
def test_what_ffmpeg_is_held_to_is_added_to_its_options(
    tiny_exports: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", before)
    for _ in range(2):
        app.create_app(tiny_exports / "tiny.onnx")
        options = os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"]
        assert re.fullmatch(rf"protocol_whitelist;file\|format_whitelist;mov,mp4,[a-z0-9,]+{re.escape(after)}", options)


def test_the_command_tells_its_options() -> None:
    shown = CliRunner().invoke(app.main, ["--help"])
    assert shown.exit_code == 0
    assert {"--host", "--port", "--max-windows", "--max-megabytes"} < set(shown.output.split())
    refused = CliRunner().invoke(app.main, ["nowhere.onnx"])
    assert refused.exit_code == 2
    assert "'nowhere.onnx' does not exist" in refused.output


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_examples_run_as_shown(tiny_exports: Path, clip: Path, clip20: Path, tmp_path: Path, number: int) -> None:
    (tmp_path / "engines").mkdir()
    shutil.copy(tiny_exports / "tiny.onnx", tmp_path / "engines" / "i3d_r50.onnx")
    shutil.copy(clip, tmp_path / "clip.mp4")
    shutil.copy(clip20, tmp_path / "other.mp4")
    (tmp_path / "example.py").write_text(EXAMPLES[number])
    command = [sys.executable, "example.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2


def test_a_stream_is_closed_however_often_its_reader_is_cancelled(tiny_exports: Path, tmp_path: Path) -> None:
    (example,) = (text for text in EXAMPLES if "windows_of" in text)
    (tmp_path / "example.py").write_text(example.partition("async def follow")[0])
    windows_of = runpy.run_path(str(tmp_path / "example.py"))["windows_of"]
    may_end = threading.Event()

    def come() -> Iterator[TimedFrame]:
        for number in range(5):
            yield TimedFrame(frame=np.zeros((48, 64, 3), np.uint8), seconds=number / 10)
        assert may_end.wait(PATIENCE_SECONDS)

    async def follow(recognizer: i3d.Recognizer, has_one: asyncio.Event) -> None:
        windows = windows_of(recognizer, come(), window_seconds=0.4, frames_per_second=10)
        async with aclosing(windows):
            async for _ in windows:
                has_one.set()

    async def main(recognizer: i3d.Recognizer) -> None:
        has_one = asyncio.Event()
        task = asyncio.create_task(follow(recognizer, has_one))
        await asyncio.wait_for(has_one.wait(), PATIENCE_SECONDS)
        try:
            for _ in range(2):
                task.cancel()
                ended, _ = await asyncio.wait([task], timeout=0.05)
                assert not ended  # before the frame that it waits for
        finally:
            may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    with i3d.load(tiny_exports / "tiny.onnx") as recognizer:
        asyncio.run(main(recognizer))
    assert "i3d-stream" not in [thread.name for thread in threading.enumerate()]


def test_every_example_is_run() -> None:
    assert len(EXAMPLES) == 4


def test_links_lead_somewhere() -> None:
    assert re.findall(r"\]\(([^)]+)\)", README) == ["page.jpg"]
    assert (KIT / "page.jpg").stat().st_size < 150_000


def test_commands_name_what_is_there(clip: Path) -> None:
    run, ask, health, serve = COMMANDS
    assert shlex.split(run) == ["python", "export/python/app.py", "engines/i3d_r50.onnx"]
    assert "--data-binary @clip.mp4 'http://127.0.0.1:8000/predict?name=clip.mp4&top=3'" in ask
    assert health == "curl http://127.0.0.1:8000/healthz"
    assert "uvicorn --factory --app-dir export/python app:create_app" in serve


@pytest.fixture(scope="module")
def shown_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of two seconds in a form that browsers play."""
    path = tmp_path_factory.mktemp("shown") / "<b>turn.webm"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"VP80"), 25.0, (64, 48))
    for frame in generated.frames(num_frames=50, height=48, width=64):
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


TEXT = "document.getElementById({!r}).textContent"
IS_DONE = "document.querySelector('#status').textContent && !document.querySelector('#status progress')"


@HAS_CHROMIUM
def test_a_clip_that_is_dropped_on_the_page_shows_its_labels(
    service: Service, shown_clip: Path, tmp_path: Path
) -> None:
    _, report = service.predict(shown_clip.read_bytes(), name=shown_clip.name)
    with Page(tmp_path / "profile") as page:
        page.resize(1000, 900)
        page.open(service.address)
        page.drop(shown_clip, "#drop")
        page.wait_for(IS_DONE)
        page.wait_for("seeks()")
        best = f"{shown_clip.name}: {report['top'][0]['label']}, {report['top'][0]['probability']:.0%}"
        assert page.evaluate(TEXT.format("status")).replace(" %", "%") == best  # names are text, not HTML
        names = page.evaluate("[...document.querySelectorAll('svg .name')].map(name => name.firstChild.data)")
        assert names == report["labels"]
        # At half of the clip: the values are those of the moment, and the line is in the middle.
        page.evaluate("new Promise(done => { video.onseeked = done; video.currentTime = video.duration / 2; })")
        (moment,) = [found for found in report["moments"] if found["start_frame"] <= 25 < found["end_frame"]]
        values = page.evaluate("[...document.querySelectorAll('svg .value')].map(value => value.textContent)")
        assert [float(value.removesuffix(" %")) for value in values] == pytest.approx(
            [100 * probability for probability in moment["probabilities"]], rel=0.05, abs=0.5
        )
        place = "head.x1.baseVal.value / head.ownerSVGElement.viewBox.baseVal.width"
        assert page.evaluate(place) == pytest.approx(0.5, abs=0.01)
        # A click at a quarter goes there.
        x, y = page.evaluate(
            "(box => [box.x + box.width / 4, box.y + 20])(document.querySelector('svg').getBoundingClientRect())"
        )
        page.evaluate("window.sought = new Promise(done => { video.onseeked = done; }); 0")
        for kind in ("mousePressed", "mouseReleased"):
            page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
        page.evaluate("sought.then(() => 0)")
        assert page.evaluate("video.currentTime / video.duration") == pytest.approx(0.25, abs=0.02)
        asked = {urllib.parse.urlsplit(address)[:2] for address in page.addresses}
        assert asked <= {("http", f"127.0.0.1:{service.port}"), ("blob", ""), ("data", "")}
        assert page.complaints == []


@HAS_CHROMIUM
def test_the_chart_is_drawn_once_a_frame(service: Service, shown_clip: Path, tmp_path: Path) -> None:
    with Page(tmp_path / "profile") as page:
        page.open(service.address)
        page.choose(shown_clip, "#file")
        page.wait_for("!document.getElementById('result').hidden && seeks()")
        page.evaluate(
            "window.drawn = {}; window.request = requestAnimationFrame;"
            "window.requestAnimationFrame = draw => request(at => { drawn[at] = (drawn[at] ?? 0) + 1; draw(at); }); 0"
        )
        page.evaluate("video.loop = true; video.play()")
        page.evaluate("for (let n = 0; n < 20; n++) video.dispatchEvent(new Event('timeupdate'))")
        page.wait_for("Object.keys(drawn).length >= 10")
        assert page.evaluate("Math.max(...Object.values(drawn))") == 1


@HAS_CHROMIUM
def test_the_page_tells_what_is_wrong(service: Service, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("This is no video.\n" * 99)
    (tmp_path / "large.mp4").write_bytes(bytes(MAX_BYTES + 1))
    with Page(tmp_path / "profile") as page:
        page.open(service.address)
        page.wait_for("about")
        for name, message in [
            ("notes.txt", "notes.txt: no video stream that can be decoded"),
            ("large.mp4", "large.mp4 is larger than 0.4 MB: cut it, or make it smaller"),
        ]:
            page.evaluate("document.getElementById('status').textContent = ''")
            page.choose(tmp_path / name, "#file")
            page.wait_for(IS_DONE)
            assert page.evaluate(TEXT.format("status")) == message
            assert page.evaluate("document.getElementById('result').hidden")
        # MPEG-4 in its first form, which no browser plays: the labels are there all the same.
        page.choose(clip, "#file")
        page.wait_for("!document.getElementById('result').hidden && video.hidden")
        assert page.evaluate(TEXT.format("note")).endswith("This browser cannot play the clip.")


@HAS_CHROMIUM
@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1000])
def test_the_page_fits_and_can_be_read(
    service: Service, shown_clip: Path, tmp_path: Path, width: int, is_dark: bool
) -> None:
    with Page(tmp_path / "profile") as page:
        page.resize(width, 844, dark=is_dark)
        page.open(service.address)
        page.choose(shown_clip, "#file")
        page.wait_for("!document.getElementById('result').hidden")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        colors = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        ink, paper = (sum(map(int, re.findall(r"\d+", color)[:3])) / 765 for color in colors)
        assert (ink > 0.8 and paper < 0.2) if is_dark else (ink < 0.2 and paper > 0.8)
        # Chromium's own picture of it for people who do not see: everything has a name.
        tree = page.call("Accessibility.getFullAXTree")["nodes"]
        named = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]}
        assert ("heading", "Which labels does a clip have, and when?") in named
        assert any(role == "image" and name.startswith("Probability of ") for role, name in named)
