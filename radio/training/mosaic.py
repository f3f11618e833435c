"""Mosaic augmentation: several small views share one canvas of a teacher that has a fixed, large input.

Source: RADIOv2.5 (arXiv 2412.07679, section 3.2). One pass of a teacher like SAM costs the same whatever it sees; with
k x k views on a canvas, k² images are seen in one pass, each at many places of the canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Placement(NamedTuple):
    """Where a view lies, in pixels.

    Attributes:
        canvas: Number of the canvas.
        top, left: Its upper left corner on it.
        height, width: Of the view.
    """

    canvas: int
    top: int
    left: int
    height: int
    width: int


class Mosaic:
    """Lays views on canvases and cuts their features out again.

    Args:
        canvas: Side of the teacher's square input in pixels, or its height and width.
        stride: Pixels between positions of the teacher's feature map.

    Raises:
        ValueError: The canvas is not made of whole strides.
    """

    def __init__(self, canvas: int | tuple[int, int], stride: int) -> None:
        self.canvas = (canvas, canvas) if isinstance(canvas, int) else (int(canvas[0]), int(canvas[1]))
        self.stride = stride
        if stride < 1 or any(side < stride or side % stride for side in self.canvas):
            raise ValueError(f"a canvas of {canvas} px is not made of whole strides of {stride} px")

    def tiles(self, height: int, width: int) -> tuple[int, int]:
        """How many views of that size, in pixels, fit down and across a canvas.

        Raises:
            ValueError: The size is not made of whole strides, or is larger than the canvas.
        """
        for side, largest in zip((height, width), self.canvas, strict=True):
            if side < 1 or side % self.stride:
                raise ValueError(
                    f"views of {height} x {width} px are not made of whole strides of {self.stride} px; "
                    "resize them to multiples of it"
                )
            if side > largest:
                raise ValueError(
                    f"views of {height} x {width} px are larger than the canvas of {self.canvas[0]} x {self.canvas[1]}"
                )
        return self.canvas[0] // height, self.canvas[1] // width

    def compose(self, views: Tensor | Sequence[Tensor]) -> tuple[Tensor, list[Placement]]:
        """Lay views on as few canvases as hold them.

        Every canvas is a grid of equal tiles, each a multiple of the stride; a view lies at the upper left of its tile,
        and what is left over is zero, as are the empty tiles of the last canvas.

        Args:
            views: (N, C, h, w), or N views (C, h, w); of one size or of several, which need not be square. Sides are
                multiples of the stride; tiles are as large as the largest.

        Returns:
            Canvases (K, C, H, W), and the place of every view, in the views' order.

        Raises:
            ValueError: There are no views, they differ in channels, or one does not fit.
        """
        views = list(views)
        if not views or any(view.ndim != 3 for view in views):
            raise ValueError("expected at least one view, each of shape (channels, height, width)")
        if len({view.shape[0] for view in views}) > 1:
            raise ValueError("the views differ in their number of channels")
        for view in views:
            self.tiles(*view.shape[1:])
        down, across = self.tiles(max(v.shape[1] for v in views), max(v.shape[2] for v in views))
        tile = [
            side // self.stride // n * self.stride
            for side, n in zip(self.canvas, (down, across), strict=True)
        ]
        count = -(-len(views) // (down * across))
        canvases = views[0].new_zeros(count, views[0].shape[0], *self.canvas)
        placements = []
        for number, view in enumerate(views):
            canvas, place = divmod(number, down * across)
            row, column = divmod(place, across)
            top, left = row * tile[0], column * tile[1]
            height, width = view.shape[1:]
            canvases[canvas, :, top : top + height, left : left + width] = view
            placements.append(Placement(canvas, top, left, height, width))
        return canvases, placements

    def cut(self, feature_maps: Tensor, placements: Sequence[Placement]) -> list[Tensor]:
        """The feature map of every view; positions of padding are dropped, and nothing is blended at the seams.

        Args:
            feature_maps: (K, C, H/stride, W/stride) of the canvases.
            placements: From `compose`.

        Returns:
            (C, h/stride, w/stride) for each view, in the views' order.

        Raises:
            ValueError: The feature maps are not of such canvases.
        """
        grid = (self.canvas[0] // self.stride, self.canvas[1] // self.stride)
        if feature_maps.ndim != 4 or tuple(feature_maps.shape[2:]) != grid:
            raise ValueError(
                f"expected feature maps (K, C, {grid[0]}, {grid[1]}) of canvases of {self.canvas[0]} x "
                f"{self.canvas[1]} px at stride {self.stride}, got {tuple(feature_maps.shape)}"
            )
        needed = 1 + max((place.canvas for place in placements), default=-1)
        if needed > len(feature_maps):
            raise ValueError(
                f"the placements lie on {needed} canvases, but there are {len(feature_maps)} feature maps"
            )
        cut = []
        for place in placements:
            top, left, height, width = (side // self.stride for side in place[1:])
            cut.append(feature_maps[place.canvas, :, top : top + height, left : left + width])
        return cut
