"""The linear layer of the backbone and of the heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from radio.modeling.kernels.convolution import multiply
from radio.modeling.kernels.cpu import has_slow_float32_products, may_choose_kernel

_CONVOLVE_FROM = 128
"""Tokens from which a convolution is faster where matrix products are slow."""


class AdaptiveLinear(nn.Linear):
    """A linear layer, computed as the 1 x 1 convolution that it is where that is faster.

    That is float32 on some CPUs; see `has_slow_float32_products`. The numbers are the same up to rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self._convolves(x):
            return super().forward(x)
        return multiply(x, self.weight, self.bias)

    def _convolves(self, x: Tensor) -> bool:
        if x.dtype != torch.float32 or not may_choose_kernel(x, self.weight):
            return False
        if type(self.weight) is not nn.Parameter or torch.is_autocast_enabled("cpu"):
            return False
        if x.shape[-1] != self.in_features or x.numel() < _CONVOLVE_FROM * self.in_features:
            return False
        return has_slow_float32_products()
