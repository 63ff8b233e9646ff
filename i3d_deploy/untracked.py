"""Importing packages that report over the network how they are used, without the report.

Note [OpenVINO reports]
    ``import openvino`` and ``import nncf`` each send an event, and write an identifier of the user below the home
    folder, unless their common package ``openvino_telemetry`` cannot be imported: then both use a stand-in that does
    nothing, for as long as the process lives. It is hidden from them while they are imported. Source: OpenVINO 2026.4
    ``openvino/tools/ovc/telemetry_utils.py``, NNCF 3.4 ``nncf/telemetry/wrapper.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_REPORTER = "openvino_telemetry"


@contextmanager
def imports() -> Iterator[None]:
    """Import ``openvino`` or ``nncf`` within this block: Note [OpenVINO reports]."""
    missing = object()
    before = sys.modules.get(_REPORTER, missing)
    sys.modules[_REPORTER] = None  # type: ignore[assignment]  # how Python is told that a module cannot be imported
    try:
        yield
    finally:
        if before is missing:
            del sys.modules[_REPORTER]
        else:
            sys.modules[_REPORTER] = before  # type: ignore[assignment]
