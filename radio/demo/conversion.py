"""From an ONNX file with a DINOv2 backbone to this library's description and tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from radio.config import RadioConfig
from radio.errors import CheckpointError
from radio.optional import require

_EXTRA = "demo"
_LARGEST_SIDE = 2
"""How many times larger than the stored grid of positions the longest side of an image may be."""


def require_onnx() -> Any:
    """The package that reads the file.

    Raises:
        MissingExtraError: It is not installed.
    """
    return require("onnx", _EXTRA)


def convert_onnx(
    content: bytes, blocks: int, num_heads: int, version: str, teacher: str
) -> tuple[RadioConfig, dict[str, Tensor]]:
    """The first blocks of a ViT that transformers' ``Dinov2Model`` was exported from.

    The file's own last norm is left out: it was trained for what the last block gives.

    Args:
        content: Of the ONNX file.
        blocks: How many blocks are kept.
        num_heads: Attention heads, which no tensor shows.
        version: The name that the model goes by.
        teacher: What the summary was trained for.

    Raises:
        CheckpointError: The file lacks a tensor or is no ONNX file.
        MissingExtraError: ``onnx`` is not installed.
    """
    constants = _Constants(content)
    embeddings = "backbone.embeddings.patch_embeddings.projection"
    patches = constants.named(f"{embeddings}.weight")
    position = constants.input_of("/backbone/embeddings/Reshape_1", 0)
    width, _, patch, _ = patches.shape
    grid = round(position.shape[1] ** 0.5)
    class_token = constants.named("backbone.embeddings.cls_token")
    class_position = constants.input_of("/backbone/embeddings/Concat_6", 0)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    tensors = {
        "input_conditioner.norm_mean": mean[:, None, None],
        "input_conditioner.norm_std": std[:, None, None],
        "model.patch_generator.embedder.weight": patches.flatten(1),
        "model.patch_generator.embedder.bias": constants.named(f"{embeddings}.bias"),
        "model.patch_generator.cls_token.token": (class_token + class_position)[0],
        "model.patch_generator.pos_embed": position,
    }
    for number in range(blocks):
        for name, value in _block(constants, number).items():
            tensors[f"model.blocks.{number}.{name}"] = value
    config = RadioConfig(
        architecture="vit_small_patch14_dinov2",
        layout="cpe",
        embed_dim=width,
        depth=blocks,
        num_heads=num_heads,
        mlp_dim=tensors["model.blocks.0.mlp.fc1.weight"].shape[0],
        patch_size=patch,
        grid_size=grid,
        num_cls_tokens=1,
        num_registers=0,
        summary_names=(teacher,),
        teachers=({"name": teacher, "use_summary": True},),
        patch_bias=True,
        layer_scale=True,
        version=version,
        max_resolution=_LARGEST_SIDE * grid * patch,
        preferred_resolution=(grid * patch, grid * patch),
    )
    return config, tensors


def _block(constants: _Constants, number: int) -> dict[str, Tensor]:
    """A block's tensors under this library's names."""
    names, nodes = f"backbone.encoder.layer.{number}", f"/backbone/encoder/layer.{number}"
    projections = ("query", "key", "value")
    dense = {"attn.proj": "attention/output/dense", "mlp.fc1": "mlp/fc1", "mlp.fc2": "mlp/fc2"}
    tensors = {
        "attn.qkv.weight": torch.cat(
            [constants.input_of(f"{nodes}/attention/attention/{each}/MatMul", 1).T for each in projections]
        ),
        "attn.qkv.bias": torch.cat(
            [constants.named(f"{names}.attention.attention.{each}.bias") for each in projections]
        ),
        "ls1.gamma": constants.named(f"{names}.layer_scale1.lambda1"),
        "ls2.gamma": constants.named(f"{names}.layer_scale2.lambda1"),
    }
    for ours, theirs in dense.items():
        tensors[f"{ours}.weight"] = constants.input_of(f"{nodes}/{theirs}/MatMul", 1).T.contiguous()
        tensors[f"{ours}.bias"] = constants.named(f"{names}.{theirs.replace('/', '.')}.bias")
    for norm in ("norm1", "norm2"):
        for kind in ("weight", "bias"):
            tensors[f"{norm}.{kind}"] = constants.named(f"{names}.{norm}.{kind}")
    return tensors


class _Constants:
    """The constants of an ONNX file, by their own names or by the nodes that use them.

    An exporter keeps the names of parameters, but numbers the matrices that it transposed; those are found through the
    node, which is named after its module.
    """

    def __init__(self, content: bytes) -> None:
        onnx = require_onnx()
        from google.protobuf.message import DecodeError

        try:
            graph = onnx.load_from_string(content).graph
        except DecodeError as error:
            raise CheckpointError(f"this is no ONNX file ({error})") from error
        self._to_array = onnx.numpy_helper.to_array
        self._tensors = {each.name: each for each in graph.initializer}
        self._inputs = {node.name: node.input for node in graph.node}

    def named(self, name: str) -> Tensor:
        """A constant, in memory of its own."""
        if name not in self._tensors:
            raise CheckpointError(f"the ONNX file has no constant {name!r}")
        return torch.tensor(self._to_array(self._tensors[name]))

    def input_of(self, node: str, position: int) -> Tensor:
        """The constant that a node has as its input at a position."""
        inputs = self._inputs.get(node, ())
        if position >= len(inputs):
            raise CheckpointError(f"the ONNX file has no node {node!r} with {position + 1} inputs")
        return self.named(inputs[position])
