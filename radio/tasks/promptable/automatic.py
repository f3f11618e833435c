"""Masks of everything: a grid of points, and of what they give the masks that are sure, stable and not the same.

Source: SAM (arXiv 2304.02643), section 5 "Segment anything" and appendix B, without crops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from radio.optional import require
from radio.tasks.pixels import maps_at_once
from radio.tasks.promptable.canvas import Canvas, box_of
from radio.tasks.promptable.decoders import MaskDecoder
from radio.tasks.promptable.masks import Masks
from radio.tasks.promptable.prompts import Prompt, batches


@dataclass(frozen=True)
class AutomaticOptions:
    """Which masks are kept.

    Attributes:
        points_per_side: The grid has so many points in each direction.
        least_score: Masks of a lower predicted IoU are left out.
        least_stability: So are masks of a lower stability: the IoU of what they are at thresholds one logit higher and
            one lower.
        most_overlap: Of masks whose boxes overlap more (IoU), the one of the highest score is kept.
        least_area: Masks of fewer pixels are left out.

    Raises:
        ValueError: There is no point, or no pixel.
    """

    points_per_side: int = 32
    least_score: float = 0.88
    least_stability: float = 0.95
    most_overlap: float = 0.7
    least_area: int = 1

    def __post_init__(self) -> None:
        if self.points_per_side < 1 or self.least_area < 1:
            raise ValueError(
                f"points_per_side and least_area must be at least 1, got {self.points_per_side} and {self.least_area}"
            )


_OFFSET = 1.0
"""In logits; of the two thresholds that stability compares."""


def grid_of_points(canvas: Canvas, points_per_side: int) -> list[Prompt]:
    """A point in the middle of every cell, in reading order."""
    height, width = canvas.image_size
    centers = [(i + 0.5) / points_per_side for i in range(points_per_side)]
    return [Prompt(points=[(x * width, y * height)]) for y in centers for x in centers]


def stability(logits: Tensor, threshold: float) -> Tensor:
    """Of logits (N, H, W): the IoU of the masks at a threshold one higher and one lower, (N,); 0 for nothing."""
    inner = (logits > threshold + _OFFSET).flatten(1).sum(dim=1)
    outer = (logits > threshold - _OFFSET).flatten(1).sum(dim=1)
    return inner / outer.clamp(min=1)


def mask_everything(
    decoder: MaskDecoder,
    embedding: Any,
    canvas: Canvas,
    options: AutomaticOptions,
    batch_size: int,
    device: torch.device,
) -> Masks:
    """See `PromptableSegmenter.everything`."""
    nms = require("torchvision.ops", "sam").nms
    prompts = grid_of_points(canvas, options.points_per_side)
    kept_logits, kept_scores, kept_boxes, kept_numbers = [], [], [], []
    for batch in batches(prompts, canvas, batch_size, device):
        found, scores = decoder.decode(embedding, batch.points, batch.labels, None, several=True)
        logits, score = found.flatten(0, 1), scores.flatten()
        number = torch.tensor(batch.numbers, device=device).repeat_interleave(found.shape[1])
        sure = score > options.least_score
        logits, score, number = logits[sure], score[sure], number[sure]
        # The small logits are kept and not the masks, which can be many and large.
        for part in torch.arange(len(logits), device=device).split(maps_at_once(*canvas.image_size)):
            full = canvas.to_image(logits[part])
            mask = full > decoder.threshold
            keep = stability(full, decoder.threshold) >= options.least_stability
            keep &= mask.flatten(1).sum(dim=1) >= options.least_area
            kept_logits.append(logits[part][keep])
            kept_scores.append(score[part][keep])
            kept_boxes.append(box_of(mask[keep]))
            kept_numbers.append(number[part][keep])
    logits, scores, boxes = torch.cat(kept_logits), torch.cat(kept_scores), torch.cat(kept_boxes)
    chosen = nms(boxes.float(), scores, options.most_overlap)
    masks = torch.zeros(len(chosen), *canvas.image_size, dtype=torch.bool, device=device)
    for i, which in enumerate(chosen.tolist()):
        masks[i] = canvas.to_image(logits[which][None])[0] > decoder.threshold
    return Masks(masks, scores[chosen], torch.cat(kept_numbers)[chosen])
