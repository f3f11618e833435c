"""The shapes of the released versions, so that one can be built without its file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from radio.catalog import Release
from radio.config import RadioConfig


@dataclass(frozen=True)
class _Tokens:
    """A version's architecture, its prefix tokens and what else differs from it.

    Attributes:
        architecture: The released name of the architecture.
        num_cls_tokens, num_registers: The split of the prefix tokens.
        changes: Other fields of `RadioConfig`.
    """

    architecture: str
    num_cls_tokens: int
    num_registers: int
    changes: dict[str, Any] = field(default_factory=dict)


_BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_dim": 3072}
_LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096}
_SO400M = {"embed_dim": 1152, "depth": 27, "num_heads": 16, "mlp_dim": 4304}
_HUGE = {"embed_dim": 1280, "depth": 32, "num_heads": 16, "mlp_dim": 5120}
_GIANT = {"embed_dim": 1536, "depth": 40, "num_heads": 24, "mlp_dim": 6144}

_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vit_base_patch16_224": _BASE,
    "vit_base_patch16_v2_224": _BASE | {"layer_scale": True},
    "vit_large_patch16_224": _LARGE,
    "vit_large_patch16_v2_224": _LARGE | {"layer_scale": True},
    "vit_so400m_patch16_224": _SO400M,
    "vit_huge_patch14_224": _HUGE,
    "vit_huge_patch16_224": _HUGE,
    "vit_giant_patch16_224": _GIANT,
    "dino_v2_g_student": _GIANT
    | {
        "mlp_dim": 4096,
        "layout": "dinov2",
        "patch_bias": True,
        "swiglu": True,
        "layer_scale": True,
        "final_norm": True,
    },
}

_VERSIONS = {
    "radio_v2.5-b": _Tokens("vit_base_patch16_224", 4, 4),
    "radio_v2.5-l": _Tokens("vit_large_patch16_224", 4, 4),
    "radio_v2.5-h": _Tokens("vit_huge_patch16_224", 4, 4),
    "radio_v2.5-h-norm": _Tokens(
        "vit_huge_patch16_224", 4, 4, {"feature_normalizer": True, "intermediate_normalizer": "shared"}
    ),
    "radio_v2.5-g": _Tokens("dino_v2_g_student", 1, 4),
    "radio_v2.1": _Tokens("vit_huge_patch16_224", 3, 5),
    "radio_v2": _Tokens("vit_huge_patch16_224", 3, 5),
    "radio_v1": _Tokens("vit_huge_patch14_224", 1, 0),
    "c-radio_v2-g": _Tokens("vit_giant_patch16_224", 4, 4, {"scaled_norm": True}),
    "c-radio_v2-vlm-h": _Tokens("vit_huge_patch16_224", 4, 12),
    "c-radio_v3-b": _Tokens("vit_base_patch16_v2_224", 4, 4),
    "c-radio_v3-l": _Tokens("vit_large_patch16_v2_224", 4, 4),
    "c-radio_v3-h": _Tokens("vit_huge_patch16_224", 4, 4),
    "c-radio_v3-g": _Tokens("vit_giant_patch16_224", 4, 4),
    "c-radio_v4-so400m": _Tokens("vit_so400m_patch16_224", 3, 7),
    "c-radio_v4-h": _Tokens("vit_huge_patch16_224", 3, 7),
}

_WITHOUT_SUMMARY = ("sam", "sam3")
"""Teachers that only teach spatial features: their class tokens are no part of the summary."""


def release_config(release: Release) -> RadioConfig:
    """What shapes a released version, as the catalogue knows it, without adaptors.

    Args:
        release: A row of the catalogue that this library supports.
    """
    tokens = _VERSIONS[release.version]
    taught = [name for name in release.adaptors if name not in _WITHOUT_SUMMARY]
    per_teacher = tokens.num_cls_tokens > 1
    shape = {"layout": "cpe"} | _ARCHITECTURES[tokens.architecture] | tokens.changes
    config = RadioConfig(
        architecture=tokens.architecture,
        patch_size=release.patch_size,
        grid_size=release.max_resolution // release.patch_size,
        num_cls_tokens=tokens.num_cls_tokens,
        num_registers=tokens.num_registers,
        summary_idxs=tuple(range(len(taught))) if per_teacher else (0,),
        summary_names=tuple(taught) if per_teacher else (),
        **shape,
    )
    return replace(
        config,
        version=release.version,
        max_resolution=release.max_resolution,
        preferred_resolution=release.preferred_resolution,
        vitdet_num_global=release.vitdet_num_global,
        vitdet_num_windowed=release.vitdet_num_windowed,
        pos_embed_align_corners=release.pos_embed_align_corners,
    )
