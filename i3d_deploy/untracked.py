"""Importing packages that report over the network how they are used, without the report.

Note [OpenVINO reports]
    ``import openvino`` and ``import nncf`` each send an event, and write an identifier of the user below the home
    folder, unless their common package ``openvino_telemetry`` cannot be imported: then both use a stand-in that does
    nothing, for as long as the process lives. It is hidden from them while they are imported. Source: OpenVINO 2026.4
    ``openvino/tools/ovc/telemetry_utils.py``, NNCF 3.4 ``nncf/telemetry/wrapper.py``.

Note [ONNX Runtime reports]
    ``import onnxruntime`` sends events, and keeps an identifier and a database of events below the user's cache folder,
    unless ORT_DISABLE_TELEMETRY is set when the first import in a process initialises it. Whoever has set the variable
    keeps their choice. Source: ONNX Runtime 1.32 ``Privacy.md``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_REPORTER = "openvino_telemetry"


@contextmanager
def imports() -> Iterator[None]:
    """Import ``openvino``, ``nncf`` or ``onnxruntime`` within this block.

    Note [OpenVINO reports], Note [ONNX Runtime reports].
    """
    missing = object()
    before = sys.modules.get(_REPORTER, missing)
    sys.modules[_REPORTER] = None  # type: ignore[assignment]  # how Python is told that a module cannot be imported
    try:
        with _switched("ORT_DISABLE_TELEMETRY", "1"):
            yield
    finally:
        if before is missing:
            del sys.modules[_REPORTER]
        else:
            sys.modules[_REPORTER] = before  # type: ignore[assignment]


@contextmanager
def ray() -> Iterator[None]:
    """Start Ray and use it within this block: Note [Ray reports]."""
    with _switched("RAY_USAGE_STATS_ENABLED", "0"):
        yield


@contextmanager
def _switched(variable: str, value: str) -> Iterator[None]:
    """Set an environment variable for a while, unless it is set."""
    is_chosen = variable in os.environ
    os.environ.setdefault(variable, value)
    try:
        yield
    finally:
        if not is_chosen:
            del os.environ[variable]
