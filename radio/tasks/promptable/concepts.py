"""What follows SAM 3's image encoder when it is asked in words: its neck, text encoder and detector.

Source: SAM 3 (arXiv 2511.16719), "promptable concept segmentation", without exemplars.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from radio.optional import require
from radio.tasks.pixels import enlarge, maps_at_once
from radio.tasks.promptable.canvas import Canvas
from radio.tasks.promptable.masks import Masks


class ConceptDetector:
    """SAM 3's detector (`transformers.Sam3Model`) from its neck on; see `radio.tasks.promptable.decoders.Neck`.

    Args:
        model: Without the image encoder.
        tokenizer: Its own, of the tokenizers library.
    """

    adaptor_name = "sam3"
    keeps_aspect = False
    threshold = 0.5
    """Of a mask's probabilities."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        encoder = model.config.vision_config.backbone_config
        self.feature_dim, self.side = int(encoder.hidden_size), int(encoder.image_size)
        self.grid = self.side // int(encoder.patch_size)
        self.most_tokens = int(model.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def embed(self, features: Tensor) -> Any:
        """Features (1, C, grid, grid) to maps of several scales with their positions, as transformers keeps them."""
        maps, positions = self.model.vision_encoder.neck(features)
        output = require("transformers.models.sam3.modeling_sam3", "sam").Sam3VisionEncoderOutput
        return output(fpn_hidden_states=maps, fpn_position_encoding=positions)

    @torch.no_grad()
    def detect(self, embedding: Any, words: str) -> tuple[Tensor, Tensor]:
        """Everything that may be an instance of a concept.

        Returns:
            Logits (Q, h, w) of the whole square, and the probability (Q,) that each is an instance.

        Raises:
            ValueError: The words are too many.
        """
        numbers = self.tokenizer.encode(words).ids
        if len(numbers) > self.most_tokens:
            raise ValueError(
                f"{words!r} is {len(numbers)} tokens, of which SAM 3 takes up to {self.most_tokens}; "
                "give a short noun phrase, such as 'red cup'"
            )
        tokens = torch.tensor([numbers], device=embedding.fpn_hidden_states[0].device)
        output = self.model(vision_embeds=embedding, input_ids=tokens, attention_mask=torch.ones_like(tokens))
        # The second says whether the image has any instance at all.
        return output.pred_masks[0], (output.pred_logits.sigmoid() * output.presence_logits.sigmoid())[0]


def find_concepts(
    detector: ConceptDetector, embedding: Any, canvas: Canvas, concepts: list[str], least_score: float
) -> Masks:
    """See `PromptableSegmenter.concepts`."""
    masks, scores_of, numbers = [], [], []
    for number, words in enumerate(concepts):
        logits, scores = detector.detect(embedding, words)
        order = scores.argsort(descending=True, stable=True)
        order = order[scores[order] > least_score]
        for part in order.split(maps_at_once(*canvas.image_size)):
            full = enlarge(logits[part, None].sigmoid(), *canvas.image_size)[:, 0]
            masks.append(full > detector.threshold)
        scores_of.append(scores[order])
        numbers.append(torch.full_like(order, number))
    return Masks(torch.cat(masks), torch.cat(scores_of), torch.cat(numbers))
