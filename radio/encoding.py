"""Images of any kind to features: read, resize, run in as few passes as possible, hand back one result per image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from radio.arrays import ArrayEncoding, ArrayOutput, as_array
from radio.images import ImageInput, as_list, is_batch
from radio.modeling.input_conditioner import InputConditioner
from radio.modeling.network import FeatureFormat, RADIONetwork
from radio.modeling.outputs import Grid, RadioOutput, Resolution, describe_fields, to_format
from radio.modeling.token_merging import InNetworkMerging, MergePlan, TokenMerging
from radio.modeling.token_merging.outputs import MergedRadioOutput
from radio.modeling.token_merging.requests import check_merging, merging_per_image

_ImageOutput = RadioOutput | MergedRadioOutput


_CONDENSED = "encoder"


@dataclass(frozen=True, eq=False)
class Encoding:
    """The features of one image.

    Attributes:
        summary: (1, D).
        features: Spatial features, (1, L, C) for "NLC" or (1, C, h, w) for "NCHW"; merged tokens (1, K, C) with
            `merge`, or with a `tome` that does not expand.
        summary_by_teacher: The part of the summary that was trained for each teacher, (1, C) each.
        adaptors: Each adaptor's own output, float32.
        backbone: The backbone's whole output; with token merging it also has the tokens' sizes and positions.
        condensed: RADIO1D without a `neck_name`: the encoder's output, features (1, K, D); everything else is the
            decoder's then.
        image_size: Height and width at which the image was run, in pixels.
        grid: Patches down and across.
    """

    summary: Tensor
    features: Tensor
    summary_by_teacher: Mapping[str, Tensor]
    image_size: Resolution
    grid: tuple[int, int]
    backbone: _ImageOutput
    adaptors: Mapping[str, _ImageOutput] = field(default_factory=dict)
    condensed: _ImageOutput | None = None

    def __repr__(self) -> str:
        """Shapes, dtypes and devices, not numbers."""
        shown = {
            "summary": self.summary,
            "features": self.features,
            "summary_by_teacher": dict(self.summary_by_teacher),
            "image_size": tuple(self.image_size),
            "grid": self.grid,
            "adaptors": dict(self.adaptors),
        }
        if self.condensed is not None:
            shown["condensed"] = self.condensed
        return describe_fields("Encoding", shown)

    def normalized(self) -> Encoding:
        """The same with every summary scaled to length 1: the whole, each teacher's part, and each adaptor's."""
        backbone = _with_unit_summary(self.backbone)
        return replace(
            self,
            summary=backbone.summary,
            summary_by_teacher={name: _unit(part) for name, part in self.summary_by_teacher.items()},
            backbone=backbone,
            adaptors={name: _with_unit_summary(output) for name, output in self.adaptors.items()},
        )

    def numpy(self) -> ArrayEncoding:
        """The same as NumPy arrays, from any device; bfloat16, which NumPy does not have, becomes float32."""
        merged = self.backbone if isinstance(self.backbone, MergedRadioOutput) else None
        return ArrayEncoding(
            summary=as_array(self.summary),
            features=as_array(self.features),
            summary_by_teacher={name: as_array(part) for name, part in self.summary_by_teacher.items()},
            adaptors={
                name: ArrayOutput(as_array(output.summary), as_array(output.features))
                for name, output in self.adaptors.items()
            },
            image_size=self.image_size,
            grid=self.grid,
            positions=as_array(merged.positions) if merged else None,
            sizes=as_array(merged.sizes) if merged else None,
        )


def encode_images(
    model: RADIONetwork,
    images: ImageInput | Sequence[ImageInput] | Iterator[ImageInput],
    prepare: Callable[[ImageInput], Tensor],
    feature_fmt: FeatureFormat = "NLC",
    batch_size: int = 8,
    merge: TokenMerging | Sequence[TokenMerging] | None = None,
    tome: InNetworkMerging | None = None,
    num_tokens: int | None = None,
) -> Encoding | list[Encoding]:
    """Features of images; see `RADIOModel.encode`.

    Args:
        prepare: Reads one image and resizes it to (3, H, W) in [0, 1] at a size that the model supports.
    """
    if not isinstance(model.input_conditioner, InputConditioner):
        raise RuntimeError(
            "the preprocessor was made external, so encode() cannot normalize; "
            "set model.input_conditioner to it again, or call model(conditioner(x))"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    several = is_batch(images)
    images = _as_source(images) if several else images
    check_merging(merge, tome, feature_fmt, one_size=False, windowed=model.window_size is not None)
    encodings: list[Encoding] = []
    for sources, merges in _groups(images if several else [images], merge, batch_size):
        group = [prepare(source).to(model.device) for source in sources]
        encodings += _encode_group(model, group, feature_fmt, merges, tome, num_tokens)
    return encodings if several else encodings[0]


def packed_frames(images: Any, count: int | None) -> Iterator[list[Any]]:
    """So many consecutive frames at a time; the last frame is repeated where there are too few.

    Raises:
        ValueError: The model has no projection for packed frames, or these are no frames.
    """
    if count is None:
        raise ValueError(
            "this model has no projection for packed frames (config.video_temporal_patch_size is None), as no released "
            "version has; leave pack_frames out, and every frame is encoded by itself"
        )
    if not is_batch(images):
        raise ValueError(
            "pack_frames is for the frames of a video: a list, an iterator, or a batch as one array"
        )
    frames = _as_source(images)
    return _runs(frames if isinstance(frames, Iterator) else iter(as_list(frames)), count)


def _as_source(images: Any) -> Any:
    """Several images as they were given, or an iterator over what is no sequence, such as a data set."""
    return images if isinstance(images, Sequence | Tensor | np.ndarray) else iter(images)


def _runs(frames: Iterator[Any], count: int) -> Iterator[list[Any]]:
    while run := list(islice(frames, count)):
        yield run + run[-1:] * (count - len(run))


def pack_channels(prepare: Callable[[ImageInput], Tensor], frames: Sequence[ImageInput]) -> Tensor:
    """Frames of one size as one image of 3·t channels, frame after frame.

    Raises:
        ValueError: They differ in size.
    """
    pixels = [prepare(frame) for frame in frames]
    if len({image.shape for image in pixels}) > 1:
        raise ValueError("frames that are packed together have one size; give a size such as (512, 768)")
    return torch.cat(pixels)


def _groups(
    images: Any, merge: TokenMerging | Sequence[TokenMerging] | None, batch_size: int
) -> Iterator[tuple[list[Any], Sequence[TokenMerging | None]]]:
    """Images that run together, and what merges each. Of an iterator, such as the frames of a video, only one group is
    held at a time."""
    if isinstance(images, Iterator) and not isinstance(merge, Sequence):
        while group := list(islice(images, batch_size)):
            yield group, merging_per_image(merge, len(group))
        return
    sources = as_list(images)
    merges = merging_per_image(merge, len(sources))
    for start in range(0, len(sources), batch_size):
        part = slice(start, start + batch_size)
        yield sources[part], merges[part]


@torch.no_grad()
def _encode_group(
    model: RADIONetwork,
    images: list[Tensor],
    feature_fmt: FeatureFormat,
    merges: Sequence[TokenMerging | None],
    tome: InNetworkMerging | None,
    num_tokens: int | None,
) -> list[Encoding]:
    """One pass: a dense batch when all images have one size, packed otherwise."""
    both = model._config.radio1d is not None and model._config.radio1d.neck_name is None
    asked = feature_fmt
    if both:
        feature_fmt = "NLC"  # of the two outputs only the decoder's is a map
    same_size = len({image.shape for image in images}) == 1
    if same_size and all(merge == merges[0] for merge in merges):
        batch = _named(model(torch.stack(images), feature_fmt, merges[0], tome, num_tokens))
        outputs = [{name: _image(output, i) for name, output in batch.items()} for i in range(len(images))]
    else:
        each = None if merges[0] is None else cast(Sequence[TokenMerging], merges)
        packed = model(images, feature_fmt, each, tome, num_tokens)
        outputs = [_named(output) for output in packed]
    if both and asked == "NCHW":
        for image, named in zip(images, outputs, strict=True):
            grid = (image.shape[-2] // model.patch_size, image.shape[-1] // model.patch_size)
            named |= {name: _as_map(o, grid) for name, o in named.items() if name != _CONDENSED}
    return [_encoding(model, image, output) for image, output in zip(images, outputs, strict=True)]


def _unit(summary: Tensor) -> Tensor:
    return F.normalize(summary.float(), dim=-1).to(summary.dtype)


def _with_unit_summary(output: _ImageOutput) -> _ImageOutput:
    return output._replace(summary=_unit(output.summary))


def _named(output: Any) -> dict[str, _ImageOutput]:
    """The outputs by name: the backbone's, those of adaptors, and the condensed tokens of a model that gives both."""
    if not isinstance(output, dict):
        return {"backbone": output}
    if "backbone" in output:
        return output
    return {**_named(output["decoder"]), _CONDENSED: output["encoder"]}


def _as_map(output: _ImageOutput, grid: Grid) -> RadioOutput:
    """An output with its features (1, h·u·w·u, C) as a map, u times finer than the patches."""
    finer = math.isqrt(output.features.shape[1] // (grid[0] * grid[1]))
    features = to_format(output.features, (grid[0] * finer, grid[1] * finer), "NCHW")
    return RadioOutput(output.summary, features)


def _image(output: _ImageOutput, i: int) -> _ImageOutput:
    """Image i of a batch, as a batch of one."""
    one = slice(i, i + 1)
    if isinstance(output, RadioOutput):
        return RadioOutput(output.summary[one], output.features[one])
    assignment, source_sizes, sizes, grid = output.plan
    plan = MergePlan(assignment[one], source_sizes[one], sizes[one], grid)
    return MergedRadioOutput(
        output.summary[one], output.features[one], output.sizes[one], output.positions[one], plan
    )


def _encoding(model: RADIONetwork, image: Tensor, outputs: dict[str, _ImageOutput]) -> Encoding:
    backbone = outputs["backbone"]
    height, width = image.shape[-2:]
    return Encoding(
        summary=backbone.summary,
        features=backbone.features,
        summary_by_teacher=model.split_summary(backbone.summary),
        image_size=Resolution(height, width),
        grid=(height // model.patch_size, width // model.patch_size),
        backbone=backbone,
        adaptors={name: output for name, output in outputs.items() if name not in ("backbone", _CONDENSED)},
        condensed=outputs.get(_CONDENSED),
    )
