"""Input normalization, kept with the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class InputConditioner(nn.Module):
    """Normalizes pixels: ``(x - mean) / std`` in float32, then cast to the model's dtype.

    Buffers: ``norm_mean`` and ``norm_std``, each (3, 1, 1). Their dtype is the dtype of the result, so that the
    conditioner follows ``.half()``, ``.bfloat16()`` and ``.to()`` with the rest of the model.
    """

    norm_mean: Tensor
    norm_std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("norm_mean", torch.empty(3, 1, 1))
        self.register_buffer("norm_std", torch.empty(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize images.

        Args:
            x: (B, 3, H, W) in [0, 1], any floating dtype. Not changed.

        Returns:
            (B, 3, H, W) in the model's dtype.
        """
        normalized = (x.float() - self.norm_mean.float()) / self.norm_std.float()
        return normalized.to(self.norm_mean.dtype)
