"""A picture of a segmentation: colors over the gray image, and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hsv_to_rgb

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from radio.images import ImageInput, load_image

_LARGEST_LETTERS = 36
LUMA = (0.299, 0.587, 0.114)
"""How much red, green and blue count for the gray of a picture (ITU-R BT.601)."""


def draw_segmentation(
    image: ImageInput, label: Tensor, names: Sequence[str], opacity: float = 0.55
) -> Image.Image:
    """A picture of a segmentation: colors over the gray image, lines between regions, a legend below.

    Args:
        image: The image that was segmented, as `radio.images.load_image` takes it.
        label: ``(H, W)`` int64 for the same height and width.
        names: The labels' names; each gets its color, and its share of the pixels stands in the legend.
        opacity: How much the colors cover the gray image, in [0, 1].

    Raises:
        ImageError: The image cannot be read.
        ValueError: Image and labels differ in size, or the opacity is outside [0, 1].
    """
    pixels = load_image(image)
    height, width = pixels.shape[-2:]
    if label.shape != (height, width):
        raise ValueError(f"the image is {height} x {width} but the labels are {tuple(label.shape)}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in [0, 1], got {opacity}")
    label = label.cpu()
    colors = torch.tensor(palette(len(names)), dtype=torch.float32)
    gray = (pixels.cpu() * torch.tensor(LUMA)[:, None, None]).sum(dim=0) * 255
    mixed = gray[..., None] * (1 - opacity) + colors[label] * opacity
    unlabeled = label < 0
    mixed[unlabeled] = gray[unlabeled][:, None]
    mixed[borders(label)] = 255
    overlay = Image.frombytes("RGB", (width, height), mixed.round().byte().numpy().tobytes())
    shares = torch.bincount(label[~unlabeled], minlength=len(names)) / label.numel()
    entries = [f"{name}  {share:.0%}" for name, share in zip(names, shares.tolist(), strict=True)]
    return with_legend(overlay, entries)


def palette(count: int) -> list[tuple[int, int, int]]:
    """Colors that are easy to tell apart: hues a golden angle apart, in three brightnesses by turns."""
    golden = 0.618034
    styles = ((0.78, 0.95), (0.55, 1.0), (0.9, 0.68))
    colors = []
    for i in range(count):
        saturation, value = styles[i % 3]
        red, green, blue = hsv_to_rgb((0.02 + i * golden) % 1, saturation, value)
        colors.append((round(red * 255), round(green * 255), round(blue * 255)))
    return colors


def borders(label: Tensor) -> Tensor:
    """Pixels of labels or masks (..., H, W) whose right or lower neighbor has another one."""
    border = torch.zeros_like(label, dtype=torch.bool)
    border[..., :-1, :] |= label[..., :-1, :] != label[..., 1:, :]
    border[..., :-1] |= label[..., :-1] != label[..., 1:]
    return border


def with_legend(picture: Image.Image, entries: Sequence[str]) -> Image.Image:
    """A picture with its legend below: a line for each color of `palette`, in their order."""
    legend = _legend(picture.width, entries)
    result = Image.new("RGB", (max(picture.width, legend.width), picture.height + legend.height), "white")
    result.paste(picture, (0, 0))
    result.paste(legend, (0, picture.height))
    return result


def _legend(width: int, entries: Sequence[str]) -> Image.Image:
    """Colored squares with words, in as many rows as they need; wider than asked if one entry is."""
    size = min(max(round(width / 40), 12), _LARGEST_LETTERS)
    font = ImageFont.load_default(size)
    gap, row = size // 2, round(size * 1.7)
    places, left, top, widest = [], gap, gap, 0
    for entry in entries:
        length = round(size + gap + font.getlength(entry) + 2 * gap)
        if left > gap and left + length > width:
            left, top = gap, top + row
        places.append((left, top))
        left += length
        widest = max(widest, left)
    legend = Image.new("RGB", (max(width, widest + gap), top + row), "white")
    canvas = ImageDraw.Draw(legend)
    for entry, color, (x, y) in zip(entries, palette(len(entries)), places, strict=True):
        canvas.rectangle((x, y, x + size, y + size), fill=color, outline=(90, 90, 90))
        canvas.text((x + size + gap, y + size / 2), entry, fill=(20, 20, 20), font=font, anchor="lm")
    return legend
