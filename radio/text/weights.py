"""Tensors of a text tower, out of a file that usually holds the vision tower as well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from radio.checkpoints.hub_repo import read_safetensors
from radio.checkpoints.torch_file import plain_tensors, read_torch_content
from radio.errors import CheckpointError


def read_tensors(path: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Read some tensors of a weights file, with the readers and guards of checkpoints.

    Args:
        path: A ``.safetensors`` file, or a torch file (``.pt``, ``.pth``, ``.bin``).
        wanted: Which of the names to read. A leading ``module.`` is dropped first.

    Returns:
        The tensors in the file's order, in the file's dtype, mapped from the file: whoever fills a module copies them.

    Raises:
        CheckpointError: The file is damaged, holds something else than tensors, or has nothing that is wanted.
    """
    if path.suffix == ".safetensors":
        stored = read_safetensors(path)
    elif path.suffix in (".pt", ".pth", ".bin", ".tar"):
        content = read_torch_content(path)
        state = content["state_dict"] if isinstance(content.get("state_dict"), dict) else content
        stored = plain_tensors(state, path)
    else:
        raise CheckpointError(f"{path}: text weights are read from .safetensors, .pt, .pth or .bin files")
    named = {name.removeprefix("module."): value for name, value in stored.items()}
    tensors = {name: value for name, value in named.items() if wanted(name)}
    if not tensors:
        raise CheckpointError(f"{path} holds no text tower")
    return tensors
