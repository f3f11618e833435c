"""Random checkpoints of the released versions: their arguments, tensor names and exact shapes, in the released layout.

What the public descriptions leave open is marked ASSUMED; none of it changes how a file is read.
"""

from __future__ import annotations

import math
from argparse import Namespace
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """A backbone by name: width C, blocks, attention heads, MLP width, and what else its blocks hold."""

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int = 16
    layer_scale: bool = False
    mlp_norm: bool = False
    dinov2: bool = False


ARCHITECTURES = {
    "vit_base_patch16_224": Architecture(768, 12, 12, 3072),
    "vit_large_patch16_224": Architecture(1024, 24, 16, 4096),
    "vit_huge_patch16_224": Architecture(1280, 32, 16, 5120),
    "vit_huge_patch16_224_mlpnorm": Architecture(1280, 32, 16, 5120, mlp_norm=True),
    "vit_huge_patch14_224": Architecture(1280, 32, 16, 5120, patch=14),
    "vit_giant_patch16_224": Architecture(1536, 40, 24, 6144),
    "vit_so400m_patch16_224": Architecture(1152, 27, 16, 4304),
    "vit_so400m_v2_patch16_224": Architecture(1152, 27, 16, 4320),
    "vit_base_patch16_v2_224": Architecture(768, 12, 12, 3072, layer_scale=True),
    "vit_large_patch16_v2_224": Architecture(1024, 24, 16, 4096, layer_scale=True),
    "dino_v2_l_student": Architecture(1024, 24, 16, 4096, patch=14, layer_scale=True, dinov2=True),
    "dino_v2_g_student": Architecture(1536, 40, 24, 4096, patch=14, layer_scale=True, dinov2=True),
}
_SWIGLU = ("dino_v2_g_student",)

_CLIP = {"name": "clip", "type": "open_clip", "model": "ViT-H-14-378-quickgelu", "pretrained": "dfn5b"}
_SIGLIP = {"name": "siglip", "type": "open_clip", "model": "ViT-SO400M-14-SigLIP-384", "pretrained": "webli"}
_SIGLIP2 = {"name": "siglip2-g", "type": "siglip2", "model": "siglip2-g-384"}
_DINO_V2 = {"name": "dino_v2", "type": "dino_v2", "model": "dinov2_vitg14_reg"}
_DINO_V3 = {"name": "dino_v3", "type": "dino_v3", "model": "dinov3_vit7b16"}
_SAM = {"name": "sam", "type": "sam", "model": "vit-h", "use_summary": False}
_SAM3 = {"name": "sam3", "type": "sam3", "model": "sam3", "use_summary": False}

TEACHER_WIDTHS = {
    "clip": (1024, 1280),
    "siglip": (1152, 1152),
    "siglip2-g": (1536, 1536),
    "dino_v2": (1536, 1536),
    "dino_v3": (4096, 4096),
    "sam": (1280, 1280),
    "sam3": (1024, 1024),
}
"""Widths of every teacher's summary and features. ASSUMED, like the heads' inner width and depth."""


@dataclass(frozen=True)
class Version:
    """What a version's file holds, besides its architecture."""

    architecture: str
    teachers: tuple[dict, ...]
    cpe_max_size: int | None = 2048
    args: dict = field(default_factory=dict)
    registers: int = 0
    cls_per_teacher: bool = True
    scaled_ln: bool = False
    normalizers: bool = False
    dtype: torch.dtype = torch.bfloat16
    heads: bool = True

    @property
    def num_cls_tokens(self) -> int:
        return len({teacher["name"] for teacher in self.teachers}) if self.cls_per_teacher else 1

    @property
    def num_summary_tokens(self) -> int:
        return (
            sum(teacher.get("use_summary", True) for teacher in self.teachers) if self.cls_per_teacher else 1
        )


_V2 = (_CLIP, _DINO_V2, _SAM)
_V2_5 = (_CLIP, _SIGLIP, _DINO_V2, _SAM)
_V3 = (_CLIP, _SIGLIP2, _DINO_V2, _SAM)
_V4 = (_SIGLIP2, _DINO_V3, _SAM3)
_OF_8 = {"register_multiple": 8}
_SEVEN = {"cpe_num_registers": 7}

VERSIONS = {
    "radio_v2.5-b": Version("vit_base_patch16_224", _V2_5, args=_OF_8, registers=4),
    "radio_v2.5-l": Version("vit_large_patch16_224", _V2_5, args=_OF_8, registers=4),
    "radio_v2.5-h": Version("vit_huge_patch16_224", _V2_5, args=_OF_8, registers=4, dtype=torch.float32),
    # ASSUMED: which normalizers "norm" means, and that the intermediate one shares its rotation.
    "radio_v2.5-h-norm": Version(
        "vit_huge_patch16_224", _V2_5, args=_OF_8, registers=4, dtype=torch.float32, normalizers=True
    ),
    "radio_v2.5-g": Version(
        "dino_v2_g_student",
        _V2_5,
        cpe_max_size=1792,
        args={"cpe_num_registers": 4},
        registers=4,
        cls_per_teacher=False,
        dtype=torch.float32,
    ),
    # ASSUMED: registers up to a multiple of 8, as in the versions after them.
    "radio_v2.1": Version("vit_huge_patch16_224", _V2, args=_OF_8, registers=5),
    "radio_v2": Version("vit_huge_patch16_224", _V2, args=_OF_8, registers=5, dtype=torch.float32),
    # ASSUMED: position embeddings up to its largest resolution, no registers.
    "radio_v1": Version(
        "vit_huge_patch14_224",
        (_CLIP, _DINO_V2),
        cpe_max_size=1050,
        cls_per_teacher=False,
        dtype=torch.float32,
        heads=False,
    ),
    # ASSUMED: the ViT-g/16 with scaled norms.
    "c-radio_v2-g": Version("vit_giant_patch16_224", _V2_5, args=_OF_8, registers=4, scaled_ln=True),
    # ASSUMED: the register multiple of 16.
    "c-radio_v2-vlm-h": Version(
        "vit_huge_patch16_224", _V2_5, args={"register_multiple": 16}, registers=12, dtype=torch.float32
    ),
    "c-radio_v3-b": Version("vit_base_patch16_v2_224", _V3, args=_OF_8, registers=4),
    "c-radio_v3-l": Version("vit_large_patch16_v2_224", _V3, args=_OF_8, registers=4),
    "c-radio_v3-h": Version("vit_huge_patch16_224", _V3, args=_OF_8, registers=4),
    "c-radio_v3-g": Version("vit_giant_patch16_224", _V3, args=_OF_8, registers=4),
    "c-radio_v4-so400m": Version("vit_so400m_patch16_224", _V4, args=_SEVEN, registers=7),
    "c-radio_v4-h": Version("vit_huge_patch16_224", _V4, args=_SEVEN, registers=7),
}

OTHER_LAYOUTS = {
    "vit_huge_patch14_224 without CPE": Version(
        "vit_huge_patch14_224", (_CLIP, _DINO_V2), cpe_max_size=None, cls_per_teacher=False
    ),
    "vit_huge_patch16_224_mlpnorm": Version(
        "vit_huge_patch16_224_mlpnorm", _V2_5, args={"register_multiple": 16}, registers=12
    ),
    "vit_so400m_v2_patch16_224": Version("vit_so400m_v2_patch16_224", _V4, args=_SEVEN, registers=7),
    "dino_v2_l_student": Version("dino_v2_l_student", _V2_5, cls_per_teacher=False, cpe_max_size=1792),
}
"""Architectures that the layout knows and no version above uses."""


def make_checkpoint(
    path: Path,
    version: Version,
    small: bool = False,
    repeat_blocks: bool = False,
    dtype: torch.dtype | None = None,
) -> dict:
    """Write a random checkpoint.

    Args:
        path: The file to write.
        version: What it holds.
        small: A narrow and shallow model with a small grid, which `args.model_kwargs` describes.
        repeat_blocks: All blocks share the weights of one, so that the file stays small; every name and shape is
            as released.
        dtype: Of the weights, instead of the version's.

    Returns:
        The content that was written.
    """
    architecture = ARCHITECTURES[version.architecture]
    cpe_max_size = version.cpe_max_size
    kwargs: dict = {"scaled_ln": True} if version.scaled_ln else {}
    if small:
        hidden = (int(4 * 64 * 2 / 3) + 7) // 8 * 8 if version.architecture in _SWIGLU else 256
        architecture = Architecture(
            64,
            4,
            4,
            hidden,
            architecture.patch,
            architecture.layer_scale,
            architecture.mlp_norm,
            architecture.dinov2,
        )
        kwargs |= {"embed_dim": 64, "depth": 4, "num_heads": 4}
        cpe_max_size = cpe_max_size and 16 * architecture.patch
    if cpe_max_size is None:
        kwargs |= {"img_size": 378, "dynamic_img_size": True}
    if architecture.layer_scale and not architecture.dinov2:
        kwargs |= {"init_values": 1e-5}
    args = Namespace(
        model=version.architecture,
        model_kwargs=kwargs,
        in_chans=None,
        input_size=[3, 224, 224],
        gp=None,
        teachers=[{"use_summary": True, **teacher} for teacher in version.teachers],
        cpe_max_size=cpe_max_size,
        cls_token_per_teacher=version.cls_per_teacher,
        mlp_version="v2",
        spectral_reparam=False,
        spectral_heads=False,
        **version.args,
    )
    shapes = backbone_shapes(version, architecture, cpe_max_size) | _head_shapes(
        version, architecture.width, small
    )
    state = _fill(shapes, dtype or version.dtype, repeat_blocks)
    content = {"arch": version.architecture, "epoch": 300, "args": args, "state_dict": state}
    torch.save(content, path)
    return content


def backbone_shapes(
    version: Version, architecture: Architecture, cpe_max_size: int | None
) -> dict[str, Shape]:
    """The tensors of a version's backbone under their released names."""
    width, patch = architecture.width, architecture.patch
    root = "base_model.inner." if architecture.dinov2 else "base_model."
    tokens = version.num_cls_tokens + version.registers
    if cpe_max_size is None:
        shapes: dict[str, Shape] = {
            "cls_token": (1, 1, width),
            "pos_embed": (1, 1 + (378 // patch) ** 2, width),
            "patch_embed.proj.weight": (width, 3, patch, patch),
            "patch_embed.proj.bias": (width,),
        }
    else:
        shapes = {
            "patch_generator.embedder.weight": (width, 3 * patch * patch),
            "patch_generator.pos_embed": (1, round(cpe_max_size / patch) ** 2, width),
            "patch_generator.cls_token.token": (tokens, width),
        }
    if architecture.dinov2:
        shapes |= {"patch_generator.embedder.bias": (width,), "mask_token": (1, width)}
        shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    swiglu = version.architecture in _SWIGLU
    for i in range(architecture.depth):
        block = _block(width, architecture.hidden, swiglu, architecture.layer_scale, architecture.mlp_norm)
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    shapes = {root + name: shape for name, shape in shapes.items()}
    shapes |= {"input_conditioner.norm_mean": (3, 1, 1), "input_conditioner.norm_std": (3, 1, 1)}
    if version.normalizers:
        shapes |= {
            "_feature_normalizer.mean": (width,),
            "_feature_normalizer.tx": (width, width),
            "_intermediate_feature_normalizer.alphas": (architecture.depth,),
            "_intermediate_feature_normalizer.rotation": (width, width),
            "_intermediate_feature_normalizer.means": (architecture.depth, width),
        }
    return shapes


def _block(width: int, hidden: int, swiglu: bool, layer_scale: bool, mlp_norm: bool) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {
        **_linear("attn.qkv", width, 3 * width),
        **_linear("attn.proj", width, width),
        **_norm("norm1", width),
        **_norm("norm2", width),
    }
    if swiglu:
        shapes |= _linear("mlp.w12", width, 2 * hidden) | _linear("mlp.w3", hidden, width)
    else:
        shapes |= _linear("mlp.fc1", width, hidden) | _linear("mlp.fc2", hidden, width)
    if mlp_norm:
        shapes |= _norm("mlp.norm", hidden)
    if layer_scale:
        shapes |= {"ls1.grandma": (width,), "ls2.grandma": (width,)}
    return shapes


def _head_shapes(version: Version, width: int, small: bool) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for i, teacher in enumerate(version.teachers if version.heads else ()):
        summary, features = (40, 48) if small else TEACHER_WIDTHS[teacher["name"]]
        shapes |= mlp_v2(f"_heads.{i}", width, 48 if small else 1280, summary)
        shapes |= mlp_v2(f"_feature_projections.{i}", width, 48 if small else 1280, features)
    return shapes


def mlp_v2(name: str, width: int, hidden: int, output: int) -> dict[str, Shape]:
    """The tensors of a v2 head with one residual block."""
    return {
        **_linear(f"{name}.fc1", width, hidden),
        **_norm(f"{name}.blocks.0.0", hidden),
        **_linear(f"{name}.blocks.0.2", hidden, hidden),
        **_norm(f"{name}.final.0", hidden),
        **_linear(f"{name}.final.2", hidden, output),
    }


def attention_head(name: str, width: int, hidden: int, output: int) -> dict[str, Shape]:
    """The tensors of an "attn" feature head: two blocks with LayerScale, then a v2 head."""
    shapes = mlp_v2(f"{name}.mlp", width, hidden, output)
    for i in range(2):
        block = _block(width, 4 * width, swiglu=False, layer_scale=True, mlp_norm=False)
        shapes |= {
            f"{name}.blocks.{i}.{part.replace('grandma', 'gamma')}": shape for part, shape in block.items()
        }
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> dict[str, Shape]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def random_state(
    shapes: dict[str, Shape], dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, Tensor]:
    """Random tensors of those names and shapes."""
    return _fill(shapes, dtype, repeat_blocks=False, seed=seed)


def _fill(
    shapes: dict[str, Shape], dtype: torch.dtype, repeat_blocks: bool, seed: int = 0
) -> dict[str, Tensor]:
    """Random tensors, cheaply: every one is cut from one random buffer, at its own offset."""
    generator = torch.Generator().manual_seed(seed)
    buffer = (torch.randn(1_000_003, generator=generator) * 0.02).to(dtype)
    made: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    offsets = count(step=7919)
    for name, shape in shapes.items():
        key = name
        if repeat_blocks and ".blocks." in name and name.startswith("base_model."):
            root, _, rest = name.partition(".blocks.")
            key = f"{root}.blocks.0.{rest.partition('.')[2]}"
        if key not in made:
            made[key] = _cut(
                buffer, next(offsets), shape, is_scale=".norm" in name and name.endswith("weight")
            )
        state[name] = made[key]
    if "input_conditioner.norm_mean" in state:
        state["input_conditioner.norm_mean"] = torch.full((3, 1, 1), 0.45).to(dtype)
        state["input_conditioner.norm_std"] = torch.full((3, 1, 1), 0.25).to(dtype)
    return state


def _cut(buffer: Tensor, offset: int, shape: Shape, is_scale: bool) -> Tensor:
    length = math.prod(shape)
    start = offset % len(buffer)
    needed = start + length
    values = (
        buffer.repeat(math.ceil(needed / len(buffer)))[start:needed]
        if needed > len(buffer)
        else buffer[start:needed]
    )
    return (values + 1 if is_scale else values.clone()).reshape(shape)
