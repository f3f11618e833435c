"""From features to the numbers that the page draws: small maps at the resolution of the patches."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from radio.modeling.token_merging import TokenMerging
from radio.tasks.foreground import foreground_mask
from radio.tasks.matching import best_buddies, spread_out
from radio.tasks.mode_switching import resample
from radio.tasks.pca import PCAAccumulator, PCAFit

MOST_PAIRS = 24
"""Pairs of patches that are drawn between two photographs."""


def unit_halves(features: Tensor) -> bytes:
    """Features (C, h, w) as vectors of length 1, patch after patch, little-endian float16: C numbers for each patch.

    The page multiplies them with each other: cosine similarities, to about three digits.
    """
    unit = F.normalize(features.flatten(1), dim=0).T.contiguous()
    return unit.half().numpy().astype("<f2").tobytes()


def colors(maps: Sequence[Tensor], only_foreground: bool = False) -> list[dict[str, Any]]:
    """Colors of features (C, h, w) that share one PCA.

    Args:
        maps: Of several photographs or sizes.
        only_foreground: Fit on the foreground and leave the rest black.

    Returns:
        For each map its grid and ``rgb``, (h, w, 3) uint8.
    """
    if not only_foreground:
        fit = _fit(maps)
        return [_packed("rgb", fit.to_rgb(each).permute(1, 2, 0)) for each in maps]
    masks = [foreground_mask(_fit([each]), each) for each in maps]
    fit = _fit([each[:, mask][..., None] for each, mask in zip(maps, masks, strict=True)])
    painted = [fit.to_rgb(each) * mask for each, mask in zip(maps, masks, strict=True)]
    return [_packed("rgb", each.permute(1, 2, 0)) for each in painted]


def foreground(features: Tensor) -> dict[str, Any]:
    """What stands out from the ground, by the first principal component of features (C, h, w).

    Returns:
        The grid, ``mask`` (255 is foreground) and ``share``: of the patches that are foreground.
    """
    mask = foreground_mask(_fit([features]), features)
    return _packed("mask", mask.float()) | {"share": float(mask.float().mean())}


def heads(attention: Tensor) -> dict[str, Any]:
    """Attention (heads, h, w) of one token: the mean over the heads, then every head, each on a scale from 0 to its
    largest value."""
    every = torch.cat([attention.mean(dim=0, keepdim=True), attention])
    largest = every.amax(dim=(1, 2)).clamp_min(1e-12)
    return {
        "grid": list(attention.shape[-2:]),
        "maps": [_bytes(one / most) for one, most in zip(every, largest, strict=True)],
        "largest": largest.tolist(),
    }


def matches(first: Tensor, second: Tensor) -> dict[str, Any]:
    """Patches of two maps (C, h, w) that are each other's most similar one.

    Returns:
        ``count``: all such pairs; ``pairs``: the best of them that lie apart, each with the numbers of both patches in
        reading order and their cosine similarity.
    """
    found = best_buddies(first, second)
    shown = spread_out(found, MOST_PAIRS, (first.shape[-2], first.shape[-1]))
    numbers = [
        (places * torch.tensor([each.shape[-1], 1])).sum(dim=1).tolist()
        for places, each in ((shown.first, first), (shown.second, second))
    ]
    pairs = zip(*numbers, shown.similarity.tolist(), strict=True)
    return {"count": len(found.similarity), "pairs": [list(pair) for pair in pairs]}


def scaled(name: str, values: Tensor) -> dict[str, Any]:
    """Values (..., h, w) as bytes from their least to their largest, which are told."""
    low, high = float(values.min()), float(values.max())
    content = _bytes((values - low) / max(high - low, 1e-12))
    return {"grid": list(values.shape[-2:]), name: content, "low": low, "high": high}


def merged(features: Tensor, keep: int) -> dict[str, Any]:
    """Which patches merge, and what is lost.

    Args:
        features: (C, h, w).
        keep: Tokens that stay.

    Returns:
        The grid, ``token``: the number of each patch's token, in reading order; ``count``: tokens; ``error``: the
        squared error of the patches' features when every patch gets its token's, as a share of their variance;
        ``cosine``: the mean similarity of both.

    Raises:
        ValueError: The grid cannot have so few tokens, or has not so many.
    """
    grid = (features.shape[-2], features.shape[-1])
    patches = features.flatten(1).T[None]
    tokens = TokenMerging(keep=keep)(patches, grid)
    restored = tokens.plan.unmerge(tokens.features)
    spread = (patches - patches.mean(dim=1, keepdim=True)).square().sum().clamp_min(1e-12)
    return {
        "grid": list(grid),
        "token": tokens.plan.assignment[0].tolist(),
        "count": tokens.features.shape[1],
        "error": float((patches - restored).square().sum() / spread),
        "cosine": float(F.cosine_similarity(patches, restored, dim=-1).mean()),
    }


def likeness_over_sizes(maps: Sequence[Tensor]) -> list[float]:
    """The mean cosine similarity of features (C, h, w) with the last of them, on each one's own grid."""
    reference = maps[-1]
    return [
        float(F.cosine_similarity(each, resample(reference, (each.shape[-2], each.shape[-1])), dim=0).mean())
        for each in maps
    ]


def _fit(maps: Sequence[Tensor]) -> PCAFit:
    accumulator = PCAAccumulator()
    for each in maps:
        accumulator.add(each)
    return accumulator.fit()


def _packed(name: str, values: Tensor) -> dict[str, Any]:
    """Values in [0, 1] as bytes in base64, with the grid (the first two sides)."""
    return {"grid": list(values.shape[:2]), name: _bytes(values)}


def _bytes(values: Tensor) -> str:
    """Values in [0, 1] as bytes in base64."""
    content = (values.clamp(0, 1) * 255).round().byte().contiguous().numpy().tobytes()
    return b64encode(content).decode("ascii")
