"""How good a backbone is, without training it further: for students, their teachers, and anybody else's.

A backbone here is anything behind the `Teacher` protocol: a RADIO model, a model of timm or open_clip, an ONNX file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from radio.data.labeled import ImageFolder
from radio.images import load_image
from radio.model import RADIOModel
from radio.tasks.knn import leave_one_out, nearest_neighbors, vote
from radio.tasks.linear import LinearClassifier, fit_linear
from radio.tasks.mode_switching import coarsest, resample, scale_variance
from radio.training.data import center_square
from radio.training.teachers import Teacher
from radio.training.teachers.radio_teacher import RadioTeacher

Backbone = Teacher | RADIOModel


class Summaries(NamedTuple):
    """Of a labeled data set.

    Attributes:
        vectors: (N, D) float32.
        labels: (N) int64.
        classes: Their names.
    """

    vectors: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def summarize(
    backbone: Backbone, folder: str | Path | ImageFolder, size: int | None = None, batch_size: int = 16
) -> Summaries:
    """Summaries of a folder with one subfolder of images per class, each as its center square.

    A backbone without a summary gives the mean of its features.

    Args:
        backbone: What to evaluate.
        folder: ``folder/CLASS/IMAGE.jpg``.
        size: Side in pixels, made a multiple of the stride; the backbone's own if None.
        batch_size: Images a pass.
    """
    model = as_teacher(backbone)
    images = folder if isinstance(folder, ImageFolder) else ImageFolder(folder)
    side = _side(model, size)
    vectors = []
    for start in range(0, len(images), batch_size):
        paths = images.paths[start : start + batch_size]
        output = model(torch.stack([center_square(load_image(path), side) for path in paths]))
        summary = output.features.mean(dim=(2, 3)) if output.summary is None else output.summary
        vectors.append(summary.float().cpu())
    return Summaries(torch.cat(vectors), torch.tensor(images.labels), images.classes)


def knn_accuracy(known: Summaries, asked: Summaries | None = None, k: int = 20) -> float:
    """Share of images that their k nearest neighbors by summary vote for the right class of, in [0, 1].

    Votes are weighted as in `radio.tasks.knn`.

    Args:
        known: What is labeled, from `summarize`.
        asked: What is classified; if None, every known image by all the others.
        k: Neighbors that vote.

    Raises:
        ValueError: The two have different classes, or there is a single image without neighbors.
    """
    if asked is None:
        neighbors, asked = leave_one_out(known.vectors, k), known
    else:
        neighbors = nearest_neighbors(_same_classes(known, asked).vectors, known.vectors, k)
    return _accuracy(vote(neighbors, known.labels, len(known.classes)).classes[:, 0], asked.labels)


def linear_probe(
    known: Summaries, asked: Summaries | None = None, decay: float = 1e-3, folds: int = 5
) -> float:
    """Share of images that a linear classifier on frozen summaries gets right, in [0, 1].

    Args:
        known, asked: As in `knn_accuracy`; without `asked`, cross-validation over so many folds.
        decay: Weight of the squared norm of the classifier (summaries have zero mean and unit variance).
        folds: Of the cross-validation.
    """
    if asked is not None:
        head = fit_linear(known.vectors, known.labels, len(known.classes), decay)
        return _accuracy(_best(head, _same_classes(known, asked).vectors), asked.labels)
    # Images of a class are next to each other, so that every n-th one is a fair share of all classes.
    fold = torch.arange(len(known.labels)) % folds
    predicted = torch.empty_like(known.labels)
    for number in range(folds):
        out = fold == number
        head = fit_linear(known.vectors[~out], known.labels[~out], len(known.classes), decay)
        predicted[out] = _best(head, known.vectors[out])
    return _accuracy(predicted, known.labels)


def rank_me(vectors: Tensor) -> float:
    """RankMe (Garrido et al. 2023, arXiv 2210.02885): the effective rank of embeddings (N, D), from 1 to min(N, D)."""
    values = torch.linalg.svdvals(vectors.double())
    shares = values / values.sum().clamp(min=1e-300) + 1e-7
    return float((-(shares * shares.log()).sum()).exp())


def mode_switching(
    student: Backbone,
    teacher: Teacher,
    images: Sequence[str | Path],
    sizes: Sequence[int],
) -> dict[int, float]:
    """Error of a student's adaptor against its teacher at every resolution (RADIOv2.5, arXiv 2412.07679, figure 2).

    The teacher sees every image at its own size. A curve that jumps shows a student that has two modes.

    Args:
        student: With features in the teacher's space: a `RadioTeacher` with that adaptor.
        teacher: The teacher.
        images: Files; their center squares are taken.
        sizes: Sides of the student's images in pixels, made multiples of its stride.

    Returns:
        By size: the mean squared error on the coarser grid, as a share of the variance of the teacher's features.
    """
    model = as_teacher(student)
    errors: dict[int, list[float]] = {size: [] for size in sizes}
    for path in images:
        pixels = load_image(path)
        goal = teacher(center_square(pixels, teacher.size)[None], [Path(path).name]).features[0].cpu()
        spread = goal.var(dim=(1, 2), correction=0).mean()
        for size in sizes:
            found = model(center_square(pixels, _side(model, size))[None]).features[0].cpu()
            if found.shape[0] != goal.shape[0]:
                raise ValueError(
                    f"the student's features have {found.shape[0]} channels and the teacher's {goal.shape[0]}; "
                    "give the adaptor that this teacher taught"
                )
            grid = coarsest([found, goal])
            errors[size].append(
                float((resample(found, grid) - resample(goal, grid)).square().mean() / spread)
            )
    return {size: sum(values) / len(values) for size, values in errors.items()}


def scale_equivariance(backbone: Backbone, images: Sequence[str | Path], sizes: Sequence[int]) -> float:
    """Variance of features over resolutions, on their coarsest grid, as a share of their whole variance; 0 is best.

    Source: RADIOv2.5 (arXiv 2412.07679, section 4.1).
    """
    model = as_teacher(backbone)
    shares = []
    for path in images:
        pixels = load_image(path)
        maps = [model(center_square(pixels, _side(model, size))[None]).features[0] for size in sizes]
        shares.append(scale_variance(maps)[1])
    return sum(shares) / len(shares)


def as_teacher(backbone: Backbone) -> Teacher:
    """A RADIO model behind the protocol of teachers; anything else as it is."""
    return RadioTeacher(backbone) if isinstance(backbone, RADIOModel) else backbone


def _side(model: Teacher, size: int | None) -> int:
    if model.fixed or size is None:
        return model.size
    return max(1, round(size / model.stride)) * model.stride


def _same_classes(known: Summaries, asked: Summaries) -> Summaries:
    if known.classes != asked.classes:
        raise ValueError("the folders to learn from and to test must have the same class folders")
    return asked


@torch.no_grad()
def _best(head: LinearClassifier, vectors: Tensor) -> Tensor:
    return head(vectors).argmax(dim=1)


def _accuracy(predicted: Tensor, labels: Tensor) -> float:
    return float((predicted.cpu() == labels.cpu()).float().mean())
