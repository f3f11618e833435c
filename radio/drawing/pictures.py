"""Pictures of features: colors and heat maps enlarged to an image, marks, and labeled sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from radio.files import Outputs

Size = tuple[int, int]
"""Width and height in pixels, as Pillow has them."""

WRITABLE_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif")
_INK = (32, 34, 38)
_PAPER = (255, 255, 255)
_FRAME = (214, 216, 220)
_THINNEST = 16
"""How many times longer than wide a shown picture is at most."""
_OUTLIER = (255, 255, 255)
_SHADE = 0.7
"""Brightness of what lies under an overlay."""
_DARK = 0.3
"""Brightness of a background that is not meant."""
_ELONGATED = 2.0
"""How many times longer than wide an image is at most that is no strip. The panels of strips are larger."""
HEAT = (
    (22, 18, 60),
    (48, 52, 130),
    (30, 106, 150),
    (28, 152, 138),
    (110, 196, 96),
    (212, 220, 70),
    (255, 244, 170),
)
"""From low to high; the brightness rises evenly, so that it reads in gray too."""


class Panel(NamedTuple):
    """A picture of a sheet, with the words below it."""

    picture: Image.Image
    label: str


def check_picture_name(path: Path) -> None:
    """Whether a picture can be written under that name.

    Raises:
        ValueError: The name ends in no format that can be written.
    """
    if path.suffix.lower() not in WRITABLE_PICTURES:
        raise ValueError(
            f"cannot write a picture to {str(path)!r}; allowed endings: {', '.join(WRITABLE_PICTURES)}"
        )


def save_picture(picture: Image.Image, path: Path, outputs: Outputs | None = None) -> None:
    """Write a picture; it appears when it is whole.

    Args:
        picture: RGB.
        path: Its ending says the format.
        outputs: Of the run that it belongs to.

    Raises:
        ValueError: The name ends in no format that can be written, or it is an input of the run or was written by it.
        OSError: The file cannot be written.
    """
    check_picture_name(path)
    with (outputs or Outputs()).write(path) as temporary:
        picture.save(temporary)


def to_pil_image(pixels: Tensor) -> Image.Image:
    """Pixels (3, H, W) in [0, 1] as a picture."""
    values = (pixels.detach().float().cpu().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())


def feature_picture(
    rgb: Tensor, size: Size, outliers: Tensor | None = None, smooth: bool = False
) -> Image.Image:
    """Colors of patches, enlarged to an image.

    Args:
        rgb: (3, h, w) in [0, 1], as `radio.tasks.pca.PCAFit.to_rgb` gives it.
        size: Width and height of the picture.
        outliers: (h, w) bool, patches that get a bright frame.
        smooth: Blend neighboring patches, instead of showing every patch as a square.
    """
    picture = _enlarge(to_pil_image(rgb), size, smooth)
    if outliers is not None:
        for row, column in outliers.nonzero().tolist():
            frame_patch(picture, (row, column), (outliers.shape[0], outliers.shape[1]), _OUTLIER)
    return picture


def heat_map(values: Tensor, size: Size, low: float, high: float, smooth: bool = False) -> Image.Image:
    """Values of patches as colors from dark blue (low) to pale yellow (high), enlarged to an image.

    Args:
        values: (h, w).
        size: Width and height of the picture.
        low, high: The values at the ends of the colors; what lies outside is clamped.
        smooth: Blend neighboring patches, instead of showing every patch as a square.

    Raises:
        ValueError: ``low`` is not below ``high``.
    """
    if not low < high:
        raise ValueError(f"low must be below high, got {low} and {high}")
    scaled = (values.detach().float().cpu() - low) / (high - low)
    return _heat_colors(_blend(scaled, size)) if smooth else _enlarge(_heat_colors(scaled), size)


def overlay(
    picture: Image.Image, values: Tensor, low: float, high: float, smooth: bool = False, opacity: float = 0.8
) -> Image.Image:
    """The colors of `heat_map` over a picture, of its size: the higher a value, the more they cover.

    Args:
        picture: RGB.
        values: (h, w).
        low, high: The values at the ends of the colors; at ``low`` the picture is seen, darker, as it is.
        smooth: Blend neighboring patches.
        opacity: How much the colors cover at ``high``, in [0, 1].

    Raises:
        ValueError: ``low`` is not below ``high``.
    """
    colors = heat_map(values, picture.size, low, high, smooth)
    scaled = ((values.detach().float().cpu() - low) / (high - low)).clamp(0, 1)
    strength = Image.fromarray((scaled * opacity * 255).round().byte().numpy())
    ground = picture.convert("RGB").point(lambda value: round(value * _SHADE))
    return Image.composite(colors, ground, _enlarge(strength, picture.size, smooth))


def cut_out(
    picture: Image.Image, photograph: Image.Image, foreground: Tensor, smooth: bool = False
) -> Image.Image:
    """A picture where the foreground is; elsewhere the photograph, dark and gray.

    Args:
        picture, photograph: RGB, of one size; the same one twice shows what is taken for the foreground.
        foreground: (h, w) bool, by patches.
        smooth: Round the border, instead of following the squares of patches.
    """
    inside = Image.fromarray(foreground.detach().byte().mul(255).cpu().numpy())
    mask = _enlarge(inside, picture.size, smooth).point(lambda value: round((value - 127.5) * 4 + 127.5))
    ground = photograph.convert("L").point(lambda value: round(value * _DARK)).convert("RGB")
    return Image.composite(picture, ground, mask)


def frame_patch(
    picture: Image.Image, patch: tuple[int, int], grid: tuple[int, int], color: tuple[int, int, int]
) -> None:
    """Draw a frame around a patch, in place.

    Args:
        picture: Of the whole image.
        patch: Row and column.
        grid: Patches down and across.
        color: Of the frame; a dark line around it keeps it visible on any ground.
    """
    left, right = (round((patch[1] + i) * picture.width / grid[1]) for i in (0, 1))
    top, bottom = (round((patch[0] + i) * picture.height / grid[0]) for i in (0, 1))
    width = max(round(max(picture.size) / 200), 2)
    canvas = ImageDraw.Draw(picture)
    canvas.rectangle(_around((left, top, right, bottom), width + 1), outline=(0, 0, 0), width=width + 2)
    canvas.rectangle(_around((left, top, right, bottom), width), outline=color, width=width)


def fit_long_side(size: Size, side: int) -> Size:
    """The size with the same shape whose long side is ``side``; a strip is made wide enough to be seen."""
    scale = side / max(size)
    least = max(round(side / _THINNEST), 1)
    return max(round(size[0] * scale), least), max(round(size[1] * scale), least)


def panel_size(size: Size, side: int) -> Size:
    """The size of an image's panels on a sheet: ``side`` on its long side, or twice that for a strip."""
    return fit_long_side(size, side if max(size) <= _ELONGATED * min(size) else 2 * side)


def panel_rows(panels: Sequence[Panel]) -> list[list[Panel]]:
    """One image's panels: beside each other, or each in a row of its own if the image is wide."""
    width, height = panels[0].picture.size
    return [[panel] for panel in panels] if width > _ELONGATED * height else [list(panels)]


def sheet(rows: Sequence[Sequence[Panel]], footer: Image.Image | None = None, title: str = "") -> Image.Image:
    """Panels in rows and columns with their labels, on white.

    Columns are as wide as their widest picture or label, rows as high as their highest picture. A row of strips, or of
    one panel on a sheet with longer rows, does not keep to the columns.

    Args:
        rows: Panels from left to right, in rows from top to bottom; rows may differ in length.
        footer: Goes below everything, on the left.
        title: Goes above everything.

    Raises:
        ValueError: There is no panel.
    """
    if not any(rows):
        raise ValueError("a sheet needs at least one panel")
    largest = max(max(panel.picture.size) for row in rows for panel in row)
    text = min(max(round(largest / 24), 13), 22)
    font, bold = ImageFont.load_default(text), ImageFont.load_default(round(text * 1.25))
    margin, gap, line = text, max(text // 2, 8), round(text * 1.9)
    loose = [_is_loose(row, rows) for row in rows]
    columns = [row for row, apart in zip(rows, loose, strict=True) if not apart]
    shared = [
        max(_panel_width(font, row[i]) for row in columns if i < len(row))
        for i in range(max(map(len, columns), default=0))
    ]
    widths = [
        [_panel_width(font, panel) for panel in row] if apart else shared[: len(row)]
        for row, apart in zip(rows, loose, strict=True)
    ]
    heights = [max(panel.picture.height for panel in row) for row in rows]
    heading = round(text * 2.1) if title else 0
    bottom = footer.height + gap if footer else 0
    width = max(
        *(sum(each) + gap * (len(each) - 1) for each in widths),
        footer.width if footer else 0,
        _length(bold, title),
    )
    height = heading + sum(heights) + line * len(rows) + gap * (len(rows) - 1) + bottom
    result = Image.new("RGB", (width + 2 * margin, height + round(1.5 * margin)), _PAPER)
    canvas = ImageDraw.Draw(result)
    if title:
        canvas.text((margin, margin + text * 0.6), title, fill=_INK, font=bold, anchor="lm")
    top = margin + heading
    for row, row_widths, row_height in zip(rows, widths, heights, strict=True):
        left = margin
        for panel, column_width in zip(row, row_widths, strict=True):
            x = left + (column_width - panel.picture.width) // 2
            y = top + row_height - panel.picture.height
            result.paste(panel.picture, (x, y))
            canvas.rectangle(
                (x - 1, y - 1, x + panel.picture.width, y + panel.picture.height), outline=_FRAME
            )
            center = left + column_width / 2, top + row_height + line * 0.48
            canvas.text(center, panel.label, fill=_INK, font=font, anchor="mm")
            left += column_width + gap
        top += row_height + line + gap
    if footer:
        result.paste(footer, (margin, top))
    return result


def color_scale(width: int, low: str, high: str, what: str, text: int = 14) -> Image.Image:
    """A bar with the colors of `heat_map`, half as wide as ``width``, what they mean, and the values at its ends."""
    font, space = ImageFont.load_default(text), text // 2
    bar = _heat_colors(torch.linspace(0, 1, width // 2)[None]).resize((width // 2, text))
    before = f"{what}  {low}"
    left = _length(font, before) + space
    right = left + bar.width + space
    result = Image.new("RGB", (right + _length(font, high), round(text * 1.6)), _PAPER)
    canvas, middle = ImageDraw.Draw(result), result.height / 2
    canvas.text((0, middle), before, fill=_INK, font=font, anchor="lm")
    result.paste(bar, (left, round(middle - bar.height / 2)))
    canvas.text((right, middle), high, fill=_INK, font=font, anchor="lm")
    return result


def _heat_colors(values: Tensor) -> Image.Image:
    """Values (h, w) as colors, 0 and 1 being the ends."""
    anchors = np.array(HEAT, dtype=np.float32)
    position = values.clamp(0, 1).numpy()
    places = np.linspace(0, 1, len(anchors))
    channels = [np.interp(position, places, anchors[:, channel]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def _enlarge(picture: Image.Image, size: Size, smooth: bool = False) -> Image.Image:
    shrinks = size[0] < picture.width or size[1] < picture.height
    larger = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return picture.resize(size, Image.Resampling.BOX if shrinks else larger)


def _blend(values: Tensor, size: Size) -> Tensor:
    """Values (h, w) for every pixel of a picture."""
    return torch.from_numpy(np.array(_enlarge(Image.fromarray(values.numpy()), size, smooth=True)))


def _around(box: tuple[int, int, int, int], by: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    return left - by, top - by, right + by - 1, bottom + by - 1


def _is_loose(row: Sequence[Panel], rows: Sequence[Sequence[Panel]]) -> bool:
    """Whether a row has widths of its own."""
    width, height = row[0].picture.size
    return len(row) == 1 < max(map(len, rows)) or max(width, height) > _ELONGATED * min(width, height)


def _panel_width(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, panel: Panel) -> int:
    return max(panel.picture.width, _length(font, panel.label))


def _length(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> int:
    return round(font.getlength(text)) + 1
