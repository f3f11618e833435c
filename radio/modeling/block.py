"""The transformer block: pre-norm attention and MLP with timm's parameter names."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from radio.modeling.kernels.adaptive_linear import AdaptiveLinear
from radio.modeling.kernels.attention import Attend, attend_all

NORM_EPS = 1e-6


class ScaledLayerNorm(nn.LayerNorm):
    """A LayerNorm whose output is multiplied by a constant."""

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__(dim, eps=NORM_EPS)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


class LayerScale(nn.Module):
    """A learned factor per channel (Touvron et al. 2021, "Going Deeper with Image Transformers")."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Mlp(nn.Module):
    """``fc2(norm(gelu(fc1(x))))``, with the exact GELU; the norm is the identity in most versions.

    timm's ``drop1`` and ``drop2`` are there and do nothing, as in `Attention`.
    """

    def __init__(self, dim: int, hidden_dim: int, norm: bool, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = AdaptiveLinear(dim, hidden_dim, bias=bias)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(0.0)
        self.norm = nn.LayerNorm(hidden_dim, eps=NORM_EPS) if norm else nn.Identity()
        self.fc2 = AdaptiveLinear(hidden_dim, dim, bias=bias)
        self.drop2 = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.norm(self.act(self.fc1(x))))


class SwiGLU(nn.Module):
    """Gated MLP: ``w3(silu(first half of w12(x)) * second half)`` (Shazeer 2020, "GLU Variants")."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.w12 = AdaptiveLinear(dim, 2 * hidden_dim)
        self.w3 = AdaptiveLinear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017) through the fastest kernel at hand.

    It has timm's attributes, also those that do nothing here, so that code which takes it apart works on it.

    Attributes:
        fused_attn: Set it to False to compute the weights (B, heads, N, N) for all to see: they go through `attn_drop`,
            where a hook finds them, as in timm. Images that are packed run fused all the same.
    """

    fused_attn = True

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.attn_dim = dim
        self.scale = self.head_dim**-0.5
        self.qkv = AdaptiveLinear(dim, 3 * dim, bias=qkv_bias)
        self.q_norm = nn.Identity()
        self.k_norm = nn.Identity()
        self.attn_drop = nn.Dropout(0.0)
        self.norm = nn.Identity()
        self.proj = AdaptiveLinear(dim, dim)
        self.proj_drop = nn.Dropout(0.0)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the tokens, each (B, heads, N, head_dim)."""
        qkv = rearrange(
            self.qkv(x), "b n (three heads d) -> three b heads n d", three=3, heads=self.num_heads
        )
        q, k, v = qkv.unbind(0)
        return self.q_norm(q), self.k_norm(k), v

    def forward(self, x: Tensor, attend: Attend = attend_all, *, attn_mask: Tensor | None = None) -> Tensor:
        """Attend among the tokens.

        Args:
            x: (B, N, C).
            attend: Which tokens see which; by default all N of an image see each other.
            attn_mask: For who calls this as timm's: which of them do, (N, N) or with batch and heads before; True for
                those that do, or what is added to the scores.
        """
        q, k, v = self.project(x)
        if attend is not attend_all:
            attended = attend(q, k, v)
        elif not self.fused_attn:
            attended = self._weigh(q, k, v, attn_mask)
        elif attn_mask is not None:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        else:
            attended = attend_all(q, k, v)
        return self.proj(rearrange(attended, "b heads n d -> b n (heads d)"))

    def _weigh(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention step by step, through the modules that others look at."""
        scores = q * self.scale @ k.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        return self.attn_drop(scores.softmax(dim=-1)) @ v


class Block(nn.Module):
    """One transformer block.

    Args:
        dim: Width C of the tokens.
        num_heads: Attention heads.
        mlp_dim: Width inside the MLP.
        qkv_bias: Whether the query, key and value projections have a bias.
        swiglu: SwiGLU instead of a GELU MLP.
        mlp_norm: LayerNorm inside the MLP, after the activation.
        layer_scale: Scale each branch per channel.
        norm_scale: Constant factor on the output of both norms.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        qkv_bias: bool = True,
        swiglu: bool = False,
        mlp_norm: bool = False,
        layer_scale: bool = False,
        norm_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.norm1 = _norm(dim, norm_scale)
        self.attn = Attention(dim, num_heads, qkv_bias)
        self.ls1 = LayerScale(dim) if layer_scale else nn.Identity()
        self.drop_path1: nn.Module = nn.Identity()
        self.norm2 = _norm(dim, norm_scale)
        self.mlp = SwiGLU(dim, mlp_dim) if swiglu else Mlp(dim, mlp_dim, mlp_norm)
        self.ls2 = LayerScale(dim) if layer_scale else nn.Identity()
        self.drop_path2: nn.Module = nn.Identity()

    def forward(self, x: Tensor, attend: Attend = attend_all, *, attn_mask: Tensor | None = None) -> Tensor:
        """Run the block on tokens (B, N, C); `attend` says which tokens see which, and so does timm's `attn_mask`."""
        return self.feed_forward(self.self_attention(x, attend, attn_mask))

    def self_attention(
        self, x: Tensor, attend: Attend = attend_all, attn_mask: Tensor | None = None
    ) -> Tensor:
        """The first half: attention among the tokens (B, N, C), added to them.

        Where all tokens see each other `attn` is called with them alone, so that users can put a module of theirs
        there.

        Raises:
            TypeError: Such a module is to be told which tokens see which, and does not take that.
        """
        normed = self.norm1(x)
        if attend is attend_all:
            masked = {} if attn_mask is None else {"attn_mask": attn_mask}
            return x + self.drop_path1(self.ls1(self.attn(normed, **masked)))
        if not isinstance(self.attn, Attention) and not _takes_attend(self.attn):
            raise TypeError(
                f"block.attn is a {type(self.attn).__name__} that takes tokens alone; a list of images of several "
                "sizes, and tome=, need one whose forward(x, attend) calls attend(q, k, v), as that of "
                "radio.modeling.block.Attention does"
            )
        by_place = isinstance(self.attn, Attention) or _is_open(self.attn, inspect.Parameter.VAR_POSITIONAL)
        attended = self.attn(normed, attend) if by_place else self.attn(normed, attend=attend)
        return x + self.drop_path1(self.ls1(attended))

    def feed_forward(self, x: Tensor) -> Tensor:
        """The second half: the MLP on every token of (B, N, C), added to it."""
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


def _takes_attend(module: nn.Module) -> bool:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return "attend" in inspect.signature(module.forward).parameters or _is_open(module, *kinds)


def _is_open(module: nn.Module, *kinds: Any) -> bool:
    """Whether a module takes any arguments, of these kinds."""
    return any(p.kind in kinds for p in inspect.signature(module.forward).parameters.values())


def _norm(dim: int, scale: float) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=NORM_EPS) if scale == 1.0 else ScaledLayerNorm(dim, scale)
