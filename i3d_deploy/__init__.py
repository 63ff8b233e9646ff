"""Deployment toolchain for I3D action-recognition networks: video in, labels out, through exports proven equal."""

from __future__ import annotations

__version__ = "0.1.0"
