"""Pixel values: finite and in [0, 1], or an error that says which mistake they look like."""

from __future__ import annotations

import sys
import warnings

import torch
from torch import Tensor

from radio.errors import ImageError

_ROUNDING = 1e-4
_OVERSHOOT = 0.25
_NORMALIZED = 10.0
_FOURTEEN_BITS = 2**14


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


def warn_of_few_bits(highest: int, source: str, how: str = "16 bits per pixel") -> None:
    """Warn about values that were made for 10, 12 or 14 bits and stand in 16, as those of cameras and scanners do: the
    picture is nearly black.

    Args:
        highest: The largest value; on a scale up to 65535.
        source: What the pixels are, for the message.
        how: How they are stored.
    """
    if 255 < highest < _FOURTEEN_BITS:
        bits = next(bits for bits in (10, 12, 14) if highest < 2**bits)
        warnings.warn(
            f"{source} has {how}, but no value above {highest}: it looks like {bits}-bit data and "
            f"comes out nearly black. If so, pass the array divided by {2**bits - 1}",
            stacklevel=_frames_to_caller(),
        )


def _frames_to_caller() -> int:
    """Frames from `warnings.warn` to the code that gave the image."""
    frame, count = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "radio":
        frame, count = frame.f_back, count + 1
    return count


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
    if lowest >= 0 and highest <= 256:
        return "That looks like 0…255: divide by 255, or make it 8-bit (uint8)"
    for bits in (10, 12, 14):
        if lowest >= 0 and highest < 2**bits and highest > 256:
            return f"That looks like {bits}-bit values: divide by {2**bits - 1}"
    if lowest >= 0 and highest <= 65535:
        return "That looks like 16-bit values: divide by 65535, or make it 16-bit (uint16)"
    return "Scale the values to [0, 1], where 0 is black and 1 is full intensity"
