"""From a video to labels."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

import i3d_deploy as i3d
from i3d_deploy import generated, recognizer
from i3d_deploy.card import Provenance
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import ArtifactError, InputError, VideoError
from i3d_deploy.runners.torch_runner import TorchRunner


def test_random_weights_say_so(tiny_exports: Path, tiny_checkpoint: Checkpoint) -> None:
    with i3d.load(tiny_exports / "tiny.onnx", device="cpu") as engine:
        assert [note for note in engine.notes if note.startswith("the weights are random")]
    provenance = Provenance(origin="mmaction2")
    card = tiny_checkpoint.card.model_copy(update={"provenance": provenance})
    found = Checkpoint(model=tiny_checkpoint.model, card=card)
    assert recognizer.Recognizer(TorchRunner(found, device="cpu")).notes == ()


@pytest.mark.parametrize("name", ["tiny.safetensors", "tiny.onnx", "tiny.xml"])
def test_the_answer_does_not_depend_on_the_batch(tiny_exports: Path, clip: Path, name: str) -> None:
    with i3d.load(tiny_exports / name, device="cpu") as loaded:
        one_by_one = loaded.predict(clip, batch=1)
        at_once = loaded.predict(clip, batch=6)
        uneven = loaded.predict(clip, batch=4)
    assert one_by_one.logits.shape == (6, 7)
    assert one_by_one.frames == 40
    np.testing.assert_allclose(at_once.logits, one_by_one.logits, rtol=0, atol=1e-5)
    np.testing.assert_allclose(uneven.logits, one_by_one.logits, rtol=0, atol=1e-5)
    assert float(one_by_one.probabilities.sum()) == pytest.approx(1, abs=1e-6)


def test_views_follow_the_arguments(tiny_exports: Path, clip: Path) -> None:
    steps: list[tuple[int, int]] = []
    with i3d.load(tiny_exports / "tiny.onnx") as loaded:
        assert loaded.predict(clip).views == 6
        prediction = loaded.predict(clip, clips=4, crops=1, on_views=lambda done, total: steps.append((done, total)))
    assert prediction.views == 4
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_frames_may_come_as_an_array_or_an_iterator(tiny_exports: Path) -> None:
    frames = list(generated.frames(num_frames=20, height=40, width=56))
    with i3d.load(tiny_exports / "tiny.onnx") as loaded:
        from_array = loaded.predict(np.stack(frames))
        from_iterator = loaded.predict(iter(frames))
    np.testing.assert_array_equal(from_array.logits, from_iterator.logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"clips": 0}, r"clips \(0\) must be > 0"), ({"crops": 2}, r"crops \(2\)"), ({"batch": 0}, r"batch \(0\)")],
)
def test_bad_options_are_named(tiny_exports: Path, clip: Path, options: dict[str, int], message: str) -> None:
    with i3d.load(tiny_exports / "tiny.onnx") as loaded, pytest.raises(InputError, match=message):
        loaded.predict(clip, **options)  # type: ignore[arg-type]


def test_an_answer_that_is_no_number_is_an_error(tiny_checkpoint: Checkpoint, clip: Path) -> None:
    broken = copy.deepcopy(tiny_checkpoint)
    broken.model.fc.weight.data[0, 0] = float("nan")
    with pytest.raises(ArtifactError, match=r"6 logits are not finite: .* export in bf16 or fp32"):
        recognizer.Recognizer(TorchRunner(broken, device="cpu")).predict(clip)


def test_a_video_shorter_than_a_clip_warns(tiny_exports: Path) -> None:
    frames = np.zeros((3, 40, 40, 3), np.uint8)
    with i3d.load(tiny_exports / "tiny.onnx") as loaded:
        # 8 frames taken every 2 span 15.
        assert loaded.predict(frames).warnings == (
            "3 frames are fewer than the 15 that a clip spans: they are repeated",
        )


def test_a_video_that_is_absent_is_named(tiny_exports: Path) -> None:
    with (
        i3d.load(tiny_exports / "tiny.onnx") as loaded,
        pytest.raises(VideoError, match=r"nowhere\.mp4: no such file"),
    ):
        loaded.predict("nowhere.mp4")


def test_loading_takes_a_string_and_names_what_is_wrong() -> None:
    with pytest.raises(ArtifactError, match=r"nowhere\.onnx: no such file"):
        i3d.load("nowhere.onnx")
