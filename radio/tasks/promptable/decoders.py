"""What follows SAM's image encoder: its own neck, prompt encoder and mask decoder, as transformers has them."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Neck(Protocol):
    """What follows an image encoder at once, and says what it takes.

    Attributes:
        adaptor_name: The adaptor that takes the image encoder's place.
        feature_dim: Width C of the features that the neck takes.
        grid: They come as so many rows and columns.
        side: Of the square that prompts are given on, in pixels.
        keeps_aspect: Whether an image keeps its shape on the square.
    """

    adaptor_name: str
    feature_dim: int
    grid: int
    side: int
    keeps_aspect: bool

    def embed(self, features: Tensor) -> Any:
        """An image encoder's features (1, C, grid, grid) to what prompts are answered from."""
        ...


class MaskDecoder(Neck, Protocol):
    """What follows an image encoder when it is asked with points and boxes.

    Attributes:
        threshold: Logits above it belong to a mask.
    """

    threshold: float

    def decode(
        self,
        embedding: Any,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        several: bool,
    ) -> tuple[Tensor, Tensor]:
        """Prompts of one form, in pixels of the square: points (N, K, 2) with labels (N, K), boxes (N, 4), or both.

        Returns:
            Logits (N, M, h, w) of the whole square and predicted IoU (N, M): M = 3 with `several`, else 1.
        """
        ...


class _TransformersDecoder:
    """What transformers' decoders share: their own forward pass, from the image embedding on."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.no_grad()
    def decode(
        self,
        embedding: Any,
        points: Tensor | None,
        labels: Tensor | None,
        boxes: Tensor | None,
        several: bool,
    ) -> tuple[Tensor, Tensor]:
        """See `MaskDecoder`. transformers takes a batch of images with their prompts."""
        output = self.model(
            image_embeddings=embedding,
            input_points=None if points is None else points[None],
            input_labels=None if labels is None else labels[None],
            input_boxes=None if boxes is None else boxes[None],
            multimask_output=several,
        )
        return output.pred_masks[0], output.iou_scores[0]


class SamMaskDecoder(_TransformersDecoder):
    """Of SAM (`transformers.SamModel`); see `MaskDecoder`."""

    adaptor_name = "sam"
    keeps_aspect = True
    threshold = 0.0

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        vision = model.config.vision_config
        self.feature_dim, self.side = int(vision.hidden_size), int(vision.image_size)
        self.grid = self.side // int(vision.patch_size)

    @torch.no_grad()
    def embed(self, features: Tensor) -> Tensor:
        """Features (1, C, grid, grid) to SAM's image embedding."""
        return self.model.vision_encoder.neck(features.movedim(1, -1))


class Sam3MaskDecoder(_TransformersDecoder):
    """Of SAM 3's promptable half (`transformers.Sam3TrackerModel`); see `MaskDecoder`."""

    adaptor_name = "sam3"
    keeps_aspect = False
    threshold = 0.0

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        vision = model.config.vision_config
        self.feature_dim = int(vision.backbone_config.hidden_size)
        self.side = int(model.config.prompt_encoder_config.image_size)
        self.grid = self.side // int(model.config.prompt_encoder_config.patch_size)

    @torch.no_grad()
    def embed(self, features: Tensor) -> list[Tensor]:
        """Features (1, C, grid, grid) to maps of several scales, the coarsest last."""
        model, decoder = self.model, self.model.mask_decoder
        maps = list(model.vision_encoder.neck(features)[0])
        maps[0], maps[1] = decoder.conv_s0(maps[0]), decoder.conv_s1(maps[1])
        maps[-1] = maps[-1] + model.no_memory_embedding.view(1, -1, 1, 1)
        return maps[: len(model.backbone_feature_sizes)]
