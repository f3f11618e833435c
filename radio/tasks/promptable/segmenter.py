"""A model and what follows SAM's image encoder: encode an image once, then ask for as many masks as you like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from radio.encoding import Encoding, encode_images
from radio.images import ImageInput, load_image
from radio.model import RADIOModel
from radio.modeling.input_conditioner import InputConditioner
from radio.modeling.outputs import describe_fields
from radio.tasks.promptable.automatic import AutomaticOptions, mask_everything
from radio.tasks.promptable.canvas import Canvas, place
from radio.tasks.promptable.concept_weights import load_concept_detector
from radio.tasks.promptable.concepts import ConceptDetector, find_concepts
from radio.tasks.promptable.decoders import MaskDecoder, Neck
from radio.tasks.promptable.masks import Masks
from radio.tasks.promptable.prompts import Prompt, batches
from radio.tasks.promptable.weights import DEFAULT_REPOSITORIES, is_detector_alone, load_mask_decoder
from radio.tasks.zero_shot import get_adaptor


@dataclass(frozen=True, eq=False)
class EmbeddedImage:
    """An image, ready for any number of prompts.

    Attributes:
        embedding: What the decoder's neck gave; None without a decoder.
        canvas: Where the image lies on the square.
        encoding: What the model's one forward pass gave, as `RADIOModel.encode` does, of the whole square; features are
            (1, C, h, w). None for features of another encoder.
        patches: Final patch tokens (1, C, h, w) of the square, which `name_masks` uses; None for features of another
            encoder.
        concept_embedding: What the detector's neck gave; None without a detector.
    """

    embedding: Any
    canvas: Canvas
    encoding: Encoding | None = None
    patches: Tensor | None = None
    concept_embedding: Any = None

    def __repr__(self) -> str:
        return describe_fields("EmbeddedImage", {"canvas": self.canvas, "encoding": self.encoding})


class PromptableSegmenter:
    """Masks for points, boxes, everything, or words, from a model's features and SAM's own decoder.

    Args:
        model: With the adaptor that the decoder was made for.
        decoder: From `load_mask_decoder`, on the model's device; None for words only.
        batch_size: Prompts that are decoded at once.
        detector: From `load_concept_detector`, on the model's device, for words; of the same SAM 3.

    Attributes:
        adaptor_name: The adaptor that takes the place of SAM's image encoder, before its neck.

    Raises:
        ValueError: The model was loaded without the adaptor, its features have another width than the neck takes, the
            model cannot run at the size where its patches are the decoder's, or decoder and detector do not fit.
    """

    def __init__(
        self,
        model: RADIOModel,
        decoder: MaskDecoder | None,
        batch_size: int = 64,
        detector: ConceptDetector | None = None,
    ) -> None:
        self.model, self.decoder, self.batch_size, self.detector = model, decoder, batch_size, detector
        self._neck = _common_neck(decoder, detector)
        self.adaptor_name = self._neck.adaptor_name
        adaptor = get_adaptor(model, self.adaptor_name)
        width = model.config.adaptor(self.adaptor_name).feature.output_dim
        if width != self._neck.feature_dim:
            raise ValueError(
                f"the adaptor {self.adaptor_name!r} gives features of {width} channels, but this decoder's neck takes "
                f"{self._neck.feature_dim}; it must be the decoder of the teacher, "
                f"{DEFAULT_REPOSITORIES.get(self.adaptor_name, '')} for released models"
            )
        self._side = self._neck.grid * model.patch_size // adaptor.upsample_factor
        self._check_side(adaptor.upsample_factor)

    @classmethod
    def from_pretrained(
        cls,
        model: RADIOModel,
        name: str | Path | None = None,
        batch_size: int = 64,
        concepts: bool = False,
    ) -> Self:
        """Join a model with the decoder of a SAM.

        Args:
            model: Loaded with ``adaptors=["sam"]`` or ``["sam3"]``, and a text-aligned one for names of masks.
            name: A Hub repository or a local folder, as `load_mask_decoder` takes it; by default the one that the
                model's adaptor was trained for.
            batch_size: Prompts that are decoded at once.
            concepts: Load SAM 3's detector and text encoder as well, for `concepts`. A folder may hold these alone.

        Raises:
            ValueError: The model has neither adaptor, or it does not fit the decoder.
            OSError: As `load_mask_decoder`.
        """
        if name is None:
            known = [adaptor for adaptor in model.adaptors or () if adaptor in DEFAULT_REPOSITORIES]
            if not known:
                raise ValueError(
                    "the model was loaded without an adaptor that takes the place of SAM's image encoder; load it "
                    f"with one of adaptors={list(DEFAULT_REPOSITORIES)}"
                )
            name = DEFAULT_REPOSITORIES[known[0]]
        if not concepts:
            return cls(model, load_mask_decoder(name, model.device), batch_size)
        get_adaptor(model, ConceptDetector.adaptor_name)  # words are SAM 3's; before gigabytes are downloaded
        detector = load_concept_detector(name, model.device)
        decoder = None if is_detector_alone(name) else load_mask_decoder(name, model.device)
        return cls(model, decoder, batch_size, detector)

    @torch.no_grad()
    def encode(self, image: ImageInput) -> EmbeddedImage:
        """Run the model on an image, once.

        The image is laid on a square, in the upper left corner, as SAM does it: its long side fills the square, and the
        rest has the color that the model's normalization makes zero. For SAM 3 it is stretched to the square.

        Args:
            image: As `radio.images.load_image` takes it.

        Raises:
            ImageError: The image cannot be read.
            RuntimeError: The preprocessor was made external.
        """
        conditioner = self.model.input_conditioner
        if not isinstance(conditioner, InputConditioner):
            raise RuntimeError(
                "the preprocessor was made external, so encode() cannot normalize; "
                "set model.input_conditioner to it again"
            )
        pixels = load_image(image).to(self.model.device)
        canvas = self._place(pixels.shape[-2], pixels.shape[-1])
        square = canvas.draw(pixels, self._side, conditioner.norm_mean)
        encoding = encode_images(self.model, square, lambda image: square, "NCHW")
        assert isinstance(encoding, Encoding)
        return self._embedded(
            encoding.adaptors[self.adaptor_name].features,
            canvas,
            encoding,
            self._patch_tokens(encoding.features),
        )

    def embed(self, features: Tensor, image_size: tuple[int, int]) -> EmbeddedImage:
        """Continue from features of any encoder, such as SAM's own: before its neck.

        Args:
            features: (1, C, grid, grid) of the square that the image was laid on.
            image_size: Height and width of the image.

        Raises:
            ValueError: The features have another shape.
        """
        expected = (1, self._neck.feature_dim, self._neck.grid, self._neck.grid)
        if tuple(features.shape) != expected:
            raise ValueError(f"expected features {expected} before the neck, got {tuple(features.shape)}")
        return self._embedded(features.to(self.model.device).float(), self._place(*image_size))

    def predict(
        self, image: EmbeddedImage, prompts: Prompt | Sequence[Prompt], several: bool = False
    ) -> Masks:
        """Masks for prompts. The model does not run again.

        Args:
            image: From `encode`.
            prompts: One for each object.
            several: Give all three masks (whole, part, part of a part) that the decoder has for each prompt, best
                first. By default one mask for each: the best of the three for a single point, which may mean any of
                them; the decoder's one answer for anything else.

        Raises:
            ValueError: There is no prompt, or one lies outside of the image.
        """
        prompts = [prompts] if isinstance(prompts, Prompt) else list(prompts)
        if not prompts:
            raise ValueError("there is no prompt; give at least one Prompt(points=[(x, y)])")
        decoder = self._decoder()
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for batch in batches(prompts, image.canvas, self.batch_size, self.model.device):
            three = several or batch.ambiguous
            logits, scores = decoder.decode(image.embedding, batch.points, batch.labels, batch.boxes, three)
            order = scores.argsort(dim=1, descending=True, stable=True)[:, : None if several else 1]
            for i, number in enumerate(batch.numbers):
                full = image.canvas.to_image(logits[i, order[i]])
                found[number] = full > decoder.threshold, scores[i, order[i]]
        masks, scores_of = zip(*(found[number] for number in range(len(prompts))), strict=True)
        numbers = torch.arange(len(prompts), device=self.model.device)
        return Masks(torch.cat(masks), torch.cat(scores_of), numbers.repeat_interleave(len(masks[0])))

    def everything(self, image: EmbeddedImage, options: AutomaticOptions | None = None) -> Masks:
        """Masks of everything in the image, from a grid of points, highest score first. The model does not run again.

        Args:
            image: From `encode`.
            options: Which masks are kept; SAM's own choice if None.
        """
        return mask_everything(
            self._decoder(),
            image.embedding,
            image.canvas,
            options or AutomaticOptions(),
            self.batch_size,
            self.model.device,
        )

    def concepts(self, image: EmbeddedImage, words: str | Sequence[str], least_score: float = 0.5) -> Masks:
        """Masks of every instance of concepts in words, with SAM 3. The model does not run again.

        Args:
            image: From `encode`.
            words: Short noun phrases in English, such as ``["red cup", "spoon"]``. Each is looked for by itself.
            least_score: Instances of a lower probability are left out.

        Returns:
            The masks of the first concept, highest score first, then those of the second, and so on; ``prompt`` is the
            number of the concept. There are none of what the image does not show.

        Raises:
            ValueError: There are no words, more than SAM 3 takes, or no detector.
        """
        asked = [words] if isinstance(words, str) else list(words)
        if not asked or not all(phrase.strip() for phrase in asked):
            raise ValueError("there is nothing to look for; give short noun phrases, such as ['red cup']")
        if self.detector is None or image.concept_embedding is None:
            raise ValueError(
                "words need SAM 3's detector; use PromptableSegmenter.from_pretrained(model, concepts=True) and its "
                "encode, with a model that has the adaptor sam3"
            )
        return find_concepts(self.detector, image.concept_embedding, image.canvas, asked, least_score)

    def _embedded(
        self,
        features: Tensor,
        canvas: Canvas,
        encoding: Encoding | None = None,
        patches: Tensor | None = None,
    ) -> EmbeddedImage:
        return EmbeddedImage(
            None if self.decoder is None else self.decoder.embed(features),
            canvas,
            encoding,
            patches,
            None if self.detector is None else self.detector.embed(features),
        )

    def _decoder(self) -> MaskDecoder:
        if self.decoder is None:
            raise ValueError(
                "this is SAM 3's detector alone, which takes words and no points; use concepts(), or load "
                f"{DEFAULT_REPOSITORIES['sam3']}, which has both"
            )
        return self.decoder

    def _patch_tokens(self, features: Tensor) -> Tensor:
        """The final tokens, as they are before the feature normalizer, which summary heads were not made for."""
        normalizer = self.model.feature_normalizer
        if normalizer is None:
            return features
        tokens = normalizer.undo(features.flatten(2).mT)
        return tokens.mT.unflatten(2, features.shape[-2:])

    def _place(self, height: int, width: int) -> Canvas:
        return place(height, width, self._neck.side, self._neck.keeps_aspect)

    def _check_side(self, upsample_factor: int) -> None:
        model, side = self.model, self._side
        if self._neck.grid * model.patch_size % upsample_factor or side % model.min_resolution_step:
            raise ValueError(
                f"this decoder takes {self._neck.grid} x {self._neck.grid} features, for which the model would run "
                f"at {side} x {side} pixels, but its sides are multiples of {model.min_resolution_step}; load it with "
                "other ViTDet windows, or without"
            )
        if side > model.max_resolution:
            raise ValueError(
                f"this decoder takes {self._neck.grid} x {self._neck.grid} features, for which the model would run "
                f"at {side} x {side} pixels, but it supports sides up to {model.max_resolution}"
            )


def _common_neck(decoder: MaskDecoder | None, detector: ConceptDetector | None) -> Neck:
    """Either one, which says what features it takes; both, if there are both, take the same."""
    if detector is None:
        if decoder is None:
            raise ValueError("there is neither a mask decoder nor a concept detector")
        return decoder
    if decoder is not None and _takes(decoder) != _takes(detector):
        raise ValueError(
            "the mask decoder and the concept detector are not of the same SAM 3: they take "
            f"{_takes(decoder)} and {_takes(detector)} (adaptor, channels, patches of a side, pixels of a side)"
        )
    return detector


def _takes(neck: Neck) -> tuple[str, int, int, int]:
    return neck.adaptor_name, neck.feature_dim, neck.grid, neck.side
