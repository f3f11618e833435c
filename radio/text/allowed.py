"""What the configuration of a text tower may say.

A folder of weights is somebody else's: its settings reach another library only if they are named here, and none of them
is a place to load from or code to run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from radio.checkpoints.guard import brief
from radio.errors import CheckpointError

Rule = Callable[[Any], bool]


def whole(least: int, most: int) -> Rule:
    """A whole number in a range."""
    return lambda value: type(value) is int and least <= value <= most


def number(least: float, most: float) -> Rule:
    """A number in a range."""
    return lambda value: type(value) in (int, float) and least <= value <= most


def flag(value: Any) -> bool:
    """True or False."""
    return type(value) is bool


def one_of(*choices: str) -> Rule:
    """One of some words."""
    return lambda value: isinstance(value, str) and value in choices


def nothing(value: Any) -> bool:
    """Only None, False or an empty value: an option that is not supported, but may be written down as unused."""
    return not value


def inside(rules: Mapping[str, Rule]) -> Rule:
    """A dict that keeps rules of its own."""
    return lambda value: (
        isinstance(value, dict) and all(name in rules and rules[name](item) for name, item in value.items())
    )


def checked(settings: Any, rules: Mapping[str, Rule], source: str) -> dict[str, Any]:
    """The settings that say something, if each keeps its rule.

    Raises:
        CheckpointError: One is not known or not allowed; the message names it.
    """
    if not isinstance(settings, dict):
        raise CheckpointError(f"{source} must hold a dict of settings, got {brief(settings)}")
    for name, value in settings.items():
        if value is not None and (name not in rules or not rules[name](value)):
            raise CheckpointError(
                f"{source}: the setting {brief(name)}: {brief(value)} is not one that a text tower may have; refused"
            )
    return {name: value for name, value in settings.items() if value is not None}


_WIDTH, _LAYERS, _LENGTH, _WORDS = whole(1, 2**15), whole(1, 256), whole(1, 2**14), whole(1, 2**22)

OPEN_CLIP_TOKENIZER: Mapping[str, Rule] = {
    "clean": one_of("canonicalize", "lower", "whitespace"),
    "strip_sep_token": flag,
}
"""Options of open_clip's tokenizers."""

TOKENIZER_CLASSES = frozenset(
    name + fast
    for name in (
        *("TokenizersBackend", "PreTrainedTokenizer", "CLIPTokenizer", "GPT2Tokenizer"),
        *("BertTokenizer", "DebertaV2Tokenizer", "GemmaTokenizer", "LlamaTokenizer", "MT5Tokenizer"),
        *("Qwen2Tokenizer", "RobertaTokenizer", "SiglipTokenizer", "T5Tokenizer", "XLMRobertaTokenizer"),
    )
    for fast in ("", "Fast")
)
"""Classes of transformers that read a tokenizer with no other library than `tokenizers` and `sentencepiece`."""

OPEN_CLIP_TEXT: Mapping[str, Rule] = {
    "context_length": _LENGTH,
    "vocab_size": _WORDS,
    "hf_tokenizer_name": lambda value: isinstance(
        value, str
    ),  # compared with open_clip's own when it is used
    "tokenizer_kwargs": inside(OPEN_CLIP_TOKENIZER),
    "tokenizer_mode": one_of("clips"),
    "width": _WIDTH,
    "heads": whole(1, 1024),
    "layers": _LAYERS,
    "mlp_ratio": number(0.01, 64),
    "ls_init_value": number(0, 1e3),
    "embed_cls": flag,
    "pad_id": whole(0, 2**22),
    "eos_id": whole(0, 2**22),
    "no_causal_mask": flag,
    "final_ln_after_pool": flag,
    "pool_type": one_of("argmax", "first", "last", "eos", "none"),
    "proj_bias": flag,
    "proj_type": one_of("linear", "none"),
    "output_tokens": nothing,
    "act_kwargs": inside({"approximate": one_of("tanh", "none")}),
    "norm_kwargs": inside({"eps": number(0, 1)}),
    "block_type": one_of("default", "custom"),
    "qk_norm": flag,
    "scaled_cosine_attn": flag,
    "scale_heads": flag,
    "scale_attn_inner": flag,
    "scale_attn": flag,
    "scale_fc": flag,
    "hf_model_name": nothing,
    "hf_model_pretrained": flag,
    "hf_proj_type": lambda value: isinstance(value, str),
    "hf_pooler_type": lambda value: isinstance(value, str),
}
"""The text half of ``open_clip_config.json``."""

SIGLIP_TEXT: Mapping[str, Rule] = {
    "hidden_size": _WIDTH,
    "intermediate_size": whole(1, 2**18),
    "projection_size": _WIDTH,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": whole(1, 1024),
    "vocab_size": _WORDS,
    "max_position_embeddings": _LENGTH,
    "hidden_act": one_of("gelu", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu"),
    "layer_norm_eps": number(0, 1),
    "attention_dropout": number(0, 1),
}
"""The fields of ``text_config`` that shape a SigLIP text tower; transformers writes many more, which do not."""
