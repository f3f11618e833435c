"""One reader for every layout: a file or a folder becomes a description and named tensors."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radio.catalog import Release, find_release, find_release_of_file
from radio.checkpoints.families import describe_any
from radio.checkpoints.guard import refuse_malformed, short_reason
from radio.checkpoints.hub_repo import CONFIG, INDEX, OLD_INDEX, read_hub_content
from radio.checkpoints.layouts.reading import check_stated, read_repository, read_torch_file
from radio.checkpoints.settings import (
    Settings,
    settings_of_release,
    settings_of_repository,
    settle,
    with_settings,
)
from radio.checkpoints.spectral import fold_spectral
from radio.checkpoints.torch_file import read_torch_content
from radio.config import RadioConfig
from radio.errors import CheckpointError


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read, whatever its layout.

    Attributes:
        config: What shapes the model.
        tensors: Every tensor of the model and of all its adaptors, under this library's names.
        path: The file or folder that it came from.
        release: The catalog's row of its version, or None for a file of no released version.
        file_state: What tells whether its files were written to since they were read.
    """

    config: RadioConfig
    tensors: dict[str, Tensor]
    path: Path
    release: Release | None = None
    file_state: FileState = ()

    def check_unchanged(self) -> None:
        """Make sure that nobody wrote to the files while they were read.

        Raises:
            CheckpointError: Somebody did, so that what was read may be a mixture of old and new.
        """
        if self.file_state != file_state(self.path):
            raise CheckpointError(f"{self.path} was written to while it was read; load it again")


FileState = tuple[tuple[str, int, int, int], ...]
"""Name, inode, size and time of the last change of every file of a checkpoint."""


def file_state(path: Path) -> FileState:
    """What changes when a file, or any weights or description in a folder, is written to."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [
        (file.name, file.stat())
        for file in files
        if file == path
        or ((file.suffix in (".safetensors", ".bin") or file.name in (CONFIG, INDEX)) and file.is_file())
    ]
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def read_checkpoint(
    path: str | Path,
    release: Release | None = None,
    choices: Settings | None = None,
    mmap: bool = False,
) -> Checkpoint:
    """Read a checkpoint of any released layout.

    Args:
        path: A torch file (``*.pth.tar``), a Hub folder (``config.json`` with ``model.safetensors``), or a
            ``.safetensors`` file with its ``config.json`` beside it; or the ``config.json`` itself.
        release: The catalog's row, when the caller knows which version this is. Otherwise a repository's config
            names the version, and a torch file's own name does.
        choices: The user's settings. They come before what the file says, and that before the catalog (`settle`).
        mmap: Leave the tensors in the file and map it. Whoever does so copies what must outlive the file.

    Raises:
        CheckpointError: The file is missing, damaged, unsafe, or does not hold a RADIO model.
        ValueError: A choice makes no sense for this model.
    """
    path = _existing(path)
    if path.name in (CONFIG, INDEX, OLD_INDEX):
        path = path.parent
    state = file_state(path)
    raw = read_repository(path) if _is_hub_layout(path) else read_torch_file(path)
    with refuse_malformed(path):
        tensors = fold_spectral(raw.tensors, raw.args.get("spectral_reparam"))
        described, tensors = describe_any(replace(raw, tensors=tensors), str(path))
        release = release or find_release(described.version) or find_release_of_file(path.name)
        if release is not None:
            described = replace(described, version=release.version)
        in_file, in_catalog = (
            settings_of_repository(raw.repository, str(path)),
            settings_of_release(release),
        )
        config = with_settings(described, settle(Settings(), in_file, in_catalog))
        check_stated(config, raw.stated, str(path))
    if choices is not None:
        config = with_settings(described, settle(choices, in_file, in_catalog))
    if not mmap:
        tensors = _own_memory(tensors)
    checkpoint = Checkpoint(config, tensors, path, release, state)
    checkpoint.check_unchanged()
    return checkpoint


def _own_memory(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in memory that does not depend on the file; those that share memory still do."""
    storages: dict[int, Tensor] = {}
    own: dict[str, Tensor] = {}
    for name, value in tensors.items():
        storage = value.untyped_storage()
        if storage.data_ptr() not in storages:
            whole = torch.empty(0, dtype=torch.uint8).set_(storage)
            storages[storage.data_ptr()] = whole.clone()
        copied = storages[storage.data_ptr()].untyped_storage()
        own[name] = torch.empty(0, dtype=value.dtype).set_(
            copied, value.storage_offset(), value.shape, value.stride()
        )
    return own


def read_content(path: str | Path, mmap: bool = False) -> dict[str, Any]:
    """What a checkpoint holds, as it is stored: ``args`` (a Namespace), ``state_dict`` and whatever else there is.

    Args:
        path: As for `read_checkpoint`.
        mmap: Leave the tensors in the file and map it, instead of reading them.

    Raises:
        CheckpointError: The file is missing, damaged or unsafe.
    """
    path = _existing(path)
    if not _is_hub_layout(path):
        return read_torch_content(path, mmap)
    description, tensors = read_hub_content(path)
    if not mmap:
        tensors = _own_memory(tensors)
    args = Namespace()
    vars(args).update(description.fields.get("args") or {})
    return {**description.fields, "args": args, "state_dict": tensors}


def _existing(path: str | Path) -> Path:
    try:
        path = Path(path).expanduser()
        found = path.is_file() or path.is_dir()
    except (OSError, RuntimeError) as error:  # a name too long for a file, or the home of an unknown user
        raise CheckpointError(f"{str(path)!r} cannot be a path ({short_reason(error)})") from error
    if not found:
        raise CheckpointError(f"there is no file or folder {str(path)!r}")
    return path


def _is_hub_layout(path: Path) -> bool:
    """Whether a path names a Hub repository's folder or its weights, rather than a torch file."""
    return path.is_dir() or path.suffix == ".safetensors"
