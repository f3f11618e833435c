"""Random weights for a network that is trained from scratch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from radio.config import RadioConfig
from radio.modeling.block import LayerScale
from radio.modeling.input_conditioner import InputConditioner
from radio.modeling.network import RADIONetwork
from radio.modeling.normalizers import FeatureNormalizer, IntermediateFeatureNormalizer

_CLIP_MEAN, _CLIP_STD = (0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)


@torch.no_grad()
def random_network(config: RadioConfig) -> RADIONetwork[Any]:
    """A network without adaptors, initialized as vision transformers are (truncated normal, 0.02).

    It normalizes pixels as CLIP does; its feature normalizers change nothing.
    """
    with torch.device("meta"):
        network: RADIONetwork[Any] = RADIONetwork(config)
    network.to_empty(device="cpu")
    for parameter in network.parameters():
        nn.init.trunc_normal_(parameter, std=0.02)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, LayerScale):
            module.gamma.fill_(1e-5)
        elif isinstance(module, InputConditioner):
            module.norm_mean.copy_(torch.tensor(_CLIP_MEAN).view(3, 1, 1))
            module.norm_std.copy_(torch.tensor(_CLIP_STD).view(3, 1, 1))
        elif isinstance(module, FeatureNormalizer):
            module.mean.zero_()
            module.tx.copy_(torch.eye(len(module.mean)))
        elif isinstance(module, IntermediateFeatureNormalizer):
            module.means.zero_()
            module.alphas.fill_(1.0)
            module.rotation.copy_(torch.eye(module.means.shape[-1]).expand_as(module.rotation))
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return network
