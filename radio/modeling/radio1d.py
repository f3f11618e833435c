"""RADIO1D: a ViT that merges its grid on the way, and a decoder that restores the full grid from the first tokens.

The encoder's first K patch tokens are the condensed image: the fewer, the coarser. One pass gives the condensed tokens
and the decoded features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio.config import Radio1DConfig, RadioConfig
from radio.modeling.block import NORM_EPS, Block
from radio.modeling.checkpointing import run_block
from radio.modeling.kernels.adaptive_linear import AdaptiveLinear
from radio.modeling.layout import TokenLayout
from radio.modeling.outputs import Grid
from radio.modeling.patch_generator import PatchGenerator
from radio.modeling.protocol import Collector, Option, ReadOut
from radio.modeling.token_merging.block_merger import BlockMerger
from radio.modeling.windows import Windows

_MERGE_NORM_EPS = 1e-5

_REFUSES: dict[Option, str] = {
    "windows": "RADIO1D merges its grid on the way, so ViTDet windows have no fixed places in it; load it with "
    "vitdet_window_size=None",
    "tome": "RADIO1D merges tokens by itself; num_tokens says how many it keeps",
    "aggregation": "RADIO1D's blocks have different widths and grids, so their outputs cannot be averaged; use "
    "aggregation='sparse'",
    "merge_layers": "RADIO1D's blocks have different grids, so their outputs cannot merge alike; leave merge= out",
    "program_of_any_size": "torch.export fixes whether a grid is odd, so a RADIO1D program holds for one height and "
    "width: give a size, leave the batch dynamic, or write an ONNX file, which holds for all sizes",
    "attention_maps": "RADIO1D merges its grid on the way, so its attention is not among the image's patches",
}
_CONDENSED: dict[Option, str] = {
    "nchw": "condensed tokens have no grid; use feature_fmt='NLC', or load the model with neck_name='decoder' for "
    "features on the image's grid",
    "merge": "condensed tokens have no grid to merge on; num_tokens says how many there are, and a model loaded with "
    "neck_name='decoder' can merge",
}
_ENCODER: dict[Option, str] = {
    "adaptors": "adaptors read what RADIO1D's decoder gives; load the model with neck_name='decoder', or with None for "
    "both outputs"
}
_PROGRESSIVE: dict[Option, str] = {
    "final_with_layers": "this model drops tokens from block to block, but intermediate layers have all of "
    "them, so the two cannot come from one pass; use intermediates_only=True",
    "export_of_any_size": "this RADIO1D model drops tokens from block to block, and a traced graph fixes how many; an "
    "export needs a size",
}


class Merge(nn.Module):
    """2 x 2 patch tokens become one of twice the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=_MERGE_NORM_EPS)
        self.reduction = AdaptiveLinear(4 * dim, 2 * dim, bias=False)

    def forward(self, patches: Tensor, grid: Grid) -> Tensor:
        """(B, h·w, c) to (B, ⌈h/2⌉·⌈w/2⌉, 2c). An odd side gets a row or a column of zeros first."""
        batch, _, dim = patches.shape
        (h, w), (rows, columns) = grid, merged_grid(grid)
        cells = patches.reshape(batch, h, w, dim)
        cells = F.pad(cells, (0, 0, 0, 2 * columns - w, 0, 2 * rows - h))
        # Within a cell column by column: top left, bottom left, top right, bottom right.
        cells = cells.reshape(batch, rows, 2, columns, 2, dim).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(cells.reshape(batch, rows * columns, 4 * dim)))


class Split(nn.Module):
    """One patch token becomes 2 x 2 of half the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.expansion = AdaptiveLinear(dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(dim // 2, eps=_MERGE_NORM_EPS)

    def forward(self, patches: Tensor, grid: Grid) -> Tensor:
        """(B, h·w, c) to (B, 2h·2w, c/2)."""
        batch, _, dim = patches.shape
        h, w = grid
        # Within a cell row by row: top left, top right, bottom left, bottom right.
        cells = self.expansion(patches).reshape(batch, h, w, 2, 2, dim // 2).permute(0, 1, 3, 2, 4, 5)
        return self.norm(cells.reshape(batch, 2 * h * 2 * w, dim // 2))


class Decoder(nn.Module):
    """From condensed tokens to a token for every patch.

    Args:
        config: What shapes the model.
        radio1d: Its RADIO1D part.
    """

    def __init__(self, config: RadioConfig, radio1d: Radio1DConfig) -> None:
        super().__init__()
        self.filler_size = radio1d.filler_size
        self.upscale_levels = radio1d.decoder_upscale_levels
        dim, heads = config.embed_dim * 2 ** len(radio1d.downscale_levels), config.num_heads
        self.filler_tokens = nn.Parameter(torch.empty(radio1d.filler_size**2, dim))
        self.prefix_tokens = nn.Parameter(torch.empty(config.num_prefix_tokens, dim))
        self.blocks = nn.ModuleList()
        self.upscale_blocks = nn.ModuleList()
        self.prefix_proj_blocks = nn.ModuleList()
        for i in range(radio1d.decoder_depth):
            if i in self.upscale_levels:
                self.upscale_blocks.append(Split(dim))
                self.prefix_proj_blocks.append(AdaptiveLinear(dim, dim // 2, bias=False))
                dim, heads = dim // 2, max(1, heads // 2)
            mlp_dim = radio1d.decoder_mlp_dims[len(self.upscale_blocks)]
            self.blocks.append(Block(dim, heads, mlp_dim, qkv_bias=False))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, condensed: Tensor, merged: Grid, grid: Grid, checkpointing: bool = False) -> Tensor:
        """Restore the grid.

        Args:
            condensed: The first K tokens (B, K, D) of the merged grid.
            merged: The merged grid (h', w').
            grid: The image's grid (h, w).
            checkpointing: Compute the blocks anew in the backward pass.

        Returns:
            Prefix tokens and patches, (B, T + h·w, C).
        """
        batch, kept, _ = condensed.shape
        filler = self._filler(merged)[:, kept:].expand(batch, -1, -1)
        tokens = torch.cat([self.prefix_tokens.expand(batch, -1, -1), condensed, filler], dim=1)
        whole, splits = merged, 0
        for i, block in enumerate(self.blocks):
            if i in self.upscale_levels:
                prefix, patches = self.split(tokens)
                prefix = self.prefix_proj_blocks[splits](prefix)
                patches = self.upscale_blocks[splits](patches, whole)
                tokens = torch.cat([prefix, patches], dim=1)
                whole, splits = (2 * whole[0], 2 * whole[1]), splits + 1
            tokens = run_block(block, tokens, checkpointing=checkpointing)
        prefix, patches = self.split(self.norm(tokens))
        patches = patches.unflatten(1, whole)[:, : grid[0], : grid[1]].flatten(1, 2)
        return torch.cat([prefix, patches], dim=1)

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Prefix tokens and patches."""
        number = self.prefix_tokens.shape[0]
        return tokens[:, :number], tokens[:, number:]

    def _filler(self, grid: Grid) -> Tensor:
        """The learned tokens for a merged grid, (1, h'·w', D)."""
        side = self.filler_size
        if not torch.compiler.is_compiling() and grid == (side, side):
            return self.filler_tokens.unsqueeze(0)
        stored = self.filler_tokens.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        resized = F.interpolate(stored, size=grid, mode="bilinear", align_corners=False)
        return resized.flatten(2).transpose(1, 2)


class Radio1DBackbone(nn.Module):
    """The encoder, with its decoder.

    Args:
        config: What shapes the model; its width, heads and MLP are those before the first merge.
    """

    packs = False

    def __init__(self, config: RadioConfig) -> None:
        super().__init__()
        radio1d = config.radio1d
        assert radio1d is not None
        self.neck_name = radio1d.neck_name
        self.grad_checkpointing = False
        self.refuses: Mapping[Option, str] = {
            **_REFUSES,
            **(_CONDENSED if self.neck_name != "decoder" else {}),
            **(_ENCODER if self.neck_name == "encoder" else {}),
            **(_PROGRESSIVE if radio1d.progressive_reduction else {}),
        }
        self.patch_size = config.patch_size
        self.num_prefix_tokens = config.num_prefix_tokens
        self.downscale_levels = radio1d.downscale_levels
        self.progressive_reduction = radio1d.progressive_reduction
        dim, heads = config.embed_dim, config.num_heads
        self.patch_generator = PatchGenerator(
            dim=dim,
            patch_size=config.patch_size,
            grid_size=config.grid_size,
            num_cls_tokens=config.num_cls_tokens,
            num_registers=config.num_registers,
            bias=config.patch_bias,
            align_corners=config.pos_embed_align_corners,
        )
        self.blocks = nn.ModuleList()
        self.downscale_blocks = nn.ModuleList()
        self.prefix_proj_blocks = nn.ModuleList()
        for i in range(config.depth):
            if i in self.downscale_levels:
                self.downscale_blocks.append(Merge(dim))
                self.prefix_proj_blocks.append(AdaptiveLinear(dim, 2 * dim, bias=False))
                dim, heads = 2 * dim, 2 * heads
            self.blocks.append(
                Block(
                    dim,
                    heads,
                    radio1d.mlp_dims[len(self.downscale_blocks)],
                    qkv_bias=config.qkv_bias,
                    layer_scale=config.layer_scale,
                )
            )
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS) if config.final_norm else nn.Identity()
        self.decoder = Decoder(config, radio1d)

    def read(
        self,
        x: Tensor | Sequence[Tensor],
        windows: Windows | None = None,
        collector: Collector | None = None,
        merger: BlockMerger | None = None,
        num_tokens: int | None = None,
    ) -> Sequence[ReadOut]:
        """The encoder's condensed tokens, what the decoder makes of them, or both, as `BackboneProtocol` says. Without
        the decoder's output the decoder does not run."""
        assert isinstance(x, Tensor)
        tokens, merged = self(x, num_tokens, collector)
        if collector is not None and collector.last_block < len(self.blocks) - 1:
            return []
        condensed = TokenLayout(self.num_prefix_tokens, [(1, tokens.shape[1] - self.num_prefix_tokens)])
        read_outs = [ReadOut(tokens, condensed, "encoder", on_grid=False)]
        if self.neck_name != "encoder":
            grid = self._grid(x)
            decoded = self.decoder(tokens[:, self.num_prefix_tokens :], merged, grid, self.grad_checkpointing)
            read_outs.append(ReadOut(decoded, TokenLayout(self.num_prefix_tokens, [grid]), "decoder"))
        return read_outs if self.neck_name is None else read_outs[-1:]

    def normalize_layer(self, tokens: Tensor) -> Tensor:
        """The encoder's norm, on the output of an intermediate block.

        Raises:
            ValueError: The block comes before the last merge, so that its output is narrower than the norm.
        """
        if isinstance(self.norm, nn.LayerNorm) and tokens.shape[-1] != self.norm.normalized_shape[0]:
            raise ValueError(
                f"norm=True needs blocks of width {self.norm.normalized_shape[0]}, from block "
                f"{self.downscale_levels[-1]} on; one that was taken is {tokens.shape[-1]} wide"
            )
        return self.norm(tokens)

    def forward(
        self, x: Tensor, num_tokens: int | None = None, collector: Collector | None = None
    ) -> tuple[Tensor, Grid]:
        """Condense images: the encoder.

        Args:
            x: Normalized images (B, 3, H, W).
            num_tokens: How many tokens are kept, at most those that are available, which is the default.
            collector: Takes intermediate outputs, with all tokens of the grid that they have.

        Returns:
            The prefix tokens and the condensed ones (B, T + K, D), and the merged grid that the latter begin.
        """
        grid = self._grid(x)
        available = grid[0] * grid[1] // 4 ** len(self.downscale_levels)
        kept = available if num_tokens is None else min(num_tokens, available)
        reduces = self.progressive_reduction and collector is None
        tokens = self.patch_generator(x)
        merges, current = 0, grid[0] * grid[1]
        for i, block in enumerate(self.blocks):
            if i in self.downscale_levels:
                prefix, patches = self.split(tokens)
                prefix = self.prefix_proj_blocks[merges](prefix)
                patches = self.downscale_blocks[merges](patches, grid)
                tokens = torch.cat([prefix, patches], dim=1)
                grid, merges = merged_grid(grid), merges + 1
                current = grid[0] * grid[1]
            elif reduces and i > self.downscale_levels[-1]:
                current -= (current - kept) // (len(self.blocks) - i)
                tokens = tokens[:, : self.num_prefix_tokens + current]
            tokens = run_block(block, tokens, checkpointing=self.grad_checkpointing)
            if collector is not None and collector.wants(i):
                collector.add(i, tokens, TokenLayout(self.num_prefix_tokens, [grid]))
                if i == collector.last_block:
                    break
        # Selected, not sliced: whether a slice is all of its tensor depends on the grid, and a traced graph with it.
        first = torch.arange(self.num_prefix_tokens + kept, device=tokens.device)
        return self.norm(tokens.index_select(1, first)), grid

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Prefix tokens and patches."""
        return tokens[:, : self.num_prefix_tokens], tokens[:, self.num_prefix_tokens :]

    def _grid(self, x: Tensor) -> Grid:
        return x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size


def merged_grid(grid: Grid) -> Grid:
    """The grid after a merge: half of each side, rounded up."""
    return (grid[0] + 1) // 2, (grid[1] + 1) // 2
