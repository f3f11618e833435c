"""The heads, as modules: vectors or maps of features in, scores, logits or depths out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio.tasks.knn import classify


class NeighborsClassifier(nn.Module):
    """Weighted k-nearest neighbors, see `radio.tasks.knn`.

    Args:
        channels: D, length of the vectors.
        num_classes: K.
        rows: Number N of labeled vectors, which are its weights: ``vectors`` (N, D) float16 and ``labels`` (N,).
        k: Neighbors that vote.
        temperature: Of the votes.
    """

    vectors: Tensor
    labels: Tensor

    def __init__(
        self, channels: int, num_classes: int, rows: int, k: int = 20, temperature: float = 0.07
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.k = k
        self.temperature = temperature
        self.register_buffer("vectors", torch.zeros(rows, channels, dtype=torch.float16))
        self.register_buffer("labels", torch.zeros(rows, dtype=torch.long))

    def forward(self, vectors: Tensor) -> Tensor:
        """Each class's share of the votes, (B, K), for vectors (B, D)."""
        found = classify(
            vectors, self.vectors, self.labels, self.num_classes, self.k, self.temperature, self.num_classes
        )
        return torch.zeros_like(found.scores).scatter(1, found.classes, found.scores)


class SegmentationHead(nn.Module):
    """Batch normalization and a 1×1 convolution: a linear classifier of patches.

    Source: the linear evaluation of DINOv2 (arXiv 2304.07193, section 7.4) and AM-RADIO (arXiv 2312.06709, section 5).

    Args:
        channels: C of the features.
        num_classes: K.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.classify = nn.Conv2d(channels, num_classes, kernel_size=1)
        assert self.classify.bias is not None
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, K, h, w) of features (B, C, h, w)."""
        logits: Tensor = self.classify(self.norm(features))
        return logits


class DepthHead(nn.Module):
    """The last feature map at four scales, fused from coarse to fine, and a distribution over bins of depth.

    The fusion is DPT's (arXiv 2103.13413). Its four maps come from four blocks; these come from the last one, as in
    ViTDet's simple pyramid (arXiv 2203.16527), because its features are those that were trained and are cached. The
    depth is the mean of 256 evenly spaced bins, weighted by a softmax (AdaBins, arXiv 2011.14141, section 3).

    Args:
        channels: C of the features.
        min_depth, max_depth: The range of the bins, in meters.
        width: Channels inside.
        bins: Number of bins.
    """

    bins: Tensor

    def __init__(
        self, channels: int, min_depth: float, max_depth: float, width: int = 128, bins: int = 256
    ) -> None:
        super().__init__()
        self.width = width
        if not 0 < min_depth < max_depth:
            raise ValueError(f"depths must be 0 < min_depth < max_depth, got {min_depth} and {max_depth}")
        self.norm = nn.BatchNorm2d(channels)
        self.scales = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1), resample)
            for resample in (
                nn.Conv2d(width, width, 3, stride=2, padding=1),
                nn.Identity(),
                nn.ConvTranspose2d(width, width, 2, stride=2),
                nn.ConvTranspose2d(width, width, 4, stride=4),
            )
        )
        self.fusions = nn.ModuleList(_Fusion(width) for _ in self.scales)
        self.score = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1), nn.ReLU(), nn.Conv2d(width // 2, bins, 1)
        )
        self.register_buffer("bins", torch.linspace(min_depth, max_depth, bins))

    def forward(self, features: Tensor) -> Tensor:
        """Depths (B, 1, 4h, 4w) in meters of features (B, C, h, w)."""
        features = self.norm(features)
        fused: Tensor | None = None
        for scale, fuse in zip(self.scales, self.fusions, strict=True):
            fused = fuse(scale(features), fused)
        assert fused is not None
        shares = self.score(fused).softmax(dim=1)
        return torch.einsum("bnhw,n->bhw", shares, self.bins)[:, None]


class _Fusion(nn.Module):
    """One map, and what the coarser ones gave, enlarged to its size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = _Residual(width)
        self.after = _Residual(width)

    def forward(self, features: Tensor, coarser: Tensor | None) -> Tensor:
        found: Tensor = self.before(features)
        if coarser is not None:
            found = found + F.interpolate(
                coarser, size=found.shape[-2:], mode="bilinear", align_corners=False
            )
        result: Tensor = self.after(found)
        return result


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.second(self.first(features.relu()).relu())
