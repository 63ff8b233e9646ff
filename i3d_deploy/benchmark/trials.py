"""What is timed to learn what a machine can do: matrix products, convolutions and a copy, in every backend.

A section per backend; each imports its own, when it is asked for its trials. Trials are prepared one by one, so that
the data of one is in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from i3d_deploy import untracked
from i3d_deploy.errors import I3DError

Work = Literal["matmul", "convolution", "copy"]
Run = Callable[[], object]

_COPY_BYTES = 2**29  # more than any cache holds
_DEPTH = 2  # layers in a row where the backend changes the layout of what comes in and goes out


@dataclass(frozen=True)
class Layer:
    """A matrix product or a convolution with stride 1 that keeps the shape, so that it can be repeated.

    Attributes:
        source: (rows, size), or (N, C, ...) with two or three more dimensions.
        weight: (size, size), or (C, C, ...): outputs first.
    """

    source: tuple[int, ...]
    weight: tuple[int, ...]

    @property
    def work(self) -> Work:
        """What it is."""
        return "matmul" if len(self.weight) == 2 else "convolution"

    @property
    def padding(self) -> tuple[int, ...]:
        """On either side of each dimension of the kernel."""
        return tuple(size // 2 for size in self.weight[2:])

    @property
    def operations(self) -> int:
        """Two per multiply-accumulate: every weight is used once at every position."""
        positions = math.prod(self.source) // self.weight[1]
        return 2 * positions * math.prod(self.weight)

    def random_source(self) -> NDArray[np.float32]:
        """Numbers of variance 1."""
        return np.random.default_rng(0).standard_normal(self.source, np.float32)

    def random_weight(self) -> NDArray[np.float32]:
        """Numbers that keep the variance, so that layers in a row neither overflow nor vanish."""
        inputs = math.prod(self.weight[1:])
        return np.random.default_rng(1).standard_normal(self.weight, np.float32) / np.float32(math.sqrt(inputs))


# By ascending work: those too slow for their share of the time are left out, the last ones are for many cores.
MATMULS = tuple(Layer((size, size), (size, size)) for size in (1024, 2048, 4096))
CONVOLUTIONS_3D = (
    Layer((1, 256, 8, 16, 16), (256, 256, 3, 1, 1)),
    Layer((1, 64, 8, 64, 64), (64, 64, 1, 3, 3)),
    Layer((1, 512, 8, 8, 8), (512, 512, 1, 3, 3)),
    Layer((1, 256, 8, 32, 32), (256, 256, 1, 3, 3)),
    Layer((1, 256, 16, 64, 64), (256, 256, 1, 3, 3)),
)
CONVOLUTIONS_2D = (  # the same: time is folded into the batch, or height into width
    Layer((1, 256, 8, 256), (256, 256, 3, 1)),
    Layer((8, 64, 64, 64), (64, 64, 3, 3)),
    Layer((8, 512, 8, 8), (512, 512, 3, 3)),
    Layer((8, 256, 32, 32), (256, 256, 3, 3)),
    Layer((16, 256, 64, 64), (256, 256, 3, 3)),
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One thing to time.

    Attributes:
        precision: As :class:`Ceiling` names it.
        work: What it is.
        backend: Package, version and device.
        amount: Operations of one run, or bytes.
        prepare: Makes the data and returns what is run; on a GPU that waits until the device has finished.
    """

    precision: str
    work: Work
    backend: str
    amount: int
    prepare: Callable[[], Run]


def copy_trials(device: str, threads: int) -> list[Trial]:
    """A copy in memory by all threads."""

    def prepare() -> Run:
        source = np.ones(_COPY_BYTES, np.uint8)
        target = np.zeros_like(source)
        pool = ThreadPoolExecutor(threads)
        pieces = np.array_split(target, threads), np.array_split(source, threads)
        return lambda: list(pool.map(np.copyto, *pieces))

    backend = f"numpy {np.__version__} on {device}"
    return [Trial(precision="bytes", work="copy", backend=backend, amount=2 * _COPY_BYTES, prepare=prepare)]


def torch_trials(device: str, threads: int) -> list[Trial]:
    """PyTorch on the CPU: its fp16 is not usable there, and it has no int8 layers without a quantised network."""
    import torch

    torch.set_num_threads(threads)
    return [
        Trial(
            precision=precision,
            work=layer.work,
            backend=f"torch {torch.__version__} on {device}",
            amount=layer.operations,
            prepare=partial(torch_run, layer, dtype, torch.device(device)),
        )
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
        for layer in (*MATMULS, *CONVOLUTIONS_2D, *CONVOLUTIONS_3D)
    ]


def torch_run(layer: Layer, dtype: Any, device: Any, *, precision: str = "fp32") -> Run:
    """A layer in PyTorch, channels last.

    Args:
        layer: What to run.
        dtype: A ``torch.dtype``.
        device: A ``torch.device``; the run waits for a GPU.
        precision: "tf32" lets a GPU compute float32 so.
    """
    import torch

    layouts = {2: torch.contiguous_format, 4: torch.channels_last, 5: torch.channels_last_3d}
    generator = torch.Generator(device).manual_seed(0)
    source, weight = (
        torch.randn(shape, generator=generator, device=device).to(dtype, memory_format=layouts[len(shape)])
        for shape in (layer.source, layer.weight)
    )
    convolve = {4: torch.nn.functional.conv2d, 5: torch.nn.functional.conv3d}.get(len(layer.source))

    @torch.inference_mode()
    def run() -> None:
        with _float32_as(precision):
            if convolve is None:
                torch.mm(source, weight)
            else:
                convolve(source, weight, padding=layer.padding)
        _wait_for(device)

    return run


@contextmanager
def _float32_as(precision: str) -> Iterator[None]:
    """Let a GPU compute float32 in TF32 or forbid it, and choose its fastest algorithm.

    PyTorch's flags, not its newer ``fp32_precision``: after the latter ``torch.backends.cudnn.flags`` raises.
    """
    import torch

    is_allowed, matmul = precision == "tf32", torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=is_allowed):
        matmul.allow_tf32 = is_allowed
        try:
            yield
        finally:
            matmul.allow_tf32 = before


def cuda_trials(device: str, threads: int, *, size: int = 8192) -> list[Trial]:
    """A GPU through PyTorch.

    Args:
        device: "cuda:0"; tests give "cpu".
        threads: Means nothing here.
        size: Of the matrices; the convolution and the copy grow with it.
    """
    import torch

    target, backend = torch.device(device), f"torch {torch.__version__} on {device}"
    dtypes = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if target.type == "cuda" and torch.cuda.get_device_capability(target) < (8, 0):
        dtypes = {"fp32": torch.float32, "fp16": torch.float16}  # TF32 and BF16 came with Ampere
    layers = (
        Layer((size, size), (size, size)),
        Layer((size // 32, size // 16, 32, 32), (size // 16, size // 16, 3, 3)),
    )
    trials = [
        Trial(
            precision=precision,
            work=layer.work,
            backend=backend,
            amount=layer.operations,
            prepare=partial(torch_run, layer, dtype, target, precision=precision),
        )
        for precision, dtype in dtypes.items()
        for layer in layers
    ]
    made = partial(Trial, backend=backend)
    int8 = partial(_torch_int8, size, target)
    trials.append(made(precision="int8", work="matmul", amount=layers[0].operations, prepare=int8))
    num_bytes = 16 * size**2  # 1 GiB
    copy = partial(_torch_copy, num_bytes, target)
    trials.append(made(precision="bytes", work="copy", amount=2 * num_bytes, prepare=copy))
    return trials


def _wait_for(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _torch_int8(size: int, device: Any) -> Run:
    import torch

    left, right = (torch.randint(-127, 128, (size, size), dtype=torch.int8, device=device) for _ in range(2))

    def run() -> None:
        # The one int8 product that PyTorch has, without a public name; cuBLAS wants the second matrix by columns.
        torch._int_mm(left, right.t())
        _wait_for(device)

    return run


def _torch_copy(num_bytes: int, device: Any) -> Run:
    import torch

    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def run() -> None:
        target.copy_(source)
        _wait_for(device)

    return run


_OPENVINO_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "u8": "int8", "i8": "int8"}


def openvino_trials(device: str, threads: int) -> list[Trial]:
    """OpenVINO's CPU plug-in."""
    from i3d_deploy.openvino_core import CORE, openvino

    capabilities = CORE.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [
        Trial(
            precision=precision,
            work=layer.work,
            backend=f"openvino {openvino.__version__.partition('-')[0]} on {device}",
            amount=_DEPTH * layer.operations,
            prepare=partial(_openvino_run, layer, precision, threads),
        )
        for precision in ("fp32", "bf16", "int8")
        if precision.upper() in capabilities
        for layer in (*MATMULS, *CONVOLUTIONS_3D)
    ]


def _openvino_run(layer: Layer, precision: str, threads: int) -> Run:
    from i3d_deploy.openvino_core import openvino

    compiled = openvino_compiled(layer, precision, threads=threads)
    used = openvino_precisions(compiled)
    if used != {precision}:
        raise I3DError(f"OpenVINO computes in {', '.join(sorted(used)) or 'nothing known'}")
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(layer.random_source()))
    return lambda: (request.start_async(), request.wait())


def openvino_compiled(layer: Layer, precision: str, *, threads: int) -> Any:
    """A network of the layer repeated, compiled for the CPU.

    Args:
        layer: What to repeat.
        precision: "fp32", "bf16" or "int8".
        threads: CPU threads.
    """
    from i3d_deploy.openvino_core import CORE, openvino

    ops = openvino.opset13
    source = ops.parameter(list(layer.source), np.float32)
    maps = source
    for _ in range(_DEPTH):
        weight = ops.constant(layer.random_weight())
        if precision == "int8":
            # FakeQuantize on both sides makes the plug-in choose integers; 255 levels are symmetric about 0.
            maps, weight = _quantized(maps, 4.0, levels=256), _quantized(weight, 0.5, levels=255)
        if layer.work == "matmul":
            maps = ops.matmul(maps, weight, False, True)
        else:
            ones, padding = [1] * len(layer.padding), list(layer.padding)
            maps = ops.convolution(maps, weight, ones, padding, padding, ones)
    if precision == "int8":
        maps = _quantized(maps, 4.0, levels=256)
    # A small output: turning all of it back into plain float32 is no work of the layers.
    means = ops.reduce_mean(maps, ops.constant(np.arange(1, len(layer.source))), False)
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    return CORE.compile_model(openvino.Model([means], [source], "ceiling"), "CPU", options)


def _quantized(node: Any, limit: float, *, levels: int) -> Any:
    from openvino import opset13 as ops

    low, high = ops.constant(np.float32(-limit)), ops.constant(np.float32(limit))
    return ops.fake_quantize(node, low, high, low, high, levels)


def openvino_precisions(compiled: Any) -> set[str]:
    """What a compiled network really computes its convolutions and matrix products in."""
    found = set()
    for node in compiled.get_runtime_model().get_ops():
        about = node.get_rt_info()
        if about["layerType"].astype(str) in ("Convolution", "FullyConnected", "MatMul"):
            used = about["runtimePrecision"].astype(str)
            found.add(_OPENVINO_NAMES.get(used, used))
    return found


def onnx_trials(device: str, threads: int) -> list[Trial]:
    """ONNX Runtime on the CPU; the model is made with onnx."""
    with untracked.imports():
        import onnxruntime

    import_module("onnx")  # without it the trials could not be prepared
    return [
        Trial(
            precision=precision,
            work=layer.work,
            backend=f"onnxruntime {onnxruntime.__version__} on {device}",
            amount=_DEPTH * layer.operations,
            prepare=partial(onnx_run, layer, precision, threads),
        )
        for precision in ("fp32", "int8")
        for layer in (*MATMULS, *CONVOLUTIONS_2D)
    ]


def onnx_run(layer: Layer, precision: str, threads: int) -> Run:
    """A network of the layer repeated, in ONNX Runtime.

    Args:
        layer: What to repeat.
        precision: "fp32" or "int8".
        threads: CPU threads.
    """
    with untracked.imports():
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        onnx_model(layer, precision).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    source = layer.random_source() if precision == "fp32" else _as_uint8(layer.random_source())
    return lambda: session.run(None, {"0": source})


def onnx_model(layer: Layer, precision: str) -> Any:
    """The layer repeated: MatMul or Conv, or their QLinear forms with uint8 activations and int8 weights."""
    import onnx
    from onnx import helper, numpy_helper

    is_int8 = precision == "int8"
    kind = {"matmul": "MatMul", "convolution": "Conv"}[layer.work]
    weight = layer.random_weight()
    constants: dict[str, Any] = {"weight": weight.T.copy() if kind == "MatMul" else weight}
    if is_int8:
        constants = {
            "weight": np.clip(np.rint(constants["weight"] * 256), -127, 127).astype(np.int8),
            "scale": np.float32(1 / 32),
            "zero": np.uint8(128),
            "weight_scale": np.float32(1 / 256),
            "weight_zero": np.int8(0),
        }
    inputs = ["scale", "zero", "weight", "weight_scale", "weight_zero", "scale", "zero"] if is_int8 else ["weight"]
    attributes: dict[str, Any] = {} if kind == "MatMul" else {"pads": 2 * layer.padding}
    operator = f"QLinear{kind}" if is_int8 else kind
    nodes = [helper.make_node(operator, [str(n), *inputs], [str(n + 1)], **attributes) for n in range(_DEPTH)]
    dtype = onnx.TensorProto.UINT8 if is_int8 else onnx.TensorProto.FLOAT
    first, last = (helper.make_tensor_value_info(name, dtype, layer.source) for name in ("0", str(_DEPTH)))
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "ceiling", [first], [last], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _as_uint8(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    numbers: NDArray[np.uint8] = np.clip(np.rint(values * 32) + 128, 0, 255).astype(np.uint8)
    return numbers
