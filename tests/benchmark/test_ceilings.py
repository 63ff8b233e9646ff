"""What the machine can do: counts by hand, every backend in its precision, and the process. No test asserts a speed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from i3d_deploy.benchmark import ceilings, trials
from i3d_deploy.benchmark.record import Ceiling
from i3d_deploy.benchmark.trials import Layer, Trial
from i3d_deploy.errors import I3DError, InputError

SMALL = {
    "matmul": Layer((64, 64), (64, 64)),
    "convolution": Layer((1, 32, 2, 8, 8), (32, 32, 1, 3, 3)),
    "convolution in 2D": Layer((2, 32, 8, 8), (32, 32, 3, 3)),
}
CPU = torch.device("cpu")
MODULE = (sys.executable, "-m", "i3d_deploy.benchmark.ceilings")


def ceiling(precision: str, work: trials.Work, per_second: float) -> Ceiling:
    return Ceiling(precision=precision, work=work, backend="torch 2 on cpu", per_second=per_second)


@pytest.mark.parametrize(
    ("layer", "operations"),
    [
        (Layer((1024, 1024), (1024, 1024)), 2_147_483_648),  # 2 x 1024^3
        (Layer((10, 20), (20, 20)), 8_000),  # 2 x 10 x 20 x 20
        (Layer((1, 64, 8, 64, 64), (64, 64, 1, 3, 3)), 2_415_919_104),  # 2 x 8 x 64 x 64 places x 64 x 64 x 9
        (Layer((8, 64, 64, 64), (64, 64, 3, 3)), 2_415_919_104),  # the same, time in the batch
        (Layer((1, 256, 8, 16, 16), (256, 256, 3, 1, 1)), 805_306_368),  # 2 x 8 x 16 x 16 places x 256 x 256 x 3
    ],
)
def test_operations_are_two_per_multiply_accumulate(layer: Layer, operations: int) -> None:
    assert layer.operations == operations


@pytest.mark.parametrize("layer", [*SMALL.values(), Layer((1, 16, 4, 8, 8), (16, 16, 3, 1, 1))])
def test_operations_are_those_that_pytorch_counts(layer: Layer) -> None:
    run = trials.torch_run(layer, torch.float32, CPU)
    with FlopCounterMode(display=False) as counter:
        run()
    assert counter.get_total_flops() == layer.operations


@pytest.mark.parametrize("layers", [trials.MATMULS, trials.CONVOLUTIONS_2D, trials.CONVOLUTIONS_3D])
def test_the_smallest_layer_comes_first(layers: tuple[Layer, ...]) -> None:
    operations = [layer.operations for layer in layers]
    assert operations == sorted(operations)


def test_2d_and_3d_convolutions_are_the_same_work() -> None:
    flat, solid = ([layer.operations for layer in each] for each in (trials.CONVOLUTIONS_2D, trials.CONVOLUTIONS_3D))
    assert flat == solid


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("work", ["matmul", "convolution"])
def test_openvino_computes_in_the_precision_asked_for(precision: str, work: str) -> None:
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision.upper() not in capabilities:
        pytest.skip(f"this CPU has no {precision}")
    compiled = trials.openvino_compiled(SMALL[work], precision, threads=1)
    assert trials.openvino_precisions(compiled) == {precision}
    kernels = [
        node.get_rt_info()["primitiveType"].astype(str)
        for node in compiled.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) in ("Convolution", "FullyConnected")
    ]
    assert len(kernels) == 2  # OpenVINO's own names of the two layers' kernels, such as brgconv_avx512_I8
    assert all(kernel.lower().endswith({"fp32": "f32", "int8": "i8"}.get(precision, precision)) for kernel in kernels)


@pytest.mark.parametrize("work", ["matmul", "convolution in 2D"])
def test_the_onnx_models_are_valid(work: str) -> None:
    operators = {"matmul": "MatMul", "convolution in 2D": "Conv"}
    for precision, prefix in (("fp32", ""), ("int8", "QLinear")):
        model = trials.onnx_model(SMALL[work], precision)
        onnx.checker.check_model(model, full_check=True)
        assert [node.op_type for node in model.graph.node] == [prefix + operators[work]] * 2


@pytest.mark.parametrize("work", ["matmul", "convolution in 2D"])
def test_onnx_runtime_in_int8_answers_as_in_float(work: str) -> None:
    exact, rounded = (
        np.asarray(trials.onnx_run(SMALL[work], precision, 1)()).squeeze(0).astype(np.float32)
        for precision in ("fp32", "int8")
    )
    # uint8 with zero 128 and scale 1/32, beyond which (4) few values of variance 1 lie; rounded three times.
    assert np.mean(np.abs((rounded - 128) / 32 - exact)) < 0.05


def test_a_gpu_is_measured_in_every_precision() -> None:
    found = ceilings.ceilings_of(trials.cuda_trials("cpu", 1, size=128), seconds_each=1e-4)
    assert [(entry.precision, entry.work) for entry in found] == [
        *((name, work) for name in ("fp32", "tf32", "fp16", "bf16") for work in ("matmul", "convolution")),
        ("int8", "matmul"),
        ("bytes", "copy"),
    ]


class SeenFlags(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether TF32 is allowed in matrix products and in cuDNN whenever an operator runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[tuple[bool, bool]] = set()

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: object, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen.add((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("work", ["matmul", "convolution"])
@pytest.mark.parametrize(("precision", "is_allowed"), [("fp32", False), ("tf32", True)])
def test_tf32_is_allowed_only_where_it_is_measured(work: str, precision: str, is_allowed: bool) -> None:
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    run = trials.torch_run(SMALL[work], torch.float32, CPU, precision=precision)
    with SeenFlags() as flags:
        run()
    assert flags.seen == {(is_allowed, is_allowed)}
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_the_rate_is_the_amount_over_the_shortest_run() -> None:
    sleeps = iter([0.0, 0.03, 0.0, 0.02, 0.5])  # the first three are to warm up and to estimate by
    trial = Trial(
        precision="fp32",
        work="copy",
        backend="sleep",
        amount=1_000,
        prepare=lambda: lambda: time.sleep(next(sleeps)),
    )
    assert 1_000 / 0.5 < ceilings.highest_rate((trial,), seconds=0.1) <= 1_000 / 0.02


def test_what_would_take_too_long_is_left_out() -> None:
    prepared = []

    def trial(amount: int) -> Trial:
        def prepare() -> trials.Run:
            prepared.append(amount)
            return lambda: time.sleep(0.001)

        return Trial(precision="fp32", work="copy", backend="sleep", amount=amount, prepare=prepare)

    ceilings.highest_rate((trial(1), trial(2), trial(10_000)), seconds=0.3)  # the last would take 10 s
    assert prepared == [1, 2]


def test_a_trial_that_fails_costs_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> trials.Run:
        raise RuntimeError("no such\nkernel")

    failing = Trial(precision="bf16", work="matmul", backend="x 1 on cpu", amount=1, prepare=fail)
    working = Trial(precision="fp32", work="matmul", backend="x 1 on cpu", amount=1, prepare=lambda: lambda: None)
    found = tuple(ceilings.ceilings_of((failing, working), seconds_each=0.0))
    assert [entry.precision for entry in found] == ["fp32"]
    note = "ceilings: bf16 matmul with x 1 on cpu was not measured: RuntimeError: no such kernel\n"
    assert capsys.readouterr().err == note


def test_the_highest_of_a_precision_counts() -> None:
    copy = ceiling("bytes", "copy", 9.0)
    fp32, higher, int8 = (
        ceiling("fp32", "matmul", 1.0),
        ceiling("fp32", "convolution", 2.0),
        ceiling("int8", "matmul", 4.0),
    )
    found = (copy, fp32, higher, int8)
    assert ceilings.highest(found, "fp32") == higher
    assert ceilings.highest(found, "fp32 with fp16 weights") == higher
    assert ceilings.highest(found, "int8") == int8
    assert ceilings.highest(found, "mixed int8") == int8
    assert ceilings.highest(found, "fp16") is None
    assert ceilings.highest(found, "bytes") is None
    assert ceilings.memory((*found, ceiling("bytes", "copy", 8.0))) == copy
    assert ceilings.memory((fp32,)) is None


def test_of_two_measurements_the_higher_counts() -> None:
    first = (ceiling("fp32", "matmul", 1.0), ceiling("int8", "matmul", 4.0))
    second = (ceiling("fp32", "matmul", 2.0), ceiling("int8", "matmul", 3.0), ceiling("bytes", "copy", 5.0))
    expected = (ceiling("fp32", "matmul", 2.0), ceiling("int8", "matmul", 4.0), ceiling("bytes", "copy", 5.0))
    assert ceilings.higher(first, second) == expected


def test_a_device_has_its_own_ceilings() -> None:
    on_cpu = ceiling("fp32", "matmul", 1.0)
    on_gpu = on_cpu.replaced(backend="torch 2 on cuda:0", per_second=9.0)
    assert ceilings.on_device((on_cpu, on_gpu), "cpu") == (on_cpu,)
    assert ceilings.on_device((on_cpu, on_gpu), "cuda:0") == (on_gpu,)


SMALL_TRIALS = """
from i3d_deploy.benchmark import trials
trials._COPY_BYTES = 1000
trials.MATMULS = (trials.Layer((64, 64), (64, 64)),)
trials.CONVOLUTIONS_2D = (trials.Layer((2, 32, 8, 8), (32, 32, 3, 3)),)
trials.CONVOLUTIONS_3D = (trials.Layer((1, 32, 2, 8, 8), (32, 32, 1, 3, 3)),)
"""

SMALL_PYTHON = f"""#!{sys.executable}
import runpy, sys
{SMALL_TRIALS}
sys.executable = sys.argv[0]  # and so are the processes that it starts
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__")
"""


def test_the_process_prints_one_json_list(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(SMALL_PYTHON)
    python.chmod(0o700)
    command = [str(python), *MODULE[1:], "--device=cpu", "--threads=1", "--seconds-each=0.001"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    found = [Ceiling.model_validate(entry) for entry in json.loads(done.stdout)]
    assert all(entry.per_second > 0 for entry in found)
    rows = {(entry.backend.partition(" ")[0], entry.precision, entry.work) for entry in found}
    assert len(rows) == len(found)
    works = ("matmul", "convolution")
    has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    in_openvino = ("fp32", "bf16", "int8") if has_bf16 else ("fp32", "int8")
    assert rows == {
        ("numpy", "bytes", "copy"),
        *(("torch", precision, work) for precision in ("fp32", "bf16") for work in works),
        *(("openvino", precision, work) for precision in in_openvino for work in works),
        *(("onnxruntime", precision, work) for precision in ("fp32", "int8") for work in works),
    }


PRINTING = """
import os
from i3d_deploy.benchmark import ceilings, trials
def prepare():
    print("from Python")
    os.write(1, b"from a library")
    return lambda: None
trial = trials.Trial(precision="bytes", work="copy", backend="numpy", amount=1, prepare=prepare)
ceilings._CPU_SECTIONS["numpy"] = lambda device, threads: [trial]
ceilings.main(["--backend=numpy", "--device=cpu", "--seconds-each=0.001"])
"""


def test_what_libraries_print_is_no_answer() -> None:
    done = subprocess.run([sys.executable, "-c", PRINTING], check=True, capture_output=True, text=True)
    assert [entry["precision"] for entry in json.loads(done.stdout)] == ["bytes"]
    assert "from Python" in done.stderr
    assert "from a library" in done.stderr


WITHOUT = f"""
import json, sys
sys.modules.update(dict.fromkeys(sys.argv[1:]))
{SMALL_TRIALS}
from i3d_deploy.benchmark import ceilings
names = [ceiling.backend.partition(" ")[0] for ceiling in ceilings.measure("cpu", 1, seconds_each=0.001)]
print(json.dumps(list(dict.fromkeys(names))))
"""


@pytest.mark.parametrize(
    ("missing", "left"),
    [
        (["torch", "openvino"], ["numpy", "onnxruntime"]),
        (["torch", "onnx"], ["numpy", "openvino"]),
        (["openvino", "onnxruntime"], ["numpy", "torch"]),
    ],
)
def test_a_missing_backend_leaves_the_others(missing: list[str], left: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT, *missing], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == left
    assert done.stderr == ""


DYING = """
import os, sys
from i3d_deploy.benchmark import ceilings
os.environ["PYTHONPATH"] = sys.argv[1]
print([ceiling.backend.partition(" ")[0] for ceiling in ceilings.measure_apart("cpu", 1, seconds_each=0.001)])
"""


def test_a_backend_that_crashes_costs_itself_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("broken")
    for name in ("torch", "openvino"):
        (folder / f"{name}.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    (folder / "onnxruntime.py").write_text("raise ImportError('built for another system')\n")
    done = subprocess.run([sys.executable, "-c", DYING, folder], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['numpy']"
    died = "I3DError: the process that measures what torch can do on cpu was ended by signal 9"
    assert f"ceilings: torch was not measured: {died}\n" in done.stderr
    assert "ceilings: onnxruntime was not measured: ImportError: built for another system\n" in done.stderr


def test_when_every_process_dies_it_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(I3DError, match=r"^the process that measures what numpy can do on cpu ended with code 1$"):
        ceilings.measure_apart("cpu", 1)


@pytest.mark.parametrize("measure", [ceilings.measure, ceilings.measure_apart])
def test_arguments_are_checked(measure: Callable[..., object]) -> None:
    with pytest.raises(InputError, match=r"device 'gpu' cannot be measured: give auto, cpu, cuda or cuda:N"):
        measure("gpu")
    with pytest.raises(InputError, match=r"threads \(0\) must be > 0"):
        measure("cpu", 0)


def test_a_backend_that_measures_nothing_on_a_device_is_refused() -> None:
    done = subprocess.run([*MODULE, "--backend=numpy", "--device=cuda:0"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: numpy measures nothing on cuda:0: torch\n"


@pytest.mark.gpu
def test_a_gpu_gives_its_rows() -> None:
    found = ceilings.measure_apart("cuda:0", seconds_each=0.05)
    assert {("fp32", "matmul"), ("fp16", "convolution"), ("bytes", "copy")} <= {
        (entry.precision, entry.work) for entry in found
    }
    assert all(entry.backend.endswith("on cuda:0") for entry in found)
