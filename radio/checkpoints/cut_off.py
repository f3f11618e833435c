"""Models whose last blocks were cut off: what is kept for each block goes with them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_BLOCK = re.compile(r"model\.(?:inner\.)?blocks\.(\d+)\.")
_PER_BLOCK = {"alphas": 1, "means": 2, "rotation": 3}
"""What the intermediate normalizer has for each block, and in how many dimensions; a shared rotation has fewer."""


def count_blocks(names: Mapping[str, Tensor]) -> int:
    """The number of blocks that tensors belong to."""
    return len({found[1] for name in names if (found := _BLOCK.match(name))})


def without_cut_blocks(tensors: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The tensors, of the intermediate normalizer only what is for the first blocks."""
    kept = dict(tensors)
    for name, dimensions in _PER_BLOCK.items():
        full = f"inter_feature_normalizer.{name}"
        value = kept.get(full)
        if depth and value is not None and value.ndim == dimensions:
            kept[full] = value[:depth]
    return kept
