"""The attention levels of E-RADIO: windows that see only themselves, at two resolutions in turn."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio.config import ERadioLevelConfig
from radio.modeling.block import Mlp
from radio.modeling.checkpointing import run_block
from radio.modeling.eradio.convolutions import ConvBN, Downsample
from radio.modeling.eradio.position_bias import PositionBias
from radio.modeling.kernels.adaptive_linear import AdaptiveLinear

Cells = tuple[int, int]
"""How many cells a level's map has down and across. A cell is one window at the level's coarsest ratio."""


class WindowAttention(nn.Module):
    """Attention among the positions of a window, with a learned bias for every offset between two of them.

    Args:
        dim: Width C.
        config: The level's heads, bias and window.
    """

    def __init__(self, dim: int, config: ERadioLevelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = AdaptiveLinear(dim, 3 * dim, bias=config.qkv_bias)
        self.proj = AdaptiveLinear(dim, dim, bias=False)
        self.pos_emb_funct = PositionBias(config.num_heads, config.bias_dim, config.window_size)

    def forward(self, x: Tensor, window: int) -> Tensor:
        """Attend within windows of that side: (windows, side², C) to the same shape."""
        windows, positions, dim = x.shape
        qkv = self.qkv(x).reshape(windows, positions, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=self.pos_emb_funct(window)).transpose(
            1, 2
        )
        if torch.compiler.is_compiling():
            # Kernels lay their result out differently, and a traced graph must not rely on the one it was traced with.
            attended = attended.clone(memory_format=torch.contiguous_format)
        return self.proj(attended.reshape(x.shape))


class SubBlock(nn.Module):
    """Attention and MLP at one resolution, averaged with what came in.

    Args:
        dim: Width C.
        ratio: At how much of a lower resolution it works; at 1 a 3 x 3 convolution comes first.
        config: The rest of the level.
    """

    def __init__(self, dim: int, ratio: int, config: ERadioLevelConfig) -> None:
        super().__init__()
        self.ratio = ratio
        if ratio == 1:
            self.pre_conv = ConvBN(dim, dim, 3, groups=config.conv_groups)
        else:
            self.downsample_op = nn.Conv2d(dim, dim, ratio, stride=ratio)
            self.upsample_op = nn.ConvTranspose2d(dim, dim, ratio, stride=ratio)
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.attn = WindowAttention(dim, config)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.mlp = Mlp(dim, config.mlp_dim, norm=False, bias=False)
        self.gamma1 = nn.Parameter(torch.empty(dim)) if config.layer_scale else None
        self.gamma2 = nn.Parameter(torch.empty(dim)) if config.layer_scale else None

    def forward(self, entered: Tensor, cells: Cells, cell: int, window: int) -> Tensor:
        """Run on a map (B, C, rows·cell, columns·cell) of `cells` (rows, columns) cells."""
        x = entered + self.pre_conv(entered) if self.ratio == 1 else self.downsample_op(entered)
        per_cell = cell // (self.ratio * window)
        grid = (cells[0] * per_cell, cells[1] * per_cell)
        tokens = to_windows(x, grid, window)
        tokens = tokens + _scaled(self.attn(self.norm1(tokens), window), self.gamma1)
        tokens = tokens + _scaled(self.mlp(self.norm2(tokens)), self.gamma2)
        x = from_windows(tokens, grid, window)
        if self.ratio > 1:
            x = self.upsample_op(x)
        return 0.5 * (x + entered)


class AttentionBlock(nn.Module):
    """Sub-blocks, one after the other, each at its own resolution."""

    def __init__(self, dim: int, config: ERadioLevelConfig) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(SubBlock(dim, ratio, config) for ratio in config.ratios)

    def forward(self, x: Tensor, cells: Cells, cell: int, window: int) -> Tensor:
        for sub_block in self.attention_blocks:
            x = sub_block(x, cells, cell, window)
        return x


class AttentionLevel(nn.Module):
    """Attention blocks on a map that is resized to whole windows, and back.

    Args:
        dim: Width C.
        config: What the level is made of.
        downsamples: Whether another level follows.
    """

    def __init__(self, dim: int, config: ERadioLevelConfig, downsamples: bool) -> None:
        super().__init__()
        self.window_size = config.window_size
        self.coarsest = max(config.ratios)
        self.blocks = nn.ModuleList(AttentionBlock(dim, config) for _ in range(config.depth))
        self.downsample = Downsample(dim) if downsamples else nn.Identity()

    def forward(self, x: Tensor, window: int | None, checkpointing: bool = False) -> Tensor:
        """(B, C, h, w) to the same shape, before downsampling; `window` is the side, the file's own if None."""
        side = window or self.window_size
        size, cell = x.shape[-2:], self.coarsest * side
        cells = ((size[0] + cell - 1) // cell, (size[1] + cell - 1) // cell)
        x = resize(x, (cells[0] * cell, cells[1] * cell))
        for block in self.blocks:
            x = run_block(block, x, cells, cell, side, checkpointing=checkpointing)
        return resize(x, size)


def resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """The nearest pixel for every pixel of another size."""
    if torch.compiler.is_compiling():
        # By number, at every size: a traced graph would otherwise hold for sizes that agree only, or for others only,
        # and ONNX Runtime's own operator takes other pixels than PyTorch's, of 14 to 32 for one.
        rows, columns = (nearest(x.shape[i], size[i], x.device) for i in (-2, -1))
        return x.index_select(2, rows).index_select(3, columns)
    return x if x.shape[-2:] == torch.Size(size) else F.interpolate(x, size=tuple(size), mode="nearest")


def nearest(length: int, wanted: int, device: torch.device) -> Tensor:
    """The numbers of `wanted` pixels among `length`, in the float32 arithmetic of PyTorch's nearest neighbors."""
    scale = torch.full((), length, dtype=torch.float32, device=device) / wanted
    return (torch.arange(wanted, dtype=torch.float32, device=device) * scale).long().clamp(max=length - 1)


def to_windows(x: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Cut a map (B, C, rows·side, columns·side) into windows (B·rows·columns, side², C), all in reading order."""
    rows, columns = grid
    batch, dim = x.shape[:2]
    x = x.reshape(batch, dim, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(batch * rows * columns, side * side, dim)


def from_windows(windows: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Undo `to_windows`."""
    rows, columns = grid
    dim = windows.shape[-1]
    x = windows.reshape(-1, rows, columns, side, side, dim).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(-1, dim, rows * side, columns * side)


def _scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else x * gamma
