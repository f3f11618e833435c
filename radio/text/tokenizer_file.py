"""Tokenizers as the tokenizers library writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from radio.checkpoints.guard import short_reason
from radio.errors import CheckpointError
from radio.optional import require

TOKENIZER = "tokenizer.json"


def read_tokenizer(path: Path, extra: str) -> Any:
    """A `tokenizers.Tokenizer`; it runs no code of the file.

    Args:
        path: A ``tokenizer.json``.
        extra: The extra of this library that brings tokenizers where it is wanted, for the message.

    Raises:
        MissingExtraError: tokenizers is not installed.
        CheckpointError: The file holds no tokenizer.
    """
    tokenizers = require("tokenizers", extra)
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise CheckpointError(f"{path} is no tokenizer that can be read ({short_reason(error)})") from error
