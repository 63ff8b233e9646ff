"""2D graphs: equal to the 3D ones on random networks, odd sizes and every kind of window."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from i3d_deploy import model, rewrites, to_2d, to_onnx, work
from i3d_deploy.card import Engine
from i3d_deploy.checkpoint import Checkpoint
from i3d_deploy.errors import ExportError
from tests import narrowed
from tests.test_rewrites import run

RandomState = np.random.RandomState


def traced(net: nn.Module, size: tuple[int, ...], *, channels: int = 3) -> onnx.ModelProto:
    """A network as PyTorch's exporter writes it, N dynamic."""
    with to_onnx._quiet():
        program = torch.onnx.export(
            net.eval(),
            (torch.zeros(2, channels, *size),),
            dynamo=True,
            dynamic_shapes={"x": {0: torch.export.Dim("N")}},
            input_names=["x"],
            output_names=["y"],
            opset_version=18,
            verbose=False,
        )
    assert program is not None
    found: onnx.ModelProto = program.model_proto
    return found


def check(net: nn.Module, size: tuple[int, ...], *, channels: int = 3, atol: float = 2e-6) -> onnx.ModelProto:
    """Hold the lowered graph against PyTorch's float64, for one and for several views."""
    lowered = to_2d.lower(traced(Named(net), size, channels=channels))
    exact = copy.deepcopy(net).double()
    for views in (1, 3):
        inputs = RandomState(views).standard_normal((views, channels, *size)).astype(np.float32)
        with torch.no_grad():
            expected = exact(torch.from_numpy(inputs).double()).numpy()
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(run(lowered, inputs), expected, rtol=0, atol=atol * scale)
    return lowered


class Named(nn.Module):
    """A network whose input is called x."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.net(x)
        return found


def ranks(made: onnx.ModelProto) -> set[int]:
    """Dimensions of the kernels of all convolutions and pools."""
    nodes = [node for node in made.graph.node if node.op_type in ("Conv", "MaxPool")]
    return {len(rewrites.attributes(node)["kernel_shape"]) for node in nodes}


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "over time": lambda: nn.Conv3d(3, 5, (3, 1, 1), padding=(1, 0, 0)),
    "over time, strided": lambda: nn.Conv3d(3, 5, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0)),
    "over time, dilated": lambda: nn.Conv3d(3, 5, (3, 1, 1), dilation=(2, 1, 1), padding=(2, 0, 0)),
    "over time, no bias": lambda: nn.Conv3d(3, 5, (2, 1, 1), bias=False),
    "over time, grouped": lambda: nn.Conv3d(3, 6, (3, 1, 1), padding=(1, 0, 0), groups=3),
    "over space": lambda: nn.Conv3d(3, 5, (1, 3, 3), padding=(0, 1, 1)),
    "over space, strided": lambda: nn.Conv3d(3, 5, (1, 3, 2), stride=(1, 2, 3), padding=(0, 1, 0)),
    "over space, grouped": lambda: nn.Conv3d(3, 6, (1, 3, 3), groups=3),
    "over nothing": lambda: nn.Conv3d(3, 5, 1),
    "over nothing, strided": lambda: nn.Conv3d(3, 5, 1, stride=(1, 2, 2)),
    "over nothing, strided in time": lambda: nn.Conv3d(3, 5, 1, stride=(2, 1, 1)),
    "over all": lambda: nn.Conv3d(3, 5, 3, padding=1),
    "over all, as the stem": lambda: nn.Conv3d(3, 5, (5, 7, 7), stride=(4, 2, 2), padding=(2, 3, 3)),
    "over all, dilated": lambda: nn.Conv3d(3, 5, (3, 2, 3), dilation=(2, 3, 1), padding=(1, 1, 0)),
    "over all, strided in time and space": lambda: nn.Conv3d(3, 5, 1, stride=2),
    "pool over space": lambda: nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
    "pool over time": lambda: nn.MaxPool3d((2, 1, 1)),
    "pool over all": lambda: nn.MaxPool3d((2, 3, 3), stride=(2, 2, 2), padding=(1, 1, 0)),
    "pool over all, dilated and rounded up": lambda: nn.MaxPool3d(2, dilation=(2, 1, 3), ceil_mode=True),
    "pool that drops frames": lambda: nn.MaxPool3d((1, 3, 3), stride=2, padding=(0, 1, 1)),
    "pool over space, rounded up": lambda: nn.MaxPool3d((1, 2, 2), ceil_mode=True),
}


@pytest.mark.parametrize("size", [(8, 12, 12), (9, 13, 11)], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_every_window_becomes_2d_and_answers_the_same(name: str, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    assert ranks(check(LAYERS[name](), size)) == {2}


@pytest.mark.parametrize(
    "layer",
    [nn.Conv3d(4, 4, 3, groups=2), nn.AvgPool3d((1, 2, 2))],
    ids=["grouped over all", "average"],
)
def test_others_stay_3d_between_2d_ones(layer: nn.Module) -> None:
    torch.manual_seed(0)
    around = nn.Sequential(nn.Conv3d(3, 4, (1, 3, 3)), nn.ReLU(), layer, nn.Conv3d(4, 2, (3, 1, 1)))
    check(around, (9, 13, 11))


class Residual(nn.Module):
    """Two branches in different forms, added; one value per channel and one for all."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0))
        self.space = nn.Conv3d(3, 4, (1, 3, 3), padding=(0, 1, 1))
        self.offset = nn.Parameter(torch.randn(4, 1, 1, 1))
        self.other = nn.Parameter(torch.randn(1, 1, 9, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both: torch.Tensor = self.time(x).relu() + self.space(x) * self.offset
        found: torch.Tensor = (both - 0.5) * self.other + self.space(x)
        return found


def test_branches_of_different_forms_meet() -> None:
    torch.manual_seed(0)
    check(Residual(), (9, 8, 7))


class Several(nn.Module):
    """The input, in its plain form, beside others; constants of a value per channel, as many as there are frames."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Conv3d(3, 3, (3, 1, 1), padding=(1, 0, 0))
        self.scale = nn.Parameter(torch.randn(1, 3, 1, 1, 1))
        self.pool = nn.MaxPool3d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.time(x) + x * self.scale + self.pool(x) * self.scale
        return found


@pytest.mark.parametrize("frames", [3, 5])
def test_constants_beside_plain_tensors_keep_their_axes(frames: int) -> None:
    torch.manual_seed(0)
    check(Several(), (frames, 6, 7))


def test_weights_that_two_windows_share_are_kept_for_both() -> None:
    weights = RandomState(0).standard_normal((4, 3, 1, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["0"]),
        helper.make_node("Conv", ["x", "w"], ["1"], strides=[1, 2, 2]),
        helper.make_node("MaxPool", ["0"], ["2"], kernel_shape=[1, 1, 1], strides=[1, 2, 2]),
        helper.make_node("Sub", ["2", "1"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ("N", 3, 4, 8, 8))]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ("N", 4, 4, 4, 4))]
    graph = helper.make_graph(nodes, "shared", inputs, outputs, [numpy_helper.from_array(weights, "w")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    lowered = to_2d.lower(made)
    assert ranks(lowered) == {2}
    data = RandomState(1).standard_normal((2, 3, 4, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(lowered, data), np.zeros((2, 4, 4, 4, 4)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_answer_the_same(seed: int) -> None:
    random = RandomState(seed)
    torch.manual_seed(seed)
    size = tuple(int(side) for side in random.randint(11, 16, 3))
    layers: list[nn.Module] = []
    channels = 3
    for number in range(5):
        kernel = [(3, 1, 1), (1, 3, 3), (1, 1, 1), (3, 3, 3)][random.randint(4)]
        stride = tuple(random.randint(1, 3, 3).tolist()) if number == random.randint(5) else (1, 1, 1)
        width = int(random.randint(2, 7))
        layers.append(
            nn.Conv3d(channels, width, kernel, stride, padding=(kernel[0] // 2, kernel[1] // 2, kernel[2] // 2))
        )
        layers.append([nn.ReLU(), nn.Sigmoid(), nn.MaxPool3d((1, 3, 3), 1, (0, 1, 1))][random.randint(3)])
        channels = width
    layers.append(Mean())
    check(nn.Sequential(*layers), size)


class Mean(nn.Module):
    """Average over time and space."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3, 4))


@pytest.mark.parametrize("name", narrowed.DISTINCT)
@pytest.mark.parametrize("size", [(8, 32), (9, 37)], ids=["even", "odd"])
def test_every_network_answers_the_same(name: str, size: tuple[int, int]) -> None:
    numbers = narrowed.small(name, 7)
    net = model.build(numbers)
    model.randomize(net, seed=0)
    card = narrowed.card_of(numbers, frames=size[0], side=size[1])
    plain = rewrites.merge_pads(to_onnx.convert(net, card, Engine()))
    lowered = to_2d.lower(plain)
    assert ranks(lowered) == {2}
    assert work.count(lowered).macs == work.count(plain).macs
    frames = RandomState(0).randint(0, 256, (2, *card.view_shape)).astype(np.uint8)
    np.testing.assert_allclose(run(lowered, frames), run(plain, frames), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("precision", "kind"), [("fp16", 10), ("bf16", 16)])
def test_weights_keep_their_type(tiny_checkpoint: Checkpoint, precision: str, kind: int) -> None:
    plain = to_onnx.convert(
        tiny_checkpoint.model, tiny_checkpoint.card, Engine.model_validate({"precision": precision})
    )
    lowered = to_2d.lower(plain)
    onnx.checker.check_model(lowered, full_check=True)
    types = {entry.name: entry.data_type for entry in lowered.graph.initializer}
    assert {types[node.input[1]] for node in lowered.graph.node if node.op_type == "Conv"} == {kind}


def test_the_graph_given_stays_and_two_runs_give_the_same_bytes(tiny_checkpoint: Checkpoint) -> None:
    plain = to_onnx.convert(tiny_checkpoint.model, tiny_checkpoint.card, Engine())
    before = plain.SerializeToString(deterministic=True)
    first, second = (to_2d.lower(plain).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert plain.SerializeToString(deterministic=True) == before


def test_computed_weights_are_refused() -> None:
    nodes = [
        helper.make_node("Relu", ["w"], ["positive"]),
        helper.make_node("Conv", ["x", "positive"], ["y"], kernel_shape=[1, 3, 3]),
    ]
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ("N", 3, 4, 8, 8))]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ("N", 2, 4, 6, 6))]
    weights = numpy_helper.from_array(np.ones((2, 3, 1, 3, 3), np.float32), "w")
    made = helper.make_model(helper.make_graph(nodes, "computed", inputs, outputs, [weights]))
    with pytest.raises(ExportError, match=r"positive: only convolutions whose weights are stored in the graph"):
        to_2d.lower(made)
