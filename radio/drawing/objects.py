"""Labeled objects over a picture, such as a frame of a video."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

from radio.drawing.segmentation import borders, palette


def draw_objects(picture: Image.Image, labels: Tensor, opacity: float = 0.55) -> Image.Image:
    """Objects in their colors over a picture, with a bright line around them.

    Args:
        picture: RGB.
        labels: (H, W) int64 of the same height and width; 0 is the background and has no color.
        opacity: Of the colors, in [0, 1].
    """
    colors = np.array([(0, 0, 0), *palette(max(int(labels.max()), 1))], dtype=np.float32)
    numbers = labels.numpy()
    pixels = np.asarray(picture.convert("RGB")).astype(np.float32)
    strength = np.where(numbers > 0, opacity, 0.0)[..., None].astype(np.float32)
    mixed = pixels * (1 - strength) + colors[numbers] * strength
    mixed[borders(labels).numpy()] = 255
    return Image.fromarray(mixed.round().astype(np.uint8))
