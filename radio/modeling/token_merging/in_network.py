"""Merging inside the network: every block passes fewer patch tokens to the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from radio.modeling.outputs import Grid
from radio.modeling.token_merging.matching import match, split_grid
from radio.modeling.token_merging.plan import MergePlan
from radio.wording import counted


class TokenState(NamedTuple):
    """Where the patches are while the blocks run.

    Attributes:
        assignment: (B, L) int64: the current token, 0 to K - 1, that each of the L patches is in.
        sizes: (B, K) float32: how many patches each current token stands for.
        grid: Rows and columns of the L patches.
    """

    assignment: Tensor
    sizes: Tensor
    grid: Grid

    @classmethod
    def start(cls, batch: int, grid: Grid, device: torch.device) -> TokenState:
        """Every patch is its own token."""
        length = grid[0] * grid[1]
        assignment = torch.arange(length, device=device).expand(batch, length)
        return cls(assignment, torch.ones((batch, length), device=device), grid)

    @property
    def nothing_merged(self) -> bool:
        """Whether every patch still is its own token."""
        return self.sizes.shape[1] == self.assignment.shape[1]

    def attention_bias(self, num_prefix: int, dtype: torch.dtype) -> Tensor:
        """(B, 1, 1, num_prefix + K): log of the sizes, 0 for prefix tokens, to be added to the attention
        logits.

        A token that stands for n patches then gets the attention that n equal patches would get together.
        """
        return F.pad(self.sizes.log(), (num_prefix, 0)).to(dtype)[:, None, None, :]

    def merge(self, x: Tensor, keys: Tensor, num_prefix: int, r: int) -> tuple[Tensor, TokenState]:
        """Merge `r` of the K current patch tokens, or half of them if `r` is more than that.

        Tokens alternate between destination and source in raster order.

        Args:
            x: (B, num_prefix + K, C). The prefix tokens pass unchanged.
            keys: (B, heads, num_prefix + K, head_dim) attention keys of the same tokens; their mean over
                heads is the metric.
            num_prefix: Number of tokens in front that never merge.
            r: Number of tokens to remove.

        Returns:
            (B, num_prefix + K - r, C) and the new state.
        """
        current = self.sizes.shape[1]
        r = min(r, current // 2)
        if r == 0:
            return x, self
        line = (1, current)
        metric = keys[:, :, num_prefix:].mean(dim=1)
        step_assignment = match(metric, split_grid(line, (1, 2), x.device), current - r, "raster")
        step = MergePlan.from_assignment(step_assignment, current - r, line, self.sizes)
        merged = torch.cat((x[:, :num_prefix], step.reduce(x[:, num_prefix:])), dim=1)
        return merged, TokenState(step_assignment.gather(1, self.assignment), step.sizes, self.grid)

    def plan(self) -> MergePlan:
        """The merges so far as one plan from the full grid to the current tokens."""
        return MergePlan(
            self.assignment, torch.ones_like(self.assignment, dtype=torch.float32), self.sizes, self.grid
        )


@dataclass(frozen=True)
class InNetworkMerging:
    """Merge tokens in every block, so that the network itself gets faster.

    Give it to the model: `model(x, tome=InNetworkMerging(r=8))`.

    Between the attention and the MLP of a block, `r` patch tokens merge into their most similar one, as a
    mean weighed by the number of patches. The similarity is that of the attention keys, averaged over heads.
    Prefix tokens never merge. No training is needed, but the outputs are approximations: measure what a given
    `r` costs on your task.

    Attributes:
        r: Tokens to remove in every block, or one number per block. A block removes at most half of its
            tokens.
        proportional_attention: Add the log of each token's size to the attention logits, so that a merged
            token gets the attention of all its patches.
        expand: Give the features back on the full grid, each patch with the features of its token, so that
            the output has its usual shape. False gives the merged tokens with their sizes, positions and
            plan.

    Raises:
        ValueError: A negative `r`.

    Source: ToMe (Bolya et al. 2022, arXiv 2210.09461, section 3).
    """

    r: int | tuple[int, ...]
    proportional_attention: bool = True
    expand: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.r, int):
            object.__setattr__(self, "r", tuple(self.r))
        if min((self.r,) if isinstance(self.r, int) else self.r, default=0) < 0:
            raise ValueError(
                f"r={self.r} is impossible: it is the number of tokens that a block removes, at least 0"
            )

    def schedule(self, depth: int) -> tuple[int, ...]:
        """`r` of every block.

        Raises:
            ValueError: `r` is a list of another length than the number of blocks.
        """
        if isinstance(self.r, int):
            return (self.r,) * depth
        if len(self.r) != depth:
            raise ValueError(
                f"r lists {counted(len(self.r), 'block')}, but the network has {depth}; "
                "give one number for each, or one for all"
            )
        return self.r
