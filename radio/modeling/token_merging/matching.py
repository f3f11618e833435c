"""Bipartite soft matching on a grid: which token merges into which."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from radio.modeling.outputs import Grid
from radio.modeling.token_merging.counts import Stride, num_destinations

Order = Literal["raster", "classic"]
ORDERS = ("raster", "classic")


class Split(NamedTuple):
    """Token indices of the two sides of the matching: `sources` (S,) and `destinations` (D,), S + D =
    L."""

    sources: Tensor
    destinations: Tensor


def split_grid(
    grid: Grid,
    stride: Stride,
    device: torch.device,
    random_destinations: bool = False,
    generator: torch.Generator | None = None,
) -> Split:
    """One destination in every cell of the grid, all other tokens are sources.

    A cell that the border cuts off has a destination too, so that any stride suits any grid.

    Args:
        grid: Rows and columns of tokens.
        stride: Rows and columns of a cell.
        device: Where the indices are wanted.
        random_destinations: Draw the destination uniformly from its cell; otherwise it is the top-left token.
        generator: Source of randomness for `random_destinations`.
    """
    height, width = grid
    top = torch.arange(0, height, stride[0], device=device)[:, None]
    left = torch.arange(0, width, stride[1], device=device)[None, :]
    if random_destinations:
        draw_on = device if generator is None else generator.device
        share = torch.rand((2, top.shape[0], left.shape[1]), generator=generator, device=draw_on).to(device)
        top = top + (share[0] * (height - top).clamp(max=stride[0])).long()
        left = left + (share[1] * (width - left).clamp(max=stride[1])).long()
    destinations = (top * width + left).flatten()
    is_destination = torch.zeros(height * width, dtype=torch.int64, device=device).index_fill(
        0, destinations, 1
    )
    sources = is_destination.argsort(stable=True)[: height * width - num_destinations(grid, stride)]
    return Split(sources, destinations)


def match(metric: Tensor, split: Split, keep: int, order: Order) -> Tensor:
    """Merge the most similar (source, destination) pairs until `keep` tokens are left.

    Each source finds the destination with the largest cosine similarity; the `L - keep` sources with the
    largest of these similarities merge, the others stay. Equal similarities go to the lower index. The
    similarity is computed in float32 (float64 for a float64 metric), whatever autocast says, and takes no
    gradient.

    Args:
        metric: (B, L, C), any floating dtype.
        split: The two sides, of L tokens together.
        keep: Number of tokens that stay; at least the number of destinations.
        order: `"raster"`: the tokens that stay are numbered by their index in the input. `"classic"`:
            first the sources that stay, from the most to the least similar, then the destinations, as in the
            ToMe code.

    Returns:
        (B, L) int64: the number, from 0 to keep - 1, of the token that each input token ends up in.

    Source: ToMe (Bolya et al. 2022, arXiv 2210.09461, section 3); the split on cells follows ToMeSD (Bolya &
    Hoffman 2023, arXiv 2303.17604).
    """
    sources, destinations = split
    batch, length, _ = metric.shape
    merged = length - keep
    with torch.autocast(metric.device.type, enabled=False):
        metric = metric.detach()
        unit = F.normalize(metric.to(torch.promote_types(metric.dtype, torch.float32)), dim=-1)
        similarity = unit[:, sources] @ unit[:, destinations].transpose(1, 2)
    best, nearest = similarity.max(dim=2)
    ranking = best.argsort(dim=1, descending=True, stable=True)
    going, staying = ranking[:, :merged], ranking[:, merged:]
    going_tokens, going_to = sources[going], nearest.gather(1, going)

    if order == "raster":
        stays = torch.ones((batch, length), dtype=torch.int64, device=metric.device).scatter(
            1, going_tokens, 0
        )
        number = stays.cumsum(dim=1) - 1
    else:
        number = torch.empty((batch, length), dtype=torch.int64, device=metric.device)
        counted = torch.arange(keep, device=metric.device)
        number[:, destinations] = counted[staying.shape[1] :]
        number = number.scatter(1, sources[staying], counted[: staying.shape[1]].expand_as(staying))
    return number.scatter(1, going_tokens, number.gather(1, destinations[going_to]))
