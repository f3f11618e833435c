"""The student: this library's ViT with cropped position embeddings, with a head for every teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio.config import AdaptorConfig, HeadConfig, RadioConfig
from radio.loading import load_model
from radio.model import RADIOModel
from radio.optional import require
from radio.training.recipe import StudentRecipe, TeacherRecipe
from radio.training.spectral import reparametrize
from radio.training.teachers import Teacher
from radio.training.teachers.timm_teacher import local_weights
from radio.wording import counted

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TOKEN_MULTIPLE = 8
"""Class tokens and registers are together a multiple of this (RADIOv2.5)."""


def build_student(
    recipe: StudentRecipe, teachers: Mapping[str, tuple[TeacherRecipe, Teacher]], seed: int = 0
) -> RADIOModel:
    """A student with one class token, one summary head and one feature head for every teacher, in train mode.

    Heads are MLPs of the second generation. All that a start does not give is random, from the seed alone.

    Args:
        recipe: Its shape, and what it starts from.
        teachers: Recipe and model by name, in order.
        seed: Of the random weights.

    Raises:
        ValueError: The start has another shape than the recipe can use.
    """
    config, start = _start(recipe)
    config = _with_teachers(config, recipe, teachers)
    student = RADIOModel(config, [*teachers])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _initialize(student)
    _take_over(student, start)
    _freeze_unused_heads(student, teachers)
    if recipe.spectral:
        reparametrize(student.backbone.blocks)
    return student.train()


@torch.no_grad()
def standardize_heads(student: RADIOModel, pixels: Tensor) -> None:
    """Let the heads read their tokens at zero mean and unit variance: data-dependent initialization.

    Tokens of a trained ViT nearly point the same way, and what tells images apart is small beside what they share: a
    random head sees the shared part alone and learns slowly. The first layer of every head takes mean and deviation in.
    (Krähenbühl et al. 2016, arXiv 1511.06856, for every layer; here it is only the first one.)

    Args:
        student: From `build_student`.
        pixels: (B, 3, H, W) in [0, 1]; a few dozen images.
    """
    was_training = student.training
    tokens = student.eval()(pixels)["backbone"]
    summaries = tokens.summary.unflatten(1, (-1, student.embed_dim))
    for adaptor in student.adaptors.values():
        _standardize_inputs(adaptor.feat_mlp.get_submodule("fc1"), tokens.features.flatten(0, 1))
        if adaptor.head_idx in student.config.summary_idxs:
            place = student.config.summary_idxs.index(adaptor.head_idx)
            _standardize_inputs(adaptor.head_mlp.get_submodule("fc1"), summaries[:, place])
    student.train(was_training)


def _standardize_inputs(linear: nn.Module, inputs: Tensor) -> None:
    assert isinstance(linear, nn.Linear)
    mean, deviation = inputs.mean(0), inputs.std(0)
    linear.weight.div_(deviation.clamp(min=0.1 * float(deviation.mean())))
    linear.bias.sub_(linear.weight @ mean)


def _start(recipe: StudentRecipe) -> tuple[RadioConfig, dict[str, Tensor]]:
    """The shape of the trunk, and the tensors it starts with under the names of `RADIOModel.backbone`."""
    if recipe.start == "scratch":
        if recipe.depth < 1:
            raise ValueError("student.depth must be at least 1 for a student from scratch")
        return _plain_config(recipe, recipe.depth), {}
    if recipe.start.startswith("timm:"):
        return _from_timm(recipe)
    source = load_model(recipe.start, device="cpu", dtype="float32")
    config = source.config
    tensors = source.backbone.state_dict()
    if config.layout == "plain":
        tensors = _plain_to_cpe(tensors, config.num_prefix_tokens if config.pos_embed_has_class else 0)
    return replace(config, layout="cpe", depth=_depth(recipe, config.depth)), tensors


def _plain_config(recipe: StudentRecipe, depth: int) -> RadioConfig:
    return RadioConfig(
        architecture=recipe.architecture,
        layout="cpe",
        embed_dim=recipe.width,
        depth=depth,
        num_heads=recipe.heads,
        mlp_dim=round(recipe.width * recipe.mlp_ratio),
        patch_size=recipe.patch_size,
        grid_size=recipe.max_size // recipe.patch_size,
        num_cls_tokens=1,
        num_registers=0,
        layer_scale=recipe.layer_scale,
    )


def _depth(recipe: StudentRecipe, available: int) -> int:
    if recipe.depth > available:
        raise ValueError(
            f"student.depth is {recipe.depth}, but {recipe.start} has {counted(available, 'block')}"
        )
    return recipe.depth or available


def _from_timm(recipe: StudentRecipe) -> tuple[RadioConfig, dict[str, Tensor]]:
    timm = require("timm", "training")
    name = recipe.start.removeprefix("timm:")
    from_file = {} if recipe.weights is None else {"pretrained_cfg_overlay": local_weights(recipe.weights)}
    vit = timm.create_model(name, pretrained=True, num_classes=0, **from_file)
    tensors = dict(vit.state_dict())
    if "blocks.0.attn.qkv.weight" not in tensors or "pos_embed" not in tensors:
        raise ValueError(f"{name} is not a plain ViT of timm; take one with blocks and position embeddings")
    patch, width = vit.patch_embed.patch_size[0], vit.embed_dim
    prefix = tensors["pos_embed"].shape[1] - math.isqrt(tensors["pos_embed"].shape[1]) ** 2
    config = replace(
        _plain_config(recipe, _depth(recipe, len(vit.blocks))),
        embed_dim=width,
        num_heads=vit.blocks[0].attn.num_heads,
        mlp_dim=tensors["blocks.0.mlp.fc1.weight"].shape[0],
        patch_size=patch,
        grid_size=math.isqrt(tensors["pos_embed"].shape[1]),
        patch_bias="patch_embed.proj.bias" in tensors,
        qkv_bias="blocks.0.attn.qkv.bias" in tensors,
        layer_scale="blocks.0.ls1.gamma" in tensors,
        final_norm="norm.weight" in tensors,
    )
    return config, _plain_to_cpe(tensors, prefix)


def _plain_to_cpe(tensors: Mapping[str, Tensor], prefix: int) -> dict[str, Tensor]:
    """A plain ViT's tensors under the names of the CPE layout; the class token takes its own position in."""
    renamed = {name: value for name, value in tensors.items() if name.startswith(("blocks.", "norm."))}
    renamed["patch_generator.embedder.weight"] = tensors["patch_embed.proj.weight"].flatten(1)
    if "patch_embed.proj.bias" in tensors:
        renamed["patch_generator.embedder.bias"] = tensors["patch_embed.proj.bias"]
    renamed["patch_generator.pos_embed"] = tensors["pos_embed"][:, prefix:]
    if "cls_token" in tensors:
        token = tensors["cls_token"][0, :1]
        position = tensors["pos_embed"][0, :1] if prefix else 0
        renamed["patch_generator.cls_token.token"] = token + position
    return renamed


def _with_teachers(
    config: RadioConfig, recipe: StudentRecipe, teachers: Mapping[str, tuple[TeacherRecipe, Teacher]]
) -> RadioConfig:
    def head(output_dim: int) -> HeadConfig:
        return HeadConfig("v2", config.embed_dim, recipe.head_width, output_dim, num_inner=1)

    entries = {
        name: {
            "name": name,
            "type": each.kind,
            "model": each.model,
            "use_summary": each.use_summary,
            "license": each.license,
        }
        for name, (each, _) in teachers.items()
    }
    adaptors = tuple(
        AdaptorConfig(
            name=name,
            head_idx=index,
            summary=head(teacher.summary_dim or teacher.feature_dim),
            feature=head(teacher.feature_dim),
            teacher=entries[name],
        )
        for index, (name, (_, teacher)) in enumerate(teachers.items())
    )
    with_summary = [i for i, (each, _) in enumerate(teachers.values()) if each.use_summary] or [0]
    return replace(
        config,
        num_cls_tokens=len(teachers),
        num_registers=-len(teachers) % TOKEN_MULTIPLE,
        summary_idxs=tuple(with_summary) if len(teachers) > 1 else (0,),
        summary_names=tuple([*teachers][i] for i in with_summary),
        summary_pool="token",
        teachers=tuple(entries.values()),
        adaptors=adaptors,
        feature_normalizer=False,
        intermediate_normalizer=None,
        dtype="float32",
        version="",
    )


def _initialize(student: RADIOModel) -> None:
    """Normal with deviation 0.02 cut at two, as ViTs start; norms and LayerScale as they do nothing, or little."""
    for name, parameter in student.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(parameter, 0.1)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 1:
            nn.init.ones_(parameter)
        else:
            nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)
    with torch.no_grad():
        student.input_conditioner.norm_mean.copy_(torch.tensor(MEAN).view(3, 1, 1))  # type: ignore[operator]
        student.input_conditioner.norm_std.copy_(torch.tensor(STD).view(3, 1, 1))  # type: ignore[operator]


@torch.no_grad()
def _take_over(student: RADIOModel, start: Mapping[str, Tensor]) -> None:
    """Copy what fits. Every class token starts as the start's first one; its other prefix tokens are registers."""
    for name, parameter in student.backbone.state_dict().items():
        if name not in start:
            continue
        value = start[name]
        if name == "patch_generator.cls_token.token":
            classes = student.num_cls_tokens
            parameter[:classes] = value[:1]
            registers = value[1 : 1 + len(parameter) - classes]
            parameter[classes : classes + len(registers)] = registers
        elif name == "patch_generator.pos_embed" and value.shape != parameter.shape:
            side, wanted = math.isqrt(value.shape[1]), student.config.grid_size
            grid = value.reshape(1, side, side, -1).permute(0, 3, 1, 2)
            resized = F.interpolate(grid, (wanted, wanted), mode="bicubic", antialias=True)
            parameter.copy_(resized.flatten(2).transpose(1, 2))
        elif value.shape != parameter.shape:
            raise ValueError(
                f"the start's {name} is {tuple(value.shape)}, the student's is {tuple(parameter.shape)}"
            )
        else:
            parameter.copy_(value)


def _freeze_unused_heads(student: RADIOModel, teachers: Mapping[str, tuple[TeacherRecipe, Teacher]]) -> None:
    for name, (recipe, _) in teachers.items():
        if not recipe.use_summary:
            student.adaptors[name].head_mlp.requires_grad_(False)
