"""Graphs in OpenVINO."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from radio.optional import require

_GRAPH = "graph.xml"
_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVino:
    """OpenVINO's CPU plugin."""

    name = "openvino"
    title = "OpenVINO"
    dtypes: tuple[torch.dtype, ...] = tuple(_PRECISIONS)

    def versions(self) -> Mapping[str, str]:
        """OpenVINO's."""
        return {"openvino": require("openvino", "openvino").__version__}

    def check_exporter(self) -> None:
        """The ONNX file on the way needs PyTorch's exporter."""
        for module in ("onnx", "onnxscript"):
            require(module, "openvino")

    def check_quantizer(self) -> Mapping[str, str]:
        """NNCF's."""
        return {"nncf": _nncf().__version__}

    def prepare(self, onnx: Path, batches: Sequence[Tensor] | None) -> None:
        """Write the graph as OpenVINO's own pair of files, and remove the ONNX file."""
        save_ir(onnx, onnx.with_name(_GRAPH))
        if batches is not None:
            quantize_ir(onnx.with_name(_GRAPH), batches)
        for file in onnx.parent.glob("*.onnx*"):
            file.unlink()

    def open(self, folder: Path, dtype: torch.dtype, threads: int) -> OpenVinoGraph:
        """Compile the graph for this machine."""
        openvino = require("openvino", "openvino")
        options = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        return OpenVinoGraph(openvino, openvino.Core().compile_model(folder / _GRAPH, "CPU", options))


class OpenVinoGraph:
    """A compiled graph."""

    def __init__(self, openvino: Any, compiled: Any) -> None:
        self._openvino = openvino
        self._request = compiled.create_infer_request()
        self._outputs = len(compiled.outputs)
        self._lock = Lock()

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Run images, as `radio.runtimes.protocol.Graph` says."""
        with self._lock:  # a request has one set of buffers
            self._request.infer([self._openvino.Tensor(images.numpy(), shared_memory=True)])
            return [
                torch.from_numpy(self._request.get_output_tensor(i).data.copy()) for i in range(self._outputs)
            ]


def save_ir(onnx: Path, path: Path, info: Mapping[str, str] | None = None) -> None:
    """Write an ONNX file as OpenVINO's ``*.xml``, with its weights in ``*.bin`` beside it, as precise as they are.

    Args:
        onnx: The file.
        path: Of the ``*.xml``.
        info: Facts for its ``rt_info``, under ``radio``.
    """
    openvino = require("openvino", "openvino")
    model = openvino.Core().read_model(onnx)
    for name, value in (info or {}).items():
        model.set_rt_info(value, ["radio", name])
    openvino.save_model(model, path, compress_to_fp16=False)


def quantize_ir(path: Path, batches: Sequence[Tensor]) -> None:
    """Quantize a graph on disk to int8, in place: linear layers, weights per channel, with NNCF's post-training method.

    Args:
        path: Of the ``*.xml``.
        batches: What the graph is run on to see its activations.
    """
    nncf, openvino = _nncf(), require("openvino", "openvino")
    model = openvino.Core().read_model(path)
    quantized = nncf.quantize(
        model,
        nncf.Dataset([batch.numpy() for batch in batches]),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(batches),
    )
    staged = path.with_name(f"int8-{path.name}")
    openvino.save_model(quantized, staged, compress_to_fp16=False)
    del model, quantized
    staged.with_suffix(".bin").replace(path.with_suffix(".bin"))
    staged.replace(path)


def _nncf() -> Any:
    """NNCF, imported without its reports to its makers and its messages."""
    os.environ.setdefault("NNCF_CI", "1")
    nncf = require("nncf", "int8")
    nncf.set_log_level(logging.ERROR)
    return nncf
