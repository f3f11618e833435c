"""What a model returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from einops import rearrange
from torch import Tensor

Grid = tuple[int, int]
"""Patches down and across."""

FeatureFormat = Literal["NLC", "NCHW"]


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

    def __repr__(self) -> str:
        return describe_fields("RadioOutput", self._asdict())


Output = RadioOutput | dict[str, RadioOutput]
"""What one image or batch gives: with adaptors one entry for each, and ``"backbone"``."""


def backbone_output(output: Output) -> RadioOutput:
    """The backbone's part of an output with or without adaptors."""
    return output["backbone"] if isinstance(output, dict) else output


def to_format(features: Tensor, grid: Grid, feature_fmt: FeatureFormat) -> Tensor:
    """Spatial features (B, h·w, C) in the asked format."""
    if feature_fmt == "NLC":
        return features
    return rearrange(features, "b (h w) c -> b c h w", h=grid[0], w=grid[1])


def describe_fields(name: str, fields: Mapping[str, Any]) -> str:
    """A representation that fits on a line: shapes, dtypes and devices instead of numbers."""
    parts = (f"{key}={describe_value(value)}" for key, value in fields.items())
    return f"{name}({', '.join(parts)})"


def describe_value(value: Any) -> str:
    """A tensor as its shape, dtype and device; a dict entry by entry; anything else as it represents itself."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"Tensor({'x'.join(map(str, value.shape))}, {dtype}, {value.device})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {describe_value(item)}" for key, item in value.items()) + "}"
    return repr(value)
