"""Where an image lies on the square that SAM sees: coordinates in, masks out."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from radio.images import resize_image
from radio.modeling.outputs import Resolution
from radio.tasks.pixels import enlarge


class Canvas(NamedTuple):
    """A square with an image in its upper left corner.

    Attributes:
        side: Of the square, in pixels.
        content: Height and width of the part that the image covers.
        image_size: Height and width of the image itself.
    """

    side: int
    content: Resolution
    image_size: Resolution

    def to_canvas(self, points: Tensor) -> Tensor:
        """Pixel coordinates (..., 2) of the image, x before y, on the square."""
        scale = (self.content.width / self.image_size.width, self.content.height / self.image_size.height)
        return points * points.new_tensor(scale)

    def to_image(self, logits: Tensor) -> Tensor:
        """Logits (N, h, w) of the whole square, enlarged to (N, H, W) of the image, as SAM does it: in two steps."""
        square = _enlarge(logits, (self.side, self.side))
        return _enlarge(square[:, : self.content.height, : self.content.width], self.image_size)

    def from_image(self, masks: Tensor, grid: int) -> Tensor:
        """How much of each cell of a grid over the square lies in masks (N, H, W) of the image: (N, grid, grid)."""
        content = F.interpolate(masks.float()[:, None], self.content, mode="area")
        below, right = self.side - self.content.height, self.side - self.content.width
        return F.adaptive_avg_pool2d(F.pad(content, (0, right, 0, below)), grid)[:, 0]

    def draw(self, pixels: Tensor, side: int, fill: Tensor) -> Tensor:
        """The image on a square of another side.

        Args:
            pixels: (3, H, W) in [0, 1].
            side: Of the square that is drawn.
            fill: (3, 1, 1), the color of what the image does not cover.

        Returns:
            (3, side, side).
        """
        scale = side / self.side
        height, width = (max(round(length * scale), 1) for length in self.content)
        square = fill.to(pixels).expand(3, side, side).clone()
        square[:, :height, :width] = resize_image(pixels, (height, width))
        return square


def place(height: int, width: int, side: int, keeps_aspect: bool) -> Canvas:
    """Where an image goes: its long side fills the square, or with ``keeps_aspect=False`` both sides do."""
    if not keeps_aspect:
        return Canvas(side, Resolution(side, side), Resolution(height, width))
    scale = side / max(height, width)
    content = Resolution(max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1))
    return Canvas(side, content, Resolution(height, width))


def _enlarge(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return enlarge(logits[:, None].float(), *size)[:, 0]


def box_of(masks: Tensor) -> Tensor:
    """Boxes (N, 4) of masks (N, H, W): the left, top, right and bottom pixel that belongs; zeros for an empty one."""
    edges = []
    for axis in (1, 2):  # columns, then rows
        used = masks.any(dim=axis)
        numbers = torch.arange(used.shape[1], device=masks.device)
        first = torch.where(used, numbers, used.shape[1]).amin(dim=1)
        last = torch.where(used, numbers, -1).amax(dim=1)
        edges.append((first, last))
    (left, right), (top, bottom) = edges
    boxes = torch.stack([left, top, right, bottom], dim=1)
    return torch.where(masks.any(dim=2).any(dim=1)[:, None], boxes, 0)
