"""The marker ``gpu``: skipped without a device, failing where FAIL_WITHOUT_GPU=1 demands one."""

from __future__ import annotations

import functools
import os

import pytest

from i3d_deploy.errors import DeviceError
from i3d_deploy.runners.device_memory import find_gpu

IS_DEMANDED = os.environ.get("FAIL_WITHOUT_GPU") == "1"


@functools.cache
def has_gpu() -> bool:
    """Whether the NVIDIA driver offers a GPU."""
    try:
        find_gpu()
    except DeviceError:
        return False
    return True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked ``gpu``; conftest.py imports this hook by its name."""
    if IS_DEMANDED or has_gpu():
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason="no GPU"))
