"""The same random weights in three libraries: ours, transformers' native `RadioModel`, timm's NaFlex RADIO.

The peers do not copy the weights; they share their memory, so that a comparison fits on a small machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from timm.models.naflexvit import checkpoint_filter_fn
from torch import Tensor, nn
from transformers import RadioConfig as TransformersConfig
from transformers import RadioModel as TransformersRadio

from radio import RadioConfig, load_model
from radio.checkpoints import write_hub_repo
from radio.modeling.network import RADIONetwork

Forward = Callable[[Tensor], Any]

PATCH = 16
GRID = 128
RUNTIMES = ("openvino", "onnxruntime")
CLS_TOKENS = 4
REGISTERS = 4
SUMMARY_IDXS = (0, 1, 2)
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Size:
    """How big a model is, and the name of timm's model of that size."""

    width: int
    depth: int
    heads: int
    timm_name: str


SIZES = {
    "ViT-B": Size(768, 12, 12, "naflexvit_base_patch16_radio_v3"),
    "ViT-L": Size(1024, 24, 16, "naflexvit_large_patch16_radio_v3"),
    "ViT-H": Size(1280, 32, 16, "naflexvit_huge_patch16_radio_v3"),
    "tiny": Size(192, 2, 3, "naflexvit_base_patch16_radio_v3"),
}


def random_model(size: Size) -> RADIONetwork:
    """Our model in the shape of C-RADIOv3 (with LayerScale), random weights, float32."""
    config = RadioConfig(
        architecture="random",
        layout="cpe",
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        mlp_dim=4 * size.width,
        patch_size=PATCH,
        grid_size=GRID,
        num_cls_tokens=CLS_TOKENS,
        num_registers=REGISTERS,
        summary_idxs=SUMMARY_IDXS,
        layer_scale=True,
    )
    torch.manual_seed(0)
    model = RADIONetwork(config).eval().requires_grad_(False)
    for name, weight in model.backbone.named_parameters():
        if weight.ndim > 1:
            nn.init.trunc_normal_(weight, std=0.02)
        elif name.endswith("gamma"):
            nn.init.uniform_(weight, 0.5, 1.5)
        elif name.endswith("bias"):
            nn.init.trunc_normal_(weight, std=0.02)
    model.input_conditioner.norm_mean.copy_(torch.tensor(MEAN)[:, None, None])
    model.input_conditioner.norm_std.copy_(torch.tensor(STD)[:, None, None])
    return model


def transformers_peer(model: RADIONetwork) -> TransformersRadio:
    """transformers' model with our weights and SDPA attention. It takes pixels in [0, 1], as ours does."""
    config = model.config
    theirs = TransformersConfig(
        hidden_size=config.embed_dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.num_heads,
        mlp_ratio=config.mlp_dim / config.embed_dim,
        max_img_size=GRID * PATCH,
        num_cls_tokens=CLS_TOKENS,
        num_registers=REGISTERS,
        summary_idxs=list(SUMMARY_IDXS),
        norm_mean=list(MEAN),
        norm_std=list(STD),
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        peer = TransformersRadio(theirs)
    peer.load_state_dict(_transformers_names(model), strict=True, assign=True)
    return peer.to(model.device).eval().requires_grad_(False)


def _transformers_names(model: RADIONetwork) -> dict[str, Tensor]:
    state = model.backbone.state_dict()
    given = {
        "input_conditioner.norm_mean": model.input_conditioner.norm_mean,
        "input_conditioner.norm_std": model.input_conditioner.norm_std,
        "embeddings.patch_projection.weight": state["patch_generator.embedder.weight"],
        "embeddings.position_embedding": state["patch_generator.pos_embed"],
        "embeddings.cls_register_token": state["patch_generator.cls_token.token"],
        "summary_idxs": torch.tensor(SUMMARY_IDXS),
    }
    for i in range(model.config.depth):
        old, new = f"blocks.{i}.", f"encoder.layer.{i}."
        for kind in ("weight", "bias"):
            parts = state[f"{old}attn.qkv.{kind}"].chunk(3)
            given |= {f"{new}attention.{n}_proj.{kind}": p for n, p in zip("qkv", parts, strict=True)}
            given[f"{new}attention.o_proj.{kind}"] = state[f"{old}attn.proj.{kind}"]
            given |= {
                f"{new}{name}.{kind}": state[f"{old}{name}.{kind}"]
                for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")
            }
        given |= {f"{new}layer_scale{n}.lambda1": state[f"{old}ls{n}.gamma"] for n in (1, 2)}
    return given


def timm_peer(model: RADIONetwork) -> nn.Module:
    """timm's model with our weights, converted by timm's own code. It takes normalized pixels."""
    config = model.config
    size = next(s for s in SIZES.values() if (s.width, s.depth) == (config.embed_dim, config.depth))
    with torch.device("meta"):
        peer = timm.create_model(
            size.timm_name,
            embed_dim=size.width,
            depth=size.depth,
            num_heads=size.heads,
            pos_embed_align_corners=config.pos_embed_align_corners,
        )
    ours = {f"radio_model.model.{name}": value for name, value in model.backbone.state_dict().items()}
    peer.load_state_dict(checkpoint_filter_fn(ours, peer), strict=True, assign=True)
    return peer.eval().requires_grad_(False)


@contextmanager
def graphs_of_this_run() -> Iterator[None]:
    """A cache of graphs for a run and the processes that it starts, so that each is made once; deleted at its end."""
    before = os.environ.get("XDG_CACHE_HOME")
    with TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = before


def runtime_model(model: RADIONetwork, runtime: str) -> RADIONetwork:
    """Our model with the same weights, its backbone in a runtime, as `load_model` gives it."""
    with TemporaryDirectory() as folder:
        write_hub_repo(Path(folder) / "model", model.config, model.state_dict())
        return load_model(Path(folder) / "model", dtype=model.dtype, runtime=runtime)  # type: ignore[arg-type]


def forward_of(subject: str, model: RADIONetwork) -> Forward:
    """The forward pass of "radio", "transformers", "timm", or of ours in "openvino" or "onnxruntime", with our
    model's weights, from pixels in [0, 1].

    timm's model has no input normalization, so ours runs before it, as it does in the other two. transformers' model
    wants pixels in the dtype of its weights.
    """
    if subject == "radio":
        return model
    if subject in RUNTIMES:
        return runtime_model(model, subject)
    if subject == "transformers":
        theirs = transformers_peer(model)
        return lambda x: theirs(x.to(model.dtype))
    peer = timm_peer(model)
    return lambda x: peer.forward_features(model.input_conditioner(x))


def outputs_of(result: Any) -> tuple[Tensor, Tensor]:
    """Summary (B, D) and features (B, L, C) of any subject's result."""
    if not isinstance(result, Tensor):
        return result.summary, result.features
    return result[:, list(SUMMARY_IDXS)].flatten(1), result[:, CLS_TOKENS + REGISTERS :]


def check_equal(forwards: dict[str, Forward], x: Tensor, tolerance: float) -> dict[str, float]:
    """How far the peers' outputs are from ours, as the largest difference over the largest value.

    Raises:
        RuntimeError: A peer does not compute the same; then there is nothing to compare.
    """
    results = {subject: outputs_of(forward(x)) for subject, forward in forwards.items()}
    apart = {}
    for subject, outputs in results.items():
        differences = [
            float((a.float() - b.float()).abs().max() / b.float().abs().max())
            for a, b in zip(outputs, results["radio"], strict=True)
        ]
        apart[subject] = max(differences)
        if not apart[subject] <= tolerance:
            raise RuntimeError(
                f"{subject} is {apart[subject]:.2g} away from radio, more than {tolerance:.2g}"
            )
    return apart
