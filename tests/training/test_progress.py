"""What a run records and prints: read back with TensorBoard's own reader, with OpenCV, and line by line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from i3d_deploy.training import progress
from i3d_deploy.training.progress import Reporter

TRAIN = {"loss": 2.0794, "top1": 12.5, "lr": 0.0125, "videos_per_second": 31.25, "data_wait": 0.075}
VAL = {"top1": 25.0, "top5": 62.5, "mean_class": 24.25, "videos": 8}


def report(folder: Path, *, first_step: int = 0, steps: range, scale: float = 1.0) -> None:
    """A run of four steps an epoch that records every step, and validates after each epoch."""
    with Reporter(folder, total_steps=12, first_step=first_step, is_enabled=True) as reporter:
        for step in steps:
            reporter.show(step)
            reporter.record("train", step=step, epoch=step / 4, values=scaled(step, scale))
            if step % 4 == 0:
                reporter.record("val", step=step, epoch=step / 4, values=VAL)


def scaled(step: int, scale: float) -> Mapping[str, float]:
    return {**TRAIN, "loss": scale / step}


def scalars(folder: Path, tag: str) -> dict[int, float]:
    """What TensorBoard shows under a name, by step."""
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    return {event.step: event.value for event in board.Scalars(tag)}


def test_records_hold_what_was_measured(tmp_path: Path) -> None:
    with Reporter(tmp_path, total_steps=12, first_step=0, is_enabled=True) as reporter:
        reporter.record("train", step=1, epoch=1 / 3, values=TRAIN)
        # Readable while the run goes on.
        assert progress.read_records(tmp_path) == [{"kind": "train", "step": 1, "epoch": 0.3333, **TRAIN}]
        reporter.record("val", step=4, epoch=1.0, values=VAL)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"kind": "train", "step": 1, "epoch": 0.3333, **TRAIN},
        {"kind": "val", "step": 4, "epoch": 1.0, **VAL},
    ]


def test_a_folder_without_records_has_none(tmp_path: Path) -> None:
    assert progress.read_records(tmp_path) == []


def test_tensorboard_shows_every_value(tmp_path: Path) -> None:
    report(tmp_path, steps=range(1, 9))
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    names = {f"train/{name}" for name in TRAIN} | {f"val/{name}" for name in VAL}
    assert set(board.Tags()["scalars"]) == names
    assert scalars(tmp_path, "train/loss") == pytest.approx({step: 1 / step for step in range(1, 9)}, rel=1e-6)
    assert scalars(tmp_path, "train/lr") == pytest.approx(dict.fromkeys(range(1, 9), 0.0125), rel=1e-6)
    assert scalars(tmp_path, "val/mean_class") == {4: 24.25, 8: 24.25}


def test_what_a_killed_run_did_after_its_checkpoint_is_dropped(tmp_path: Path) -> None:
    report(tmp_path, steps=range(1, 8))
    # It goes on after step 4, and learns otherwise.
    report(tmp_path, first_step=4, steps=range(5, 9), scale=100.0)
    expected = {step: (100 if step > 4 else 1) / step for step in range(1, 9)}
    records = progress.read_records(tmp_path)
    trained = [(entry["step"], entry["loss"]) for entry in records if entry["kind"] == "train"]
    assert trained == list(expected.items())
    assert [entry["step"] for entry in records if entry["kind"] == "val"] == [4, 8]
    assert scalars(tmp_path, "train/loss") == pytest.approx(expected, rel=1e-6)
    assert list(scalars(tmp_path, "val/top1")) == [4, 8]


def test_a_run_without_a_checkpoint_starts_its_records_anew(tmp_path: Path) -> None:
    report(tmp_path, steps=range(1, 6))
    report(tmp_path, steps=range(1, 3), scale=100.0)
    assert [(entry["step"], entry["loss"]) for entry in progress.read_records(tmp_path)] == [(1, 100.0), (2, 50.0)]
    assert scalars(tmp_path, "train/loss") == {1: 100.0, 2: 50.0}


@pytest.mark.parametrize("half", ["{", '{"kind": "train", "step": 3, "ep', '{"kind": "val", "step": 3', "\0\0\0"])
def test_half_a_line_of_a_killed_run_is_passed_over(tmp_path: Path, half: str) -> None:
    report(tmp_path, steps=range(1, 3))
    whole = progress.read_records(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write(half)
    assert progress.read_records(tmp_path) == whole
    # The resumed run writes on a line of its own.
    report(tmp_path, first_step=2, steps=range(3, 4))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_numbers_that_json_has_not_are_refused(tmp_path: Path) -> None:
    with (
        Reporter(tmp_path, total_steps=1, first_step=0, is_enabled=True) as reporter,
        pytest.raises(ValueError, match="Out of range float values are not JSON compliant"),
    ):
        reporter.record("train", step=1, epoch=1.0, values={"loss": float("nan")})
    assert progress.read_records(tmp_path) == []


def test_log_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(tmp_path, total_steps=12, first_step=0, is_enabled=True) as reporter:
        reporter.line("[bold]a file[/bold] of 3 videos: /some/path  :smile:")
        reporter.record("train", step=3, epoch=0.75, values=TRAIN)
        reporter.record("val", step=4, epoch=1.0, values=VAL)
        reporter.record("val", step=4, epoch=1.0, values={"mean_average_precision": 33.333, "videos": 8})
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "[bold]a file[/bold] of 3 videos: /some/path  :smile:",
        "train  epoch 0.75  step 3  loss 2.079  top-1 12.5 %  lr 1.25e-02  videos/s 31.2  data wait 8%",
        "val  epoch 1.00  step 4  top-1 25.0 %  top-5 62.5 %  mean class 24.2 %",
        "val  epoch 1.00  step 4  mean average precision 33.3 %",
    ]


def test_a_terminal_shows_a_bar_with_the_last_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes stderr for a terminal
    monkeypatch.setenv("COLUMNS", "150")
    with Reporter(tmp_path, total_steps=12, first_step=2, is_enabled=True) as reporter:
        reporter.show(3)
        reporter.record("train", step=3, epoch=0.75, values=TRAIN)
        reporter.record("val", step=4, epoch=1.0, values=VAL)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert " 3/12 " in text
    assert "loss 2.079  top-1 12.5 %  lr 1.25e-02  videos/s 31.2  data wait 8%" in text
    assert "val  epoch 1.00  step 4  top-1 25.0 %" in text
    assert "train  epoch" not in text


def test_a_long_line_is_not_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "a " * 300 + "end"
    with Reporter(tmp_path, total_steps=1, first_step=0, is_enabled=True) as reporter:
        reporter.line(text)
    assert capsys.readouterr().err == text + "\n"


def test_all_processes_but_the_first_are_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(tmp_path, total_steps=12, first_step=0, is_enabled=False) as reporter:
        reporter.line("a line")
        reporter.show(1)
        reporter.record("train", step=1, epoch=0.25, values=TRAIN)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def picture(folder: Path) -> NDArray[np.uint8]:
    """The curves, which must be a PNG and show something in each of the three parts."""
    path = progress.draw_curves(folder, title="small")
    assert path == folder / "curves.png"
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    assert pixels.shape == (770, 880, 3)  # 7 x 8 inches of 110 dots
    return np.asarray(pixels, np.uint8)


def has_color(pixels: NDArray[np.uint8], rgb: tuple[int, int, int]) -> bool:
    """Whether a curve of that colour is there, each line being wider than a pixel."""
    return bool((pixels[..., ::-1] == rgb).all(-1).any())


BLUE, ORANGE, GRAY = (31, 119, 180), (255, 127, 14), (127, 127, 127)  # tab:blue, tab:orange, tab:gray


def test_curves_show_training_validation_and_learning_rate(tmp_path: Path) -> None:
    report(tmp_path, steps=range(1, 13))
    pixels = picture(tmp_path)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    third = len(pixels) // 3
    assert has_color(pixels[:third], BLUE)
    assert has_color(pixels[third : 2 * third + third // 2], ORANGE)
    assert has_color(pixels[2 * third :], GRAY)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("kind", ["train", "val"])
def test_curves_of_half_a_run_are_drawn(tmp_path: Path, kind: str) -> None:
    with Reporter(tmp_path, total_steps=4, first_step=0, is_enabled=True) as reporter:
        for step in range(1, 5):
            reporter.record(kind, step=step, epoch=step / 4, values=TRAIN if kind == "train" else VAL)
    picture(tmp_path)


def test_curves_of_a_warm_up_from_nothing_are_drawn(tmp_path: Path) -> None:
    # A logarithmic axis has no place for the rate of the first step.
    with Reporter(tmp_path, total_steps=4, first_step=0, is_enabled=True) as reporter:
        for step in range(1, 5):
            reporter.record("train", step=step, epoch=step / 4, values={**TRAIN, "lr": (step - 1) / 100})
    picture(tmp_path)
