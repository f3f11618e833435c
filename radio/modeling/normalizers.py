"""Feature normalizers: a fixed shift and rotation, learned while the model was distilled.

Source: PHI-S, Ranzinger et al., "Distribution Balancing for Label-Free Multi-Teacher Distillation" (2024).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FeatureNormalizer(nn.Module):
    """``(f - mean) @ tx.T`` on the spatial features. Buffers: ``mean`` (C), ``tx`` (C, C)."""

    mean: Tensor
    tx: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(dim))
        self.register_buffer("tx", torch.empty(dim, dim))

    def forward(self, features: Tensor) -> Tensor:
        """Normalize spatial features (B, L, C)."""
        return F.linear(features - self.mean, self.tx)

    def undo(self, features: Tensor) -> Tensor:
        """The patch tokens (B, L, C) that `forward` made these features of, up to rounding; float32."""
        mean, tx = self.mean.cpu().double(), self.tx.cpu().double()  # not every device has float64
        tokens = torch.linalg.solve(tx, features.cpu().double().mT).mT + mean
        return tokens.float().to(features.device)


class IntermediateFeatureNormalizer(nn.Module):
    """The same for the output of every block, with a factor of its own.

    Buffers: ``alphas`` (N), ``means`` (N, C), ``rotation`` (N, C, C), or (C, C) shared by all N blocks.
    """

    alphas: Tensor
    means: Tensor
    rotation: Tensor

    def __init__(self, depth: int, dim: int, per_layer: bool) -> None:
        super().__init__()
        self.register_buffer("alphas", torch.empty(depth))
        self.register_buffer("means", torch.empty(depth, dim))
        self.register_buffer("rotation", torch.empty(depth, dim, dim) if per_layer else torch.empty(dim, dim))

    def forward(self, patches: Tensor, layer: int, rotation_layer: int) -> tuple[Tensor, Tensor]:
        """Shift and rotate the patch tokens (B, L, C) of a block.

        Args:
            patches: Output of block `layer`.
            layer: Whose mean is subtracted.
            rotation_layer: Whose rotation is applied.

        Returns:
            The patches without the block's factor, and that factor alpha, a scalar.
        """
        rotation = self.rotation if self.rotation.ndim == 2 else self.rotation[rotation_layer]
        return F.linear(patches - self.means[layer], rotation), self.alphas[layer]
