"""Tensors of features in safetensors files."""

from __future__ import annotations

import os
from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from radio.files import AnyPath, open_regular


def save_tensors(
    path: AnyPath, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file.

    Raises:
        OSError: It cannot be written, for instance because the disk is full.
    """
    try:
        save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        raise OSError(f"cannot write {os.fspath(path)!r}: {error}") from error


def load_tensors(path: AnyPath) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        OSError: It cannot be read, or is not a regular file.
        ValueError: It is not a safetensors file.
    """
    open_regular(path).close()
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{os.fspath(path)} is not a safetensors file: {error}") from error
