"""Which graphs have a stem that views can share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from openvino import opset13 as op

from i3d_deploy.runners.stem_graphs import find_stem


def network_of(path: Path) -> Any:
    """The network of a file, for one view."""
    network = openvino.Core().read_model(path)
    network.reshape([1, 8, 32, 32, 3])
    return network


def quantize_before(network: Any, place: str, *, edges: Sequence[float] = (0, 4, 0, 4), levels: int = 256) -> None:
    """Quantise what goes into the first node of a type."""
    node = next(node for node in network.get_ordered_ops() if node.get_type_name() == place)
    constants = [op.constant(np.float32(edge)) for edge in edges]
    quantized = op.fake_quantize(node.input_value(0), *constants, levels)
    node.input(0).replace_source_output(quantized.output(0))


def test_a_graph_without_a_stem_is_not_recognised() -> None:
    source = op.parameter([1, 8, 32, 32, 3], np.uint8)
    assert find_stem(openvino.Model([op.relu(source)], [source], "other")) is None


@pytest.mark.parametrize("place", ["Relu", "Convolution", "Divide", "Subtract", "MaxPool"])
def test_numbers_that_are_quantised_elsewhere_are_not_recognised(tiny_exports: Path, place: str) -> None:
    network = network_of(tiny_exports / "tiny.xml")
    quantize_before(network, place)
    # Before the convolution and before the pool is where int8 has them.
    assert (find_stem(network) is not None) == (place in ("Convolution", "MaxPool"))


@pytest.mark.parametrize(
    "options",
    [{"edges": (-4, 4, -4, 4)}, {"edges": (0, 4, 1, 4)}, {"levels": 255}],
    ids=["below 0", "another lowest number", "fewer"],
)
def test_maps_that_do_not_fit_into_bytes_are_not_recognised(tiny_exports: Path, options: dict[str, Any]) -> None:
    network = network_of(tiny_exports / "tiny.xml")
    quantize_before(network, "MaxPool", **options)
    assert find_stem(network) is None


def test_a_weight_with_a_scale_that_is_computed_is_not_recognised(tiny_exports: Path) -> None:
    network = network_of(tiny_exports / "tiny.xml")
    convolution = next(node for node in network.get_ordered_ops() if node.get_type_name() == "Convolution")
    computed = op.sqrt(op.constant(np.float32(4)))
    convolution.input(1).replace_source_output(op.multiply(convolution.input_value(1), computed).output(0))
    assert find_stem(network) is None
