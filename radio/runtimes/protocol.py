"""What is asked of a runtime, whatever its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor


class Graph(Protocol):
    """A graph that is ready to run. Several threads may call it; they wait for each other."""

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Run normalized images (B, 3, H, W), float32 on the CPU; the tokens of every output, float32."""
        ...


class Runtime(Protocol):
    """A library that runs graphs.

    Attributes:
        name: As `radio.load_model` takes it.
        title: As its makers write it.
        dtypes: What it computes in.
    """

    name: str
    title: str
    dtypes: tuple[torch.dtype, ...]

    def versions(self) -> Mapping[str, str]:
        """The versions that a graph on disk depends on.

        Raises:
            MissingExtraError: The runtime is not installed.
        """
        ...

    def check_exporter(self) -> None:
        """Make sure that a new graph can be made.

        Raises:
            MissingExtraError: A package is not installed.
        """
        ...

    def check_quantizer(self) -> Mapping[str, str]:
        """The versions that a graph in int8 depends on besides.

        Raises:
            MissingExtraError: A package is not installed.
        """
        ...

    def prepare(self, onnx: Path, batches: Sequence[Tensor] | None) -> None:
        """Turn an ONNX file, with its weights beside it, into what `open` reads, in the same folder.

        Args:
            onnx: The file.
            batches: Normalized images on which the graph is quantized to int8; None to leave it as it is.
        """
        ...

    def open(self, folder: Path, dtype: torch.dtype, threads: int) -> Graph:
        """Open what `prepare` left in a folder, its weights mapped from there.

        Args:
            folder: Where it is, and stays while the graph lives.
            dtype: What it computes in, one of `dtypes`.
            threads: How many it may use.
        """
        ...
