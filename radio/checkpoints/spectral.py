"""Fold spectral reparametrization into plain weights.

Source: Zhai et al., "Stabilizing Transformer Training by Preventing Attention Entropy Collapse" (2023), with the
power iteration of Miyato et al., "Spectral Normalization" (2018).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from radio.errors import CheckpointError

_MARK = ".parametrizations.weight."


def fold_spectral(tensors: dict[str, Tensor], spectral_reparam: Any) -> dict[str, Tensor]:
    """Replace every reparametrized weight by its effective value.

    Args:
        tensors: State dict, with or without ``X.parametrizations.weight.…`` entries.
        spectral_reparam: The field of the checkpoint's arguments, which carries the epsilon.

    Returns:
        A state dict with plain ``X.weight`` entries, all other tensors untouched.

    Raises:
        CheckpointError: Factors are missing or do not fit their weight.
        TypeError, ValueError: The epsilon is not a number.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    folded: dict[str, Tensor] = {}
    for name, value in tensors.items():
        layer, mark, rest = name.partition(_MARK)
        if mark:
            groups.setdefault(layer, {})[rest] = value
        else:
            folded[name] = value
    if groups:
        eps = float(spectral_reparam.get("eps", 1e-12)) if isinstance(spectral_reparam, dict) else 1e-6
        for layer, factors in groups.items():
            folded[f"{layer}.weight"] = _effective_weight(layer, factors, eps)
    return folded


def _effective_weight(layer: str, factors: dict[str, Tensor], eps: float) -> Tensor:
    if "original" not in factors:
        raise CheckpointError(f"{layer}{_MARK}original is missing")
    weight = factors["original"]
    if not any(name.startswith("0.parts.") for name in factors):
        return _fold(weight, factors, "0.", layer, eps)
    chunks = weight.chunk(2 if layer.endswith("mlp.w12") else 3, dim=0)
    parts = [
        _fold(chunk, factors, f"0.parts.{i}.", layer, eps) if f"0.parts.{i}._u" in factors else chunk
        for i, chunk in enumerate(chunks)
    ]
    return torch.cat(parts, dim=0)


def _fold(weight: Tensor, factors: dict[str, Tensor], prefix: str, layer: str, eps: float) -> Tensor:
    try:
        scale, u, v = (factors[prefix + name].float() for name in ("scale", "_u", "_v"))
        version = int(factors.get(prefix + "_sn_version", torch.tensor(1)))
        matrix = weight.float().flatten(1)
        u = F.normalize(matrix @ v, dim=0, eps=eps)
        v = F.normalize(matrix.T @ u, dim=0, eps=eps)
        sigma = u @ matrix @ v + eps
        if version == 2:
            scale = F.softplus(scale) + 0.05
        return (weight.float() * (scale / sigma).reshape(1, 1)).to(weight.dtype)
    except KeyError as error:
        raise CheckpointError(f"{layer}{_MARK}{error.args[0]} is missing") from error
    except (RuntimeError, IndexError, ValueError) as error:
        raise CheckpointError(f"the spectral factors of {layer} do not fit its weight ({error})") from error
