"""Merging inside the network, as the blocks run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio.modeling.block import Block
from radio.modeling.kernels.attention import Attend
from radio.modeling.kernels.variable_length import attention_within
from radio.modeling.layout import concatenate, split
from radio.modeling.outputs import Grid
from radio.modeling.token_merging.in_network import InNetworkMerging, TokenState
from radio.modeling.token_merging.outputs import OutputMerger


class BlockMerger:
    """One pass over the blocks, in which tokens merge: a batch of one size, or images in a row.

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
        grids: Sequence[Grid],
        batch: int,
        device: torch.device,
    ) -> None:
        self._merging = merging
        self._schedule = merging.schedule(depth)
        self._num_prefix = num_prefix
        self._states = [TokenState.start(batch, grid, device) for grid in grids]

    def run_block(self, index: int, block: nn.Module, tokens: Tensor) -> Tensor:
        """Run one block on the current tokens (B, N, C); between its attention and its MLP some merge.

        Raises:
            TypeError: The block, or the attention in it, is a module of the user's that does not show its keys.
        """
        if not isinstance(block, Block):
            raise TypeError(
                f"tome= merges inside of blocks, and block {index} is of type {type(block).__name__}; it works with "
                "radio.modeling.block.Block only"
            )
        keys: list[Tensor] = []

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys.append(k)
            return self._attention()(q, k, v)

        tokens = block.self_attention(tokens, attend)
        if not keys:
            raise TypeError(
                f"tome= merges by the keys of the attention, and the {type(block.attn).__name__} in block {index} does "
                "not call attend(q, k, v) with them"
            )
        return block.feed_forward(self._merge(tokens, keys[0], self._schedule[index]))

    def expand(self, tokens: Tensor) -> Tensor:
        """Current tokens on the full grids, T + L for each image: each patch has the values of its token."""
        parts = []
        for state, image in zip(self._states, split(tokens, self._lengths()), strict=True):
            prefix, merged = image[:, : self._num_prefix], image[:, self._num_prefix :]
            parts += [prefix, state.plan().unmerge(merged)]
        return torch.cat(parts, dim=1)

    def output_mergers(self) -> list[OutputMerger | None]:
        """For every grid what makes outputs on it compact again; None when the full grid is wanted."""
        if self._merging.expand:
            return [None] * len(self._states)
        return [OutputMerger(state.plan(), "mean") for state in self._states]

    def _lengths(self) -> list[int]:
        """The number of tokens that each grid has now, prefix tokens included."""
        return [self._num_prefix + state.sizes.shape[1] for state in self._states]

    def _merge(self, tokens: Tensor, keys: Tensor, r: int) -> Tensor:
        lengths = self._lengths()
        images = zip(self._states, split(tokens, lengths), split(keys, lengths, dim=2), strict=True)
        steps = [state.merge(image, image_keys, self._num_prefix, r) for state, image, image_keys in images]
        self._states = [state for _, state in steps]
        return concatenate([merged for merged, _ in steps])

    def _attention(self) -> Attend:
        """Among each image's current tokens, by their sizes once some have merged."""
        if not self._merging.proportional_attention or all(state.nothing_merged for state in self._states):
            return attention_within(self._lengths())
        return self._attend_by_size

    def _attend_by_size(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        images = zip(self._states, *(split(x, self._lengths(), dim=2) for x in (q, k, v)), strict=True)
        parts = []
        for state, image_q, image_k, image_v in images:
            bias = state.attention_bias(self._num_prefix, q.dtype).expand(-1, -1, image_q.shape[2], -1)
            parts.append(F.scaled_dot_product_attention(image_q, image_k, image_v, attn_mask=bias))
        return concatenate(parts, dim=2)
