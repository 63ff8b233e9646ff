"""Device memory: through cuda-python on a stand-in for the driver, through both packages on a GPU."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from i3d_deploy.errors import DeviceError, MissingExtraError
from i3d_deploy.runners import device_memory
from i3d_deploy.runners.device_memory import Backend, DeviceMemory, Gpu, find_gpu, open_device_memory
from tests.gpu import has_gpu

without_gpu = pytest.mark.skipif(has_gpu(), reason="there is a GPU")
BACKENDS: tuple[Backend, ...] = ("pycuda", "cuda-python")


def is_installed(backend: Backend) -> bool:
    name = {"pycuda": "pycuda", "cuda-python": "cuda"}[backend]
    return importlib.util.find_spec(name) is not None


@without_gpu
def test_without_a_gpu_the_driver_is_named_in_one_line() -> None:
    with pytest.raises(DeviceError, match=r"^(no NVIDIA driver on this machine|no GPU cuda:0|the NVIDIA driver) ?.*$"):
        find_gpu()


@without_gpu
@pytest.mark.skipif(not is_installed("cuda-python"), reason="no cuda-python")
def test_without_a_gpu_no_memory_is_opened() -> None:
    with pytest.raises(DeviceError, match=r"NVIDIA driver"):
        open_device_memory(backend="cuda-python")


@pytest.mark.parametrize(("backend", "package"), [("pycuda", "pycuda"), ("cuda-python", "cuda.bindings")])
def test_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch, backend: Backend, package: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match=rf"^{package} is not installed: pip install 'i3d-deploy\[{backend}\]'$"
    ):
        open_device_memory(backend=backend)


def test_without_either_package_cuda_python_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"i3d-deploy\[cuda-python\]"):
        open_device_memory()


def test_pycuda_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(device_memory, "find_gpu", lambda device: Gpu(name="GPU", compute_capability="8.9"))
    monkeypatch.setattr(device_memory, "_PycudaMemory", lambda device: opened.append(device))
    open_device_memory(2)
    assert opened == [2]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "0 True stand-in 8.9"),
        ({"STAND_IN_GPUS": "0"}, "DeviceError no GPU cuda:0, the NVIDIA driver offers 0"),
        ({"STAND_IN_INIT": "100"}, "DeviceError no GPU cuda:0, the NVIDIA driver offers 0"),
        ({"STAND_IN_INIT": "803"}, "DeviceError the NVIDIA driver does not start (CUDA error 803)"),
        ({"STAND_IN_MEMORY": "1"}, "DeviceError CUDA failed: cuMemAlloc: out of memory"),
    ],
)
@pytest.mark.skipif(not is_installed("cuda-python"), reason="no cuda-python")
def test_cuda_python_on_a_stand_in_driver(tmp_path: Path, environment: dict[str, str], expected: str) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = Path(__file__).with_name("driver_stand_in.c")
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source], check=True)
    script = Path(__file__).with_name("driver_stand_in.py")
    search_path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
    result = subprocess.run(
        [sys.executable, script],
        env={**os.environ, **environment, "LD_LIBRARY_PATH": search_path, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stderr == ""
    assert result.stdout.startswith(expected)


@pytest.fixture(params=BACKENDS)
def memory(request: pytest.FixtureRequest) -> Iterator[DeviceMemory]:
    if not is_installed(request.param):
        pytest.skip(f"no {request.param}")
    opened = open_device_memory(backend=request.param)
    yield opened
    opened.close()


@pytest.mark.gpu
def test_copies_there_and_back_are_equal(memory: DeviceMemory) -> None:
    with memory.current():
        source = memory.allocate_pinned((3, 4), np.float32)
        target = memory.allocate_pinned((3, 4), np.float32)
        address = memory.allocate(source.nbytes)
        source[...] = np.arange(12).reshape(3, 4)
        target[...] = 0
        memory.copy_to_device(address, source[:2])
        memory.copy_to_host(target[:2], address)
        memory.synchronize()
        np.testing.assert_array_equal(target, [[0, 1, 2, 3], [4, 5, 6, 7], [0, 0, 0, 0]])


@pytest.mark.gpu
def test_more_memory_than_there_is_cannot_be_had(memory: DeviceMemory) -> None:
    with memory.current(), pytest.raises(DeviceError, match=r"(?i)out of memory"):
        memory.allocate(1 << 50)


@pytest.mark.gpu
def test_memory_closes_twice(memory: DeviceMemory) -> None:
    memory.close()
    memory.close()


@pytest.mark.gpu
def test_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(DeviceError, match=r"no GPU cuda:99"):
        find_gpu(99)
