"""Encodings as NumPy arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from radio.modeling.outputs import Resolution


class ArrayOutput(NamedTuple):
    """What `RadioOutput` is for tensors."""

    summary: NDArray[Any]
    features: NDArray[Any]


@dataclass(frozen=True, eq=False)
class ArrayEncoding:
    """The features of one image as NumPy arrays, with the shapes of an `Encoding`.

    Attributes:
        summary, features, summary_by_teacher, adaptors, image_size, grid: As those of the `Encoding`.
        positions: With token merging, (1, K, 2): mean row and column of each token's patches; else None.
        sizes: With token merging, (1, K): how many patches each token stands for; else None.
    """

    summary: NDArray[Any]
    features: NDArray[Any]
    summary_by_teacher: Mapping[str, NDArray[Any]]
    adaptors: Mapping[str, ArrayOutput]
    image_size: Resolution
    grid: tuple[int, int]
    positions: NDArray[Any] | None = None
    sizes: NDArray[Any] | None = None

    def __repr__(self) -> str:
        """Shapes and dtypes, not numbers."""
        arrays = {"summary": self.summary, "features": self.features}
        parts = [f"{name}=array({'x'.join(map(str, a.shape))}, {a.dtype})" for name, a in arrays.items()]
        parts += [f"grid={self.grid}", f"adaptors={list(self.adaptors)}"]
        return f"ArrayEncoding({', '.join(parts)})"


def as_array(tensor: Tensor) -> NDArray[Any]:
    """A tensor from any device as an array of its own; bfloat16, which NumPy does not have, as float32."""
    known = tensor.float() if tensor.dtype is torch.bfloat16 else tensor
    return known.detach().cpu().numpy().copy()
