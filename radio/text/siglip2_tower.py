"""Text towers of SigLIP 2, as transformers defines them; the vision tower is never made."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radio.errors import CheckpointError, DownloadError
from radio.optional import require
from radio.text.canonical import canonicalize
from radio.text.tower import TextTower, Tokenizer

REPOSITORIES = {
    "siglip2-g-384": "google/siglip2-giant-opt-patch16-384",
    "siglip2-so400m": "google/siglip2-so400m-patch16-naflex",
}
"""The teachers' names of the towers, and the Hugging Face repositories that hold them."""

CONTEXT_LENGTH = 64

_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "*.safetensors",
    "model.safetensors.index.json",
)
_CLASSES = {"siglip": "SiglipTextModel", "siglip2": "Siglip2TextModel"}


def load_tower(model: str, weights: Path | None) -> TextTower:
    """Build the text tower of a SigLIP 2 model and fill it.

    Args:
        model: The teacher's name of the model, a key of ``REPOSITORIES``.
        weights: A local folder in transformers' layout, or ``None`` to download the repository.

    Raises:
        MissingExtraError: transformers is not installed.
        CheckpointError: The folder does not hold a SigLIP or SigLIP 2 model.
        DownloadError: The repository cannot be downloaded.
    """
    transformers = require("transformers", "text")
    folder = _folder(model, weights, _FILES)
    kind = _read_json(folder / "config.json").get("model_type")
    if kind not in _CLASSES:
        raise CheckpointError(
            f"{folder}/config.json describes a {kind!r} model; expected one of {', '.join(_CLASSES)}"
        )
    try:
        module, report = getattr(transformers, _CLASSES[kind]).from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{folder} does not hold the weights of a {kind} model: {error}") from error
    if report["missing_keys"]:
        raise CheckpointError(
            f"{folder} lacks tensors of the text tower: {', '.join(sorted(report['missing_keys']))}"
        )
    module.requires_grad_(False)
    module.eval()
    scale, bias = _logit_values(folder)
    return TextTower(module=module, embed=_embedder(module), logit_scale=scale, logit_bias=bias)


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
    folder = _folder(model, weights, ("tokenizer.json", "tokenizer_config.json"))
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer.json; copy it from the repository that the weights come from"
        )
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    padding = _padding_token(folder)
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


def _folder(model: str, weights: Path | None, patterns: tuple[str, ...]) -> Path:
    if weights is not None:
        if not (weights / "config.json").is_file():
            raise CheckpointError(
                f"{weights} is not a folder with config.json, model.safetensors and tokenizer.json"
            )
        return weights
    hub = require("huggingface_hub", "text")
    repository = REPOSITORIES[model]
    try:
        return Path(hub.snapshot_download(repository, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:
        raise DownloadError(
            f"cannot download the text tower {model}: get config.json, tokenizer.json, "
            f"tokenizer_config.json and the .safetensors files of "
            f"https://huggingface.co/{repository} and pass their folder as text_weights=..."
        ) from error


def _padding_token(folder: Path) -> str:
    path = folder / "tokenizer_config.json"
    token = _read_json(path).get("pad_token") if path.is_file() else None
    if isinstance(token, dict):
        token = token.get("content")
    return token or "<pad>"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error


def _logit_values(folder: Path) -> tuple[float | None, float]:
    from safetensors import safe_open

    values: dict[str, float] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in {"logit_scale", "logit_bias"}.intersection(file.keys()):
                values[name] = float(file.get_tensor(name).reshape(()))
    scale = values.get("logit_scale")
    return (None if scale is None else math.exp(scale)), values.get("logit_bias", 0.0)
