"""Tensors of a text tower, out of a file that usually holds the vision tower as well."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from radio.errors import CheckpointError


def read_tensors(path: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Read some tensors of a weights file; the others are never brought into memory.

    Args:
        path: A ``.safetensors`` file, or a torch file (``.pt``, ``.pth``, ``.bin``), read without running its
            pickle.
        wanted: Which of the names to read. A leading ``module.`` is dropped first.

    Returns:
        The tensors in the file's order, in the file's dtype, on the CPU; they do not depend on the file any
        more.

    Raises:
        CheckpointError: The file is damaged, holds something else than tensors, or has nothing that is
            wanted.
    """
    if path.suffix == ".safetensors":
        tensors = _read_safetensors(path, wanted)
    elif path.suffix in (".pt", ".pth", ".bin", ".tar"):
        tensors = _read_torch(path, wanted)
    else:
        raise CheckpointError(f"{path}: text weights are read from .safetensors, .pt, .pth or .bin files")
    if not tensors:
        raise CheckpointError(f"{path} holds no text tower")
    return tensors


def _plain(name: str) -> str:
    return name.removeprefix("module.")


def _read_safetensors(path: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if wanted(_plain(name))]  # noqa: SIM118 - not a dict
            return {_plain(name): file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


def _read_torch(path: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} is not a weights file that can be read safely: {error}") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not named tensors")
    return {
        _plain(name): value.clone()
        for name, value in content.items()
        if isinstance(value, Tensor) and wanted(_plain(name))
    }
