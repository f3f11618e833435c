"""Pictures of masks: each in its own color over the gray image, and what pointed at it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from radio.drawing.segmentation import LUMA, borders, palette, with_legend
from radio.images import ImageInput, load_image

_YES, _NO, _EDGE = (255, 255, 255), (0, 0, 0), (230, 60, 60)


def draw_masks(
    image: ImageInput,
    masks: Tensor,
    names: Sequence[str],
    opacity: float = 0.55,
    points: Sequence[tuple[float, float, int]] = (),
    boxes: Sequence[tuple[float, float, float, float]] = (),
) -> Image.Image:
    """Masks over an image, smaller ones on top, with a legend below.

    Args:
        image: As `radio.images.load_image` takes it; shown in gray.
        masks: (N, H, W) bool, of the image's own pixels.
        names: What the legend says of each.
        opacity: How much the colors cover the gray image, in [0, 1].
        points: x, y and label of points that are shown: 1 for a white dot, 0 for a black one.
        boxes: Left, top, right and bottom of boxes that are shown.

    Raises:
        ImageError: The image cannot be read.
        ValueError: Image and masks differ in size, or masks and names in number, or the opacity is outside [0, 1].
    """
    pixels = load_image(image).cpu()
    height, width = pixels.shape[-2:]
    if masks.shape[1:] != (height, width) or len(masks) != len(names):
        raise ValueError(
            f"the image is {height} x {width} with {len(names)} names, but the masks are {tuple(masks.shape)}"
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in [0, 1], got {opacity}")
    masks = masks.cpu()
    gray = (pixels * torch.tensor(LUMA)[:, None, None]).sum(dim=0) * 255
    shown = gray[..., None].expand(-1, -1, 3).clone()
    colors = torch.tensor(palette(len(masks)), dtype=torch.float32).view(-1, 3)
    for i in masks.flatten(1).sum(dim=1).argsort(descending=True, stable=True).tolist():
        shown[masks[i]] = gray[masks[i]][:, None] * (1 - opacity) + colors[i] * opacity
        shown[borders(masks[i])] = 255
    picture = Image.frombytes("RGB", (width, height), shown.round().byte().numpy().tobytes())
    _mark(picture, points, boxes)
    return with_legend(picture, names) if names else picture


def _mark(
    picture: Image.Image,
    points: Sequence[tuple[float, float, int]],
    boxes: Sequence[tuple[float, float, float, float]],
) -> None:
    canvas, radius = ImageDraw.Draw(picture), max(round(max(picture.size) / 100), 3)
    for box in boxes:
        canvas.rectangle(box, outline=_YES, width=max(radius // 2, 1))
    for x, y, label in points:
        around = (x - radius, y - radius, x + radius, y + radius)
        canvas.ellipse(around, fill=_YES if label else _NO, outline=_EDGE, width=max(radius // 2, 1))
