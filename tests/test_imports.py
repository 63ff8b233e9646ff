"""The direction of imports, and what must not be needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import i3d_deploy

PACKAGE = Path(i3d_deploy.__file__).parent

# Each module imports from lower floors only, also inside functions. Modules of one floor do not know each other.
FLOORS = [
    {"awaiting", "errors", "protobuf_text", "untracked"},
    {"document", "files"},
    {"measurements", "network"},
    {
        "caffe2_files",
        "class_maps",
        "geometry",
        "head",
        "journal",
        "labels",
        "metrics",
        "openvino_core",
        "processes",
        "receptive_fields",
        "sampling",
        "tensorflow_files",
        "tensorrt_flavor",
    },
    {"confusion", "frames", "inception", "preprocessing", "resnet", "stream_windows", "windows"},
    {"card", "images", "resizing", "stream_warnings"},
    {"fused.compiling", "fused.convolution", "fused.kernels", "fused.remembered", "limits"},
    {"fused.sampled", "fused.stacking", "fused.tiled"},
    {"fused.algorithms", "fused.graphs", "fused.networks", "fused.self_test"},
    {"fused", "fused.lanes", "fused.layers", "fused.plain", "fused.proof"},
    {"model", "origins", "video_files"},
    {"configurations", "decoding", "flow", "generated", "known_motion", "lists", "official_splits"},
    {"two_stream", "video"},
    {"artifact", "flow_cache", "flow_images", "motion", "runners.device_memory"},
    {"flow_frames", "preparation", "prepared_flow"},
    {"stream_sources", "views"},
    {
        "calibration",
        "extraction",
        "moments",
        "reading",
        "runners.runner",
        "streams",
        "training.clips",
        "training.snapshots",
    },
    {"training.recipe"},
    {"rewrites"},
    {"to_2d"},
    {
        "checkpoint",
        "doctor",
        "layouts",
        "quantize_onnx",
        "quantize_openvino",
        "to_onnx",
        "to_openvino",
        "to_tensorrt",
        "torch_work",
        "triton_repository",
        "work",
    },
    {"builders", "fused.ahead"},
    {"fused.choice"},
    {"runners.stem_windows"},
    {"runners.stem_graphs"},
    {"runners.shared_stem"},
    {
        "runners.onnx_runner",
        "runners.openvino_runner",
        "runners.tensorrt_runner",
        "runners.torch_runner",
        "runners.two_stream_runner",
    },
    {"runners.fused_runner"},
    {"evidence", "features", "runners"},
    {"predictions"},
    {"feature_files", "recognizer"},
    {"agreement", "annotate", "parity", "prediction_files", "results", "triton_models"},
    {"bulk", "evaluation"},
    {"accuracy"},
    {"proof"},
    {"export"},
    {"benchmark", "benchmark.record", "benchmark.trials"},
    {"benchmark.baseline", "benchmark.ceilings", "benchmark.meters", "benchmark.plan", "benchmark.timing"},
    {"benchmark.drawing", "benchmark.wording"},
    {
        "benchmark.roofline",
        "benchmark.table",
        "benchmark.turns",
        "benchmark.worker",
        "benchmark.workers",
        "timeline",
    },
    {"benchmark.admission", "explain"},
    {"benchmark.sweeps"},
    {"benchmark.schedule"},
    {"benchmark.curves"},
    {"benchmark.charts"},
    {"benchmark.page"},
    {"training", "training.dataset", "training.distributed", "training.optimization", "training.progress"},
    {"training.learner", "training.validation"},
    {"training.loop"},
    {"commands.options", "commands.sources"},
    {"commands.bulk", "commands.streaming"},
    {"commands", "commands.bench", "commands.doctor", "commands.export", "commands.features", "commands.predict"},
    {"commands.verify"},
]
FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def modules() -> dict[str, Path]:
    """Every module of the package but its front door."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Modules of the package that a module imports anywhere in its text."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            inside = name.removeprefix("i3d_deploy.")
            if inside == name:
                continue
            while inside and inside not in FLOOR_OF:
                inside = inside.rpartition(".")[0]
            if inside:
                yield inside


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_downwards(name: str) -> None:
    above = [other for other in imported(modules()[name]) if FLOOR_OF[other] >= FLOOR_OF[name]]
    assert not above, f"{name} imports {above}"


def test_every_module_has_a_floor() -> None:
    assert set(modules()) == set(FLOOR_OF)


def test_the_public_names_are_sorted() -> None:
    assert sorted(i3d_deploy.__all__) == i3d_deploy.__all__
    assert all(hasattr(i3d_deploy, name) for name in i3d_deploy.__all__)


PREDICT_WITHOUT = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
import i3d_deploy as i3d
prediction = i3d.load(sys.argv[1], device="cpu").predict(sys.argv[2])
print(prediction.top(1)[0][0])
"""


@pytest.mark.parametrize(
    ("name", "blocked"),
    [
        ("tiny.onnx", ["torch", "onnx", "onnxscript", "openvino", "tensorrt_rtx", "safetensors", "cuda"]),
        ("tiny.xml", ["torch", "onnx", "onnxscript", "onnxruntime", "tensorrt_rtx", "safetensors", "cuda"]),
        ("tiny.safetensors", ["onnx", "onnxscript", "onnxruntime", "openvino", "tensorrt_rtx", "cuda"]),
    ],
)
def test_a_prediction_needs_its_own_backend_only(tiny_exports: Path, clip: Path, name: str, blocked: list[str]) -> None:
    code = PREDICT_WITHOUT.format(blocked=blocked)
    done = subprocess.run(
        [sys.executable, "-c", code, tiny_exports / name, clip], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip()


LOAD_WITHOUT = """
import sys
sys.modules[sys.argv[2]] = None
import i3d_deploy as i3d
try:
    i3d.load(sys.argv[1])
except i3d.I3DError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("tiny.onnx", "onnxruntime", "cpu"),
        ("tiny.xml", "openvino", "openvino"),
        ("tiny.safetensors", "torch", "export"),
        ("tiny.safetensors", "safetensors", "export"),
    ],
)
def test_a_missing_extra_gives_the_pip_command(tiny_exports: Path, name: str, package: str, extra: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT, tiny_exports / name, package], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip().endswith(f"pip install 'i3d-deploy[{extra}]'")
    assert package in done.stdout
