"""Masks of objects, read from pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from radio.errors import ImageError
from radio.images.opening import open_image, reason
from radio.wording import counted

LARGEST_LABELS = 64
"""How many labels a mask may have."""


def read_object_mask(path: str | Path) -> Tensor:
    """The labels of a mask: every color of the picture is one, the first is the background.

    A picture with a palette (as those of DAVIS) or in gray keeps the order of its numbers; in a colored one the darkest
    color is 0.

    Args:
        path: A picture without losses, such as a PNG.

    Returns:
        (H, W) int64 from 0 to K - 1.

    Raises:
        ImageError: It cannot be read, or it has one color only, or more than `LARGEST_LABELS`.
    """
    with open_image(path) as picture:
        try:
            plain = picture if picture.mode in ("1", "L", "P", "I", "I;16") else picture.convert("RGB")
            values = np.asarray(plain).astype(np.int64)
        except (OSError, ValueError) as error:
            raise ImageError(f"the mask {str(path)!r} is damaged: {reason(error)}") from error
    if values.ndim == 3:  # the sum of the channels first, so that black is the lowest
        values = (values.sum(axis=-1) << 24) + (values @ np.array([1 << 16, 1 << 8, 1]))
    found, labels = np.unique(values, return_inverse=True)
    if not 2 <= len(found) <= LARGEST_LABELS:
        raise ImageError(
            f"the mask {str(path)!r} has {counted(len(found), 'color')}; it needs one for the background and one for "
            f"each object, at most {LARGEST_LABELS}, without the blends of a JPEG or of smoothed borders"
        )
    return torch.from_numpy(labels.reshape(values.shape))
