"""The position bias of E-RADIO's windows: an MLP over log-spaced offsets.

Source: Liu et al., "Swin Transformer V2" (2022), section 3.3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio.modeling.placement import compute_device

_KEPT_BYTES = 16 * 2**20
"""A bias larger than this is computed anew each time: windows of more than 22 positions with 16 heads."""


class WideLinear(nn.Linear):
    """A linear layer that computes in the dtype of its input, whatever its weights have."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class PositionBias(nn.Module):
    """For every head and every two positions of a window, what is added to their score.

    Args:
        num_heads: Attention heads.
        hidden_dim: Width inside the MLP.
        window_size: The side w0 of the file's windows. Offsets are measured in it, whatever side is in use.

    Attributes:
        relative_coords_table: The released place of the offsets, (1, 2·w0 − 1, 2·w0 − 1, 2). Its shape tells w0;
            its values follow from w0 and are not read.
    """

    relative_coords_table: Tensor

    def __init__(self, num_heads: int, hidden_dim: int, window_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        offsets = 2 * window_size - 1
        self.register_buffer("relative_coords_table", torch.empty(1, offsets, offsets, 2))
        first, second = WideLinear(2, hidden_dim), WideLinear(hidden_dim, num_heads, bias=False)
        self.cpb_mlp = nn.Sequential(first, nn.ReLU(), second)
        self._kept: dict[int, Tensor] = {}
        self._kept_for: tuple | None = None

    def forward(self, side: int) -> Tensor:
        """The bias (1, heads, side², side²) for windows of that side, float32 or wider.

        At inference it is kept for every side until the weights change.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._compute(side)
        weights = self._identity_of_weights()
        if weights is None:
            return self._compute(side)
        if weights != self._kept_for:
            self._kept, self._kept_for = {}, weights
        bias = self._kept.get(side)
        if bias is None:
            bias = self._compute(side)
            if bias.nbytes <= _KEPT_BYTES:
                self._kept[side] = bias
        return bias

    def _identity_of_weights(self) -> tuple | None:
        """Equal as long as the weights are; None where PyTorch does not count their changes, or they are offloaded."""
        weights = list(self.cpb_mlp.parameters())
        if any(weight.is_inference() or weight.is_meta for weight in weights):
            return None
        return tuple((weight.data_ptr(), weight._version, weight.device, weight.dtype) for weight in weights)

    def _compute(self, side: int) -> Tensor:
        device = compute_device(self.cpb_mlp)
        dtype = torch.promote_types(next(self.cpb_mlp.parameters()).dtype, torch.float32)
        by_offset = 16 * self.cpb_mlp(self._offsets(side, device, dtype)).sigmoid()
        return by_offset[offset_of_pairs(side, device)].permute(2, 0, 1).unsqueeze(0).contiguous()

    def _offsets(self, side: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Every offset (down, across) on a logarithmic scale, ((2·side − 1)², 2)."""
        along = torch.arange(1 - side, side, device=device, dtype=dtype)
        scaled = along.sign() * torch.log2(1 + 8 * along.abs() / (self.window_size - 1)) / 3
        return torch.cartesian_prod(scaled, scaled)


def offset_of_pairs(side: int, device: torch.device) -> Tensor:
    """Number of the offset from key to query, for every query and every key of a window, (side², side²)."""
    along = torch.arange(side, device=device)
    distance = along[:, None] - along[None, :] + side - 1
    down = distance[:, None, :, None] * (2 * side - 1)
    return (down + distance[None, :, None, :]).reshape(side**2, side**2)
