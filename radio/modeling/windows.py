"""ViTDet windows: where the patches go, and which blocks see only their window.

Source: Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection" (2022), section 3.
"""

from __future__ import annotations

from torch import Tensor


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


def to_window_order(patches: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Reorder patches (B, h·w, C) from raster order to window after window, raster within each."""
    batch, _, dim = patches.shape
    h, w = grid
    patches = patches.reshape(batch, h // side, side, w // side, side, dim).transpose(2, 3)
    return patches.reshape(batch, h * w, dim)


def to_raster_order(patches: Tensor, grid: tuple[int, int], side: int) -> Tensor:
    """Undo `to_window_order`."""
    batch, _, dim = patches.shape
    h, w = grid
    patches = patches.reshape(batch, h // side, w // side, side, side, dim).transpose(2, 3)
    return patches.reshape(batch, h * w, dim)
