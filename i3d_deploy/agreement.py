"""How far a quantised engine agrees with its source where no labels are: on the clips that it was calibrated on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from i3d_deploy.calibration import Clips
from i3d_deploy.card import Card
from i3d_deploy.errors import ArtifactError
from i3d_deploy.measurements import Agreement
from i3d_deploy.recognizer import Recognizer

OnViews = Callable[[int, int], None]


def answers(
    recognizer: Recognizer, clips: Clips, card: Card, *, on_views: OnViews | None = None
) -> NDArray[np.float32]:
    """Run a network over the calibration views.

    Args:
        recognizer: The network.
        clips: The clips.
        card: Whose pipeline cuts the views.
        on_views: Called with (views done, views in all).

    Returns:
        (V, K) float32 logits.
    """
    return np.concatenate([recognizer.infer(view) for view in clips.views(card, on_views=on_views)])


def compare(reference: NDArray[np.float32], logits: NDArray[np.float32], *, runner: str) -> Agreement:
    """Hold an engine's answers against its source's.

    Args:
        reference: (V, K) logits of the source.
        logits: (V, K) logits of the engine on the same views.
        runner: What ran the engine.

    Raises:
        ArtifactError: The engine's logits are not finite.
    """
    if not np.isfinite(logits).all():
        raise ArtifactError(f"{np.count_nonzero(~np.isfinite(logits))} logits on the calibration clips are not finite")
    same = float((reference.argmax(axis=1) == logits.argmax(axis=1)).mean())
    divergence = float(f"{kl_divergence(reference, logits).mean():.2g}")
    return Agreement(runner=runner, num_views=len(reference), top1=100 * same, kl_divergence=max(divergence, 0.0))


def kl_divergence(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of the probabilities of ``logits`` from those of ``reference``.

    Args:
        reference: (V, K) logits.
        logits: (V, K) logits.

    Returns:
        (V,) in nats: the sum over the classes of p (log p - log q) with p of ``reference`` and q of ``logits``.
    """
    expected, found = _log_probabilities(reference), _log_probabilities(logits)
    return np.asarray((np.exp(expected) * (expected - found)).sum(axis=1))


def _log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
