"""From a file's arguments and tensor shapes to the one description of the model.

Whatever can be read off the tensors is read off the tensors; the arguments give the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from radio.checkpoints.raw import RawCheckpoint
from radio.config import AdaptorConfig, HeadConfig, Layout, RadioConfig
from radio.errors import CheckpointError

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

_DTYPES = {"float32", "float16", "bfloat16"}


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
    """
    try:
        return _Description(raw, source).build()
    except CheckpointError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{source}: the model's description is not valid ({type(error).__name__}: {error})"
        ) from error


class _Description:
    """The steps of `describe` over one checkpoint."""

    def __init__(self, raw: RawCheckpoint, source: str) -> None:
        self.args = raw.args
        self.repository = raw.repository
        self.source = source
        self.tensors = raw.tensors
        self.layout: Layout = self._layout()
        self.root = "model.inner." if self.layout == "dinov2" else "model."

    def build(self) -> tuple[RadioConfig, dict[str, Tensor]]:
        architecture = str(self.args.get("model"))
        kwargs = self.args.get("model_kwargs") or {}
        heads = kwargs.get("num_heads") or ATTENTION_HEADS.get(architecture)
        if heads is None:
            raise CheckpointError(
                f"{self.source}: unknown architecture {architecture!r}; supported: {', '.join(ATTENTION_HEADS)}"
            )
        final_norm = self.layout == "dinov2" or bool(self.args.get("model_norm"))
        self.tensors = {
            name.replace(".grandma", ".gamma"): value
            for name, value in self.tensors.items()
            if not self._is_leftover(name, final_norm)
        }
        qkv = self._shape("blocks.0.attn.qkv.weight")
        embed_dim = qkv[1]
        if qkv[0] != 3 * embed_dim or embed_dim % int(heads):
            raise CheckpointError(
                f"{self.source}: attention of width {qkv[0]} x {embed_dim} cannot have {heads} heads"
            )
        patch_size, grid_size, prefix, has_class = self._patches(embed_dim)
        teachers = self._teachers()
        num_cls = self._num_cls_tokens(teachers, prefix)
        summary_idxs = self._summary_idxs(teachers, num_cls)
        mean_pool = self.layout == "plain" and self.args.get("gp") == "avg"
        swiglu = self._has("blocks.0.mlp.w12.weight")
        config = RadioConfig(
            architecture=architecture,
            layout=self.layout,
            embed_dim=embed_dim,
            depth=self._depth(),
            num_heads=int(heads),
            mlp_dim=self._shape("blocks.0.mlp.w3.weight" if swiglu else "blocks.0.mlp.fc1.weight")[1 if swiglu else 0],
            patch_size=patch_size,
            grid_size=grid_size,
            num_cls_tokens=num_cls,
            num_registers=prefix - num_cls,
            summary_idxs=summary_idxs,
            summary_names=self._summary_names(teachers, summary_idxs),
            summary_pool="mean" if mean_pool or num_cls == 0 else "token",
            teachers=tuple(teachers),
            adaptors=tuple(self._adaptors(teachers, num_cls)),
            patch_bias=self._has("patch_generator.embedder.bias") or self._has("patch_embed.proj.bias"),
            qkv_bias=self._has("blocks.0.attn.qkv.bias"),
            swiglu=swiglu,
            mlp_norm=self._has("blocks.0.mlp.norm.weight"),
            layer_scale=self._has("blocks.0.ls1.gamma"),
            scaled_norm=bool(kwargs.get("scaled_ln")),
            final_norm=final_norm,
            pos_embed_has_class=has_class,
            feature_normalizer="feature_normalizer.tx" in self.tensors,
            intermediate_normalizer=self._intermediate_normalizer(),
            dtype=self._dtype(),
            **self._repository_fields(patch_size),
        )
        return config, self.tensors

    def _layout(self) -> Layout:
        architecture = str(self.args.get("model"))
        if "eradio" in architecture.replace("-", "").replace("_", "").lower():
            raise CheckpointError(f"{self.source}: E-RADIO ({architecture}) is not supported; use a ViT version")
        if any(name.startswith("model.inner.") for name in self.tensors):
            return "dinov2"
        if "model.patch_generator.pos_embed" in self.tensors:
            return "cpe"
        if "model.patch_embed.proj.weight" in self.tensors:
            return "plain"
        raise CheckpointError(
            f"{self.source} does not hold a RADIO backbone: it has neither 'patch_generator.pos_embed' nor "
            f"'patch_embed.proj.weight' among its {len(self.tensors)} tensors"
        )

    def _is_leftover(self, name: str, final_norm: bool) -> bool:
        """Tensors of the released files that inference does not use."""
        leftovers = [self.root + "mask_token", self.root + "head.", self.root + "fc_norm.", "summary_idxs"]
        if self.layout == "dinov2":
            leftovers.append("model.input_conditioner.")
        if not final_norm:
            leftovers.append(self.root + "norm.")
        if name == "summary_idxs":
            self.repository = {**self.repository, "summary_idxs": self.tensors[name]}
        return name.startswith(tuple(leftovers))

    def _has(self, name: str) -> bool:
        return self.root + name in self.tensors

    def _tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise CheckpointError(f"{self.source}: the tensor {name!r} is missing")
        return self.tensors[name]

    def _shape(self, name: str, dimensions: int = 2) -> tuple[int, ...]:
        return self._full_shape(self.root + name, dimensions)

    def _full_shape(self, name: str, dimensions: int = 2) -> tuple[int, ...]:
        shape = tuple(self._tensor(name).shape)
        if len(shape) != dimensions or 0 in shape:
            raise CheckpointError(f"{self.source}: {name!r} has shape {shape}, expected {dimensions} dimensions")
        return shape

    def _depth(self) -> int:
        prefix = self.root + "blocks."
        numbers = {int(name.removeprefix(prefix).split(".")[0]) for name in self.tensors if name.startswith(prefix)}
        if numbers != set(range(len(numbers))):
            raise CheckpointError(f"{self.source}: blocks are missing; the file has the blocks {sorted(numbers)}")
        return len(numbers)

    def _patches(self, embed_dim: int) -> tuple[int, int, int, bool]:
        """Patch size, side of the position grid, prefix tokens, and whether the grid holds the class token."""
        if self.layout == "plain":
            projection = self._shape("patch_embed.proj.weight", 4)
            positions = self._shape("pos_embed", 3)[1]
            prefix = self._shape("cls_token", 3)[1] if self._has("cls_token") else 0
            has_class = prefix > 0 and math.isqrt(positions) ** 2 != positions
            return projection[3], self._side(positions - (prefix if has_class else 0)), prefix, has_class
        patch_size = math.isqrt(self._shape("patch_generator.embedder.weight")[1] // 3)
        prefix, width = self._shape("patch_generator.cls_token.token")
        if width != embed_dim:
            raise CheckpointError(f"{self.source}: class tokens of width {width} in a model of width {embed_dim}")
        return patch_size, self._side(self._shape("patch_generator.pos_embed", 3)[1]), prefix, False

    def _side(self, positions: int) -> int:
        side = math.isqrt(positions)
        if side * side != positions:
            raise CheckpointError(f"{self.source}: {positions} position embeddings are not a square grid")
        return side

    def _teachers(self) -> list[dict[str, Any]]:
        teachers = self.args.get("teachers") or []
        if not isinstance(teachers, (list, tuple)) or not all(
            isinstance(teacher, Mapping) and isinstance(teacher.get("name"), str) for teacher in teachers
        ):
            raise CheckpointError(f"{self.source}: 'teachers' must be a list of dicts, each with a 'name'")
        return [dict(teacher) for teacher in teachers]

    def _num_cls_tokens(self, teachers: list[dict[str, Any]], prefix: int) -> int:
        per_teacher = bool(self.args.get("cls_token_per_teacher")) and self.layout == "cpe"
        number = len({teacher["name"] for teacher in teachers}) if per_teacher else min(1, prefix)
        if number > prefix:
            raise CheckpointError(f"{self.source}: {number} teachers need a class token each, the file has {prefix}")
        return number

    def _summary_idxs(self, teachers: list[dict[str, Any]], num_cls: int) -> tuple[int, ...]:
        stored = self.repository.get("summary_idxs")
        if stored is not None and self.layout == "cpe":
            idxs = tuple(int(i) for i in torch.as_tensor(stored).flatten().tolist())
        elif num_cls > 1:
            first = {t["name"]: i for i, t in reversed(list(enumerate(teachers))) if t.get("use_summary", True)}
            idxs = tuple(sorted(first.values()))
        else:
            idxs = (0,)
        if num_cls and (not idxs or not all(0 <= i < num_cls for i in idxs)):
            raise CheckpointError(f"{self.source}: the summary takes class tokens {idxs}, but there are {num_cls}")
        return idxs

    @staticmethod
    def _summary_names(teachers: list[dict[str, Any]], idxs: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(teachers[i]["name"] if i < len(teachers) else str(i) for i in idxs)

    def _adaptors(self, teachers: list[dict[str, Any]], num_cls: int) -> list[AdaptorConfig]:
        configs = self.repository.get("adaptor_configs") or {}
        by_name = {teacher["name"]: (i, teacher) for i, teacher in reversed(list(enumerate(teachers)))}
        names = dict.fromkeys(
            name.split(".")[1] for name in self.tensors if name.startswith("adaptors.") and name.count(".") > 2
        )
        adaptors = []
        for name in names:
            index, teacher = by_name.get(name, (0, {"name": name}))
            given = configs.get(name) or {}
            slot = given.get("head_idx", teacher.get("token_slot", index))
            head_idx = int(slot) if num_cls > 1 else 0
            if not 0 <= head_idx < max(num_cls, 1):
                raise CheckpointError(f"{self.source}: adaptor {name!r} reads class token {head_idx} of {num_cls}")
            upsample = int(
                (given.get("feature") or {}).get("upsample_factor") or teacher.get("fd_upsample_factor") or 1
            )
            adaptors.append(
                AdaptorConfig(
                    name=name,
                    head_idx=head_idx,
                    summary=self._head(f"adaptors.{name}.head_mlp.", 1),
                    feature=self._head(f"adaptors.{name}.feat_mlp.", upsample),
                    teacher=teacher,
                )
            )
        return adaptors

    def _head(self, prefix: str, upsample: int) -> HeadConfig:
        if prefix + "mlp.fc1.weight" in self.tensors:
            mlp = self._head(prefix + "mlp.", upsample)
            return HeadConfig(
                kind="attn",
                input_dim=self._full_shape(prefix + "blocks.0.attn.proj.weight")[0],
                hidden_dim=mlp.hidden_dim,
                output_dim=mlp.output_dim,
                num_inner=mlp.num_inner,
                pre_norm=mlp.pre_norm,
                upsample_factor=upsample,
                attn_hidden_dim=self._full_shape(prefix + "blocks.0.mlp.fc1.weight")[0],
                attn_qkv_bias=prefix + "blocks.0.attn.qkv.bias" in self.tensors,
            )
        hidden_dim, input_dim = self._full_shape(prefix + "fc1.weight")
        kind: Literal["v1", "v2"] = "v1" if prefix + "fc2.weight" in self.tensors else "v2"
        rows = self._full_shape(prefix + ("fc2.weight" if kind == "v1" else "final.2.weight"))[0]
        if upsample < 1 or rows % upsample**2:
            raise CheckpointError(
                f"{self.source}: {prefix} emits {rows} numbers, not a multiple of {upsample} x {upsample}"
            )
        part = prefix + ("inner." if kind == "v1" else "blocks.")
        inner = {name.removeprefix(part).split(".")[0] for name in self.tensors if name.startswith(part)}
        return HeadConfig(
            kind=kind,
            input_dim=input_dim,
            hidden_dim=hidden_dim,
            output_dim=rows // upsample**2,
            num_inner=len(inner) // 2 if kind == "v1" else len(inner),
            pre_norm=prefix + "pre_norm.0.weight" in self.tensors,
            upsample_factor=upsample,
        )

    def _intermediate_normalizer(self) -> Literal["shared", "per_layer"] | None:
        if "inter_feature_normalizer.rotation" not in self.tensors:
            return None
        return "shared" if self.tensors["inter_feature_normalizer.rotation"].ndim == 2 else "per_layer"

    def _dtype(self) -> str:
        dtype = str(self.args.get("dtype") or "float32").removeprefix("torch.")
        if dtype not in _DTYPES:
            raise CheckpointError(f"{self.source}: dtype {dtype!r} is not one of {', '.join(sorted(_DTYPES))}")
        return dtype

    def _repository_fields(self, patch_size: int) -> dict[str, Any]:
        """What only a Hub repository's config.json says; a torch file leaves the defaults."""
        given = self.repository
        fields: dict[str, Any] = {"version": str(given.get("version") or "")}
        if given.get("patch_size") not in (None, patch_size):
            raise CheckpointError(
                f"{self.source}: config.json says patch_size {given['patch_size']}, the tensors say {patch_size}"
            )
        if given.get("max_resolution"):
            fields["max_resolution"] = int(given["max_resolution"])
        if given.get("preferred_resolution"):
            height, width = given["preferred_resolution"]
            fields["preferred_resolution"] = (int(height), int(width))
        for name in ("vitdet_window_size", "vitdet_num_global", "vitdet_num_windowed"):
            if given.get(name) is not None:
                fields[name] = int(given[name])
        if given.get("pos_embed_align_corners") is not None:
            fields["pos_embed_align_corners"] = bool(given["pos_embed_align_corners"])
        return fields
