"""Spatial features of images in the space that was asked for: the backbone's, or a teacher's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

from torch import Tensor

from radio.images import ImageInput, SizeSpec
from radio.model import RADIOModel
from radio.modeling.outputs import Resolution
from radio.tasks.zero_shot import get_adaptor

Item = TypeVar("Item")


class SpatialFeatures(NamedTuple):
    """Features of one image.

    Attributes:
        features: (C, h, w).
        image_size: Height and width at which the image was run, in pixels.
    """

    features: Tensor
    image_size: Resolution


def spatial_features(
    model: RADIOModel,
    images: Iterable[ImageInput],
    size: SizeSpec = None,
    adaptor_name: str | None = None,
    batch_size: int = 8,
) -> Iterator[SpatialFeatures]:
    """Spatial features of images, one after the other; holds one batch at a time.

    Args:
        model: A model, with the adaptor if one is asked for.
        images: As `RADIOModel.encode` takes them.
        size: As in `radio.images.target_size`.
        adaptor_name: The teacher's space; the backbone's own if None.
        batch_size: Images per forward pass.

    Yields:
        One `SpatialFeatures` for each image.

    Raises:
        ImageError: An image cannot be read.
        ValueError: The adaptor was not loaded, or a size does not fit the model.
    """
    if adaptor_name is not None:
        get_adaptor(model, adaptor_name)
    for batch in chunked(images, batch_size):
        encodings = model.encode(batch, size=size, feature_fmt="NCHW", batch_size=batch_size)
        assert isinstance(encodings, list)
        for encoding in encodings:
            output = encoding.backbone if adaptor_name is None else encoding.adaptors[adaptor_name]
            yield SpatialFeatures(output.features[0], encoding.image_size)


def chunked(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of so many items, the last one perhaps shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def feature_space(model: RADIOModel, adaptor_name: str | None = None) -> dict[str, str]:
    """What features are, in words, for files that hold something made from them.

    Returns:
        ``model`` and ``architecture``, and ``space``: of an adaptor its teacher, which models may share; else the
        backbone of this model, which is its own.

    Raises:
        ValueError: The adaptor was not loaded.
    """
    name = model.config.version or str(model.checkpoint_path.resolve())
    space = f"backbone of {name}"
    if adaptor_name is not None:
        teacher = get_adaptor(model, adaptor_name).teacher
        space = f"{adaptor_name} ({teacher.get('model') or teacher.get('type') or 'unknown teacher'})"
    return {"model": name, "architecture": model.config.architecture, "space": space}
