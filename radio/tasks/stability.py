"""How stable features are over the frames of a video."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from radio.images import ImageInput, SizeSpec
from radio.model import RADIOModel
from radio.tasks.spatial import chunked
from radio.tasks.zero_shot import get_adaptor

STILL = 2 / 255
"""Patches whose pixels change less on average, from one frame to the next, stand still."""


class Stability(NamedTuple):
    """Similarities over the frames of a video. Each is a mean cosine similarity, 1 for features that do not change.

    Attributes:
        frames: How many frames there were.
        features: Of the features at one place in one frame and the next.
        still_features: The same where the picture stands still (see `STILL`): what is missing to 1 is flicker. NaN if
            nothing stands still.
        still_share: The share of those places.
        drift: Of the features at one place in the first frame and every other.
        summary: Of the summaries of one frame and the next.
        summary_drift: Of the summaries of the first frame and every other.
        pixels: For comparison, how much pixels change from one frame to the next: the mean absolute difference, in
            [0, 1].
    """

    frames: int
    features: float
    still_features: float
    still_share: float
    drift: float
    summary: float
    summary_drift: float
    pixels: float


class _Frame(NamedTuple):
    pixels: Tensor
    features: Tensor
    summary: Tensor


class _Mean:
    """The mean of many values, in double precision; NaN for none."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, values: Tensor) -> None:
        self._sum += float(values.cpu().double().sum())
        self._count += values.numel()

    @property
    def value(self) -> float:
        return self._sum / self._count if self._count else float("nan")

    @property
    def count(self) -> int:
        return self._count


def measure_stability(
    model: RADIOModel,
    frames: Iterable[ImageInput],
    size: SizeSpec = None,
    adaptor_name: str | None = None,
    batch_size: int = 8,
) -> Stability:
    """Compare the features of a video's frames with each other. Holds one batch of frames at a time.

    Objects that move change what is at a place, so compare numbers of one video with each other: of models, of sizes,
    of adaptors. `Stability.still_features` is the number that motion does not change.

    Args:
        model: A model, with the adaptor if one is asked for.
        frames: At least two, of one size, e.g. from `radio.data.video.sample_frames`.
        size: At which they are run, as in `radio.images.target_size`.
        adaptor_name: The teacher's space; the backbone's own if None.
        batch_size: Frames per forward pass.

    Raises:
        ImageError: A frame cannot be read.
        ValueError: There are fewer than two frames, they differ in size, or the adaptor or the size does not fit.
    """
    if adaptor_name is not None:
        get_adaptor(model, adaptor_name)
    names = ("features", "still", "drift", "summary", "summary_drift", "pixels")
    mean = {name: _Mean() for name in names}
    first: _Frame | None = None
    before: _Frame | None = None
    count = 0
    for batch in chunked(frames, batch_size):
        pixels = [model.resize(frame, size) for frame in batch]
        shapes = {image.shape for image in [*pixels, *([first.pixels] if first else [])]}
        if len(shapes) > 1:
            sizes = " and ".join(sorted(f"{shape[1]} x {shape[2]}" for shape in shapes))
            raise ValueError(f"the frames of a video have one size, but some run at {sizes} (height x width)")
        for frame in _encoded(model, pixels, adaptor_name):
            count += 1
            if first is None or before is None:
                first = before = frame
                continue
            similarity = F.cosine_similarity(frame.features, before.features, dim=0)
            change = (frame.pixels - before.pixels).abs().mean(dim=0)
            mean["features"].add(similarity)
            mean["still"].add(similarity[_still(change, similarity.shape).to(similarity.device)])
            mean["drift"].add(F.cosine_similarity(frame.features, first.features, dim=0))
            mean["summary"].add(F.cosine_similarity(frame.summary, before.summary, dim=0))
            mean["summary_drift"].add(F.cosine_similarity(frame.summary, first.summary, dim=0))
            mean["pixels"].add(change)
            before = frame
    if count < 2:
        raise ValueError(f"stability over frames needs at least two, got {count}")
    return Stability(
        count,
        mean["features"].value,
        mean["still"].value,
        mean["still"].count / mean["features"].count,
        mean["drift"].value,
        mean["summary"].value,
        mean["summary_drift"].value,
        mean["pixels"].value,
    )


def _encoded(model: RADIOModel, pixels: list[Tensor], adaptor_name: str | None) -> list[_Frame]:
    """Frames that have the size at which they are run."""
    exactly = (pixels[0].shape[-2], pixels[0].shape[-1])
    encodings = model.encode(pixels, exactly, "NCHW", batch_size=len(pixels))
    found = []
    for image, encoding in zip(pixels, encodings, strict=True):
        output = encoding.backbone if adaptor_name is None else encoding.adaptors[adaptor_name]
        found.append(_Frame(image.cpu(), output.features[0].float(), output.summary[0].float()))
    return found


def _still(change: Tensor, grid: torch.Size) -> Tensor:
    """The cells of a grid over changes (H, W) in which the mean is small."""
    return F.adaptive_avg_pool2d(change[None], (grid[0], grid[1]))[0] < STILL
