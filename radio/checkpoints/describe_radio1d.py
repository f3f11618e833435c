"""RADIO1D: from a file's arguments and tensor shapes to the description of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from radio.checkpoints.describe import (
    dtype_of,
    num_heads_of,
    patches_of,
    summary_idxs_of,
    summary_names_of,
    version_of,
)
from radio.checkpoints.describe_adaptors import describe_adaptors
from radio.checkpoints.guard import brief
from radio.checkpoints.raw import RawCheckpoint
from radio.checkpoints.shapes import Shapes, whole_number
from radio.checkpoints.teachers import read_teachers
from radio.config import Radio1DConfig, RadioConfig
from radio.errors import CheckpointError

RADIO1D_HEADS = {
    "radio1d_large_patch16_224": 16,
    "radio1d_so400m_patch16_224": 16,
    "radio1d_huge_patch16_224": 16,
}
"""Attention heads before the first merge: the one number that no tensor shows."""

_UNUSED = ("model._iter_count", "model.dynamic_rate_vec", "model.dynamic_rate_projector.", "summary_idxs")


def describe_radio1d(raw: RawCheckpoint, source: str) -> tuple[RadioConfig, dict[str, Tensor]]:
    """Understand a RADIO1D checkpoint; as `radio.checkpoints.describe.describe`."""
    kwargs = raw.args.get("model_kwargs") or {}
    _refuse_options(kwargs, source)
    # A Hub repository holds the final norm only where it is used; a torch file may keep one that is not.
    exported = "patch_size" in raw.repository
    final_norm = "model.norm.weight" in raw.tensors if exported else bool(raw.args.get("model_norm"))
    unused = _UNUSED if final_norm else (*_UNUSED, "model.norm.")
    tensors = {
        name.replace(".grandma", ".gamma"): value
        for name, value in raw.tensors.items()
        if not name.startswith(unused)
    }
    shapes = Shapes(tensors, source, "model.")
    embed_dim = shapes.of("patch_generator.embedder.weight")[0]
    num_heads = num_heads_of(raw.args["model"], kwargs, RADIO1D_HEADS, source)
    if embed_dim % num_heads:
        raise CheckpointError(f"{source}: attention of width {embed_dim} cannot have {num_heads} heads")
    patch_size, grid_size, prefix, _ = patches_of(shapes, "cpe", embed_dim)
    num_cls, registers = _prefix_tokens(kwargs, prefix, source)
    teachers = read_teachers(raw.args, source)
    per_teacher = bool(raw.args.get("cls_token_per_teacher"))
    idxs = summary_idxs_of(raw.tensors.get("summary_idxs"), teachers, per_teacher, num_cls, source)
    encoder = _read_blocks(shapes, "blocks", embed_dim, doubles=True)
    merges = len(encoder.levels)
    decoder = _read_blocks(shapes, "decoder.blocks", embed_dim * 2**merges, doubles=False)
    _check_levels(encoder, kwargs.get("downscale_levels"), "downscale_levels", source)
    _check_levels(decoder, kwargs.get("decoder_upscale_levels"), "decoder_upscale_levels", source)
    if len(decoder.levels) != merges:
        raise CheckpointError(
            f"{source}: the encoder merges {merges} times and the decoder splits {len(decoder.levels)} times"
        )
    _check_decoder_heads(num_heads, embed_dim, merges, source)
    return RadioConfig(
        architecture=raw.args["model"],
        layout="radio1d",
        embed_dim=embed_dim,
        depth=encoder.depth,
        num_heads=num_heads,
        mlp_dim=encoder.mlp_dims[0],
        patch_size=patch_size,
        grid_size=grid_size,
        num_cls_tokens=num_cls,
        num_registers=registers,
        summary_idxs=idxs,
        summary_names=summary_names_of(teachers, idxs),
        teachers=tuple(teachers),
        adaptors=describe_adaptors(
            tensors,
            Shapes(tensors, source),
            teachers,
            raw.repository.get("adaptor_configs") or {},
            num_cls,
            embed_dim,
        ),
        patch_bias=shapes.has("patch_generator.embedder.bias"),
        qkv_bias=shapes.has("blocks.0.attn.qkv.bias"),
        layer_scale=shapes.has("blocks.0.ls1.gamma"),
        final_norm=final_norm,
        feature_normalizer="feature_normalizer.tx" in tensors,
        dtype=dtype_of(raw.args, source),
        radio1d=Radio1DConfig(
            downscale_levels=encoder.levels,
            mlp_dims=encoder.mlp_dims,
            decoder_depth=decoder.depth,
            decoder_upscale_levels=decoder.levels,
            decoder_mlp_dims=decoder.mlp_dims,
            filler_size=_filler_size(shapes),
            progressive_reduction=bool(kwargs.get("progressive_reduction")),
        ),
        preferred_resolution=(512, 512),
        version=version_of(raw.repository, patch_size, source),
    ), tensors


def _refuse_options(kwargs: Mapping[str, Any], source: str) -> None:
    for name in ("pre_norm", "qk_norm"):
        if kwargs.get(name):
            raise CheckpointError(f"{source}: model_kwargs has {name}, which RADIO1D does not support")
    if not kwargs.get("cpe_max_size"):
        raise CheckpointError(
            f"{source}: model_kwargs has no cpe_max_size; a RADIO1D without CPE is not supported"
        )


def _prefix_tokens(kwargs: Mapping[str, Any], prefix: int, source: str) -> tuple[int, int]:
    """Class tokens and registers, which the arguments give and the file must confirm."""
    num_cls = whole_number(kwargs.get("num_cls_tokens", 1), "num_cls_tokens", source)
    registers = whole_number(kwargs.get("num_registers") or 0, "num_registers", source, least=0)
    if not registers and kwargs.get("register_multiple"):
        multiple = whole_number(kwargs["register_multiple"], "register_multiple", source)
        registers = multiple - num_cls % multiple
    if num_cls + registers != prefix:
        raise CheckpointError(
            f"{source}: model_kwargs gives {brief(num_cls)} class tokens and {brief(registers)} registers, but "
            f"'patch_generator.cls_token.token' has {prefix} rows"
        )
    return num_cls, registers


@dataclass(frozen=True)
class _Blocks:
    """What the shapes of a list of blocks tell: how many, where the width changes, the MLP width between changes."""

    depth: int
    levels: tuple[int, ...]
    mlp_dims: tuple[int, ...]


def _read_blocks(shapes: Shapes, name: str, width: int, doubles: bool) -> _Blocks:
    depth = shapes.count(name)
    levels: list[int] = []
    mlp_dims: dict[int, int] = {}
    for i in range(depth):
        here = shapes.of(f"{name}.{i}.norm1.weight", 1)[0]
        if (here == 2 * width) if doubles else (2 * here == width):
            levels.append(i)
        elif here != width:
            raise CheckpointError(
                f"{shapes.source}: '{name}.{i}.norm1.weight' is {here} wide after a width of {width}; a block is as "
                f"wide as the one before, or {'twice' if doubles else 'half'} as wide"
            )
        mlp_dims.setdefault(len(levels), shapes.of(f"{name}.{i}.mlp.fc1.weight")[0])
        width = here
    if not levels:
        raise CheckpointError(
            f"{shapes.source}: the width never changes in '{name}'; a RADIO1D merges its grid at least once"
        )
    # A change before block 0 leaves no blocks, and so no MLP, before it.
    return _Blocks(depth, tuple(levels), tuple(mlp_dims.get(part, 0) for part in range(len(levels) + 1)))


def _check_levels(found: _Blocks, given: Any, name: str, source: str) -> None:
    if given is not None and sorted(given) != list(found.levels):
        raise CheckpointError(
            f"{source}: model_kwargs has {name}={brief(given)}, but by the tensors it is {brief(list(found.levels))}"
        )


def _check_decoder_heads(heads: int, embed_dim: int, merges: int, source: str) -> None:
    width = embed_dim * 2**merges
    for _ in range(merges):
        width, heads = width // 2, max(1, heads // 2)
        if width % heads:
            raise CheckpointError(f"{source}: the decoder cannot have {heads} heads at width {width}")


def _filler_size(shapes: Shapes) -> int:
    rows = shapes.of("decoder.filler_tokens")[0]
    side = math.isqrt(rows)
    if side * side != rows:
        raise CheckpointError(f"{shapes.source}: {rows} 'decoder.filler_tokens' are not a square grid")
    return side
