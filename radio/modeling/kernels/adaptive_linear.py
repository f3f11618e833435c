"""The linear layer of the backbone and of the heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        # The tokens are the pixels of one image, its channels next to each other in memory: nothing is copied.
        pixels = x.reshape(1, -1, 1, self.in_features).permute(0, 3, 1, 2)
        # For one pixel a dilation means nothing, but PyTorch takes oneDNN for it with a single thread as well.
        convolved = F.conv2d(pixels, self.weight[:, :, None, None], self.bias, dilation=2)
        return convolved.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)

    def _convolves(self, x: Tensor) -> bool:
        if x.dtype != torch.float32 or not may_choose_kernel(x, self.weight):
            return False
        if type(self.weight) is not nn.Parameter or torch.is_autocast_enabled("cpu"):
            return False
        if x.shape[-1] != self.in_features or x.numel() < _CONVOLVE_FROM * self.in_features:
            return False
        return has_slow_float32_products()
