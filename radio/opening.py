"""From a name to a model: catalog, download, checkpoint, device and dtype."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import torch
from typing_extensions import Unpack

from radio.catalog import find_release, get_release, suggestion
from radio.checkpoints import Checkpoint, read_checkpoint
from radio.checkpoints.build import build_model
from radio.checkpoints.guard import listing
from radio.checkpoints.settings import Settings
from radio.config import SHORT_DTYPES, Neck, WindowRule
from radio.demo import DEMO_NAME, fetch_demo
from radio.devices import usable_device
from radio.download import DEFAULT_OPTIONS, DownloadOptions, download_release, download_repository
from radio.errors import DownloadError, did_you_mean, unknown_argument
from radio.images import ImageInput
from radio.modeling.network import RADIONetwork
from radio.runtimes import RuntimeName, build_on_runtime, choose_runtime, runtime_device, runtime_dtype
from radio.text import text_encoder_for
from radio.transformers_arguments import own_arguments

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=RADIONetwork)
TextWeights = str | Path | Mapping[str, str | Path]
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "pos_embed_align_corners": ((bool,), "True or False"),
    "eradio_window_size": ((int, str), "a whole number or the name of a rule"),
    "neck_name": ((str,), "the name of an output, or None for both"),
}
_SETTINGS = {field.name for field in fields(Settings)}
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
_TORCH_NAMES = {"float": "float32", "half": "float16", "double": "float64"}
"""PyTorch's other names for them."""


class LoadOptions(TypedDict, total=False):
    """The arguments of `load_model` that do not change what a call of the model gives, for type checkers."""

    vitdet_window_size: int | None
    vitdet_num_global: int | None
    vitdet_num_windowed: int | None
    pos_embed_align_corners: bool | None
    eradio_window_size: int | WindowRule | None
    neck_name: Neck | None
    text_weights: TextWeights | None
    cache_dir: str | Path | None
    revision: str | None
    subfolder: str | None
    local_files_only: bool
    token: str | bool | None
    progress: bool
    mmap: bool
    runtime: RuntimeName
    calibration: Sequence[ImageInput] | None


def open_model(
    model_class: type[Model],
    version_or_path: str | Path,
    adaptors: str | Sequence[str] | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    **options: Unpack[LoadOptions],
) -> tuple[Model, Checkpoint]:
    """Build a model of any class of `RADIONetwork`, and say which checkpoint it came from. Arguments as
    `radio.load_model`."""
    device, dtype, given = own_arguments(device, dtype, options)
    unknown = [name for name in given if name not in LoadOptions.__annotations__]
    if unknown:
        own = ("version_or_path", "adaptors", "device", "dtype", *LoadOptions.__annotations__)
        raise unknown_argument("load_model", unknown[0], own)
    runtime = choose_runtime(options.get("runtime", "auto"))
    place = usable_device(device) if runtime is None else runtime_device(runtime, device)
    choices = _choices(**{name: value for name, value in options.items() if name in _SETTINGS})
    download = DownloadOptions(
        cache_dir=options.get("cache_dir"),
        revision=options.get("revision"),
        subfolder=options.get("subfolder"),
        local_files_only=options.get("local_files_only", False),
        token=options.get("token"),
        progress=options.get("progress", True),
    )
    checkpoint = open_checkpoint(version_or_path, download, choices)
    names = list(adaptors or ()) if not isinstance(adaptors, str) else [adaptors] if adaptors else []
    _check_adaptors(checkpoint, names, str(version_or_path))
    _warn_about_windows(checkpoint)
    kind = _resolve_dtype(dtype, checkpoint.config.dtype)
    calibration = options.get("calibration")
    if runtime is None and calibration is not None:
        raise ValueError(
            "calibration= makes an int8 graph for runtime='openvino' or 'onnxruntime'; in PyTorch "
            "radio.quantization.quantize(model) does without images"
        )
    if runtime is None:
        model = build_model(model_class, checkpoint, names, place, kind, options.get("mmap", False))
    else:
        kind = runtime_dtype(runtime, dtype, kind)
        model = build_on_runtime(model_class, checkpoint, names, kind, runtime, calibration)
    _attach_text_towers(model, names, options.get("text_weights"))
    checkpoint.check_unchanged()
    return model, checkpoint


def open_checkpoint(
    version_or_path: str | Path,
    options: DownloadOptions = DEFAULT_OPTIONS,
    choices: Settings | None = None,
) -> Checkpoint:
    """Find (and if needed download) a checkpoint and map it, without building a model.

    Args:
        version_or_path: As for `load_model`.
        options: How to download what is not here.
        choices: The user's settings, which come before the file's and the catalog's.

    Raises:
        ValueError: An unknown version, or a choice that makes no sense for the model.
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
        place = Path(name, options.subfolder) if options.subfolder else name
        return read_checkpoint(place, choices=choices, mmap=True)
    if options.subfolder and "/" not in name:
        raise ValueError(
            f"subfolder={options.subfolder!r} is for a repository or a folder; {name!r} is a version"
        )
    if name == DEMO_NAME:
        return read_checkpoint(fetch_demo(options), choices=choices, mmap=True)
    release = find_release(name) if "/" in name else get_release(name)
    if release is None or "/" in name:
        try:
            path = download_repository(name, options, license=release.license if release else None)
        except DownloadError as error:
            meant = "" if release else suggestion(name)
            if not meant:
                raise
            raise type(error)(f"{error}{meant}") from error
    else:
        path = download_release(release, options)
    return read_checkpoint(path, release, choices, mmap=True)


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # longer than any file name
        return False


def _looks_like_a_path(name: str) -> bool:
    return (
        name.startswith((".", "/", "~"))
        or name.count("/") > 1
        or name.endswith((".tar", ".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".json"))
    )


def _choices(**given: Any) -> Settings:
    """The caller's settings, if each has the right type."""
    for name, value in given.items():
        kinds, wanted = _KINDS.get(name, ((int,), "a whole number"))
        if value is not None and type(value) not in kinds:
            raise TypeError(f"{name} must be {wanted}, got {value!r}")
    return Settings(**given)


def _check_adaptors(checkpoint: Checkpoint, names: Sequence[str], source: str) -> None:
    available = {adaptor.name: adaptor for adaptor in checkpoint.config.adaptors}
    unknown = [name for name in names if name not in available]
    if not unknown:
        return
    release = checkpoint.release
    listed = [name for name in unknown if release is not None and name in release.adaptors]
    if listed and not available:
        assert release is not None
        raise ValueError(
            f"{source} holds no adaptor tensors, so {', '.join(listed)} cannot be loaded from it; "
            f"use load_model({release.version!r}, adaptors=...), whose file {release.filename} has them"
        )
    several = "; several are a list: ['clip', 'sam']" if "," in unknown[0] else ""
    raise ValueError(
        f"unknown adaptor {unknown[0]!r}; {source} has: {listing(available) or 'no adaptors'}"
        f"{several or did_you_mean(unknown[0], available)}"
    )


def _warn_about_windows(checkpoint: Checkpoint) -> None:
    release = checkpoint.release
    if checkpoint.config.vitdet_window_size and release is not None and not release.vitdet:
        logger.warning(
            "%s was not trained with ViTDet windows; expect lower quality with them", release.version
        )


def _resolve_dtype(dtype: str | torch.dtype, of_checkpoint: str) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point type, got {dtype}")
    name = of_checkpoint if dtype == "auto" else str(dtype).removeprefix("torch.")
    name = {**SHORT_DTYPES, **_TORCH_NAMES}.get(name, name)
    if name not in _DTYPES:
        raise ValueError(f"unknown dtype {name!r}; allowed: auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _attach_text_towers(model: RADIONetwork, names: Sequence[str], text_weights: TextWeights | None) -> None:
    """Give every text-aligned adaptor its text tower; nothing is loaded before it is used."""
    aligned = {name: model.adaptors[name] for name in names if model.adaptors[name].has_text}
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
