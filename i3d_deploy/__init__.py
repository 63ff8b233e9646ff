"""Deployment toolchain for I3D action-recognition networks: video in, labels out, through exports proven equal.

Example:
    >>> import i3d_deploy as i3d
    >>> recognizer = i3d.load("model.onnx")
    >>> recognizer.predict("clip.mp4").top(5)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Card", "I3DError", "InputError", "Prediction", "Recognizer", "TimedFrame", "VideoError", "load"]

if TYPE_CHECKING:
    from i3d_deploy.card import Card
    from i3d_deploy.errors import I3DError, InputError, VideoError
    from i3d_deploy.predictions import Prediction
    from i3d_deploy.recognizer import Recognizer, load
    from i3d_deploy.stream_sources import TimedFrame

_HOMES = {
    "Card": "card",
    "I3DError": "errors",
    "InputError": "errors",
    "Prediction": "predictions",
    "Recognizer": "recognizer",
    "TimedFrame": "stream_sources",
    "VideoError": "errors",
    "load": "recognizer",
}


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``i3d-doctor`` starts where OpenCV is broken."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
