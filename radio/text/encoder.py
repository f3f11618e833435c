"""One small interface to every text tower, which loads the tower when it is first needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radio.config import TEXT_TEACHERS
from radio.errors import CheckpointError
from radio.text.tower import TextTower, Tokenizer


def text_encoder_for(teacher: Mapping[str, Any], weights: str | Path | None = None) -> LazyTextEncoder:
    """The text tower of a teacher. Nothing is imported, downloaded or read before it is used.

    Args:
        teacher: The teacher's entry of the checkpoint: ``type`` (``"open_clip"`` or ``"siglip2"``), ``model``
            and, for open_clip, ``pretrained``.
        weights: Local weights instead of a download: an open_clip checkpoint (``.safetensors``, ``.pt``,
            ``.bin``), a folder in open_clip's layout, or, for SigLIP 2, a folder in transformers' layout.

    Raises:
        ValueError: The teacher is of a type without text. (A tower that nobody knows is an error when it is used,
            so that the vision half of such a model can be used all the same.)
        CheckpointError: ``weights`` does not exist.
    """
    kind = teacher.get("type")
    name = teacher.get("name", "?")
    if kind not in TEXT_TEACHERS:
        raise ValueError(
            f"teacher {name!r} is of type {kind!r}, which has no text tower; with text: {', '.join(TEXT_TEACHERS)}"
        )
    path = None if weights is None else Path(weights).expanduser()
    if path is not None and not path.exists():
        raise CheckpointError(f"text_weights of adaptor {name!r}: {path} does not exist")
    model, pretrained = (str(teacher.get(field) or "") for field in ("model", "pretrained"))
    return LazyTextEncoder(kind, model, pretrained, path)


class LazyTextEncoder:
    """A teacher's text tower; its tokenizer and its weights are loaded when they are first used.

    The tower runs on the device of the last call that named one (the CPU before that), in float32, without
    gradients.
    """

    def __init__(self, kind: str, model: str, pretrained: str = "", weights: Path | None = None) -> None:
        self.kind = kind
        self.model = model
        self.pretrained = pretrained
        self.weights = weights

    def __repr__(self) -> str:
        source = self.weights or self.pretrained or "published weights"
        return f"{type(self).__name__}({self.kind}, {self.model}, {source})"

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles carry: which tower it is. They load it again when they use it."""
        return {name: vars(self)[name] for name in ("kind", "model", "pretrained", "weights")}

    @property
    def identity(self) -> str:
        """A hash of the tower's kind, model and tag; with local weights, of its files' sizes and times."""
        description: list[Any] = [self.kind, self.model, self.pretrained]
        if self.weights is not None:
            files = sorted(self.weights.iterdir()) if self.weights.is_dir() else [self.weights]
            stats = [(path, path.stat()) for path in files if path.is_file()]
            description.append(
                [(str(path.resolve()), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
            )
        return hashlib.sha256(json.dumps(description).encode()).hexdigest()

    @property
    def logit_scale(self) -> float | None:
        """What the teacher multiplies cosine similarities by, if its weights say so. Loads the tower."""
        return self._tower.logit_scale

    @property
    def logit_bias(self) -> float:
        """What the teacher adds to the scaled similarities; 0 if it has no bias. Loads the tower."""
        return self._tower.logit_bias

    def tokenizer(self, texts: Sequence[str]) -> Tensor:
        """Texts to token numbers.

        Args:
            texts: A list of strings, or one string.

        Returns:
            ``(N, length)`` int64 on the CPU; ``length`` is the tower's context length (77 for CLIP, 64 for
            SigLIP).
        """
        return self._tokenize([texts] if isinstance(texts, str) else list(texts))

    def encode_text(
        self,
        tokens: Tensor | Sequence[str],
        normalize: bool = False,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Embed texts in the space of the teacher's summaries.

        Args:
            tokens: Token numbers ``(N, length)`` as ``tokenizer`` gives them, or the texts themselves.
            normalize: Whether to scale every embedding to length 1.
            device: Where the tower runs from now on; by default where it is.

        Returns:
            ``(N, D)`` float32, on the tower's device.

        Raises:
            MissingExtraError: open_clip or transformers is not installed.
            ValueError: Nobody knows this tower; the message lists those that are known.
            CheckpointError: The weights are not those of this tower.
            DownloadError: The weights are not here and cannot be downloaded.
        """
        if not isinstance(tokens, Tensor):
            tokens = self.tokenizer(tokens)
        if tokens.ndim != 2 or tokens.is_floating_point():
            raise ValueError(
                f"expected int64 token numbers (N, length), got {tokens.dtype} {tuple(tokens.shape)}"
            )
        if device is not None:
            self._tower.module.to(device)
        where = next(self._tower.module.parameters()).device
        with torch.no_grad():
            embedding = self._tower.embed(tokens.to(where)).float()
        return torch.nn.functional.normalize(embedding, dim=-1) if normalize else embedding

    @cached_property
    def _tokenize(self) -> Tokenizer:
        from radio.text import open_clip_tower, siglip2_tower

        if self.kind == "siglip2":
            return siglip2_tower.load_tokenizer(self.model, self.weights)
        return open_clip_tower.load_tokenizer(self.model, self.weights)

    @cached_property
    def _tower(self) -> TextTower:
        from radio.text import open_clip_tower, siglip2_tower

        if self.kind == "siglip2":
            return siglip2_tower.load_tower(self.model, self.weights)
        return open_clip_tower.load_tower(self.model, self.pretrained, self.weights)
