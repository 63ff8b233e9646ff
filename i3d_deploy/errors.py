"""What can go wrong, as one small tree.

Every expected failure is an :class:`I3DError`, so an application needs one ``except``::

    I3DError
    ├── InputError        an argument or option is out of range (also a ValueError)
    ├── VideoError        a video, image folder or array gives no usable frames
    ├── CardError         a card is missing, malformed or of a newer version
    ├── CheckpointError   a checkpoint cannot be read, or fits none of the networks
    ├── ArtifactError     an exported file is truncated, altered or of the wrong type
    ├── ExportError       an exporter or engine builder gave up
    ├── TrainingError     a training run cannot start, or cannot go on
    ├── DeviceError       the machine has not what a runner needs
    └── MissingExtraError a package of an optional part is not installed (also an ImportError)

Each message says what was given, what is allowed and what to do. A traceback means a bug.
"""

from __future__ import annotations


class I3DError(Exception):
    """Base of every expected failure."""


class InputError(I3DError, ValueError):
    """An argument or option is out of range."""


class VideoError(I3DError):
    """A video, image folder or array gives no usable frames."""


class CardError(I3DError):
    """A card is missing, malformed or of a newer version."""


class CheckpointError(I3DError):
    """A checkpoint cannot be read, or fits none of the networks."""


class ArtifactError(I3DError):
    """An exported file is truncated, altered or of the wrong type."""


class ExportError(I3DError):
    """An exporter or engine builder gave up."""


class TrainingError(I3DError):
    """A training run cannot start, or cannot go on."""


class DeviceError(I3DError):
    """The machine has not what a runner needs."""


class MissingExtraError(I3DError, ImportError):
    """A package of an optional part is not installed."""

    def __init__(self, package: str, *, extra: str, cause: ImportError) -> None:
        """Compose the line with the pip command.

        Args:
            package: The import name that failed.
            extra: The extra of i3d-deploy that brings it.
            cause: What Python said; shown unless it is the plain "No module named".
        """
        self.extra = extra
        missing = isinstance(cause, ModuleNotFoundError) and cause.name == package.partition(".")[0]
        why = "is not installed" if missing else f"cannot be imported ({cause})"
        super().__init__(f"{package} {why}: pip install 'i3d-deploy[{extra}]'")
