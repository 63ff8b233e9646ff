"""The proof fails where it must."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from i3d_deploy import artifact, checkpoint, export, limits, parity, to_onnx
from i3d_deploy.card import Card, Engine
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.measurements import Parity
from i3d_deploy.preprocessing import Spatial
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.runners.openvino_runner import OpenVINORunner
from i3d_deploy.runners.torch_runner import TorchRunner
from i3d_deploy.views import Part, prepare


def test_limits_are_those_the_project_states() -> None:
    assert limits.LOGITS_LIMITS == {"fp32": 1e-4, "fp16": 2e-2, "bf16": 8 * 2e-2}


@pytest.mark.parametrize(("scale", "limit"), [(0.5, 1e-3), (3.0, 3e-3)])
def test_the_limit_grows_with_the_logits(tiny_checkpoint: Checkpoint, scale: float, limit: float) -> None:
    # The tiny network has a dot_product block, whose fp32 limit is 1e-3.
    card = tiny_checkpoint.card.model_copy(update={"engine": Engine()})
    logits = np.array([[scale, -scale]], np.float32)
    assert limits.logits_limit(card, logits) == pytest.approx(limit)


def test_eight_bits_are_held_to_the_spread_of_the_logits(tiny_checkpoint: Checkpoint) -> None:
    card = tiny_checkpoint.card.model_copy(update={"engine": Engine(precision="int8")})
    assert limits.logits_limit(card, np.array([[0.5, -0.5]], np.float32)) == pytest.approx(0.5)
    assert limits.logits_limit(card, np.array([[6.0, -6.0]], np.float32)) == pytest.approx(6)


def rewritten(source: Path, target: Path, *, card: Card | None = None, weight_factor: float = 1.0) -> Path:
    """A copy of an ONNX artifact with another card, or with its classifier's weights scaled."""
    graph = onnx.load(source)
    for entry in graph.graph.initializer:
        if entry.name.endswith("fc.weight"):
            scaled = numpy_helper.to_array(entry) * np.float32(weight_factor)
            entry.CopyFrom(numpy_helper.from_array(scaled, entry.name))
    to_onnx.write(graph, card or artifact.read_card(source), target)
    return target


def verify(path: Path, source: Checkpoint, clip: Path) -> Parity:
    """The proof on one given clip."""
    return export.verify(path, source, videos=[clip], device="cpu")


def test_an_equal_artifact_passes_with_figures(tiny_exports: Path, tiny_checkpoint: Checkpoint, clip: Path) -> None:
    found = verify(tiny_exports / "tiny.onnx", tiny_checkpoint, clip)
    assert (found.status, found.num_views, found.top1_agreement) == ("passed", 6, 1.0)
    assert found.max_logits is not None and found.max_logits < 1e-4
    assert found.cosine == pytest.approx(1, abs=1e-6)
    assert re.fullmatch(r"given [0-9a-f]{64}", found.clips[0])


def test_other_weights_fail_at_the_logits(
    tiny_exports: Path, tiny_checkpoint: Checkpoint, clip: Path, tmp_path: Path
) -> None:
    path = rewritten(tiny_exports / "tiny.onnx", tmp_path / "a.onnx", weight_factor=1.01)
    found = verify(path, tiny_checkpoint, clip)
    assert found.status == "failed"
    assert re.match(r"logits: differ by .*, allowed 0\.001", found.reason or "")


@pytest.mark.parametrize(
    ("factor", "status", "reason"),
    [(1.05, "passed", ""), (-1.0, "failed", "logits: differ by .*"), (0.0, "failed", "logits: .*")],
)
def test_another_network_is_no_artifact_of_eight_bits(
    tiny_exports: Path, tiny_checkpoint: Checkpoint, clip: Path, tmp_path: Path, factor: float, status: str, reason: str
) -> None:
    card = artifact.read_card(tiny_exports / "tiny.onnx")
    card = card.replaced(engine=Engine(precision="int8"))
    path = rewritten(tiny_exports / "tiny.onnx", tmp_path / "a.onnx", card=card, weight_factor=factor)
    found = verify(path, tiny_checkpoint, clip)
    assert found.status == status
    assert re.fullmatch(reason, found.reason or "")


def test_infinite_logits_fail(tiny_exports: Path, tiny_checkpoint: Checkpoint, clip: Path, tmp_path: Path) -> None:
    path = rewritten(tiny_exports / "tiny.onnx", tmp_path / "a.onnx", weight_factor=float("inf"))
    found = verify(path, tiny_checkpoint, clip)
    assert (found.status, found.max_logits) == ("failed", None)
    assert "not finite" in (found.reason or "")


CHANGED = [
    ("pixels", {"mean": (0.0, 0.0, 0.0)}, "card: the artifact's pixels is not the checkpoint's"),
    ("sampling", {"frame_interval": 1}, "indices: the artifact's card chooses other frames"),
    ("spatial", {"num_crops": 1}, "views: 2 instead of 6"),
]


@pytest.mark.parametrize(("part", "changes", "reason"), CHANGED)
def test_another_card_fails_at_its_stage(
    tiny_exports: Path,
    tiny_checkpoint: Checkpoint,
    clip: Path,
    tmp_path: Path,
    part: str,
    changes: dict[str, Any],
    reason: str,
) -> None:
    card = artifact.read_card(tiny_exports / "tiny.onnx")
    card = card.model_copy(update={part: getattr(card, part).model_copy(update=changes)})
    path = rewritten(tiny_exports / "tiny.onnx", tmp_path / "a.onnx", card=card)
    found = verify(path, tiny_checkpoint, clip)
    assert found.status == "failed"
    assert (found.reason or "").startswith(reason)


def test_other_pixels_fail_at_the_views(
    tiny_exports: Path, tiny_checkpoint: Checkpoint, clip: Path, tmp_path: Path
) -> None:
    card = artifact.read_card(tiny_exports / "tiny.onnx")
    one_crop = dataclasses.replace(
        tiny_checkpoint, card=tiny_checkpoint.card.replaced(spatial=Spatial(short_side=32, crop_size=32, num_crops=1))
    )
    larger = card.replaced(spatial=Spatial(short_side=40, crop_size=32, num_crops=1))
    found = verify(rewritten(tiny_exports / "tiny.onnx", tmp_path / "a.onnx", card=larger), one_crop, clip)
    assert (found.reason or "").startswith("views: the artifact's card cuts other pixels")


@pytest.mark.parametrize(
    "changes", [{"averaging": "logits"}, {"labels": ("g", "f", "e", "d", "c", "b", "a")}], ids=["averaging", "labels"]
)
def test_other_labels_or_averaging_fail(
    tiny_exports: Path, tiny_checkpoint: Checkpoint, clip: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    card = artifact.read_card(tiny_exports / "tiny.onnx").replaced(**changes)
    found = verify(rewritten(tiny_exports / "tiny.onnx", tmp_path / "a.onnx", card=card), tiny_checkpoint, clip)
    assert (found.status, found.reason) == (
        "failed",
        f"card: the artifact's {next(iter(changes))} is not the checkpoint's",
    )


def test_an_engine_that_takes_one_view_only_fails(
    tiny_exports: Path, tiny_checkpoint: Checkpoint, clip: Path, tmp_path: Path
) -> None:
    graph = onnx.load(tiny_exports / "tiny.onnx")
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    path = tmp_path / "a.onnx"
    onnx.save(graph, path)
    found = verify(path, tiny_checkpoint, clip)
    assert found.status == "failed"
    assert (found.reason or "").startswith("3 views at once: ")


def test_a_measurement_is_recorded_on_the_card(
    tiny_exports: Path, tiny_checkpoint: Checkpoint, clip: Path, tmp_path: Path
) -> None:
    for name in ("tiny.onnx", "tiny.xml", "tiny.bin", "tiny.safetensors"):
        shutil.copy(tiny_exports / name, tmp_path)
    for name in ("tiny.onnx", "tiny.xml", "tiny.safetensors"):
        path = tmp_path / name
        before = artifact.read_card(path)
        export.record(path, Parity(runner="none", status="not measured here"))
        figures = verify(path, tiny_checkpoint, clip)
        export.record(path, figures)
        after = artifact.read_card(path)
        # What was not measured is forgotten, the figures of the same runner are replaced.
        assert after.parity[-1] == figures
        assert len({entry.runner for entry in after.parity}) == len(after.parity)
        assert after.replaced(parity=()) == before.replaced(parity=())
        assert verify(path, tiny_checkpoint, clip) == figures


def test_a_failed_export_is_kept_aside(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = export.export(tiny_checkpoint, targets=["onnx"], output=tmp_path, name="tiny")[0]
    before = good.path.read_bytes()
    monkeypatch.setitem(limits.NON_LOCAL_LIMITS, "dot_product", 0.0)
    monkeypatch.setitem(limits.LOGITS_LIMITS, "fp32", 1e-12)
    (bad,) = export.export(tiny_checkpoint, targets=["onnx"], output=tmp_path, name="tiny")
    assert bad.has_failed
    assert bad.path == tmp_path / "tiny.failed.onnx"
    assert artifact.read_card(bad.path).parity[0].status == "failed"
    assert good.path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["tiny.failed.onnx", "tiny.onnx"]


def test_what_cannot_run_here_is_not_called_passed(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    for exported in export.export(
        tiny_checkpoint, targets=["onnx"], output=tmp_path, name="tiny", engine=Engine(precision="bf16")
    ):
        # ONNX Runtime's CPU provider has no bf16 convolution.
        (entry,) = artifact.read_card(exported.path).parity
        assert (entry.status, entry.max_logits) == ("not measured here", None)
        assert not exported.has_failed
        assert str(tmp_path) not in (entry.reason or "")


def test_figures_are_rounded_up() -> None:
    assert [parity._up(number) for number in (1.21e-6, 1.2e-6, 0.0, 9.99e-3)] == [1.3e-6, 1.2e-6, 0.0, 1e-2]


def test_the_native_export_is_the_checkpoint(tiny_exports: Path, tiny_checkpoint: Checkpoint) -> None:
    found = checkpoint.load(tiny_exports / "tiny.safetensors")
    assert found.card.parity[0].status == "passed"
    assert found.card.network == tiny_checkpoint.card.network


@pytest.mark.parametrize("broken", ["shared", "plain"])
def test_the_proof_asks_both_forms(tiny_exports: Path, tiny_checkpoint: Checkpoint, clip: Path, broken: str) -> None:
    class Broken(OpenVINORunner):
        least_saved = -math.inf

        def infer_parts(self, parts: Iterable[Part]) -> Iterator[tuple[Part, np.ndarray]]:
            for part, logits in super().infer_parts(parts):
                yield part, logits + np.float32(broken == "shared")

        def infer(self, batch: np.ndarray) -> np.ndarray:
            return super().infer(batch) + np.float32(broken == "plain")

    proven = parity.given_clips([clip])
    source = Recognizer(TorchRunner(tiny_checkpoint, device="cpu"))
    references = [parity.answer(source, prepare(clip, tiny_checkpoint.card))]
    found = parity.compare(references, Recognizer(Broken(tiny_exports / "tiny.xml")), proven)
    assert found.status == "failed"
    assert found.max_logits == pytest.approx(1.05, abs=0.06)  # 1, and what is rounded up
