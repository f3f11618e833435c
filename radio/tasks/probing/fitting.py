"""Training of heads on maps of features that are in files: batches of one size, losses, the loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from radio.data.batches import Progress
from radio.data.dense import IGNORED
from radio.tasks.pixels import enlarge, maps_at_once
from radio.wording import counted

ReadMap = Callable[[int], Tensor]
"""Spatial features (C, h, w) of a row."""
ReadTarget = Callable[[int], Tensor]
"""Labels or depths (H, W) of a row, at the size at which its image was run."""
Loss = Callable[[Tensor, Tensor], Tensor]
"""Of a prediction (B, K, h, w), which is enlarged, and targets (B, H, W)."""

_WARM_UP = 0.05


@dataclass(frozen=True)
class FitOptions:
    """How the heads on spatial features are trained: AdamW, a linear warm-up, and a linear decay to zero.

    Attributes:
        steps: Number of steps.
        batch_size: Images a step; images of different sizes are not mixed.
        learning_rate: The highest one.
        weight_decay: Of AdamW.
        seed: Of the weights and of the order of images. One seed gives one head, on one machine.

    Raises:
        ValueError: A number is out of its range.
    """

    steps: int = 2000
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(
                f"steps and batch_size must be at least 1, got {self.steps} and {self.batch_size}"
            )
        if not self.learning_rate > 0 or self.weight_decay < 0:
            raise ValueError(
                "learning_rate must be positive and weight_decay not negative, got "
                f"{self.learning_rate} and {self.weight_decay}"
            )


def fit_dense(
    head: nn.Module,
    read_map: ReadMap,
    read_target: ReadTarget,
    grids: Sequence[tuple[int, int]],
    rows: Sequence[int],
    loss: Loss,
    options: FitOptions,
    progress: Progress | None = None,
) -> list[float]:
    """Train a head in place, on the device where it is; it is in evaluation mode afterwards.

    Args:
        head: Maps (B, C, h, w) to (B, K, h', w').
        grids: Patches down and across, by row; only rows of one grid share a batch.
        rows: What is trained on.
        loss: Compares the head's output with the targets.
        progress: Shows the progress over the steps.

    Returns:
        The loss of every step.

    Raises:
        ValueError: There are no rows, or the loss is not a number.
    """
    if not rows:
        raise ValueError("there are no images to train on")
    device = next(head.parameters()).device
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, options.steps))
    batches = islice(_batches(grids, rows, options.batch_size, options.seed), options.steps)
    losses: list[float] = []
    head.train()
    with torch.enable_grad():
        for batch in batches if progress is None else progress(batches, options.steps, "training"):
            maps = torch.stack([read_map(row) for row in batch]).to(device)
            targets = torch.stack([read_target(row) for row in batch]).to(device)
            value = loss(head(maps), targets)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            losses.append(value.item())
            if not math.isfinite(losses[-1]):
                raise ValueError(
                    f"the loss is not a number after {counted(len(losses), 'step')}; give a smaller learning rate"
                )
    head.eval()
    return losses


def resize_target(target: Tensor, height: int, width: int) -> Tensor:
    """Labels or depths (H, W) at another size: each pixel takes the value of the nearest one."""
    if tuple(target.shape) == (height, width):
        return target
    found = F.interpolate(target[None, None].double(), size=(height, width), mode="nearest-exact")
    return found[0, 0].to(target.dtype)


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labeled pixels; 0 where none is.

    Many labels at the size of an image take gigabytes. So a few images are enlarged at a time, and again for the
    gradients.

    Args:
        logits: (B, K, h, w), enlarged to the size of the labels.
        labels: (B, H, W) int64, with `radio.data.dense.IGNORED` for none.
    """
    count = max(maps_at_once(*labels.shape[1:]) // logits.shape[1], 1)
    if count >= len(logits):
        total = _cross_entropy(logits, labels)
    else:
        parts = zip(logits.split(count), labels.split(count), strict=True)
        sums = [checkpoint(_cross_entropy, *part, use_reentrant=False) for part in parts]
        total = torch.stack(sums).sum()
    return total / (labels != IGNORED).sum().clamp(min=1)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    full = enlarge(logits, *labels.shape[1:])
    return F.cross_entropy(full, labels, ignore_index=IGNORED, reduction="sum")


def depth_loss(depth: Tensor, truth: Tensor) -> Tensor:
    """Scale-invariant error of the logarithms, and half of the error of their differences between neighbors.

    Source: Eigen et al. 2014 (arXiv 1406.2283), with the weights of AdaBins (arXiv 2011.14141): 10 times the square
    root of the variance of the errors and 0.15 times their squared mean.

    Args:
        depth: (B, 1, h, w) in meters, enlarged to the size of the truth.
        truth: (B, H, W) in meters, 0 where it is not known.
    """
    known = truth > 0
    depth = enlarge(depth, *truth.shape[1:])
    if not known.any():
        return depth.sum() * 0
    error = torch.where(known, depth[:, 0].log() - truth.clamp(min=1e-6).log(), 0.0)
    count = known.sum()
    mean = error.sum() / count
    variance = torch.where(known, (error - mean).square(), 0.0).sum() / count
    slopes = error.new_zeros(())
    for axis in (1, 2):
        both = known.narrow(axis, 1, known.shape[axis] - 1) & known.narrow(axis, 0, known.shape[axis] - 1)
        slopes = slopes + torch.where(both, error.diff(dim=axis).abs(), 0.0).sum() / both.sum().clamp(min=1)
    return 10 * (variance + 0.15 * mean.square() + 1e-8).sqrt() + 0.5 * slopes


def _rate(step: int, steps: int) -> float:
    """Share of the highest learning rate at a step."""
    warm_up = max(1, round(steps * _WARM_UP))
    return min((step + 1) / warm_up, (steps - step) / steps)


def _batches(
    grids: Sequence[tuple[int, int]], rows: Sequence[int], size: int, seed: int
) -> Iterator[list[int]]:
    """Batches without end: every row once in each round, in a new order, those of one grid together."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        waiting: dict[tuple[int, int], list[int]] = {}
        for place in torch.randperm(len(rows), generator=generator).tolist():
            row = rows[place]
            group = waiting.setdefault(grids[row], [])
            group.append(row)
            if len(group) == size:
                yield waiting.pop(grids[row])
        yield from waiting.values()
