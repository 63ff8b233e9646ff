"""GPU memory for the TensorRT runner: buffers, copies and one stream, through pycuda or cuda-python.

Both use the device's primary context, which is the one that PyTorch and the CUDA runtime use, and make it current only
for the length of a ``with memory.current():`` block, so a host application finds its own context as it left it.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from i3d_deploy.errors import DeviceError, MissingExtraError

Backend = Literal["pycuda", "cuda-python"]

_MODULES: dict[Backend, str] = {"pycuda": "pycuda.driver", "cuda-python": "cuda.bindings.driver"}

# Of CUstream_flags, CUdevice_attribute and CUresult in cuda.h.
_STREAM_NON_BLOCKING = 1
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NO_DEVICE = 100


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as its driver names it.

    Attributes:
        name: Such as "NVIDIA L4".
        compute_capability: Such as "8.9".
    """

    name: str
    compute_capability: str


def find_gpu(device: int = 0) -> Gpu:
    """Ask the driver for a GPU, without any Python package and without making a context.

    Args:
        device: Index among the GPUs that CUDA_VISIBLE_DEVICES leaves.

    Raises:
        DeviceError: There is no driver, or no GPU of that index.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DeviceError(
            "no NVIDIA driver on this machine (libcuda.so.1 cannot be loaded): i3d-doctor lists what runs here"
        ) from error
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status not in (0, _NO_DEVICE):
        raise DeviceError(f"the NVIDIA driver does not start (CUDA error {status}): try nvidia-smi")
    if not 0 <= device < count.value:
        raise DeviceError(
            f"no GPU cuda:{device}, the NVIDIA driver offers {count.value}: i3d-doctor lists what runs here"
        )
    return _describe(driver, device)


def _describe(driver: ctypes.CDLL, device: int) -> Gpu:
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    status = (
        driver.cuDeviceGet(ctypes.byref(handle), device)
        or driver.cuDeviceGetName(name, len(name), handle)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, handle)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, handle)
    )
    if status:
        raise DeviceError(f"the NVIDIA driver cannot describe cuda:{device} (CUDA error {status}): try nvidia-smi")
    return Gpu(name=name.value.decode(), compute_capability=f"{major.value}.{minor.value}")


class DeviceMemory(ABC):
    """Buffers on one GPU and one stream that copies to and from them.

    Call every method but :meth:`close` inside ``with memory.current():``. Not thread-safe.

    Attributes:
        stream: Handle (``cudaStream_t``) of the stream that orders the copies; not the default stream.
    """

    stream: int

    @abstractmethod
    def current(self) -> AbstractContextManager[None]:
        """A context manager that makes the device's primary context the thread's own."""

    @abstractmethod
    def allocate(self, size_bytes: int) -> int:
        """Reserve memory on the device until :meth:`close`.

        Returns:
            Its address.

        Raises:
            DeviceError: The device has not that much left.
        """

    @abstractmethod
    def allocate_pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Reserve page-locked host memory, without which copies would not be asynchronous.

        Returns:
            A C-contiguous array, uninitialised, that must not be touched after :meth:`close`.

        Raises:
            DeviceError: The host has not that much left.
        """

    @abstractmethod
    def copy_to_device(self, address: int, source: NDArray[Any]) -> None:
        """Start a copy; ``source`` is C-contiguous and stays as it is until :meth:`synchronize`."""

    @abstractmethod
    def copy_to_host(self, target: NDArray[Any], address: int) -> None:
        """Start a copy; ``target`` is C-contiguous and filled after :meth:`synchronize`."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for everything on the stream.

        Raises:
            DeviceError: Something on it failed.
        """

    @abstractmethod
    def close(self) -> None:
        """Free all buffers and the stream; a second call does nothing."""


def open_device_memory(device: int = 0, *, backend: Backend | None = None) -> DeviceMemory:
    """Open a GPU for buffers and copies.

    Args:
        device: Index of the GPU.
        backend: Package to use; None takes pycuda where it is installed, else cuda-python.

    Raises:
        MissingExtraError: The package, or either, is not installed.
        DeviceError: There is no driver or no such GPU.
    """
    chosen = backend or ("pycuda" if _is_installed("pycuda") else "cuda-python")
    if not _is_installed(chosen):
        package = _MODULES[chosen].rpartition(".")[0]
        cause = ModuleNotFoundError(f"No module named '{package}'", name=package.partition(".")[0])
        raise MissingExtraError(package, extra=chosen, cause=cause)
    find_gpu(device)
    try:
        return _PycudaMemory(device) if chosen == "pycuda" else _CudaPythonMemory(device)
    except ImportError as error:
        raise MissingExtraError(_MODULES[chosen], extra=chosen, cause=error) from error


def _is_installed(backend: Backend) -> bool:
    try:
        return importlib.util.find_spec(_MODULES[backend].rpartition(".")[0]) is not None
    except ModuleNotFoundError:  # of the parent package
        return False


class _PycudaMemory(DeviceMemory):
    def __init__(self, device: int) -> None:
        from pycuda import driver

        self._driver = driver
        self._buffers: list[Any] = []
        self._context = _primary_context(device)
        with self.current():
            self._stream: Any = driver.Stream(_STREAM_NON_BLOCKING)
        self.stream = self._stream.handle

    @contextmanager
    def current(self) -> Iterator[None]:
        with self._errors():
            self._context.push()
        try:
            yield
        finally:
            with self._errors():
                self._context.pop()

    def allocate(self, size_bytes: int) -> int:
        with self._errors():
            allocation = self._driver.mem_alloc(size_bytes)
        self._buffers.append(allocation)
        return int(allocation)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        with self._errors():
            array: NDArray[Any] = self._driver.pagelocked_empty(shape, np.dtype(dtype))
        self._buffers.append(array.base)
        return array

    def copy_to_device(self, address: int, source: NDArray[Any]) -> None:
        with self._errors():
            self._driver.memcpy_htod_async(address, source, self._stream)

    def copy_to_host(self, target: NDArray[Any], address: int) -> None:
        with self._errors():
            self._driver.memcpy_dtoh_async(target, address, self._stream)

    def synchronize(self) -> None:
        with self._errors():
            self._stream.synchronize()

    def close(self) -> None:
        if self._stream is None:
            return
        with self.current(), self._errors():
            while self._buffers:
                self._buffers.pop().free()
            self._stream = None  # pycuda destroys a stream with its last reference

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            raise DeviceError(f"CUDA failed: {error}") from error


@functools.cache
def _primary_context(device: int) -> Any:
    """The device's primary context, kept for the life of the process.

    pycuda 2026.1 detaches a primary context without popping it, which would leave the thread with a dead one; and its
    destructor calls ``cuCtxDetach``, which is not for primary contexts. At exit neither matters any more.
    """
    from pycuda import driver

    driver.init()
    context = driver.Device(device).retain_primary_context()
    atexit.register(context.detach)
    return context


class _CudaPythonMemory(DeviceMemory):
    """Uses the driver's interface: the runtime's in cuda-python refuses drivers older than itself."""

    def __init__(self, device: int) -> None:
        from cuda.bindings import driver

        self._driver = driver
        self._device_buffers: list[int] = []
        self._host_buffers: list[int] = []
        self._call(driver.cuInit, 0)
        self._device = self._call(driver.cuDeviceGet, device)
        self._context: Any = self._call(driver.cuDevicePrimaryCtxRetain, self._device)
        try:
            with self.current():
                self.stream = int(self._call(driver.cuStreamCreate, _STREAM_NON_BLOCKING))
        except BaseException:
            self._call(driver.cuDevicePrimaryCtxRelease, self._device)
            raise

    @contextmanager
    def current(self) -> Iterator[None]:
        self._call(self._driver.cuCtxPushCurrent, self._context)
        try:
            yield
        finally:
            self._call(self._driver.cuCtxPopCurrent)

    def allocate(self, size_bytes: int) -> int:
        address = int(self._call(self._driver.cuMemAlloc, size_bytes))
        self._device_buffers.append(address)
        return address

    def allocate_pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self._call(self._driver.cuMemHostAlloc, size_bytes, 0))
        self._host_buffers.append(address)
        content = np.ctypeslib.as_array((ctypes.c_uint8 * size_bytes).from_address(address))
        return content.view(dtype).reshape(shape)

    def copy_to_device(self, address: int, source: NDArray[Any]) -> None:
        self._call(self._driver.cuMemcpyHtoDAsync, address, source.ctypes.data, source.nbytes, self.stream)

    def copy_to_host(self, target: NDArray[Any], address: int) -> None:
        self._call(self._driver.cuMemcpyDtoHAsync, target.ctypes.data, address, target.nbytes, self.stream)

    def synchronize(self) -> None:
        self._call(self._driver.cuStreamSynchronize, self.stream)

    def close(self) -> None:
        if self._context is None:
            return
        with self.current():
            while self._device_buffers:
                self._call(self._driver.cuMemFree, self._device_buffers.pop())
            while self._host_buffers:
                self._call(self._driver.cuMemFreeHost, self._host_buffers.pop())
            self._call(self._driver.cuStreamDestroy, self.stream)
        self._call(self._driver.cuDevicePrimaryCtxRelease, self._device)
        self._context = None

    def _call(self, function: Any, *arguments: Any) -> Any:
        """Call the driver, whose functions return a status and at most one value."""
        status, *values = function(*arguments)
        if int(status) != 0:
            _, text = self._driver.cuGetErrorString(status)
            raise DeviceError(f"CUDA failed: {function.__name__}: {text.decode() if text else status}")
        return values[0] if values else None
