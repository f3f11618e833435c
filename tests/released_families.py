"""E-RADIO and RADIO1D checkpoints of random weights: the names and shapes of the released structures, of any size."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from released import Shape, _linear, _norm, random_state
from torch import Tensor

ERADIO_PARAMETERS = 389_598_784
"""Of the full size, without classifier and final norm, which nothing that is returned depends on."""

RADIO1D_PARAMETERS = 1_452_129_280


def _conv_bn(name: str, inputs: int, outputs: int, kernel: int) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {f"{name}.conv.weight": (outputs, inputs, kernel, kernel)}
    return shapes | {
        f"{name}.bn.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")
    }


def eradio_shapes(
    stem: int = 64,
    dim: int = 192,
    bottlenecks: tuple[int, int] = (3, 3),
    depths: tuple[int, int] = (5, 5),
    ratios: tuple[tuple[int, ...], tuple[int, ...]] = ((2, 1), (1,)),
    heads: tuple[int, int] = (8, 16),
    bias_dim: int = 512,
    window: int = 16,
    output: int = 1536,
) -> dict[str, Shape]:
    """The tensors of an E-RADIO backbone, by default of the released one; no counters, classifier or final norm."""
    shapes = _conv_bn("patch_embed.conv_down.0", 3, stem, 3) | _conv_bn(
        "patch_embed.conv_down.2", stem, dim, 3
    )
    for i, number in enumerate(bottlenecks):
        width, half = dim * 2**i, dim * 2**i // 2
        name = f"levels.{i}.blocks"
        shapes |= _conv_bn(f"{name}.cv1", width, width, 1)
        shapes |= _conv_bn(f"{name}.cv2", (2 + number) * half, width, 1)
        for j in range(number):
            shapes |= _conv_bn(f"{name}.m.{j}.cv1", half, half, 3)
            shapes |= _conv_bn(f"{name}.m.{j}.cv2", half, half, 3)
    for i, (depth, level_ratios, level_heads) in enumerate(zip(depths, ratios, heads, strict=True), 2):
        width = dim * 2**i
        for block in range(depth):
            for k, ratio in enumerate(level_ratios):
                name = f"levels.{i}.blocks.{block}.attention_blocks.{k}"
                shapes |= _sub_block(name, width, ratio, level_heads, bias_dim, window)
    for i in range(3):
        width = dim * 2**i
        shapes |= _conv_bn(f"levels.{i}.downsample.reduction", width, 2 * width, 3)
    for branch, width in enumerate((4 * dim, 8 * dim)):
        name = f"high_res_neck.neck_features_proj.{branch}"
        shapes |= {f"{name}.conv1.weight": (width, 1, 3, 3), f"{name}.conv1.bias": (width,)}
        shapes |= {
            f"{name}.norm.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")
        }
        shapes |= {f"{name}.conv2.weight": (output, width, 1, 1), f"{name}.conv2.bias": (output,)}
    return shapes


def _sub_block(name: str, width: int, ratio: int, heads: int, bias_dim: int, window: int) -> dict[str, Shape]:
    if ratio == 1:
        shapes = _conv_bn(f"{name}.pre_conv", width, width, 3)
    else:
        kernel = (width, width, ratio, ratio)
        shapes = {f"{name}.downsample_op.weight": kernel, f"{name}.downsample_op.bias": (width,)}
        shapes |= {f"{name}.upsample_op.weight": kernel, f"{name}.upsample_op.bias": (width,)}
    offsets = 2 * window - 1
    return shapes | {
        **_norm(f"{name}.norm1", width),
        **_norm(f"{name}.norm2", width),
        f"{name}.attn.qkv.weight": (3 * width, width),
        f"{name}.attn.proj.weight": (width, width),
        f"{name}.attn.pos_emb_funct.relative_coords_table": (1, offsets, offsets, 2),
        f"{name}.attn.pos_emb_funct.cpb_mlp.0.weight": (bias_dim, 2),
        f"{name}.attn.pos_emb_funct.cpb_mlp.0.bias": (bias_dim,),
        f"{name}.attn.pos_emb_funct.cpb_mlp.2.weight": (heads, bias_dim),
        f"{name}.mlp.fc1.weight": (4 * width, width),
        f"{name}.mlp.fc2.weight": (width, 4 * width),
    }


def radio1d_shapes(
    width: int = 1280,
    depth: int = 32,
    merges: tuple[int, ...] = (24,),
    decoder_depth: int = 6,
    splits: tuple[int, ...] = (3,),
    prefix: int = 10,
    grid: int = 128,
    filler: int = 16,
) -> dict[str, Shape]:
    """The tensors of a RADIO1D backbone, by default of the released size as far as it is known."""
    shapes: dict[str, Shape] = {
        "patch_generator.embedder.weight": (width, 3 * 16 * 16),
        "patch_generator.pos_embed": (1, grid * grid, width),
        "patch_generator.cls_token.token": (prefix, width),
    }
    for i in range(depth):
        if i in merges:
            j = merges.index(i)
            shapes |= _norm(f"downscale_blocks.{j}.norm", 4 * width)
            shapes |= {f"downscale_blocks.{j}.reduction.weight": (2 * width, 4 * width)}
            shapes |= {f"prefix_proj_blocks.{j}.weight": (2 * width, width)}
            width *= 2
        shapes |= _vit_block(f"blocks.{i}", width, qkv_bias=True)
    shapes |= {"decoder.filler_tokens": (filler * filler, width), "decoder.prefix_tokens": (prefix, width)}
    for i in range(decoder_depth):
        if i in splits:
            j = splits.index(i)
            shapes |= {f"decoder.upscale_blocks.{j}.expansion.weight": (2 * width, width)}
            shapes |= _norm(f"decoder.upscale_blocks.{j}.norm", width // 2)
            shapes |= {f"decoder.prefix_proj_blocks.{j}.weight": (width // 2, width)}
            width //= 2
        shapes |= _vit_block(f"decoder.blocks.{i}", width, qkv_bias=False)
    return shapes | _norm("decoder.norm", width)


def _vit_block(name: str, width: int, qkv_bias: bool) -> dict[str, Shape]:
    shapes = {
        **_norm(f"{name}.norm1", width),
        **_linear(f"{name}.attn.qkv", width, 3 * width),
        **_linear(f"{name}.attn.proj", width, width),
        **_norm(f"{name}.norm2", width),
        **_linear(f"{name}.mlp.fc1", width, 4 * width),
        **_linear(f"{name}.mlp.fc2", 4 * width, width),
    }
    if not qkv_bias:
        del shapes[f"{name}.attn.qkv.bias"]
    return shapes


_TEACHERS = [
    {"name": "siglip2-g", "type": "siglip2", "model": "siglip2-g-384"},
    {"name": "dino_v3", "type": "dino_v3"},
    {"name": "sam3", "type": "sam3", "use_summary": False},
]


def _shared(shapes: dict[str, Shape]) -> dict[str, Tensor]:
    """One tensor for all of a kind and shape: its owner's name does not count."""
    kinds = {
        name: (name.rpartition(".")[2], "norm" in name or ".bn." in name, shape)
        for name, shape in shapes.items()
    }
    firsts = {kind: name for name, kind in reversed(kinds.items())}
    made = random_state({name: shapes[name] for name in firsts.values()}, torch.bfloat16)
    return {name: made[firsts[kind]] for name, kind in kinds.items()}


def write(
    path: Path,
    shapes: dict[str, Shape],
    model: str,
    kwargs: dict[str, Any] | None = None,
    share: bool = False,
) -> dict:
    """Write a torch file of random weights.

    Args:
        path: The file.
        shapes: Of the backbone.
        model: Name of the architecture.
        kwargs: ``args.model_kwargs``.
        share: Tensors of one kind and shape are one tensor in bfloat16, so that a full-size file stays small.

    Returns:
        The content that was written.
    """
    named = {f"base_model.{name}": shape for name, shape in shapes.items()}
    named |= {"input_conditioner.norm_mean": (3, 1, 1), "input_conditioner.norm_std": (3, 1, 1)}
    state = random_state(named) if not share else _shared(named)
    unique = {value.data_ptr(): (name, value) for name, value in state.items()}
    for name, value in unique.values():
        if name.endswith(".running_var"):
            value.abs_().add_(0.5)
        elif ".bn.weight" in name or name.endswith(".norm.weight"):
            value.fill_(1)
    args = Namespace(
        model=model, model_kwargs=kwargs, teachers=_TEACHERS, cls_token_per_teacher=True, mlp_version="v2"
    )
    content = {"arch": model, "epoch": 1, "args": args, "state_dict": state}
    torch.save(content, path)
    return content
