"""E-RADIO: from a file's tensors to the description of the model. The arguments carry none of the sizes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from radio.checkpoints.describe import dtype_of, version_of
from radio.checkpoints.describe_adaptors import describe_adaptors
from radio.checkpoints.guard import brief
from radio.checkpoints.raw import RawCheckpoint
from radio.checkpoints.shapes import Shapes
from radio.checkpoints.teachers import read_teachers
from radio.config import ERadioConfig, ERadioLevelConfig, RadioConfig
from radio.errors import CheckpointError

_ROOT = "model."
_PATCH_SIZE = 16
_UNUSED = ("model.norm.", "model.head.", "summary_idxs")
_DERIVED = (".num_batches_tracked", ".relative_position_index", ".relative_bias")
"""Counters, and caches that follow from other tensors: they may be stale, so nothing reads them."""

_VARIANTS = {
    ".conv.bias": "its batch normalization is folded into the convolutions",
    "downsample_mixer": "it lowers the resolution by average pooling",
    "upsample_op.conv": "it lowers the resolution by average pooling",
    "levels.0.blocks.0.conv1": "its first levels are residual blocks instead of C2f stages",
    "levels.1.blocks.0.conv1": "its first levels are residual blocks instead of C2f stages",
}
_ARGUMENTS = {"use_shift": "shifted windows", "qk_scale": "a scale of its own", "multi_query": "shared keys"}


def describe_eradio(raw: RawCheckpoint, source: str) -> tuple[RadioConfig, dict[str, Tensor]]:
    """Understand an E-RADIO checkpoint; as `radio.checkpoints.describe.describe`."""
    kwargs = raw.args.get("model_kwargs") or {}
    for name, meaning in _ARGUMENTS.items():
        if kwargs.get(name):
            raise CheckpointError(
                f"{source}: model_kwargs has {name}={brief(kwargs[name])}: an E-RADIO with {meaning} in its "
                "attention is not supported"
            )
    tensors = {
        name: value
        for name, value in raw.tensors.items()
        if not name.startswith(_UNUSED) and not name.endswith(_DERIVED)
    }
    _refuse_variants(tensors, source)
    shapes = Shapes(tensors, source, _ROOT)
    stem_dim = shapes.of("patch_embed.conv_down.0.conv.weight", 4)[0]
    dim = shapes.of("patch_embed.conv_down.2.conv.weight", 4)[0]
    if (levels := shapes.count("levels")) != 4:
        raise CheckpointError(f"{source}: an E-RADIO has 4 levels, the file has {levels}")
    embed_dim, projects_first = _neck(shapes, 4 * dim)
    teachers = read_teachers(raw.args, source)
    return RadioConfig(
        architecture=raw.args["model"],
        layout="eradio",
        embed_dim=embed_dim,
        depth=0,
        num_heads=0,
        mlp_dim=0,
        patch_size=_PATCH_SIZE,
        grid_size=0,
        num_cls_tokens=0,
        num_registers=0,
        summary_pool="mean",
        teachers=tuple(teachers),
        adaptors=describe_adaptors(
            tensors,
            Shapes(tensors, source),
            teachers,
            raw.repository.get("adaptor_configs") or {},
            0,
            embed_dim,
        ),
        feature_normalizer="feature_normalizer.tx" in tensors,
        dtype=dtype_of(raw.args, source),
        eradio=ERadioConfig(
            stem_dim=stem_dim,
            dim=dim,
            bottlenecks=(_bottlenecks(shapes, 0, dim), _bottlenecks(shapes, 1, 2 * dim)),
            attention_levels=(_level(shapes, 2, 4 * dim), _level(shapes, 3, 8 * dim)),
            neck_projects_first=projects_first,
        ),
        preferred_resolution=(512, 512),
        version=version_of(raw.repository, _PATCH_SIZE, source),
    ), tensors


def _refuse_variants(tensors: Mapping[str, Tensor], source: str) -> None:
    """Name the variants of E-RADIO that only their tensors tell from the released one."""
    for name, value in tensors.items():
        if not name.startswith(_ROOT):
            continue
        for part, reason in _VARIANTS.items():
            if part in name:
                raise _unsupported(source, name, reason)
        unshuffled = value.ndim == 4 and value.shape[1] == 2 * value.shape[0]
        if name.endswith(".downsample.reduction.conv.weight") and unshuffled:
            raise _unsupported(source, name, "it lowers the resolution by moving pixels into channels")
        if name.endswith(".attn.qkv.weight") and value.ndim == 2 and value.shape[0] != 3 * value.shape[1]:
            raise _unsupported(
                source,
                name,
                f"{value.shape[0]} rows are not queries, keys and values of {value.shape[1]} each",
            )
        if name.endswith(".mlp.fc1.weight") and value.ndim == 2:
            second = tensors.get(name.replace("fc1", "fc2"))
            if second is not None and second.ndim == 2 and value.shape[0] == 2 * second.shape[1]:
                raise _unsupported(source, name, "its MLPs are gated")


def _unsupported(source: str, name: str, reason: str) -> CheckpointError:
    return CheckpointError(f"{source}: this variant of E-RADIO is not supported, {brief(name)}: {reason}")


def _neck(shapes: Shapes, dim: int) -> tuple[int, bool]:
    """Width of the output, and whether the neck has weights for the first attention level, which is `dim` wide."""
    branches = shapes.numbers("high_res_neck.neck_features_proj")
    if not branches:
        raise CheckpointError(
            f"{shapes.source}: an E-RADIO without 'high_res_neck' gives neither features nor a summary"
        )
    if not branches <= {"0", "1"}:
        raise CheckpointError(
            f"{shapes.source}: the neck must join two levels, the file has branches {brief(sorted(branches))} of "
            "'high_res_neck.neck_features_proj'"
        )
    embed_dim = shapes.of("high_res_neck.neck_features_proj.1.conv2.weight", 4)[0]
    if "0" not in branches and embed_dim != dim:
        raise CheckpointError(
            f"{shapes.source}: 'high_res_neck.neck_features_proj.0' is missing, without which the output would be "
            f"{dim} wide, but branch 1 gives {embed_dim}"
        )
    return embed_dim, "0" in branches


def _bottlenecks(shapes: Shapes, level: int, dim: int) -> int:
    rows, columns = shapes.of(f"levels.{level}.blocks.cv2.conv.weight", 4)[:2]
    number = shapes.count(f"levels.{level}.blocks.m")
    if dim % 2 or (rows, columns) != (dim, (2 + number) * dim // 2):
        raise CheckpointError(
            f"{shapes.source}: 'levels.{level}.blocks.cv2.conv.weight' maps {columns} channels to {rows}; with "
            f"{number} bottlenecks at width {dim} it would be {(2 + number) * dim // 2} to {dim}"
        )
    return number


def _level(shapes: Shapes, number: int, dim: int) -> ERadioLevelConfig:
    """One attention level, `dim` wide."""
    name = f"levels.{number}.blocks"
    depth = shapes.count(name)
    ratios = _ratios(shapes, f"{name}.0.attention_blocks.")
    for block in range(1, depth):
        if _ratios(shapes, f"{name}.{block}.attention_blocks.") != ratios:
            raise CheckpointError(
                f"{shapes.source}: '{name}.{block}' works at other resolutions than '{name}.0'"
            )
    if any(max(ratios) % ratio for ratio in ratios):
        raise CheckpointError(
            f"{shapes.source}: the blocks of '{name}' lower the resolution by {brief(ratios)}; each must divide the "
            "largest"
        )
    first = shapes.under(f"{name}.0.attention_blocks.0.")
    heads, bias_dim = first.of("attn.pos_emb_funct.cpb_mlp.2.weight")
    if dim % heads:
        raise CheckpointError(f"{shapes.source}: '{name}' has {heads} heads at width {dim}, not a multiple")
    groups = 1
    if 1 in ratios:
        conv = f"{name}.0.attention_blocks.{ratios.index(1)}.pre_conv.conv.weight"
        inputs = shapes.of(conv, 4)[1]
        if dim % inputs:
            raise CheckpointError(f"{shapes.source}: {brief(conv)} takes {inputs} channels at width {dim}")
        groups = dim // inputs
    return ERadioLevelConfig(
        depth=depth,
        ratios=ratios,
        num_heads=heads,
        mlp_dim=first.of("mlp.fc1.weight")[0],
        bias_dim=bias_dim,
        window_size=_window_size(first),
        conv_groups=groups,
        qkv_bias=first.has("attn.qkv.bias"),
        layer_scale=first.has("gamma1"),
    )


def _ratios(shapes: Shapes, block: str) -> tuple[int, ...]:
    """At how much of a lower resolution each sub-block of a block works."""
    ratios = []
    for number in range(shapes.count(block.removesuffix("."))):
        here = shapes.under(f"{block}{number}.")
        lowers = here.has("downsample_op.weight")
        if lowers == here.has("pre_conv.conv.weight"):
            raise CheckpointError(
                f"{shapes.source}: '{block}{number}' must have either 'pre_conv' or 'downsample_op', and has "
                f"{'both' if lowers else 'neither'}"
            )
        ratio = here.of("downsample_op.weight", 4)[-1] if lowers else 1
        if lowers and ratio < 2:
            raise CheckpointError(f"{shapes.source}: '{block}{number}.downsample_op.weight' is 1 x 1")
        ratios.append(ratio)
    if not ratios:
        raise CheckpointError(f"{shapes.source}: {brief(block)} has no tensors")
    return tuple(ratios)


def _window_size(first: Shapes) -> int:
    """The side of the file's windows, from the table of offsets between their positions."""
    offsets = first.of("attn.pos_emb_funct.relative_coords_table", 4)[1]
    if offsets % 2 == 0 or offsets < 3:
        raise CheckpointError(
            f"{first.source}: 'relative_coords_table' is {offsets} wide, which is that of no window of at least 2"
        )
    return (offsets + 1) // 2
