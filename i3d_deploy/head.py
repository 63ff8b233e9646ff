"""What every I3D network has in common: feature maps, and a linear head after an average.

Letters: N views, C channels, T frames, H rows, W columns, P places of the head's window, K classes.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from i3d_deploy.network import Inception, ResNet


class I3D(nn.Module):
    """A network: normalised views in, logits out. What comes before the head is the subclass's.

    Attributes:
        network: The numbers that built it.
        dropout: Before the classifier, in training.
        fc: The classifier.
    """

    dropout: nn.Dropout
    fc: nn.Linear

    def __init__(self, network: ResNet | Inception) -> None:
        super().__init__()
        self.network = network

    def features(self, x: Tensor) -> Tensor:
        """Map views (N, 3 or 2, T, H, W) to the last feature maps (N, C, T', H', W')."""
        raise NotImplementedError

    def windows(self, maps: Tensor) -> Tensor:
        """Average feature maps (N, C, T', H', W') in the head's window, at each of its places: (N, C, *places)."""
        window = self.network.head_window
        if window is None or self._has_one_place(maps):
            return maps.mean((2, 3, 4), keepdim=True)
        return functional.avg_pool3d(maps, window, stride=1)

    def pool(self, maps: Tensor) -> Tensor:
        """Average feature maps (N, C, T', H', W') to the vectors (N, C) that are classified."""
        return maps.mean((2, 3, 4)) if self._has_one_place(maps) else self.windows(maps).mean((2, 3, 4))

    def classify(self, maps: Tensor) -> Tensor:
        """Map feature maps (N, C, T', H', W') to logits (N, K)."""
        if self._has_one_place(maps):
            logits: Tensor = self.fc(self.dropout(self.pool(maps)))
            return logits
        vectors = self.windows(maps).flatten(2).transpose(1, 2)  # N P C
        places: Tensor = self.fc(self.dropout(vectors))  # N P K
        if self.network.positions == "logits":
            return places.mean(1)
        # The softmax of these is the mean of the places' softmaxes.
        return places.log_softmax(-1).logsumexp(1) - math.log(places.shape[1])

    def _has_one_place(self, maps: Tensor) -> bool:
        """Whether the head's window fits once."""
        window = self.network.head_window
        return window is None or tuple(maps.shape[2:]) == window

    def forward(self, x: Tensor) -> Tensor:
        """Map views (N, 3 or 2, T, H, W) to logits (N, K)."""
        return self.classify(self.features(x))

    def _add_head(self) -> None:
        """Add the classifier, after everything else: entries are in the order of the clip."""
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(self.network.num_features, self.network.num_classes)

    def _initialize_head(self) -> None:
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
