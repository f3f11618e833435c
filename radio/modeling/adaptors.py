"""Teacher adaptors: from the student's tokens to a teacher's own feature space."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Sequence, ValuesView
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from radio.config import TEXT_TEACHERS, AdaptorConfig
from radio.modeling.heads import AttentionHead, build_head
from radio.modeling.kernels.attention import Attend, attend_all
from radio.modeling.layout import TokenLayout, split
from radio.modeling.outputs import Grid
from radio.modeling.placement import compute_device

TAKEN_NAMES = frozenset({"backbone", *dir(nn.ModuleDict())})
"""What no adaptor can be called: the backbone's own outputs, and what a module has already."""


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
        has_text: Whether the teacher knows words. Only then there are ``tokenizer`` and ``encode_text``.
    """

    has_text = False

    def __init__(self, config: AdaptorConfig) -> None:
        super().__init__()
        self.name = config.name
        self.head_idx = config.head_idx
        self.upsample_factor = config.feature.upsample_factor
        self.teacher = dict(config.teacher)
        self.text: TextEncoder | None = None
        self.head_mlp = build_head(config.summary)
        self.feat_mlp = build_head(config.feature)

    def forward(
        self, class_tokens: Tensor, patches: Tensor, layout: TokenLayout
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Project images in one pass.

        Args:
            class_tokens: This teacher's class token of every image, (N, C).
            patches: Spatial features of the backbone, (B, sum of L, C), group after group.
            layout: Where each group's patches lie.

        Returns:
            Summaries (N, D), and each group's features (B, h·u·w·u, D'), where u is the upsample factor; float32.
        """
        projected = self.project_features(patches, layout.attend_patches)
        groups = zip(split(projected, layout.patch_counts), layout.grids, strict=True)
        return self.project_summary(class_tokens), [self.unfold(*group) for group in groups]

    def fine_grid(self, grid: Grid) -> Grid:
        """Rows and columns of the feature map on a grid of patches."""
        return grid[0] * self.upsample_factor, grid[1] * self.upsample_factor

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

    def unfold(self, features: Tensor, grid: Grid) -> Tensor:
        """Lay the u x u outputs of every patch out on the finer grid: (B, h·w, u·u·D') → (B, h·u·w·u, D')."""
        u = self.upsample_factor
        if u == 1:
            return features
        return rearrange(features, "b (h w) (u1 u2 d) -> b (h u1 w u2) d", h=grid[0], w=grid[1], u1=u, u2=u)

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(next(self.head_mlp.parameters()).dtype)

    def __getattr__(self, name: str) -> Any:
        if name in ("tokenizer", "encode_text"):
            raise AttributeError(
                f"adaptor {self.name!r} (teacher type {self.teacher.get('type')!r}) has no text tower; "
                f"text-aligned adaptors are those of the teacher types {' and '.join(map(repr, TEXT_TEACHERS))}"
            )
        return super().__getattr__(name)


class TextAdaptor(Adaptor):
    """An adaptor whose teacher knows words as well."""

    has_text = True

    @property
    def tokenizer(self) -> Callable[[list[str]], Tensor]:
        """The teacher's tokenizer: ``tokenizer(list of str)`` → token ids (N, length)."""
        return self._text_encoder().tokenizer

    def encode_text(self, tokens: Tensor | Sequence[str], normalize: bool = False) -> Tensor:
        """Text embeddings in this adaptor's summary space.

        Args:
            tokens: Token ids (N, length) from `tokenizer`, or a list of texts.
            normalize: Whether to scale each embedding to length 1.

        Returns:
            (N, D) float32, on this adaptor's device; the text tower moves there.
        """
        return self._text_encoder().encode_text(
            tokens, normalize=normalize, device=compute_device(self.head_mlp)
        )

    def _text_encoder(self) -> TextEncoder:
        if self.text is None:
            raise RuntimeError(
                f"adaptor {self.name!r} was built without its text tower; radio.load_model gives it one"
            )
        return self.text


def build_adaptor(config: AdaptorConfig) -> Adaptor:
    """The adaptor that a description asks for."""
    return TextAdaptor(config) if config.has_text else Adaptor(config)


class AdaptorDict(nn.ModuleDict):
    """The built adaptors by name, in the order in which they were asked for."""

    def __getitem__(self, key: str) -> Adaptor:
        """The adaptor of this name.

        Raises:
            KeyError: It was not built; the message says which were.
        """
        if key not in self._modules:
            built = ", ".join(self) or "none"
            raise KeyError(
                f"no adaptor {key!r} (built: {built}); name it in adaptors= when you load the model"
            )
        return cast(Adaptor, super().__getitem__(key))

    if TYPE_CHECKING:

        def values(self) -> ValuesView[Adaptor]: ...

        def items(self) -> ItemsView[str, Adaptor]: ...
