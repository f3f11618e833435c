"""Products of matrices in float32 as convolutions, for processors on which PyTorch's own are slow."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer as the 1 x 1 convolution that it is; see `radio.modeling.kernels.cpu.has_slow_float32_products`.

    Args:
        x: (..., I), float32.
        weight: (O, I).
        bias: (O,), or none.

    Returns:
        (..., O), up to rounding what `torch.nn.functional.linear` returns.
    """
    # The rows are the pixels of one image, its channels next to each other in memory: nothing is copied.
    pixels = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    # For one pixel a dilation means nothing, but PyTorch takes oneDNN for it with a single thread as well.
    convolved = F.conv2d(pixels, weight[:, :, None, None], bias, dilation=2)
    return convolved.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])
