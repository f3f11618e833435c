"""What code that was written for timm's VisionTransformer calls on a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from radio.modeling.intermediates import IntermediateCollector, resolve_indices
from radio.modeling.layout import TokenLayout
from radio.modeling.outputs import FeatureFormat, Grid, to_format


class ViT(Protocol):
    """What the surface needs of a ViT."""

    embed_dim: int
    num_prefix_tokens: int
    grad_checkpointing: bool
    blocks: nn.ModuleList

    @property
    def norm(self) -> nn.Module: ...

    def __call__(
        self, x: Tensor, *, collector: IntermediateCollector | None = None
    ) -> tuple[Tensor, TokenLayout]: ...


class TimmSurface(nn.Module):
    """timm's names for a ViT without a classifier. Inputs are normalized images (B, 3, H, W).

    Attributes:
        num_classes: 0.
        global_pool: Empty: nothing is pooled.
        patch_drop, norm_pre, fc_norm, head_drop, head: Do nothing; code that runs the parts one by one calls them.
    """

    num_classes = 0
    global_pool = ""

    def __init__(self) -> None:
        super().__init__()
        self.patch_drop = nn.Identity()
        self.norm_pre = nn.Identity()
        self.fc_norm = nn.Identity()
        self.head_drop = nn.Identity()
        self.head = nn.Identity()

    @property
    def vit(self) -> ViT:
        """The ViT itself, whatever the layout."""
        raise NotImplementedError

    @property
    def num_features(self) -> int:
        """Width C of the tokens."""
        return self.vit.embed_dim

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens (B, T + L, C) after the final norm: prefix tokens, then patches in raster order."""
        tokens, _ = self.vit(x)
        return self.vit.norm(tokens)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: FeatureFormat = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Outputs of intermediate blocks, without windows, normalizers and adaptors.

        Args:
            x: Normalized images (B, 3, H, W).
            indices: None for all blocks, n for the last n, or block numbers; negative ones count from the end.
            return_prefix_tokens: Return pairs of patches and prefix tokens (B, T, C).
            norm: Apply the final norm to each.
            stop_early: Do not run blocks after the last one taken; only with `intermediates_only`.
            output_fmt: ``"NCHW"`` or ``"NLC"``.
            intermediates_only: Leave the final tokens out.

        Returns:
            The list of intermediates; unless `intermediates_only`, a pair of the normalized final tokens
            (B, T + L, C) and that list.

        Raises:
            ValueError: An index or the format is not supported.
        """
        vit, depth = self.vit, len(self.vit.blocks)
        taken = resolve_indices(indices, depth)
        collector = IntermediateCollector(
            taken, depth, None, "sparse", "none", stop_early and intermediates_only
        )
        tokens, layout = vit(x, collector=collector)
        layers = [vit.norm(layer) if norm else layer for layer in collector.outputs]
        outputs = [self._layer(layer, layout.grids[0], output_fmt, return_prefix_tokens) for layer in layers]
        return outputs if intermediates_only else (vit.norm(tokens), outputs)

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
    ) -> list[Any]:
        """The last n blocks, or blocks by number: (B, L, C) each, or with `reshape` (B, C, h, w)."""
        return self.forward_intermediates(
            x, n, return_prefix_tokens, norm, output_fmt="NCHW" if reshape else "NLC", intermediates_only=True
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the blocks anew in the backward pass instead of keeping their activations."""
        self.vit.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Parameters that optimizers should not decay: position embeddings and prefix tokens."""
        marks = ("pos_embed", "cls_token", "cls_token.token")
        return {name for name, _ in self.named_parameters() if name.endswith(marks)}

    def _layer(self, tokens: Tensor, grid: Grid, output_fmt: FeatureFormat, with_prefix: bool) -> Any:
        prefix = self.vit.num_prefix_tokens
        patches = to_format(tokens[:, prefix:], grid, output_fmt)
        return (patches, tokens[:, :prefix]) if with_prefix else patches
