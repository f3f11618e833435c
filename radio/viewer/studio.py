"""The models of the viewer and what they compute of photographs. Its methods are called in one thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from radio.model import RADIOModel
from radio.modeling.token_merging.outputs import MergedRadioOutput
from radio.tasks.segmentation import patch_embeddings
from radio.tasks.similarity import attention_maps
from radio.tasks.zero_shot import DEFAULT_LOGIT_SCALE, class_embeddings, get_adaptor
from radio.viewer.cache import Cache, Key
from radio.viewer.photos import Photo

SMALLEST_SIZE, LARGEST_SIZE = 224, 1024
"""Long sides at which photographs are run, in pixels, as near as the model's step allows."""

BACKBONE = "backbone"
"""What the backbone's own features are called among those of adaptors."""

_SIZE_STEP = 32
_DEFAULT_SIZE = 518
_LADDER = (224, 384, 544, 768, 1024)
_KEPT_BYTES = 2**29


class Source(NamedTuple):
    """Where a map comes from.

    Attributes:
        photo: The photograph.
        model: Name of the model.
        adaptor: Name of the adaptor, or `BACKBONE`.
        size: The long side, in pixels; one of the model's `ViewedModel.sizes`.
    """

    photo: Photo
    model: str
    adaptor: str
    size: int


class ViewedModel:
    """A model with what the page may choose about it.

    Args:
        name: What it is called.
        model: The model.
    """

    def __init__(self, name: str, model: RADIOModel[Any]) -> None:
        self.name = name
        self.model = model
        self.adaptors = (BACKBONE, *dict(model.adaptors or {}))

    @cached_property
    def sizes(self) -> list[int]:
        """Long sides that may be chosen, in pixels."""
        step = self.model.min_resolution_step
        largest = min(LARGEST_SIZE, self.model.max_resolution)
        wanted = range(min(SMALLEST_SIZE, largest), largest + 1, _SIZE_STEP)
        return sorted({max(step, min(round(side / step), largest // step) * step) for side in wanted})

    @property
    def default_size(self) -> int:
        """The long side that is shown first."""
        return self.nearest(min(_DEFAULT_SIZE, *self.model.preferred_resolution))

    @property
    def ladder(self) -> list[int]:
        """The long sides that are shown beside each other."""
        return sorted({self.nearest(side) for side in _LADDER})

    @property
    def text_adaptors(self) -> list[str]:
        """The adaptors that know words."""
        return [name for name in self.adaptors[1:] if get_adaptor(self.model, name).has_text]

    @property
    def attention_blocks(self) -> list[int]:
        """Numbers of the blocks whose attention over the whole image can be shown; perhaps none."""
        if "attention_maps" in self.model.backbone.refuses:
            return []
        windows = self.model.windows
        return [i for i in range(len(self.model.blocks)) if windows is None or not windows.schedule[i]]

    def nearest(self, side: int) -> int:
        """The size nearest to a long side."""
        return min(self.sizes, key=lambda size: abs(size - side))

    def describe(self) -> dict[str, Any]:
        """What the page needs to know, as plain values."""
        tokens = {**dict(zip(self.model.config.summary_idxs, self.model.config.summary_names, strict=False))}
        return {
            "name": self.name,
            "adaptors": list(self.adaptors),
            "text": self.text_adaptors,
            "sizes": self.sizes,
            "size": self.default_size,
            "ladder": self.ladder,
            "blocks": self.attention_blocks,
            "tokens": [tokens.get(i, f"class token {i}") for i in range(self.model.num_cls_tokens)],
            "no_attention": self.model.backbone.refuses.get("attention_maps"),
            "patch": self.model.patch_size,
        }


class Words(NamedTuple):
    """A photograph compared with labels.

    Attributes:
        patches: (K, h, w) float32, cosine similarities of patches and labels.
        similarity: (K) float32, of the whole photograph and labels.
        share: (K) float32, the softmax of these times the teacher's scale.
    """

    patches: Tensor
    similarity: Tensor
    share: Tensor


class Studio:
    """Models, and the results that are kept of them.

    Args:
        models: By name, in the order in which the page offers them.
    """

    def __init__(self, models: Mapping[str, RADIOModel[Any]]) -> None:
        self.models = {name: ViewedModel(name, model) for name, model in models.items()}
        self._cache = Cache(_KEPT_BYTES)

    def features(self, source: Source) -> Tensor:
        """Spatial features (C, h, w) float32 on the CPU."""
        return self._encoded(source)[f"{source.adaptor} features"]

    def attention(self, source: Source, block: int) -> Tensor:
        """What every class token attends to in a block: (tokens, heads, h, w) float32 on the CPU.

        Raises:
            ValueError: The model has no such attention.
        """
        model = self.models[source.model].model

        def compute() -> Tensor:
            with torch.inference_mode():
                resized = model.resize(source.photo.pixels, f"long:{source.size}")
                return attention_maps(model, resized, block).prefix[: model.num_cls_tokens].cpu()

        return self._cache.get(Key(source.photo.id, "attention", (source.model, source.size, block)), compute)

    def words(self, source: Source, labels: Sequence[str]) -> Words:
        """A photograph compared with labels, in the space of an adaptor that knows words.

        Raises:
            ValueError: The adaptor does not.
        """
        model = self.models[source.model].model
        adaptor = get_adaptor(model, source.adaptor)
        with torch.inference_mode():
            text = torch.cat([self._label(source, label) for label in labels])
            patches = self._cache.get(
                Key(source.photo.id, "patches", source[1:]),
                lambda: patch_embeddings(
                    model, source.adaptor, model.resize(source.photo.pixels, f"long:{source.size}")[None]
                )[0].cpu(),
            )
            maps = torch.einsum("kd,dhw->khw", text, F.normalize(patches, dim=0))
            summary = self._encoded(source)[f"{source.adaptor} summary"]
            similarity = text @ F.normalize(summary, dim=0)
        scale = (adaptor.text.logit_scale if adaptor.text else None) or DEFAULT_LOGIT_SCALE
        return Words(maps, similarity, (similarity * scale).softmax(dim=0))

    def forget(self, photos: Sequence[str]) -> None:
        """Drop what is kept of photographs that are gone."""
        self._cache.forget(photos)

    def _label(self, source: Source, label: str) -> Tensor:
        """A label's embedding (1, D). Labels have no photograph: they are kept under an empty id."""
        adaptor = get_adaptor(self.models[source.model].model, source.adaptor)
        return self._cache.get(
            Key("", "label", (source.model, source.adaptor, label)),
            lambda: class_embeddings(adaptor, [label]),
        )

    def _encoded(self, source: Source) -> dict[str, Tensor]:
        """Features (C, h, w) and summaries (D) of one pass, of the backbone and of all adaptors."""
        return self._cache.get(
            Key(source.photo.id, "encoded", (source.model, source.size)), lambda: self._encode(source)
        )

    def _encode(self, source: Source) -> dict[str, Tensor]:
        model = self.models[source.model].model
        encoded = model.encode(source.photo.pixels, size=f"long:{source.size}", feature_fmt="NCHW")
        found: dict[str, Tensor] = {}
        for name, output in {BACKBONE: encoded.backbone, **encoded.adaptors}.items():
            assert not isinstance(output, MergedRadioOutput)
            found[f"{name} features"] = output.features[0].float().cpu()
            found[f"{name} summary"] = output.summary[0].float().cpu()
        return found
