"""The released versions as models of timm, for detection and segmentation frameworks that build their backbone there.

>>> import timm, radio.timm
>>> model = timm.create_model("radio_v2_5_b", pretrained=True, features_only=True, out_indices=[2, 5, 8, 11])
>>> maps = model(pixels)  # four maps (B, C, H/P, W/P)

A name is the version with underscores, because a dot in timm's names starts a tag.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, resolve_pretrained_cfg
from torch import nn

from radio.architectures import release_config
from radio.catalog import RELEASES, Release
from radio.loading import load_model
from radio.modeling.network import RADIONetwork
from radio.timm.random_weights import random_network
from radio.timm.vit import RADIOViT

__all__ = ["RADIOViT", "timm_name"]


def timm_name(release: Release) -> str:
    """timm's name of a version: ``"radio_v2_5_b"`` for ``"radio_v2.5-b"``."""
    return release.version.replace(".", "_").replace("-", "_")


def _pretrained_cfg(release: Release) -> dict[str, Any]:
    return {
        "hf_hub_id": release.repository,
        "hf_hub_filename": release.filename,
        "license": release.license,
        "input_size": (3, *release.preferred_resolution),
        "mean": (0.0, 0.0, 0.0),  # the model normalizes by itself
        "std": (1.0, 1.0, 1.0),
        "crop_pct": 1.0,
        "num_classes": 0,
        "classifier": "head",
    }


def _create(
    release: Release,
    pretrained: bool,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    vitdet_window_size: int | None = None,
    dynamic_img_size: bool = True,
    **kwargs: Any,
) -> nn.Module:
    """What timm calls to build a model. Weights of RADIO come through `radio.load_model`, others through timm."""
    name = timm_name(release)
    source = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay)
    stored_by_timm = source.source in ("hf-hub", "local-dir") or source.state_dict or source.url
    device, dtype = device or "cpu", dtype or torch.float32
    if pretrained and not stored_by_timm:
        network: RADIONetwork[Any] = load_model(
            source.file or release.version,
            device=device,
            dtype=dtype,
            vitdet_window_size=vitdet_window_size,
            cache_dir=cache_dir,
        )
    else:
        config = replace(release_config(release), vitdet_window_size=vitdet_window_size)
        network = random_network(config).to(device=device, dtype=dtype)
    model = build_model_with_cfg(
        lambda **settings: RADIOViT(network, **settings),
        name,
        pretrained and bool(stored_by_timm),
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=pretrained_cfg_overlay,
        cache_dir=cache_dir,
        feature_cfg={"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"},
        **kwargs,
    )
    return model.eval()


def _entry_point(release: Release) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(release, pretrained, **kwargs)

    create.__name__ = create.__qualname__ = timm_name(release)
    create.__doc__ = f"{release.version} as a model of timm."
    return create


_VITS = [release for release in RELEASES if release.family == "vit"]
default_cfgs = generate_default_cfgs({timm_name(release): _pretrained_cfg(release) for release in _VITS})
"""Read by timm's `register_model`."""

for _release in _VITS:
    globals()[timm_name(_release)] = register_model(_entry_point(_release))
