"""Adaptor heads: the small networks from the backbone's tokens to a teacher's space."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from radio.config import HeadConfig
from radio.modeling.block import Block
from radio.modeling.kernels.adaptive_linear import AdaptiveLinear
from radio.modeling.kernels.attention import Attend, attend_all


class MLPv1(nn.Module):
    """``fc1 → LayerNorm → ReLU → (Linear, LayerNorm, ReLU)* → fc2``, the heads of the first generation."""

    def __init__(self, config: HeadConfig, output_dim: int) -> None:
        super().__init__()
        hidden = config.hidden_dim
        self.fc1 = AdaptiveLinear(config.input_dim, hidden)
        self.norm = nn.LayerNorm(hidden)
        inner: list[nn.Module] = []
        for _ in range(config.num_inner):
            inner += [AdaptiveLinear(hidden, hidden), nn.LayerNorm(hidden), nn.ReLU()]
        self.inner = nn.Sequential(*inner)
        self.fc2 = AdaptiveLinear(hidden, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (..., input_dim) to (..., output_dim)."""
        return self.fc2(self.inner(F.relu(self.norm(self.fc1(x)))))


class MLPv2(nn.Module):
    """``[LayerNorm, GELU] → fc1 → residual (LayerNorm, GELU, Linear)* → LayerNorm, GELU, Linear``."""

    def __init__(self, config: HeadConfig, output_dim: int) -> None:
        super().__init__()
        hidden = config.hidden_dim
        self.pre_norm = (
            nn.Sequential(nn.LayerNorm(config.input_dim), nn.GELU()) if config.pre_norm else nn.Identity()
        )
        self.fc1 = AdaptiveLinear(config.input_dim, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.GELU(), AdaptiveLinear(hidden, hidden))
            for _ in range(config.num_inner)
        )
        self.final = nn.Sequential(nn.LayerNorm(hidden), nn.GELU(), AdaptiveLinear(hidden, output_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (..., input_dim) to (..., output_dim)."""
        x = self.fc1(self.pre_norm(x))
        for block in self.blocks:
            x = x + block(x)
        return self.final(x)


class AttentionHead(nn.Module):
    """Two transformer blocks over an image's patches, then an MLP v2."""

    def __init__(self, config: HeadConfig, output_dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(
                config.input_dim,
                config.attn_num_heads,
                config.attn_hidden_dim,
                qkv_bias=config.attn_qkv_bias,
                layer_scale=True,
            )
            for _ in range(2)
        )
        self.mlp = MLPv2(config, output_dim)

    def forward(self, x: Tensor, attend: Attend = attend_all) -> Tensor:
        """Map patches (B, L, input_dim) to (B, L, output_dim); `attend` says which patches see which."""
        for block in self.blocks:
            x = block(x, attend)
        return self.mlp(x)


def build_head(config: HeadConfig) -> MLPv1 | MLPv2 | AttentionHead:
    """The head that a description asks for."""
    output_dim = config.output_dim * config.upsample_factor**2
    if config.kind == "v1":
        return MLPv1(config, output_dim)
    return MLPv2(config, output_dim) if config.kind == "v2" else AttentionHead(config, output_dim)
