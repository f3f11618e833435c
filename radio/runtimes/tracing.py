"""From a network to a ``torch.export`` program for all sizes, and from there to an ONNX file."""

from __future__ import annotations

import logging
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from radio.errors import ExportError
from radio.modeling.network import RADIONetwork
from radio.optional import install_command

DYNAMIC = ("batch", "height", "width")
"""The dimensions that may change."""

_MAX_BATCH = 4096
_OLDEST_TORCH = (2, 13)
_PROTOBUF_LIMIT = 1_500_000_000


def trace(
    module: nn.Module,
    network: RADIONetwork,
    dynamic: Sequence[str],
    size: tuple[int, int] | None = None,
    batch: int = 1,
) -> ExportedProgram:
    """A module that takes images called ``pixels`` as a program.

    Args:
        module: In eval mode.
        network: The model whose sizes it takes.
        dynamic: Which of `DYNAMIC` may change.
        size: Height and width where they are not dynamic; the preferred resolution by default.
        batch: Number of images where it is not dynamic.

    Raises:
        ExportError: This PyTorch is too old for the model.
    """
    example = torch.rand(_traced_shape(network, dynamic, size, batch), device=network.device)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.export.export(
                module, (example,), dynamic_shapes={"pixels": _dynamic_shapes(network, dynamic)}
            )
        except Exception as error:
            if tuple(map(int, torch.__version__.split(".")[:2])) < _OLDEST_TORCH:
                raise ExportError(
                    f"PyTorch {torch.__version__} cannot trace this model; exports are tested with 2.13 and newer: "
                    f"{install_command('export')}"
                ) from error
            raise


def fixed_size(network: RADIONetwork, size: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of an export that has them fixed."""
    return size or tuple(network.get_nearest_supported_resolution(*network.preferred_resolution))  # type: ignore[return-value]


def save_onnx(
    program: ExportedProgram,
    path: Path,
    outputs: Sequence[str],
    metadata: Mapping[str, str] | None = None,
    external: bool | None = None,
    version: str | None = None,
) -> None:
    """Write a program as an ONNX file.

    Args:
        program: With one input.
        path: Of the file.
        outputs: Names of the outputs.
        metadata: Facts to put into the file.
        external: Whether the weights lie beside the file, under a name of their own; by default where they are too
            large for it.
        version: Of this library, to say in the file who wrote it.

    Raises:
        torch.onnx.OnnxExporterError: ONNX has no form for an operator.
    """
    with _quiet_exporter():
        onnx_program = torch.onnx.export(
            program, input_names=["pixels"], output_names=list(outputs), dynamo=True, verbose=False
        )
    assert onnx_program is not None
    onnx_program.model.producer_name = "radio"
    onnx_program.model.producer_version = version
    onnx_program.model.metadata_props.update(metadata or {})
    if external is None:
        size = sum(value.numel() * value.element_size() for value in program.state_dict.values())
        external = size > _PROTOBUF_LIMIT
    if not external:
        onnx_program.save(str(path))
        return
    named = path.with_name(f"{path.stem}-{uuid.uuid4().hex[:12]}.onnx")  # the weights take their name from it
    onnx_program.save(str(named), external_data=True)
    named.rename(path)


def _traced_shape(
    network: RADIONetwork, dynamic: Sequence[str], size: tuple[int, int] | None, batch: int
) -> tuple[int, int, int, int]:
    step = network.min_resolution_step
    height, width = fixed_size(network, size)
    return (
        2 if "batch" in dynamic else batch,
        3,
        4 * step if "height" in dynamic else height,
        6 * step if "width" in dynamic else width,
    )


def _dynamic_shapes(network: RADIONetwork, dynamic: Sequence[str]) -> dict[int, Any]:
    step = network.min_resolution_step
    most = max(network.max_resolution // step, 8)
    shapes: dict[int, Any] = {}
    if "batch" in dynamic:
        shapes[0] = Dim("batch", min=1, max=_MAX_BATCH)
    if "height" in dynamic:
        shapes[2] = step * Dim("rows", min=2, max=most)
    if "width" in dynamic:
        shapes[3] = step * Dim("columns", min=2, max=most)
    return shapes


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without the exporter's warnings about deprecations inside PyTorch and operators of torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
