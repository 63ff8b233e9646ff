"""Whole runs on small artifacts; speed itself is never asserted."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from i3d_deploy import checkpoint, export, generated, model
from i3d_deploy.benchmark import record, schedule
from i3d_deploy.benchmark.plan import Plan, SweepPlan
from i3d_deploy.benchmark.record import Record
from i3d_deploy.benchmark.workers import Subject, subjects
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import I3DError, InputError, VideoError

QUICK = Plan(frames=16, crops=3, min_rounds=2, min_seconds=0, max_warmup=1, ceiling_seconds=0)
NAMES = ["tiny.onnx", "tiny.xml", "tiny.safetensors"]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return []


@pytest.fixture(scope="module")
def found(tiny_exports: Path, clip: Path, lines: list[str]) -> Record:
    """A run of three artifacts with everything that can be asked for but sweeps."""
    plan = Plan(
        frames=16,
        crops=3,
        min_rounds=2,
        min_seconds=0,
        max_warmup=1,
        video=clip,
        profiles=True,
        ceiling_seconds=0.02,
    )
    made = subjects([tiny_exports / name for name in NAMES], devices=["cpu"])
    return schedule.run(made, plan, on_step=lines.append)


@pytest.fixture(scope="module")
def swept(tiny_exports: Path) -> Record:
    """A run of two artifacts over everything that can be swept over."""
    sweeps = tuple(SweepPlan.parse(text) for text in ("batch=1,2", "clips=1,3", "frames=20,60"))
    made = subjects([tiny_exports / name for name in NAMES[:2]], devices=["cpu"])
    return schedule.run(made, dataclasses.replace(QUICK, sweeps=sweeps))


def test_every_artifact_has_the_same_videos_in_turns(found: Record, lines: list[str]) -> None:
    assert [result.artifact for result in found.results] == NAMES
    assert [[len(turn) for turn in result.model.rounds] for result in found.results] == [[1, 1]] * 3
    turns = [line.removeprefix("timing, model: ") for line in lines if line.startswith("timing, model: ")]
    expected = [f"{step}, {name}" for step in ("warm-up 1", "round 1 of 2") for name in NAMES]
    assert turns == expected + [f"round 2 of 2, {name}" for name in (*NAMES[1:], NAMES[0])]


def test_the_record_says_what_ran(found: Record, tiny_checkpoint: Checkpoint) -> None:
    assert (found.protocol.name, found.protocol.views, found.failures) == ("16x3", 6, ())
    assert [result.backend.split()[0] for result in found.results] == ["onnxruntime", "openvino", "torch"]
    assert {result.precision for result in found.results} == {"fp32"}
    assert {result.network for result in found.results} == {"tiny"}
    assert len({result.card_sha256 for result in found.results}) == 3
    assert found.results[0].difference is None
    assert all(0 < (result.difference or 0) < 1e-3 for result in found.results[1:])
    assert found.videos_per_second == max(result.videos_per_second for result in found.results)
    assert all(result.peak_host_bytes > 2**20 for result in found.results)
    assert {"numpy", "torch", "onnxruntime", "openvino"} <= set(found.versions)


def test_there_is_a_ratio_of_every_pair(found: Record) -> None:
    pairs = [(ratio.against, ratio.artifact) for ratio in found.ratios]
    assert pairs == list(itertools.combinations(NAMES, 2))
    first, second = (result.model.rounds for result in found.results[:2])
    ratios = sorted(theirs[0] / ours[0] for theirs, ours in zip(first, second, strict=True))
    assert found.ratios[0].ratio == pytest.approx(sum(ratios) / 2)


def test_predictions_from_the_file_are_timed_whole_and_by_stage(found: Record, clip: Path) -> None:
    for result in found.results:
        entry = result.end_to_end
        assert entry is not None
        assert (entry.video, entry.frames, entry.timing.videos) == (clip.name, 40, 2)
        assert min(entry.open, entry.first, entry.stages.decode, entry.stages.compute) > 0
        assert entry.stages.transfer < entry.stages.compute
        assert entry.overlap > 0


@pytest.mark.parametrize("batch", [None, 4])
def test_a_prediction_that_shares_work_between_views_is_timed_so_and_says_so(
    tiny_exports: Path, tmp_path: Path, batch: int | None
) -> None:
    path = tmp_path / "clip.mp4"
    generated.write_clip(path, num_frames=40, height=32, width=32)  # three times the same crop
    plan = dataclasses.replace(QUICK, video=path, batch=batch)
    made = subjects([tiny_exports / name for name in ("tiny.onnx", "tiny.xml")], devices=["cpu"])
    of_onnx, of_openvino = schedule.run(made, plan).results
    note = (
        "from the file, views that overlap share the stem, which is run once for them, and are cut in compute; "
        "model only, each is run whole"
    )
    assert (note in of_onnx.notes, note in of_openvino.notes) == (False, batch is None)
    assert of_openvino.end_to_end is not None
    assert min(of_openvino.end_to_end.stages.views, of_openvino.end_to_end.stages.compute) > 0


def test_the_roofline_follows_from_the_work_and_the_ceilings(found: Record) -> None:
    for result in found.results:
        line = result.roofline
        assert line is not None
        assert line.operations_per_second == pytest.approx(2 * line.macs_per_view * 6 / result.model.median)
        assert line.share == pytest.approx(line.operations_per_second / line.ceiling)
    highest = max(
        ceiling.per_second for ceiling in found.ceilings if ceiling.precision == "fp32" and ceiling.work != "copy"
    )
    assert {result.roofline.ceiling for result in found.results if result.roofline} == {highest}


def test_sweeps_measure_every_artifact_at_every_size(swept: Record) -> None:
    sizes = {"batch": [1, 2], "clips": [1, 3], "frames": [20, 60]}
    expected = [(name, over, numbers) for over, numbers in sizes.items() for name in NAMES[:2]]
    assert [(sweep.artifact, sweep.over, [point.size for point in sweep.points]) for sweep in swept.sweeps] == expected
    for sweep in swept.sweeps:
        small, large = sweep.points
        assert len(small.seconds) == len(large.seconds) == 2
        slope = (large.median - small.median) / (large.size - small.size)
        assert sweep.seconds_per_unit == pytest.approx(slope)


def test_the_slowest_layers_are_listed(found: Record) -> None:
    assert all(result.slowest_layers for result in found.results)


def test_a_record_is_json_without_places(found: Record, swept: Record, tiny_exports: Path, tmp_path: Path) -> None:
    for made in (found, swept):
        text = made.to_json()
        assert str(tiny_exports) not in text
        document = json.loads(text)
        assert document["results"][0]["videos_per_second"] == made.results[0].videos_per_second
        path = tmp_path / "bench.json"
        path.write_text(text, encoding="utf-8")
        assert record.read(path) == made


@pytest.fixture(scope="module")
def other_weights(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network with other weights."""
    net = model.build(tiny_checkpoint.card.network)
    model.randomize(net, seed=4)
    made = Checkpoint(model=net, card=tiny_checkpoint.card)
    folder = tmp_path_factory.mktemp("other")
    export.export(made, targets=["onnx"], output=folder, name="other")
    return folder / "other.onnx"


def test_a_wrong_artifact_is_not_timed_and_the_others_are(tiny_exports: Path, other_weights: Path) -> None:
    paths = [tiny_exports / "tiny.onnx", other_weights, tiny_exports / "tiny.xml"]
    found = schedule.run(subjects(paths, devices=["cpu"]), QUICK)
    assert [result.artifact for result in found.results] == ["tiny.onnx", "tiny.xml"]
    (failure,) = found.failures
    assert (failure.artifact, failure.is_wrong) == ("other.onnx", True)
    assert failure.reason.startswith("it answers otherwise than the first artifact: logits differ by ")


def test_what_does_not_run_here_does_not_stop_the_others(tiny_exports: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    shutil.copy(tiny_exports / "tiny.onnx", broken)
    broken.write_bytes(broken.read_bytes()[:2000])
    found = schedule.run(subjects([broken, tmp_path / "none.xml", tiny_exports / "tiny.xml"], devices=["cpu"]), QUICK)
    assert [result.artifact for result in found.results] == ["tiny.xml"]
    assert [(failure.artifact, failure.is_wrong) for failure in found.failures] == [
        ("broken.onnx", False),
        ("none.xml", False),
    ]
    assert found.failures[1].reason == "none.xml: no such file"
    assert str(tmp_path) not in found.to_json()


def test_other_views_are_measured_in_another_run(
    tiny_checkpoint: Checkpoint, tiny_exports: Path, tmp_path: Path
) -> None:
    card = tiny_checkpoint.card
    longer = Checkpoint(
        model=tiny_checkpoint.model,
        card=card.replaced(sampling=card.sampling.replaced(clip_len=16)),
    )
    checkpoint.save(longer, tmp_path / "longer.safetensors")
    found = schedule.run(
        subjects([tiny_exports / "tiny.onnx", tmp_path / "longer.safetensors"], devices=["cpu"]), QUICK
    )
    (failure,) = found.failures
    assert failure.reason.startswith(
        "it takes rgb views of 16x32x32 and gives 7 classes, the first artifact takes rgb views of 8x32x32 and"
    )


DIES = """
import os, signal
from i3d_deploy.benchmark import worker
class Dying(worker.Requests):
    def time(self, **arguments):
        os.kill(os.getpid(), signal.SIGKILL)
worker.Requests = Dying
worker.serve(worker.open_artifact)
"""


def test_an_artifact_that_kills_its_process_costs_itself_alone(tiny_exports: Path) -> None:
    path = tiny_exports / "tiny.onnx"
    dying = Subject(name="dying", path=path, device="cpu", command=(sys.executable, "-c", DIES))
    found = schedule.run([dying, Subject(name="sound", path=path, device="cpu")], QUICK)
    assert [result.artifact for result in found.results] == ["sound"]
    assert [(failure.artifact, failure.reason) for failure in found.failures] == [
        ("dying", "its process was ended by signal 9 (out of memory?)")
    ]


DIES_OF_MANY = """
import os, signal
from i3d_deploy.benchmark import worker
class Small(worker.Requests):
    def time(self, count, **arguments):
        if count > 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().time(count=count, **arguments)
worker.Requests = Small
worker.serve(worker.open_artifact)
"""


def test_a_size_that_an_artifact_does_not_survive_is_left_out_and_noted(tiny_exports: Path) -> None:
    plan = dataclasses.replace(QUICK, frames=8, crops=1, sweeps=(SweepPlan.parse("batch=1,2,3"),), profiles=True)
    command = (sys.executable, "-c", DIES_OF_MANY)
    found = schedule.run([Subject(name="small", path=tiny_exports / "tiny.onnx", device="cpu", command=command)], plan)
    (sweep,) = found.sweeps
    assert [point.size for point in sweep.points] == [1, 2]
    (result,) = found.results
    assert "batch 3 was not measured: its process was ended by signal 9 (out of memory?)" in result.notes
    assert result.slowest_layers


def test_a_sweep_that_needs_too_much_room_loses_nothing_else(
    tiny_exports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    plan = dataclasses.replace(QUICK, frames=8, crops=1, sweeps=(SweepPlan.parse("batch=1,2"),))
    found = schedule.run(subjects([tiny_exports / "tiny.onnx"], devices=["cpu"]), plan)
    assert [result.artifact for result in found.results] == ["tiny.onnx"]
    assert found.sweeps == ()
    assert found.notes[0].startswith("the sweep over batch was not measured: 2 views need ")


IS_NOT_FINITE = """
import numpy as np
from i3d_deploy.benchmark import worker
def open_broken(request):
    runner = worker.open_artifact(request)
    infer = runner.infer
    runner.infer = lambda views: infer(views) * np.float32("nan")
    return runner
worker.serve(open_broken)
"""


def test_an_answer_that_is_not_finite_is_wrong_and_no_reference(tiny_exports: Path) -> None:
    path = tiny_exports / "tiny.onnx"
    broken = Subject(name="broken", path=path, device="cpu", command=(sys.executable, "-c", IS_NOT_FINITE))
    found = schedule.run([broken, Subject(name="sound", path=path, device="cpu")], QUICK)
    assert [result.artifact for result in found.results] == ["sound"]
    assert [(failure.artifact, failure.is_wrong) for failure in found.failures] == [("broken", True)]
    assert found.failures[0].reason == "42 of its logits are not finite"


OTHER_NETWORK = """
import numpy as np
from i3d_deploy.benchmark import worker
def open_other(request):
    runner = worker.open_artifact(request)
    runner.is_comparable = False
    runner.infer = lambda views: np.ones((len(views), 7), np.float32)
    return runner
worker.serve(open_other)
"""


def test_a_network_of_its_own_is_timed_but_makes_no_headline(tiny_exports: Path) -> None:
    path = tiny_exports / "tiny.onnx"
    other = Subject(name="other", path=path, device="cpu", command=(sys.executable, "-c", OTHER_NETWORK))
    found = schedule.run([other, Subject(name="ours", path=path, device="cpu")], QUICK)
    first, second = found.results
    assert (first.is_comparable, first.difference, first.roofline) == (False, None, None)
    # It answers without computing, and so faster.
    assert found.videos_per_second == second.videos_per_second < first.videos_per_second


def test_a_program_that_is_not_there_costs_its_own_part_alone(tiny_exports: Path, tmp_path: Path) -> None:
    path = tiny_exports / "tiny.onnx"
    gone = Subject(name="gone", path=path, command=(str(tmp_path / "python"), "worker.py"))
    found = schedule.run([gone, Subject(name="ours", path=path, device="cpu")], QUICK)
    assert [result.artifact for result in found.results] == ["ours"]
    assert [failure.reason for failure in found.failures] == ["python: No such file or directory"]
    assert str(tmp_path) not in found.to_json()


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(InputError, match="give at least one artifact"):
        schedule.run([], Plan())


def test_nothing_that_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(I3DError, match=r"nothing can be measured: none.onnx: .*no such file"):
        schedule.run(subjects([tmp_path / "none.onnx"]), QUICK)


def test_a_plan_that_does_not_fit_is_an_error(tiny_exports: Path) -> None:
    with pytest.raises(InputError, match="20 frames per video are no multiple of the clip's 8"):
        schedule.run(subjects([tiny_exports / "tiny.onnx"], devices=["cpu"]), Plan(frames=20))


def test_a_video_that_is_not_there_is_known_at_once(tiny_exports: Path, tmp_path: Path) -> None:
    plan = Plan(video=tmp_path / "none.mp4")
    with pytest.raises(VideoError, match=r"none\.mp4: no such file"):
        schedule.run(subjects([tiny_exports / "tiny.onnx"]), plan)
