"""Masks for points, boxes and words: a model's features in the place of SAM's image encoder.

The ``sam`` adaptor gives what SAM's image encoder gives **before its neck**; the ``sam3`` adaptor does the same for
SAM 3. `PromptableSegmenter` joins it with SAM's own neck, prompt encoder and mask decoder, and with SAM 3's detector,
from transformers.

Sources: SAM (arXiv 2304.02643); AM-RADIO (arXiv 2312.06709), section 5.3, which first put RADIO in its place.
"""

from radio.tasks.promptable.automatic import AutomaticOptions
from radio.tasks.promptable.concept_weights import load_concept_detector
from radio.tasks.promptable.concepts import ConceptDetector
from radio.tasks.promptable.decoders import MaskDecoder
from radio.tasks.promptable.masks import Masks
from radio.tasks.promptable.naming import name_masks
from radio.tasks.promptable.prompts import Prompt
from radio.tasks.promptable.segmenter import EmbeddedImage, PromptableSegmenter
from radio.tasks.promptable.weights import load_mask_decoder

__all__ = [
    "AutomaticOptions",
    "ConceptDetector",
    "EmbeddedImage",
    "MaskDecoder",
    "Masks",
    "Prompt",
    "PromptableSegmenter",
    "load_concept_detector",
    "load_mask_decoder",
    "name_masks",
]
