"""The adaptors that a checkpoint can provide, read off the tensors of their heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from radio.checkpoints.guard import brief
from radio.checkpoints.plain import short_name
from radio.checkpoints.shapes import Shapes, whole_number
from radio.config import AdaptorConfig, HeadConfig
from radio.errors import CheckpointError
from radio.modeling.adaptors import TAKEN_NAMES


def describe_adaptors(
    names: Iterable[str],
    shapes: Shapes,
    teachers: list[dict[str, Any]],
    given: Mapping[str, Any],
    num_cls_tokens: int,
    embed_dim: int,
) -> tuple[AdaptorConfig, ...]:
    """Describe every adaptor whose tensors are there, in the order of the teachers.

    Args:
        names: All tensor names.
        shapes: Their shapes.
        teachers: The teachers' entries of the checkpoint, in order.
        given: ``adaptor_configs`` of a Hub repository; empty for a torch file.
        num_cls_tokens: How many class tokens there are to read from.
        embed_dim: Width of the tokens that the heads read.

    Raises:
        CheckpointError: A head is incomplete, does not fit the backbone, or reads a class token that does not exist; or
            an adaptor has a name that no module can have.
    """
    order = {teacher["name"]: i for i, teacher in reversed(list(enumerate(teachers)))}
    found = dict.fromkeys(name.split(".")[1] for name in names if name.startswith("adaptors."))
    adaptors = []
    for name in sorted(found, key=lambda name: order.get(name, len(teachers))):
        short_name(name, "the name of an adaptor", shapes.source)
        if not name.strip() or name in TAKEN_NAMES:
            raise CheckpointError(f"{shapes.source}: {brief(name)} cannot be the name of an adaptor")
        index = order.get(name, 0)
        teacher = teachers[index] if name in order else {"name": name}
        config = given.get(name) or {}
        heads = shapes.under(f"adaptors.{name}.")
        slot = _first(config.get("head_idx"), teacher.get("token_slot"), index)
        upsample = _first(
            (config.get("feature") or {}).get("upsample_factor"), teacher.get("fd_upsample_factor"), 1
        )
        adaptor = AdaptorConfig(
            name=name,
            head_idx=_head_idx(slot, name, shapes.source, num_cls_tokens),
            summary=_describe_head(heads.under("head_mlp."), 1),
            feature=_describe_head(
                heads.under("feat_mlp."), whole_number(upsample, "upsample_factor", shapes.source)
            ),
            teacher=teacher,
        )
        for head in (adaptor.summary, adaptor.feature):
            if head.input_dim != embed_dim:
                raise CheckpointError(
                    f"{shapes.source}: a head of adaptor {brief(name)} takes tokens of width {head.input_dim}, the "
                    f"backbone gives {embed_dim}"
                )
        adaptors.append(adaptor)
    return tuple(adaptors)


def _first(*choices: Any) -> Any:
    """The first choice that is not None."""
    return next(choice for choice in choices if choice is not None)


def _head_idx(slot: Any, name: str, source: str, num_cls_tokens: int) -> int:
    """The class token that the summary head reads; the only one when there is one."""
    head_idx = whole_number(slot, f"the class token of adaptor {brief(name)}", source, least=0)
    if num_cls_tokens <= 1:
        return 0
    if head_idx >= num_cls_tokens:
        raise CheckpointError(
            f"{source}: adaptor {brief(name)} reads class token {head_idx} of {num_cls_tokens}"
        )
    return head_idx


def _describe_head(shapes: Shapes, upsample: int) -> HeadConfig:
    if shapes.has("mlp.fc1.weight"):
        return _describe_attention_head(shapes, upsample)
    hidden_dim, input_dim = shapes.of("fc1.weight")
    kind: Literal["v1", "v2"] = "v1" if shapes.has("fc2.weight") else "v2"
    rows = shapes.of("fc2.weight" if kind == "v1" else "final.2.weight")[0]
    if rows % upsample**2:
        raise CheckpointError(
            f"{shapes.source}: a feature head emits {rows} numbers, not a multiple of {upsample} x {upsample}"
        )
    return HeadConfig(
        kind=kind,
        input_dim=input_dim,
        hidden_dim=hidden_dim,
        output_dim=rows // upsample**2,
        num_inner=shapes.count("inner") // 2 if kind == "v1" else shapes.count("blocks"),
        pre_norm=shapes.has("pre_norm.0.weight"),
        upsample_factor=upsample,
    )


def _describe_attention_head(shapes: Shapes, upsample: int) -> HeadConfig:
    mlp = _describe_head(shapes.under("mlp."), upsample)
    width = shapes.of("blocks.0.attn.proj.weight")[0]
    if mlp.kind != "v2" or mlp.input_dim != width:
        raise CheckpointError(
            f"{shapes.source}: an attention head of width {width} ends in a {mlp.kind} MLP of width {mlp.input_dim}"
        )
    head = HeadConfig(
        kind="attn",
        input_dim=width,
        hidden_dim=mlp.hidden_dim,
        output_dim=mlp.output_dim,
        num_inner=mlp.num_inner,
        pre_norm=mlp.pre_norm,
        upsample_factor=upsample,
        attn_hidden_dim=shapes.of("blocks.0.mlp.fc1.weight")[0],
        attn_qkv_bias=shapes.has("blocks.0.attn.qkv.bias"),
    )
    if width % head.attn_num_heads:
        raise CheckpointError(
            f"{shapes.source}: attention of width {width} cannot have {head.attn_num_heads} heads"
        )
    return head
