"""Worker processes, opened for real."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import i3d_deploy as i3d
from i3d_deploy import doctor, generated, torch_work, views
from i3d_deploy.benchmark.worker import read_views
from i3d_deploy.benchmark.workers import Subject, Worker, subjects
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import I3DError


@pytest.fixture(scope="module")
def worker(tiny_exports: Path) -> Iterator[Worker]:
    with Worker(Subject(name="tiny.onnx", path=tiny_exports / "tiny.onnx", device="cpu", threads=1)) as opened:
        yield opened


@pytest.fixture(scope="module")
def six_views(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prepared = views.prepare(np.stack(list(generated.frames())), tiny_checkpoint.card)
    path = tmp_path_factory.mktemp("views") / "views.npy"
    np.save(path, next(prepared.batches(6)))
    return path


def test_a_worker_says_what_it_opened(worker: Worker, tiny_exports: Path, tiny_checkpoint: Checkpoint) -> None:
    opened = worker.opened
    with i3d.load(tiny_exports / "tiny.onnx", device="cpu", threads=1) as recognizer:
        assert (opened.info, opened.runner, opened.card) == (recognizer.info, str(recognizer.info), recognizer.card)
    assert (opened.preferred_batch, opened.is_comparable, opened.info.threads) == (1, True, 1)
    assert opened.seconds > 0
    card = tiny_checkpoint.card
    plain, work = torch_work.work_of_network(card.network, card.view_shape), worker.work()
    # The stem skips half of its frames: 8 outputs of 3 x 5 x 7 x 7 weights at 16 x 16 positions of 2 frames, not 4.
    assert work is not None and plain.macs - work.macs == 8 * 3 * 5 * 7 * 7 * 16 * 16 * 2


@pytest.mark.parametrize("batch", [1, 4, None])
def test_a_worker_answers_as_the_library_does(
    worker: Worker, tiny_exports: Path, six_views: Path, tmp_path: Path, batch: int | None
) -> None:
    worker.ask("answer", views_path=str(six_views), count=5, batch=batch, output=str(tmp_path / "logits.npy"))
    with i3d.load(tiny_exports / "tiny.onnx", device="cpu", threads=1) as recognizer:
        expected = np.concatenate([recognizer.infer(np.load(six_views)[number : number + 1]) for number in range(5)])
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-5)


def test_a_turn_is_one_video_at_least_and_goes_on_until_its_seconds_have_passed(
    worker: Worker, six_views: Path
) -> None:
    asked = {"views_path": str(six_views), "count": 6, "batch": None}
    assert len(worker.ask("time", **asked, seconds=0, counts=False)) == 1
    before = worker.ask("usage", kind="model")
    longer = worker.ask("time", **asked, seconds=0.2, counts=True)
    usage = worker.ask("usage", kind="model")
    assert usage["wall_seconds"] - before["wall_seconds"] >= max(0.2, sum(longer))
    assert usage["cpu_seconds"] > 0
    assert usage["cores"] == doctor.usable_cores()
    assert worker.ask("usage", kind="end_to_end")["wall_seconds"] == 0


def test_the_warm_up_does_not_count_as_use(worker: Worker, six_views: Path) -> None:
    before = worker.ask("usage", kind="model")
    worker.ask("time", views_path=str(six_views), count=6, batch=None, seconds=0, counts=False)
    assert worker.ask("usage", kind="model") == before


def test_predictions_and_stages_are_timed_from_the_file(worker: Worker, clip: Path) -> None:
    wanted = {"video_path": str(clip), "clips": 2, "crops": 3, "batch": None}
    (seconds,) = worker.ask("predict", **wanted, seconds=0, counts=True)
    stages = worker.ask("stages", **wanted)
    assert seconds > 0
    assert stages["is_shared"] is False
    assert set(stages["seconds"]) == {"decode", "views", "transfer", "compute"}
    assert min(stages["seconds"][name] for name in ("decode", "views", "compute")) > 0


def test_predictions_of_a_turn_are_a_stream_of_videos(worker: Worker, clip: Path) -> None:
    wanted = {"video_path": str(clip), "clips": 2, "crops": 3, "batch": None}
    before = worker.ask("usage", kind="end_to_end")
    seconds = worker.ask("predict", **wanted, seconds=0.2, counts=True)
    usage = worker.ask("usage", kind="end_to_end")
    assert len(seconds) > 1
    assert min(seconds) > 0
    assert 0.2 <= sum(seconds) <= usage["wall_seconds"] - before["wall_seconds"]


def test_memory_is_that_of_the_process(worker: Worker) -> None:
    host, device = worker.memory()
    assert 50 * 2**20 < host < 2**30  # Python with ONNX Runtime and a tiny network
    assert device is None


def test_views_are_read_as_they_were_written(six_views: Path) -> None:
    np.testing.assert_array_equal(read_views(six_views, count=4), np.load(six_views)[:4])
    np.testing.assert_array_equal(read_views(six_views, count=9), np.load(six_views))


def test_what_goes_wrong_names_no_folder(worker: Worker, tmp_path: Path) -> None:
    with pytest.raises(I3DError) as caught:
        worker.ask("stages", video_path=str(tmp_path / "none.mp4"), clips=1, crops=1, batch=None)
    assert str(caught.value) == "none.mp4: no such file"


def test_an_error_costs_no_process(worker: Worker, tmp_path: Path, six_views: Path) -> None:
    with pytest.raises(I3DError, match="no such file"):
        worker.ask(
            "predict", video_path=str(tmp_path / "none.mp4"), clips=1, crops=1, batch=None, seconds=0, counts=False
        )
    with pytest.raises(I3DError, match="FileNotFoundError"):
        worker.ask("time", views_path=str(tmp_path / "none.npy"), count=1, batch=None, seconds=0, counts=False)
    assert worker.ask("time", views_path=str(six_views), count=1, batch=None, seconds=0, counts=False)


def test_the_slowest_layers_come_first_with_their_shares(worker: Worker, six_views: Path) -> None:
    layers = worker.slowest_layers(six_views, batch=1, runs=2, count=3)
    assert len(layers) == 3
    assert layers[0].seconds >= layers[1].seconds >= layers[2].seconds
    assert 0 < sum(layer.share for layer in layers) < 1


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with (
        Worker(Subject(name="none", path=tmp_path / "none.onnx")) as absent,
        pytest.raises(I3DError, match=r"none\.onnx: no such file"),
    ):
        _ = absent.opened


def test_a_program_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(I3DError, match=r"none: No such file or directory"):
        Worker(Subject(name="none", path=tmp_path, command=(str(tmp_path / "none"),)))


DIES = """
import os, signal, sys
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_dies_is_an_error_that_says_how(tmp_path: Path) -> None:
    with (
        Worker(Subject(name="dies", path=tmp_path, command=(sys.executable, "-c", DIES))) as worker,
        pytest.raises(I3DError, match=r"its process was ended by signal 9 \(out of memory\?\)"),
    ):
        _ = worker.opened


PRINTS = """
import os
from i3d_deploy.benchmark import worker
def open_it(request):
    print("a library that prints")
    os.system("echo a program that prints")
    return worker.open_artifact(request)
worker.serve(open_it)
"""


def test_what_libraries_print_does_not_disturb(tiny_exports: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = (sys.executable, "-c", PRINTS)
    with Worker(Subject(name="prints", path=tiny_exports / "tiny.onnx", command=command)) as worker:
        assert worker.opened.card.network.name == "tiny"
    assert "a program that prints" in capfd.readouterr().err


def test_a_worker_leaves_interrupting_to_the_run(tiny_exports: Path) -> None:
    with Worker(Subject(name="tiny", path=tiny_exports / "tiny.onnx")) as worker:
        assert worker.opened
        os.kill(worker.process_id, signal.SIGINT)
        assert worker.memory()


def test_names_differ() -> None:
    paths = [Path("a/x.onnx"), Path("b/x.onnx")]
    assert [subject.name for subject in subjects(paths)] == ["x.onnx", "x.onnx (2)"]
    made = subjects(paths[:1], devices=["cpu", "cuda:1"], threads=[1, 2])
    assert [(subject.name, subject.device, subject.threads) for subject in made] == [
        ("x.onnx on cpu with 1 threads", "cpu", 1),
        ("x.onnx on cpu with 2 threads", "cpu", 2),
        ("x.onnx on cuda:1 with 1 threads", "cuda:1", 1),
        ("x.onnx on cuda:1 with 2 threads", "cuda:1", 2),
    ]


def test_checkpoints_are_measured_in_every_precision_and_engines_in_their_own() -> None:
    made = subjects([Path("x.safetensors"), Path("x.xml")], precisions=["fp16", "fp8"])
    assert [(subject.name, subject.precision) for subject in made] == [
        ("x.safetensors in fp16", "fp16"),
        ("x.safetensors in fp8", "fp8"),
        ("x.xml", None),
    ]
