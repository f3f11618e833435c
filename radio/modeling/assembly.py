"""From final tokens to what a call returns: summary, features in the asked format, every adaptor's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from radio.modeling.adaptors import Adaptor, AdaptorDict
from radio.modeling.layout import TokenLayout, concatenate, split
from radio.modeling.outputs import FeatureFormat, Output, RadioOutput, to_format
from radio.modeling.protocol import ReadOut


@dataclass(frozen=True)
class SummaryRule:
    """Where summaries lie in tokens (B, T + L, C).

    Attributes:
        num_prefix: Number T of prefix tokens.
        pool: ``"token"`` for class tokens, ``"mean"`` for the mean of the patches.
        idxs: The class tokens that make the summary.
    """

    num_prefix: int
    pool: Literal["token", "mean"]
    idxs: tuple[int, ...]

    def summary(self, tokens: Tensor) -> Tensor:
        """The summaries of images, (B, D)."""
        if self.pool == "mean":
            return tokens[:, self.num_prefix :].mean(dim=1)
        return torch.cat([tokens[:, i] for i in self.idxs], dim=1)

    def class_token(self, tokens: Tensor, adaptor: Adaptor) -> Tensor:
        """What an adaptor's summary head reads, (B, C)."""
        return self.summary(tokens) if self.pool == "mean" else tokens[:, adaptor.head_idx]


def assemble_outputs(
    read_outs: Sequence[ReadOut],
    rule: SummaryRule,
    normalizer: nn.Module | None,
    adaptors: AdaptorDict | None,
    feature_fmt: FeatureFormat,
) -> list[Any]:
    """Each group's result from the read-outs of a pass; of several, a dict by name.

    Normalizer and adaptors work on tokens of the image's patches only.
    """
    per_name = {
        read_out.name: _assemble(
            read_out.tokens,
            read_out.layout,
            rule,
            normalizer if read_out.on_grid else None,
            adaptors if read_out.on_grid else None,
            feature_fmt,
        )
        for read_out in read_outs
    }
    if len(per_name) == 1:
        return next(iter(per_name.values()))
    return [dict(zip(per_name, outputs, strict=True)) for outputs in zip(*per_name.values(), strict=True)]


def _assemble(
    tokens: Tensor,
    layout: TokenLayout,
    rule: SummaryRule,
    normalizer: nn.Module | None,
    adaptors: AdaptorDict | None,
    feature_fmt: FeatureFormat,
) -> list[Output]:
    """Each group's result from the tokens of one read-out; heads run over all images at once."""
    images = layout.images(tokens)
    patches = layout.patches(tokens)
    if normalizer is not None:
        patches = normalizer(patches)
    features = split(patches, layout.patch_counts)
    backbone = [
        RadioOutput(rule.summary(image), to_format(some, grid, feature_fmt))
        for image, some, grid in zip(images, features, layout.grids, strict=True)
    ]
    if not adaptors:
        return list(backbone)
    outputs = [{"backbone": output} for output in backbone]
    for name, adaptor in adaptors.items():
        class_tokens = concatenate([rule.class_token(image, adaptor) for image in images], dim=0)
        summaries, projected = adaptor(class_tokens, patches, layout)
        batches = split(summaries, [image.shape[0] for image in images], dim=0)
        for output, summary, some, grid in zip(outputs, batches, projected, layout.grids, strict=True):
            output[name] = RadioOutput(summary, to_format(some, adaptor.fine_grid(grid), feature_fmt))
    return list(outputs)


def assemble_layer(
    tokens: Tensor, layout: TokenLayout, rule: SummaryRule, feature_fmt: FeatureFormat, with_summary: bool
) -> Sequence[Tensor | RadioOutput]:
    """Each group's part of the output of a block: its features, or with its summary."""
    outputs: list[Tensor | RadioOutput] = []
    for image, grid in zip(layout.images(tokens), layout.grids, strict=True):
        features = to_format(image[:, rule.num_prefix :], grid, feature_fmt)
        outputs.append(RadioOutput(rule.summary(image), features) if with_summary else features)
    return outputs
