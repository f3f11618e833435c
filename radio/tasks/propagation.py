"""A mask of a video's first frame carried through the video, by the similarity of patches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def propagate_labels(
    features: Iterable[Tensor],
    mask: Tensor,
    context: int = 7,
    radius: int = 12,
    neighbors: int = 5,
    temperature: float = 0.1,
) -> Iterator[Tensor]:
    """Labels of every frame, from those of the first.

    The protocol by which DINO is measured on DAVIS (Jabri et al. 2020, "Space-Time Correspondence as a Contrastive
    Random Walk", arXiv 2006.14613; Caron et al. 2021, arXiv 2104.14294), with its settings: every patch takes the
    labels of its most similar patches nearby, in the first frame and in the last few. Nothing is trained. Memory does
    not grow with the length of the video.

    Args:
        features: (C, h, w) of each frame, one grid for all.
        mask: (H, W) of whole numbers, of the first frame: 0 is the background, 1 to K - 1 are objects.
        context: Frames before this one that are looked at, besides the first.
        radius: How far away, in rows and columns of patches, similar patches are looked for.
        neighbors: How many of them give their labels.
        temperature: Of the softmax over their similarities; the lower, the more the most similar counts.

    Yields:
        For each frame (K, h, w) float32 on the CPU, how much of each patch is of each label; they add up to 1. For the
        first frame that is the mask itself. `labels_at_size` makes labels of pixels of it.

    Raises:
        ValueError: The mask is no mask, a setting is below 1 or a temperature of 0 or less, or the grids differ.
    """
    if mask.ndim != 2 or mask.is_floating_point() or mask.is_complex() or int(mask.min()) < 0:
        raise ValueError(
            f"expected a mask (H, W) of whole numbers from 0, got {tuple(mask.shape)} {mask.dtype}"
        )
    for name, value in (("context", context), ("radius", radius), ("neighbors", neighbors)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    first: tuple[Tensor, Tensor] | None = None
    recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=context)
    near: Tensor | None = None
    for frame in features:
        patches = F.normalize(frame.detach().float().flatten(1).T, dim=-1)
        grid = (frame.shape[-2], frame.shape[-1])
        if first is None or near is None:
            labels = _by_patches(mask, grid).to(patches.device)
            first, near, shape = (patches, labels), _near(grid, radius).to(patches.device), grid
        elif grid != shape:
            raise ValueError(
                f"the frames must be of one size, got grids of {shape} and {grid} patches (h, w)"
            )
        else:
            labels = _from_others(patches, [first, *recent], near, neighbors, temperature)
            recent.append((patches, labels))
        yield labels.T.unflatten(-1, grid).cpu()


def labels_at_size(shares: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels of pixels from how much of each patch is of each label.

    Args:
        shares: (K, h, w), as `propagate_labels` yields them.
        size: Height and width of the frame.

    Returns:
        (H, W) int64.
    """
    return F.interpolate(shares[None], size, mode="bilinear", align_corners=False)[0].argmax(dim=0)


def _by_patches(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """How much of each patch is of each label: (L, K)."""
    one_hot = F.one_hot(mask.cpu().long(), int(mask.max()) + 1).permute(2, 0, 1).float()
    return F.interpolate(one_hot[None], grid, mode="area")[0].flatten(1).T


def _near(grid: tuple[int, int], radius: int) -> Tensor:
    """Which patches are near which: (L, L) bool."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=-1)
    return (places[:, None] - places[None]).abs().amax(dim=-1) <= radius


def _from_others(
    patches: Tensor, frames: list[tuple[Tensor, Tensor]], near: Tensor, neighbors: int, temperature: float
) -> Tensor:
    """Labels (L, K) of patches (L, C) from those of other frames, one frame at a time for the memory's sake."""
    similarities, labels = [], []
    for others, their_labels in frames:
        similarity = (patches @ others.T).masked_fill(~near, -torch.inf)
        best, where = similarity.topk(min(neighbors, len(others)), dim=1)
        similarities.append(best)
        labels.append(their_labels[where])
    best, where = torch.cat(similarities, dim=1).topk(similarities[0].shape[1], dim=1)
    chosen = torch.cat(labels, dim=1).gather(1, where[..., None].expand(-1, -1, labels[0].shape[-1]))
    return torch.einsum("ln,lnk->lk", (best / temperature).softmax(dim=1), chosen)
