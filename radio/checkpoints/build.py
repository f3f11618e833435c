"""Where files become models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

from radio.checkpoints.checkpoint import Checkpoint
from radio.checkpoints.fill import fill
from radio.modeling.network import RADIONetwork

Model = TypeVar("Model", bound=RADIONetwork)


def build_model(
    model_class: type[Model],
    checkpoint: Checkpoint,
    adaptors: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
    mmap: bool = False,
    backbone: nn.Module | None = None,
) -> Model:
    """Build the model of a checkpoint that was read, in eval mode.

    Args:
        model_class: `RADIONetwork`, or a class of it such as `radio.RADIOModel`.
        checkpoint: What was read. Tensors of adaptors that are not built are left out.
        adaptors: Names of the adaptors to build.
        device, dtype: Where the weights go and what they become.
        mmap: Whether weights that fit already stay where the checkpoint has them, which is the mapped file. Otherwise
            the model has memory of its own, and nothing that happens to the file can change it.
        backbone: Takes the place of the checkpoint's own, whose tensors are left out.

    Raises:
        CheckpointError: Its tensors do not fit its description; the message names them.
    """
    with torch.device("meta"):
        model = model_class(checkpoint.config, adaptors)
    built = set(adaptors)
    tensors = {
        name: value
        for name, value in checkpoint.tensors.items()
        if not name.startswith("adaptors.") or name.split(".")[1] in built
    }
    if backbone is not None:
        model.model = nn.Identity()
        tensors = {name: value for name, value in tensors.items() if not name.startswith("model.")}
    fill(model, tensors, device, dtype, str(checkpoint.path), copy=not mmap)
    if backbone is not None:
        model.model = backbone
    return model.eval()
