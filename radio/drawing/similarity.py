"""Sheets of similarity and attention: what is like a patch, and what tokens attend to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from radio.drawing.pictures import (
    Panel,
    Size,
    color_scale,
    fit_long_side,
    frame_patch,
    heat_map,
    sheet,
    to_pil_image,
)

_SIDE = 448
_HEAD_SIDE = 224
_HEADS_IN_A_ROW = 6
_MARK = (255, 255, 255)
_HIGHEST_LOW = 0.99


class ComparedImage(NamedTuple):
    """An image and how much its patches are like a chosen one.

    Attributes:
        name: What stands below it.
        pixels: (3, H, W) in [0, 1].
        similarity: (h, w), cosine similarities.
    """

    name: str
    pixels: Tensor
    similarity: Tensor


def draw_similarity(images: Sequence[ComparedImage], patch: tuple[int, int]) -> Image.Image:
    """Each image next to its similarities, in the colors of one scale.

    Args:
        images: The first is the one with the chosen patch, which is framed.
        patch: Its row and column.
    """
    low = min(float(image.similarity.min()) for image in images)
    low = min(low, _HIGHEST_LOW)
    rows: list[list[Panel]] = []
    for name, pixels, similarity in images:
        shown = _shown(pixels, _SIDE)
        heat = heat_map(similarity, shown.size, low, 1)
        if not rows:
            grid = (similarity.shape[0], similarity.shape[1])
            frame_patch(shown, patch, grid, _MARK)
            frame_patch(heat, patch, grid, _MARK)
        cells = f"{similarity.shape[1]} x {similarity.shape[0]} patches"
        rows.append([Panel(shown, name), Panel(heat, cells)])
    return sheet(rows, color_scale(_SIDE, f"{low:.2f}", "1", "cosine similarity", 16))


def draw_patch_attention(
    name: str, pixels: Tensor, attention: Tensor, patch: tuple[int, int], block: int
) -> Image.Image:
    """What one patch attends to: the mean over the heads, then every head.

    Args:
        name: What stands below the image.
        pixels: (3, H, W) in [0, 1].
        attention: (heads, h, w).
        patch: Row and column of the patch, which is framed.
        block: Number of the block.
    """
    shown = _shown(pixels, _HEAD_SIDE)
    frame_patch(shown, patch, (attention.shape[-2], attention.shape[-1]), _MARK)
    panels = [Panel(shown, name), Panel(_own_range(attention.mean(dim=0), shown.size), "mean")]
    panels += [Panel(_own_range(head, shown.size), f"head {i}") for i, head in enumerate(attention)]
    return _attention_sheet(panels, f"attention of a patch, block {block}")


def draw_class_attention(
    name: str, pixels: Tensor, attention: Tensor, teachers: Mapping[int, str], block: int
) -> Image.Image:
    """What each class token attends to, as the mean over the heads.

    Args:
        name: What stands below the image.
        pixels: (3, H, W) in [0, 1].
        attention: (class tokens, heads, h, w).
        teachers: Names of teachers by number of their class token.
        block: Number of the block.
    """
    shown = _shown(pixels, _HEAD_SIDE)
    panels = [Panel(shown, name)]
    for i, heads in enumerate(attention):
        label = f"class token {i}" + (f", {teachers[i]}" if i in teachers else "")
        panels.append(Panel(_own_range(heads.mean(dim=0), shown.size), label))
    return _attention_sheet(panels, f"attention of the class tokens, block {block}")


def _attention_sheet(panels: Sequence[Panel], title: str) -> Image.Image:
    rows = [panels[i : i + _HEADS_IN_A_ROW] for i in range(0, len(panels), _HEADS_IN_A_ROW)]
    return sheet(rows, color_scale(_SIDE, "0", "its own maximum", "each map from", 14), title)


def _shown(pixels: Tensor, side: int) -> Image.Image:
    picture = to_pil_image(pixels)
    return picture.resize(fit_long_side(picture.size, side), Image.Resampling.LANCZOS)


def _own_range(values: Tensor, size: Size) -> Image.Image:
    return heat_map(values, size, 0, max(float(values.max()), 1e-12))
