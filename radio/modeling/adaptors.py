"""Teacher adaptors: from the student's tokens to a teacher's own feature space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from radio.config import AdaptorConfig
from radio.modeling.heads import AttentionHead, build_head
from radio.modeling.kernels.attention import Attend, attend_all
from radio.modeling.outputs import RadioOutput


class TextEncoder(Protocol):
    """A teacher's text tower, as an adaptor uses it."""

    def tokenizer(self, texts: Sequence[str]) -> Tensor:
        """Token ids (N, length) of N texts."""
        ...

    def encode_text(
        self, tokens: Tensor | Sequence[str], normalize: bool = False, device: torch.device | None = None
    ) -> Tensor:
        """Embeddings (N, D) of tokens, or of texts directly, computed on the given device."""
        ...

    @property
    def identity(self) -> str:
        """A string that changes whenever the embeddings would."""
        ...

    @property
    def logit_scale(self) -> float | None:
        """What the teacher multiplies cosine similarities by, if known."""
        ...


class Adaptor(nn.Module):
    """Maps a class token and the spatial features into one teacher's space.

    Attributes:
        name: The teacher's name.
        head_idx: Number of the class token that the summary head reads.
        head_mlp: The summary head.
        feat_mlp: The feature head.
        upsample_factor: The feature map is this much finer than the patch grid along each side.
        teacher: The teacher's entry of the checkpoint.
        text: The teacher's text tower, or None; loaded when it is first used.
    """

    def __init__(self, config: AdaptorConfig) -> None:
        super().__init__()
        self.name = config.name
        self.head_idx = config.head_idx
        self.upsample_factor = config.feature.upsample_factor
        self.teacher = dict(config.teacher)
        self.text: TextEncoder | None = None
        self.head_mlp = build_head(config.summary)
        self.feat_mlp = build_head(config.feature)

    def forward(self, summary: Tensor, features: Tensor, grid: tuple[int, int]) -> RadioOutput:
        """Project one batch of images of the same size.

        Args:
            summary: This teacher's class token, (B, C).
            features: Spatial features of the backbone, (B, h·w, C).
            grid: (h, w).

        Returns:
            Summary (B, D) and features (B, h·u·w·u, D'), both float32, where u is the upsample factor.
        """
        return RadioOutput(self.project_summary(summary), self.unfold(self.project_features(features), grid))

    def project_summary(self, tokens: Tensor) -> Tensor:
        """The summary head on tokens (..., C); float32.

        On patches instead of the class token it gives dense features in the teacher's summary space.
        """
        return self.head_mlp(self._cast(tokens)).float()

    def project_features(self, features: Tensor, attend: Attend = attend_all) -> Tensor:
        """The feature head on patches (B, L, C); float32, (B, L, u·u·D') before `unfold`.

        `attend` says which patches see which, for heads that have attention.
        """
        features = self._cast(features)
        if isinstance(self.feat_mlp, AttentionHead):
            return self.feat_mlp(features, attend).float()
        return self.feat_mlp(features).float()

    def unfold(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """Lay the u x u outputs of every patch out on the finer grid: (B, h·w, u·u·D') → (B, h·u·w·u, D')."""
        u = self.upsample_factor
        if u == 1:
            return features
        h, w = grid
        features = features.reshape(features.shape[0], h, w, u, u, -1).transpose(2, 3)
        return features.reshape(features.shape[0], h * u * w * u, -1)

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(next(self.head_mlp.parameters()).dtype)

    @property
    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        """The teacher's tokenizer: ``tokenizer(list of str)`` → token ids (N, length).

        Raises:
            AttributeError: This teacher has no text tower.
        """
        return self._text_encoder().tokenizer

    def encode_text(self, tokens: Tensor | Sequence[str], normalize: bool = False) -> Tensor:
        """Text embeddings in this adaptor's summary space.

        Args:
            tokens: Token ids (N, length) from `tokenizer`, or a list of texts.
            normalize: Whether to scale each embedding to length 1.

        Returns:
            (N, D) float32, on this adaptor's device; the text tower moves there.

        Raises:
            AttributeError: This teacher has no text tower.
        """
        device = next(self.head_mlp.parameters()).device
        return self._text_encoder().encode_text(tokens, normalize=normalize, device=device)

    def _text_encoder(self) -> TextEncoder:
        if self.text is None:
            raise AttributeError(
                f"adaptor {self.name!r} (teacher type {self.teacher.get('type')!r}) has no text tower; "
                "text-aligned adaptors are those of the teacher types 'open_clip' and 'siglip2'"
            )
        return self.text
