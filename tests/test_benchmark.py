"""The protocol's bookkeeping; speed itself is never asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from i3d_deploy import benchmark
from i3d_deploy.benchmark import Measurement, Protocol
from i3d_deploy.errors import InputError


def test_every_video_counts_once_and_artifacts_take_turns(tiny_exports: Path) -> None:
    lines: list[str] = []
    paths = [tiny_exports / "tiny.onnx", tiny_exports / "tiny.xml"]
    protocol = Protocol(frames=16, crops=3, videos=2)
    found = benchmark.run(paths, protocol, device="cpu", on_step=lines.append)
    assert [(entry.artifact, entry.views, len(entry.seconds)) for entry in found] == [
        ("tiny.onnx", 6, 2),
        ("tiny.xml", 6, 2),
    ]
    assert [line.rpartition(" ")[2] for line in lines if line.startswith("video")] == ["tiny.onnx", "tiny.xml"] * 2
    assert found[0].difference == 0
    assert 0 < found[1].difference < 1e-3


def test_figures_follow_from_the_seconds(tiny_exports: Path) -> None:
    entry = Measurement(
        artifact="a.onnx", runner="r", precision="fp32", views=30, batch=1, seconds=(2.0, 1.9, 2.2), difference=0.0
    )
    assert entry.videos_per_second == 0.5
    assert entry.spread == pytest.approx(0.15)
    document = json.loads(json.dumps(benchmark.record([entry], Protocol())))
    (result,) = document["results"]
    assert (document["version"], result["videos_per_second"], result["is_noisy"]) == (1, 0.5, True)
    assert document["protocol"]["frames"] == 320
    assert set(document["machine"]) == {"cpu", "cores", "system", "python"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"videos": 0}, r"videos \(0\) must be > 0"),
        ({"crops": 2}, r"crops \(2\) must be 1 or 3"),
        ({"batch": 0}, r"batch \(0\) must be > 0"),
    ],
)
def test_a_protocol_checks_itself(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Protocol(**options)


def test_frames_must_fill_whole_clips(tiny_exports: Path) -> None:
    with pytest.raises(InputError, match="20 frames per video are no multiple of the clip's 8"):
        benchmark.run([tiny_exports / "tiny.onnx"], Protocol(frames=20))


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(InputError, match="give at least one artifact"):
        benchmark.run([], Protocol())
