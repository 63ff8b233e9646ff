"""The doctor's judgement over machines written by hand, and its look at packages that are really broken."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
from pathlib import Path

import numpy as np
import pytest

from i3d_deploy import doctor
from i3d_deploy.doctor import Gpu, Package

L4 = Gpu(name="NVIDIA L4", compute_capability="8.9", memory="22.5 GiB", driver="580.65.06")
EXPORT = ("torch", "safetensors", "onnx", "onnxscript")
CORE = ("numpy", "cv2")


def packages_with(*installed: str, **others: Package) -> tuple[Package, ...]:
    """All packages: those named are installed as version 1.0, the rest is missing or as given."""
    return tuple(
        others.get(name)
        or Package(
            name=name,
            state="installed" if name in installed else "missing",
            version="1.0" if name in installed else None,
            distributions=doctor.PACKAGES[name][:1] if name in installed else (),
        )
        for name in doctor.PACKAGES
    )


def verdicts(packages: tuple[Package, ...], *gpus: Gpu) -> dict[str, str]:
    """Each ability's explanation, behind "yes" or "no"."""
    found = doctor.find_abilities(packages, gpus)
    return {ability.name: f"{'yes' if ability.works else 'no'}: {ability.how}" for ability in found}


def test_core_alone_reads_videos_and_says_what_to_install() -> None:
    no_export = "no: torch is missing, safetensors is missing, onnx is missing, onnxscript is missing"
    assert verdicts(packages_with(*CORE)) == {
        "read videos": "yes: numpy 1.0, cv2 1.0",
        "compute TV-L1 flow": "no: skimage is missing: pip install 'i3d-deploy[flow]'",
        "export to onnx": f"{no_export}: pip install 'i3d-deploy[export]'",
        "export to openvino": f"{no_export}, openvino is missing: pip install 'i3d-deploy[export,openvino]'",
        "quantize for openvino": (
            f"{no_export}, openvino is missing, nncf is missing: pip install 'i3d-deploy[export,openvino,quant]'"
        ),
        "export to tensorrt": f"{no_export}, tensorrt_rtx is missing: pip install 'i3d-deploy[export,tensorrt-rtx]'",
        "run .onnx": "no: onnxruntime is missing: pip install 'i3d-deploy[cpu]'",
        "run .xml": "no: openvino is missing: pip install 'i3d-deploy[openvino]'",
        "run .engine": "no: no NVIDIA GPU, or no driver for it, on this machine",
        "run .pth/.safetensors": "no: torch is missing, safetensors is missing: pip install 'i3d-deploy[train]'",
    }


def test_gpu_changes_what_is_to_be_installed() -> None:
    found = verdicts(packages_with(*CORE, *EXPORT), L4)
    assert found["export to tensorrt"] == "no: tensorrt is missing: pip install 'i3d-deploy[export,tensorrt]'"
    assert found["run .onnx"] == "no: onnxruntime is missing: pip install 'i3d-deploy[gpu]'"
    assert found["run .engine"] == (
        "no: tensorrt is missing, cuda.bindings is missing: pip install 'i3d-deploy[tensorrt,cuda-python]'"
    )


@pytest.mark.parametrize(
    ("installed", "answer"),
    [
        (("tensorrt", "pycuda"), "yes: tensorrt 1.0, pycuda 1.0"),
        (("tensorrt", "pycuda", "cuda.bindings"), "yes: tensorrt 1.0, pycuda 1.0"),
        (("tensorrt_rtx", "cuda.bindings"), "yes: tensorrt_rtx 1.0, cuda.bindings 1.0"),
        (("tensorrt_rtx",), "no: cuda.bindings is missing: pip install 'i3d-deploy[tensorrt-rtx,cuda-python]'"),
        (("pycuda",), "no: tensorrt is missing: pip install 'i3d-deploy[tensorrt,pycuda]'"),
    ],
)
def test_engines_run_with_either_tensorrt_and_either_memory(installed: tuple[str, ...], answer: str) -> None:
    assert verdicts(packages_with(*installed), L4)["run .engine"] == answer
    assert verdicts(packages_with(*installed))["run .engine"].startswith("no: no NVIDIA GPU")


def test_only_tensorrt_rtx_builds_without_a_gpu() -> None:
    assert verdicts(packages_with(*EXPORT, "tensorrt"))["export to tensorrt"] == (
        "no: tensorrt builds only on the NVIDIA GPU that will run the engine; without one: "
        "pip install 'i3d-deploy[export,tensorrt-rtx]'"
    )
    assert verdicts(packages_with(*EXPORT, "tensorrt_rtx"))["export to tensorrt"].startswith("yes: ")
    assert "tensorrt_rtx 1.0" in verdicts(packages_with(*EXPORT, "tensorrt_rtx"), L4)["export to tensorrt"]
    assert verdicts(packages_with(*EXPORT, "tensorrt"), L4)["export to tensorrt"].endswith("tensorrt 1.0")


def test_checkpoints_run_on_a_gpu_with_a_pytorch_that_sees_it_and_triton(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "run .pth/.safetensors on the GPU"
    torch = {
        offer: Package(name="torch", state="installed", version="2.11", offers=(offer,))
        for offer in ("CPU build", "GPU")
    }
    assert name not in verdicts(packages_with("torch", "safetensors", "triton"))
    found = verdicts(packages_with("safetensors", torch=torch["GPU"]), L4)
    assert found[name] == "no: triton is missing: pip install 'i3d-deploy[export,kernels]'"
    found = verdicts(packages_with("safetensors", "triton", torch=torch["CPU build"]), L4)
    assert found[name] == "no: torch 2.11 does not use the GPU: install PyTorch for CUDA, see pytorch.org"
    compiler = tmp_path / "gcc"
    compiler.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    complete = packages_with("safetensors", "triton", torch=torch["GPU"])
    assert verdicts(complete, L4)[name] == "yes: torch 2.11 (GPU), safetensors 1.0, triton 1.0"
    compiler.unlink()
    assert verdicts(complete, L4)[name] == "no: Triton needs a C compiler: apt-get install -y gcc"


def test_what_a_package_offers_is_told() -> None:
    runtime = Package(
        name="onnxruntime",
        state="installed",
        version="1.32.0",
        offers=("CUDAExecutionProvider", "CPUExecutionProvider"),
    )
    found = verdicts(packages_with(onnxruntime=runtime), L4)
    assert found["run .onnx"] == "yes: onnxruntime 1.32.0 (CUDAExecutionProvider, CPUExecutionProvider)"


@pytest.mark.parametrize("state", ["too old", "broken"])
def test_package_that_cannot_be_used_is_no_ability(state: doctor.State) -> None:
    packages = packages_with(*EXPORT, onnx=Package(name="onnx", state=state, version="1.2"))
    assert verdicts(packages)["export to onnx"] == f"no: onnx is {state}: pip install 'i3d-deploy[export]'"


def test_nothing_is_wrong_with_what_is_only_missing() -> None:
    assert doctor.find_problems(packages_with(*CORE), ()) == ()
    assert doctor.find_problems(packages_with(*doctor.PACKAGES), (L4,)) == ()


@pytest.mark.parametrize(("gpus", "extra"), [((), "cpu"), ((L4,), "gpu")])
def test_two_onnxruntimes_are_a_problem(gpus: tuple[Gpu, ...], extra: str) -> None:
    runtime = Package(
        name="onnxruntime", state="installed", version="1.32.0", distributions=("onnxruntime", "onnxruntime-gpu")
    )
    (problem,) = doctor.find_problems(packages_with(onnxruntime=runtime), gpus)
    assert problem.what == "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files"
    assert problem.mend == (
        "pip uninstall -y onnxruntime onnxruntime-gpu",
        f"pip install 'i3d-deploy[{extra}]'",
    )


def test_two_opencvs_are_a_problem() -> None:
    opencv = Package(name="cv2", state="installed", distributions=("opencv-python", "opencv-python-headless"))
    (problem,) = doctor.find_problems(packages_with(cv2=opencv), ())
    assert (
        problem.what == "opencv-python and opencv-python-headless are both installed and overwrite each other's files"
    )
    assert problem.mend == (
        "pip uninstall -y opencv-python opencv-python-headless",
        "pip install 'opencv-python>=4.10,<6'",
    )


def test_gpu_runtime_without_cuda_is_a_problem() -> None:
    runtime = Package(
        name="onnxruntime", state="installed", distributions=("onnxruntime-gpu",), offers=("CPUExecutionProvider",)
    )
    (problem,) = doctor.find_problems(packages_with(onnxruntime=runtime), (L4,))
    assert problem.what == "onnxruntime-gpu is installed but offers no CUDA: another distribution overwrote its files"
    assert problem.mend == ("pip uninstall -y onnxruntime-gpu", "pip install 'i3d-deploy[gpu]'")


def test_opencv_without_a_desktops_libraries_names_them() -> None:
    reason = "ImportError: libGL.so.1: cannot open shared object file: No such file or directory"
    opencv = Package(name="cv2", state="broken", distributions=("opencv-python",), reason=reason)
    (problem,) = doctor.find_problems(packages_with(cv2=opencv), ())
    assert problem.what == f"cv2 cannot be imported: {reason}"
    assert problem.mend == ("apt-get install -y libgl1 libglib2.0-0",)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages, for this process and for those that it starts."""
    folder = tmp_path / "some where" / "site-packages"
    folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def add_package(site: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str | None, version: str) -> None:
    """Write a package as pip would; without code, only its entry in pip's list."""
    if code is not None:
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(code)
    metadata = site / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.setitem(doctor.PACKAGES, name, (name,))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "raise ImportError(f'{__file__}: undefined symbol: cuInit')",
            "ImportError: __init__.py: undefined symbol: cuInit",
        ),
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("import os; os.abort()", "the import ends the process with signal 6"),
        ("raise SystemExit(3)", "the import ends with code 3"),
        (None, "its files are gone, though pip lists it as installed"),
    ],
)
def test_package_that_does_not_import_is_broken(
    site: Path, monkeypatch: pytest.MonkeyPatch, code: str | None, reason: str
) -> None:
    add_package(site, monkeypatch, "brittle", code, "2.1")
    package = doctor.look_at_package("brittle")
    assert package == Package(name="brittle", state="broken", version="2.1", distributions=("brittle",), reason=reason)
    (problem,) = doctor.find_problems([package], ())
    assert problem.mend == ("pip install --force-reinstall brittle",)


def test_import_without_end_is_broken(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_IMPORT_TIMEOUT_SECONDS", 1)
    add_package(site, monkeypatch, "brittle", "import time; time.sleep(60)", "2.1")
    assert doctor.look_at_package("brittle").reason == "the import does not end within 1 seconds"


def test_package_that_talks_while_it_is_imported_is_fine(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_package(site, monkeypatch, "chatty", "print('hello', end='')", "2.1")
    assert doctor.look_at_package("chatty").state == "installed"


def test_empty_folder_of_an_uninstalled_package_is_missing(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "remains").mkdir()
    monkeypatch.setitem(doctor.PACKAGES, "remains", ("remains",))
    assert doctor.look_at_package("remains") == Package(name="remains", state="missing")


@pytest.mark.parametrize(("version", "state"), [("1.25.9", "too old"), ("1.26", "installed"), ("2.0rc1", "installed")])
def test_version_is_held_against_what_this_library_asks_for(
    site: Path, monkeypatch: pytest.MonkeyPatch, version: str, state: str
) -> None:
    add_package(site, monkeypatch, "aged", "", version)
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda name: ["other>=9", "Aged[x]<3,>=1.26; extra == 'y'", "aged-too>=7"]
    )
    package = doctor.look_at_package("aged")
    assert package.state == state
    assert package.reason == ("i3d-deploy needs 1.26 or newer" if state == "too old" else None)


def test_file_of_the_same_name_in_the_current_folder_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    assert doctor.look_at_package("numpy") == Package(
        name="numpy", state="installed", version=np.__version__, distributions=("numpy",)
    )


def test_messages_lose_folders_user_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/Jane Doe"))
    monkeypatch.setenv("LOGNAME", "jdoe")
    monkeypatch.setattr(platform, "node", lambda: "lab-pc7")
    for given, expected in {
        "/home/Jane Doe/env/lib/x.so: undefined symbol: a_b": "x.so: undefined symbol: a_b",
        "cannot open '/opt/data/jdoe/libcudart.so.13'": "cannot open 'libcudart.so.13'",
        r"DLL load failed: C:\Users\jdoe\env\x.dll": "DLL load failed: x.dll",
        "jdoe has no right on lab-pc7": "... has no right on ...",
        "libGL.so.1: cannot open shared object file": "libGL.so.1: cannot open shared object file",
    }.items():
        assert doctor.without_places(given) == expected


def test_gpus_are_read_from_the_drivers_table() -> None:
    table = "NVIDIA L4, 8.9, 23034, 580.65.06\nNVIDIA GB10, 12.1, [N/A], 580.65.06\n"
    assert doctor.parse_gpus(table) == (
        L4,
        Gpu(name="NVIDIA GB10", compute_capability="12.1", memory="shared memory", driver="580.65.06"),
    )
    assert doctor.parse_gpus("") == ()
    assert doctor.parse_gpus("No devices were found\n") == ()


def test_machine_is_described_without_names() -> None:
    machine = doctor.look_at_machine()
    assert machine.python.endswith(platform.python_version())
    assert machine.cores >= 1
    assert 0.1 < machine.memory_gib < 100_000
    text = json.dumps(dataclasses.asdict(machine))
    assert str(Path.home()) not in text or Path.home() == Path("/")
    assert len(platform.node()) < 3 or platform.node() not in text
