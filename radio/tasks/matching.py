"""Correspondences between two images: patches that are each other's most similar one."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Matches(NamedTuple):
    """Pairs of patches, the most similar first.

    Attributes:
        first: (N, 2) int64, row and column in the first image's grid.
        second: (N, 2) int64, the same in the second's.
        similarity: (N,) float32, cosine similarity of the two.
    """

    first: Tensor
    second: Tensor
    similarity: Tensor


def best_buddies(
    first: Tensor,
    second: Tensor,
    first_where: Tensor | None = None,
    second_where: Tensor | None = None,
) -> Matches:
    """All pairs of patches that are mutual nearest neighbors by cosine similarity.

    Best buddies are due to Dekel et al. 2015 ("Best-Buddies Similarity for Robust Template Matching"); with features of
    vision transformers they are the correspondences of Amir et al. 2021 ("Deep ViT Features as Dense Visual
    Descriptors", arXiv 2112.05814). Memory grows with the product of the numbers of patches.

    Args:
        first, second: (C, h, w) each, floating point, grids of any two sizes.
        first_where, second_where: (h, w) bool, the patches that take part; all if None.

    Returns:
        At least one pair, unless no patch takes part.

    Raises:
        ValueError: The widths differ, or a mask has another size than its features.
    """
    if first.ndim != 3 or second.ndim != 3 or first.shape[0] != second.shape[0]:
        raise ValueError(
            f"expected features (C, h, w) of one width, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    ours, our_places = _patches(first, first_where)
    theirs, their_places = _patches(second.to(first.device), second_where)
    if not len(ours) or not len(theirs):
        nothing = torch.zeros(0, 2, dtype=torch.int64)
        return Matches(nothing, nothing, torch.zeros(0))
    similarity = ours @ theirs.T
    best, forth = similarity.max(dim=1)
    back = similarity.argmax(dim=0)
    mutual = (back[forth] == torch.arange(len(ours), device=forth.device)).nonzero()[:, 0]
    mutual = mutual[best[mutual].argsort(descending=True, stable=True)]
    return Matches(
        our_places[mutual.cpu()], their_places[forth[mutual].cpu()], best[mutual].clamp(-1, 1).cpu()
    )


def spread_out(matches: Matches, count: int, grid: tuple[int, int]) -> Matches:
    """The most similar matches that lie apart in the first image, so that a picture of them can be read.

    Args:
        matches: Of two images.
        count: How many are kept at most.
        grid: Height and width of the first image's grid, in patches.
    """
    kept: list[int] = []
    apart = max((grid[0] * grid[1] / max(count, 1)) ** 0.5, 1.1)  # neighbors are never apart
    places = matches.first.float()
    while len(kept) < count and apart > 1:
        for number in range(len(places)):
            if len(kept) == count:
                break
            if all((places[number] - places[other]).norm() >= apart for other in kept):
                kept.append(number)
        apart *= 0.7
    chosen = torch.tensor(sorted(kept), dtype=torch.int64)
    return Matches(*(value[chosen] for value in matches))


def _patches(features: Tensor, where: Tensor | None) -> tuple[Tensor, Tensor]:
    """Patches (N, C) of length 1 that take part, and their rows and columns (N, 2)."""
    grid = features.shape[-2:]
    if where is None:
        where = torch.ones(grid, dtype=torch.bool)
    if where.shape != grid:
        raise ValueError(
            f"the mask is {tuple(where.shape)} but the features have {tuple(grid)} patches (h, w)"
        )
    places = where.cpu().nonzero()
    chosen = features.float().permute(1, 2, 0)[where.to(features.device)]
    return F.normalize(chosen, dim=-1), places
