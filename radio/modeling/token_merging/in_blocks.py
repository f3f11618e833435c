"""Token merging in the forward pass: inside the network as the blocks run, and on the outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio.modeling.block import Block
from radio.modeling.kernels.attention import attend_all
from radio.modeling.layouts import Segments
from radio.modeling.outputs import RadioOutput
from radio.modeling.token_merging import InNetworkMerging, TokenMerging
from radio.modeling.token_merging.in_network import TokenState
from radio.modeling.token_merging.outputs import MergedOutput, Reduction


class MergingPass:
    """One pass over the blocks, in which tokens merge: a batch of one size, or images packed in a row.

    Every image of a row merges among its own tokens, as if it were alone.

    Args:
        merging: How many tokens merge in which block.
        depth: Number of blocks.
        num_prefix: Number T of prefix tokens of an image, which never merge.
        grids: Patches down and across: of the batch, or of each image in the row.
        batch: Number of images of a batch; 1 for a row.
        device: Where the tokens are.

    Raises:
        ValueError: `merging` lists another number of blocks.
    """

    def __init__(
        self,
        merging: InNetworkMerging,
        depth: int,
        num_prefix: int,
        grids: Sequence[tuple[int, int]],
        batch: int,
        device: torch.device,
    ) -> None:
        self._merging = merging
        self._schedule = merging.schedule(depth)
        self._num_prefix = num_prefix
        self._states = [TokenState.start(batch, grid, device) for grid in grids]

    def run_block(self, index: int, block: nn.Module, tokens: Tensor) -> Tensor:
        """Run one block on the current tokens (B, N, C); between its attention and its MLP some merge."""
        assert isinstance(block, Block)
        q, k, v = block.attn.project(block.norm1(tokens))
        attended = self._attend(q, k, v).transpose(1, 2).reshape(tokens.shape)
        tokens = tokens + block.ls1(block.attn.proj(attended))
        tokens = self._merge(tokens, k, self._schedule[index])
        return tokens + block.ls2(block.mlp(block.norm2(tokens)))

    def expand(self, tokens: Tensor) -> Tensor:
        """Current tokens on the full grids, T + L for each image: each patch has the values of its token."""
        parts = []
        for state, image in zip(self._states, tokens.split(self._lengths(), dim=1), strict=True):
            prefix, merged = image[:, : self._num_prefix], image[:, self._num_prefix :]
            parts += [prefix, state.plan().unmerge(merged)]
        return torch.cat(parts, dim=1)

    def reductions(self) -> list[Reduction | None]:
        """For every grid how to make outputs on it compact again; None when the full grid is wanted."""
        if self._merging.expand:
            return [None] * len(self._states)
        return [Reduction(state.plan(), "mean") for state in self._states]

    def _lengths(self) -> list[int]:
        """The number of tokens that each grid has now, prefix tokens included."""
        return [self._num_prefix + state.sizes.shape[1] for state in self._states]

    def _merge(self, tokens: Tensor, keys: Tensor, r: int) -> Tensor:
        lengths = self._lengths()
        parts = zip(self._states, tokens.split(lengths, dim=1), keys.split(lengths, dim=2), strict=True)
        steps = [state.merge(image, image_keys, self._num_prefix, r) for state, image, image_keys in parts]
        self._states = [state for _, state in steps]
        return torch.cat([merged for merged, _ in steps], dim=1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        biased = self._merging.proportional_attention and not all(s.nothing_merged for s in self._states)
        if not biased:
            alone = len(self._states) == 1
            return attend_all(q, k, v) if alone else Segments(self._lengths()).attend(q, k, v)
        images = zip(self._states, *(x.split(self._lengths(), dim=2) for x in (q, k, v)), strict=True)
        return torch.cat([self._attend_by_size(*image) for image in images], dim=2)

    def _attend_by_size(self, state: TokenState, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        bias = state.attention_bias(self._num_prefix, q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(-1, -1, q.shape[2], -1))


def reductions_of(merging: MergingPass | None, count: int) -> list[Reduction | None]:
    """How the network merged each of `count` grids; None where it did not, or the full grid is wanted."""
    return [None] * count if merging is None else merging.reductions()


def plan_reduction(
    features: Tensor, grid: tuple[int, int], merge: TokenMerging | None, in_network: Reduction | None
) -> Reduction | None:
    """How the outputs shrink: as `merge` decides on these features (B, L, C), as the network merged, or
    not."""
    return in_network if merge is None else Reduction(merge.plan(features, grid), merge.mode)


def merge_output(
    output: RadioOutput | dict[str, RadioOutput],
    grid: tuple[int, int],
    merge: TokenMerging | None,
    in_network: Reduction | None,
) -> RadioOutput | dict[str, RadioOutput] | MergedOutput:
    """An output with merged features, or as it is if nothing asks for that."""
    reduction = plan_reduction(backbone_features(output), grid, merge, in_network)
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
    if isinstance(merge, Sequence) and not all(isinstance(one, TokenMerging) for one in merge):
        raise TypeError(f"merge must list one TokenMerging for each image, got {list(merge)}")
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
