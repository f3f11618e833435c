"""Large images in square crops that overlap: where they lie."""

from __future__ import annotations

from radio.images import SizeSpec
from radio.modeling.network import RADIONetwork


def check_window(model: RADIONetwork, window: int | None, stride: int | None) -> None:
    """Refuse crops that a model cannot run on.

    Raises:
        ValueError: The window is not a multiple of the model's step, or the stride not one of its patch size, or larger
            than the window.
    """
    step = model.min_resolution_step
    if window is not None and (window < step or window % step):
        raise ValueError(f"window must be a multiple of {step} pixels for this model, got {window}")
    if stride is not None and (stride < 1 or stride % model.patch_size or stride > (window or stride)):
        raise ValueError(
            f"stride must be a multiple of {model.patch_size} pixels, at most the window, got {stride}"
        )


def default_stride(window: int, patch_size: int) -> int:
    """Two thirds of the window, in whole patches, as in DINOv2's evaluation (arXiv 2304.07193)."""
    return max(round(window * 2 / 3 / patch_size), 1) * patch_size


def crop_corners(height: int, width: int, window: tuple[int, int], stride: int) -> list[tuple[int, int]]:
    """The upper left corners (top, left) of crops of a height and width, which cover an image at least as large."""
    return [
        (top, left)
        for top in _starts(height, window[0], stride)
        for left in _starts(width, window[1], stride)
    ]


def least_size(height: int, width: int, short_side: int, max_side: int) -> SizeSpec:
    """An image's own size, but a short side of at least so many pixels, as far as the largest side allows."""
    enlarged = max(height, width) * short_side <= min(height, width) * max_side
    return short_side if min(height, width) < short_side and enlarged else None


def _starts(length: int, window: int, step: int) -> list[int]:
    """Where windows begin along one side: every step, and one that ends at the border."""
    starts = list(range(0, length - window, step))
    return [*starts, length - window]
