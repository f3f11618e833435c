"""How the tokens of a batch lie in memory: a dense batch of one size, or images of different sizes packed in a row.

Both layouts answer the same questions of the backbone's loop: the order of the patches, which tokens attend to
which, and how to step into ViTDet windows and out of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from radio.modeling.windows import to_raster_order, to_window_order

Grid = tuple[int, int]


class TokenLayout(Protocol):
    """What the backbone's loop asks of a layout. `window` is the side of the ViTDet windows, or None."""

    def enter(self, tokens: Tensor) -> Tensor:
        """Tokens in the order in which the blocks run: window order when there are windows."""
        ...

    def restore(self, tokens: Tensor) -> Tensor:
        """Tokens back in raster order."""
        ...

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Step into windows: the prefix tokens, which wait, and the windows (number, side², C)."""
        ...

    def join(self, prefix: Tensor, windows: Tensor) -> Tensor:
        """Step out of windows: undo `split`."""
        ...

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention among the tokens of each image."""
        ...


@dataclass(frozen=True)
class DenseLayout:
    """A batch of images of one size: tokens (B, T + L, C).

    Attributes:
        prefix: Number T of prefix tokens.
        grid: Patches down and across.
        window: Side of the ViTDet windows in patches, or None.
    """

    prefix: int
    grid: Grid
    window: int | None = None

    def enter(self, tokens: Tensor) -> Tensor:
        if self.window is None:
            return tokens
        patches = to_window_order(tokens[:, self.prefix :], self.grid, self.window)
        return torch.cat([tokens[:, : self.prefix], patches], dim=1)

    def restore(self, tokens: Tensor) -> Tensor:
        if self.window is None:
            return tokens
        patches = to_raster_order(tokens[:, self.prefix :], self.grid, self.window)
        return torch.cat([tokens[:, : self.prefix], patches], dim=1)

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        side = self.window or 1
        windows = tokens[:, self.prefix :].reshape(-1, side * side, tokens.shape[-1])
        return tokens[:, : self.prefix], windows

    def join(self, prefix: Tensor, windows: Tensor) -> Tensor:
        patches = windows.reshape(prefix.shape[0], -1, windows.shape[-1])
        return torch.cat([prefix, patches], dim=1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


@dataclass(frozen=True)
class PackedLayout:
    """Images of different sizes in one row: tokens (1, sum of (T + L), C).

    Attributes:
        prefix: Number T of prefix tokens of each image.
        grids: Each image's patches down and across.
        window: Side of the ViTDet windows in patches, or None.
    """

    prefix: int
    grids: Sequence[Grid]
    window: int | None = None

    @property
    def patch_counts(self) -> list[int]:
        """Number of patches of each image."""
        return [h * w for h, w in self.grids]

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each image."""
        return [self.prefix + count for count in self.patch_counts]

    def images(self, tokens: Tensor) -> list[Tensor]:
        """Each image's own tokens, (1, T + L, C)."""
        return list(tokens.split(self.lengths, dim=1))

    def enter(self, tokens: Tensor) -> Tensor:
        return self._reorder(tokens, to_window_order)

    def restore(self, tokens: Tensor) -> Tensor:
        return self._reorder(tokens, to_raster_order)

    def _reorder(self, tokens: Tensor, order) -> Tensor:  # type: ignore[no-untyped-def]
        if self.window is None:
            return tokens
        parts = []
        for image, grid in zip(self.images(tokens), self.grids, strict=True):
            parts += [image[:, : self.prefix], order(image[:, self.prefix :], grid, self.window)]
        return torch.cat(parts, dim=1)

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        side = self.window or 1
        images = self.images(tokens)
        patches = torch.cat([image[0, self.prefix :] for image in images])
        prefix = torch.cat([image[:, : self.prefix] for image in images])
        return prefix, patches.reshape(-1, side * side, tokens.shape[-1])

    def join(self, prefix: Tensor, windows: Tensor) -> Tensor:
        patches = windows.reshape(-1, windows.shape[-1]).split(self.patch_counts)
        return torch.cat([part for pair in zip(prefix, patches, strict=True) for part in pair]).unsqueeze(0)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend_within(q, k, v, self.lengths)


def attend_within(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Tensor:
    """Attention within each of the consecutive segments of a packed row.

    Args:
        q, k, v: (1, heads, sum of lengths, head_dim).
        lengths: Length of each segment.

    Returns:
        (1, heads, sum of lengths, head_dim).
    """
    segments = zip(*(tensor.split(list(lengths), dim=2) for tensor in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*segment) for segment in segments], dim=2)
