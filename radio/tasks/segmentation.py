"""Open-vocabulary segmentation: every patch compared with labels in words.

A text-aligned adaptor's summary head is made for the class token, yet patch tokens that go through it land
close to the teacher's text space as well (RayFronts, Alama et al. 2025, builds maps on this). It is an
approximation that nobody trained for: compare similarities of patches with each other, not with those of
summaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from radio.images import ImageInput, SizeSpec, load_image
from radio.model import RADIOModel
from radio.modeling.network import RADIONetwork
from radio.tasks.zero_shot import PHOTO_TEMPLATES, class_embeddings, get_adaptor


class Segmentation(NamedTuple):
    """Labels of an image's pixels.

    Attributes:
        label: ``(H, W)`` int64, the number of the best label of each pixel.
        similarity: ``(K, H, W)`` float32, the similarities with all labels.
    """

    label: Tensor
    similarity: Tensor


def segment(
    model: RADIOModel,
    adaptor_name: str,
    image: ImageInput,
    labels: Sequence[str],
    templates: Sequence[str] = PHOTO_TEMPLATES,
    size: SizeSpec = None,
    window: int | None = None,
    stride: int | None = None,
) -> Segmentation:
    """Give every pixel of an image the label that fits its patch best.

    Args:
        model: A model that was loaded with this adaptor.
        adaptor_name: A text-aligned adaptor, e.g. ``"siglip"``.
        image: A path, PIL image, array or tensor, as `radio.images.load_image` takes it.
        labels: K names, e.g. ``["cat", "sofa", "wall"]``. Every pixel gets one of them, so name the background too.
        templates: Sentences with ``{}`` for the name.
        size: The size at which the image is run, as in `radio.images.target_size`. By default its own, but the
            short side at least that of the model's preferred resolution.
        window: Side of the crops that cover the image, in pixels; by default that of the preferred resolution.
        stride: Distance of neighboring crops, in pixels; by default two thirds of the window.

    Returns:
        Labels and similarities for the height and width of the image that was given.

    Raises:
        ImageError: The image cannot be read.
        ValueError: The adaptor was not loaded or has no text, or a size does not fit the model.
    """
    step = model.min_resolution_step
    preferred = max(min(model.preferred_resolution) // step, 1) * step
    pixels = load_image(image)
    height, width = pixels.shape[-2:]
    resized = model.resize(pixels, _default_size(model, height, width, preferred) if size is None else size)
    embeddings = class_embeddings(get_adaptor(model, adaptor_name), labels, templates)
    similarity = patch_similarity(model, adaptor_name, resized, embeddings, window or preferred, stride)
    return to_pixels(similarity.cpu(), height, width)


def patch_embeddings(model: RADIONetwork, adaptor_name: str, images: Tensor) -> Tensor:
    """Patches in a teacher's summary space, where they can be compared with its text embeddings.

    The patch tokens go through the adaptor's summary head as they leave the backbone: without the feature
    normalizer, which class tokens do not go through either.

    Args:
        model: A model that was loaded with this adaptor.
        adaptor_name: A text-aligned adaptor, e.g. ``"siglip"``.
        images: ``(B, 3, H, W)`` floating point in [0, 1], H and W multiples of ``model.min_resolution_step``.

    Returns:
        ``(B, D, H/P, W/P)`` float32, on the model's device.

    Raises:
        ValueError: The adaptor was not loaded, or the shape is not supported.
    """
    adaptor = get_adaptor(model, adaptor_name)
    patches = model.forward_intermediates(
        images.to(model.device),
        indices=[-1],
        norm=True,
        output_fmt="NCHW",
        intermediates_only=True,
        norm_alpha_scheme="none",
    )[0]
    assert isinstance(patches, Tensor)
    return adaptor.project_summary(patches.movedim(1, -1)).movedim(-1, 1)


@torch.no_grad()
def patch_similarity(
    model: RADIONetwork,
    adaptor_name: str,
    image: Tensor,
    embeddings: Tensor,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 4,
) -> Tensor:
    """Cosine similarity of every patch of an image with every label.

    With a window, the image is covered by square crops that overlap; a patch in several crops gets the mean
    of its similarities.

    Args:
        image: ``(3, H, W)`` in [0, 1], H and W multiples of ``model.min_resolution_step``.
        embeddings: ``(K, D)``, the labels in the adaptor's text space, rows of length 1.
        window: Side of the crops in pixels, a multiple of ``model.min_resolution_step``; ``None`` for the
            whole image at once.
        stride: Distance of neighboring crops in pixels, a multiple of the patch size; by default two thirds
            of the window.
        batch_size: Crops that go through the model at once.

    Returns:
        ``(K, H/P, W/P)`` float32 on the model's device.

    Raises:
        ValueError: A window or stride that does not fit the model, or embeddings of another teacher.
    """
    patch = model.patch_size
    height, width = image.shape[-2:]
    window_h, window_w = (height, width) if window is None else (min(window, height), min(window, width))
    _check_window(model, window, stride)
    step = stride or max(round((window or 1) * 2 / 3 / patch), 1) * patch
    corners = [
        (top, left) for top in _starts(height, window_h, step) for left in _starts(width, window_w, step)
    ]
    embeddings = embeddings.to(model.device)
    total = torch.zeros(len(embeddings), height // patch, width // patch, device=model.device)
    count = torch.zeros(height // patch, width // patch, device=model.device)
    for i in range(0, len(corners), batch_size):
        batch = corners[i : i + batch_size]
        crops = torch.stack([image[:, top : top + window_h, left : left + window_w] for top, left in batch])
        found = patch_embeddings(model, adaptor_name, crops)
        if found.shape[1] != embeddings.shape[1]:
            raise ValueError(
                f"adaptor {adaptor_name!r} gives {found.shape[1]} numbers per patch but the labels have "
                f"{embeddings.shape[1]}; they must come from the same adaptor's encode_text"
            )
        similarity = torch.einsum("kd,bdhw->bkhw", embeddings, F.normalize(found, dim=1))
        for (top, left), crop in zip(batch, similarity, strict=True):
            rows = slice(top // patch, (top + window_h) // patch)
            columns = slice(left // patch, (left + window_w) // patch)
            total[:, rows, columns] += crop
            count[rows, columns] += 1
    return total / count


def to_pixels(similarity: Tensor, height: int, width: int) -> Segmentation:
    """Enlarge patch similarities bilinearly and take the best label of each pixel; of equal ones, the first.

    Args:
        similarity: ``(K, h, w)`` from `patch_similarity`.
        height, width: Size of the image that is labeled.
    """
    full = F.interpolate(similarity[None], size=(height, width), mode="bilinear", align_corners=False)[0]
    return Segmentation(full.argmax(dim=0), full)


def _default_size(model: RADIOModel, height: int, width: int, preferred: int) -> SizeSpec:
    """The image's own size with a short side of at least ``preferred``, as far as the model's largest side allows."""
    if (
        min(height, width) < preferred
        and max(height, width) * preferred <= min(height, width) * model.max_resolution
    ):
        return preferred
    return None


def _starts(length: int, window: int, step: int) -> list[int]:
    """Where windows begin along one side: every step, and one that ends at the border."""
    starts = list(range(0, length - window, step))
    return [*starts, length - window]


def _check_window(model: RADIONetwork, window: int | None, stride: int | None) -> None:
    step = model.min_resolution_step
    if window is not None and (window < step or window % step):
        raise ValueError(f"window must be a multiple of {step} pixels for this model, got {window}")
    if stride is not None and (stride < 1 or stride % model.patch_size or stride > (window or stride)):
        raise ValueError(
            f"stride must be a multiple of {model.patch_size} pixels, at most the window, got {stride}"
        )
