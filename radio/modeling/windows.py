"""ViTDet windows: where the patches go, and which blocks see only their window.

Source: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (2022), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from einops import rearrange
from torch import Tensor

from radio.modeling.outputs import Grid


@dataclass(frozen=True)
class Windows:
    """The side of the windows in patches, and for every block whether it is windowed."""

    side: int
    schedule: tuple[bool, ...]


def window_schedule(
    depth: int, num_global: int | None = None, num_windowed: int | None = None
) -> tuple[bool, ...]:
    """Which blocks are windowed.

    Args:
        depth: Number of blocks.
        num_global: Number of groups that end in a global block; 4 by default.
        num_windowed: Number of windowed blocks between two global ones; takes precedence over `num_global`.

    Returns:
        One flag per block, True for windowed. The last block is always global.

    Raises:
        ValueError: A number is not positive.
    """
    for name, value in (("num_global", num_global), ("num_windowed", num_windowed)):
        if value is not None and value < 1:
            raise ValueError(f"vitdet_{name} must be at least 1, got {value}")
    period = num_windowed + 1 if num_windowed else max(depth // (num_global or 4), 1)
    flags, windowed = [], False
    for i in range(depth - 1):
        if i % period == 0:
            windowed = True
        if i % period == period - 1:
            windowed = False
        flags.append(windowed)
    return (*flags, False)


def to_window_order(patches: Tensor, grid: Grid, side: int) -> Tensor:
    """Reorder patches (B, h·w, C) from raster order to window after window, raster within each."""
    h, w = grid[0] // side, grid[1] // side
    return rearrange(patches, "b (h p w q) c -> b (h w p q) c", h=h, w=w, p=side, q=side)


def to_raster_order(patches: Tensor, grid: Grid, side: int) -> Tensor:
    """Undo `to_window_order`."""
    h, w = grid[0] // side, grid[1] // side
    return rearrange(patches, "b (h w p q) c -> b (h p w q) c", h=h, w=w, p=side, q=side)
