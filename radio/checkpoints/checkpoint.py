"""One reader for every layout: a file or a folder becomes a description and named tensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from radio.catalog import Release, find_release
from radio.checkpoints.describe import describe
from radio.checkpoints.hub_repo import read_hub_repo
from radio.checkpoints.torch_file import read_torch_file
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
        path: A torch file (``*.pth.tar``), a Hub folder (``config.json`` with ``model.safetensors``), or the
            ``model.safetensors`` of such a folder.
        release: The catalogue's row, when the caller knows which version this is. What the catalogue says
            about a version fills in what the file leaves open.

    Raises:
        CheckpointError: The file is missing, damaged, unsafe, or does not hold a RADIO model.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"there is no file or folder {str(path)!r}")
    if path.is_dir() or path.suffix == ".safetensors":
        raw = read_hub_repo(path if path.is_dir() else path.parent)
    else:
        raw = read_torch_file(path)
    config, tensors = describe(raw, str(path))
    release = release or find_release(config.version)
    if release is not None:
        config = _with_release(config, release)
        if "pos_embed_align_corners" in raw.repository:
            config = replace(config, pos_embed_align_corners=raw.repository["pos_embed_align_corners"])
    return Checkpoint(config, tensors, path)


def _with_release(config: RadioConfig, release: Release) -> RadioConfig:
    return replace(
        config,
        version=release.version,
        max_resolution=release.max_resolution,
        preferred_resolution=release.preferred_resolution,
        vitdet_num_global=config.vitdet_num_global or release.vitdet_num_global,
        vitdet_num_windowed=config.vitdet_num_windowed or release.vitdet_num_windowed,
        pos_embed_align_corners=release.pos_embed_align_corners,
    )
