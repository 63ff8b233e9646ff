"""Two streams behind one card: logits added up before the softmax, files checked, mismatches refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import i3d_deploy as i3d
from i3d_deploy import artifact, checkpoint, export, flow, generated, model, network, origins, two_stream, video_files
from i3d_deploy.card import Card, Provenance
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import ArtifactError, CardError, InputError
from i3d_deploy.preprocessing import Sampling, Spatial
from i3d_deploy.runners import Runner, open_runner, open_two_streams
from i3d_deploy.runners.torch_runner import TorchRunner
from i3d_deploy.two_stream import Pair
from tests import narrowed


def stream(kind: str, **changes: Any) -> Checkpoint:
    """A small Inception of one stream, with seeded weights."""
    numbers = narrowed.small(f"i3d_inception_{kind}", 5)
    net = model.build(numbers)
    model.randomize(net, seed=len(kind))
    is_rgb = kind == "rgb"
    card = Card(
        network=numbers,
        label_set="custom",
        labels=("run", "jump", "fly", "swim", "sit"),
        modality="rgb" if is_rgb else "flow",
        flow_method=None if is_rgb else "dis",
        sampling=Sampling(clip_len=9, frame_interval=1, num_clips=2),
        spatial=Spatial(short_side=36, crop_size=32, num_crops=1),
        pixels=origins.usual_conventions(numbers).pixels,
        averaging="logits",
        provenance=Provenance(origin="random weights"),
    )
    return Checkpoint(model=net, card=card.replaced(**changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both streams as safetensors and ONNX, a pair of each, and a clip."""
    folder = tmp_path_factory.mktemp("streams")
    generated.write_clip(folder / "clip.mp4", num_frames=24, height=40, width=52)
    for kind in ("rgb", "flow"):
        source = stream(kind)
        checkpoint.save(source, folder / f"i3d_{kind}.safetensors")
        (exported,) = export.export(
            source, targets=["onnx"], output=folder, name=f"i3d_{kind}", videos=[folder / "clip.mp4"]
        )
        assert exported.card.parity[0].status == "passed"
    for suffix in (".safetensors", ".onnx"):
        pair = Pair(rgb=folder / f"i3d_rgb{suffix}", flow=folder / f"i3d_flow{suffix}")
        two_stream.write(folder / f"i3d{suffix.replace('.', '_')}.json", pair)
    return folder


@pytest.mark.parametrize("suffix", ["_safetensors", "_onnx"])
def test_a_pair_adds_up_the_logits_of_its_streams(folder: Path, suffix: str) -> None:
    ending = suffix.replace("_", ".")
    clip = folder / "clip.mp4"
    with i3d.load(folder / f"i3d{suffix}.json") as pair:
        joint = pair.predict(clip)
    with i3d.load(folder / f"i3d_flow{ending}") as recognizer:
        of_flow = recognizer.predict(clip)
    # The flow of 24 frames is 23, of which the RGB stream sees the first ones as well.
    with i3d.load(folder / f"i3d_rgb{ending}") as recognizer:
        frames = np.stack(list(video_files.read(clip)))
        rgb = recognizer.predict(frames[:23])
    np.testing.assert_allclose(joint.logits, rgb.logits + of_flow.logits, rtol=0, atol=1e-5)
    summed = (rgb.logits + of_flow.logits).mean(0)
    expected = np.exp(summed) / np.exp(summed).sum()
    np.testing.assert_allclose(joint.probabilities, expected, rtol=0, atol=1e-6)


def test_the_pair_has_one_card(folder: Path) -> None:
    card = artifact.read_card(folder / "i3d_onnx.json")
    assert (card.modality, card.flow_method, card.view_shape) == ("rgb+flow", "dis", (9, 32, 32, 5))
    assert card.labels[0] == "run"
    assert card.network.num_features == 2 * narrowed.small("i3d_inception_rgb", 5).num_features
    assert Card.from_json(card.to_json(), where="here") == card


def test_flow_of_others_than_the_cards_is_told(folder: Path, tmp_path: Path) -> None:
    here = flow.implementation("dis")
    differs = f"flow is computed by {here} here; the card's was computed by OpenCV 4.9.9 Other"
    for card_says, notes in {None: 0, here: 0, "OpenCV 4.9.9 Other": 1}.items():
        checkpoint.save(stream("flow", flow_implementation=card_says), tmp_path / "flow.safetensors")
        with i3d.load(tmp_path / "flow.safetensors") as recognizer:
            assert [note for note in recognizer.notes if "flow" in note] == [differs] * notes
            assert recognizer.ran_by == f"{recognizer.info}, flow by {here}"
        with i3d.load(folder / "i3d_rgb.safetensors", flow=tmp_path / "flow.safetensors") as recognizer:
            assert recognizer.card.flow_implementation == card_says
            assert [note for note in recognizer.notes if "flow" in note] == [differs] * notes
    (exported,) = export.export(
        stream("flow", flow_implementation="OpenCV 4.9.9 Other"),
        targets=["onnx"],
        output=tmp_path,
        name="flow",
        videos=[folder / "clip.mp4"],
    )
    card = artifact.read_card(exported.path)
    assert card.flow_implementation == "OpenCV 4.9.9 Other"
    assert card.parity[0].runner.endswith(f", flow by {here}")


def test_a_network_of_frames_has_no_flow_to_tell_of(folder: Path) -> None:
    with i3d.load(folder / "i3d_rgb.onnx") as recognizer:
        assert recognizer.ran_by == str(recognizer.info)
        assert not any("flow" in note for note in recognizer.notes)


def test_two_files_can_be_given_without_a_document(folder: Path) -> None:
    clip = folder / "clip.mp4"
    with (
        i3d.load(folder / "i3d_rgb.onnx", flow=folder / "i3d_flow.onnx") as loose,
        i3d.load(folder / "i3d_onnx.json") as pair,
    ):
        np.testing.assert_array_equal(loose.predict(clip).logits, pair.predict(clip).logits)


def test_a_pair_takes_no_second_stream(folder: Path) -> None:
    with pytest.raises(InputError, match=r"i3d_onnx\.json already has its flow stream: leave out --flow"):
        i3d.load(folder / "i3d_onnx.json", flow=folder / "i3d_flow.onnx")


def test_streams_in_the_wrong_order_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="i3d_inception_flow is shown flow: it is no rgb stream of a pair"):
        open_two_streams(folder / "i3d_flow.safetensors", folder / "i3d_rgb.safetensors")


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"labels": ("run", "b", "c", "d", "e")}, r"labels \(class 1 is 'jump' of rgb and 'b' of flow\)"),
        ({"averaging": "probabilities"}, r"averaging \(logits of rgb and probabilities of flow\)"),
        (
            {"spatial": Spatial(short_side=40, crop_size=32, num_crops=1)},
            r"spatial \(short_side is 36 of rgb and 40 of flow\)",
        ),
        (
            {"sampling": Sampling(clip_len=10, frame_interval=1, num_clips=2)},
            r"sampling \(clip_len is 9 of rgb and 10 of flow\)",
        ),
    ],
)
def test_streams_that_treat_a_video_differently_are_refused(changes: dict[str, Any], difference: str) -> None:
    with pytest.raises(InputError, match=f"the two streams differ in {difference}: give both the same"):
        two_stream.combine(stream("rgb").card, stream("flow", **changes).card)


def test_parts_of_a_pair_are_asked_one_by_one(folder: Path) -> None:
    with i3d.load(folder / "i3d_safetensors.json", device="cpu") as pair:
        with pytest.raises(InputError, match="two streams are not explained together: give one of them alone"):
            pair.explain(folder / "clip.mp4")
        assert [runner.card.modality for runner in pair._runner.streams] == ["rgb", "flow"]


def test_views_of_a_pair_are_transferred_to_both(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def transfer(runner: Runner, inputs: NDArray[np.uint8]) -> None:
        seen.append((runner.card.modality, inputs.shape, inputs.flags.c_contiguous))

    monkeypatch.setattr(TorchRunner, "transfer", transfer)
    with open_runner(folder / "i3d_safetensors.json", device="cpu") as pair:
        pair.transfer(np.zeros((2, 9, 32, 32, 5), np.uint8))
    assert seen == [("rgb", (2, 9, 32, 32, 3), True), ("flow", (2, 9, 32, 32, 2), True)]


def test_a_pair_of_another_number_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="rgb has 5 classes, flow has 400"):
        network.TwoStream(rgb=narrowed.small("i3d_inception_rgb", 5), flow=network.i3d_inception_flow())


def document(folder: Path, **changes: Any) -> Path:
    """The pair's document with something else in it, beside the same files."""
    found = json.loads((folder / "i3d_onnx.json").read_text())
    path = folder / "changed.json"
    path.write_text(json.dumps({**found, **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rgb": {"file": "none.onnx", "sha256": "0"}}, r"it also needs none\.onnx beside it: no such file"),
        ({"rgb": {"file": "../a.onnx", "sha256": "0"}}, r"'\.\./a\.onnx' is no name of a file beside it"),
        ({"rgb": {"file": "i3d_rgb.onnx", "sha256": "0" * 64}}, r"describes 00000000\.\.\.: the file was replaced"),
        ({"format": "other"}, "not a pair of streams: i3d-export RGB --flow FLOW writes one"),
        ({"version": 2}, "not a pair of streams"),
        ({"third": {}}, "not a pair of streams"),
    ],
)
def test_a_document_that_does_not_fit_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        open_runner(document(folder, **changes))


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_what_is_no_document_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises((ArtifactError, CardError), match=r"a\.json: "):
        artifact.read_card(tmp_path / "a.json")


def test_a_pair_lies_in_one_folder(folder: Path, tmp_path: Path) -> None:
    pair = Pair(rgb=folder / "i3d_rgb.onnx", flow=folder / "i3d_flow.onnx")
    with pytest.raises(InputError, match=r"i3d_rgb\.onnx is not beside .*put both streams into one folder"):
        two_stream.write(tmp_path / "a.json", pair)
    with pytest.raises(InputError, match=r"a\.txt: a pair of streams is written as \.json"):
        two_stream.write(tmp_path / "a.txt", pair)
