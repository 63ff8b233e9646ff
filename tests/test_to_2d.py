"""2D graphs: equal to the 3D ones on random networks, odd sizes and every kind of window."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import nn

from i3d_deploy import model, rewrites, to_2d, to_onnx, torch_work, work
from i3d_deploy.card import Engine
from i3d_deploy.errors import ExportError
from i3d_deploy.network import Inception, ResNet
from tests import narrowed
from tests.test_rewrites import run

Array = NDArray[Any]
RandomState = np.random.RandomState


class Beside(nn.Module):
    """Networks that are shown the same clips, which are called x."""

    def __init__(self, nets: Iterable[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(net(x) for net in self.nets)


def traced(
    nets: Iterable[nn.Module], size: tuple[int, ...], *, dtype: torch.dtype = torch.float32, opset: int = 18
) -> onnx.ModelProto:
    """Networks as PyTorch's exporter writes them into one graph, N dynamic."""
    with to_onnx._quiet():
        program = torch.onnx.export(
            Beside(nets).eval(),
            (torch.zeros(2, 3, *size, dtype=dtype),),
            dynamo=True,
            dynamic_shapes={"x": {0: torch.export.Dim("N")}},
            input_names=["x"],
            opset_version=opset,
            verbose=False,
        )
    assert program is not None
    found: onnx.ModelProto = program.model_proto
    return found


class Compared(NamedTuple):
    """A graph before and after, and of every network in it the answers of the latter and those of PyTorch."""

    plain: onnx.ModelProto
    lowered: onnx.ModelProto
    answers: dict[str, list[tuple[Array, Array]]]

    def check(self, name: str) -> None:
        """Hold a network against PyTorch's float64, for one and for several views."""
        assert len(self.answers[name]) == 2
        for found, expected in self.answers[name]:
            scale = max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * scale)


def compare(nets: dict[str, nn.Module], size: tuple[int, ...]) -> Compared:
    """Lower networks, in one graph: an export costs about as much for many small ones as for one."""
    plain = traced(nets.values(), size)
    lowered = to_2d.lower(plain)
    onnx.checker.check_model(lowered, full_check=True)
    session = onnxruntime.InferenceSession(lowered.SerializeToString(), providers=["CPUExecutionProvider"])
    answers: dict[str, list[tuple[Array, Array]]] = {name: [] for name in nets}
    for views in (1, 3):
        inputs = RandomState(views).standard_normal((views, 3, *size)).astype(np.float32)
        for (name, net), found in zip(nets.items(), session.run(None, {"x": inputs}), strict=True):
            with torch.no_grad():
                expected = copy.deepcopy(net).double()(torch.from_numpy(inputs).double()).numpy()
            answers[name].append((found, expected))
    return Compared(plain, lowered, answers)


def check(net: nn.Module, size: tuple[int, ...]) -> None:
    """Hold the lowered graph of one network against PyTorch's float64."""
    compare({"net": net}, size).check("net")


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


@pytest.fixture(scope="module", params=[(8, 12, 12), (9, 13, 11)], ids=str)
def windows(request: pytest.FixtureRequest) -> Compared:
    """All of these layers, for even and for odd sizes."""
    torch.manual_seed(0)
    return compare({name: build() for name, build in LAYERS.items()}, request.param)


def test_every_window_becomes_2d(windows: Compared) -> None:
    assert ranks(windows.plain) == {3}
    assert ranks(windows.lowered) == {2}


@pytest.mark.parametrize("name", LAYERS)
def test_every_window_answers_the_same(windows: Compared, name: str) -> None:
    windows.check(name)


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


class Crop(nn.Module):
    """The first frames, rows and columns."""

    def __init__(self, size: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames, rows, columns = self.size
        return x[:, :, :frames, :rows, :columns]


class Mean(nn.Module):
    """Average over time and space."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3, 4))


def random_network(seed: int) -> nn.Module:
    """Five convolutions of any kind on clips of a size of its own."""
    random = RandomState(seed)
    torch.manual_seed(seed)
    layers: list[nn.Module] = [Crop(tuple(int(side) for side in random.randint(11, 16, 3)))]
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
    return nn.Sequential(*layers)


SEEDS = range(12)


@pytest.fixture(scope="module")
def random_networks() -> Compared:
    return compare({str(seed): random_network(seed) for seed in SEEDS}, (15, 15, 15))


@pytest.mark.parametrize("seed", SEEDS)
def test_random_networks_answer_the_same(random_networks: Compared, seed: int) -> None:
    assert ranks(random_networks.lowered) == {2}
    random_networks.check(str(seed))


def shallow(name: str) -> ResNet | Inception:
    """A narrowed network with two bottlenecks per stage, among which every kernel follows every other one."""
    numbers = narrowed.small(name, 7)
    if isinstance(numbers, Inception):
        return numbers
    kernels = tuple(stage[:2] for stage in numbers.temporal_kernels)
    blocks = tuple(tuple(number for number in stage if number < 2) for stage in numbers.non_local_blocks)
    return numbers.model_copy(update={"temporal_kernels": kernels, "non_local_blocks": blocks})


EVEN = ["i3d_inception_rgb", "i3d_r50_8x8_nl_embedded_gaussian_slowfast", "i3d_r50_nl_gaussian"]
"""What pads, slides and pools in other places where no size is odd."""


@pytest.mark.parametrize(
    ("name", "frames", "side"), [*((name, 9, 37) for name in narrowed.DISTINCT), *((name, 8, 32) for name in EVEN)]
)
def test_every_network_answers_the_same(name: str, frames: int, side: int) -> None:
    numbers = shallow(name)
    net = model.build(numbers)
    model.randomize(net, seed=0)
    card = narrowed.card_of(numbers, frames=frames, side=side)
    plain = rewrites.merge_pads(to_onnx.convert(net, card, Engine()))
    lowered = to_2d.lower(plain)
    assert ranks(lowered) == {2}
    in_pytorch = torch_work.work_of_network(numbers, card.view_shape)
    assert work.count(lowered).macs == work.count(plain).macs == in_pytorch.macs
    inputs = RandomState(0).randint(0, 256, (2, *card.view_shape)).astype(np.uint8)
    np.testing.assert_allclose(run(lowered, inputs), run(plain, inputs), rtol=0, atol=2e-5)


@pytest.mark.parametrize(("dtype", "kind", "opset"), [(torch.float16, 10, 18), (torch.bfloat16, 16, 22)], ids=str)
def test_weights_keep_their_type(dtype: torch.dtype, kind: int, opset: int) -> None:
    nets = [LAYERS[name]().to(dtype) for name in ("over time", "over space", "over all")]
    lowered = to_2d.lower(traced(nets, (8, 12, 12), dtype=dtype, opset=opset))
    onnx.checker.check_model(lowered, full_check=True)
    assert ranks(lowered) == {2}
    types = {entry.name: entry.data_type for entry in lowered.graph.initializer}
    assert {types[node.input[1]] for node in lowered.graph.node if node.op_type == "Conv"} == {kind}


def test_the_graph_given_stays_and_two_runs_give_the_same_bytes(random_networks: Compared) -> None:
    plain = random_networks.plain
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
