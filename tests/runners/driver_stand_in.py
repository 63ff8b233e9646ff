"""Run by test_device_memory.py with the stand-in driver: prints what is left over, if copies agree, and the GPU."""

from __future__ import annotations

import ctypes

import numpy as np

from i3d_deploy.errors import DeviceError
from i3d_deploy.runners.device_memory import DeviceMemory, find_gpu, open_device_memory


def copies_agree(memory: DeviceMemory) -> bool:
    with memory.current():
        source = memory.allocate_pinned((3, 4), np.float32)
        target = memory.allocate_pinned((3, 4), np.float32)
        address = memory.allocate(source.nbytes)
        source[...] = np.arange(12).reshape(3, 4)
        target[...] = 0
        memory.copy_to_device(address, source[:2])
        memory.copy_to_host(target[:2], address)
        memory.synchronize()
        return np.array_equal(target, [[0, 1, 2, 3], [4, 5, 6, 7], [0, 0, 0, 0]])


def main() -> None:
    try:
        memory = open_device_memory(backend="cuda-python")
        agree = copies_agree(memory)
    except DeviceError as error:
        print("DeviceError", error)
        return
    memory.close()
    memory.close()
    gpu = find_gpu()
    print(ctypes.CDLL("libcuda.so.1").stand_in_live(), agree, gpu.name, gpu.compute_capability)


if __name__ == "__main__":
    main()
