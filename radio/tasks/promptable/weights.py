"""From a SAM as transformers saves it to its decoder: the image encoder is neither built nor kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from radio.checkpoints.fill import fill
from radio.checkpoints.guard import brief, refuse_malformed
from radio.checkpoints.hub_repo import CONFIG, INDEX, WEIGHTS, read_json, read_safetensors, shard_names
from radio.checkpoints.plain import plain_fields
from radio.download import download_other
from radio.errors import CheckpointError
from radio.optional import require
from radio.tasks.promptable.decoders import MaskDecoder, Sam3MaskDecoder, SamMaskDecoder

DEFAULT_REPOSITORIES = {"sam": "facebook/sam-vit-huge", "sam3": "facebook/sam3"}
"""Where the decoder comes from that an adaptor was trained for."""

_DETECTOR_ALONE = "sam3"
_POSITIONS = "positional_embedding"
_WORDS = ("model_type", "hidden_act")
_OF_CLASSIFIERS = ("id2label", "label2id", "num_labels")
"""What configs of older versions say of every model, and what shapes none of these."""
_SAM3_NAMES = (
    (r"^(tracker_model\.)+", ""),
    (r"^detector_model\.vision_encoder\.backbone\.", "vision_encoder.backbone."),
    (r"^tracker_neck\.", "vision_encoder.neck."),
)
"""How the published file, which holds a detector and a tracker, names what the tracker alone calls otherwise."""


def load_mask_decoder(name: str | Path, device: str | torch.device = "cpu") -> MaskDecoder:
    """The decoder of a SAM or SAM 3 as transformers saves them.

    Args:
        name: A local folder with config.json and safetensors, or a Hub repository, e.g. ``"facebook/sam-vit-huge"`` or
            ``"facebook/sam3"``.
        device: Where it runs, in float32 as adaptors do.

    Raises:
        CheckpointError: It is no SAM, its files are damaged, or tensors are missing.
        DownloadError: It is not in the cache and the Hub cannot be reached.
        MissingExtraError: transformers is not installed.
        ValueError: The name is neither a folder nor a repository's.
    """
    transformers = require("transformers", "sam")
    folder, config = open_folder(name)
    kind = config.get("model_type")
    if kind == "sam":
        return SamMaskDecoder(_sam(transformers, config, folder, torch.device(device)))
    if kind in ("sam3_tracker", "sam3_video"):
        check_sam3(transformers, name)
        return Sam3MaskDecoder(_sam3(transformers, config, folder, torch.device(device)))
    if kind == _DETECTOR_ALONE:
        raise CheckpointError(
            f"{folder} holds SAM 3's detector alone, which takes words and no points; load it with concepts=True, or "
            "facebook/sam3, which has both"
        )
    raise CheckpointError(
        f"{folder} describes a {brief(kind)} model; expected sam, sam3_tracker or sam3_video, as in "
        f"{' or '.join(DEFAULT_REPOSITORIES.values())}"
    )


def open_folder(name: str | Path, also: Sequence[str] = ()) -> tuple[Path, dict[str, Any]]:
    """The folder of a SAM, downloaded if need be, with other files of it, and what its config.json says.

    Raises:
        OSError: As `load_mask_decoder`.
        ValueError: The name is neither a folder nor a repository's.
    """
    folder = Path(name) if Path(name).is_dir() else download_other(str(name), also=also)
    return folder, plain_fields(read_json(folder / CONFIG), str(folder / CONFIG))


def is_detector_alone(name: str | Path) -> bool:
    """Whether a folder or repository has SAM 3's detector and not its tracker, as transformers' Sam3Model saves it."""
    return open_folder(name)[1].get("model_type") == _DETECTOR_ALONE


def check_sam3(transformers: Any, name: str | Path) -> None:
    """Refuse a SAM 3 where transformers has none.

    Raises:
        CheckpointError: It has none.
    """
    if not hasattr(transformers, "Sam3TrackerModel"):
        raise CheckpointError(
            f"{name} is a SAM 3, which transformers {transformers.__version__} does not have; install version 5"
        )


def _sam(transformers: Any, config: dict[str, Any], folder: Path, device: torch.device) -> Any:
    with refuse_malformed(folder / CONFIG), torch.device("meta"):
        described = transformers.SamConfig(**sizes(config))
        described.vision_config.num_hidden_layers = 0
        model = transformers.SamModel(described)
    model.vision_encoder.patch_embed, model.vision_encoder.pos_embed = nn.Identity(), None
    tensors = {
        key: value
        for key, value in read_tensors(folder).items()
        if not re.match(r"vision_encoder\.(layers\.|patch_embed\.|pos_embed$)", key)
    }
    return _filled(model, tensors, folder, device)


def _sam3(transformers: Any, config: dict[str, Any], folder: Path, device: torch.device) -> Any:
    with refuse_malformed(folder / CONFIG), torch.device("meta"):
        own = config["tracker_config"] if config["model_type"] == "sam3_video" else config
        described = transformers.Sam3TrackerConfig(**sizes({**own, "model_type": "sam3_tracker"}))
        described.vision_config.backbone_config.num_hidden_layers = 0
        model = transformers.Sam3TrackerModel(described)
    model.vision_encoder.backbone = nn.Identity()
    expected = model.state_dict()
    tensors = {}
    for stored, value in read_tensors(folder).items():
        key = stored
        for pattern, replacement in _SAM3_NAMES:
            key = re.sub(pattern, replacement, key)
        if key in expected:  # the published file also holds the detector and the tracker's memory
            tensors[key] = value
    return _filled(model, tensors, folder, device)


def _filled(model: Any, tensors: dict[str, Tensor], folder: Path, device: torch.device) -> Any:
    """The model with its tensors. Two of its modules share one tensor, which a file may hold once."""
    names = f"shared_image_embedding.{_POSITIONS}", f"prompt_encoder.shared_embedding.{_POSITIONS}"
    for one, other in (names, names[::-1]):
        if one in tensors:
            tensors.setdefault(other, tensors[one])
    return fill(model, tensors, device, torch.float32, str(folder)).eval().requires_grad_(False)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, mapped from its files.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    index = folder / INDEX
    names = shard_names(index) if index.is_file() and not (folder / WEIGHTS).is_file() else [WEIGHTS]
    tensors: dict[str, Tensor] = {}
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}; download it beside {CONFIG}")
        tensors |= read_safetensors(folder / name)
    return tensors


def sizes(value: Any) -> Any:
    """What shapes a model: numbers, and words of a few names. Nothing that could name code or another place."""
    if not isinstance(value, dict):
        return value
    return {
        key: sizes(item)
        for key, item in value.items()
        if key not in _OF_CLASSIFIERS
        and (isinstance(item, dict | int | float | list) or (key in _WORDS and isinstance(item, str)))
    }
