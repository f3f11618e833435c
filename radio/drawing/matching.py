"""A picture of correspondences: two photographs with lines between patches that belong together."""

from __future__ import annotations

from colorsys import hsv_to_rgb

from PIL import Image, ImageDraw
from torch import Tensor

from radio.drawing.pictures import Panel, fit_long_side, sheet, to_pil_image
from radio.wording import counted

_SIDE = 560
_GAP = 12
_FINER = 2
"""Lines are drawn this many times larger, and then made smaller, so that they have no steps."""


def draw_matches(
    names: tuple[str, str],
    images: tuple[Tensor, Tensor],
    grids: tuple[tuple[int, int], tuple[int, int]],
    pairs: tuple[Tensor, Tensor],
) -> Image.Image:
    """Two images, and a colored line from each patch to its partner.

    Images lie beside each other, wide ones below each other. Colors go around the color circle from left to right in
    the first image, so that neighbors in it have like colors.

    Args:
        names: What stands below.
        images: (3, H, W) each, in [0, 1].
        grids: Height and width of their grids, in patches.
        pairs: (N, 2) each, rows and columns of patches of the first image, and of their partners in the second.
    """
    pictures = []
    for pixels in images:
        picture = to_pil_image(pixels)
        pictures.append(picture.resize(fit_long_side(picture.size, _SIDE), Image.Resampling.LANCZOS))
    below = min(picture.width / picture.height for picture in pictures) > 1.6
    if below:
        places = [(0, 0), (0, pictures[0].height + _GAP)]
        size = max(p.width for p in pictures), places[1][1] + pictures[1].height
    else:
        size = pictures[0].width + _GAP + pictures[1].width, max(p.height for p in pictures)
        tops = [(size[1] - picture.height) // 2 for picture in pictures]
        places = [(0, tops[0]), (pictures[0].width + _GAP, tops[1])]
    canvas = Image.new("RGB", size, "white")
    for picture, place in zip(pictures, places, strict=True):
        canvas.paste(picture, place)
    large = canvas.resize((size[0] * _FINER, size[1] * _FINER), Image.Resampling.BICUBIC)
    drawing = ImageDraw.Draw(large)
    order = (pairs[0][:, 1] * grids[0][0] + pairs[0][:, 0]).argsort().tolist()
    for rank, number in enumerate(order):
        color = _around_the_circle(rank / max(len(order), 1))
        ends = [
            _center(patch[number].tolist(), grid, picture, place)
            for patch, grid, picture, place in zip(pairs, grids, pictures, places, strict=True)
        ]
        drawing.line([*ends[0], *ends[1]], fill=(255, 255, 255), width=3 * _FINER)
        drawing.line([*ends[0], *ends[1]], fill=color, width=2 * _FINER)
        for x, y in ends:
            drawing.ellipse(_circle(x, y, 6 * _FINER), fill="white")
            drawing.ellipse(_circle(x, y, 5 * _FINER), fill=color)
    label = f"{names[0]}  and  {names[1]}: {counted(len(order), 'pair')} of patches"
    return sheet([[Panel(large.resize(size, Image.Resampling.BOX), label)]])


def _center(
    patch: list[int], grid: tuple[int, int], picture: Image.Image, place: tuple[int, int]
) -> tuple[float, float]:
    x = place[0] + (patch[1] + 0.5) * picture.width / grid[1]
    y = place[1] + (patch[0] + 0.5) * picture.height / grid[0]
    return x * _FINER, y * _FINER


def _circle(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return x - radius, y - radius, x + radius, y + radius


def _around_the_circle(share: float) -> tuple[int, int, int]:
    red, green, blue = hsv_to_rgb(share * 0.85, 0.85, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)
