"""Hub repositories: ``config.json`` with ``model.safetensors``, read and write."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from radio.checkpoints.cut_off import without_cut_blocks
from radio.checkpoints.guard import brief, listing, refuse_placeholder, short_reason
from radio.checkpoints.layouts.descriptions import Description, find_description
from radio.checkpoints.layouts.native import native_fields, to_native_names
from radio.checkpoints.layouts.roots import find_roots
from radio.checkpoints.plain import plain_fields
from radio.checkpoints.shapes import check_names
from radio.checkpoints.torch_file import plain_tensors, read_torch_content
from radio.config import AdaptorConfig, HeadConfig, Radio1DConfig, RadioConfig
from radio.errors import CheckpointError
from radio.files import Outputs, file_mode, staging

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
OLD_WEIGHTS = "pytorch_model.bin"
OLD_INDEX = "pytorch_model.bin.index.json"
_DISTRIBUTED = ".metadata"
_ADAPTERS = "adapter_config.json"
_PREFIX = "radio_model."
_WITH_CPE = ("cpe", "dinov2", "radio1d")
_PAIR = "config_id"
"""In ``config.json`` and in the header of the weights: which config they were written with."""
_SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.(safetensors|bin)")
_UNREADABLE = (
    SafetensorError,
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    NotImplementedError,
)
_LARGEST_JSON = 4 * 2**20


def read_hub_content(path: Path) -> tuple[Description, dict[str, Tensor]]:
    """What describes the model of a Hub repository, and its tensors under their stored names, memory-mapped.

    Code that ``auto_map`` may name is never run.

    Args:
        path: A folder with ``config.json`` and ``model.safetensors`` (or its shards and their index, or the same as
            ``pytorch_model.bin``), or a ``.safetensors`` file with ``config.json`` beside it.

    Raises:
        CheckpointError: A file is missing, damaged, or not a RADIO model's.
    """
    folder = path if path.is_dir() else path.parent
    if folder != path and not (folder / CONFIG).is_file():
        raise CheckpointError(f"{path} has no {CONFIG}{_put_it_beside(path.name)}")
    description = describe_folder(folder)
    tensors: dict[str, Tensor] = {}
    for file in _weight_files(folder, description) if path.is_dir() else [path]:
        if file.suffix == ".safetensors":
            part = read_safetensors(file)
            _check_pair(description.fields, file, folder)
        else:
            part = plain_tensors(read_torch_content(file), file)
        twice = next((name for name in part if name in tensors), None)
        if twice is not None:
            raise CheckpointError(f"{folder} holds {brief(twice)} in more than one file of weights")
        tensors.update(part)
    return description, tensors


def describe_folder(folder: Path) -> Description:
    """What the ``config.json`` of a folder says about a RADIO model, or about one inside a larger model.

    Raises:
        CheckpointError: It is missing, damaged, or describes none.
    """
    source = str(folder / CONFIG)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder} is not a Hub repository: it has no {CONFIG}{_instead_of(folder)}")
    description = find_description(plain_fields(read_json(folder / CONFIG), source), source)
    if description is None:
        raise CheckpointError(
            f"{source} does not describe a RADIO model: it has no 'args', is none of transformers' RadioModel, and no "
            "part of it is. Of a larger model with a RADIO tower, put the config.json of the tower's own repository "
            "into it as 'vision_config'"
        )
    return description


def _instead_of(folder: Path) -> str:
    """What to do with a folder without a config, to end a message with."""
    files = _other_weights(folder, "*.pth.tar", "*.pth", "*.pt", "*.ckpt")
    if files:
        return f"; give the path of a file in it: {listing(files, 6)}"
    if (folder / _ADAPTERS).is_file():
        return (
            f"; it holds adapters of peft, {_ADAPTERS}: load the model that they were trained on, and put them on it, "
            "peft.PeftModel.from_pretrained(model, folder)"
        )
    weights = _other_weights(folder, "*.safetensors", "*.bin")
    if weights:
        return _put_it_beside(listing(weights, 3))
    if (folder / _DISTRIBUTED).is_file():
        return (
            "; it looks like a distributed checkpoint: make one file of it, python -m "
            f"torch.distributed.checkpoint.format_utils dcp_to_torch {folder} model.pth, and put the model's "
            "config.json beside that"
        )
    patterns = (f"*/{CONFIG}", f"snapshots/*/{CONFIG}")  # the latter of a folder of huggingface_hub's cache
    inside = [str(found.parent) for pattern in patterns for found in folder.glob(pattern)]
    if inside:
        return f"; give the folder that has one: {listing(sorted(inside), 3)}"
    return "; give a folder with config.json and model.safetensors, or the path of a weights file"


def _put_it_beside(weights: str) -> str:
    return (
        f", which says what shapes the model; put the one that belongs to {weights} beside it, or write one with the "
        "model that the weights were trained from: json.dump(model.config.to_dict(), file)"
    )


def _other_weights(folder: Path, *patterns: str) -> list[str]:
    return sorted(file.name for pattern in patterns for file in folder.glob(pattern))


def _check_pair(config: Mapping[str, Any], weights: Path, folder: Path) -> None:
    """Refuse weights that were written with another config, as when saving was killed between the two files.

    Files that others wrote say nothing about it and are taken as they are.
    """
    with safe_open(weights, framework="pt") as file:
        written_with = (file.metadata() or {}).get(_PAIR)
    if written_with is None and "transformers_version" in config:
        return  # transformers carries the field along when it saves a model that it loaded from here
    if written_with != config.get(_PAIR):
        raise CheckpointError(
            f"{weights} and {folder / CONFIG} do not belong together: one was replaced without the other, perhaps "
            f"because saving was interrupted. Save, convert or download both again; if you changed the weights "
            f"yourself, remove '{_PAIR}' from {CONFIG}"
        )


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} is not a Hub repository: it has no {path.name}")
    refuse_placeholder(path)
    if path.stat().st_size > _LARGEST_JSON:
        raise CheckpointError(
            f"{path} is larger than {_LARGEST_JSON} bytes, which no {path.name} is; refused"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({short_reason(error)})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def shard_names(index: Path, description: Description | None = None) -> list[str]:
    """The weights files that an index names and the model needs: files of its own folder, never elsewhere.

    Args:
        index: The index's file.
        description: Where it is of a model inside a larger one, only the files in which that model lies are needed.

    Raises:
        CheckpointError: It is not such an index, or it names something else than safetensors files beside it.
    """
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index} has no usable 'weight_map'")
    suffix = ".bin" if index.name == OLD_INDEX else ".safetensors"
    for name in names.values():
        if not isinstance(name, str) or not _SHARD.fullmatch(name) or not name.endswith(suffix):
            raise CheckpointError(
                f"{index} names {brief(name)}, which is no name of a weights file in the same folder"
            )
    roots = find_roots(names, anywhere=True) if description is not None and description.nested else {}
    return sorted({file for name, file in names.items() if name.startswith(tuple(roots) or "")})


def has_weights(folder: Path) -> bool:
    """Whether the one weights file, or the index and all shards that it names, are in a folder."""
    try:
        return bool(_weight_files(folder, describe_folder(folder)))
    except CheckpointError:
        return False


def _weight_files(folder: Path, description: Description) -> list[Path]:
    for weights, index in ((WEIGHTS, INDEX), (OLD_WEIGHTS, OLD_INDEX)):
        if (folder / weights).is_file():
            return [folder / weights]
        if (folder / index).is_file():
            files = [folder / name for name in shard_names(folder / index, description)]
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise CheckpointError(
                    f"{folder} lacks {listing(missing)}, which {index} names; download them"
                )
            return files
    others = _other_weights(folder, "*.safetensors", "*.pth.tar", "*.pth", "*.pt", "*.bin", "*.ckpt")
    instead = f", or give the path of another file in it: {listing(others, 6)}" if others else ""
    raise CheckpointError(f"{folder} has no {WEIGHTS}; download it beside {CONFIG}{instead}")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    refuse_placeholder(path)
    try:
        tensors = load_file(path)
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file ({short_reason(error)}); download it again"
        ) from error
    check_names(tensors, path)
    return tensors


def write_hub_repo(
    folder: str | Path, config: RadioConfig, tensors: dict[str, Tensor], outputs: Outputs | None = None
) -> None:
    """Write ``config.json`` and ``model.safetensors`` in the released layout, and for transformers' image processors
    ``preprocessor_config.json``.

    All files are written beside their place and then renamed, so that an interrupted call leaves nothing half
    written and a model may be saved over the files that it is mapped from. Config and weights name each other, so
    that a call that is killed between the two leaves a folder that is refused, not one that gives other numbers.

    Args:
        folder: Made if it does not exist.
        config: What shapes the model; its ``adaptors`` are those whose tensors are in ``tensors``.
        tensors: The model's state dict.
        outputs: Of the run that they belong to, whose inputs are not replaced.

    Raises:
        ValueError: A file is an input of the run or was written by it.
        OSError: The folder cannot be written.
    """
    folder = Path(folder)
    move = os.replace if outputs is None else outputs.move
    folder.mkdir(parents=True, exist_ok=True)
    tensors = without_cut_blocks(tensors, config.depth)
    named = _separate({_PREFIX + name: value for name, value in to_native_names(config, tensors).items()})
    named[f"{_PREFIX}summary_idxs"] = torch.tensor(config.summary_idxs, dtype=torch.int64)
    content = {**config_to_json(config), **native_fields(config, tensors)}
    content[_PAIR] = hashlib.sha256(_to_text(content).encode()).hexdigest()[:32]
    with staging(folder, "saving") as place:
        try:
            metadata = {"format": "pt", _PAIR: content[_PAIR]}
            save_file(named, place / WEIGHTS, metadata=metadata)
            _sort_metadata(place / WEIGHTS, metadata)
            (place / WEIGHTS).chmod(file_mode(place))
        except SafetensorError as error:  # its way to say that the disk is full
            raise OSError(f"{folder / WEIGHTS} cannot be written ({short_reason(error)})") from error
        (place / CONFIG).write_text(_to_text(content), encoding="utf-8")
        (place / PREPROCESSOR).write_text(_to_text(_preprocessor(config)), encoding="utf-8")
        move(place / WEIGHTS, folder / WEIGHTS)
        move(place / CONFIG, folder / CONFIG)
        move(place / PREPROCESSOR, folder / PREPROCESSOR)


def _sort_metadata(weights: Path, metadata: dict[str, str]) -> None:
    """Put the metadata at the start of a safetensors header in order; safetensors writes it in a random one."""
    start = '{"__metadata__":' + json.dumps(metadata, separators=(",", ":"), sort_keys=True)
    with weights.open("r+b") as file:
        file.seek(8)  # the length of the header, which stays the same
        file.write(start.encode())


def _to_text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, contiguous, each in memory of its own, as safetensors wants them."""
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, value in tensors.items():
        pointer = value.untyped_storage().data_ptr()
        plain = value.detach().contiguous()
        separate[name] = plain.clone() if pointer in seen else plain
        seen.add(pointer)
    return separate


def _plain(value: Any) -> Any:
    """A field of a checkpoint's arguments as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def config_to_json(config: RadioConfig) -> dict[str, Any]:
    """The content of ``config.json`` for a model."""
    kwargs: dict[str, Any] = {
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
    }
    if config.layer_scale:
        kwargs["init_values"] = 1e-5
    if config.scaled_norm:
        kwargs["scaled_ln"] = True
    if config.layout == "plain":
        kwargs |= {"img_size": config.grid_size * config.patch_size, "dynamic_img_size": True}
    if config.eradio is not None:
        kwargs = {"return_full_features": True}
    if config.radio1d is not None:
        kwargs |= _radio1d_to_json(config, config.radio1d)
    args = {
        "model": config.architecture,
        "model_kwargs": kwargs,
        "model_norm": config.final_norm,
        "gp": "avg" if config.summary_pool == "mean" else None,
        "cpe_max_size": config.grid_size * config.patch_size if config.layout in _WITH_CPE else None,
        "cls_token_per_teacher": config.num_cls_tokens > 1,
        "cpe_num_registers": config.num_registers,
        "teachers": [_plain(teacher) for teacher in config.teachers],
        "dtype": config.dtype,
        "input_size": [3, 224, 224],
    }
    return {
        "architectures": ["RADIOModel"],
        "args": args,
        "version": config.version,
        "patch_size": config.patch_size,
        "max_resolution": config.max_resolution,
        "preferred_resolution": list(config.preferred_resolution),
        "adaptor_names": None,
        "adaptor_configs": {adaptor.name: _adaptor_to_json(adaptor) for adaptor in config.adaptors},
        "vitdet_window_size": config.vitdet_window_size,
        "vitdet_num_global": config.vitdet_num_global,
        "vitdet_num_windowed": config.vitdet_num_windowed,
        "pos_embed_align_corners": config.pos_embed_align_corners,
        "eradio_window_size": config.eradio.window_size if config.eradio else None,
        "neck_name": config.radio1d.neck_name if config.radio1d else None,
        "feature_normalizer_config": {"embed_dim": config.embed_dim} if config.feature_normalizer else None,
        "inter_feature_normalizer_config": (
            {
                "num_intermediates": config.depth,
                "embed_dim": config.embed_dim,
                "rot_per_layer": config.intermediate_normalizer == "per_layer",
                "dtype": "float32",
            }
            if config.intermediate_normalizer
            else None
        ),
        "dtype": config.dtype,
    }


def _preprocessor(config: RadioConfig) -> dict[str, Any]:
    """What transformers' ``AutoImageProcessor`` makes pixels in [0, 1] from: the middle of an image, at the resolution
    that the model works best at."""
    step = config.resolution_step * (config.vitdet_window_size or 1)
    side = max(round(min(config.preferred_resolution) / step), 1) * step
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
    }


def _radio1d_to_json(config: RadioConfig, radio1d: Radio1DConfig) -> dict[str, Any]:
    """What the public constructor of RADIO1D takes; `img_size` is where it has the number of learned tokens from."""
    return {
        "img_size": radio1d.filler_size * 2 ** len(radio1d.downscale_levels) * config.patch_size,
        "cpe_max_size": config.grid_size * config.patch_size,
        "num_cls_tokens": config.num_cls_tokens,
        "num_registers": config.num_registers,
        "mlp_ratio": config.mlp_dim / config.embed_dim if config.mlp_dim else 4.0,
        "downscale_levels": list(radio1d.downscale_levels),
        "decoder_depth": radio1d.decoder_depth,
        "decoder_upscale_levels": list(radio1d.decoder_upscale_levels),
        "progressive_reduction": radio1d.progressive_reduction,
    }


def _adaptor_to_json(adaptor: AdaptorConfig) -> dict[str, Any]:
    return {
        "head_idx": adaptor.head_idx,
        "summary": _head_to_json(adaptor.summary),
        "feature": _head_to_json(adaptor.feature)
        | {"upsample_factor": adaptor.feature.upsample_factor, "upsample_rank": None},
    }


def _head_to_json(head: HeadConfig) -> dict[str, Any]:
    names = ("input_dim", "hidden_dim", "output_dim", "num_inner")
    return {name: value for name, value in asdict(head).items() if name in names}
