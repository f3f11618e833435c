"""Merging the final features once, before the projector of a vision-language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from radio.modeling.outputs import Grid, describe_fields
from radio.modeling.token_merging.counts import Stride, check_request, check_stride, resolve
from radio.modeling.token_merging.matching import ORDERS, Order, match, split_grid
from radio.modeling.token_merging.plan import MergePlan, Mode, check_mode


class MergedTokens(NamedTuple):
    """Few tokens that stand for many.

    Attributes:
        features: (B, K, C), of the dtype of the features that were merged.
        sizes: (B, K) float32: how many patches each token stands for; the sum over K is the number of
            patches.
        positions: (B, K, 2) float32: mean (row, column) of these patches on the grid; (0, 0) is the top-left
            patch.
        plan: Spreads tokens back onto the grid (`plan.unmerge(x)`) and merges other tensors alike
            (`plan.reduce(x)`).
    """

    features: Tensor
    sizes: Tensor
    positions: Tensor
    plan: MergePlan

    def __repr__(self) -> str:
        return describe_fields("MergedTokens", self._asdict())


@dataclass(frozen=True)
class TokenMerging:
    """How to merge the final features, e.g. `model(x, merge=TokenMerging(keep=196))`.

    The arguments are those of `merge_tokens`; contradictory ones are refused here already.
    """

    keep: int | None = None
    ratio: float | None = None
    r: int | None = None
    stride: Stride | None = None
    mode: Mode = "mean"
    order: Order = "raster"
    random_destinations: bool = False
    at_most: int | None = None

    def __post_init__(self) -> None:
        check_request(self.keep, self.ratio, self.r, self.at_most)
        check_stride(self.stride)
        check_mode(self.mode)
        _check_order(self.order)

    def __call__(
        self,
        features: Tensor,
        grid: Grid,
        *,
        metric: Tensor | None = None,
        sizes: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> MergedTokens:
        """Merge features; the arguments and the result are those of `merge_tokens`."""
        _check_shapes(features, grid, metric, sizes)
        plan = self.plan(features if metric is None else metric, grid, sizes=sizes, generator=generator)
        return MergedTokens(plan.reduce(features, self.mode), plan.sizes, plan.centroids(), plan)

    def plan(
        self,
        metric: Tensor,
        grid: Grid,
        *,
        sizes: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> MergePlan:
        """Decide what merges, from a metric (B, L, any), without merging anything; see `merge_tokens`."""
        _check_shapes(metric, grid, None, sizes)
        keep = self.keep if self.at_most is None else min(self.at_most, grid[0] * grid[1])
        kept, stride = resolve(grid, keep, self.ratio, self.r, self.stride)
        split = split_grid(grid, stride, metric.device, self.random_destinations, generator)
        return MergePlan.from_assignment(match(metric, split, kept, self.order), kept, grid, sizes)


def merge_tokens(
    features: Tensor,
    grid: Grid,
    *,
    keep: int | None = None,
    ratio: float | None = None,
    r: int | None = None,
    stride: Stride | None = None,
    metric: Tensor | None = None,
    mode: Mode = "mean",
    order: Order = "raster",
    sizes: Tensor | None = None,
    random_destinations: bool = False,
    at_most: int | None = None,
    generator: torch.Generator | None = None,
) -> MergedTokens:
    """Merge similar tokens of a grid by bipartite soft matching.

    The grid is cut into cells of `stride` tokens; one token of each cell is a destination, the others are
    sources. Each source finds its most similar destination, anywhere on the grid, and the most similar
    sources merge into theirs until the wanted number of tokens is left. How many tokens stay follows from the
    arguments and the grid alone, so all shapes are static and `torch.compile(fullgraph=True)` works
    (`generator` aside, which it does not take).

    Give exactly one of `keep`, `ratio`, `r` and `at_most`.

    Args:
        features: (B, L, C) spatial features, any floating dtype. Gradients flow through the merged values;
            the choice of what merges has none.
        grid: Rows and columns, `rows * columns == L`.
        keep: Number of tokens that stay.
        ratio: Share of tokens that is removed; 0.64 leaves 36 %.
        r: Number of tokens that are removed.
        stride: Rows and columns of a cell; it need not divide the grid. There is a destination in every cell,
            so a stride allows no fewer than `ceil(rows / sy) * ceil(columns / sx)` tokens. None takes the
            smallest square stride, from (2, 2) up, whose destinations are at most two thirds of the tokens
            that stay: (3, 3) for `ratio=0.64`, (5, 5) for `keep=196` on a 48x48 grid.
        metric: (B, L, any) what the similarity is computed from; None for the features themselves, as in the
            RADIOv2.5 paper.
        mode: `"mean"` (weighed by `sizes`), `"sum"` or `"max"`.
        order: `"raster"`: tokens follow the grid by the place of their representative (a destination, or a
            source that stayed), so that position information survives. `"classic"`: sources that stayed, by
            similarity, then destinations.
        sizes: (B, L) positive: how many patches each input token stands for already; None for one each.
        random_destinations: Draw each cell's destination, alike for the whole batch; otherwise it is the
            top-left token.
        at_most: As `keep`, but a grid that has no more tokens than that stays as it is. For images of any size.
        generator: Source of randomness for `random_destinations`.

    Returns:
        The merged tokens, their sizes and positions, and the plan that undoes or repeats the merge.

    Raises:
        ValueError: The shapes do not fit, an argument is unknown, or the request is impossible on this grid;
            the message says what is possible.

    Source: RADIOv2.5 (Heinrich et al. 2024, arXiv 2412.07679, section on token merging), with the matching of
    ToMe (Bolya et al. 2022, arXiv 2210.09461, section 3) on the cells of ToMeSD (Bolya & Hoffman 2023, arXiv
    2303.17604).
    """
    merging = TokenMerging(keep, ratio, r, stride, mode, order, random_destinations, at_most)
    return merging(features, grid, metric=metric, sizes=sizes, generator=generator)


def _check_order(order: str) -> None:
    if order not in ORDERS:
        raise ValueError(f"unknown order {order!r}; allowed: {', '.join(ORDERS)}")


def _check_shapes(features: Tensor, grid: Grid, metric: Tensor | None, sizes: Tensor | None) -> None:
    if features.ndim != 3:
        raise ValueError(
            f"features must be (B, L, C), got shape {tuple(features.shape)}; "
            "NCHW features go in as features.flatten(2).transpose(1, 2)"
        )
    if not features.is_floating_point():
        raise ValueError(f"features must be floating point, got {features.dtype}")
    if grid[0] < 1 or grid[1] < 1 or grid[0] * grid[1] != features.shape[1]:
        raise ValueError(
            f"grid {grid[0]}x{grid[1]} has {grid[0] * grid[1]} places, but the features have "
            f"{features.shape[1]} tokens; give (rows, columns) of the spatial features, without prefix tokens"
        )
    if metric is not None and (metric.ndim != 3 or metric.shape[:2] != features.shape[:2]):
        raise ValueError(
            f"metric must be ({features.shape[0]}, {features.shape[1]}, any) like the features, "
            f"got {tuple(metric.shape)}"
        )
    if sizes is not None and sizes.shape != features.shape[:2]:
        raise ValueError(
            f"sizes must be {tuple(features.shape[:2])} like the features, got {tuple(sizes.shape)}"
        )
