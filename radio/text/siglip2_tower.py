"""Text towers of SigLIP 2, as transformers defines them; the vision tower is never made."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError
from torch import Tensor

from radio.checkpoints.fill import fill
from radio.checkpoints.guard import brief, refuse_malformed
from radio.checkpoints.hub_repo import read_json, shard_names
from radio.checkpoints.plain import plain_fields
from radio.download import check_hub
from radio.errors import CheckpointError, DownloadError
from radio.optional import require
from radio.text.allowed import SIGLIP_TEXT, checked
from radio.text.canonical import canonicalize
from radio.text.tokenizer_file import TOKENIZER, read_tokenizer
from radio.text.tower import TextTower, Tokenizer
from radio.text.weights import read_tensors

logger = logging.getLogger(__name__)

REPOSITORIES = {
    "siglip2-g-384": "google/siglip2-giant-opt-patch16-384",
    "siglip2-so400m": "google/siglip2-so400m-patch16-naflex",
}
"""The teachers' names of the towers, and the Hugging Face repositories that hold them."""

CONTEXT_LENGTH = 64

_LOGIT_NAMES = ("logit_scale", "logit_bias")
_CLASSES = {"siglip": "Siglip", "siglip2": "Siglip2"}


def load_tower(model: str, weights: Path | None) -> TextTower:
    """Build the text tower of a SigLIP 2 model and fill it.

    Args:
        model: The teacher's name of the model, a key of ``REPOSITORIES``.
        weights: A local folder in transformers' layout, or ``None`` to download the repository.

    Raises:
        MissingExtraError: transformers is not installed.
        ValueError: Nobody knows this tower, and no folder was given.
        CheckpointError: The folder does not hold a SigLIP or SigLIP 2 model.
        DownloadError: The repository cannot be downloaded.
    """
    transformers = require("transformers", "text")
    config_file = _required(model, weights, "config.json")
    content = plain_fields(read_json(config_file), str(config_file))
    kind = content.get("model_type")
    if kind not in _CLASSES:
        raise CheckpointError(
            f"{config_file} describes a {brief(kind)} model; expected {' or '.join(_CLASSES)}"
        )
    stated = content.get("text_config") or {}
    if not isinstance(stated, dict):
        raise CheckpointError(f"{config_file}: 'text_config' must be a dict, got {brief(stated)}")
    shaping = {name: value for name, value in stated.items() if name in SIGLIP_TEXT}
    tensors = _tensors(model, weights)
    scale, bias = (tensors.pop(name, None) for name in _LOGIT_NAMES)
    with refuse_malformed(config_file), torch.device("meta"):
        text_config = getattr(transformers, f"{_CLASSES[kind]}TextConfig")(
            **checked(shaping, SIGLIP_TEXT, f"{config_file}: text_config")
        )
        module = getattr(transformers, f"{_CLASSES[kind]}TextModel")(text_config)
    # Before version 5 of transformers the parts of the tower lay one level deeper, under the name that files use.
    inner = getattr(module, "text_model", module)
    # The one buffer that no file holds: the numbers of the positions.
    inner.embeddings.position_ids = torch.arange(text_config.max_position_embeddings)[None]
    own = {name.removeprefix("text_model."): value for name, value in tensors.items()}
    fill(inner, own, torch.device("cpu"), torch.float32, str(config_file.parent))
    module.requires_grad_(False).eval()
    return TextTower(
        module=module,
        embed=_embedder(module),
        logit_scale=None if scale is None else math.exp(float(scale.reshape(()))),
        logit_bias=0.0 if bias is None else float(bias.reshape(())),
    )


def load_tokenizer(model: str, weights: Path | None) -> Tokenizer:
    """The tokenizer of a SigLIP 2 model: a function from a list of texts to ``(N, 64)`` int64 token numbers.

    Text is brought into the canonical form first; what is longer than 64 tokens is cut before the end-of-text
    token, what is shorter is padded behind it.

    Raises:
        MissingExtraError: tokenizers is not installed.
        CheckpointError: The folder has no tokenizer, or one without a padding token.
        DownloadError: The tokenizer cannot be downloaded.
    """
    path = _required(model, weights, TOKENIZER)
    tokenizer = read_tokenizer(path, "text")
    padding = _padding_token(_find(model, weights, "tokenizer_config.json"))
    number = tokenizer.token_to_id(padding)
    if number is None:
        raise CheckpointError(f"{path} has no padding token {brief(padding)}")
    tokenizer.enable_truncation(CONTEXT_LENGTH)
    tokenizer.enable_padding(length=CONTEXT_LENGTH, pad_id=number, pad_token=padding)

    def tokenize(texts: list[str]) -> Tensor:
        encodings = tokenizer.encode_batch([canonicalize(text) for text in texts])
        return torch.tensor([encoding.ids for encoding in encodings], dtype=torch.long).reshape(
            -1, CONTEXT_LENGTH
        )

    return tokenize


def _embedder(module: torch.nn.Module) -> Any:
    def embed(tokens: Tensor) -> Tensor:
        return module(input_ids=tokens).pooler_output

    return embed


def _find(model: str, weights: Path | None, name: str) -> Path | None:
    """A file of the local folder or of the repository, downloaded if need be; None if it cannot be had."""
    if weights is not None:
        return weights / name if (weights / name).is_file() else None
    repository = _repository(model)
    try:
        check_hub(repository, [name], f"{name} is not in the cache and the Hub cannot be reached")
        return Path(hf_hub_download(repository, name))
    except (OSError, ValueError, HTTPError) as error:
        logger.debug("no %s in %s: %s", name, repository, error)
        return None


def _repository(model: str) -> str:
    if model not in REPOSITORIES:
        raise ValueError(
            f"unknown SigLIP 2 text tower {brief(model)}; known: {', '.join(REPOSITORIES)}; "
            "or give the folder of its transformers model as text_weights=... (--text-weights)"
        )
    return REPOSITORIES[model]


def _required(model: str, weights: Path | None, name: str) -> Path:
    path = _find(model, weights, name)
    if path is not None:
        return path
    if weights is not None:
        raise CheckpointError(
            f"{weights} has no {name}; a SigLIP 2 text tower is a folder with config.json, tokenizer.json, "
            "tokenizer_config.json and .safetensors files"
        )
    raise DownloadError(
        f"cannot download {name} of the text tower {model}: get config.json, tokenizer.json, tokenizer_config.json "
        f"and the .safetensors files of https://huggingface.co/{REPOSITORIES[model]} and pass their folder as "
        "text_weights=... (--text-weights)"
    )


def _tensors(model: str, weights: Path | None) -> dict[str, Tensor]:
    """The text tower's tensors. Of weights in several files, only those that hold some of them are downloaded."""
    whole = _find(model, weights, "model.safetensors")
    if whole is not None:
        return read_tensors(whole, _is_wanted)
    index = _required(model, weights, "model.safetensors.index.json")
    places = read_json(index).get("weight_map")
    shards = set(shard_names(index))
    assert isinstance(places, dict)  # or shard_names had refused it
    names = sorted(shards & {file for name, file in places.items() if _is_wanted(name)})
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= read_tensors(_required(model, weights, name), _is_wanted)
    return tensors


def _is_wanted(name: str) -> bool:
    return name.startswith("text_model.") or name in _LOGIT_NAMES


def _padding_token(path: Path | None) -> str:
    token = None if path is None else read_json(path).get("pad_token")
    if isinstance(token, dict):
        token = token.get("content")
    return token if token and isinstance(token, str) else "<pad>"
