"""Text towers of SigLIP 2, as transformers defines them; the vision tower is never made."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError
from torch import Tensor

from radio.checkpoints.fill import fill
from radio.download import check_hub
from radio.errors import CheckpointError, DownloadError
from radio.optional import require
from radio.text.canonical import canonicalize
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
_CLASSES = {"siglip": "SiglipTextModel", "siglip2": "Siglip2TextModel"}


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
    kind = _read_json(config_file).get("model_type")
    if kind not in _CLASSES:
        raise CheckpointError(f"{config_file} describes a {kind!r} model; expected {' or '.join(_CLASSES)}")
    config = transformers.AutoConfig.from_pretrained(config_file.parent, local_files_only=True)
    tensors = _tensors(model, weights)
    scale, bias = (tensors.pop(name, None) for name in _LOGIT_NAMES)
    text_config = config.text_config
    with torch.device("meta"):
        module = getattr(transformers, _CLASSES[kind])(text_config)
    # The one buffer that no file holds: the numbers of the positions.
    module.embeddings.position_ids = torch.arange(text_config.max_position_embeddings)[None]
    own = {name.removeprefix("text_model."): value for name, value in tensors.items()}
    fill(module, own, torch.device("cpu"), torch.float32, str(config_file.parent))
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
    tokenizers = require("tokenizers", "text")
    path = _required(model, weights, "tokenizer.json")
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    padding = _padding_token(_find(model, weights, "tokenizer_config.json"))
    number = tokenizer.token_to_id(padding)
    if number is None:
        raise CheckpointError(f"{path} has no padding token {padding!r}")
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
            f"unknown SigLIP 2 text tower {model!r}; known: {', '.join(REPOSITORIES)}; "
            "or give the folder of its transformers model as text_weights=..."
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
        "text_weights=..."
    )


def _tensors(model: str, weights: Path | None) -> dict[str, Tensor]:
    """The text tower's tensors. Of weights in several files, only those that hold some of them are downloaded."""
    whole = _find(model, weights, "model.safetensors")
    if whole is not None:
        return read_tensors(whole, _is_wanted)
    index = _read_json(_required(model, weights, "model.safetensors.index.json"))
    names = sorted({file for name, file in index["weight_map"].items() if _is_wanted(name)})
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= read_tensors(_required(model, weights, name), _is_wanted)
    return tensors


def _is_wanted(name: str) -> bool:
    return name.startswith("text_model.") or name in _LOGIT_NAMES


def _padding_token(path: Path | None) -> str:
    token = None if path is None else _read_json(path).get("pad_token")
    if isinstance(token, dict):
        token = token.get("content")
    return token or "<pad>"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
