"""The vision transformer: one explicit pass over its blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from radio.config import RadioConfig
from radio.modeling.block import NORM_EPS, Block
from radio.modeling.checkpointing import run_block
from radio.modeling.kernels.attention import Attend, attend_all
from radio.modeling.layout import TokenLayout, concatenate
from radio.modeling.outputs import Grid
from radio.modeling.patch_generator import (
    PatchGenerator,
    PlainPatchEmbed,
    resize_plain_position_embedding,
)
from radio.modeling.protocol import Collector, Option, PassOptions, ReadOut
from radio.modeling.timm_surface import TimmSurface
from radio.modeling.token_merging.block_merger import BlockMerger
from radio.modeling.windows import Windows

_REFUSES: dict[Option, str] = {
    "num_tokens": "num_tokens is how many condensed tokens a RADIO1D model keeps, and this is a ViT; "
    "merge=TokenMerging(...) gives fewer tokens of any model"
}


class Backbone(TimmSurface):
    """The ViT of every layout.

    Args:
        config: What shapes the model.
    """

    packs = True

    def __init__(self, config: RadioConfig) -> None:
        super().__init__()
        self.refuses: Mapping[Option, str] = _REFUSES
        self.embed_dim = config.embed_dim
        self.patch_size = config.patch_size
        self.grid_size = config.grid_size
        self.grad_checkpointing = False
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
                video_frames=config.video_temporal_patch_size,
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
        self.norm: nn.Module = (
            nn.LayerNorm(config.embed_dim, eps=NORM_EPS) if config.final_norm else nn.Identity()
        )
        # As in the public code, the final output that comes with intermediates is not normalized in this layout.
        self.normalizes_with_layers = config.layout != "dinov2"

    @property
    def vit(self) -> Backbone:
        """This one."""
        return self

    def forward(self, x: Tensor | Sequence[Tensor], options: PassOptions | None = None) -> Any:
        """Run images in one pass.

        Args:
            x: Normalized images: a batch (B, 3, H, W), or a list of (3, H, W), each of its own size.
            options: What the pass is asked for. Without, it is a call as of timm's vision transformers.

        Returns:
            Tokens before the final norm, and where each image's tokens lie in them: (B, T + L, C) for a batch,
            (1, sum of (T + L), C) for a list; prefix tokens, then patches in raster order. Without options the tokens
            alone, after the final norm.
        """
        if options is None:
            self.check_mode()
            return self.norm(self._run(x, PassOptions())[0])
        return self._run(x, options)

    def _run(self, x: Tensor | Sequence[Tensor], options: PassOptions) -> tuple[Tensor, TokenLayout]:
        windows, collector, merger = options
        side = windows.side if windows else None
        images = [x] if isinstance(x, Tensor) else x
        layout = TokenLayout(self.num_prefix_tokens, [self._grid(image, side or 1) for image in images], side)
        restore = layout.to_raster_order if merger is None else merger.expand
        tokens = layout.to_window_order(self.embed(x))
        waiting: Tensor | None = None  # the prefix tokens, while blocks run within windows
        for i, block in enumerate(self.blocks):
            windowed = windows is not None and windows.schedule[i]
            if windowed and waiting is None:
                waiting, tokens = layout.partition_windows(tokens)
            elif waiting is not None and not windowed:
                tokens, waiting = layout.merge_windows(waiting, tokens), None
            if merger is not None:
                tokens = merger.run_block(i, block, tokens)
            else:
                tokens = self._run_block(block, tokens, attend_all if windowed else layout.attend)
            if collector is not None and collector.wants(i):
                whole = tokens if waiting is None else layout.merge_windows(waiting, tokens)
                collector.add(i, restore(whole), layout)
                if i == collector.last_block:
                    return restore(whole), layout
        return restore(tokens if waiting is None else layout.merge_windows(waiting, tokens)), layout

    def read(
        self,
        x: Tensor | Sequence[Tensor],
        windows: Windows | None = None,
        collector: Collector | None = None,
        merger: BlockMerger | None = None,
        num_tokens: int | None = None,
    ) -> Sequence[ReadOut]:
        """The one output of a ViT, from the tokens after the final norm, as `BackboneProtocol` says."""
        tokens, layout = self(x, PassOptions(windows, collector, merger))
        if collector is None or self.normalizes_with_layers:
            tokens = self.norm(tokens)
        return [ReadOut(tokens, layout)]

    def normalize_layer(self, tokens: Tensor) -> Tensor:
        """The final norm, on the output of an intermediate block."""
        return self.norm(tokens)

    def embed(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Tokens before the first block, of normalized images as in `forward`."""
        if self.patch_generator is not None:
            return self.patch_generator(x)
        images = [x] if isinstance(x, Tensor) else [image.unsqueeze(0) for image in x]
        return concatenate([self._embed_plain(image) for image in images])

    def _embed_plain(self, x: Tensor) -> Tensor:
        patches = self.patch_embed(x)
        positions = resize_plain_position_embedding(
            self.pos_embed, self._grid(x), self.grid_size, self.pos_embed_prefix
        ).to(patches.device)
        if not self.num_prefix_tokens:
            return patches + positions
        cls_token = self.cls_token.expand(x.shape[0], -1, -1).to(patches.device)
        if self.pos_embed_prefix:
            return torch.cat([cls_token, patches], dim=1) + positions
        return torch.cat([cls_token, patches + positions], dim=1)

    def _run_block(self, block: nn.Module, tokens: Tensor, attend: Attend) -> Tensor:
        """Where all tokens see each other a block is called with them alone, so that users can put one of theirs
        there."""
        inputs = (tokens,) if attend is attend_all else (tokens, attend)
        return run_block(block, *inputs, checkpointing=self.grad_checkpointing)

    def _grid(self, x: Tensor, window: int = 1) -> Grid:
        """Patches down and across, written as whole windows so that a traced graph can divide them again."""
        step = self.patch_size * window
        return x.shape[-2] // step * window, x.shape[-1] // step * window


class DINOv2Backbone(TimmSurface):
    """The DINOv2 layout keeps the ViT under ``inner``; the released names say so."""

    def __init__(self, config: RadioConfig) -> None:
        super().__init__()
        self.inner = Backbone(config)

    def forward(self, x: Tensor | Sequence[Tensor], options: PassOptions | None = None) -> Any:
        """As the ViT inside."""
        return self.inner(x, options)

    @property
    def vit(self) -> Backbone:
        """The ViT inside."""
        return self.inner

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        return self.inner.blocks

    @property
    def embed_dim(self) -> int:
        """Width C of the tokens."""
        return self.inner.embed_dim

    @property
    def patch_size(self) -> int:
        """Side P of a patch, in pixels."""
        return self.inner.patch_size

    @property
    def num_prefix_tokens(self) -> int:
        """Class tokens and registers before the patches."""
        return self.inner.num_prefix_tokens

    @property
    def num_cls_tokens(self) -> int:
        """Class tokens."""
        return self.inner.num_cls_tokens

    @property
    def patch_generator(self) -> PatchGenerator | None:
        """Patches, position embeddings and prefix tokens."""
        return self.inner.patch_generator

    @property
    def norm(self) -> nn.Module:
        """The final norm."""
        return self.inner.norm

    @property
    def grad_checkpointing(self) -> bool:
        """Whether the blocks are computed anew in the backward pass."""
        return self.inner.grad_checkpointing
