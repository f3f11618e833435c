"""The vision transformer: one explicit pass over its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from radio.config import RadioConfig
from radio.modeling.block import NORM_EPS, Block
from radio.modeling.kernels.attention import attend_all
from radio.modeling.layouts import DenseLayout, PackedLayout, TokenLayout
from radio.modeling.patch_generator import (
    PatchGenerator,
    PlainPatchEmbed,
    flatten_patches,
    resize_plain_position_embedding,
)
from radio.modeling.token_merging.in_blocks import MergingPass


@dataclass(frozen=True)
class Windows:
    """ViTDet: the side of the windows in patches, and for every block whether it is windowed."""

    side: int
    schedule: tuple[bool, ...]


class Collector(Protocol):
    """Takes the output of chosen blocks while the backbone runs."""

    last_block: int

    def wants(self, block: int) -> bool:
        """Whether `add` should be called after that block."""
        ...

    def add(self, block: int, tokens: Tensor) -> None:
        """Take a block's tokens, prefix tokens first, patches in raster order."""
        ...


class Backbone(nn.Module):
    """The ViT of every layout.

    Args:
        config: What shapes the model.
    """

    def __init__(self, config: RadioConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.grid_size = config.grid_size
        self.num_cls_tokens = config.num_cls_tokens
        self.num_prefix_tokens = config.num_prefix_tokens
        self.patch_generator: PatchGenerator | None = None
        if config.layout == "plain":
            self.pos_embed_prefix = config.num_prefix_tokens if config.pos_embed_has_class else 0
            if config.num_prefix_tokens:
                self.cls_token = nn.Parameter(torch.empty(1, config.num_prefix_tokens, config.embed_dim))
            self.pos_embed = nn.Parameter(
                torch.empty(1, self.pos_embed_prefix + config.grid_size**2, config.embed_dim)
            )
            self.patch_embed = PlainPatchEmbed(config.embed_dim, config.patch_size, config.patch_bias)
        else:
            self.patch_generator = PatchGenerator(
                dim=config.embed_dim,
                patch_size=config.patch_size,
                grid_size=config.grid_size,
                num_cls_tokens=config.num_cls_tokens,
                num_registers=config.num_registers,
                bias=config.patch_bias,
                align_corners=config.pos_embed_align_corners,
            )
        self.blocks = nn.ModuleList(
            Block(
                config.embed_dim,
                config.num_heads,
                config.mlp_dim,
                qkv_bias=config.qkv_bias,
                swiglu=config.swiglu,
                mlp_norm=config.mlp_norm,
                layer_scale=config.layer_scale,
                norm_scale=(i + 1) ** -0.5 if config.scaled_norm else 1.0,
            )
            for i in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=NORM_EPS) if config.final_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        windows: Windows | None = None,
        collector: Collector | None = None,
        merging: MergingPass | None = None,
    ) -> Tensor:
        """Run a batch of images of one size.

        Args:
            x: Normalized images (B, 3, H, W).
            windows: ViTDet windows; None for global attention in every block.
            collector: Takes intermediate outputs.
            merging: Merges patch tokens in every block; not together with windows.

        Returns:
            Tokens (B, T + L, C) before the final norm: prefix tokens, then patches in raster order.
        """
        side = windows.side if windows else None
        layout = DenseLayout(self.num_prefix_tokens, self._grid(x, side or 1), side)
        return self._run_blocks(self.embed(x), layout, windows, collector, merging)

    def forward_packed(
        self,
        images: Sequence[Tensor],
        windows: Windows | None = None,
        collector: Collector | None = None,
        merging: MergingPass | None = None,
    ) -> tuple[Tensor, PackedLayout]:
        """Run images of different sizes in one pass.

        Args:
            images: Normalized images, each (3, H, W) of its own size.
            windows: ViTDet windows; None for global attention in every block.
            collector: Takes intermediate outputs, in the packed layout.
            merging: Merges patch tokens in every block; not together with windows.

        Returns:
            Packed tokens (1, sum of (T + L), C) before the final norm, and where each image's tokens lie.
        """
        grids = [self._grid(image) for image in images]
        layout = PackedLayout(self.num_prefix_tokens, grids, windows.side if windows else None)
        tokens = self._embed_packed(images, layout)
        return self._run_blocks(tokens, layout, windows, collector, merging), layout

    def _run_blocks(
        self,
        tokens: Tensor,
        layout: TokenLayout,
        windows: Windows | None,
        collector: Collector | None,
        merging: MergingPass | None = None,
    ) -> Tensor:
        schedule = windows.schedule if windows else (False,) * len(self.blocks)
        restore = layout.restore if merging is None else merging.expand
        tokens = layout.enter(tokens)
        prefix: Tensor | None = None
        for i, block in enumerate(self.blocks):
            if schedule[i] and prefix is None:
                prefix, tokens = layout.split(tokens)
            elif prefix is not None and not schedule[i]:
                tokens = layout.join(prefix, tokens)
                prefix = None
            if merging is not None:
                tokens = merging.run_block(i, block, tokens)
            else:
                dense = prefix is not None or layout.attend is attend_all
                tokens = block(tokens) if dense else block(tokens, layout.attend)
            if collector is not None and collector.wants(i):
                whole = tokens if prefix is None else layout.join(prefix, tokens)
                collector.add(i, restore(whole))
                if i == collector.last_block:
                    return restore(whole)
        return restore(tokens)

    def _grid(self, x: Tensor, window: int = 1) -> tuple[int, int]:
        """Patches down and across, written as whole windows so that a traced graph can divide them again."""
        step = self.patch_size * window
        return x.shape[-2] // step * window, x.shape[-1] // step * window

    def embed(self, x: Tensor) -> Tensor:
        """Tokens (B, T + L, C) before the first block, of normalized images (B, 3, H, W)."""
        if self.patch_generator is not None:
            return self.patch_generator(x)
        return self._embed_plain(x)

    def _embed_plain(self, x: Tensor) -> Tensor:
        patches = self.patch_embed(x)
        positions = resize_plain_position_embedding(
            self.pos_embed, self._grid(x), self.grid_size, self.pos_embed_prefix
        )
        if not self.num_prefix_tokens:
            return patches + positions
        cls_token = self.cls_token.expand(x.shape[0], -1, -1)
        if self.pos_embed_prefix:
            return torch.cat([cls_token, patches], dim=1) + positions
        return torch.cat([cls_token, patches + positions], dim=1)

    def _embed_packed(self, images: Sequence[Tensor], layout: PackedLayout) -> Tensor:
        """Tokens (1, sum of (T + L), C) of images of different sizes; one projection for all their patches."""
        generator = self.patch_generator
        if generator is None or self.training:
            return torch.cat([self.embed(image.unsqueeze(0)) for image in images], dim=1)
        patches = torch.cat([flatten_patches(image.unsqueeze(0), self.patch_size) for image in images], dim=1)
        embedded = generator.embedder(patches)
        parts = []
        for image, grid in zip(embedded.split(layout.patch_counts, dim=1), layout.grids, strict=True):
            parts += [generator.cls_token.token.unsqueeze(0), image + generator.position_embedding(grid)]
        return torch.cat(parts, dim=1)


class DINOv2Backbone(nn.Module):
    """The DINOv2 layout keeps the ViT under ``inner``; the released names say so."""

    def __init__(self, config: RadioConfig) -> None:
        super().__init__()
        self.inner = Backbone(config)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        return self.inner.blocks
