"""Names for masks, from the same forward pass: patches in a text-aligned teacher's space, averaged over each mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from radio.modeling.adaptors import Adaptor
from radio.tasks.promptable.masks import Masks
from radio.tasks.promptable.segmenter import EmbeddedImage
from radio.tasks.zero_shot import Ranked, ZeroShotClassifier


@torch.no_grad()
def mask_embeddings(adaptor: Adaptor, image: EmbeddedImage, masks: Masks) -> Tensor:
    """Each mask in a teacher's summary space: the mean of its patches, weighted by how much of them it covers.

    Patches go through the adaptor's summary head, as in `radio.tasks.segmentation`.

    Args:
        adaptor: A text-aligned adaptor of the model that encoded the image.
        image: From `PromptableSegmenter.encode`.
        masks: N masks of this image.

    Returns:
        (N, D) float32, rows of length 1; zeros for an empty mask.

    Raises:
        ValueError: The image was embedded from features of another encoder, whose patches no adaptor knows.
    """
    if image.patches is None:
        raise ValueError(
            "there are no patches to name masks with: the image was embedded from features of another encoder; "
            "use segmenter.encode"
        )
    patches = F.normalize(adaptor.project_summary(image.patches[0].movedim(0, -1)), dim=-1)
    found = patches.new_zeros(len(masks), patches.shape[-1])
    for i in range(len(masks)):  # one by one, since they can be many and large
        covered = image.canvas.from_image(masks.mask[i : i + 1], patches.shape[0])[0].to(patches)
        found[i] = torch.einsum("hw,hwd->d", covered, patches)
    return F.normalize(found, dim=-1)


def name_masks(
    adaptor: Adaptor, image: EmbeddedImage, masks: Masks, classifier: ZeroShotClassifier, top: int = 1
) -> list[list[Ranked]]:
    """Labels for masks.

    Args:
        adaptor, image, masks: As in `mask_embeddings`.
        classifier: The labels, from the adaptor's own text tower.
        top: How many labels for each mask.

    Returns:
        For each mask its best labels, best first; none for an empty mask.

    Raises:
        ValueError: As `mask_embeddings`, or the labels belong to another teacher.
    """
    ranked = classifier.rank(mask_embeddings(adaptor, image, masks), top) if len(masks) else []
    return [labels if area else [] for labels, area in zip(ranked, masks.area.tolist(), strict=True)]
