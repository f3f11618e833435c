"""A text tower in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

Tokenizer = Callable[[list[str]], Tensor]


@dataclass
class TextTower:
    """The text half of a teacher.

    Attributes:
        module: The network, in float32 and eval mode.
        embed: Token numbers ``(N, length)`` to embeddings ``(N, D)``, not normalized.
        logit_scale: What the teacher multiplies cosine similarities by, or ``None`` if its file does not say.
        logit_bias: What it adds to them afterwards; 0 for CLIP models, which have none.
    """

    module: nn.Module
    embed: Callable[[Tensor], Tensor]
    logit_scale: float | None
    logit_bias: float
