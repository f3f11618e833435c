"""How the tokens of a batch lie in memory: a dense batch of one size, or images of different sizes packed in a row.

Both layouts answer the same questions of the backbone's loop: the order of the patches, which tokens attend to
which, and how to step into ViTDet windows and out of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby, pairwise
from typing import Protocol

import torch
from torch import Tensor

from radio.modeling.kernels.attention import attend_all
from radio.modeling.windows import to_raster_order, to_window_order

Grid = tuple[int, int]

_CPU_PACK_BYTES = 24 * 2**20


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
    attend = staticmethod(attend_all)

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
        (h, w), side = self.grid, self.window or 1
        number = tokens.shape[0] * (h // side) * (w // side)
        windows = tokens[:, self.prefix :].reshape(number, side * side, tokens.shape[-1])
        return tokens[:, : self.prefix], windows

    def join(self, prefix: Tensor, windows: Tensor) -> Tensor:
        h, w = self.grid
        patches = windows.reshape(prefix.shape[0], h * w, windows.shape[-1])
        return torch.cat([prefix, patches], dim=1)


def packs(lengths: Sequence[int], token_bytes: int, device: torch.device) -> list[slice]:
    """Which consecutive images run together in one pass.

    On a GPU all of them. On a CPU as many as have activations of 24 MiB together, 4096 tokens of a ViT-B in bfloat16:
    longer rows gain nothing, because the matrix products are at full speed long before, and lose time because glibc
    asks the system anew for every block of memory of 32 MiB or more.

    Args:
        lengths: Number of tokens of each image.
        token_bytes: Bytes of one token in the widest activation, between the two layers of an MLP.
        device: Where the pass runs.
    """
    if device.type != "cpu":
        return [slice(0, len(lengths))]
    starts, tokens = [0], 0
    for i, length in enumerate(lengths):
        if tokens and (tokens + length) * token_bytes > _CPU_PACK_BYTES:
            starts.append(i)
            tokens = 0
        tokens += length
    return [slice(*pair) for pair in pairwise([*starts, len(lengths)])]


class Segments:
    """Consecutive stretches of a packed row; tokens attend within their own stretch.

    Attributes:
        lengths: Length of each stretch.
    """

    def __init__(self, lengths: Iterable[int]) -> None:
        self.lengths = tuple(lengths)
        self._runs = [(length, len(list(run))) for length, run in groupby(self.lengths)]
        self._boundaries: Tensor | None = None

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention within each stretch.

        A GPU does it in one kernel for stretches of any lengths, in half precision and without gradients.
        Otherwise each run of stretches of equal length is one batch of `attend_all`.

        Args:
            q, k, v: (1, heads, sum of lengths, head_dim).

        Returns:
            (1, heads, sum of lengths, head_dim).
        """
        if has_variable_length_kernel(q):
            return self._attend_at_once(q, k, v)
        sizes = [length * count for length, count in self._runs]
        runs = zip(self._runs, *(tensor.split(sizes, dim=2) for tensor in (q, k, v)), strict=True)
        attended = [_attend_equal(length, *run) for (length, _), *run in runs]
        return torch.cat(attended, dim=1).transpose(1, 2)

    def _attend_at_once(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # Imported here because it brings the compiler with it, which takes longer than loading a model.
        from torch.nn.attention.varlen import varlen_attn

        if self._boundaries is None:
            boundaries = torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32)
            self._boundaries = boundaries.to(q.device, non_blocking=True)
        longest = max(self.lengths)
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (q, k, v))
        attended = varlen_attn(q, k, v, self._boundaries, self._boundaries, longest, longest)
        assert isinstance(attended, Tensor)
        return attended.transpose(0, 1).unsqueeze(0)


def has_variable_length_kernel(q: Tensor) -> bool:
    """Whether PyTorch attends within stretches of different lengths in one kernel for queries like these.

    That is flash attention: NVIDIA GPUs since Ampere, float16 or bfloat16, heads of a width that is a multiple of
    8 and at most 256. It is used without gradients only.
    """
    if not q.is_cuda or torch.version.hip is not None or q.dtype not in (torch.float16, torch.bfloat16):
        return False
    if torch.is_grad_enabled() and q.requires_grad:
        return False
    if q.shape[-1] % 8 or q.shape[-1] > 256 or not torch.backends.cuda.flash_sdp_enabled():
        return False
    return torch.cuda.get_device_capability(q.device) >= (8, 0)


def _attend_equal(length: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention within stretches of one length: (1, heads, N, head_dim) to (1, N, heads, head_dim)."""
    if q.shape[2] == length:
        return attend_all(q, k, v).transpose(1, 2)
    q, k, v = (tensor[0].unflatten(1, (-1, length)).transpose(0, 1) for tensor in (q, k, v))
    return attend_all(q, k, v).transpose(1, 2).flatten(0, 1).unsqueeze(0)


@dataclass(frozen=True)
class PackedLayout:
    """Images of different sizes in one row: tokens (1, sum of (T + L), C).

    Attributes:
        prefix: Number T of prefix tokens of each image.
        grids: Each image's patches down and across.
        window: Side of the ViTDet windows in patches, or None.
        segments: The tokens of each image.
    """

    prefix: int
    grids: Sequence[Grid]
    window: int | None = None
    segments: Segments = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # Made here, not when first used: the lock of a cached property breaks the graph of torch.compile.
        object.__setattr__(self, "segments", Segments(self.prefix + count for count in self.patch_counts))

    @property
    def patch_counts(self) -> list[int]:
        """Number of patches of each image."""
        return [h * w for h, w in self.grids]

    def images(self, tokens: Tensor) -> list[Tensor]:
        """Each image's own tokens, (1, T + L, C)."""
        return list(tokens.split(self.segments.lengths, dim=1))

    def enter(self, tokens: Tensor) -> Tensor:
        return self._reorder(tokens, to_window_order)

    def restore(self, tokens: Tensor) -> Tensor:
        return self._reorder(tokens, to_raster_order)

    def _reorder(self, tokens: Tensor, order: Callable[[Tensor, Grid, int], Tensor]) -> Tensor:
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
        return self.segments.attend(q, k, v)
