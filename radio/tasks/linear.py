"""A linear classifier on frozen vectors: logistic regression, fitted with full-batch L-BFGS.

Source: the linear probe of CLIP (arXiv 2103.00020, appendix A.3), with a fixed weight of the penalty.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio.wording import counted


class LinearClassifier(nn.Module):
    """Standardizes vectors and multiplies them by a matrix.

    Args:
        channels: D, length of the vectors.
        num_classes: K.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits (B, K) of vectors (B, D)."""
        logits: Tensor = self.linear((vectors.float() - self.mean) / self.deviation)
        return logits


def fit_linear(
    vectors: Tensor, labels: Tensor, num_classes: int, decay: float = 1e-3, iterations: int = 100
) -> LinearClassifier:
    """Fit a linear classifier. The problem is convex, so there is no learning rate and no chance.

    Args:
        vectors: (N, D), on the device where the fit shall run; all of them are in memory.
        labels: (N,) int64, in [0, num_classes).
        num_classes: K.
        decay: Weight of the squared norm of the matrix (vectors are standardized).
        iterations: Of L-BFGS, at most.

    Raises:
        ValueError: There is not one label for each vector, or one is outside [0, num_classes).
    """
    if len(vectors) != len(labels) or len(vectors) == 0:
        raise ValueError(
            f"need one label for each vector, got {counted(len(vectors), 'vector')} and {counted(len(labels), 'label')}"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(
            f"labels must lie in [0, {num_classes}), got {int(labels.min())} to {int(labels.max())}"
        )
    vectors, labels = vectors.float(), labels.to(vectors.device)
    head = LinearClassifier(vectors.shape[1], num_classes).to(vectors.device)
    head.mean.copy_(vectors.mean(0))
    head.deviation.copy_(vectors.std(0, correction=0).clamp(min=1e-6))
    nn.init.zeros_(head.linear.weight)
    nn.init.zeros_(head.linear.bias)
    optimizer = torch.optim.LBFGS(
        head.linear.parameters(), max_iter=iterations, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(head(vectors), labels) + decay * head.linear.weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return head.eval()
