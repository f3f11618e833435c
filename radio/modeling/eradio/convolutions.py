"""The convolutional parts of E-RADIO: stem, C2f stages, downsampling, neck. All maps are (B, C, h, w)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """Batch normalization without the counter of batches, which released files may lack and nothing here reads."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-5)
        self.num_batches_tracked = None

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # PyTorch's own method would put the counter back.
        nn.Module._load_from_state_dict(self, *args, **kwargs)


class ConvBN(nn.Module):
    """A convolution without bias, then batch normalization."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = BatchNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class Stem(nn.Module):
    """From pixels to a map at a quarter of the resolution."""

    def __init__(self, stem_dim: int, dim: int) -> None:
        super().__init__()
        self.conv_down = nn.Sequential(
            ConvBN(3, stem_dim, 3, stride=2), nn.ReLU(), ConvBN(stem_dim, dim, 3, stride=2), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, dim, H/4, W/4)."""
        return self.conv_down(x)


class Bottleneck(nn.Module):
    """Two 3 x 3 convolutions with a residual around them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cv1 = ConvBN(dim, dim, 3)
        self.cv2 = ConvBN(dim, dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.silu(self.cv2(F.silu(self.cv1(x))))


class C2f(nn.Module):
    """Half of the channels pass through a chain of bottlenecks; every link of the chain is kept and mixed at the end.

    Source: the C2f module of YOLOv8 (Jocher et al. 2023), after CSPNet (Wang et al. 2020).
    """

    def __init__(self, dim: int, num_bottlenecks: int) -> None:
        super().__init__()
        half = dim // 2
        self.cv1 = ConvBN(dim, 2 * half, 1)
        self.m = nn.ModuleList(Bottleneck(half) for _ in range(num_bottlenecks))
        self.cv2 = ConvBN((2 + num_bottlenecks) * half, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        links = list(F.silu(self.cv1(x)).chunk(2, dim=1))
        for bottleneck in self.m:
            links.append(bottleneck(links[-1]))
        return F.silu(self.cv2(torch.cat(links, dim=1)))


class Downsample(nn.Module):
    """Half the resolution, twice the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = ConvBN(dim, 2 * dim, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(x)


class NeckBranch(nn.Module):
    """One level's part of the dense map: upsampled, smoothed by a depthwise convolution, projected."""

    def __init__(self, dim: int, outputs: int, upsample: int) -> None:
        super().__init__()
        self.upsample = upsample
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm = BatchNorm(dim)
        self.conv2 = nn.Conv2d(dim, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.upsample > 1:
            x = F.interpolate(x, scale_factor=self.upsample, mode="nearest")
        return self.conv2(self.norm(self.conv1(x)))


class Neck(nn.Module):
    """The dense map at 1/16 of the resolution: the sum of what the two attention levels contribute.

    Args:
        dim: Width of the third level; the fourth is twice as wide.
        outputs: Width E of the map.
        projects_first: Whether the third level's branch has weights; it is the identity otherwise.
    """

    def __init__(self, dim: int, outputs: int, projects_first: bool) -> None:
        super().__init__()
        first = NeckBranch(dim, outputs, upsample=1) if projects_first else nn.Identity()
        self.neck_features_proj = nn.ModuleList([first, NeckBranch(2 * dim, outputs, upsample=2)])

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        first, second = self.neck_features_proj
        return first(fine) + second(coarse)
