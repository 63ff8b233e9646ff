"""Evidence on the frames and pixels of a video, and how it is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from i3d_deploy import evidence, generated, recognizer, video_files
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import InputError, VideoError
from i3d_deploy.evidence import sightings
from i3d_deploy.geometry import Box
from i3d_deploy.recognizer import Recognizer
from i3d_deploy.runners.torch_runner import TorchRunner
from tests import explained
from tests.test_features import runner_of


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Checkpoint) -> Recognizer:
    """The tiny network, with two clips under three crops."""
    return Recognizer(TorchRunner(tiny_checkpoint, device="cpu"))


def test_clips_see_the_frames_between_those_that_they_take() -> None:
    seen = sightings(np.array([[0, 2, 4], [3, 6, 9]]))
    assert sorted(seen) == list(range(10))
    assert seen[1] == [(0, 0.5)]
    assert seen[3] == [(0, 1.5), (1, 0.0)]
    assert seen[4] == [(0, 2.0), (1, pytest.approx(1 / 3))]
    assert seen[9] == [(1, 2.0)]


def test_clips_of_a_repeated_video_see_frames_several_times() -> None:
    assert sightings(np.array([[0, 2, 1, 0]])) == {0: [(0, 0.0), (0, 3.0)], 1: [(0, 0.5), (0, 2.0)], 2: [(0, 1.0)]}
    assert sightings(np.array([[3, 3]])) == {3: [(0, 0.0), (0, 1.0)]}


def test_evidence_is_interpolated_between_positions() -> None:
    maps = np.zeros((1, 2, 1, 3))
    maps[0, :, 0] = [[0, 6, 0], [0, 18, 0]]
    found = explained.evidence(maps, indices=[[0, 1, 2, 3]], num_frames=4, frame_size=(2, 6))
    frames = found.on_frames(0)
    # Positions look at columns 0.5, 2.5 and 4.5 and at frames 0.5 and 2.5, and each counts a sixth.
    row = np.array([0, 0.25, 0.75, 0.75, 0.25, 0])
    for number, peak in enumerate([1, 1.5, 2.5, 3]):
        found_here = frames.at(number)
        assert found_here is not None
        np.testing.assert_allclose(found_here, np.stack([row * peak] * 2), rtol=1e-6)
    assert frames.highest() == pytest.approx(0.75 * 3)
    assert frames.sees_everything


def test_crops_and_clips_are_averaged_and_what_none_saw_has_no_evidence() -> None:
    boxes = Box(0, 0, 4, 4), Box(2, 0, 6, 4)
    maps = np.array([1, 2, 3, 5]).reshape(4, 1, 1, 1)  # left crop of both clips, then the right one
    found = explained.evidence(maps, indices=[[0, 1], [1, 2]], num_frames=4, frame_size=(4, 7), boxes=boxes)
    frames = found.on_frames(0)
    first, both, last = (frames.at(number) for number in range(3))
    assert first is not None
    assert both is not None
    assert last is not None
    # Column 2 is the third of four of the left crop and the first of the right one: it counts two to one.
    np.testing.assert_allclose(first[0], [1, 1, 5 / 3, 7 / 3, 3, 3, np.nan], rtol=1e-6)
    np.testing.assert_allclose(both[3], [1.5, 1.5, 7 / 3, 19 / 6, 4, 4, np.nan], rtol=1e-6)
    np.testing.assert_allclose(last[1, [0, 5]], [2, 5], rtol=1e-6)
    assert frames.at(3) is None
    assert not frames.sees_everything
    assert frames.highest() == pytest.approx(5)


def test_evidence_of_every_view_and_bias_are_its_logit(tiny: Recognizer, clip: Path) -> None:
    found = tiny.explain(clip)
    logits = tiny.predict(clip).logits
    assert logits.shape == (6, 7)
    np.testing.assert_allclose(found.prediction.logits, logits, rtol=1e-5, atol=1e-5)
    for index in range(7):
        summed = found.evidence.of_class(index).sum((1, 2, 3)) + found.evidence.head.biases[index]
        np.testing.assert_allclose(summed, logits[:, index], rtol=1e-5, atol=1e-5)
    assert found.evidence.is_exact
    assert found.notes == ()


def test_evidence_of_flow_is_on_the_frames_that_it_leads_from(tmp_path: Path) -> None:
    video_files.write(tmp_path / "fast.mp4", generated.frames(num_frames=41, height=36, width=48), frames_per_second=50)
    found = Recognizer(runner_of("i3d_inception_flow", head_window=(2, 1, 1))).explain(tmp_path / "fast.mp4", clips=1)
    # At 25 a second every other frame: 20 flow frames, of which the clip of 16 in the middle begins with the third.
    assert found.evidence.indices.tolist() == [list(range(4, 36, 2))]
    assert found.evidence.num_frames == 41


def test_the_first_label_is_explained_unless_another_is_given(tiny: Recognizer, clip: Path) -> None:
    first = tiny.explain(clip, clips=1, crops=1)
    assert first.label == first.prediction.top(1)[0][0]
    for label in ("größer", 4, "4"):
        assert tiny.explain(clip, label, clips=1, crops=1).index == 4


@pytest.mark.parametrize("label", ["jumping", 7, -1, "²"])
def test_other_classes_are_refused_before_the_video_is_read(tiny: Recognizer, label: str | int) -> None:
    with pytest.raises(InputError, match=r"no class .*: give a label of the card or a number from 0 to 6"):
        tiny.explain("missing.mp4", label)


def test_a_similar_label_is_offered(tiny: Recognizer) -> None:
    with pytest.raises(InputError, match="did you mean 'jump'"):
        tiny.explain("missing.mp4", "jumps")


def test_progress_and_bad_videos_are_told(tiny: Recognizer, clip: Path) -> None:
    told: list[tuple[int, int]] = []
    tiny.explain(clip, batch=4, on_views=lambda done, total: told.append((done, total)))
    assert told == [(4, 6), (6, 6)]
    with pytest.raises(VideoError, match=r"missing\.mp4: no such file"):
        tiny.explain("missing.mp4")
    with pytest.raises(InputError, match=r"batch \(0\) must be > 0"):
        tiny.explain(clip, batch=0)


def test_an_engine_cannot_explain(tiny_exports: Path, clip: Path) -> None:
    with (
        recognizer.load(tiny_exports / "tiny.onnx", device="cpu") as engine,
        pytest.raises(InputError, match="give the checkpoint instead"),
    ):
        engine.explain(clip)


def test_averaged_probabilities_are_noted(tiny_checkpoint: Checkpoint, clip: Path) -> None:
    network = tiny_checkpoint.card.network.model_copy(update={"head_window": (1, 2, 2), "positions": "probabilities"})
    card = tiny_checkpoint.card.model_copy(update={"network": network})
    runner = TorchRunner(Checkpoint(model=tiny_checkpoint.model, card=card), device="cpu")
    found = Recognizer(runner).explain(clip, clips=1, crops=1)
    assert not found.evidence.is_exact
    assert ["mean of their logits" in note for note in found.notes] == [True]


def test_views_may_be_gathered_in_any_batch(tiny: Recognizer, clip: Path) -> None:
    whole, one_by_one = (tiny.explain(clip, batch=batch).evidence for batch in (6, 1))
    np.testing.assert_allclose(whole.class_maps, one_by_one.class_maps, rtol=1e-4, atol=1e-5)
    assert isinstance(whole, evidence.Evidence)
