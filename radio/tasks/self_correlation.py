"""Refine what patches say by what patches look like: each takes the mean over those whose features are like its own.

After the idea of RADSeg (Alama et al. 2025, arXiv 2511.19704), which aggregates RADIO's dense features over the whole
image by their own correlation. This is code of this library: the numbers below are its own, and the last attention of
the backbone, which that paper changes too, stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS = 1024


@dataclass(frozen=True)
class SelfCorrelation:
    """How patches are refined.

    Attributes:
        threshold: Patches whose correlation with a patch is lower do not count for it, in [-1, 1]: the cosine
            similarity of features less their mean over the image, which all patches have in common.
        temperature: The others count by the softmax of their correlation divided by this: a small one leaves a patch to
            itself, a large one gives the plain mean.
        rounds: How often.

    Raises:
        ValueError: A number that makes no sense.
    """

    threshold: float = 0.5
    temperature: float = 0.05
    rounds: int = 1

    def __post_init__(self) -> None:
        if not -1 <= self.threshold <= 1 or not self.temperature > 0 or self.rounds < 1:
            raise ValueError(
                "expected a threshold in [-1, 1], a temperature above 0 and at least one round, got "
                f"{self.threshold}, {self.temperature} and {self.rounds}"
            )

    def refine(self, values: Tensor, features: Tensor) -> Tensor:
        """Weighted means over like patches.

        Args:
            values: (K, h, w), such as similarities with K labels. They may be refined in place of the embeddings that
                they came from, since a mean and a dot product may change places.
            features: (C, h, w), which say what is alike.

        Returns:
            (K, h, w).
        """
        flat = values.flatten(1).T
        rows = features.float().flatten(1).T
        unit = F.normalize(rows - rows.mean(dim=0), dim=-1)
        for _ in range(self.rounds):
            flat = torch.cat([self._means(part, unit, flat) for part in unit.split(_ROWS)])
        return flat.T.reshape(values.shape)

    def _means(self, rows: Tensor, unit: Tensor, values: Tensor) -> Tensor:
        similarity = rows @ unit.T
        # A patch always counts for itself, also where rounding makes its correlation less than the threshold.
        threshold = torch.minimum(similarity.amax(dim=1, keepdim=True), similarity.new_tensor(self.threshold))
        weights = similarity.masked_fill(similarity < threshold, -torch.inf) / self.temperature
        return weights.softmax(dim=1) @ values
