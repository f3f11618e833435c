"""What distillation and evaluation ask of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class TeacherOutput(NamedTuple):
    """What a teacher makes of a batch.

    Attributes:
        summary: (B, D), or None for a teacher that has none.
        features: (B, C, h, w).
    """

    summary: Tensor | None
    features: Tensor


class Teacher(Protocol):
    """A frozen model. It normalizes pixels by itself.

    Attributes:
        size: Side of the square images that it was made for, in pixels.
        stride: Pixels between positions of its feature map.
        fixed: Whether it takes only images of `size`; otherwise any side that is a multiple of `stride`.
        summary_dim: D, or 0 without a summary.
        feature_dim: C.
    """

    size: int
    stride: int
    fixed: bool
    summary_dim: int
    feature_dim: int

    def __call__(self, pixels: Tensor, names: Sequence[str] = ()) -> TeacherOutput:
        """Features of a batch, without gradients.

        Args:
            pixels: (B, 3, H, W) float32 in [0, 1].
            names: The images' names, for teachers that know images by name.
        """
        ...


class Normalizer:
    """``(x - mean) / std`` per channel.

    Args:
        mean, std: Red, green, blue, for pixels in [0, 1].
        device: Where.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], device: str | torch.device = "cpu"
    ) -> None:
        self.mean = torch.tensor(list(mean), device=device).view(3, 1, 1)
        self.std = torch.tensor(list(std), device=device).view(3, 1, 1)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalize (B, 3, H, W)."""
        return (pixels.to(self.mean.device).float() - self.mean) / self.std


def probe(teacher: Teacher) -> tuple[int, int, int]:
    """Summary width, feature width and stride of a teacher, from one pass over a gray image."""
    output = teacher(torch.full((1, 3, teacher.size, teacher.size), 0.5))
    summary = 0 if output.summary is None else output.summary.shape[1]
    return summary, output.features.shape[1], max(1, round(teacher.size / output.features.shape[2]))
