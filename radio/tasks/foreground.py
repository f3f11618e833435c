"""What an image is about: foreground and background by the first principal component of its features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from radio.tasks.pca import PCAFit

_LEVELS = 256


def foreground_mask(fit: PCAFit, features: Tensor) -> Tensor:
    """Patches on the side of the first component that fewer patches of the image's border are on.

    The first component of self-supervised features parts objects from their ground (Oquab et al. 2023, "DINOv2",
    arXiv 2304.07193, figure 1). The cut is found in each image, as the value that parts its patches best (Otsu 1979),
    after every patch was averaged with its neighbors, so that no single patches stand out. Which side is the object's
    is not said by a component, whose sign means nothing, but objects touch the border less than the ground does.

    Args:
        fit: Of this image, or of several that show the same kind of object.
        features: (C, h, w), floating point.

    Returns:
        (h, w) bool, on the CPU.

    Raises:
        ValueError: The features have another width than those of the fit.
    """
    if features.ndim != 3:
        raise ValueError(f"expected features of one image (C, h, w), got {tuple(features.shape)}")
    component = fit.project(features)[:1].cpu()
    component = F.avg_pool2d(component, 3, stride=1, padding=1, count_include_pad=False)[0]
    high = component > otsu_threshold(component)
    border = torch.cat([high[0], high[-1], high[1:-1, 0], high[1:-1, -1]])
    return high if border.float().mean() < 0.5 else ~high


def otsu_threshold(values: Tensor) -> float:
    """The value that parts numbers into two groups whose means differ most for their sizes (Otsu 1979).

    Args:
        values: Any shape, at least one, floating point.
    """
    low, high = float(values.min()), float(values.max())
    counts = torch.histc(values.float(), _LEVELS, low, high) if high > low else torch.ones(1)
    shares = counts.double() / counts.sum()
    centers = torch.linspace(low, high, 2 * len(shares) + 1, dtype=torch.float64)[1::2]
    below = shares.cumsum(0)[:-1]
    moment = (shares * centers).cumsum(0)
    between = (moment[-1] * below - moment[:-1]) ** 2 / (below * (1 - below)).clamp_min(1e-12)
    if not len(between):
        return low
    best = (between == between.max()).nonzero()[:, 0].double().mean()
    return low + (float(best) + 1) * (high - low) / len(shares)
