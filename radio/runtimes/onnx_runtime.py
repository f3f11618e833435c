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
    dtypes = (torch.float32,)

    def versions(self) -> Mapping[str, str]:
        """ONNX Runtime's."""
        return {"onnxruntime": require("onnxruntime", "onnxruntime").__version__}

    def check_exporter(self) -> None:
        """PyTorch's exporter."""
        for module in ("onnx", "onnxscript"):
            require(module, "onnxruntime")

    def prepare(self, onnx: Path) -> None:
        """The ONNX file is what is read."""

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
