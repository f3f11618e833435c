"""Where a student's and a teacher's features meet: on one grid of positions."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def match_grids(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Bring both feature maps of the same view to the coarser grid, bilinearly (RADIOv2.5, section 3.2).

    Args:
        student: (B, C, h, w).
        teacher: (B, C', h', w').

    Returns:
        Both as (B, ·, min(h, h'), min(w, w')).
    """
    grid = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return _resample(student, grid), _resample(teacher, grid)


def _resample(features: Tensor, grid: tuple[int, int]) -> Tensor:
    if tuple(features.shape[2:]) == grid:
        return features
    return F.interpolate(features, grid, mode="bilinear", align_corners=False)


class Box(NamedTuple):
    """A part of an image, in shares of its height and width."""

    top: float
    left: float
    bottom: float
    right: float


def shifted_box(size: int, step: int, most: int, generator: torch.Generator) -> tuple[int, int, int, Box]:
    """A random crop of `size` px for shift equivariance (C-RADIOv4): offsets are whole patches.

    Args:
        size: Side of the crop, in pixels.
        step: Patch size or stride, in pixels.
        most: The largest offset, in patches.
        generator: Where chance comes from.

    Returns:
        The side that the whole image is resized to, the crop's top and left in it, and the same as a `Box`.
    """
    whole = size + most * step
    top, left = (int(torch.randint(most + 1, (), generator=generator)) * step for _ in range(2))
    return whole, top, left, Box(top / whole, left / whole, (top + size) / whole, (left + size) / whole)


def align(student: Tensor, seen: Box, teacher: Tensor, taught: Box) -> tuple[Tensor, Tensor]:
    """The student's features at the teacher's positions, where both saw the image.

    Args:
        student: (B, C, h, w) of the part `seen` of the image.
        seen: What the student saw.
        teacher: (B, C', h', w') of the part `taught`.
        taught: What the teacher saw.

    Returns:
        (B, C, h', w'), sampled bilinearly, and a mask (B, h', w') that is true where the centers of the teacher's
        positions lie inside of what the student saw, at least half a student's position from its edge.
    """
    batch, _, rows, columns = teacher.shape
    y = _centers(rows, taught.top, taught.bottom, seen.top, seen.bottom, teacher)
    x = _centers(columns, taught.left, taught.right, seen.left, seen.right, teacher)
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).expand(batch, -1, -1, -1)
    sampled = F.grid_sample(
        student.float(), points, mode="bilinear", padding_mode="border", align_corners=False
    )
    slack = 1e-4
    inside_y = y.abs() <= 1 - 1 / student.shape[2] + slack
    inside_x = x.abs() <= 1 - 1 / student.shape[3] + slack
    return sampled, (inside_y[:, None] & inside_x).expand(batch, -1, -1)


def _centers(count: int, first: float, last: float, low: float, high: float, like: Tensor) -> Tensor:
    """Centers of `count` positions from `first` to `last`, where -1 and 1 are the edges `low` and `high`."""
    share = (torch.arange(count, device=like.device, dtype=torch.float32) + 0.5) / count
    place = first + share * (last - first)
    return (place - low) / (high - low) * 2 - 1
