"""Token merging in the forward pass: inside the network as the blocks run, and on the outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio.modeling.block import Block
from radio.modeling.merged_outputs import MergedOutput, Reduction
from radio.modeling.outputs import RadioOutput
from radio.token_merging import InNetworkMerging, MergePlan, TokenMerging
from radio.token_merging.in_network import TokenState


class MergingPass:
    """One pass of a batch over the blocks, in which tokens merge.

    Args:
        merging: How many tokens merge in which block.
        depth: Number of blocks.
        num_prefix: Number T of prefix tokens, which never merge.
        grid: Patches down and across.
        batch: Number of images.
        device: Where the tokens are.

    Raises:
        ValueError: `merging` lists another number of blocks.
    """

    def __init__(
        self,
        merging: InNetworkMerging,
        depth: int,
        num_prefix: int,
        grid: tuple[int, int],
        batch: int,
        device: torch.device,
    ) -> None:
        self._merging = merging
        self._schedule = merging.schedule(depth)
        self._num_prefix = num_prefix
        self._state = TokenState.start(batch, grid, device)

    def run_block(self, index: int, block: nn.Module, tokens: Tensor) -> Tensor:
        """Run one block on the current tokens (B, T + K, C); between its attention and its MLP some merge."""
        assert isinstance(block, Block)
        q, k, v = block.attn.project(block.norm1(tokens))
        attended = self._attend(q, k, v).transpose(1, 2).reshape(tokens.shape)
        tokens = tokens + block.ls1(block.attn.proj(attended))
        tokens, self._state = self._state.merge(tokens, k, self._num_prefix, self._schedule[index])
        return tokens + block.ls2(block.mlp(block.norm2(tokens)))

    def expand(self, tokens: Tensor) -> Tensor:
        """Current tokens (B, T + K, C) on the full grid, (B, T + L, C): each patch has the values of its
        token."""
        patches = self.plan().unmerge(tokens[:, self._num_prefix :])
        return torch.cat([tokens[:, : self._num_prefix], patches], dim=1)

    def plan(self) -> MergePlan:
        """The merges so far, from the full grid to the current tokens."""
        return self._state.plan()

    def reduction(self) -> Reduction | None:
        """How to make outputs on the full grid compact again; None when the full grid is wanted."""
        return None if self._merging.expand else Reduction(self.plan(), "mean")

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self._merging.proportional_attention or self._state.nothing_merged:
            return F.scaled_dot_product_attention(q, k, v)
        bias = self._state.attention_bias(self._num_prefix, q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(-1, -1, q.shape[2], -1))


def plan_reduction(
    features: Tensor, grid: tuple[int, int], merge: TokenMerging | None, merging: MergingPass | None
) -> Reduction | None:
    """How the outputs shrink: as `merge` decides on these features (B, L, C), as the network merged, or
    not."""
    if merge is not None:
        return Reduction(merge.plan(features, grid), merge.mode)
    return None if merging is None else merging.reduction()


def merge_output(
    output: RadioOutput | dict[str, RadioOutput],
    grid: tuple[int, int],
    merge: TokenMerging | None,
    merging: MergingPass | None = None,
) -> RadioOutput | dict[str, RadioOutput] | MergedOutput:
    """An output with merged features, or as it is if nothing asks for that."""
    reduction = plan_reduction(backbone_features(output), grid, merge, merging)
    return output if reduction is None else reduction.apply(output)


def backbone_features(output: RadioOutput | dict[str, RadioOutput]) -> Tensor:
    """The backbone's features of an output with or without adaptors."""
    return (output["backbone"] if isinstance(output, dict) else output).features


def merging_per_image(
    merge: TokenMerging | Sequence[TokenMerging] | None, count: int
) -> Sequence[TokenMerging | None]:
    """One merging for each of `count` images.

    Raises:
        ValueError: A sequence of another length was given.
    """
    if merge is None or isinstance(merge, TokenMerging):
        return [merge] * count
    if len(merge) != count:
        raise ValueError(
            f"merge lists {len(merge)} TokenMerging for {count} images; give one for each, or one for all"
        )
    return merge


def check_merging(
    merge: TokenMerging | Sequence[TokenMerging] | None,
    tome: InNetworkMerging | None,
    feature_fmt: str,
    one_size: bool,
    windowed: bool,
) -> None:
    """Check that what is asked for goes together.

    Args:
        merge: Merging of the final features.
        tome: Merging inside the network.
        feature_fmt: ``"NLC"`` or ``"NCHW"``.
        one_size: Whether the images come as one tensor, not as a list.
        windowed: Whether the model has ViTDet windows.

    Raises:
        TypeError: `merge` or `tome` is something else than it should be.
        ValueError: The combination has no meaning.
    """
    if tome is not None and not isinstance(tome, InNetworkMerging):
        raise TypeError(
            f"tome must be an InNetworkMerging, e.g. InNetworkMerging(r=8), got {type(tome).__name__}"
        )
    if (
        merge is not None
        and not isinstance(merge, TokenMerging)
        and (one_size or not isinstance(merge, Sequence))
    ):
        raise TypeError(
            f"merge must be a TokenMerging, e.g. TokenMerging(keep=196), got {type(merge).__name__}; "
            "one for each image needs a list of images"
        )
    compact = tome is not None and not tome.expand
    if (merge is not None or compact) and feature_fmt != "NLC":
        raise ValueError(
            f"merged tokens do not lie on a grid, so the feature format must be 'NLC', got {feature_fmt!r}; "
            "output.plan.unmerge(output.features) spreads them back onto the patches"
        )
    if merge is not None and compact:
        raise ValueError(
            "merge= needs the full grid; use InNetworkMerging(..., expand=True) together with it"
        )
    if tome is not None and windowed:
        raise ValueError(
            "merging inside the network takes patches out of their ViTDet windows; load the model with "
            "vitdet_window_size=None, or merge the final features with merge=TokenMerging(...)"
        )
    if tome is not None and not one_size:
        raise ValueError(
            "merging inside the network needs a batch of images of one size, got a list; call the model once "
            "per size, or merge the final features with merge=TokenMerging(...)"
        )
