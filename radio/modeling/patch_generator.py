"""From pixels to tokens: patches, position embeddings at any resolution, prefix tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from radio.modeling.kernels.adaptive_linear import AdaptiveLinear
from radio.modeling.layout import concatenate, split


def flatten_patches(x: Tensor, patch_size: int) -> Tensor:
    """Cut images (B, c, H, W) into patches (B, L, c·P·P), raster order, each flattened as (channel, y, x)."""
    return rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=patch_size, q=patch_size)


class PrefixTokens(nn.Module):
    """The learned tokens before the patches: class tokens first, then registers.

    Args:
        num_tokens: Class tokens.
        num_registers: Registers.
        dim: Width C of the tokens.
    """

    def __init__(self, num_tokens: int, num_registers: int, dim: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.num_registers = num_registers
        self.token = nn.Parameter(torch.empty(num_tokens + num_registers, dim))

    def forward(self, batch: int) -> Tensor:
        """The tokens of every image of a batch, (B, T, C)."""
        return self.token.expand(batch, -1, -1)


class PatchGenerator(nn.Module):
    """Patches with cropped position embeddings (CPE; RADIO, Ranzinger et al. 2023, section 3.3).

    Args:
        dim: Width C of the tokens.
        patch_size: Side P of a patch, in pixels.
        grid_size: Side of the stored grid of position embeddings.
        num_cls_tokens, num_registers: Prefix tokens.
        bias: Whether the patch projection has a bias.
        align_corners: How the stored grid is resized.
        video_frames: How many frames of a video are packed along the channels where there is a projection for them.
    """

    def __init__(
        self,
        dim: int,
        patch_size: int,
        grid_size: int,
        num_cls_tokens: int,
        num_registers: int,
        bias: bool,
        align_corners: bool,
        video_frames: int | None = None,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.grid_size = grid_size
        self.num_cls_tokens = num_cls_tokens
        self.num_registers = num_registers
        self.align_corners = align_corners
        self.frames_per_clip = 1
        self.embedder = AdaptiveLinear(3 * patch_size * patch_size, dim, bias=bias)
        if video_frames is not None:
            self.video_embedder = AdaptiveLinear(3 * video_frames * patch_size * patch_size, dim, bias=False)
        self.pos_embed = nn.Parameter(torch.empty(1, grid_size * grid_size, dim))
        self.cls_token = PrefixTokens(num_cls_tokens, num_registers, dim)

    @property
    def num_skip(self) -> int:
        """Number of prefix tokens."""
        return self.num_cls_tokens + self.num_registers

    @contextmanager
    def video_mode(self, t: int) -> Iterator[None]:
        """While training, let every t consecutive images of a batch (one clip) share a random crop."""
        if t < 1:
            raise ValueError(f"a clip has at least 1 frame, got {t}")
        before, self.frames_per_clip = self.frames_per_clip, t
        try:
            yield
        finally:
            self.frames_per_clip = before

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Tokens of normalized images; one projection for the patches of all of them.

        Args:
            x: A batch (B, 3, H, W), or a list of (3, H, W), each of its own size; sides are multiples of the patch
                size. With 3·t channels it is t frames of a video, one after the other.

        Returns:
            (B, T + L, C): the prefix tokens, then the patches in raster order; for a list (1, sum of (T + L), C).
        """
        images = [x] if isinstance(x, Tensor) else [image.unsqueeze(0) for image in x]
        patches = [flatten_patches(image, self.patch_size) for image in images]
        embedder = self.embedder if images[0].shape[1] == 3 else self.video_embedder
        embedded = split(embedder(concatenate(patches)), [part.shape[1] for part in patches])
        parts = []
        for image, part in zip(images, embedded, strict=True):
            grid = (image.shape[2] // self.patch_size, image.shape[3] // self.patch_size)
            positions = (
                self._random_position_embedding(image.shape[0], grid)
                if self.training
                else self.position_embedding(grid)
            )
            parts += [self.cls_token(image.shape[0]), part + positions]
        return torch.cat(parts, dim=1)

    def position_embedding(self, grid: tuple[int, int]) -> Tensor:
        """The position embedding of a grid (h, w) at inference, (1, h·w, C).

        The stored square grid is resized bilinearly to the larger side of the wanted grid, and the top-left h x w
        of it is taken. PyTorch resizes half-precision maps in float32 arithmetic, so the stored grid is not copied
        to float32 first: that copy took longer than the resizing itself. With it gone there is little to gain from
        keeping embeddings from call to call, and no way to notice that weights changed through ``.data``: each
        call computes its own, so none is ever out of date.
        """
        h, w = grid
        if not torch.compiler.is_compiling() and h == w == self.grid_size:
            return self.pos_embed
        side = max(h, w)
        stored = self._stored_grid(self.pos_embed)
        resized = F.interpolate(stored, size=(side, side), mode="bilinear", align_corners=self.align_corners)
        # Columns are selected, not sliced: strides of a slice depend on the orientation, and a traced graph with it.
        columns = torch.arange(w, device=resized.device)
        cropped = rearrange(resized, "1 c h w -> 1 h w c")[:, :h].index_select(2, columns)
        return rearrange(cropped, "1 h w c -> 1 (h w) c")

    def _stored_grid(self, pos_embed: Tensor) -> Tensor:
        """Stored position embeddings as a map (1, C, rows, cols), without a copy."""
        return rearrange(pos_embed, "1 (rows columns) c -> 1 c rows columns", rows=self.grid_size)

    def _random_position_embedding(self, batch: int, grid: tuple[int, int]) -> Tensor:
        """A random crop of the stored grid for every clip of the batch, (B, h·w, C).

        Scale uniform in [sqrt(0.1), 1], aspect ratio log-uniform in [3/4, 4/3], offset uniform.
        """
        frames = self.frames_per_clip
        if batch % frames:
            raise ValueError(f"a batch of {batch} images is not made of clips of {frames} frames")
        clips, device = batch // frames, self.pos_embed.device
        low, log_aspect = math.sqrt(0.1), math.log(4 / 3)
        scale = torch.empty(clips, device=device).uniform_(low, 1)
        aspect = torch.empty(clips, device=device).uniform_(-log_aspect, log_aspect).exp()
        extent = torch.stack([scale * aspect, scale / aspect], dim=-1).clamp(max=1)
        offset = torch.rand(clips, 2, device=device) * (1 - extent)
        h, w = grid
        ys, xs = torch.meshgrid(
            torch.linspace(0, 1, h, device=device), torch.linspace(0, 1, w, device=device), indexing="ij"
        )
        unit = torch.stack([xs, ys], dim=-1)
        points = unit * extent[:, None, None] + offset[:, None, None]
        crop = F.grid_sample(
            self._stored_grid(self.pos_embed.float()).expand(clips, -1, -1, -1),
            points * 2 - 1,
            mode="bilinear",
            align_corners=True,
        )
        embedding = rearrange(crop, "clips c h w -> clips (h w) c").to(self.pos_embed.dtype)
        return embedding.repeat_interleave(frames, dim=0)


class PlainPatchEmbed(nn.Module):
    """The patch projection of a plain ViT, with timm's parameter names."""

    def __init__(self, dim: int, patch_size: int, bias: bool) -> None:
        super().__init__()
        self.patch_size = (patch_size, patch_size)
        self.proj = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Project images (B, 3, H, W) to patches (B, L, C) in raster order."""
        return rearrange(self.proj(x), "b c h w -> b (h w) c")


def resize_plain_position_embedding(
    pos_embed: Tensor, grid: tuple[int, int], stored: int, prefix: int
) -> Tensor:
    """The position embedding of a plain ViT for a grid, resized as timm does it (bicubic, antialiased).

    Args:
        pos_embed: (1, prefix + stored², C).
        grid: Wanted grid (h, w).
        stored: Side of the stored grid.
        prefix: How many leading entries belong to prefix tokens.

    Returns:
        (1, prefix + h·w, C).
    """
    if grid == (stored, stored):
        return pos_embed
    positions = rearrange(
        pos_embed[:, prefix:].float(), "1 (rows columns) c -> 1 c rows columns", rows=stored
    )
    resized = F.interpolate(positions, size=grid, mode="bicubic", antialias=True)
    resized = rearrange(resized, "1 c h w -> 1 (h w) c").to(pos_embed.dtype)
    return torch.cat([pos_embed[:, :prefix], resized], dim=1)
