"""Intermediate layers: which blocks are taken, and how their outputs are normalized and averaged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index
from typing import Literal, SupportsIndex

import torch
from torch import Tensor

from radio.modeling.inputs import check_choice
from radio.modeling.layout import TokenLayout
from radio.modeling.normalizers import IntermediateFeatureNormalizer

Aggregation = Literal["sparse", "dense"]
AlphaScheme = Literal["post-alpha", "pre-alpha", "none"]


def resolve_indices(indices: int | Sequence[int] | None, depth: int) -> list[int]:
    """The blocks that `indices` names, in ascending order.

    Args:
        indices: None for all blocks, n for the last n, or block numbers; negative ones count from the end.
        depth: Number of blocks.

    Raises:
        ValueError: A number is out of range.
        TypeError: A number is not a whole one.
    """
    if indices is None:
        return list(range(depth))
    if not isinstance(indices, Iterable):
        indices = _whole(indices)
        if not 1 <= indices <= depth:
            raise ValueError(f"indices={indices} asks for that many last blocks; the model has {depth}")
        return list(range(depth - indices, depth))
    numbers = [_whole(i) for i in indices]
    resolved = [i + depth if i < 0 else i for i in numbers]
    if not resolved or not all(0 <= i < depth for i in resolved):
        raise ValueError(f"indices={numbers} must name blocks from {-depth} to {depth - 1}")
    return sorted(set(resolved))


def _whole(number: SupportsIndex) -> int:
    try:
        return index(number)
    except TypeError as error:
        raise TypeError(f"indices are whole numbers of blocks, got {number!r}") from error


class IntermediateCollector:
    """Collects the outputs of the blocks that are taken, as the backbone runs.

    Args:
        taken: Block numbers, ascending.
        depth: Number of blocks.
        normalizer: The intermediate normalizer, if any.
        aggregation: ``"sparse"`` takes a block's own output, ``"dense"`` averages over the blocks since the
            previous one taken.
        alpha_scheme: Where the normalizer's factors go when averaging; ``"none"`` leaves the normalizer out.
        stop_early: Whether the backbone may stop after the last block taken.
    """

    def __init__(
        self,
        taken: Sequence[int],
        depth: int,
        normalizer: IntermediateFeatureNormalizer | None,
        aggregation: Aggregation,
        alpha_scheme: AlphaScheme,
        stop_early: bool,
    ) -> None:
        check_choice("aggregation", aggregation, ("sparse", "dense"))
        check_choice("norm_alpha_scheme", alpha_scheme, ("post-alpha", "pre-alpha", "none"))
        self.taken = list(taken)
        self.last_block = self.taken[-1] if stop_early else depth - 1
        self.outputs: list[Tensor] = []
        self.layouts: list[TokenLayout] = []
        self._normalizer = None if alpha_scheme == "none" else normalizer
        self._dense = aggregation == "dense"
        self._pre_alpha = alpha_scheme == "pre-alpha"
        self._sum: Tensor | None = None
        self._alpha_sum: Tensor | None = None
        self._count = 0

    def wants(self, block: int) -> bool:
        """Whether this block's output takes part."""
        return block in self.taken or (self._dense and block < self.taken[-1]) or block == self.last_block

    def add(self, block: int, tokens: Tensor, layout: TokenLayout) -> None:
        """Take the output (B, N, C) of a block."""
        if len(self.outputs) == len(self.taken):
            return
        group_end = self.taken[len(self.outputs)]
        if self._dense:
            self._accumulate(block, group_end, tokens, layout)
            if block == group_end:
                self._take(self._average(), layout)
        elif block == group_end:
            normalized, alpha = self._normalize(block, block, tokens, layout)
            self._take(normalized if alpha is None else normalized * alpha, layout)

    def _take(self, tokens: Tensor, layout: TokenLayout) -> None:
        self.outputs.append(tokens)
        self.layouts.append(layout)

    def _normalize(
        self, block: int, rotation: int, tokens: Tensor, layout: TokenLayout
    ) -> tuple[Tensor, Tensor | None]:
        """Shift and rotate the patches; and the factor of every token (N, 1), 1 for prefix tokens."""
        if self._normalizer is None:
            return tokens, None
        is_prefix = layout.prefix_mask(tokens.device).unsqueeze(-1)
        normalized, factor = self._normalizer(tokens, block, rotation)
        alpha = torch.where(is_prefix, torch.ones_like(factor), factor)
        return torch.where(is_prefix, tokens, normalized), alpha

    def _accumulate(self, block: int, group_end: int, tokens: Tensor, layout: TokenLayout) -> None:
        normalized, alpha = self._normalize(block, group_end, tokens, layout)
        if alpha is not None and self._pre_alpha:
            normalized = normalized * alpha
        self._sum = normalized if self._sum is None else self._sum + normalized
        if alpha is not None and not self._pre_alpha:
            self._alpha_sum = alpha if self._alpha_sum is None else self._alpha_sum + alpha
        self._count += 1

    def _average(self) -> Tensor:
        assert self._sum is not None
        average = self._sum / self._count
        if self._alpha_sum is not None:
            average = average * (self._alpha_sum / self._count)
        self._sum, self._alpha_sum, self._count = None, None, 0
        return average
