"""transformers' own ``RadioModel`` (``model_type`` ``"radio"``): its names and config fields, read and written.

Only what its documentation and its objects say is used; transformers itself is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from radio.checkpoints.guard import brief
from radio.checkpoints.shapes import whole_number
from radio.config import RadioConfig
from radio.errors import CheckpointError

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "num_channels": 3,
    "num_cls_tokens": 3,
    "num_registers": 7,
    "summary_idxs": (0, 1),
    "norm_mean": _CLIP_MEAN,
    "norm_std": _CLIP_STD,
    "max_img_size": 2048,
}
"""The documented defaults of ``RadioConfig``, for configs that leave out what equals its default."""

_ARCHITECTURES = {
    768: "vit_base_patch16_224",
    1024: "vit_large_patch16_224",
    1152: "vit_so400m_patch16_224",
    1280: "vit_huge_patch16_224",
    1536: "vit_giant_patch16_224",
}
_NAMES = (
    (re.compile(r"embeddings\.position_embedding"), "model.patch_generator.pos_embed"),
    (re.compile(r"embeddings\.cls_register_token"), "model.patch_generator.cls_token.token"),
    (re.compile(r"embeddings\.patch_projection\."), "model.patch_generator.embedder."),
    (re.compile(r"embeddings\.video_patch_projection\."), "model.patch_generator.video_embedder."),
    (re.compile(r"encoder\.layer\.(\d+)\."), r"model.blocks.\1."),
    (re.compile(r"(model\.blocks\.\d+)\.attention\.o_proj\."), r"\1.attn.proj."),
    (re.compile(r"(model\.blocks\.\d+)\.attention\.([qkv])_proj\."), r"\1.attn.\2_proj."),
    (re.compile(r"(model\.blocks\.\d+)\.mlp\.down_proj\."), r"\1.mlp.w3."),
)
_JOINED = (
    (("attn.q_proj", "attn.k_proj", "attn.v_proj"), "attn.qkv"),
    (("mlp.gate_proj", "mlp.up_proj"), "mlp.w12"),
)
_SCALE = re.compile(r"(model\.blocks\.\d+)\.layer_scale([12])\.lambda1")


def from_native_names(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Tensors under this library's names; those that have them already stay as they are.

    LayerScale of ones is left out, which transformers' class always has.

    Raises:
        CheckpointError: A part of a joined weight is missing, or LayerScale is given twice and differently.
    """
    named: dict[str, Tensor] = {}
    for name, value in tensors.items():
        for pattern, replacement in _NAMES:
            name = pattern.sub(replacement, name, count=1) if pattern.match(name) else name
        named[name] = value
    for parts, whole in _JOINED:
        named = _join(named, parts, whole, source)
    return _with_layer_scale(named, source)


def _join(tensors: dict[str, Tensor], parts: tuple[str, ...], whole: str, source: str) -> dict[str, Tensor]:
    joined: dict[str, Tensor] = {}
    for name, value in tensors.items():
        part = next(
            (part for part in parts if name.startswith("model.blocks.") and f".{part}." in name), None
        )
        if part is None:
            joined[name] = value
        elif part == parts[0]:
            pieces = [tensors.get(name.replace(f".{part}.", f".{other}.")) for other in parts]
            if any(piece is None for piece in pieces):
                raise CheckpointError(f"{source}: {brief(name)} is there without {' and '.join(parts[1:])}")
            joined[name.replace(f".{part}.", f".{whole}.")] = torch.cat([p for p in pieces if p is not None])
    return joined


def _with_layer_scale(tensors: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    scales = {name: match for name in tensors if (match := _SCALE.fullmatch(name))}
    trivial = all(bool((tensors[name] == 1).all()) for name in scales)
    kept = {name: value for name, value in tensors.items() if name not in scales}
    for name, match in scales.items():
        ours = f"{match[1]}.ls{match[2]}.gamma"
        same = next((n for n in (ours, ours.replace(".gamma", ".grandma")) if n in kept), None)
        if same is not None and not torch.equal(kept[same], tensors[name]):
            raise CheckpointError(f"{source}: {brief(same)} and {brief(name)} mean the same but differ")
        if same is None and not trivial:
            kept[ours] = tensors[name]
    return kept


def is_native(fields: Mapping[str, Any]) -> bool:
    """Whether a config has the fields of transformers' class, perhaps among others."""
    return fields.get("model_type") == "radio" and {"num_attention_heads", "num_cls_tokens"} <= fields.keys()


def from_native_fields(
    fields: Mapping[str, Any], tensors: dict[str, Tensor], source: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """A config of transformers' class as arguments and fields of a Hub repository.

    Args:
        fields: The config; with ``args`` where this library wrote it and transformers saved it again.
        tensors: The model's tensors, under this library's names.
        source: The file, for messages.

    Returns:
        The arguments, the repository's fields, and the tensors with what only the config holds: the constants of the
        normalization in a vision tower, which leaves that to its preprocessor.

    Raises:
        CheckpointError: A field has the wrong type, or says something that this library does not build.
    """
    get = {**_DEFAULTS, **{name: value for name, value in fields.items() if value is not None}}.get
    swiglu = bool(get("use_swiglu_ffn"))
    for name, allowed in (("num_channels", 3), ("layer_norm_eps", 1e-6), ("hidden_act", "gelu")):
        if get(name) != allowed and not (name == "hidden_act" and swiglu):
            raise CheckpointError(f"{source}: {name}={brief(get(name))} is not supported, only {allowed!r}")
    number = {
        name: whole_number(get(name), name, source, least)
        for name, least in (
            ("num_attention_heads", 1),
            ("num_cls_tokens", 1),
            ("num_registers", 0),
            ("max_img_size", 1),
        )
    }
    _check_sizes(fields, tensors, number, source)
    args = dict(fields.get("args") or {})
    width = tensors["model.patch_generator.pos_embed"].shape[-1]
    args.setdefault("model", _ARCHITECTURES.get(width, "vit_base_patch16_224"))
    args["model_kwargs"] = {**(args.get("model_kwargs") or {}), "num_heads": number["num_attention_heads"]}
    stored_dtype = str(tensors["model.patch_generator.pos_embed"].dtype).removeprefix("torch.")
    args["dtype"] = fields.get("dtype") or fields.get("torch_dtype") or stored_dtype
    repository = {**fields, "args": args, "num_cls_tokens": number["num_cls_tokens"]}
    if "args" not in fields:
        largest = max(2048, number["max_img_size"])
        repository |= {
            "max_resolution": fields.get("max_resolution") or largest,
            "preferred_resolution": fields.get("preferred_resolution") or [512, 512],
        }
        repository.setdefault("pos_embed_align_corners", False)
    return args, repository, _with_constants(tensors, fields, get, source)


def _check_sizes(
    fields: Mapping[str, Any], tensors: Mapping[str, Tensor], number: Mapping[str, int], source: str
) -> None:
    """The config and the tensors must be of one model.

    Raises:
        CheckpointError: They are not.
    """
    prefix = tensors.get("model.patch_generator.cls_token.token")
    if prefix is None or "model.patch_generator.pos_embed" not in tensors:
        raise CheckpointError(f"{source}: the config is of transformers' RadioModel, the tensors are not")
    depth = len({name.split(".")[2] for name in tensors if name.startswith("model.blocks.")})
    sizes = {
        "hidden_size": tensors["model.patch_generator.pos_embed"].shape[-1],
        "num_hidden_layers": depth,
    }
    for name, size in sizes.items():
        if fields.get(name) not in (None, size):
            raise CheckpointError(
                f"{source}: the config says {name}={brief(fields[name])}, the tensors say {size}"
            )
    if number["num_cls_tokens"] + number["num_registers"] != prefix.shape[0]:
        raise CheckpointError(
            f"{source}: the config says {number['num_cls_tokens']} class tokens and {number['num_registers']} "
            f"registers, the tensors have {prefix.shape[0]} in all"
        )


def with_conditioner(tensors: dict[str, Tensor], fields: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """The tensors, with the constants of the normalization where they are missing: those of the config, or those that
    RADIO has always had.

    Raises:
        CheckpointError: The config's are not three numbers each.
    """
    added = dict(tensors)
    for name in ("norm_mean", "norm_std"):
        values = _DEFAULTS[name] if fields.get(name) is None else fields[name]
        if not isinstance(values, (list, tuple)) or len(values) != 3:
            raise CheckpointError(f"{source}: {name} must be three numbers, got {brief(values)}")
        added.setdefault(
            f"input_conditioner.{name}", torch.tensor(values, dtype=torch.float32).reshape(3, 1, 1)
        )
    return added


def _with_constants(
    tensors: dict[str, Tensor], fields: Mapping[str, Any], get: Any, source: str
) -> dict[str, Tensor]:
    """The tensors, and what only the config says where they are missing."""
    added = with_conditioner(tensors, fields, source)
    if "summary_idxs" not in added:
        idxs = get("summary_idxs")
        if not isinstance(idxs, (list, tuple)):
            raise CheckpointError(f"{source}: summary_idxs must be a list, got {brief(idxs)}")
        numbers = [whole_number(i, "summary_idxs", source, least=0) for i in idxs]
        added["summary_idxs"] = torch.tensor(numbers, dtype=torch.int64)
    return added


def why_not_native(config: RadioConfig) -> list[str]:
    """What of a model transformers' class has no place for, so that it would give other features. Empty if none.

    Adaptors, intermediate normalizers and ViTDet windows are not listed: without them the class gives the features
    that this model gives without them. How position embeddings are resized is not listed either; the class always
    does it with ``align_corners=False``.
    """
    reasons = {
        f"the layout {config.layout!r}": config.layout != "cpe",
        "a final LayerNorm": config.final_norm,
        "a LayerNorm inside the MLPs": config.mlp_norm,
        "norms scaled by depth": config.scaled_norm,
        "a bias of the patch projection": config.patch_bias,
        "a feature normalizer": config.feature_normalizer,
        "a summary that is the mean of the patches": config.summary_pool != "token",
        "MLPs of this width": _mlp_ratio(config) is None,
    }
    return [reason for reason, applies in reasons.items() if applies]


def native_fields(config: RadioConfig, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields by which transformers' ``RadioConfig`` describes a model; none if its class cannot hold it."""
    if why_not_native(config):
        return {}
    constants = {
        name: [float(value) for value in tensors[f"input_conditioner.{name}"].flatten()]
        for name in ("norm_mean", "norm_std")
    }
    return {
        "model_type": "radio",
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "mlp_ratio": _mlp_ratio(config),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "use_swiglu_ffn": config.swiglu,
        "qkv_bias": config.qkv_bias,
        "num_channels": 3,
        "max_img_size": config.grid_size * config.patch_size,
        "num_cls_tokens": config.num_cls_tokens,
        "num_registers": config.num_registers,
        "summary_idxs": list(config.summary_idxs),
        **constants,
        **(
            {"video_temporal_patch_size": config.video_temporal_patch_size}
            if config.video_temporal_patch_size
            else {}
        ),
    }


def _mlp_ratio(config: RadioConfig) -> float | None:
    """The ratio from which transformers' class computes exactly this MLP width; None if there is none."""
    exact = config.mlp_dim / config.embed_dim
    for ratio in (exact, exact * (1 + 2**-50)) if not config.swiglu else (1.5 * exact, 1.5 * exact + 1e-9):
        hidden = int(config.embed_dim * ratio)
        if (hidden if not config.swiglu else (int(hidden * 2 / 3) + 7) // 8 * 8) == config.mlp_dim:
            return float(ratio)
    return None


def to_native_names(config: RadioConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model that transformers' class can hold, as it finds them in a Hub repository's file.

    It renames most of the released names itself. LayerScale is written under its name too, and the two halves of a
    SwiGLU's first layer apart.
    """
    if why_not_native(config):
        return dict(tensors)
    named: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if config.swiglu and ".mlp.w12." in name:
            for part, half in zip(("gate_proj", "up_proj"), value.chunk(2), strict=True):
                named[name.replace(".w12.", f".{part}.")] = half
        else:
            named[name.replace(".mlp.w3.", ".mlp.down_proj.") if config.swiglu else name] = value
        if name.startswith("model.blocks.") and name.endswith((".ls1.gamma", ".ls2.gamma")):
            block, _, rest = name.rpartition(".ls")
            named[f"{block}.layer_scale{rest[0]}.lambda1"] = value
    return named
