"""Device memory: through cuda-python on a stand-in for the driver, through both packages on a GPU."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from i3d_deploy.errors import DeviceError, MissingExtraError
from i3d_deploy.runners import device_memory
from i3d_deploy.runners.device_memory import Backend, DeviceMemory, Gpu, find_gpu, open_device_memory
from tests.gpu import IS_DEMANDED, has_gpu

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


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that finds the stand-in for NVIDIA's driver."""
    if not is_installed("cuda-python"):
        pytest.skip("no cuda-python")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    source, library = Path(__file__).with_name("driver_stand_in.c"), folder / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source], check=True)
    search_path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
    return {**os.environ, "LD_LIBRARY_PATH": search_path, "PYTHONPATH": os.pathsep.join(sys.path)}


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
def test_cuda_python_on_a_stand_in_driver(stand_in: dict[str, str], environment: dict[str, str], expected: str) -> None:
    script = Path(__file__).with_name("driver_stand_in.py")
    command = [sys.executable, str(script)]
    result = subprocess.run(command, env={**stand_in, **environment}, capture_output=True, text=True, timeout=60)
    assert result.stderr == ""
    assert result.stdout.startswith(expected)


def test_what_a_gpu_has_to_pass_runs_on_the_stand_in(stand_in: dict[str, str]) -> None:
    # The tests below that are marked gpu, of the package that is installed everywhere.
    options = ["-m", "gpu", "-k", "not pycuda", "--noconftest", "-p", "no:cacheprovider", "-q"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, __file__],
        env={**stand_in, "FAIL_WITHOUT_GPU": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout
    assert re.search(r"^\d+ passed, \d+ deselected in ", result.stdout, re.MULTILINE), result.stdout


class Driver:
    """NVIDIA's driver, asked past the package under test; there is one where a test has memory."""

    def __init__(self) -> None:
        self.driver = ctypes.CDLL("libcuda.so.1")

    def context(self) -> int | None:
        """The thread's context."""
        found = ctypes.c_void_p()
        assert self.driver.cuCtxGetCurrent(ctypes.byref(found)) == 0
        return found.value

    def free_bytes(self) -> int:
        """What the current context's device has left."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        assert self.driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
        return free.value

    def has_pinned(self, array: NDArray[Any]) -> bool:
        """Whether the driver holds the array's memory in place."""
        flags = ctypes.c_uint()
        return bool(self.driver.cuMemHostGetFlags(ctypes.byref(flags), ctypes.c_void_p(array.ctypes.data)) == 0)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """A package; where a GPU is demanded, one that is missing fails."""
    name: Backend = request.param
    if not IS_DEMANDED and not is_installed(name):
        pytest.skip(f"no {name}")
    return name


@pytest.fixture
def memory(backend: Backend) -> Iterator[DeviceMemory]:
    opened = open_device_memory(backend=backend)
    yield opened
    opened.close()


def copy_there_and_back(memory: DeviceMemory, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What went to the device, and what came back."""
    with memory.current():
        source = memory.allocate_pinned((count,), np.float32)
        target = memory.allocate_pinned((count,), np.float32)
        address = memory.allocate(source.nbytes)
        source[...] = np.random.default_rng(count).standard_normal(count)
        target[...] = 0
        memory.copy_to_device(address, source)
        memory.copy_to_host(target, address)
        memory.synchronize()
        return source.copy(), target.copy()


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
def test_buffers_are_apart(memory: DeviceMemory) -> None:
    count = 1 << 20  # copies that take a while
    with memory.current():
        sources = [memory.allocate_pinned((count,), np.int32) for _ in range(3)]
        targets = [memory.allocate_pinned((count,), np.int32) for _ in range(3)]
        addresses = [memory.allocate(4 * count) for _ in range(3)]
        for number, (source, address) in enumerate(zip(sources, addresses, strict=True)):
            source[...] = np.arange(count) * (number + 1)
            memory.copy_to_device(address, source)
        for target, address in zip(targets, reversed(addresses), strict=True):
            memory.copy_to_host(target, address)
        memory.synchronize()
        for number, target in enumerate(reversed(targets)):
            np.testing.assert_array_equal(target, np.arange(count) * (number + 1))


@pytest.mark.gpu
def test_host_memory_is_pinned(memory: DeviceMemory) -> None:
    with memory.current():
        array = memory.allocate_pinned((2, 3, 5), np.float32)
        assert array.shape == (2, 3, 5)
        assert array.dtype == np.dtype(np.float32)
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert Driver().has_pinned(array)
        assert not Driver().has_pinned(np.empty(30, np.float32))


@pytest.mark.gpu
def test_the_stream_is_its_own(memory: DeviceMemory) -> None:
    assert isinstance(memory.stream, int)
    assert memory.stream > 2  # CU_STREAM_LEGACY is 1, CU_STREAM_PER_THREAD 2


@pytest.mark.gpu
def test_the_threads_context_is_as_it_was(memory: DeviceMemory) -> None:
    driver = Driver()
    before = driver.context()
    with memory.current():
        inside = driver.context()
        with memory.current():
            assert driver.context() == inside
        assert driver.context() == inside
    assert inside is not None
    assert driver.context() == before
    with pytest.raises(ZeroDivisionError), memory.current():
        _ = 1 / 0
    assert driver.context() == before


@pytest.mark.gpu
def test_another_thread_may_have_its_turn(memory: DeviceMemory) -> None:
    copy_there_and_back(memory, 12)
    with ThreadPoolExecutor(1) as other:
        sent, returned = other.submit(copy_there_and_back, memory, 1000).result()
        other.submit(memory.close).result()
    np.testing.assert_array_equal(returned, sent)


@pytest.mark.gpu
def test_closing_frees_its_own_buffers_alone(backend: Backend, memory: DeviceMemory) -> None:
    size_bytes = 256 << 20
    with memory.current():
        before = Driver().free_bytes()
    other = open_device_memory(backend=backend)
    with other.current():
        other.allocate(size_bytes)
    with memory.current():
        assert Driver().free_bytes() <= before - size_bytes
    other.close()
    with memory.current():
        assert Driver().free_bytes() > before - size_bytes // 2
    sent, returned = copy_there_and_back(memory, 100)
    np.testing.assert_array_equal(returned, sent)


@pytest.mark.gpu
@pytest.mark.parametrize("where", ["device", "host"])
def test_more_memory_than_there_is_cannot_be_had(memory: DeviceMemory, where: str) -> None:
    size_bytes = 1 << 50
    with memory.current(), pytest.raises(DeviceError, match=r"^CUDA failed: .*out of memory"):
        if where == "device":
            memory.allocate(size_bytes)
        else:
            memory.allocate_pinned((size_bytes,), np.uint8)
    sent, returned = copy_there_and_back(memory, 100)
    np.testing.assert_array_equal(returned, sent)


@pytest.mark.gpu
def test_memory_closes_twice(memory: DeviceMemory) -> None:
    memory.close()
    memory.close()


@pytest.mark.gpu
def test_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(DeviceError, match=r"no GPU cuda:99"):
        find_gpu(99)
