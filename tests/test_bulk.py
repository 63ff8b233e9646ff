"""Many videos on a real Ray: processes are killed, and every video is in the table once."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ray
from click.testing import CliRunner
from pyarrow import parquet

import i3d_deploy as i3d
from i3d_deploy import bulk, generated
from i3d_deploy.commands.predict import main
from i3d_deploy.errors import I3DError, InputError
from i3d_deploy.prediction_files import JOURNAL, Row

pytestmark = [
    # Ray 2.60 warns of its own defaults.
    pytest.mark.filterwarnings("ignore:`use_.*` is deprecated:DeprecationWarning:ray.data.context"),
]

WORKER = "ray::MapWorker"
COMMAND = "from i3d_deploy.commands.predict import main; main()"


@pytest.fixture(scope="module")
def on_ray() -> Iterator[None]:
    """A Ray of this process with two cores, which asks local addresses directly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "127.0.0.1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=128 << 20)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 videos, each of another number of frames."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(12):
        generated.write_clip(folder / f"{number:02}.mp4", num_frames=20 + number, height=32, width=48, seed=number)
    return folder


def processes_below(process: int) -> Iterator[tuple[int, str]]:
    """Number and command line of the processes that a process has started, and those that they have."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1]) == process:
                yield int(path.name), path.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                yield from processes_below(int(path.name))


def workers() -> list[int]:
    """The processes that predict."""
    return [number for number, command in processes_below(os.getpid()) if command.startswith(WORKER)]


def read(table: Path) -> list[Row]:
    """The rows of a table, sorted by video."""
    if table.suffix == ".jsonl":
        rows = [json.loads(line) for line in table.read_text().splitlines()]
    else:
        rows = parquet.read_table(table).to_pylist()
    return sorted(rows, key=lambda row: str(row["video"]))


def predicted(path: Path, source: str | Path, **settings: Any) -> dict[str, Any]:
    """What a process by itself says about a video, as in a row."""
    with i3d.load(path, threads=1) as recognizer:
        prediction = recognizer.predict(source, **settings)
    fields = {name: getattr(prediction, name) for name in ("views", "frames")}
    return {"top": prediction.entries(), **fields, "warnings": list(prediction.warnings)}


def fields(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("top", "views", "frames", "warnings")}


@pytest.mark.usefixtures("on_ray")
def test_rows_are_those_of_one_process(tiny_exports: Path, videos: Path, tmp_path: Path) -> None:
    artifact, output = tiny_exports / "tiny.xml", tmp_path / "t.jsonl"
    broken, unnamed = tmp_path / "broken.mp4", os.fsdecode(bytes(tmp_path) + b"/\xff.mp4")
    broken.write_text("no video")
    shutil.copy(videos / "00.mp4", unnamed)
    (tmp_path / "linked").symlink_to(videos)
    linked, other_spelling = tmp_path / "linked" / "01.mp4", os.path.relpath(videos / "01.mp4")
    sources: list[str | Path] = [videos / "01.mp4", broken, videos / "02.mp4", other_spelling, linked, unnamed]
    progress: list[tuple[int, int]] = []
    notes: list[str] = []
    report = bulk.predict(
        artifact,
        sources,
        output,
        crops=1,
        threads=1,
        on_progress=lambda done, total: progress.append((done, total)),
        on_note=notes.append,
    )
    assert report == bulk.Report(predicted=2, failed=2, done_before=0)
    assert progress == [(done, 4) for done in range(5)]
    assert len(notes) == 1 and "the weights are random" in notes[0]
    rows = {row["video"]: row for row in read(output)}
    assert set(rows) == {str(sources[0]), str(sources[2]), str(broken), f"{tmp_path}/\\udcff.mp4"}
    for source in (sources[0], sources[2]):
        assert fields(rows[str(source)]) == predicted(artifact, source, crops=1)
        assert rows[str(source)]["ran_by"].endswith(", 1 threads")
    assert rows[str(broken)]["error"] == f"{broken}: no video stream that can be decoded"
    assert "the name is not UTF-8 text" in rows[f"{tmp_path}/\\udcff.mp4"]["error"]
    for source in (videos / "02.mp4", broken, Path(unnamed)):
        found = rows[str(source).encode(errors="backslashreplace").decode()]
        assert found["size_bytes"] == source.stat().st_size
        assert found["modified_seconds"] == pytest.approx(source.stat().st_mtime, abs=1e-6)


class Deadly(http.server.SimpleHTTPRequestHandler):
    """Serves files, and kills the worker that asks for some of them, so often."""

    deaths: dict[str, int]

    def do_GET(self) -> None:
        if self.deaths.get(self.path, 0) > 0:
            self.deaths[self.path] -= 1
            for worker in workers():
                os.kill(worker, signal.SIGKILL)
            return
        super().do_GET()

    def log_message(self, *_: object) -> None: ...


@pytest.mark.usefixtures("on_ray")
def test_a_killed_worker_loses_nothing_and_one_that_is_killed_every_time_is_a_row(
    tiny_exports: Path, videos: Path, tmp_path: Path
) -> None:
    artifact, output = tiny_exports / "tiny.onnx", tmp_path / "t.parquet"

    class Handler(Deadly):
        deaths = {"/03.mp4": 1, "/05.mp4": bulk.ATTEMPTS}  # noqa: RUF012

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(videos))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        sources = [f"http://127.0.0.1:{server.server_port}/{number:02}.mp4" for number in range(8)]
        try:
            report = bulk.predict(artifact, sources, output, crops=1, actors=1, threads=1)
        finally:
            server.shutdown()
            thread.join()
    assert report == bulk.Report(predicted=7, failed=1, done_before=0)
    assert Handler.deaths == {"/03.mp4": 0, "/05.mp4": 0}
    rows = read(output)
    assert [row["video"] for row in rows] == sources
    assert rows[5]["error"] == f"{sources[5]}: its worker died 3 times: the video crashes it, or memory ran out"
    for number in {*range(8)} - {5}:
        row = rows[number]
        assert [entry["index"] for entry in row["top"]] == [
            entry["index"] for entry in predicted(artifact, videos / f"{number:02}.mp4", crops=1)["top"]
        ]


class Gate(NamedTuple):
    """An address, and what lets it answer."""

    url: str
    is_open: threading.Event


@pytest.fixture
def gate(clip: Path) -> Iterator[Gate]:
    """A video that is sent when the test lets it be."""
    is_open = threading.Event()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            assert is_open.wait(300)
            with contextlib.suppress(ConnectionError):  # of a reader that was killed
                super().do_GET()

        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Handler, directory=str(clip.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield Gate(f"http://127.0.0.1:{server.server_port}/{clip.name}", is_open)
        is_open.set()
        server.shutdown()
        thread.join()


def started(artifact: Path, sources: Sequence[str], output: Path, *, address: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    options = ["--ray", "--output", str(output), "--threads", "1", "--crops", "1"]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(artifact), *sources, *options],
        env={**os.environ, "RAY_ADDRESS": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def named(lines: Path) -> list[str]:
    """The videos of the lines that are whole."""
    return [json.loads(line)["video"] for line in lines.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for what a process does."""
    end = time.monotonic() + 100
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_run_goes_on_after_kill_9_and_after_ctrl_c(
    tiny_exports: Path, videos: Path, tmp_path: Path, gate: Gate, on_ray: None
) -> None:
    artifact, output = tiny_exports / "tiny.onnx", tmp_path / "t.parquet"
    lines, sources = output / JOURNAL, [gate.url, *(str(videos / f"{number:02}.mp4") for number in range(6))]

    killed = started(artifact, sources[:4], output, address="local")
    wait_until(lambda: lines.exists() and b"\n" in lines.read_bytes(), killed)
    (head,) = [number for number, command in processes_below(killed.pid) if "gcs_server" in command.split(" ")[0]]
    assert b"RAY_USAGE_STATS_ENABLED=0" in Path(f"/proc/{head}/environ").read_bytes().split(b"\0")
    killed.kill()
    killed.communicate()
    kept = named(lines)
    assert 0 < len(kept) < 4

    stopped = started(artifact, sources, output, address=ray.get_runtime_context().gcs_address)
    wait_until(lambda: any(row not in kept for row in named(lines)), stopped)
    stopped.send_signal(signal.SIGINT)
    _, told = stopped.communicate()
    assert stopped.returncode == 130, told
    done = [row["video"] for row in read(output)]
    assert set(kept) < set(done)
    assert f"stopped: {len(done)} of 7 videos are done; the same command goes on" in told

    gate.is_open.set()
    came: list[Row] = []
    report = bulk.predict(artifact, sources, output, crops=1, threads=1, on_row=came.append)
    assert report.done_before == len(done)
    assert {row["video"] for row in came} == {*sources} - {*done}
    assert [row["video"] for row in read(output)] == sorted(sources)


@pytest.mark.usefixtures("on_ray")
def test_what_a_worker_cannot_go_on_with_ends_the_run_in_one_line(
    tiny_exports: Path, clip: Path, tmp_path: Path
) -> None:
    with pytest.raises(I3DError, match=r"^crops \(2\) must be 1 or 3"):
        bulk.predict(tiny_exports / "tiny.onnx", [clip], tmp_path / "t.jsonl", crops=2, threads=1)
    assert read(tmp_path / "t.jsonl") == []


def test_arguments_are_checked_before_ray_is_started(tiny_exports: Path, clip: Path, tmp_path: Path) -> None:
    path, output = tiny_exports / "tiny.onnx", tmp_path / "t.jsonl"
    settings: dict[str, Any]
    for settings, message in (
        ({"actors": 0}, r"actors \(0\) must be > 0"),
        ({"device": "cuda:1"}, "device 'cuda:1': Ray chooses the GPUs, give cuda"),
    ):
        with pytest.raises(InputError, match=message):
            bulk.predict(path, [clip], output, **settings)
    with pytest.raises(I3DError, match=r"no\.onnx: no such file"):
        bulk.predict(tmp_path / "no.onnx", [clip], output)
    assert not output.exists()


def test_a_cluster_that_is_not_there_is_named(tiny_exports: Path, clip: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from i3d_deploy import bulk\n"
        "try: bulk.predict(sys.argv[1], [sys.argv[2]], sys.argv[3], address='127.0.0.1:1')\n"
        "except bulk.DeviceError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tiny_exports / "tiny.onnx", clip, tmp_path / "t.jsonl"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("no Ray at 127.0.0.1:1 (Connection refused): start it, or take RAY_ADDRESS away")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray"], "--ray takes --output TABLE.parquet or TABLE.jsonl"),
        (["--actors", "2"], "--actors goes with --ray"),
        (["--output", "t.jsonl"], "--output goes with --ray"),
        (["--ray", "--output", "t.jsonl", "--json"], "--json does not go with --ray"),
        (["--ray", "--output", "t.jsonl", "--clip-len", "8"], "--clip-len does not go with --ray"),
        (["--ray", "--output", "t.csv"], "t.csv: a table is .jsonl or .parquet"),
    ],
    ids=["no output", "actors alone", "output alone", "json", "checkpoint", "suffix"],
)
def test_options_that_do_not_go_together_are_told(
    tiny_exports: Path, clip: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    with contextlib.chdir(tmp_path):
        result = CliRunner().invoke(main, [str(tiny_exports / "tiny.onnx"), str(clip), *options])
    assert (result.exit_code, message in result.stderr) in {(2, True), (1, True)}, result.output


@pytest.mark.usefixtures("on_ray")
def test_the_command_says_what_became_of_the_videos(tiny_exports: Path, clip: Path, tmp_path: Path) -> None:
    broken, output = tmp_path / "broken.mp4", tmp_path / "t.jsonl"
    broken.write_text("no video")
    words = [str(word) for word in (tiny_exports / "tiny.onnx", clip, broken, "--ray", "--output", output)]
    first = CliRunner().invoke(main, words)
    assert (first.exit_code, first.stdout) == (1, f"{output}: 1 video predicted, 1 could not be read\n"), first.output
    assert f"Error: {broken}: no video" in first.stderr
    assert "2 of 2 videos are done" in first.stderr

    shutil.copy(clip, broken)
    again = CliRunner().invoke(main, words)
    assert (again.exit_code, again.stdout) == (0, f"{output}: 1 video predicted, 1 is from before\n"), again.output
    assert all(row["error"] is None for row in read(output))

    generated.write_clip(broken, num_frames=20, height=32, width=48)
    replaced = CliRunner().invoke(main, words)
    assert (replaced.exit_code, replaced.stdout) == (0, again.stdout), replaced.output
    assert f"Note: 1 of the videos in {output} have another size or time now: predicted again" in replaced.stderr
    assert {row["video"]: row["frames"] for row in read(output)} == {str(broken): 20, str(clip): 40}

    other = [str(tiny_exports / "tiny.xml"), *words[1:]]
    refused = CliRunner().invoke(main, other)
    assert refused.exit_code == 1
    assert f"{output} holds rows that were made otherwise (artifact_sha256 was " in refused.stderr


def test_a_missing_extra_gives_the_pip_command(tiny_exports: Path, clip: Path, tmp_path: Path) -> None:
    code = f"import sys; sys.modules['ray'] = None\n{COMMAND}"
    words = [str(tiny_exports / "tiny.onnx"), str(clip), "--ray", "--output", str(tmp_path / "t.jsonl")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install 'i3d-deploy[ray]'")
