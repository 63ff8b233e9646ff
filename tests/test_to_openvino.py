"""The OpenVINO files: the card survives, fp16 halves them."""

from __future__ import annotations

from pathlib import Path

import openvino
import pytest

from i3d_deploy import to_onnx, to_openvino
from i3d_deploy.artifact import read_card
from i3d_deploy.card import Engine
from i3d_deploy.checkpoint import Checkpoint


@pytest.mark.parametrize(("precision", "share"), [("fp32", 1.0), ("bf16", 1.0), ("fp16", 0.5)])
def test_weights_have_the_size_of_their_type(
    tiny_checkpoint: Checkpoint, tmp_path: Path, precision: str, share: float
) -> None:
    engine = Engine.model_validate({"precision": precision})
    card = tiny_checkpoint.card.model_copy(update={"engine": engine})
    path = tmp_path / "tiny.xml"
    model = to_openvino.convert(to_onnx.convert(tiny_checkpoint.model, card, Engine()))
    to_openvino.write(model, card, path)
    parameters = sum(tensor.numel() for tensor in tiny_checkpoint.model.parameters())
    assert path.with_suffix(".bin").stat().st_size == pytest.approx(4 * share * parameters, rel=0.05)
    assert read_card(path) == card
    # OpenVINO's own reader finds the same card.
    assert openvino.Core().read_model(path).get_rt_info(["i3d_card"]).astype(str) == card.to_json()
