"""Which patches are like a given one, and what tokens attend to."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from radio.modeling.block import Block
from radio.modeling.layout import TokenLayout
from radio.modeling.network import RADIONetwork
from radio.modeling.protocol import PassOptions
from radio.modeling.windows import Windows


class AttentionMaps(NamedTuple):
    """How much tokens attend to the patches, in one block.

    Attributes:
        prefix: (T, heads, h, w) float32, from each prefix token: class tokens first, then registers.
        patch: (heads, h, w) float32, from the patch that was asked for, or None.
        block: Number of the block.
    """

    prefix: Tensor
    patch: Tensor | None
    block: int


def patch_at(x: float, y: float, image_size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the patch that covers a pixel.

    Args:
        x, y: Pixels from the left and from the top.
        image_size: Height and width of the image that they count in.
        grid: Patches down and across.

    Raises:
        ValueError: The pixel is outside the image.
    """
    height, width = image_size
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(
            f"the point {x:g},{y:g} (x, y) is outside the image of {width} x {height} (width x height) pixels"
        )
    return int(y * grid[0] / height), int(x * grid[1] / width)


def similarity_to_patch(features: Tensor, query: Tensor) -> Tensor:
    """Cosine similarity of every patch with one vector.

    Args:
        features: (..., C, h, w), floating point.
        query: (C,), for example ``features[:, row, column]`` of this image or another.

    Returns:
        (..., h, w) float32 in [-1, 1].

    Raises:
        ValueError: The widths differ.
    """
    if query.ndim != 1 or features.ndim < 3 or features.shape[-3] != query.shape[0]:
        raise ValueError(
            f"expected features (..., C, h, w) and a query (C,), got {tuple(features.shape)} and {tuple(query.shape)}"
        )
    unit = F.normalize(query.float(), dim=0).to(features.device)
    similarity = torch.einsum("c,...chw->...hw", unit, F.normalize(features.float(), dim=-3))
    return similarity.clamp(-1, 1)


@torch.no_grad()
def attention_maps(
    model: RADIONetwork, image: Tensor, block: int = -1, patch: tuple[int, int] | None = None
) -> AttentionMaps:
    """Attention of the prefix tokens, and of one patch, to all patches in one block, after the softmax.

    Over the patches a row sums to less than 1: the rest goes to the prefix tokens.

    Args:
        model: Any model.
        image: (3, H, W) in [0, 1], H and W multiples of ``model.min_resolution_step``.
        block: Number of the block; negative ones count from the end.
        patch: Row and column of a patch whose attention is wanted too.

    Raises:
        ValueError: There is no such block or patch, the image does not fit the model, or the block attends within
            ViTDet windows only.
    """
    number, windows = _checked(model, image, block)
    grid = image.shape[-2] // model.patch_size, image.shape[-1] // model.patch_size
    prefix = model.num_summary_tokens
    queries = list(range(prefix))
    if patch is not None:
        if not (0 <= patch[0] < grid[0] and 0 <= patch[1] < grid[1]):
            raise ValueError(f"there is no patch {patch} (row, column); the image has {grid[0]} x {grid[1]}")
        queries.append(prefix + patch[0] * grid[1] + patch[1])
    tokens = _tokens_before(model, image, number, windows)
    chosen = model.blocks[number]
    assert isinstance(chosen, Block)
    q, k, _ = chosen.attn.project(chosen.norm1(tokens))
    logits = (q[0, :, queries] @ k[0].transpose(-1, -2)).float() * chosen.attn.scale
    to_patches = logits.softmax(dim=-1)[:, :, prefix:].transpose(0, 1).unflatten(-1, grid)
    return AttentionMaps(to_patches[:prefix], None if patch is None else to_patches[prefix], number)


def _checked(model: RADIONetwork, image: Tensor, block: int) -> tuple[int, Windows | None]:
    """The block's number from the start, and the windows of the model."""
    model.require(attention_maps=True)
    depth, step = len(model.blocks), model.min_resolution_step
    if not -depth <= block < depth:
        raise ValueError(f"there is no block {block}; the model has {depth}, numbered 0 to {depth - 1}")
    if image.ndim != 3 or image.shape[0] != 3 or image.shape[1] % step or image.shape[2] % step:
        raise ValueError(
            f"expected an image (3, H, W) with sides that are multiples of {step}, got {tuple(image.shape)}"
        )
    number = block % depth
    windows = model.windows
    if windows is not None and windows.schedule[number]:
        whole = ", ".join(str(i) for i in range(depth) if not windows.schedule[i])
        raise ValueError(
            f"block {number} attends within ViTDet windows; blocks that see the whole image: {whole}"
        )
    return number, windows


class _Last:
    """Keeps the tokens after one block, where the backbone then stops."""

    def __init__(self, block: int) -> None:
        self.last_block = block
        self.tokens: Tensor | None = None

    def wants(self, block: int) -> bool:
        return block == self.last_block

    def add(self, block: int, tokens: Tensor, layout: TokenLayout) -> None:
        self.tokens = tokens


def _tokens_before(model: RADIONetwork, image: Tensor, block: int, windows: Windows | None) -> Tensor:
    """Tokens (1, T + L, C) that go into a block."""
    x = model.input_conditioner(image[None].to(model.device))
    if block == 0:
        return model.backbone.embed(x)
    last = _Last(block - 1)
    model.backbone(x, PassOptions(windows, last))
    assert last.tokens is not None
    return last.tokens
