"""How features change with the resolution: the "mode switching" experiment of RADIOv2.5 (arXiv 2412.07679).

A model that was taught by some teachers at low resolution and by others at high resolution can have two modes: below
some resolution its features resemble one group, above it the other. Two measures show it: the error of an adaptor
against its teacher at every resolution, and the error of the model against itself at a reference resolution. The
variance of features over resolutions says how far a model is from equivariance to scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from radio.images import ImageInput, SizeSpec, load_image
from radio.model import RADIOModel
from radio.tasks.spatial import spatial_features
from radio.tasks.teacher_features import Grid, Teacher

Measure = Literal["teacher", "reference", "variance", "relative_variance"]


class Measurement(NamedTuple):
    """One number of the experiment.

    Attributes:
        image: Name of the image.
        size: What was asked for, as text; empty for a measure over all sizes.
        height, width: Of the image as it was run, in pixels; 0 for a measure over all sizes.
        measure: ``"teacher"``: mean squared error against the teacher; ``"reference"``: against the model at the
            reference size; ``"variance"``: over the sizes; ``"relative_variance"``: as a share of the features' own.
        value: The number.
    """

    image: str
    size: str
    height: int
    width: int
    measure: Measure
    value: float


def resample(features: Tensor, grid: Grid) -> Tensor:
    """Features on another grid: bilinear, antialiased where it is coarser.

    Args:
        features: (C, h, w).
        grid: Patches down and across.

    Returns:
        (C, *grid) float32.
    """
    if tuple(features.shape[-2:]) == grid:
        return features.float()
    return F.interpolate(features.float()[None], grid, mode="bilinear", antialias=True, align_corners=False)[
        0
    ]


def feature_error(features: Tensor, target: Tensor) -> float:
    """Mean squared error of features against others of the same image, on the coarser of the two grids.

    Args:
        features: (C, h, w).
        target: (C, h', w').

    Raises:
        ValueError: They differ in width.
    """
    if features.shape[0] != target.shape[0]:
        raise ValueError(
            f"features of {features.shape[0]} channels cannot be compared with {target.shape[0]}: "
            "the teacher must be the one that this adaptor was trained for"
        )
    grid = coarsest([features, target])
    difference = resample(features, grid) - resample(target.to(features.device), grid)
    return float(difference.square().mean())


def scale_variance(features: Sequence[Tensor]) -> tuple[float, float]:
    """Variance over resolutions, of one image's features on their coarsest grid.

    Zero means that the model is equivariant to scale: a larger image gives the same features on a finer grid.

    Args:
        features: (C, h, w) for each resolution, at least two.

    Returns:
        The variance over the resolutions, the mean over channels and positions; and its share of the whole variance
        of these features over resolutions and positions, in [0, 1].

    Raises:
        ValueError: There are fewer than two.
    """
    if len(features) < 2:
        raise ValueError(f"a variance over resolutions needs at least two, got {len(features)}")
    grid = coarsest(features)
    stack = torch.stack([resample(each, grid).cpu() for each in features]).double()
    over_sizes = stack.var(dim=0, correction=0).mean()
    whole = stack.var(dim=(0, 2, 3), correction=0).mean()
    return float(over_sizes), float(over_sizes / whole) if whole > 0 else 0.0


def coarsest(features: Iterable[Tensor]) -> Grid:
    """The smallest height and the smallest width of feature maps (..., h, w)."""
    shapes = [each.shape[-2:] for each in features]
    return min(shape[0] for shape in shapes), min(shape[1] for shape in shapes)


def measure_mode_switching(
    model: RADIOModel,
    images: Mapping[str, ImageInput],
    sizes: Sequence[SizeSpec],
    reference: SizeSpec,
    adaptor_name: str | None = None,
    teacher: Teacher | Mapping[str, Tensor] | None = None,
) -> Iterator[Measurement]:
    """Run the experiment, image by image.

    Args:
        model: A model, with the adaptor if one is asked for.
        images: By name.
        sizes: The resolutions, as in `radio.images.target_size`; at least two.
        reference: The resolution that the model is compared with itself at.
        adaptor_name: Whose features are measured; the backbone's if None, which have no teacher.
        teacher: A function, or the teacher's features (C, h, w) by image name; None to leave that measure out.

    Yields:
        For each image and size a ``"reference"`` and, with a teacher, a ``"teacher"`` measurement; then a
        ``"variance"`` and a ``"relative_variance"`` for each image.

    Raises:
        ImageError: An image cannot be read.
        ValueError: The adaptor or a size does not fit the model, or the teacher the adaptor.
    """
    if len(sizes) < 2:
        raise ValueError(f"the experiment needs at least two sizes, got {len(sizes)}")
    if teacher is not None and adaptor_name is None:
        raise ValueError("a teacher is compared with an adaptor; name the adaptor")
    for name, source in images.items():
        pixels = load_image(source)
        at_reference = _features(model, pixels, reference, adaptor_name)[0]
        found = []
        for size in sizes:
            features, (height, width) = _features(model, pixels, size, adaptor_name)
            found.append(features)
            where = name, _size_text(size), height, width
            yield Measurement(*where, "reference", feature_error(features, at_reference))
            if teacher is not None:
                target = _teacher_features(teacher, name, pixels, (features.shape[-2], features.shape[-1]))
                yield Measurement(*where, "teacher", feature_error(features, target))
        variance, relative = scale_variance(found)
        yield Measurement(name, "", 0, 0, "variance", variance)
        yield Measurement(name, "", 0, 0, "relative_variance", relative)


def _features(
    model: RADIOModel, pixels: Tensor, size: SizeSpec, adaptor_name: str | None
) -> tuple[Tensor, tuple[int, int]]:
    [(features, image_size)] = spatial_features(model, [pixels], size, adaptor_name)
    return features, image_size


def _teacher_features(
    teacher: Teacher | Mapping[str, Tensor], name: str, pixels: Tensor, grid: Grid
) -> Tensor:
    if not isinstance(teacher, Mapping):
        return teacher(pixels, grid)
    if name not in teacher:
        raise ValueError(
            f"the saved features have none for {name!r}; they have: {', '.join(sorted(teacher))}"
        )
    return teacher[name]


def _size_text(size: SizeSpec) -> str:
    if size is None:
        return "own"
    return "x".join(map(str, size)) if isinstance(size, Sequence) and not isinstance(size, str) else str(size)
