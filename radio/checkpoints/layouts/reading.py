"""Any file or folder that holds a model becomes a `RawCheckpoint`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from radio.checkpoints.cut_off import count_blocks, without_cut_blocks
from radio.checkpoints.describe import summary_idxs_of, summary_names_of
from radio.checkpoints.guard import refuse_malformed
from radio.checkpoints.hub_repo import config_to_json, read_hub_content
from radio.checkpoints.layouts.descriptions import Description
from radio.checkpoints.layouts.native import (
    from_native_fields,
    from_native_names,
    is_native,
    with_conditioner,
)
from radio.checkpoints.layouts.roots import take_model
from radio.checkpoints.layouts.torch_content import describe_content, find_state_dict
from radio.checkpoints.raw import RawCheckpoint
from radio.checkpoints.torch_file import from_released_names, plain_tensors, read_torch_content
from radio.config import RadioConfig
from radio.errors import CheckpointError

logger = logging.getLogger(__name__)


def read_repository(path: Path) -> RawCheckpoint:
    """Read a Hub repository's folder, or a weights file with its ``config.json`` beside it.

    Raises:
        CheckpointError: A file is missing, damaged, or not a RADIO model's.
    """
    description, stored = read_hub_content(path)
    with refuse_malformed(path):
        return understand(description, stored, str(path))


def read_torch_file(path: Path) -> RawCheckpoint:
    """Read a torch checkpoint file: a zip-format ``torch.save`` of a dict.

    It holds a state dict and what describes the model: ``args``, or ``config``, or hyperparameters with one of these.
    Without any of them, a ``config.json`` beside the file describes it.

    Raises:
        CheckpointError: The file is not such a file, is damaged, or asks for more than tensors and plain values.
    """
    content = read_torch_content(path)
    with refuse_malformed(path):
        state = find_state_dict(content, path)
        description = describe_content(content, path)
        return understand(description, plain_tensors(state, path), str(path))


def understand(description: Description, stored: Mapping[str, Tensor], source: str) -> RawCheckpoint:
    """The model's arguments, and its tensors under this library's names.

    Raises:
        CheckpointError: The tensors are not those of one RADIO model, or are not what the description says.
    """
    tensors = from_native_names(take_model(stored, source, description.nested), source)
    fields = dict(description.fields)
    if description.kind == "own":
        return _understand_own(RadioConfig.from_dict(fields), tensors, source)
    if description.kind == "transformers" or is_native(fields):
        args, fields, tensors = from_native_fields(fields, tensors, source)
    else:
        args = fields["args"]
        if (
            description.nested
        ):  # where the larger model's preprocessor normalizes, the tower may have no constants
            tensors = with_conditioner(tensors, fields, source)
    return RawCheckpoint(args, from_released_names(tensors, args, Path(source)), fields)


def _understand_own(config: RadioConfig, tensors: dict[str, Tensor], source: str) -> RawCheckpoint:
    fields = config_to_json(config)
    tensors = from_released_names(tensors, fields["args"], Path(source))
    if count_blocks(tensors) < config.depth:
        tensors = without_cut_blocks(tensors, count_blocks(tensors))
    dtypes = {value.dtype for name, value in tensors.items() if name != "summary_idxs"}
    if len(dtypes) == 1:
        fields["args"]["dtype"] = str(dtypes.pop()).removeprefix("torch.")
    stored = tensors.get("summary_idxs")
    if stored is None:
        stored = torch.tensor(config.summary_idxs, dtype=torch.int64)
    else:  # chosen after the model had its config
        idxs = summary_idxs_of(stored, config.teachers, True, config.num_cls_tokens, source)
        names = summary_names_of(config.teachers, idxs)
        config = replace(config, summary_idxs=idxs, summary_names=names)
    return RawCheckpoint(fields["args"], {**tensors, "summary_idxs": stored}, fields, stated=config)


def check_stated(described: RadioConfig, stated: RadioConfig | None, source: str) -> None:
    """What a file's own `RadioConfig` says must be what its tensors show.

    Its adaptors may be more than the file holds, its dtype is that of the file it was first read from, and the
    version may be known by the name of the file. Blocks may have been cut off the model since it had its config.

    Raises:
        CheckpointError: They differ; the message names the field.
    """
    if stated is None:
        return
    if described.depth < stated.depth:
        logger.warning(
            "%s: its config says %d blocks, it holds the first %d", source, stated.depth, described.depth
        )
        stated = replace(stated, depth=described.depth)
    shown = described.to_dict()
    for name, value in stated.to_dict().items():
        if name not in ("adaptors", "dtype", "version") and shown[name] != value:
            raise CheckpointError(
                f"{source}: its config says {name}={str(value)[:120]}, its tensors say {str(shown[name])[:120]}"
            )
