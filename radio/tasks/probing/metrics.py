"""Measures of probes, by torchmetrics (the ``probe`` extra)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from radio.data.dense import IGNORED
from radio.optional import require

Metrics = dict[str, float]


class ClassificationMetrics:
    """Share of images whose class comes first, or among the first five; and the mean of the classes' own shares.

    Args:
        classes: Their names.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        accuracy = require("torchmetrics.classification", "probe").MulticlassAccuracy
        count = len(classes)
        self._metrics = {
            "top1": accuracy(count, average="micro"),
            "top5": accuracy(count, top_k=min(5, count), average="micro"),
            "mean_class_accuracy": accuracy(count, average="macro"),
        }

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add images: scores (B, K), true classes (B,)."""
        for metric in self._metrics.values():
            metric.update(scores.cpu(), labels.cpu())

    def compute(self) -> Metrics:
        """The measures, in [0, 1]."""
        return {name: float(metric.compute()) for name, metric in self._metrics.items()}


class SegmentationMetrics:
    """Mean intersection over union over the classes that occur, and the share of pixels that are right.

    Args:
        classes: Their names.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        found = require("torchmetrics.classification", "probe")
        options: dict[str, Any] = {"num_classes": len(classes), "ignore_index": IGNORED}
        self._classes = tuple(classes)
        self._confusion = found.MulticlassConfusionMatrix(**options)

    def update(self, labels: Tensor, truth: Tensor) -> None:
        """Add an image: predicted and true labels, (H, W) int64 each."""
        self._confusion.update(labels.cpu().flatten(), truth.cpu().flatten())

    def compute(self) -> Metrics:
        """``miou``, ``pixel_accuracy`` and ``iou/CLASS`` for each class that occurs, in [0, 1]."""
        matrix = self._confusion.compute().double()
        right = matrix.diagonal()
        union = matrix.sum(0) + matrix.sum(1) - right
        each = {
            f"iou/{name}": float(r / u)
            for name, r, u in zip(self._classes, right.tolist(), union.tolist(), strict=True)
            if u
        }
        total = float(matrix.sum())
        mean = sum(each.values()) / len(each) if each else 0.0
        return {"miou": mean, "pixel_accuracy": float(right.sum()) / total if total else 0.0, **each}


class DepthMetrics:
    """The usual errors of depth over the pixels where it is known, each image counting by its pixels."""

    def __init__(self) -> None:
        found = require("torchmetrics", "probe")
        self._squared = found.MeanSquaredError(squared=False)
        self._relative = found.MeanAbsolutePercentageError()
        self._close = found.MeanMetric()

    def update(self, depth: Tensor, truth: Tensor) -> None:
        """Add an image: depths (H, W) in meters, the true ones 0 where not known."""
        known = truth.cpu() > 0
        found, right = depth.cpu()[known], truth.cpu()[known]
        if len(right) == 0:
            return
        self._squared.update(found, right)
        self._relative.update(found, right)
        self._close.update((torch.maximum(found / right, right / found) < 1.25).float())

    def compute(self) -> Metrics:
        """``rmse`` in meters, ``abs_rel``, and ``delta1``: the share of pixels that are less than 1.25 times off."""
        return {
            "rmse": float(self._squared.compute()),
            "abs_rel": float(self._relative.compute()),
            "delta1": float(self._close.compute()),
        }
