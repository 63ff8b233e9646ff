"""From an OpenVINO model to one whose convolutions multiply int8 numbers, through NNCF.

Weights get one symmetric scale per output channel, activations one symmetric range per tensor, and NNCF corrects the
biases for what rounding shifts. What is not quantised is computed in the type that the runner asks for.

Note [What stays higher]
    Matrix products: the classifier, and those of non-local blocks. For the classifier that costs no time and halves
    the divergence from float32 (R50 with seeded weights, 30 views of five clips: 3.1e-5 to 1.5e-5 nats). The stem is
    quantised: kept in bf16 it changes no answer, and one view takes 1.3 times as long. Symmetric and asymmetric
    activations are equally exact and equally fast, so they are symmetric.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from i3d_deploy import untracked
from i3d_deploy.errors import ExportError, MissingExtraError
from i3d_deploy.frames import Resized

try:
    with untracked.imports():
        import nncf
except ImportError as error:
    raise MissingExtraError(error.name or "nncf", extra="quant", cause=error) from error


def quantize(model: Any, views: Callable[[], Iterable[Resized]], *, num_views: int) -> Any:
    """Quantise a model.

    Args:
        model: From :func:`i3d_deploy.to_openvino.convert`; left as it is.
        views: Gives what the model takes, (1, ...) each; called as often as NNCF passes over them.
        num_views: How many that are.

    Returns:
        Another ``openvino.Model`` with the same input and output.

    Raises:
        ExportError: NNCF gave up.
    """
    kept = [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
    with _quiet():
        try:
            return nncf.quantize(
                model.clone(),
                nncf.Dataset(_Repeatable(views)),
                preset=nncf.QuantizationPreset.PERFORMANCE,
                subset_size=num_views,
                ignored_scope=nncf.IgnoredScope(names=kept),
            )
        except (nncf.InternalError, nncf.ValidationError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ExportError(f"NNCF cannot quantise the model: {reason}") from error
        finally:
            # NNCF has cores of its own, to be freed in this thread: Note [Freed in another thread] in openvino_core.
            gc.collect()


class _Repeatable:
    """An iterable that starts over each time it is gone through."""

    def __init__(self, start: Callable[[], Iterable[Resized]]) -> None:
        self._start = start

    def __iter__(self) -> Iterator[Resized]:
        return iter(self._start())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's bars and log off the standard output."""
    logger = logging.getLogger("nncf")
    level = logger.level
    nncf.set_log_level(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        nncf.set_log_level(level)
