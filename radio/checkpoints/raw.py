"""What both file layouts are turned into first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from radio.config import RadioConfig


@dataclass(frozen=True)
class RawCheckpoint:
    """The content of a file before it is understood.

    Attributes:
        args: The training arguments that describe the model, as the file gives them.
        tensors: The tensors under this library's names (``model.…``, ``adaptors.clip.head_mlp.…``).
        repository: The other fields of a Hub repository's ``config.json``; empty for a torch file.
        stated: The whole description, where the file holds one.
    """

    args: dict[str, Any]
    tensors: dict[str, Tensor]
    repository: dict[str, Any]
    stated: RadioConfig | None = None
