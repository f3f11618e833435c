"""Pixel values: finite and in [0, 1], or an error that says which mistake they look like."""

from __future__ import annotations

import torch
from torch import Tensor

from radio.errors import ImageError

_ROUNDING = 1e-4
_OVERSHOOT = 0.25
_NORMALIZED = 10.0


def check_range(pixels: Tensor, source: str = "the image") -> Tensor:
    """Check that pixels are finite and in [0, 1].

    Args:
        pixels: Floating point, any shape that is not empty.
        source: What the pixels are, for the message.

    Returns:
        The same tensor; a clamped copy if values leave [0, 1] by rounding errors only (up to 1e-4).

    Raises:
        ImageError: Values are NaN, infinite or outside of [0, 1]; the message says what the values look like
            (already normalized, 0…255, 0…65535, overshoot of a resize) and what to do.
    """
    lowest, highest = (bound.item() for bound in torch.aminmax(pixels.detach()))
    if not torch.isfinite(torch.tensor([lowest, highest])).all():
        raise ImageError(
            f"{source} has values that are NaN or infinite; pixels must be finite numbers in [0, 1]. "
            "Look for a division by zero or an overflow where it was made"
        )
    if lowest >= 0 and highest <= 1:
        return pixels
    if lowest >= -_ROUNDING and highest <= 1 + _ROUNDING:
        return pixels.clamp(0, 1)
    raise ImageError(
        f"{source} has values from {lowest:.4g} to {highest:.4g}, outside of [0, 1]. {_mistake(lowest, highest)}"
    )


def _mistake(lowest: float, highest: float) -> str:
    if lowest >= -_OVERSHOOT and highest <= 1 + _OVERSHOOT:
        return "That looks like the overshoot of a bicubic or Lanczos resize: clamp it, image.clip(0, 1)"
    if -1 <= lowest < 0 and highest <= 1:
        return (
            "That looks like an image that was normalized to [-1, 1]: undo it, (image + 1) / 2. "
            "The model normalizes by itself"
        )
    if -_NORMALIZED <= lowest < 0 and highest <= _NORMALIZED:
        return (
            "That looks like an image that was already normalized by a mean and standard deviation: leave that step "
            "out. The model normalizes by itself"
        )
    if lowest >= 0 and highest <= 255:
        return "That looks like 0…255: divide by 255, or make it 8-bit (uint8)"
    if lowest >= 0 and highest <= 65535:
        return "That looks like 16-bit values: divide by 65535, or make it 16-bit (uint16)"
    return "Scale the values to [0, 1], where 0 is black and 1 is full intensity"
