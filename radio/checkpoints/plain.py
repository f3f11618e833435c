"""What a file says about itself as plain values: bounded in depth, number and length."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from radio.checkpoints.guard import brief
from radio.errors import CheckpointError

_DEEPEST = 24
_MOST_VALUES = 100_000
_MOST_CHARACTERS = 4 * 2**20
_LONGEST_NUMBER = 128
_LONGEST_NAME = 128


def plain_fields(value: Any, source: str) -> dict[str, Any]:
    """The fields of a dict or Namespace as dicts, lists, strings, numbers, booleans and None.

    A value that occurs in many places counts wherever it occurs, so that nothing that is done with the result can take
    long. What is none of these becomes the name of its type.

    Raises:
        CheckpointError: There are too many values, they lie too deep, or they are too long.
    """
    fields = _Copy(source).of(value, 0)
    if not isinstance(fields, dict):
        raise CheckpointError(
            f"{source}: a {type(value).__name__} stands where a dict of settings is expected"
        )
    return fields


class _Copy:
    """One copy, with what is left of its budget."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._values = _MOST_VALUES
        self._characters = _MOST_CHARACTERS

    def of(self, value: Any, depth: int) -> Any:
        self._values -= 1
        if self._values < 0 or depth > _DEEPEST:
            raise CheckpointError(
                f"{self._source} describes itself with more than {_MOST_VALUES} values, or nests them deeper than "
                f"{_DEEPEST}, which no RADIO checkpoint does; refused"
            )
        if value is None or type(value) in (bool, float):
            return value
        if isinstance(value, float):
            return float(value)
        if isinstance(value, int):
            return self._number(value)
        if isinstance(value, np.generic):
            return self.of(value.item(), depth + 1)
        if isinstance(value, (str, PurePath, torch.dtype, torch.device)):
            return self._text(str(value))
        if isinstance(value, Namespace):
            value = vars(value)
        if isinstance(value, Mapping):
            return {self._text(str(key)): self.of(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple, set)):
            return [self.of(item, depth + 1) for item in value]
        return f"<{type(value).__name__}>"

    def _number(self, value: int) -> int:
        if value.bit_length() > _LONGEST_NUMBER:
            raise CheckpointError(f"{self._source} holds {brief(value)}, larger than any setting; refused")
        return int(value)

    def _text(self, value: str) -> str:
        self._characters -= len(value)
        if self._characters < 0:
            raise CheckpointError(
                f"{self._source} describes itself with more than {_MOST_CHARACTERS} characters; refused"
            )
        return value


def short_name(value: Any, what: str, source: str) -> str:
    """A name that people will read and type.

    Raises:
        CheckpointError: It is no text, or too long, or cannot be printed.
    """
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or not value.isprintable():
        raise CheckpointError(
            f"{source}: {what} must be a printable name of at most {_LONGEST_NAME} characters, got {brief(value)}"
        )
    return value
