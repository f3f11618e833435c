"""Text towers of open_clip models, built alone: no vision tower is ever made."""

from __future__ import annotations

import math
import posixpath
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError
from torch import Tensor

from radio.checkpoints.fill import fill
from radio.checkpoints.guard import brief, listing, refuse_malformed, short_reason
from radio.checkpoints.hub_repo import read_json
from radio.checkpoints.plain import plain_fields
from radio.download import check_hub
from radio.errors import CheckpointError, DownloadError
from radio.optional import require
from radio.text.allowed import OPEN_CLIP_TEXT, OPEN_CLIP_TOKENIZER, TOKENIZER_CLASSES, checked, whole
from radio.text.tower import TextTower, Tokenizer
from radio.text.weights import read_tensors

_CLIP_TEXT_NAMES = (
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "text_projection",
    "cls_emb",
)
_LOGIT_NAMES = ("logit_scale", "logit_bias")
_WEIGHT_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
)
_TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer.model")
_TOKENIZER_PATTERNS = [
    "*token*.json",
    "config.json",
    "spiece.model",
    "tokenizer.model",
    "vocab.*",
    "merges.txt",
]


def load_tower(model: str, pretrained: str, weights: Path | None) -> TextTower:
    """Build the text tower of an open_clip model and fill it.

    Args:
        model: open_clip's name of the model, e.g. ``"ViT-H-14-378-quickgelu"``.
        pretrained: open_clip's tag of its weights, e.g. ``"dfn5b"``.
        weights: A local checkpoint of that model, or a folder in open_clip's own layout
            (``open_clip_config.json`` and ``open_clip_model.safetensors``), whose config then replaces that
            of ``model``. ``None`` downloads the tag.

    Raises:
        MissingExtraError: open_clip is not installed.
        CheckpointError: open_clip does not know the model or the tag, or the file does not hold its text
            tower.
        DownloadError: The weights cannot be downloaded.
    """
    open_clip = require("open_clip", "text")
    model = _registry_name(model)
    config = _model_config(open_clip, model, weights)
    path = _local_file(weights) if weights is not None else _download(open_clip, model, pretrained)
    own_config = weights is not None and weights.is_dir()
    quick_gelu = config.get("quick_gelu") or (
        not own_config and open_clip.get_pretrained_cfg(model, pretrained).get("quick_gelu")
    )
    module = _empty_tower(config, bool(quick_gelu), model)
    tensors = read_tensors(path, _is_wanted)
    logits = {name: tensors.pop(name) for name in _LOGIT_NAMES if name in tensors}
    fill(module, _tower_tensors(tensors), torch.device("cpu"), torch.float32, str(path))
    module.requires_grad_(False).eval()
    scale = logits.get("logit_scale")
    bias = logits.get("logit_bias")
    return TextTower(
        module=module,
        embed=module,
        logit_scale=None if scale is None else math.exp(float(scale.reshape(()))),
        logit_bias=0.0 if bias is None else float(bias.reshape(())),
    )


def load_tokenizer(model: str, weights: Path | None) -> Tokenizer:
    """The tokenizer of an open_clip model: N texts to ``(N, context_length)`` int64 token numbers.

    Tokenizer files next to local weights are preferred to a download. CLIP's own comes with open_clip.

    Raises:
        MissingExtraError: open_clip is not installed.
        CheckpointError: open_clip does not know the model.
        DownloadError: The tokenizer's files are neither next to the weights nor in the cache, and cannot be
            downloaded.
    """
    open_clip = require("open_clip", "text")
    text = _model_config(open_clip, _registry_name(model), weights)["text_cfg"]
    repository = text.get("hf_tokenizer_name")
    length = text.get("context_length", 77)
    options = checked(text.get("tokenizer_kwargs") or {}, OPEN_CLIP_TOKENIZER, f"{model}: tokenizer_kwargs")
    if not repository:
        clean = {name: value for name, value in options.items() if name == "clean"}
        return open_clip.SimpleTokenizer(context_length=length, **clean)
    folder = _folder_of(weights)
    message = (
        f"cannot load the tokenizer of {model} ({folder or repository}): put tokenizer.json and "
        f"tokenizer_config.json of https://huggingface.co/{repository} next to a local copy of the weights, and "
        "pass that as text_weights=... (--text-weights)"
    )
    try:
        if folder is None or not any((folder / name).is_file() for name in _TOKENIZER_FILES):
            _check_tokenizer(open_clip, repository, weights)
            check_hub(repository, ["tokenizer_config.json"], message)
            folder = Path(snapshot_download(repository, allow_patterns=_TOKENIZER_PATTERNS))
        _check_tokenizer_class(folder)
        return open_clip.tokenizer.HFTokenizer(
            str(folder),
            context_length=length,
            tokenizer_mode=text.get("tokenizer_mode"),
            trust_remote_code=False,
            local_files_only=True,
            **options,
        )
    except CheckpointError:
        raise
    except (OSError, ValueError, HTTPError) as error:
        raise DownloadError(message) from error
    except Exception as error:  # transformers fails in many ways over settings that make no sense
        raise CheckpointError(
            f"{folder} holds no tokenizer that can be read ({short_reason(error)})"
        ) from error


def _check_tokenizer_class(folder: Path) -> None:
    """Refuse tokenizers that transformers would hand on to other libraries, with options that the folder chooses.

    Raises:
        CheckpointError: The folder's files name such a class or give such options.
    """
    for name in ("tokenizer_config.json", "config.json"):
        path = folder / name
        stated = plain_fields(read_json(path), str(path)) if path.is_file() else {}
        kind = stated.get("tokenizer_class")
        if kind is not None and kind not in TOKENIZER_CLASSES:
            raise CheckpointError(
                f"{path} names the tokenizer {brief(kind)}, which is not used here; refused"
            )
        options = [key for key, value in stated.items() if key.endswith(("_kwargs", "_file")) and value]
        if name == "tokenizer_config.json" and options:
            raise CheckpointError(
                f"{path} has the settings {listing(options)}, which are not used here; refused"
            )


def _check_tokenizer(open_clip: Any, repository: str, source: Path | None) -> None:
    """Refuse a tokenizer's repository that open_clip itself does not name.

    Raises:
        CheckpointError: It does not.
    """
    configs = map(open_clip.get_model_config, open_clip.list_models())
    if repository not in {config["text_cfg"].get("hf_tokenizer_name") for config in configs}:
        raise CheckpointError(
            f"{source} wants the tokenizer {brief(repository)}, which no model of open_clip uses; put its files "
            "(tokenizer.json, tokenizer_config.json) into the folder if you trust them"
        )


def _folder_of(weights: Path | None) -> Path | None:
    return weights if weights is None or weights.is_dir() else weights.parent


def _registry_name(model: str) -> str:
    """open_clip lists ``ViT-L/14`` as ``ViT-L-14``."""
    return model.replace("/", "-")


def _model_config(open_clip: Any, model: str, weights: Path | None) -> dict[str, Any]:
    """The width of the embedding and the settings of the text half: a folder's own, or open_clip's of that name."""
    if weights is None or not weights.is_dir():
        if model not in open_clip.list_models():  # a name with a scheme would name a place to load from
            raise CheckpointError(
                f"open_clip {open_clip.__version__} does not know the model {brief(model)}; a newer version may "
                "(open_clip.list_models() lists them), or give text_weights a folder with open_clip_config.json"
            )
        return open_clip.get_model_config(model)
    path = weights / "open_clip_config.json"
    if not path.is_file():
        raise CheckpointError(f"{weights} has no open_clip_config.json; give the weights file itself")
    content = plain_fields(read_json(path), str(path))
    config = content.get("model_cfg", content)
    if not isinstance(config, dict) or not whole(1, 2**15)(config.get("embed_dim")):
        raise CheckpointError(f"{path}: 'embed_dim' must be a whole number, got {brief(config)}")
    if isinstance(config.get("text_cfg"), dict) and config["text_cfg"].get("hf_model_name"):
        raise CheckpointError(
            f"{path}: the text tower is the transformers model {brief(config['text_cfg']['hf_model_name'])}; only "
            "open_clip's own text towers are supported"
        )
    return {
        "embed_dim": config["embed_dim"],
        "quick_gelu": config.get("quick_gelu") is True,
        "text_cfg": checked(config.get("text_cfg"), OPEN_CLIP_TEXT, f"{path}: text_cfg"),
    }


def _local_file(weights: Path) -> Path:
    if weights.is_file():
        return weights
    for name in _WEIGHT_FILES:
        if (weights / name).is_file():
            return weights / name
    raise CheckpointError(f"{weights} holds none of {', '.join(_WEIGHT_FILES)}")


def _download(open_clip: Any, model: str, pretrained: str) -> Path:
    row = open_clip.get_pretrained_cfg(model, pretrained)
    if not row:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise CheckpointError(f"open_clip has no weights {brief(pretrained)} for {model!r}; it has: {tags}")
    repository, filename = posixpath.split(row.get("hf_hub") or "")
    source = f"https://huggingface.co/{repository}" if repository else row.get("url")
    message = (
        f"cannot download the text tower {model} ({pretrained}): get open_clip_model.safetensors or "
        f"open_clip_pytorch_model.bin from {source} and pass its path as text_weights=... (--text-weights)"
    )
    try:
        if repository:
            check_hub(repository, [filename] if filename else _WEIGHT_FILES, message)
        return Path(open_clip.download_pretrained(row))
    except (OSError, RuntimeError, HTTPError) as error:
        raise DownloadError(message) from error


def _empty_tower(config: dict[str, Any], quick_gelu: bool, model: str) -> torch.nn.Module:
    if config["text_cfg"].get("hf_model_name"):
        raise CheckpointError(
            f"the text tower of {model!r} is the transformers model {config['text_cfg']['hf_model_name']!r}; "
            "only open_clip's own text towers are supported"
        )
    with refuse_malformed(model), torch.device("meta"):
        module = require("open_clip.model", "text")._build_text_tower(
            config["embed_dim"], config["text_cfg"], quick_gelu=quick_gelu
        )
    if module.attn_mask is not None:
        module.attn_mask = module.build_causal_mask()
    return module


def _is_wanted(name: str) -> bool:
    return name.startswith(("text.", *_CLIP_TEXT_NAMES)) or name in _LOGIT_NAMES


def _tower_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """In older files the text tower's parts lie at the top level, in newer ones under ``text.``"""
    nested = {
        name.removeprefix("text."): value for name, value in tensors.items() if name.startswith("text.")
    }
    return nested or tensors
