"""Graphs in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radio.optional import require


class OnnxRuntime:
    """ONNX Runtime's CPU provider."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)

    def versions(self) -> Mapping[str, str]:
        """ONNX Runtime's."""
        return {"onnxruntime": require("onnxruntime", "onnxruntime").__version__}

    def check_exporter(self) -> None:
        """PyTorch's exporter."""
        for module in ("onnx", "onnxscript"):
            require(module, "onnxruntime")

    def check_quantizer(self) -> Mapping[str, str]:
        """It is part of ONNX Runtime."""
        return {}

    def prepare(self, onnx: Path, batches: Sequence[Tensor] | None) -> None:
        """The ONNX file is what is read; in int8 a new one."""
        if batches is None:
            return
        quantize_onnx(onnx, onnx.with_name("int8.onnx"), batches)
        for file in onnx.parent.glob(f"{onnx.stem}*"):
            file.unlink()

    def open(self, folder: Path, dtype: torch.dtype, threads: int) -> OnnxGraph:
        """Open the file."""
        onnxruntime = require("onnxruntime", "onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        (path,) = folder.glob("*.onnx")
        return OnnxGraph(onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))


class OnnxGraph:
    """A session, which serves several threads by itself."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Run images, as `radio.runtimes.protocol.Graph` says."""
        return [torch.from_numpy(value) for value in self._session.run(None, {"pixels": images.numpy()})]


def quantize_onnx(onnx: Path, path: Path, batches: Sequence[Tensor]) -> None:
    """Write a graph in int8: the linear layers of the blocks, weights per channel, with ONNX Runtime's static method.

    Args:
        onnx: The graph in float32.
        path: Of the new one.
        batches: What the graph is run on to see its activations.
    """
    quantization = require("onnxruntime.quantization", "onnxruntime")
    graph = require("onnx", "onnxruntime").load(onnx, load_external_data=False).graph
    weights = {weight.name for weight in graph.initializer}
    linear = [
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and any(name in weights for name in node.input)
    ]

    quantization.quantize_static(
        onnx,
        path,
        _Batches(batches),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        nodes_to_quantize=linear[1:],  # not the patch projection, whose errors go through every block
        use_external_data_format=True,
    )


class _Batches:
    """Batches as ONNX Runtime asks for them."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """The next one; None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"pixels": batch.numpy()}
