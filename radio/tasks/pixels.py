"""From maps of patches to labels of pixels, without a map of every label at the size of the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_NUMBERS_AT_ONCE = 2**26
"""A quarter of a gigabyte in float32."""


def enlarge(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps (B, K, h, w) at another size, bilinear."""
    return F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)


def maps_at_once(height: int, width: int) -> int:
    """How many maps of a size are made together; at least one."""
    return max(_NUMBERS_AT_ONCE // (height * width), 1)


def best_labels(
    maps: Tensor, height: int, width: int, scale: float | None = None
) -> tuple[Tensor, Tensor | None]:
    """The best of K labels at every pixel, from a few enlarged maps at a time.

    Args:
        maps: (K, h, w), what each patch has for each label.
        height, width: Of the image.
        scale: Of the softmax that gives the best label's share; None for no shares.

    Returns:
        (height, width) int64, the number of the label whose enlarged map is highest, of equal ones the first; and
        (height, width) float32, its share of a softmax over all labels.
    """
    count = maps_at_once(height, width)
    value, label = None, None
    for start in range(0, len(maps), count):
        part, found = enlarge(maps[None, start : start + count], height, width)[0].max(dim=0)
        if value is None or label is None:
            value, label = part, found
            continue
        better = part > value
        label = torch.where(better, found + start, label)
        value = torch.where(better, part, value)
    assert value is not None and label is not None
    if scale is None:
        return label, None
    total = torch.zeros_like(value)
    for start in range(0, len(maps), count):
        part = enlarge(maps[None, start : start + count], height, width)[0]
        total += ((part - value) * scale).exp().sum(dim=0)
    return label, 1 / total
