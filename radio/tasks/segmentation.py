"""Open-vocabulary segmentation: every patch compared with labels in words.

A text-aligned adaptor's summary head is made for the class token, yet patch tokens that go through it land
close to the teacher's text space as well (RayFronts, Alama et al. 2025, builds maps on this). It is an
approximation that nobody trained for: compare similarities of patches with each other, not with those of
summaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from radio.images import ImageInput, SizeSpec, load_image
from radio.model import RADIOModel
from radio.modeling.adaptors import Adaptor
from radio.modeling.network import RADIONetwork
from radio.tasks.pixels import best_labels, enlarge
from radio.tasks.self_correlation import SelfCorrelation
from radio.tasks.windows import check_window, crop_corners, default_stride, least_size
from radio.tasks.zero_shot import DEFAULT_LOGIT_SCALE, PHOTO_TEMPLATES, class_embeddings, get_adaptor

Label = str | Sequence[str]
"""A label in words, or several names of it, of which the one that fits best counts at each place."""

UNKNOWN = -1
"""The number of pixels whose best label is not sure enough."""


class Segmentation(NamedTuple):
    """Labels of an image's pixels.

    Attributes:
        label: ``(H, W)`` int64, the number of the best label of each pixel; `UNKNOWN` where no label is sure enough, if
            that was asked for.
        similarity: ``(K, H, W)`` float32, the similarities with all labels.
    """

    label: Tensor
    similarity: Tensor


class LabelEmbeddings(NamedTuple):
    """Labels in an adaptor's text space.

    Attributes:
        embeddings: ``(N, D)`` float32, rows of length 1: every name of every label.
        owner: ``(N,)`` int64, the number of the label that each is a name of, ascending from 0.
        logit_scale: What similarities are multiplied by before a softmax over the labels.
    """

    embeddings: Tensor
    owner: Tensor
    logit_scale: float = DEFAULT_LOGIT_SCALE


@dataclass(frozen=True)
class SegmentOptions:
    """How an image is segmented.

    Attributes:
        size: The size at which the image is run, as in `radio.images.target_size`. By default its own, but the short
            side at least that of the model's preferred resolution.
        window: Side of the crops that cover the image, in pixels; by default that of the preferred resolution.
        stride: Distance of neighboring crops, in pixels; by default two thirds of the window.
        refine: Average similarities over patches that look alike, in the whole image.
        least_share: Pixels whose best label has a smaller share (softmax over the labels) become `UNKNOWN`; None for a
            label everywhere.
    """

    size: SizeSpec = None
    window: int | None = None
    stride: int | None = None
    refine: SelfCorrelation | None = None
    least_share: float | None = None


def segment(
    model: RADIOModel,
    adaptor_name: str,
    image: ImageInput,
    labels: Sequence[Label],
    templates: Sequence[str] = PHOTO_TEMPLATES,
    size: SizeSpec = None,
    window: int | None = None,
    stride: int | None = None,
    refine: SelfCorrelation | None = None,
    least_share: float | None = None,
) -> Segmentation:
    """Give every pixel of an image the label that fits its patch best.

    Args:
        model: A model that was loaded with this adaptor.
        adaptor_name: A text-aligned adaptor, e.g. ``"siglip"``.
        image: A path, PIL image, array or tensor, as `radio.images.load_image` takes it.
        labels: K labels, e.g. ``["cat", "sofa", "wall"]``. Every pixel gets one of them, so name the background too,
            best by several names: ``("sky", "wall", "floor")``.
        templates: Sentences with ``{}`` for the name.
        size, window, stride, refine, least_share: As in `SegmentOptions`.

    Returns:
        Labels and similarities for the height and width of the image that was given.

    Raises:
        ImageError: The image cannot be read.
        ValueError: The adaptor was not loaded or has no text, or a size does not fit the model.
    """
    embeddings = label_embeddings(get_adaptor(model, adaptor_name), labels, templates)
    options = SegmentOptions(size, window, stride, refine, least_share)
    return segment_with(model, adaptor_name, image, embeddings, options)


def label_embeddings(
    adaptor: Adaptor, labels: Sequence[Label], templates: Sequence[str] = PHOTO_TEMPLATES
) -> LabelEmbeddings:
    """Labels in an adaptor's text space, for many images.

    Args:
        adaptor: A text-aligned adaptor.
        labels, templates: As in `segment`.

    Raises:
        ValueError: There are no labels, or an adaptor without text.
    """
    names = [[label] if isinstance(label, str) else list(label) for label in labels]
    flat = [name for group in names for name in group]
    owner = torch.tensor([number for number, group in enumerate(names) for _ in group])
    embeddings = class_embeddings(adaptor, flat, templates)
    scale = None if adaptor.text is None else adaptor.text.logit_scale
    return LabelEmbeddings(embeddings, owner, DEFAULT_LOGIT_SCALE if scale is None else scale)


def segment_with(
    model: RADIOModel,
    adaptor_name: str,
    image: ImageInput,
    labels: LabelEmbeddings,
    options: SegmentOptions = SegmentOptions(),
) -> Segmentation:
    """As `segment`, with labels that were embedded before.

    Raises:
        ImageError: The image cannot be read.
        ValueError: The adaptor was not loaded, a size does not fit the model, or the share is not in [0, 1].
    """
    pixels = load_image(image)
    best = _similarity(model, adaptor_name, pixels, labels, options)
    found = to_pixels(best.cpu(), *pixels.shape[-2:])
    if options.least_share is None:
        return found
    share = (found.similarity * labels.logit_scale).softmax(dim=0).amax(dim=0)
    return found._replace(label=torch.where(share < options.least_share, UNKNOWN, found.label))


def segment_labels(
    model: RADIOModel,
    adaptor_name: str,
    image: ImageInput,
    labels: LabelEmbeddings,
    options: SegmentOptions = SegmentOptions(),
) -> Tensor:
    """As `segment_with`, without similarities: for many labels or large images these take gigabytes.

    Returns:
        ``(H, W)`` int64, as ``Segmentation.label``.

    Raises:
        ImageError: The image cannot be read.
        ValueError: As `segment_with`.
    """
    pixels = load_image(image)
    best = _similarity(model, adaptor_name, pixels, labels, options)
    least, (height, width) = options.least_share, pixels.shape[-2:]
    label, share = best_labels(best, height, width, None if least is None else labels.logit_scale)
    if share is None or least is None:
        return label.cpu()
    return torch.where(share < least, UNKNOWN, label).cpu()


def _similarity(
    model: RADIOModel,
    adaptor_name: str,
    pixels: Tensor,
    labels: LabelEmbeddings,
    options: SegmentOptions,
) -> Tensor:
    """Similarities (K, h, w) of an image's patches with the best name of each label, on the model's device."""
    if options.least_share is not None and not 0 <= options.least_share <= 1:
        raise ValueError(f"least_share is a share in [0, 1], got {options.least_share}")
    step = model.min_resolution_step
    preferred = max(min(model.preferred_resolution) // step, 1) * step
    height, width = pixels.shape[-2:]
    size = (
        least_size(height, width, preferred, model.max_resolution) if options.size is None else options.size
    )
    resized = model.resize(pixels, size)
    similarity = patch_similarity(
        model, adaptor_name, resized, labels.embeddings, options.window or preferred, options.stride,
        refine=options.refine,
    )  # fmt: skip
    return best_names(similarity, labels.owner)


def best_names(similarity: Tensor, owner: Tensor) -> Tensor:
    """Of similarities (N, ...) with names, those of the best name of each label: (K, ...)."""
    labels = int(owner.max()) + 1
    index = owner.to(similarity.device).view(-1, *[1] * (similarity.ndim - 1)).expand_as(similarity)
    lowest = similarity.new_full((labels, *similarity.shape[1:]), -torch.inf)
    return lowest.scatter_reduce(0, index, similarity, "amax")


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
    return adaptor.project_summary(_tokens(model, images).movedim(1, -1)).movedim(-1, 1)


def _tokens(model: RADIONetwork, images: Tensor) -> Tensor:
    """Patch tokens ``(B, C, H/P, W/P)`` as they leave the backbone."""
    patches = model.forward_intermediates(
        images.to(model.device),
        indices=[-1],
        norm=True,
        output_fmt="NCHW",
        intermediates_only=True,
        norm_alpha_scheme="none",
    )[0]
    assert isinstance(patches, Tensor)
    return patches


@torch.no_grad()
def patch_similarity(
    model: RADIONetwork,
    adaptor_name: str,
    image: Tensor,
    embeddings: Tensor,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 4,
    refine: SelfCorrelation | None = None,
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
        refine: Average the similarities over patches of the whole image whose backbone features are alike.

    Returns:
        ``(K, H/P, W/P)`` float32 on the model's device.

    Raises:
        ValueError: A window or stride that does not fit the model, or embeddings of another teacher.
    """
    patch = model.patch_size
    height, width = image.shape[-2:]
    window_h, window_w = (height, width) if window is None else (min(window, height), min(window, width))
    check_window(model, window, stride)
    step = stride or default_stride(window or 1, patch)
    corners = crop_corners(height, width, (window_h, window_w), step)
    adaptor = get_adaptor(model, adaptor_name)
    embeddings = embeddings.to(model.device)
    grid = height // patch, width // patch
    total = torch.zeros(len(embeddings), *grid, device=model.device)
    features = torch.zeros(model.embed_dim if refine else 0, *grid, device=model.device)
    count = torch.zeros(grid, device=model.device)
    for i in range(0, len(corners), batch_size):
        batch = corners[i : i + batch_size]
        crops = torch.stack([image[:, top : top + window_h, left : left + window_w] for top, left in batch])
        tokens = _tokens(model, crops)
        found = adaptor.project_summary(tokens.movedim(1, -1)).movedim(-1, 1)
        if found.shape[1] != embeddings.shape[1]:
            raise ValueError(
                f"adaptor {adaptor_name!r} gives {found.shape[1]} numbers per patch but the labels have "
                f"{embeddings.shape[1]}; they must come from the same adaptor's encode_text"
            )
        similarity = torch.einsum("kd,bdhw->bkhw", embeddings, F.normalize(found, dim=1))
        for j, (top, left) in enumerate(batch):
            rows = slice(top // patch, (top + window_h) // patch)
            columns = slice(left // patch, (left + window_w) // patch)
            total[:, rows, columns] += similarity[j]
            count[rows, columns] += 1
            if refine:
                features[:, rows, columns] += tokens[j].float()
    mean = total / count
    return refine.refine(mean, features) if refine else mean


def to_pixels(similarity: Tensor, height: int, width: int) -> Segmentation:
    """Enlarge patch similarities bilinearly and take the best label of each pixel; of equal ones, the first.

    Args:
        similarity: ``(K, h, w)`` from `patch_similarity`.
        height, width: Size of the image that is labeled.
    """
    full = enlarge(similarity[None], height, width)[0]
    return Segmentation(full.argmax(dim=0), full)
