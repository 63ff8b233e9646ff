"""OpenVINO models of int8."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from numpy.typing import NDArray

from i3d_deploy import artifact, quantize_openvino
from i3d_deploy.errors import ExportError


def views(path: Path, count: int) -> Iterator[NDArray[np.uint8]]:
    random = np.random.RandomState(0)
    for _ in range(count):
        yield random.randint(0, 256, (1, *artifact.read_card(path).view_shape)).astype(np.uint8)


@pytest.fixture(scope="module")
def models(tiny_exports: Path) -> tuple[openvino.Model, openvino.Model]:
    """The float32 model and the quantised one."""
    path = tiny_exports / "tiny.xml"
    model = openvino.Core().read_model(path)
    return model, quantize_openvino.quantize(model, lambda: views(path, 3), num_views=3)


def without_moves(node: Any) -> Any:
    """The node that makes a tensor, before it is only pooled or laid out anew."""
    while node.get_type_name() in ("MaxPool", "Reshape", "Transpose"):
        node = node.input_value(0).get_node()
    return node


def test_every_convolution_multiplies_int8_and_the_classifier_does_not(
    models: tuple[openvino.Model, openvino.Model],
) -> None:
    model, quantized = models
    nodes = quantized.get_ordered_ops()
    convolutions = [node for node in nodes if node.get_type_name() == "Convolution"]
    fakes = [without_moves(node.input_value(0).get_node()).get_type_name() for node in convolutions]
    assert len(convolutions) == sum(node.get_type_name() == "Convolution" for node in model.get_ordered_ops()) > 10
    assert set(fakes) == {"FakeQuantize"}
    stored = [
        node for node in nodes if node.get_type_name() == "Constant" and node.get_element_type().to_string() == "i8"
    ]
    assert len(stored) == len(convolutions)
    classifier = next(node for node in nodes if node.get_friendly_name().startswith("Gemm"))
    assert classifier.input_value(0).get_node().get_type_name() != "FakeQuantize"


def test_the_model_itself_is_left_as_it_was(models: tuple[openvino.Model, openvino.Model]) -> None:
    assert "FakeQuantize" not in {node.get_type_name() for node in models[0].get_ordered_ops()}


def test_answers_stay_close(models: tuple[openvino.Model, openvino.Model], tiny_exports: Path) -> None:
    core, hint = openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32"}
    (view,) = views(tiny_exports / "tiny.xml", 1)
    exact, ours = (core.compile_model(model, "CPU", hint)([view])[0] for model in models)
    assert 0 < np.abs(exact - ours).max() < exact.std()


def test_without_views_there_is_one_line(tiny_exports: Path) -> None:
    model = openvino.Core().read_model(tiny_exports / "tiny.xml")
    with pytest.raises(ExportError, match=r"NNCF cannot quantise the model: "):
        quantize_openvino.quantize(model, lambda: iter(()), num_views=1)


CODE = """
import sys
import openvino
from i3d_deploy import quantize_openvino
from tests.test_quantize_openvino import views
from pathlib import Path
path = Path(sys.argv[1])
quantize_openvino.quantize(openvino.Core().read_model(path), lambda: views(path, 2), num_views=2)
"""


def test_nothing_is_printed(tiny_exports: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, tiny_exports / "tiny.xml"], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
