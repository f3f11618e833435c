"""Which module is the backbone of which layout."""

from __future__ import annotations

from torch import nn

from radio.config import RadioConfig
from radio.modeling.backbone import Backbone, DINOv2Backbone
from radio.modeling.eradio.backbone import ERadioBackbone
from radio.modeling.radio1d import Radio1DBackbone

_FAMILIES: dict[str, type[nn.Module]] = {
    "cpe": Backbone,
    "plain": Backbone,
    "dinov2": DINOv2Backbone,
    "eradio": ERadioBackbone,
    "radio1d": Radio1DBackbone,
}


def build_backbone(config: RadioConfig) -> nn.Module:
    """The backbone that a description is of; it follows `radio.modeling.protocol.BackboneProtocol`, as itself or as
    ``inner``."""
    return _FAMILIES[config.layout](config)
