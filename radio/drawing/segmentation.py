"""A picture of a segmentation: colors over the gray image, and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from colorsys import hsv_to_rgb
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from radio.images import ImageInput, load_image

SMALL_SHARE = 0.005
"""Labels with less of an image share a line."""

_LARGEST_LETTERS = 36
_INK = (20, 20, 20)
_FAINT = (110, 110, 110)
LUMA = (0.299, 0.587, 0.114)
"""How much red, green and blue count for the gray of a picture (ITU-R BT.601)."""


def draw_segmentation(
    image: ImageInput, label: Tensor, names: Sequence[str], opacity: float = 0.55
) -> Image.Image:
    """A picture of a segmentation: colors over the gray image, lines between regions, a legend below.

    Args:
        image: The image that was segmented, as `radio.images.load_image` takes it.
        label: ``(H, W)`` int64 for the same height and width.
        names: The labels' names; each gets its color, and its share of the pixels stands in the legend, largest first.
            Labels of less than `SMALL_SHARE` share a line there.
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
    return _below(overlay, _legend(width, _fold(names, shares.tolist()), len(names)))


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


def with_legend(picture: Image.Image, names: Sequence[str]) -> Image.Image:
    """A picture with its legend below: a name for each color of `palette`, in their order."""
    entries = [(i, name, "") for i, name in enumerate(names)]
    return _below(picture, _legend(picture.width, _Legend(entries, ""), len(names)))


def _below(picture: Image.Image, legend: Image.Image) -> Image.Image:
    result = Image.new("RGB", (max(picture.width, legend.width), picture.height + legend.height), "white")
    result.paste(picture, (0, 0))
    result.paste(legend, (0, picture.height))
    return result


class _Legend(NamedTuple):
    """What stands below a picture.

    Attributes:
        entries: Number, name and share (or an empty text) of the labels that get a square of their own.
        small: All others, in words, or an empty text.
    """

    entries: list[tuple[int, str, str]]
    small: str


def _fold(names: Sequence[str], shares: Sequence[float]) -> _Legend:
    """Labels by share; those that are hardly there share a line."""
    ranked = sorted(range(len(names)), key=lambda i: -shares[i])
    entries = [(i, names[i], f"{shares[i]:.0%}") for i in ranked if shares[i] >= SMALL_SHARE]
    small = [names[i] for i in ranked if shares[i] < SMALL_SHARE]
    return _Legend(entries, f"under {SMALL_SHARE:.1%} each: {', '.join(small)}" if small else "")


def _legend(width: int, content: _Legend, labels: int) -> Image.Image:
    """Colored squares with names and shares in columns of one width, in as many rows as they need; wider than asked if
    one entry is. The last line, cut to the width, has the labels of hardly any share."""
    size = min(max(round(width / 40), 12), _LARGEST_LETTERS)
    font = ImageFont.load_default(size)
    gap, row = size // 2, round(size * 1.7)
    entries, small = content
    longest = max((font.getlength(name) for _, name, _ in entries), default=0)
    number = font.getlength("100%") if any(share for _, _, share in entries) else 0
    column = round(size + gap + longest + gap + number + 3 * gap)
    columns = max((width - gap) // column, 1)
    rows = -(-len(entries) // columns)
    lines = rows + (1 if small else 0)
    legend = Image.new("RGB", (max(width, column + gap), gap + lines * row), "white")
    canvas = ImageDraw.Draw(legend)
    colors = palette(labels)
    for place, (label, name, share) in enumerate(entries):
        x, y = gap + place % columns * column, gap + place // columns * row
        canvas.rectangle((x, y, x + size, y + size), fill=colors[label], outline=(90, 90, 90))
        canvas.text((x + size + gap, y + size / 2), name, fill=_INK, font=font, anchor="lm")
        right = x + size + gap + longest + gap + number
        canvas.text((right, y + size / 2), share, fill=_INK, font=font, anchor="rm")
    if small:
        shown = _cut(small, font, legend.width - 2 * gap)
        canvas.text((gap, gap + rows * row + size / 2), shown, fill=_FAINT, font=font, anchor="lm")
    return legend


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """The text, with an ellipsis where it is wider than allowed."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
