"""The two packages that bring TensorRT to Python, behind one name.

``tensorrt`` is for every NVIDIA GPU, and builds an engine on the GPU that will run it. ``tensorrt_rtx`` is for GeForce,
RTX and workstation GPUs, and builds without a GPU: it compiles the kernels when the engine is loaded. Their interfaces
are the same as far as this library goes.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from i3d_deploy.errors import MissingExtraError

FlavorName = Literal["tensorrt", "tensorrt_rtx"]
FLAVORS: dict[FlavorName, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
"""The packages, in order of preference, and what people call them."""

_listeners_lock = threading.Lock()

PORTABLE = "8.0+"
"""The compute capability of an engine that tensorrt_rtx builds for all GPUs it knows from 8.0 on."""


@dataclass(kw_only=True)
class Messages:
    """What TensorRT said while somebody listened.

    Attributes:
        errors: Of severity ERROR and INTERNAL_ERROR, oldest first.
        warnings: Of severity WARNING.
    """

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def reason(self) -> str:
        """The errors on one line, for the end of an exception's text."""
        return "; ".join(" ".join(error.split()) for error in self.errors) or "TensorRT gave no reason"


@dataclass(frozen=True, kw_only=True)
class Flavor:
    """An imported TensorRT package.

    Attributes:
        name: Its import name.
        version: Its version; an engine runs only under the one that built it.
        module: The package.
        logger: The ``ILogger`` for every builder, parser and runtime.
    """

    name: FlavorName
    version: str
    module: Any
    logger: Any

    def __str__(self) -> str:
        return f"{FLAVORS[self.name]} {self.version}"

    @contextmanager
    def listening(self) -> Iterator[Messages]:
        """Collect what TensorRT says inside the block, from all threads of the process.

        TensorRT answers a failure with None and gives the reason to the logger alone.
        """
        messages = Messages()
        with _listeners_lock:
            self.logger.listeners = (*self.logger.listeners, messages)
        try:
            yield messages
        finally:
            with _listeners_lock:
                # By identity: two collections with the same messages are equal.
                self.logger.listeners = tuple(other for other in self.logger.listeners if other is not messages)


def load_flavor(name: FlavorName | None = None) -> Flavor:
    """Import TensorRT.

    Args:
        name: Which package; None takes ``tensorrt`` where it is installed, else ``tensorrt_rtx``.

    Raises:
        MissingExtraError: The package is not installed or cannot be imported.
    """
    return _load(name or _preferred())


def is_installed(name: FlavorName) -> bool:
    """Whether a package can be found, without importing it."""
    return importlib.util.find_spec(name) is not None


def _preferred() -> FlavorName:
    return next((name for name in FLAVORS if is_installed(name)), next(iter(FLAVORS)))


@functools.cache
def _load(name: FlavorName) -> Flavor:
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a shared library of the package does not load
        cause = error if isinstance(error, ImportError) else ImportError(str(error))
        raise MissingExtraError(name, extra=name.replace("_", "-"), cause=cause) from error
    return Flavor(name=name, version=module.__version__, module=module, logger=_make_logger(module))


def _make_logger(module: Any) -> Any:
    """The one logger of the process: TensorRT keeps the first that it is given and ignores later ones."""

    class Logger(module.ILogger):  # type: ignore[misc] # the package has no type hints
        def __init__(self) -> None:
            module.ILogger.__init__(self)  # super() would leave the C++ half unmade
            self.listeners: tuple[Messages, ...] = ()

        def log(self, severity: Any, message: str) -> None:
            for messages in self.listeners:
                if severity in (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR):
                    messages.errors.append(message)
                elif severity == module.ILogger.WARNING:
                    messages.warnings.append(message)

    return Logger()
