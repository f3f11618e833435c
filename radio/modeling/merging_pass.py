"""In-network token merging while the blocks run: the one state that the backbone's loop carries along."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from radio.modeling.block import Block
from radio.token_merging import InNetworkMerging, MergePlan
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
        self._schedule = merging.schedule(depth)
        self._proportional = merging.proportional_attention
        self._num_prefix = num_prefix
        self._state = TokenState.start(batch, grid, device)

    def run_block(self, index: int, block: Block, tokens: Tensor) -> Tensor:
        """Run one block on the current tokens (B, T + K, C); between its attention and its MLP some merge."""
        q, k, v = block.attn.project(block.norm1(tokens))
        attended = self._attend(q, k, v).transpose(1, 2).reshape(tokens.shape)
        tokens = tokens + block.ls1(block.attn.proj(attended))
        tokens, self._state = self._state.merge(tokens, k, self._num_prefix, self._schedule[index])
        return tokens + block.ls2(block.mlp(block.norm2(tokens)))

    def expand(self, tokens: Tensor) -> Tensor:
        """Current tokens (B, T + K, C) on the full grid, (B, T + L, C): each patch has the values of its token."""
        patches = self.plan().unmerge(tokens[:, self._num_prefix :])
        return torch.cat([tokens[:, : self._num_prefix], patches], dim=1)

    def plan(self) -> MergePlan:
        """The merges so far, from the full grid to the current tokens."""
        return self._state.plan()

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self._proportional or self._state.nothing_merged:
            return F.scaled_dot_product_attention(q, k, v)
        bias = self._state.attention_bias(self._num_prefix, q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(-1, -1, q.shape[2], -1))
