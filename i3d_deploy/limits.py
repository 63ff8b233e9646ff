"""How far logits may be from those of the network in PyTorch, by what they were computed in.

Note [Limits on logits]
    Rounding errors are proportional to the size of what is rounded, so a limit holds for logits of standard deviation
    up to 1 and grows with it beyond; filled and random weights give 0.5 to 1, trained ones 2 to 3.

    ======== ======= =============================================================================================
    fp32     1e-4    sums in another order; R50 with filled weights measures 2e-6
    fp16     2e-2    11 bits of mantissa
    bf16     1.6e-1  8 bits of mantissa: three fewer than fp16, so 2**3 times its limit
    ======== ======= =============================================================================================

    Non-local networks compare positions by inner products whose softmax magnifies differences: their fp32 limits are
    those within which the original agrees with itself in float64 (goldens: dot_product and embedded_gaussian 1e-3,
    gaussian 5e-3).

Note [Eight bits]
    An int8 or fp8 layer rounds its inputs to steps of a hundredth of their range, and fifty layers in a row add up to
    more than any limit on a logit that would say something: R50 differs by 5 % of its logits' standard deviation, a
    trained network of a dozen layers by up to half of it. So "passed" says less here: labels, frames and pixels are
    equal, every view's logits point the way of the source's (cosine at least 0.95; of another network's it is about 0)
    and none is off by more than the standard deviation of the source's. That is the proof of a right conversion, not
    of accuracy. How accurate the artifact is, say the agreement on the clips it was calibrated on and the gate on a
    labelled list.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from i3d_deploy.card import Card, Precision
from i3d_deploy.network import NonLocalMode, ResNet

LOGITS_LIMITS: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1.6e-1}
EIGHT_BITS: tuple[Precision, ...] = ("int8", "fp8")
EIGHT_BITS_LIMIT = 1.0
"""In standard deviations of the source's logits: Note [Eight bits]."""
EIGHT_BITS_COSINE = 0.95
NON_LOCAL_LIMITS: dict[NonLocalMode, float] = {"dot_product": 1e-3, "embedded_gaussian": 1e-3, "gaussian": 5e-3}


def logits_limit(card: Card, reference: NDArray[np.float32], *, computed_in: Precision = "fp32") -> float:
    """How far an artifact's logits may be from its source's: Note [Limits on logits], Note [Eight bits].

    Args:
        card: The artifact's.
        reference: (V, K) logits of the source.
        computed_in: What a backend that chooses by itself computes in, where that is less than the card says.
    """
    precision = precision_of(card)
    if precision in EIGHT_BITS or computed_in in EIGHT_BITS:
        return EIGHT_BITS_LIMIT * float(reference.std())
    limit = max(LOGITS_LIMITS[precision], LOGITS_LIMITS[computed_in])
    if isinstance(card.network, ResNet) and card.network.non_local_mode is not None:
        limit = max(limit, NON_LOCAL_LIMITS[card.network.non_local_mode])
    return limit * max(1.0, float(reference.std()))


def smallest_cosine(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Of the views' logits to the source's, 1 where they point the same way.

    Args:
        logits: (V, K).
        expected: (V, K), of the source.
    """
    ours, theirs = logits.astype(np.float64), expected.astype(np.float64)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosine = float(((ours * theirs).sum(axis=1) / np.maximum(norms, 1e-30)).min())
    return round(min(cosine, 1.0), 8)


def precision_of(card: Card) -> Precision:
    """What an artifact was exported in; fp32 of a checkpoint."""
    return "fp32" if card.engine is None else card.engine.precision
