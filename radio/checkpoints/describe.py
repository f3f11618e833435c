"""From a file's arguments and tensor shapes to the one description of the model.

Whatever can be read off the tensors is read off the tensors; the arguments give the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from radio.checkpoints.describe_adaptors import describe_adaptors
from radio.checkpoints.guard import brief
from radio.checkpoints.plain import short_name
from radio.checkpoints.raw import RawCheckpoint
from radio.checkpoints.shapes import Shapes, whole_number
from radio.checkpoints.teachers import read_teachers
from radio.config import Layout, RadioConfig
from radio.errors import CheckpointError
from radio.wording import counted

ATTENTION_HEADS = {
    "vit_base_patch16_224": 12,
    "vit_large_patch16_224": 16,
    "vit_huge_patch16_224": 16,
    "vit_huge_patch16_224_mlpnorm": 16,
    "vit_huge_patch14_224": 16,
    "vit_giant_patch16_224": 24,
    "vit_so400m_patch16_224": 16,
    "vit_so400m_v2_patch16_224": 16,
    "vit_base_patch16_v2_224": 12,
    "vit_large_patch16_v2_224": 16,
    "dino_v2_l_student": 16,
    "dino_v2_g_student": 24,
}
"""Attention heads of every supported architecture: the one number that no tensor shows."""

_MOST_BLOCKS = 1024

_DTYPES = {"float32", "float16", "bfloat16", "float64"}


def describe(raw: RawCheckpoint, source: str) -> tuple[RadioConfig, dict[str, Tensor]]:
    """Understand a checkpoint.

    Args:
        raw: What a file held.
        source: Its path, for messages.

    Returns:
        The description, and the tensors that the model it describes is made of (leftovers of training that
        the model does not use are dropped).

    Raises:
        CheckpointError: The arguments or tensors do not describe a supported RADIO model.
        TypeError, ValueError, LookupError, AttributeError: An argument has the wrong type or makes no sense.
    """
    args, repository = raw.args, raw.repository
    architecture = architecture_of(args, source)
    layout = _layout(raw.tensors, source)
    root = "model.inner." if layout == "dinov2" else "model."
    final_norm = layout == "dinov2" or bool(args.get("model_norm"))
    tensors = _used_tensors(raw.tensors, layout, root, final_norm)
    whole = Shapes(tensors, source)
    shapes = whole.under(root)
    kwargs = args.get("model_kwargs") or {}

    num_heads = num_heads_of(architecture, kwargs, ATTENTION_HEADS, source)
    embed_dim = _embed_dim(shapes, num_heads)
    patch_size, grid_size, prefix, has_class = patches_of(shapes, layout, embed_dim)
    teachers = read_teachers(args, source)
    num_cls = _num_cls_tokens(args, repository.get("num_cls_tokens"), teachers, layout, prefix, source)
    stored = raw.tensors.get("summary_idxs") if layout == "cpe" else None
    summary_idxs = summary_idxs_of(stored, teachers, num_cls > 1, num_cls, source)
    mean_pool = num_cls == 0 or (layout == "plain" and args.get("gp") == "avg")
    swiglu = shapes.has("blocks.0.mlp.w12.weight")
    config = RadioConfig(
        architecture=architecture,
        layout=layout,
        embed_dim=embed_dim,
        depth=_depth(tensors, root, source),
        num_heads=num_heads,
        mlp_dim=shapes.of("blocks.0.mlp.w3.weight")[1] if swiglu else shapes.of("blocks.0.mlp.fc1.weight")[0],
        patch_size=patch_size,
        grid_size=grid_size,
        num_cls_tokens=num_cls,
        num_registers=prefix - num_cls,
        summary_idxs=summary_idxs,
        summary_names=summary_names_of(teachers, summary_idxs),
        summary_pool="mean" if mean_pool else "token",
        teachers=tuple(teachers),
        adaptors=describe_adaptors(
            tensors, whole, teachers, repository.get("adaptor_configs") or {}, num_cls, embed_dim
        ),
        video_temporal_patch_size=_video_frames(shapes, patch_size),
        patch_bias=shapes.has("patch_generator.embedder.bias") or shapes.has("patch_embed.proj.bias"),
        qkv_bias=shapes.has("blocks.0.attn.qkv.bias"),
        swiglu=swiglu,
        mlp_norm=shapes.has("blocks.0.mlp.norm.weight"),
        layer_scale=shapes.has("blocks.0.ls1.gamma"),
        scaled_norm=bool(kwargs.get("scaled_ln")),
        final_norm=final_norm,
        pos_embed_has_class=has_class,
        feature_normalizer="feature_normalizer.tx" in tensors,
        intermediate_normalizer=_intermediate_normalizer(tensors),
        dtype=dtype_of(args, source),
        version=version_of(repository, patch_size, source),
    )
    return config, tensors


def architecture_of(args: Mapping[str, Any], source: str) -> str:
    architecture = args.get("model")
    if not isinstance(architecture, str):
        raise CheckpointError(
            f"{source}: the field 'model' must name an architecture, got {brief(architecture)}"
        )
    return short_name(architecture, "the field 'model'", source)


def _layout(tensors: Iterable[str], source: str) -> Layout:
    if any(name.startswith("model.inner.") for name in tensors):
        return "dinov2"
    if "model.patch_generator.pos_embed" in tensors:
        return "cpe"
    if "model.patch_embed.proj.weight" in tensors:
        return "plain"
    raise CheckpointError(
        f"{source} does not hold a RADIO backbone: it has neither 'patch_generator.pos_embed' nor "
        "'patch_embed.proj.weight' among its tensors"
    )


def _used_tensors(
    tensors: Mapping[str, Tensor], layout: Layout, root: str, final_norm: bool
) -> dict[str, Tensor]:
    """The tensors that inference uses, with one name for LayerScale."""
    leftovers = [root + "mask_token", root + "head.", root + "fc_norm.", "summary_idxs"]
    if layout == "dinov2":
        leftovers.append("model.input_conditioner.")
    if not final_norm:
        leftovers.append(root + "norm.")
    return {
        name.replace(".grandma", ".gamma"): value
        for name, value in tensors.items()
        if not name.startswith(tuple(leftovers))
    }


def num_heads_of(architecture: str, kwargs: Mapping[str, Any], known: Mapping[str, int], source: str) -> int:
    """The number of attention heads, which `known` has by architecture."""
    given = kwargs.get("num_heads") or known.get(architecture)
    if given is None:
        raise CheckpointError(
            f"{source}: unknown architecture {brief(architecture)}; supported: {', '.join(known)}"
        )
    return whole_number(given, "num_heads", source)


def _embed_dim(shapes: Shapes, heads: int) -> int:
    """The model's width, which must be one of so many heads."""
    rows, embed_dim = shapes.of("blocks.0.attn.qkv.weight")
    if rows != 3 * embed_dim or embed_dim % heads:
        raise CheckpointError(
            f"{shapes.source}: attention of width {rows} x {embed_dim} cannot have {heads} heads"
        )
    return embed_dim


def _depth(tensors: Iterable[str], root: str, source: str) -> int:
    prefix = root + "blocks."
    numbers = {int(name.removeprefix(prefix).split(".")[0]) for name in tensors if name.startswith(prefix)}
    if len(numbers) > _MOST_BLOCKS:
        raise CheckpointError(f"{source}: it has {len(numbers)} blocks; at most {_MOST_BLOCKS}")
    if numbers != set(range(len(numbers))):
        raise CheckpointError(
            f"{source}: blocks are missing; the file has the blocks {brief(sorted(numbers))}"
        )
    return len(numbers)


def patches_of(shapes: Shapes, layout: Layout, embed_dim: int) -> tuple[int, int, int, bool]:
    """Patch size, side of the position grid, prefix tokens, and whether the grid holds the class token."""
    if layout == "plain":
        projection = shapes.of("patch_embed.proj.weight", 4)
        positions = shapes.of("pos_embed", 3)[1]
        prefix = shapes.of("cls_token", 3)[1] if shapes.has("cls_token") else 0
        has_class = prefix > 0 and math.isqrt(positions) ** 2 != positions
        return (
            projection[3],
            _side(positions - (prefix if has_class else 0), shapes.source),
            prefix,
            has_class,
        )
    columns = shapes.of("patch_generator.embedder.weight")[1]
    patch_size = math.isqrt(columns // 3)
    if columns != 3 * patch_size**2:
        raise CheckpointError(
            f"{shapes.source}: a projection of {columns} numbers is not one of square RGB patches"
        )
    prefix, width = shapes.of("patch_generator.cls_token.token")
    if width != embed_dim:
        raise CheckpointError(
            f"{shapes.source}: class tokens of width {width} in a model of width {embed_dim}"
        )
    return patch_size, _side(shapes.of("patch_generator.pos_embed", 3)[1], shapes.source), prefix, False


def _video_frames(shapes: Shapes, patch_size: int) -> int | None:
    """How many frames the projection of packed frames takes, if there is one."""
    if not shapes.has("patch_generator.video_embedder.weight"):
        return None
    columns = shapes.of("patch_generator.video_embedder.weight")[1]
    frames, rest = divmod(columns, 3 * patch_size**2)
    if rest or frames < 2:
        raise CheckpointError(
            f"{shapes.source}: a projection of {columns} numbers is not one of patches of several frames"
        )
    return frames


def _side(positions: int, source: str) -> int:
    side = math.isqrt(positions)
    if side * side != positions:
        raise CheckpointError(f"{source}: {positions} position embeddings are not a square grid")
    return side


def _num_cls_tokens(
    args: Mapping[str, Any],
    stated: Any,
    teachers: list[dict[str, Any]],
    layout: Layout,
    prefix: int,
    source: str,
) -> int:
    """How many of the prefix tokens are class tokens: as a repository states, or one for each teacher, or one."""
    if stated is not None and layout == "cpe":
        number = whole_number(stated, "num_cls_tokens", source)
        if number > prefix:
            raise CheckpointError(f"{source}: num_cls_tokens is {number}, the file has {prefix}")
        return number
    per_teacher = bool(args.get("cls_token_per_teacher")) and layout == "cpe"
    number = len({teacher["name"] for teacher in teachers}) if per_teacher else min(1, prefix)
    if per_teacher and not teachers:
        raise CheckpointError(f"{source}: it says that each teacher has a class token, but lists no teachers")
    if number > prefix:
        raise CheckpointError(f"{source}: {number} teachers need a class token each, the file has {prefix}")
    return number


def summary_idxs_of(
    stored: Tensor | None, teachers: Sequence[Mapping[str, Any]], per_teacher: bool, num_cls: int, source: str
) -> tuple[int, ...]:
    """The class tokens that make the summary: those the repository stores, or the first of each teacher's."""
    if stored is not None and stored.numel() > num_cls:
        raise CheckpointError(
            f"{source}: the summary takes {counted(stored.numel(), 'class token')}, but the model has {num_cls}"
        )
    if stored is not None:
        # Whoever halves all tensors of a state dict halves these too.
        numbers = [int(i) if i % 1 == 0 else i for i in stored.flatten().tolist()]
        idxs = tuple(whole_number(i, "summary_idxs", source, least=0) for i in numbers)
    elif per_teacher:
        first = {t["name"]: i for i, t in reversed(list(enumerate(teachers))) if t.get("use_summary", True)}
        idxs = tuple(sorted(first.values()))
    else:
        idxs = (0,)
    if num_cls and (not idxs or max(idxs) >= num_cls):
        raise CheckpointError(
            f"{source}: the summary takes class tokens {brief(idxs)}, but there are {num_cls}"
        )
    return idxs


def summary_names_of(teachers: Sequence[Mapping[str, Any]], summary_idxs: tuple[int, ...]) -> tuple[str, ...]:
    """The teachers that the class tokens of the summary were trained for."""
    return tuple(teachers[i]["name"] if i < len(teachers) else str(i) for i in summary_idxs)


def _intermediate_normalizer(tensors: Mapping[str, Tensor]) -> Literal["shared", "per_layer"] | None:
    if "inter_feature_normalizer.rotation" not in tensors:
        return None
    return "shared" if tensors["inter_feature_normalizer.rotation"].ndim == 2 else "per_layer"


def dtype_of(args: Mapping[str, Any], source: str) -> str:
    given = args.get("dtype") or "float32"
    name = str(given).removeprefix("torch.") if isinstance(given, (str, torch.dtype)) else None
    if name not in _DTYPES:
        raise CheckpointError(f"{source}: dtype {brief(given)} is not one of {', '.join(sorted(_DTYPES))}")
    return name


def version_of(given: Mapping[str, Any], patch_size: int, source: str) -> str:
    """The version that a Hub repository's config.json names; its patch size must be the tensors'."""
    if given.get("patch_size") not in (None, patch_size):
        raise CheckpointError(
            f"{source}: config.json says patch_size {brief(given['patch_size'])}, the tensors say {patch_size}"
        )
    version = given.get("version")
    return short_name(version, "version", source) if isinstance(version, str) else ""
