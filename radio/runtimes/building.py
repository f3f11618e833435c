"""A model whose backbone runs in a runtime, from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from radio.checkpoints import Checkpoint
from radio.checkpoints.build import build_model
from radio.modeling.description import tensors_digest
from radio.modeling.network import RADIONetwork
from radio.runtimes.backbone import GraphOutput, RuntimeBackbone
from radio.runtimes.cache import code_digest, graph_facts, graph_folder
from radio.runtimes.calibration import normalized_batches, read_calibration
from radio.runtimes.protocol import Runtime
from radio.runtimes.tracing import DYNAMIC, save_onnx, trace

Model = TypeVar("Model", bound=RADIONetwork)

_CPU = torch.device("cpu")


class _Tokens(nn.Module):
    """A backbone from normalized images in float32 to the tokens of its outputs in float32."""

    def __init__(self, network: RADIONetwork) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.windows = network.windows

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        return {read_out.name: read_out.tokens for read_out in self.backbone.read(pixels, self.windows)}


def build_on_runtime(
    model_class: type[Model],
    checkpoint: Checkpoint,
    adaptors: Sequence[str],
    dtype: torch.dtype,
    runtime: Runtime,
    calibration: Any = None,
) -> Model:
    """Build the model of a checkpoint with its backbone in a runtime.

    The backbone's weights are read from the checkpoint once, for the graph, which stays on disk. From then on they are
    only hashed: no PyTorch module of it is built. Adaptors, normalizers and the input conditioner are PyTorch's.

    Args:
        model_class: `RADIONetwork`, or a class of it.
        checkpoint: What was read.
        adaptors: Names of the adaptors to build.
        dtype: What the backbone computes in and the other parts have.
        runtime: The runtime.
        calibration: Images with which the backbone is quantized to int8; None to leave it as it is.

    Raises:
        ValueError: The backbone has no graph for all sizes, or there are no images to calibrate with.
        ImageError: One of them cannot be read.
        MissingExtraError: The runtime, or what makes its graphs, is not installed.
        CheckpointError: The tensors do not fit the description.
        OSError: The graph cannot be kept.
    """
    with torch.device("meta"):
        plain = RADIONetwork(checkpoint.config)
    if reason := plain.backbone.refuses.get("export_of_any_size"):
        raise ValueError(f"runtime={runtime.name!r} runs one graph for images of all sizes: {reason}")
    digest = tensors_digest(_of_backbone(checkpoint))
    versions = {**runtime.versions(), "torch": torch.__version__}
    pixels = None if calibration is None else read_calibration(calibration, plain)
    if pixels is not None:
        digest = tensors_digest({digest: torch.empty(0), **{str(i): each for i, each in enumerate(pixels)}})
        versions.update(runtime.check_quantizer())
    key = {
        "weights": digest,
        "config": {name: value for name, value in asdict(checkpoint.config).items() if name != "adaptors"},
        "runtime": runtime.name,
        "versions": versions,
        "code": code_digest(),
    }
    folder = graph_folder(runtime.name, key, lambda place: _make(place, checkpoint, runtime, pixels))
    outputs = [GraphOutput(**facts) for facts in graph_facts(folder)["outputs"]]
    graph = runtime.open(folder, dtype, torch.get_num_threads())
    backbone = RuntimeBackbone(
        runtime, graph, outputs, plain.windows, plain.patch_size, dtype, digest, plain.backbone.refuses
    )
    model = build_model(model_class, checkpoint, adaptors, _CPU, dtype, backbone=backbone)
    return model.requires_grad_(False)


def _of_backbone(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    return {name: value for name, value in checkpoint.tensors.items() if name.startswith("model.")}


def _make(
    folder: Path, checkpoint: Checkpoint, runtime: Runtime, pixels: Sequence[Tensor] | None
) -> dict[str, Any]:
    """Trace the backbone and write its graph, without a copy of weights that are float32 in the file."""
    runtime.check_exporter()
    network = build_model(RADIONetwork, checkpoint, (), _CPU, torch.float32, mmap=True)
    module = _Tokens(network).eval()
    program = trace(module, network, DYNAMIC)
    step = network.min_resolution_step
    with torch.inference_mode():
        read_outs = network.backbone.read(torch.zeros(1, 3, 2 * step, 2 * step), network.windows)
    onnx = folder / "graph.onnx"
    save_onnx(program, onnx, [read_out.name for read_out in read_outs], external=True)
    runtime.prepare(onnx, None if pixels is None else list(normalized_batches(pixels, network)))
    outputs = [
        asdict(GraphOutput(read_out.name, read_out.on_grid, read_out.layout.prefix)) for read_out in read_outs
    ]
    return {"outputs": outputs}
