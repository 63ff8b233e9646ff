"""The card: what it accepts, what it refuses, and that it survives every file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from i3d_deploy import card as cards
from i3d_deploy.card import Card, Engine
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import CardError, InputError
from i3d_deploy.measurements import Work
from i3d_deploy.network import i3d_inception_flow
from i3d_deploy.preprocessing import Pixels, Sampling, Spatial


def changed(card: Card, **changes: Any) -> str:
    """The card's JSON with fields replaced; None removes one."""
    document = json.loads(card.to_json())
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = document
        for parent in parents:
            node = node[parent]
        if value is None:
            del node[last]
        else:
            node[last] = value
    return json.dumps(document)


def test_who_computed_the_flow_is_on_the_card_where_it_is_known(tiny_checkpoint: Checkpoint) -> None:
    assert "flow_implementation" not in json.loads(tiny_checkpoint.card.to_json())
    assert "flow_implementation" not in tiny_checkpoint.card.model_dump_json()
    numbers = i3d_inception_flow(7)
    pixels = Pixels(color="xy", mean=(127.5,) * 2, std=(127.5,) * 2)
    parts = {"network": numbers, "modality": "flow", "flow_method": "tvl1", "pixels": pixels}
    parts |= {"sampling": Sampling(), "spatial": Spatial()}
    card = tiny_checkpoint.card.replaced(**parts, flow_implementation="OpenCV 4.9.9 DualTVL1OpticalFlow")
    assert json.loads(card.to_json())["flow_implementation"] == "OpenCV 4.9.9 DualTVL1OpticalFlow"
    assert Card.from_json(card.to_json(), where="here") == card
    with pytest.raises(InputError, match="flow_implementation 'somebody' without a flow_method"):
        tiny_checkpoint.card.replaced(flow_implementation="somebody")


def test_a_card_survives_json(tiny_checkpoint: Checkpoint) -> None:
    card = tiny_checkpoint.card.model_copy(update={"engine": Engine(precision="bf16")})
    assert Card.from_json(card.to_json(), where="here") == card


def test_a_card_from_before_work_was_counted_is_read(tiny_checkpoint: Checkpoint) -> None:
    card = tiny_checkpoint.card.replaced(engine=Engine(work=Work(macs=3, elements=4)))
    older = Card.from_json(changed(card, engine__work=None), where="here")
    assert older.engine == Engine()


OLD_CARD = """{
  "averaging": "probabilities",
  "engine": {"input": "uint8_nthwc", "precision": "fp16", "profile": [1, 30, 30]},
  "label_set": "custom",
  "labels": ["run", "jump"],
  "modality": "rgb",
  "network": {
    "name": "tiny", "non_local_blocks": [], "non_local_mode": null, "num_classes": 2, "stem_kernel": 5,
    "stem_pool_stride": 2, "stem_stride": 2, "temporal_kernels": [[3, 1], [3, 1]], "width": 8
  },
  "parity": [{
    "clips": ["generated 00"], "cosine": 1.0, "max_logits": 0.001, "max_logits_allowed": 0.02, "max_probabilities": 0.0,
    "num_views": 6, "reason": null, "runner": "onnxruntime 1.22.0", "status": "passed", "top1_agreement": 1.0
  }],
  "pixels": {"color": "rgb", "mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
  "provenance": {"origin": "mmaction2", "sha256": null, "tools": {"torch": "2.7.0"}},
  "sampling": {
    "clip_len": 8, "formula": "mmaction2-0.x", "frame_interval": 2, "num_clips": 2, "out_of_bound": "loop",
    "sample_range": 64, "scheme": "uniform"
  },
  "spatial": {"crop_size": 32, "interpolation": "bilinear", "num_crops": 3, "short_side": 32},
  "version": 1
}"""


def test_a_card_from_before_layouts_calibration_and_gates_is_read() -> None:
    card = Card.from_json(OLD_CARD, where="here")
    engine = card.engine
    assert engine is not None
    assert (engine.precision, engine.layout, engine.rewrites, engine.work, engine.calibration) == (
        *("fp16", "3d", (), None, None),
    )
    assert (card.agreement, card.accuracy, card.gate) == ((), (), None)
    assert (card.labels, card.view_shape, card.num_views) == (("run", "jump"), (8, 32, 32, 3), 6)
    assert card.parity[0].status == "passed"


def test_negative_work_is_refused(tiny_checkpoint: Checkpoint) -> None:
    card = tiny_checkpoint.card.replaced(engine=Engine(work=Work(macs=3, elements=4)))
    with pytest.raises(CardError, match=r"engine\.work\.macs: Input should be greater than or equal to 0"):
        Card.from_json(changed(card, engine__work__macs=-1), where="here")


def test_equal_cards_give_equal_bytes(tiny_checkpoint: Checkpoint) -> None:
    again = Card.model_validate(json.loads(tiny_checkpoint.card.to_json()))
    assert again.to_json() == tiny_checkpoint.card.to_json()


REFUSED = [
    ({"version": 2}, r"version 2, this i3d-deploy reads up to 1: pip install --upgrade i3d-deploy"),
    ({"version": None}, "no version number"),
    ({"version": "1"}, "no version number"),
    ({"labels": None}, "labels: Field required"),
    ({"labels": ["a"]}, "1 labels for a network of 7 classes"),
    ({"colour": "red"}, "colour: Extra inputs are not permitted"),
    ({"sampling__clip_len": 0}, r"sampling.clip_len: Input should be greater than or equal to 1"),
    ({"sampling__scheme": "random"}, r"sampling.scheme: Input should be 'uniform', 'dense' or 'whole'"),
    ({"pixels__std": [1, 0, 1]}, r"pixels: std \(1.0, 0.0, 1.0\) must be > 0"),
    ({"spatial__crop_size": 64}, r"crop_size \(64\) must be <= short_side \(32\)"),
    ({"network__width": 10**9}, "network.width: Input should be less than or equal to 65536"),
    ({"network__non_local_blocks": [[], [5]]}, "stage 1 has 2 bottlenecks, not a number 5"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_malformed_card_is_refused_by_field(
    tiny_checkpoint: Checkpoint, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CardError, match=message):
        Card.from_json(changed(tiny_checkpoint.card, **changes), where="file.onnx")


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"card"'])
def test_what_is_no_card_is_refused(text: str) -> None:
    with pytest.raises(CardError, match=r"the card of file\.onnx"):
        Card.from_json(text, where="file.onnx")


def test_the_shortest_whole_video_gets_through_the_network(tiny_checkpoint: Checkpoint) -> None:
    # The stem halves 5 frames to 3, its pool these to 2, the next pool to 1; 4 frames end as none.
    whole = {"scheme": "whole", "num_clips": 1}
    card = tiny_checkpoint.card
    assert card.replaced(sampling=card.sampling.replaced(**whole, min_clip_len=5)).sampling.min_clip_len == 5
    with pytest.raises(InputError, match=r"min_clip_len \(4\) is too short: the network halves it to no frame at all"):
        card.replaced(sampling=card.sampling.replaced(**whole, min_clip_len=4))


def test_views_too_small_for_the_network_are_refused(tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match=r"clip_len \(4\) is too short"):
        tiny_checkpoint.card.replaced(sampling=Sampling(clip_len=4))
    with pytest.raises(InputError, match=r"crop_size \(8\) is too small: 1 pixel is left at a non-local block"):
        tiny_checkpoint.card.replaced(spatial=Spatial(short_side=8, crop_size=8))


def test_labels_of_another_count_are_refused(tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(InputError, match="101 labels given for a network of 7 classes"):
        cards.with_labels(tiny_checkpoint.card, "ucf101")
