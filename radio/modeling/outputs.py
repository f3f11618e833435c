"""What a model returns."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class Resolution(NamedTuple):
    """Height and width of an image, in pixels."""

    height: int
    width: int


class RadioOutput(NamedTuple):
    """The result for a batch of images of one size.

    Attributes:
        summary: One vector per image, (B, D).
        features: The spatial features, (B, L, C) for "NLC" or (B, C, H/P, W/P) for "NCHW".
    """

    summary: Tensor
    features: Tensor

    def to(self, *args: Any, **kwargs: Any) -> RadioOutput:
        """Move or convert both tensors, as `torch.Tensor.to` does."""
        return RadioOutput(self.summary.to(*args, **kwargs), self.features.to(*args, **kwargs))
