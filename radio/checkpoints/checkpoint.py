"""One reader for every layout: a file or a folder becomes a description and named tensors."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from radio.catalog import Release, find_release, find_release_of_file
from radio.checkpoints.describe import describe
from radio.checkpoints.guard import refuse_malformed, summary
from radio.checkpoints.hub_repo import CONFIG, INDEX, read_hub_content, read_hub_repo
from radio.checkpoints.spectral import fold_spectral
from radio.checkpoints.torch_file import read_torch_content, read_torch_file
from radio.config import RadioConfig
from radio.errors import CheckpointError


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read, whatever its layout.

    Attributes:
        config: What shapes the model.
        tensors: Every tensor of the model and of all its adaptors, under this library's names.
        path: The file or folder that it came from.
    """

    config: RadioConfig
    tensors: dict[str, Tensor]
    path: Path


def read_checkpoint(path: str | Path, release: Release | None = None) -> Checkpoint:
    """Read a checkpoint of any released layout. Tensors stay memory-mapped until they are used.

    Args:
        path: A torch file (``*.pth.tar``), a Hub folder (``config.json`` with ``model.safetensors``), or a
            ``.safetensors`` file with its ``config.json`` beside it; or the ``config.json`` itself.
        release: The catalogue's row, when the caller knows which version this is. Otherwise a repository's config
            names the version, and a torch file's own name does. What the catalogue says about a version
            fills in what the file leaves open.

    Raises:
        CheckpointError: The file is missing, damaged, unsafe, or does not hold a RADIO model.
    """
    path = _existing(path)
    if path.name in (CONFIG, INDEX):
        path = path.parent
    raw = read_hub_repo(path) if _is_hub_layout(path) else read_torch_file(path)
    with refuse_malformed(path):
        tensors = fold_spectral(raw.tensors, raw.args.get("spectral_reparam"))
        config, tensors = describe(replace(raw, tensors=tensors), str(path))
    release = release or find_release(config.version) or find_release_of_file(path.name)
    if release is not None:
        align_corners = config.pos_embed_align_corners
        config = _with_release(config, release)
        if raw.repository.get("pos_embed_align_corners") is not None:
            config = replace(config, pos_embed_align_corners=align_corners)
    return Checkpoint(config, tensors, path)


def read_content(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds, as it is stored: ``args`` (a Namespace), ``state_dict`` and whatever else there is.

    Raises:
        CheckpointError: The file is missing, damaged or unsafe.
    """
    path = _existing(path)
    if not _is_hub_layout(path):
        return read_torch_content(path)
    config, tensors = read_hub_content(path)
    args = Namespace()
    vars(args).update(config["args"])
    return {**config, "args": args, "state_dict": tensors}


def _existing(path: str | Path) -> Path:
    try:
        path = Path(path).expanduser()
        found = path.is_file() or path.is_dir()
    except (OSError, RuntimeError) as error:  # a name too long for a file, or the home of an unknown user
        raise CheckpointError(f"{str(path)!r} cannot be a path ({summary(error)})") from error
    if not found:
        raise CheckpointError(f"there is no file or folder {str(path)!r}")
    return path


def _is_hub_layout(path: Path) -> bool:
    """Whether a path names a Hub repository's folder or its weights, rather than a torch file."""
    return path.is_dir() or path.suffix == ".safetensors"


def _with_release(config: RadioConfig, release: Release) -> RadioConfig:
    if config.vitdet_num_global is None and config.vitdet_num_windowed is None:
        config = replace(
            config,
            vitdet_num_global=release.vitdet_num_global,
            vitdet_num_windowed=release.vitdet_num_windowed,
        )
    return replace(
        config,
        version=release.version,
        max_resolution=release.max_resolution,
        preferred_resolution=release.preferred_resolution,
        pos_embed_align_corners=release.pos_embed_align_corners,
    )
