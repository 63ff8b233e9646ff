"""A model for engine builders that ONNX's own helpers write: frames, one convolution, mean, classifier."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from i3d_deploy.card import Card, Engine, Precision, Provenance
from i3d_deploy.network import ResNet
from i3d_deploy.preprocessing import Sampling, Spatial

VIEW_SHAPE = (4, 16, 16, 3)
NUM_CLASSES = 7
PROFILE = (1, 3, 5)

_TYPES: dict[Precision, int] = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def tiny_model(precision: Precision = "fp32", *, operator: str = "Conv") -> onnx.ModelProto:
    """Make the model.

    Args:
        precision: Type of the convolution.
        operator: Another operator in its place, to see it refused.

    Returns:
        Input ``frames`` (N, 4, 16, 16, 3) uint8, output ``logits`` (N, 7) float32.
    """
    weight, classifier = _weights()
    dtype = _TYPES[precision]
    nodes = [
        helper.make_node("Cast", ["frames"], ["nthwc"], to=dtype, name="cast"),
        helper.make_node("Transpose", ["nthwc"], ["ncthw"], perm=[0, 4, 1, 2, 3], name="transpose"),
        helper.make_node("Cast", ["weight"], ["typed_weight"], to=dtype, name="cast_weight"),
        helper.make_node(operator, ["ncthw", "typed_weight"], ["maps"], name="convolution"),
        helper.make_node("Cast", ["maps"], ["float_maps"], to=TensorProto.FLOAT, name="cast_maps"),
        helper.make_node("ReduceMean", ["float_maps", "axes"], ["features"], keepdims=0, name="pool"),
        helper.make_node("Gemm", ["features", "classifier"], ["logits"], name="classify"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["N", *VIEW_SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", NUM_CLASSES])],
        [
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(classifier, "classifier"),
            numpy_helper.from_array(np.array([2, 3, 4]), "axes"),
        ],
    )
    # ONNX admits bfloat16 in Conv from opset 22 on.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def tiny_logits(views: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What the model answers, in float64: (N, 4, 16, 16, 3) to (N, 7).

    The mean of a convolution with a 1x1x1 kernel is the kernel times the mean of the frames.
    """
    weight, classifier = _weights()
    means = views.astype(np.float64).mean(axis=(1, 2, 3))  # N 3
    logits: NDArray[np.float64] = means @ weight[:, :, 0, 0, 0].T.astype(np.float64) @ classifier.astype(np.float64)
    return logits


def tiny_card(network: ResNet, *, precision: Precision = "fp32") -> Card:
    """The card of the model; ``network`` has seven classes."""
    return Card(
        network=network.model_copy(update={"stem_stride": 1, "stem_pool_stride": 1}),
        label_set="numbered",
        labels=tuple(str(index) for index in range(NUM_CLASSES)),
        sampling=Sampling(clip_len=VIEW_SHAPE[0]),
        spatial=Spatial(short_side=VIEW_SHAPE[1], crop_size=VIEW_SHAPE[2]),
        provenance=Provenance(origin="random weights"),
        engine=Engine(precision=precision, profile=PROFILE),
    )


def _weights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of the convolution, (8, 3, 1, 1, 1), and of the classifier, (8, 7)."""
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((8, 3, 1, 1, 1)) / 256
    classifier = generator.standard_normal((8, NUM_CLASSES))
    return weight.astype(np.float32), classifier.astype(np.float32)
