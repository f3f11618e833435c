"""Open-vocabulary segmentation, measured: mean intersection over union on a data set."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from radio.data.batches import Progress
from radio.data.dense import HubMasks, MaskFolder
from radio.data.segmentation import BACKGROUND
from radio.errors import ImageError
from radio.model import RADIOModel
from radio.tasks.probing.metrics import Metrics, SegmentationMetrics
from radio.tasks.segmentation import (
    UNKNOWN,
    LabelEmbeddings,
    SegmentOptions,
    segment_labels,
)
from radio.wording import counted


def names_of(classes: Sequence[str], background: Sequence[str] = ()) -> list[list[str]]:
    """The names of each class: what commas separate, as in ADE20k's list.

    Args:
        classes: As the data set has them.
        background: Names in place of those of the class ``"background"``: what there is besides the other classes, such
            as sky, wall and floor.

    Raises:
        ValueError: There are names for the background, but no such class.
    """
    if background and BACKGROUND not in classes:
        raise ValueError(f"there is no class {BACKGROUND!r} among the classes, which names were given for")
    return [
        list(background)
        if name == BACKGROUND and background
        else [part.strip() for part in name.split(",") if part.strip()]
        for name in classes
    ]


def evaluate_segmentation(
    model: RADIOModel,
    adaptor_name: str,
    data: MaskFolder | HubMasks,
    labels: LabelEmbeddings,
    options: SegmentOptions = SegmentOptions(),  # noqa: B008, it is frozen
    progress: Progress | None = None,
) -> Metrics:
    """Segment a data set and compare every pixel with its mask, at the mask's own resolution.

    Args:
        model: A model that was loaded with this adaptor.
        adaptor_name: A text-aligned adaptor.
        data: Images with masks, as `radio.data.segmentation.segmentation_folder` opens them.
        labels: One for each class, from `radio.tasks.segmentation.label_embeddings`.
        options: With a ``least_share``, pixels of no sure label count as the class ``"background"``.
        progress: Shows the progress over the images.

    Returns:
        ``miou`` over the classes that occur, ``pixel_accuracy``, and ``iou/CLASS`` for each of them, in [0, 1], over
        all pixels of the data set together.

    Raises:
        ImageError: An image or a mask cannot be read, or they differ in size.
        MissingExtraError: torchmetrics is not installed.
        ValueError: Labels and classes differ in number, or there is no class for pixels that are not sure.
    """
    classes = tuple(data.classes)
    if len(classes) != int(labels.owner.max()) + 1:
        raise ValueError(
            f"the data set has {counted(len(classes), 'class', 'classes')}, but the labels are "
            f"{int(labels.owner.max()) + 1}"
        )
    if options.least_share is not None and BACKGROUND not in classes:
        raise ValueError(
            f"pixels that are not sure enough count as {BACKGROUND!r}, which is no class of this data set; leave the "
            "share out"
        )
    unknown = classes.index(BACKGROUND) if BACKGROUND in classes else UNKNOWN
    metrics = SegmentationMetrics(classes)
    numbers = range(len(data))
    for i in numbers if progress is None else progress(numbers, len(data), "images"):
        truth = data.target(i)
        found = segment_labels(model, adaptor_name, data[i], labels, options)
        if found.shape != truth.shape:
            raise ImageError(
                f"image {i} of the data set is {found.shape[0]} x {found.shape[1]} (height x width), but its mask "
                f"{truth.shape[0]} x {truth.shape[1]}"
            )
        metrics.update(torch.where(found == UNKNOWN, unknown, found), truth)
    return metrics.compute()
