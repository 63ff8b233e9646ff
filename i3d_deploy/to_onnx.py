"""From a checkpoint to an ONNX file, the source of every other engine.

The graph takes uint8 frames (or plain floats), normalises them, runs the network with its batch normalisations folded,
and gives float32 logits. Its precision is in the graph itself: weights and activations of the convolutions have the
type asked for, while normalisation, the pooling sums, softmax and the classifier stay float32.

Note [Opsets]
    Opset 18 is the one PyTorch's exporter emits natively; ONNX Runtime 1.24, OpenVINO 2025 and TensorRT 10 and 11 all
    read it. Only two need a newer one: ONNX admits 8-bit floats in QuantizeLinear from opset 19 on, and
    bfloat16 in Conv and MaxPool from opset 22 on.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from i3d_deploy import files, rewrites, sampling, to_2d
from i3d_deploy.artifact import CARD_KEY
from i3d_deploy.card import Card, Engine, Precision, Rewrite
from i3d_deploy.errors import ExportError, MissingExtraError
from i3d_deploy.head import I3D
from i3d_deploy.preprocessing import Pixels

try:
    import onnx
    import onnxscript  # noqa: F401 - torch.onnx needs it and would say so in a longer way
except ImportError as error:
    raise MissingExtraError(error.name or "onnx", extra="export", cause=error) from error

OPSETS: dict[Precision, int] = {"fp32": 18, "fp16": 18, "bf16": 22, "int8": 18, "fp8": 19}
IR_VERSION = 10
"""Of the file; ONNX Runtime 1.24 and TensorRT 10 read up to this one."""

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    # Quantised afterwards, from the float32 graph.
    "int8": torch.float32,
    "fp8": torch.float32,
}


class EngineModule(nn.Module):
    """The module that is traced: uint8 frames to logits.

    Args:
        model: The network, in float32; copied, folded and cast.
        pixels: Scaling of the frames.
        engine: Input and precision.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: I3D, *, pixels: Pixels, engine: Engine) -> None:
        super().__init__()
        self.model = fold_batch_norms(model).to(DTYPES[engine.precision])
        self.model.fc.float()
        self.input = engine.input
        self.dtype = DTYPES[engine.precision]
        self.register_buffer("mean", torch.tensor(pixels.mean))
        self.register_buffer("std", torch.tensor(pixels.std))

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames, (N, T, H, W, C) of 0 to 255 or (N, C, T, H, W) normalised, to logits (N, K) float32."""
        if self.input != "float32_ncthw":
            # The mean is not folded into the stem: its zero padding would make that inexact.
            frames = ((frames.float() - self.mean) / self.std).permute(0, 4, 1, 2, 3)  # N C T H W
        maps = self.model.features(frames.to(self.dtype))
        return self.model.classify(maps.float())


def fold_batch_norms(model: I3D) -> I3D:
    """Copy a network with every batch normalisation multiplied into the convolution before it, in float64.

    Args:
        model: In eval mode; left as it is.

    Returns:
        A copy whose normalisations are identities.
    """
    folded = copy.deepcopy(model).eval()
    for parent in folded.modules():
        convolution: nn.Conv3d | None = None
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm3d):
                assert convolution is not None, f"{name} has no convolution before it"
                _fold(convolution, child)
                parent.register_module(name, nn.Identity())
            elif isinstance(child, nn.Conv3d):
                convolution = child
    return folded


def _fold(convolution: nn.Conv3d, norm: nn.BatchNorm3d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    with torch.no_grad():
        scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        weight = convolution.weight.double() * scale[:, None, None, None, None]
        bias = norm.bias.double() - norm.running_mean.double() * scale
        if convolution.bias is not None:
            bias += convolution.bias.double() * scale
        convolution.weight = nn.Parameter(weight.to(convolution.weight.dtype))
        convolution.bias = nn.Parameter(bias.to(convolution.weight.dtype))


def convert(model: I3D, card: Card, engine: Engine) -> onnx.ModelProto:
    """Trace a network into a checked ONNX graph.

    Args:
        model: Float32, in eval mode; left as it is.
        card: For the view shape and the scaling.
        engine: Input and precision.

    Returns:
        A graph with input ``frames``, output ``logits`` and dynamic N, free of anything about the exporting machine:
        the same model gives the same bytes.

    Raises:
        ExportError: PyTorch's exporter or ONNX's checker gave up.
    """
    module = EngineModule(model, pixels=card.pixels, engine=engine).eval()
    frames = _example(card, engine)
    time_axis = 2 if engine.input == "float32_ncthw" else 1
    sizes: dict[int, Any] = {0: torch.export.Dim("N")}
    if not card.has_fixed_length:
        sizes[time_axis] = torch.export.Dim("T", min=card.sampling.min_clip_len, max=sampling.MAX_WHOLE_FRAMES)
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (frames,),
                dynamo=True,
                dynamic_shapes={"frames": sizes},
                input_names=["frames"],
                output_names=["logits"],
                opset_version=OPSETS[engine.precision],
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise ExportError(f"torch.onnx could not export {card.network.name}: {_first_line(error)}") from error
    assert program is not None
    graph = program.model_proto
    _strip(graph)
    check(graph)
    return graph


def optimize(graph: onnx.ModelProto, engine: Engine) -> onnx.ModelProto:
    """Do to a graph what the engine's ``rewrites`` and ``layout`` say; the answer stays the same.

    Args:
        graph: From :func:`convert`; left as it is.
        engine: What to do.

    Raises:
        ExportError: ONNX's checker refuses the result.
    """
    for name, rewrite in _REWRITES.items():
        if name in engine.rewrites:
            graph = rewrite(graph)
    if engine.layout == "2d":
        graph = to_2d.lower(rewrites.transpose_first(graph))
    check(graph)
    return graph


_REWRITES: dict[Rewrite, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "merge_pads": rewrites.merge_pads,
    "skip_dropped_frames": rewrites.skip_dropped_frames,
}
"""In the order in which they are done."""


def changes(graph: onnx.ModelProto, name: Rewrite) -> bool:
    """Whether a rewrite finds anything to do in a graph."""
    return _REWRITES[name](graph) != graph


def write(graph: onnx.ModelProto, card: Card, path: Path) -> None:
    """Write an ONNX file with its card, replaced as a whole.

    Args:
        graph: From :func:`convert`.
        card: With engine and, once measured, parity.
        path: The ``.onnx`` file.
    """
    with_card = onnx.ModelProto()
    with_card.CopyFrom(graph)
    onnx.helper.set_model_props(with_card, {CARD_KEY: card.to_json()})
    with files.replacing(path) as (target,):
        target.write_bytes(with_card.SerializeToString(deterministic=True))


def _example(card: Card, engine: Engine) -> Tensor:
    frames, height, width, channels = card.view_shape
    if engine.input == "float32_ncthw":
        return torch.zeros(2, channels, frames, height, width)
    dtype = torch.uint8 if engine.input == "uint8_nthwc" else torch.float32
    return torch.zeros(2, frames, height, width, channels, dtype=dtype)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says to its own developers."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # "torchvision is not installed"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch 2.13 uses its own deprecated LeafSpec
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        registration.setLevel(level)


def _strip(graph: onnx.ModelProto) -> None:
    """Remove stack traces and other traces of the exporting machine and process."""
    graph.ir_version = IR_VERSION
    graph.producer_version = ""
    for annotated in _annotated(graph.graph):
        del annotated.metadata_props[:]
        annotated.doc_string = ""
    graph.doc_string = ""
    del graph.metadata_props[:]
    for number, node in enumerate(graph.graph.node):
        node.name = f"{node.op_type}_{number}"


def _annotated(graph: onnx.GraphProto) -> Iterator[Any]:
    yield graph
    for entries in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        yield from entries


def check(graph: onnx.ModelProto) -> None:
    """Have ONNX check a graph.

    Raises:
        ExportError: It holds what is not ONNX's own, or is malformed.
    """
    if graph.functions or {entry.domain for entry in graph.opset_import} - {"", "ai.onnx"}:
        raise ExportError("the exported graph holds functions or operators outside ONNX's own")
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx.checker refuses the exported graph: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
