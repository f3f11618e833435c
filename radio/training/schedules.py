"""What changes from step to step: image sizes, ViTDet windows, the learning rate. All pure functions of the step."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

VITDET_WINDOWS = (6, 7, 8, 9, 12, 16)
"""Sides of ViTDet windows, in patches, that RADIO draws from in training (RADIOv2.5, section 3)."""

LOW_SIZES = (128, 192, 224, 256, 384, 432)
HIGH_SIZES = (512, 768, 1024, 1152)
"""Random student sizes of C-RADIOv4, in pixels."""


def chance(seed: int, *numbers: int) -> random.Random:
    """A source of chance that depends on these numbers alone, so that a step can be repeated."""
    return random.Random(":".join(map(str, (seed, *numbers))))


def draw_size(sizes: Sequence[int], seed: int, step: int) -> int:
    """The student's image size at a step, in pixels; each is as likely."""
    return chance(seed, step, 1).choice(list(sizes))


def draw_window(
    windows: Sequence[int], size: int, patch_size: int, seed: int, step: int
) -> tuple[int | None, int]:
    """ViTDet augmentation: a random window for a batch, and the image size that is made of whole windows.

    Args:
        windows: Sides to draw from, in patches; no windows if empty.
        size: The wanted image size, in pixels.
        patch_size: In pixels.
        seed, step: Where chance comes from.

    Returns:
        The side of the windows, or None, and the nearest image size that they divide, at least one window.
    """
    if not windows:
        return None, size
    window = chance(seed, step, 2).choice(list(windows))
    whole = window * patch_size
    return window, max(1, round(size / whole)) * whole


def cosine_rate(step: int, steps: int, warmup: int = 0) -> float:
    """The factor of the learning rate within a stage: linear warm-up, then cosine to zero (restarted each stage)."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
