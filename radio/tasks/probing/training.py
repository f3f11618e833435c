"""From labeled images to a trained probe."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from radio.data.batches import Progress
from radio.images import SizeSpec
from radio.images.sizing import size_text
from radio.model import RADIOModel
from radio.tasks.linear import fit_linear
from radio.tasks.probing.config import (
    DENSE,
    TASKS,
    ProbeConfig,
    Task,
    describe_backbone,
    refuse_crop,
)
from radio.tasks.probing.features import DenseData, LabeledData, read_features, read_target
from radio.tasks.probing.fitting import (
    FitOptions,
    Loss,
    depth_loss,
    fit_dense,
    resize_target,
    segmentation_loss,
)
from radio.tasks.probing.heads import DepthHead, NeighborsClassifier, SegmentationHead
from radio.tasks.probing.kinds import KINDS
from radio.tasks.probing.probes import ClassificationProbe, DepthProbe, SegmentationProbe
from radio.tasks.zero_shot import get_adaptor

_NOT_SETTINGS = ("self", "channels", "num_classes", "rows")
_DECAY = 1e-3


@overload
def train_probe(
    task: Literal["linear", "knn"],
    model: RADIOModel,
    data: LabeledData,
    features: str | os.PathLike[str],
    size: SizeSpec = None,
    adaptor: str | None = None,
    fit: FitOptions | None = None,
    batch_size: int = 16,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> ClassificationProbe: ...


@overload
def train_probe(
    task: Literal["segmentation"],
    model: RADIOModel,
    data: DenseData,
    features: str | os.PathLike[str],
    size: SizeSpec = None,
    adaptor: str | None = None,
    fit: FitOptions | None = None,
    batch_size: int = 16,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> SegmentationProbe: ...


@overload
def train_probe(
    task: Literal["depth"],
    model: RADIOModel,
    data: DenseData,
    features: str | os.PathLike[str],
    size: SizeSpec = None,
    adaptor: str | None = None,
    fit: FitOptions | None = None,
    batch_size: int = 16,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> DepthProbe: ...


@overload
def train_probe(
    task: str,
    model: RADIOModel,
    data: Any,
    features: str | os.PathLike[str],
    size: SizeSpec = None,
    adaptor: str | None = None,
    fit: FitOptions | None = None,
    batch_size: int = 16,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Any: ...


def train_probe(
    task: str,
    model: RADIOModel,
    data: Any,
    features: str | os.PathLike[str],
    size: SizeSpec = None,
    adaptor: str | None = None,
    fit: FitOptions | None = None,
    batch_size: int = 16,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Any:
    """Train a head on the frozen features of labeled images.

    Args:
        task: ``linear``, ``knn``, ``segmentation`` or ``depth``.
        model: The model; it is not changed.
        data: For ``linear`` and ``knn`` an `ImageFolder` or `HubImages` of `radio.data.labeled`; else a `MaskFolder`,
            `DepthFolder`, `HubMasks` or `HubDepths` of `radio.data.dense`; or anything with the same attributes.
        features: A folder where features are kept, for this call and later ones on the same images.
        size: How large images become, as in `radio.images.target_size`; part of the probe.
        adaptor: Use this teacher's features in place of the backbone's.
        fit: How ``segmentation`` and ``depth`` are trained.
        batch_size: Images a pass of the model.
        skip_unreadable: Leave out images that cannot be read; by default the first one is an error.
        progress: Shows the progress.
        settings: ``decay`` (linear); ``k``, ``temperature`` (knn); ``width``, ``bins``, ``min_depth``, ``max_depth``
            (depth; by default the range of the training data).

    Returns:
        A `ClassificationProbe`, `SegmentationProbe` or `DepthProbe`.

    Raises:
        ValueError: An unknown task or setting, too few classes or images, an adaptor that was not loaded.
        ImageError: An image or a mask cannot be read.
        MissingExtraError: The extra ``probe`` is not installed.
    """
    task = _checked_task(task, size, settings)
    if adaptor is not None:
        get_adaptor(model, adaptor)
    classes = tuple(getattr(data, "classes", ())) if task != "depth" else ()
    if task != "depth" and len(classes) < 2:
        raise ValueError(f"a probe needs at least two classes, got {', '.join(classes) or 'none'}")
    cached, rows = read_features(
        model, data, features, size, task in DENSE, batch_size, skip_unreadable, progress
    )
    head: nn.Module
    if task in DENSE:
        options = fit or FitOptions()
        head, notes = _fit_dense(task, model, cached, rows, data, adaptor, options, settings, progress)
        channels = cached.spatial(rows[0], adaptor or "features").shape[0]
    else:
        vectors = cached.vectors(adaptor or "summary")[rows].to(model.device)
        labels = torch.tensor(data.labels)[rows].to(model.device)
        head, notes = _fit_classifier(task, vectors, labels, len(classes), settings)
        channels = vectors.shape[1]
    config = ProbeConfig(
        task=task,
        channels=channels,
        classes=classes,
        adaptor=adaptor,
        size=size_text(size),
        model=describe_backbone(model),
        source=model.config.version or str(model.checkpoint_path.resolve()),
        head=_head_settings(task, head),
        training={"images": len(rows), **notes},
    )
    return KINDS[task][0](config, head, model)


def _checked_task(name: str, size: SizeSpec, settings: Mapping[str, Any]) -> Task:
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; there are {', '.join(TASKS)}")
    task: Task = name
    if task in DENSE:
        refuse_crop(size)
    allowed = ["decay"] if task == "linear" else _setting_names(task)
    unknown = [name for name in settings if name not in allowed]
    if unknown:
        raise ValueError(
            f"a probe for {task} has no setting {unknown[0]!r}; it has: {', '.join(allowed) or 'none'}"
        )
    return task


def _setting_names(task: Task) -> list[str]:
    return [name for name in inspect.signature(KINDS[task][1]).parameters if name not in _NOT_SETTINGS]


def _fit_classifier(
    task: Task, vectors: Tensor, labels: Tensor, num_classes: int, settings: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    if task == "linear":
        decay = settings.get("decay", _DECAY)
        return fit_linear(vectors, labels, num_classes, decay), {"decay": decay}
    head = NeighborsClassifier(vectors.shape[1], num_classes, len(vectors), **settings).to(vectors.device)
    head.vectors.copy_(torch.nn.functional.normalize(vectors, dim=1))
    head.labels.copy_(labels)
    return head, {}


def _fit_dense(
    task: Task,
    model: RADIOModel,
    cached: Any,
    rows: list[int],
    data: Any,
    adaptor: str | None,
    options: FitOptions,
    settings: Mapping[str, Any],
    progress: Progress | None,
) -> tuple[nn.Module, dict[str, Any]]:
    name, patch = adaptor or "features", model.patch_size
    channels = cached.spatial(rows[0], name).shape[0]

    def target(row: int) -> Tensor:
        height, width = cached.grids[row]
        return resize_target(
            read_target(data, row, cached.image_sizes[row], cached.ids[row]), height * patch, width * patch
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        head: nn.Module
        loss: Loss
        if task == "segmentation":
            head, loss = SegmentationHead(channels, len(data.classes)), segmentation_loss
        else:
            known = {"min_depth", "max_depth"} <= settings.keys()
            limits = {} if known else _depth_range(data, rows)
            head, loss = DepthHead(channels, **{**limits, **settings}), depth_loss
    head = head.to(model.device)
    losses = fit_dense(
        head,
        lambda row: cached.spatial(row, name),
        target,
        cached.grids,
        rows,
        loss,
        options,
        progress,
    )
    last = losses[-max(1, len(losses) // 20) :]
    return head, {**vars(options), "first_loss": losses[0], "last_loss": sum(last) / len(last)}


def _depth_range(data: Any, rows: list[int]) -> dict[str, float]:
    """The smallest and the largest depth that is known, with a twentieth of room on either side."""
    lowest, highest = float("inf"), 0.0
    for row in rows:
        depth = data.target(row)
        depth = depth[depth > 0]
        if len(depth):
            lowest, highest = min(lowest, float(depth.min())), max(highest, float(depth.max()))
    if highest == 0:
        raise ValueError("no depth is known in any of the images")
    return {"min_depth": lowest / 1.05, "max_depth": highest * 1.05}


def _head_settings(task: Task, head: nn.Module) -> dict[str, Any]:
    if isinstance(head, NeighborsClassifier):
        return {"rows": len(head.vectors), "k": head.k, "temperature": head.temperature}
    if isinstance(head, DepthHead):
        return {
            "min_depth": float(head.bins[0]),
            "max_depth": float(head.bins[-1]),
            "width": head.width,
            "bins": len(head.bins),
        }
    return {}
