"""What code that was written for timm's VisionTransformer calls on a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from radio.modeling.input_warnings import InputWarnings
from radio.modeling.intermediates import IntermediateCollector, resolve_indices
from radio.modeling.layout import TokenLayout
from radio.modeling.outputs import FeatureFormat, Grid, to_format
from radio.modeling.protocol import PassOptions


class ViT(Protocol):
    """What the surface needs of a ViT."""

    embed_dim: int
    patch_size: int
    num_cls_tokens: int
    num_prefix_tokens: int
    grad_checkpointing: bool
    blocks: nn.ModuleList
    norm: nn.Module

    def __call__(self, x: Tensor, options: PassOptions) -> tuple[Tensor, TokenLayout]: ...


class TimmSurface(nn.Module):
    """timm's names for a ViT without a classifier. Inputs are normalized images (B, 3, H, W).

    Attributes:
        num_classes: 0.
        global_pool: Empty: nothing is pooled.
        attn_pool: None.
        in_chans: 3.
        dynamic_img_size: True: images may have any size that the patches fit.
        no_embed_class: True: prefix tokens have no position embeddings, but for plain ViTs.
        pos_drop, patch_drop, norm_pre, fc_norm, head_drop, head: Do nothing; code that runs the parts one by one calls
            them.
    """

    num_classes = 0
    global_pool = ""
    attn_pool = None
    in_chans = 3
    dynamic_img_size = True
    no_embed_class = True

    def __init__(self) -> None:
        super().__init__()
        self.pos_drop = nn.Identity()
        self.patch_drop = nn.Identity()
        self.norm_pre = nn.Identity()
        self.fc_norm = nn.Identity()
        self.head_drop = nn.Identity()
        self.head = nn.Identity()
        self._warnings = InputWarnings()

    @property
    def vit(self) -> ViT:
        """The ViT itself, whatever the layout."""
        raise NotImplementedError

    @property
    def num_features(self) -> int:
        """Width C of the tokens."""
        return self.vit.embed_dim

    @property
    def head_hidden_size(self) -> int:
        """Width C of what a classifier would read."""
        return self.vit.embed_dim

    @property
    def num_reg_tokens(self) -> int:
        """Number of registers among the prefix tokens."""
        return self.vit.num_prefix_tokens - self.vit.num_cls_tokens

    @property
    def has_class_token(self) -> bool:
        """Whether there are class tokens among the prefix tokens."""
        return self.vit.num_cls_tokens > 0

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Every block's place, width and stride."""
        vit = self.vit
        return [
            {"module": f"blocks.{i}", "num_chs": vit.embed_dim, "reduction": vit.patch_size}
            for i in range(len(vit.blocks))
        ]

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens (B, T + L, C) after the final norm: prefix tokens, then patches in raster order."""
        self.check_mode()
        tokens, _ = self.vit(x, PassOptions())
        return self.vit.norm(tokens)

    def check_mode(self) -> None:
        """Warn, once, about a backbone that was taken out of its model and is in training mode without training."""
        self._warnings.check_mode(self, getattr(self.vit, "patch_generator", None))

    def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
        """Tokens (B, T + L, C) as they are; with ``"token"`` the first class token (B, C), with ``"avg"`` the mean of
        the patches (B, C), with ``"max"`` their maximum.

        Raises:
            ValueError: Another kind of pooling.
        """
        kind = self.global_pool if pool_type is None else pool_type
        patches = x[:, self.vit.num_prefix_tokens :]
        if kind == "":
            return x
        if kind == "token":
            return x[:, 0]
        if kind == "avg":
            return patches.mean(dim=1)
        if kind == "max":
            return patches.amax(dim=1)
        raise ValueError(f"unknown pooling {kind!r}; allowed: '', 'token', 'avg', 'max'")

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """What `forward_features` gave, pooled; there is no classifier, so `pre_logits` changes nothing."""
        return self.pool(x)

    def get_classifier(self) -> nn.Module:
        """The classifier: an identity."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Choose the pooling of `forward_head`.

        Raises:
            ValueError: A classifier is asked for.
        """
        if num_classes:
            raise ValueError(
                "a RADIO backbone has no classifier; put a linear layer on the model's summary, or use "
                "timm.create_model(..., num_classes=...) of radio.timm, which has one"
            )
        if global_pool is not None:
            self.pool(torch.empty(1, 1 + self.vit.num_prefix_tokens, 1), global_pool)  # refuses other kinds
            self.global_pool = global_pool

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """Does nothing: weights come from a file."""

    def _init_weights(self, module: nn.Module) -> None:
        """Does nothing, under the name that vision-language models look up."""

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names by depth, for learning rates that decay from layer to layer."""
        return {
            "stem": r"^(?:inner\.)?(?:patch_generator|patch_embed|cls_token|pos_embed)",
            "blocks": [(r"^(?:inner\.)?blocks\.(\d+)", None), (r"^(?:inner\.)?norm", (99999,))],
        }

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the blocks behind the last intermediate at `indices`; returns their block numbers.

        Raises:
            ValueError: A block that is not there.
        """
        vit = self.vit
        taken = resolve_indices(indices, len(vit.blocks))
        vit.blocks = vit.blocks[: taken[-1] + 1]
        if prune_norm:
            vit.norm = nn.Identity()
        return taken

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: FeatureFormat = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
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
            output_dict: Return a dict with timm's names: ``"image_intermediates"``, ``"image_intermediates_prefix"``
                and ``"image_features"`` (the final tokens).

        Returns:
            The list of intermediates; unless `intermediates_only`, a pair of the normalized final tokens
            (B, T + L, C) and that list.

        Raises:
            ValueError: An index or the format is not supported.
        """
        self.check_mode()
        vit, depth = self.vit, len(self.vit.blocks)
        taken = resolve_indices(indices, depth)
        collector = IntermediateCollector(
            taken, depth, None, "sparse", "none", stop_early and intermediates_only
        )
        tokens, layout = vit(x, PassOptions(collector=collector))
        layers = [vit.norm(layer) if norm else layer for layer in collector.outputs]
        if output_dict:
            named: dict[str, Any] = {
                "image_intermediates": [self._layer(i, layout.grids[0], output_fmt, False) for i in layers]
            }
            if return_prefix_tokens:
                named["image_intermediates_prefix"] = [i[:, : vit.num_prefix_tokens] for i in layers]
            return named if intermediates_only else {**named, "image_features": vit.norm(tokens)}
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
