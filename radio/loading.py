"""`load_model`: catalogue, download, checkpoint, model, device and dtype in one call."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from radio.catalog import find_release, get_release
from radio.checkpoints import Checkpoint, read_checkpoint
from radio.checkpoints.fill import fill
from radio.config import RadioConfig
from radio.download import download_release, download_repository
from radio.errors import CheckpointError
from radio.model import RADIOModel
from radio.modeling.adaptors import Adaptor
from radio.text import has_text, text_encoder_for

logger = logging.getLogger(__name__)

TextWeights = str | Path | Mapping[str, str | Path]
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def load_model(
    version_or_path: str | Path,
    adaptors: str | Sequence[str] | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    vitdet_window_size: int | None = None,
    vitdet_num_global: int | None = None,
    vitdet_num_windowed: int | None = None,
    pos_embed_align_corners: bool | None = None,
    text_weights: TextWeights | None = None,
    cache_dir: str | Path | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    progress: bool = True,
) -> RADIOModel:
    """Load a model, ready for inference (eval mode).

    Args:
        version_or_path: A released version (``"radio_v2.5-l"``), a Hub repository (``"nvidia/C-RADIOv3-B"``), a local
            torch file (``*.pth.tar``) or a local folder with ``config.json`` and ``model.safetensors``.
        adaptors: Names of the teacher adaptors to build, e.g. ``["clip", "sam"]``.
        device: ``"auto"`` for an accelerator where there is one, or a torch device.
        dtype: ``"auto"`` for the dtype that the checkpoint names, or ``"float32"``, ``"bfloat16"``, ``"float16"``,
            ``"float64"``.
        vitdet_window_size: Side of ViTDet windows in patches; None for global attention everywhere.
        vitdet_num_global, vitdet_num_windowed: The schedule of windowed and global blocks, instead of the version's.
        pos_embed_align_corners: How position embeddings are resized, instead of the version's own way (False for a
            file that names no version; a local copy of a released file is known by its file name).
        text_weights: Local weights for the text towers: one path, or a path per adaptor name.
        cache_dir: Where downloads are kept, instead of huggingface_hub's cache.
        revision: Branch, tag or commit of the Hub repository.
        local_files_only: Never use the network.
        token: Hugging Face token, if not the stored one.
        progress: Show progress bars of downloads.

    Returns:
        The model in eval mode. Its weights may be memory-mapped from the file.

    Raises:
        ValueError: An unknown version, adaptor, dtype, a device that is not here, or windows that make no sense.
        TypeError: A window size that is not a whole number, or another argument of the wrong type.
        CheckpointError: The file is damaged, unsafe or does not describe a RADIO model.
        DownloadError: The file is not in the cache and cannot be fetched.
    """
    place = _resolve_device(device)
    checkpoint = open_checkpoint(
        version_or_path,
        cache_dir=cache_dir,
        revision=revision,
        local_files_only=local_files_only,
        token=token,
        progress=progress,
    )
    names = [adaptors] if isinstance(adaptors, str) else list(adaptors or ())
    config = _with_choices(
        checkpoint.config,
        vitdet_window_size=vitdet_window_size,
        vitdet_num_global=vitdet_num_global,
        vitdet_num_windowed=vitdet_num_windowed,
        pos_embed_align_corners=pos_embed_align_corners,
    )
    _check_adaptors(config, names, str(version_or_path))
    _warn_about_windows(config)
    model = build_model(
        Checkpoint(config, checkpoint.tensors, checkpoint.path),
        names,
        place,
        _dtype(config, dtype),
    )
    _attach_text_towers(model, names, text_weights)
    return model


def build_model(
    checkpoint: Checkpoint, adaptors: Sequence[str], device: torch.device, dtype: torch.dtype
) -> RADIOModel:
    """Build the model of a checkpoint that was read, in eval mode.

    Raises:
        CheckpointError: Its tensors do not fit its description; the message names them.
    """
    with torch.device("meta"):
        model = RADIOModel(checkpoint.config, adaptors)
    unused = tuple(f"adaptors.{a.name}." for a in checkpoint.config.adaptors if a.name not in adaptors)
    tensors = {name: value for name, value in checkpoint.tensors.items() if not name.startswith(unused)}
    model.checkpoint_path = checkpoint.path
    return fill(model, tensors, device, dtype, str(checkpoint.path)).eval()


def open_checkpoint(
    version_or_path: str | Path,
    cache_dir: str | Path | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    progress: bool = True,
) -> Checkpoint:
    """Find (and if needed download) a checkpoint and read it, without building a model. Arguments as `load_model`.

    Raises:
        ValueError: An unknown version.
        CheckpointError: The file is damaged, unsafe or does not describe a RADIO model.
        DownloadError: The file is not in the cache and cannot be fetched.
    """
    name = str(version_or_path)
    if not name:
        raise ValueError("an empty version; give a version such as 'radio_v2.5-l', or a path")
    if name.startswith(("http://", "https://")):
        raise ValueError(
            f"{name!r} is an address; give a version, a repository as 'owner/name', or the path of a file that you "
            "downloaded"
        )
    if isinstance(version_or_path, Path) or _exists(name) or _looks_like_a_path(name):
        return read_checkpoint(name)
    options = (cache_dir, revision, local_files_only, token, progress)
    release = find_release(name)
    if release is not None and not release.supported:
        raise CheckpointError(
            f"{release.version} (a convolutional hybrid) is not supported; use a ViT version"
        )
    if "/" in name:
        license = release.license if release else None
        return read_checkpoint(download_repository(name, *options, license=license), release)
    release = get_release(name)
    return read_checkpoint(download_release(release, *options), release)


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # longer than any file name
        return False


def _looks_like_a_path(name: str) -> bool:
    return (
        name.startswith((".", "/", "~"))
        or name.count("/") > 1
        or name.endswith((".tar", ".pth", ".pt", ".safetensors"))
    )


def _with_choices(config: RadioConfig, **choices: int | bool | None) -> RadioConfig:
    """The description with the caller's choices in place of the version's."""
    chosen: dict[str, Any] = {name: value for name, value in choices.items() if value is not None}
    for name, value in chosen.items():
        kind, wanted = (
            (bool, "True or False") if name == "pos_embed_align_corners" else (int, "a whole number")
        )
        if type(value) is not kind:
            raise TypeError(f"{name} must be {wanted}, got {value!r}")
    window = chosen.get("vitdet_window_size")
    if window is not None and window < 1:
        raise ValueError(f"vitdet_window_size must be at least 1 patch, got {window}")
    largest = config.max_resolution // config.patch_size
    if window is not None and window > largest:
        raise ValueError(
            f"vitdet_window_size={window} makes windows of {window * config.patch_size} pixels, but the largest image "
            f"of this model has {config.max_resolution}; at most {largest} patches"
        )
    if "vitdet_num_global" in chosen:
        config = replace(config, vitdet_num_windowed=None)
    return replace(config, **chosen)


def _check_adaptors(config: RadioConfig, names: Sequence[str], source: str) -> None:
    available = [adaptor.name for adaptor in config.adaptors]
    unknown = [name for name in names if name not in available]
    if not unknown:
        return
    release = find_release(config.version)
    listed = [name for name in unknown if release is not None and name in release.adaptors]
    if listed and not available:
        assert release is not None
        raise ValueError(
            f"{source} holds no adaptor tensors, so {', '.join(listed)} cannot be loaded from it; "
            f"use load_model({release.version!r}, adaptors=...), whose file {release.filename} has them"
        )
    raise ValueError(f"unknown adaptor {unknown[0]!r}; {source} has: {', '.join(available) or 'no adaptors'}")


def _warn_about_windows(config: RadioConfig) -> None:
    release = find_release(config.version)
    if config.vitdet_window_size and release is not None and not release.vitdet:
        logger.warning(
            "%s was not trained with ViTDet windows; expect lower quality with them", release.version
        )


def _resolve_device(device: str | torch.device) -> torch.device:
    if device != "auto":
        try:
            place = torch.device(device)
            torch.empty(0, device=place)
        except (RuntimeError, TypeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"the device {str(device)!r} cannot be used here ({reason}); "
                "'auto' takes what this machine has, 'cpu' always works"
            ) from error
        return place
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def _dtype(config: RadioConfig, dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, got {dtype}")
    name = config.dtype if dtype == "auto" else str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise ValueError(f"unknown dtype {name!r}; allowed: auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _attach_text_towers(model: RADIOModel, names: Sequence[str], text_weights: TextWeights | None) -> None:
    """Give every text-aligned adaptor its text tower; nothing is loaded before it is used."""
    assert model.adaptors is not None
    adaptors = {name: model.adaptors[name] for name in names}
    aligned = {name: a for name, a in adaptors.items() if isinstance(a, Adaptor) and has_text(a.teacher)}
    listed = ", ".join(aligned) or "none"
    if text_weights is None:
        weights: Mapping[str, str | Path] = {}
    elif isinstance(text_weights, Mapping):
        weights = text_weights
        unknown = [name for name in weights if name not in aligned]
        if unknown:
            raise ValueError(
                f"text_weights names {unknown[0]!r}, which is not among the loaded adaptors with text ({listed})"
            )
    elif len(aligned) == 1:
        weights = dict.fromkeys(aligned, text_weights)
    else:
        raise ValueError(
            f"text_weights is one path, but the loaded adaptors with text are: {listed}; "
            "load one of them, or give a path for each: text_weights={name: path}"
        )
    for name, adaptor in aligned.items():
        adaptor.text = text_encoder_for(adaptor.teacher, weights.get(name))
