"""Sheets of similarity and attention: what is like a patch, and what tokens attend to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from radio.drawing.pictures import (
    Panel,
    color_scale,
    frame_patch,
    heat_map,
    overlay,
    panel_rows,
    panel_size,
    sheet,
    to_pil_image,
)

_SIDE = 448
_HEAD_SIDE = 224
_CLASS_SIDE = 384
_SHEET_WIDTH = 1450
_HIGH_QUANTILE = 0.99
_HIGHEST = "its own 99th percentile"
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


class MapStyle(NamedTuple):
    """How maps are drawn.

    Attributes:
        smooth: Blend neighboring patches, instead of showing every patch as a square.
        over: Lay each map over its photograph, at the photograph's own size. One map alone is then the whole picture.
    """

    smooth: bool = False
    over: bool = False


_PLAIN = MapStyle()


def draw_similarity(
    images: Sequence[ComparedImage], patch: tuple[int, int], style: MapStyle = _PLAIN
) -> Image.Image:
    """Each image next to its similarities, in the colors of one scale.

    Args:
        images: The first is the one with the chosen patch, which is framed.
        patch: Its row and column.
        style: How the maps are drawn.
    """
    low = min(float(image.similarity.min()) for image in images)
    low = min(low, _HIGHEST_LOW)
    rows: list[list[Panel]] = []
    for name, pixels, similarity in images:
        shown = _shown(pixels, None if style.over else _SIDE)
        heat = _map(similarity, shown, low, 1, style)
        if not rows:
            grid = (similarity.shape[0], similarity.shape[1])
            frame_patch(shown, patch, grid, _MARK)
            frame_patch(heat, patch, grid, _MARK)
        cells = f"{similarity.shape[1]} x {similarity.shape[0]} patches"
        if style.over:
            rows.append([Panel(heat, f"{name}, {cells}")])
        else:
            rows += panel_rows([Panel(shown, name), Panel(heat, cells)])
    if style.over and len(rows) == 1:
        return rows[0][0].picture
    return sheet(rows, color_scale(_SIDE, f"{low:.2f}", "1", "cosine similarity", 16))


def draw_patch_attention(
    name: str,
    pixels: Tensor,
    attention: Tensor,
    patch: tuple[int, int],
    block: int,
    style: MapStyle = _PLAIN,
) -> Image.Image:
    """What one patch attends to: the mean over the heads, then every head; over the photograph only the mean.

    Args:
        name: What stands below the image.
        pixels: (3, H, W) in [0, 1].
        attention: (heads, h, w).
        patch: Row and column of the patch, which is framed.
        block: Number of the block.
        style: How the maps are drawn.
    """
    grid = (attention.shape[-2], attention.shape[-1])
    shown = _shown(pixels, None if style.over else _HEAD_SIDE)
    mean = _own_range(attention.mean(dim=0), shown, style)
    if style.over:
        frame_patch(mean, patch, grid, _MARK)
        return mean
    heads = [Panel(_own_range(head, shown, style), f"head {i}") for i, head in enumerate(attention)]
    frame_patch(shown, patch, grid, _MARK)
    return _attention_sheet(
        [Panel(shown, name), Panel(mean, "mean"), *heads], f"attention of a patch, block {block}"
    )


def draw_class_attention(
    name: str,
    pixels: Tensor,
    attention: Tensor,
    teachers: Mapping[int, str],
    block: int,
    style: MapStyle = _PLAIN,
) -> Image.Image:
    """What each class token attends to, as the mean over the heads.

    Args:
        name: What stands below the image.
        pixels: (3, H, W) in [0, 1].
        attention: (class tokens, heads, h, w).
        teachers: Names of teachers by number of their class token.
        block: Number of the block.
        style: How the maps are drawn.
    """
    shown = _shown(pixels, None if style.over else _CLASS_SIDE)
    panels = []
    for i, heads in enumerate(attention):
        label = f"class token {i}" + (f", {teachers[i]}" if i in teachers else "")
        panels.append(Panel(_own_range(heads.mean(dim=0), shown, style), label))
    if style.over and len(panels) == 1:
        return panels[0].picture
    if not style.over:
        panels.insert(0, Panel(shown, name))
    return _attention_sheet(panels, f"attention of the class tokens, block {block}")


def _attention_sheet(panels: Sequence[Panel], title: str) -> Image.Image:
    """Maps in rows that are about as wide as a screen, whatever their shape."""
    widest = max(panel.picture.width for panel in panels)
    lines = -(-len(panels) // max(_SHEET_WIDTH // widest, 1))
    columns = -(-len(panels) // lines)  # rows of about one length
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    return sheet(rows, color_scale(_SIDE, "0", _HIGHEST, "each map from", 14), title)


def _shown(pixels: Tensor, side: int | None) -> Image.Image:
    """An image for a panel, or at its own size."""
    picture = to_pil_image(pixels)
    if side is None:
        return picture
    return picture.resize(panel_size(picture.size, side), Image.Resampling.LANCZOS)


def _map(values: Tensor, shown: Image.Image, low: float, high: float, style: MapStyle) -> Image.Image:
    if style.over:
        return overlay(shown, values, low, high, style.smooth)
    return heat_map(values, shown.size, low, high, style.smooth)


def _own_range(values: Tensor, shown: Image.Image, style: MapStyle) -> Image.Image:
    """From 0 to nearly the maximum, because a few patches may have far more attention than all others."""
    high = torch.quantile(values.float(), _HIGH_QUANTILE)
    return _map(values, shown, 0, max(float(high), 1e-12), style)
