"""Spectral reparametrization of linear layers in training, and its folding into plain weights.

Source: Zhai et al., "Stabilizing Transformer Training by Preventing Attention Entropy Collapse" (2023): a weight is
used as ``scale · W / σ_max(W)``, with the largest singular value by power iteration (Miyato et al. 2018). RADIO uses it
(arXiv 2312.06709). Names in a state dict are those of released files, so that `load_model` folds them by itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

_FUSED = {"qkv": 3, "w12": 2}
"""Layers whose matrix is several in one: each part has its own singular value."""


class SpectralWeight(nn.Module):
    """``scale · W / σ_max(W)`` of one matrix.

    Args:
        weight: The matrix at the start; the scale starts at its σ_max, so that nothing changes.
        iterations: Power iterations at the start; there is one at every forward pass in training after that.
        eps: Added to σ.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, iterations: int = 20, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        rows, columns = weight.shape
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("_u", F.normalize(torch.randn(rows, generator=generator), dim=0).to(weight))
        self.register_buffer("_v", F.normalize(torch.randn(columns, generator=generator), dim=0).to(weight))
        self._iterate(weight.detach(), iterations)
        self.scale = nn.Parameter(self._sigma(weight.detach()).reshape(1, 1))

    @torch.no_grad()
    def _iterate(self, weight: Tensor, times: int) -> None:
        u, v = self._u, self._v
        for _ in range(times):
            u = F.normalize(weight @ v, dim=0, eps=self.eps)
            v = F.normalize(weight.T @ u, dim=0, eps=self.eps)
        self._u, self._v = u.clone(), v.clone()

    def _sigma(self, weight: Tensor) -> Tensor:
        return self._u @ weight @ self._v + self.eps

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that is used, of the shape of the one that is kept."""
        if self.training:
            self._iterate(weight.detach(), 1)
        return weight * (self.scale / self._sigma(weight))


class SpectralParts(nn.Module):
    """A fused matrix, each part reparametrized by itself."""

    def __init__(self, weight: Tensor, parts: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(SpectralWeight(part) for part in weight.chunk(parts))

    def forward(self, weight: Tensor) -> Tensor:
        """The parts that are used, one below the other."""
        chunks = weight.chunk(len(self.parts))
        return torch.cat([part(chunk) for part, chunk in zip(self.parts, chunks, strict=True)])


def reparametrize(module: nn.Module) -> nn.Module:
    """Reparametrize every linear layer inside of a module, in place; its outputs stay the same.

    Returns:
        The module.
    """
    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    for name, layer in layers:
        parts = _FUSED.get(name.rpartition(".")[2])
        new = SpectralParts(layer.weight, parts) if parts else SpectralWeight(layer.weight)
        parametrize.register_parametrization(layer, "weight", new)
    return module


def fold(module: nn.Module) -> nn.Module:
    """Put the weights that are used in the place of their factors, in place; outputs in eval mode stay the same.

    Returns:
        The module.
    """
    was_training = module.training
    module.eval()
    for layer in [layer for layer in module.modules() if isinstance(layer, nn.Linear)]:
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return module.train(was_training)
