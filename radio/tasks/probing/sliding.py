"""Images that are larger than those of the training, in crops that overlap.

Source: the evaluation of DINOv2 (arXiv 2304.07193, section 7.4), which slides windows of the size of the training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from radio.images import SizeSpec
from radio.model import RADIOModel
from radio.tasks.probing.config import refuse_crop
from radio.tasks.windows import check_window, crop_corners, default_stride, least_size

_CROPS_AT_ONCE = 4


@dataclass(frozen=True)
class SlidingWindows:
    """How an image is cut.

    Attributes:
        window: Side of the square crops in pixels, best the size at which the head was trained.
        stride: Distance of neighboring crops in pixels; by default two thirds of the window.
        size: The size at which the image is cut, as in `radio.images.target_size`. By default its own, but the short
            side at least the window.

    Raises:
        ValueError: The size would crop the image.
    """

    window: int
    stride: int | None = None
    size: SizeSpec = None

    def __post_init__(self) -> None:
        refuse_crop(self.size)


@torch.no_grad()
def sliding_maps(
    model: RADIOModel, head: Callable[[list[Tensor]], Tensor], pixels: Tensor, windows: SlidingWindows
) -> Tensor:
    """What a head gives for an image in crops: where these overlap, the mean.

    Args:
        model: Whose features the head takes.
        head: Gives maps (B, K, h, w) for B crops (3, H, W) in [0, 1]; their h and w are the crop's in patches, or
            a multiple.
        pixels: (3, H, W) in [0, 1].
        windows: How it is cut.

    Returns:
        (K, h', w') of the whole image, on the device of the head's maps.

    Raises:
        ValueError: A window, stride or size does not fit the model.
    """
    check_window(model, windows.window, windows.stride)
    size = windows.size
    if size is None:
        size = least_size(pixels.shape[-2], pixels.shape[-1], windows.window, model.max_resolution)
    image = model.resize(pixels, size)
    patch = model.patch_size
    height, width = image.shape[-2:]
    window = min(windows.window, height), min(windows.window, width)
    stride = windows.stride or default_stride(windows.window, patch)
    corners = crop_corners(height, width, window, stride)
    total, count = None, None
    for start in range(0, len(corners), _CROPS_AT_ONCE):
        batch = corners[start : start + _CROPS_AT_ONCE]
        maps = head([image[:, top : top + window[0], left : left + window[1]] for top, left in batch])
        finer = maps.shape[-2] * patch // window[0]
        if total is None or count is None:
            total = maps.new_zeros(maps.shape[1], height // patch * finer, width // patch * finer)
            count = maps.new_zeros(total.shape[1:])
        for found, (top, left) in zip(maps, batch, strict=True):
            rows = slice(top // patch * finer, top // patch * finer + found.shape[-2])
            columns = slice(left // patch * finer, left // patch * finer + found.shape[-1])
            total[:, rows, columns] += found
            count[rows, columns] += 1
    assert total is not None and count is not None
    return total / count
