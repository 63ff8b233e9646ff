"""Deployment toolchain for I3D action-recognition networks: video in, labels out, through exports proven equal.

Example:
    >>> import i3d_deploy as i3d
    >>> recognizer = i3d.load("model.onnx")
    >>> recognizer.predict("clip.mp4").top(5)
"""

from __future__ import annotations

__version__ = "0.1.0"

from i3d_deploy.card import Card
from i3d_deploy.errors import I3DError
from i3d_deploy.recognizer import Prediction, Recognizer, load

__all__ = ["Card", "I3DError", "Prediction", "Recognizer", "load"]
