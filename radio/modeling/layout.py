"""Where the tokens of each image lie: a row of images, whether they have one size or many.

A batch (B, 3, H, W) is a row of one group of B images; a list of images of different sizes is a row of many groups of
one image each. Every question that depends on it is answered here: the order of the patches, which tokens see which,
how to step into ViTDet windows and out of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor

from radio.modeling.kernels.attention import Attend
from radio.modeling.kernels.variable_length import attention_within
from radio.modeling.outputs import Grid
from radio.modeling.windows import to_raster_order, to_window_order


class TokenLayout:
    """Tokens (B, sum of (T + L), C) of groups of images, group after group; B is 1 where there are several groups.

    Args:
        prefix: Number T of prefix tokens of each image.
        grids: Each group's patches down and across.
        window: Side of the ViTDet windows in patches, or None.

    Attributes:
        attend: Attention among all tokens of each image.
        attend_patches: Attention among the patches of each image, without prefix tokens.
    """

    def __init__(self, prefix: int, grids: Sequence[Grid], window: int | None = None) -> None:
        self.prefix = prefix
        self.grids = list(grids)
        self.window = window
        self.patch_counts = [h * w for h, w in self.grids]
        self.lengths = [prefix + count for count in self.patch_counts]
        self.attend: Attend = attention_within(self.lengths)
        self.attend_patches: Attend = attention_within(self.patch_counts)

    def images(self, tokens: Tensor) -> Sequence[Tensor]:
        """Each group's own tokens, (B, T + L, C)."""
        return split(tokens, self.lengths)

    def patches(self, tokens: Tensor) -> Tensor:
        """The patches of all groups without prefix tokens, (B, sum of L, C)."""
        return concatenate([image[:, self.prefix :] for image in self.images(tokens)])

    def prefix_mask(self, device: torch.device) -> Tensor:
        """Which tokens are prefix tokens: (sum of (T + L)) bool."""
        return torch.cat([torch.arange(length, device=device) for length in self.lengths]) < self.prefix

    def to_window_order(self, tokens: Tensor) -> Tensor:
        """Patches from raster order to the order in which the blocks run: window after window if there are windows."""
        return self._reorder(tokens, to_window_order)

    def to_raster_order(self, tokens: Tensor) -> Tensor:
        """Undo `to_window_order`."""
        return self._reorder(tokens, to_raster_order)

    def _reorder(self, tokens: Tensor, order: Callable[[Tensor, Grid, int], Tensor]) -> Tensor:
        if self.window is None:
            return tokens
        parts = []
        for image, grid in zip(self.images(tokens), self.grids, strict=True):
            parts += [image[:, : self.prefix], order(image[:, self.prefix :], grid, self.window)]
        return torch.cat(parts, dim=1)

    def partition_windows(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Step into windows: the prefix tokens (B, groups * T, C), which wait, and the windows (number, side², C)."""
        side = self.window or 1
        number = sum((h // side) * (w // side) for h, w in self.grids)
        prefix = concatenate([image[:, : self.prefix] for image in self.images(tokens)])
        windows = self.patches(tokens).reshape(tokens.shape[0] * number, side * side, tokens.shape[-1])
        return prefix, windows

    def merge_windows(self, prefix: Tensor, windows: Tensor) -> Tensor:
        """Step out of windows: undo `partition_windows`."""
        patches = windows.reshape(prefix.shape[0], sum(self.patch_counts), windows.shape[-1])
        waiting = split(prefix, [self.prefix] * len(self.grids))
        parts = zip(waiting, split(patches, self.patch_counts), strict=True)
        return torch.cat(list(chain.from_iterable(parts)), dim=1)


def concatenate(parts: Sequence[Tensor], dim: int = 1) -> Tensor:
    """Tensors one after the other; a single one as it is, so that a traced batch of one group has no such step."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim)


def split(x: Tensor, lengths: Sequence[int], dim: int = 1) -> Sequence[Tensor]:
    """Undo `concatenate`."""
    return [x] if len(lengths) == 1 else x.split(list(lengths), dim)
