"""PCA of spatial features to colors: one fit for all images, sizes and frames, so that colors agree.

>>> accumulator = PCAAccumulator()
>>> for path in paths:
...     accumulator.add(model.encode(path, feature_fmt="NCHW").features)
>>> fit = accumulator.fit()
>>> rgb = fit.to_rgb(model.encode("photo.jpg", feature_fmt="NCHW").features)  # (1, 3, h, w)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from radio.data.tensor_files import save_tensors
from radio.files import Outputs, open_regular

OUTLIER_SCORE = 6.0
"""Robust z-score of its norm above which a patch is an outlier."""

_COMPONENTS = 3
_SAMPLE_SIZE = 8192
_SMALLEST_SPREAD = 0.02
_KIND = "radio pca"


@dataclass(frozen=True)
class PCAFit:
    """Three principal directions and the range that becomes a color.

    Attributes:
        mean: (C,) float32.
        components: (3, C) float32, rows of length 1; the loading of largest magnitude of each is positive.
        low: (3,) float32, the projections that become 0.
        high: (3,) float32, the projections that become 1.
        explained: (3,) float32, the share of the variance along each direction.
        source: What it was fitted on: names and values, as texts.
    """

    mean: Tensor
    components: Tensor
    low: Tensor
    high: Tensor
    explained: Tensor
    source: Mapping[str, str] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """Number C of channels of the features."""
        return self.mean.shape[0]

    def project(self, features: Tensor) -> Tensor:
        """Coordinates along the three directions.

        Args:
            features: (..., C, h, w), floating point.

        Returns:
            (..., 3, h, w) float32, on the features' device.

        Raises:
            ValueError: The features have another width.
        """
        if features.ndim < 3 or features.shape[-3] != self.width:
            trained = "".join(f", {name} {value}" for name, value in self.source.items() if value)
            raise ValueError(
                f"this PCA was fitted on features of {self.width} channels{trained}, but these are "
                f"{tuple(features.shape)} (..., C, h, w); use the same model and adaptor, or make a new fit"
            )
        mean, components = self.mean.to(features.device), self.components.to(features.device)
        return torch.einsum("kc,...chw->...khw", components, features.float() - mean[:, None, None])

    def to_rgb(self, features: Tensor) -> Tensor:
        """Features as colors.

        Args:
            features: (..., C, h, w), floating point.

        Returns:
            (..., 3, h, w) float32 in [0, 1]; what lies outside the fit's range is clamped.

        Raises:
            ValueError: The features have another width.
        """
        coordinates = self.project(features)
        low, high = (bound.to(features.device)[:, None, None] for bound in (self.low, self.high))
        return ((coordinates - low) / (high - low)).clamp(0, 1)

    def save(self, path: str | Path, outputs: Outputs | None = None) -> None:
        """Write a safetensors file; it appears when it is whole.

        Args:
            path: The file.
            outputs: Of the run that it belongs to.

        Raises:
            ValueError: The file is an input of the run or was written by it.
            OSError: The file cannot be written.
        """
        tensors = {
            name: getattr(self, name).cpu().clone(memory_format=torch.contiguous_format) for name in _TENSORS
        }
        metadata = {"kind": _KIND, "source": json.dumps(dict(self.source))}
        with (outputs or Outputs()).write(path) as temporary:
            save_tensors(temporary, tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> PCAFit:
        """Read what `save` wrote.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is not a saved fit.
        """
        open_regular(path).close()
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                names = set(file.keys())
                if metadata.get("kind") != _KIND or names != set(_TENSORS):
                    raise ValueError(f"{path} is not a saved PCA fit; make one with 'radio pca --save-fit'")
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
        except SafetensorError as error:
            raise ValueError(f"{path} is not a saved PCA fit: {error}") from error
        width = tensors["mean"].numel()
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(_TENSORS, (_COMPONENTS,))
        shapes |= {"mean": (width,), "components": (_COMPONENTS, width)}
        for name, shape in shapes.items():
            if tuple(tensors[name].shape) != shape or not tensors[name].isfinite().all():
                raise ValueError(
                    f"{path} is damaged: {name} must hold finite numbers of shape {shape}, "
                    f"got {tuple(tensors[name].shape)}"
                )
        return cls(**tensors, source=json.loads(metadata.get("source", "{}")))

    def mismatch(self, space: Mapping[str, str]) -> str | None:
        """Why the colors of some features would mean nothing: the fit was made in another space.

        Args:
            space: What the features are, as `radio.tasks.spatial.feature_space` gives it.

        Returns:
            A sentence, or None when the spaces are the same or one of them is not known.
        """
        fitted, given = self.source.get("space"), space.get("space")
        if not fitted or not given or fitted == given:
            return None
        return (
            f"this PCA was fitted in the space '{fitted}', but these features are in '{given}'; "
            "their colors cannot be compared"
        )


_TENSORS = ("mean", "components", "low", "high", "explained")


class PCAAccumulator:
    """Collects features, however many, in bounded memory: mean and covariance in float64 and a sample of patches.

    The result does not depend on how the features are cut into calls of `add`, except for the sample that the range
    comes from.

    Args:
        exclude_outliers: Leave patches of unusually high norm out (see `outlier_patches`).
        seed: For the sample.
    """

    def __init__(self, exclude_outliers: bool = True, seed: int = 0) -> None:
        self.exclude_outliers = exclude_outliers
        self.count = 0
        self.outliers = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._mean = torch.zeros(0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)
        self._sample = torch.zeros(0, 0)
        self._keys = torch.zeros(0)

    def add(self, features: Tensor, where: Tensor | None = None) -> None:
        """Take the features of images of one size.

        Args:
            features: (C, h, w) or (B, C, h, w), floating point.
            where: (h, w) or (B, h, w) bool, the patches that are taken, such as the foreground; all if None.

        Raises:
            ValueError: Another shape, another width than before, or values that are not finite.
        """
        if features.ndim not in (3, 4):
            raise ValueError(f"expected features (C, h, w) or (B, C, h, w), got {tuple(features.shape)}")
        if where is None:
            where = torch.ones(features.shape[:-3] + features.shape[-2:], dtype=torch.bool)
        if where.shape != features.shape[:-3] + features.shape[-2:]:
            raise ValueError(f"the mask is {tuple(where.shape)} but the features are {tuple(features.shape)}")
        images, masks = (features, where) if features.ndim == 4 else (features[None], where[None])
        for image, mask in zip(images, masks, strict=True):
            self._add_image(image, mask.to(image.device))

    def fit(
        self, percentiles: tuple[float, float] = (1, 99), source: Mapping[str, str] | None = None
    ) -> PCAFit:
        """The three directions of largest variance.

        Args:
            percentiles: Which projections of the collected patches become 0 and 1.
            source: What the features are, to be kept with the fit: names and values.

        Raises:
            ValueError: Fewer than 4 patches or 3 channels were collected, or the percentiles are not in order.
        """
        low, high = percentiles
        if not 0 <= low < high <= 100:
            raise ValueError(f"percentiles must satisfy 0 <= low < high <= 100, got {percentiles}")
        if self.count <= _COMPONENTS or self._mean.numel() < _COMPONENTS:
            raise ValueError(
                f"a PCA needs at least {_COMPONENTS + 1} patches of {_COMPONENTS} channels, "
                f"got {self.count} of {self._mean.numel()}; more or larger images have more patches"
            )
        variances, directions = torch.linalg.eigh(self._scatter / self.count)
        components = _fix_signs(directions.T.flip(0)[:_COMPONENTS])
        total = variances.clamp_min(0).sum().clamp_min(torch.finfo(torch.float64).tiny)
        projected = (self._sample.double() - self._mean) @ components.T
        bounds = torch.quantile(projected, torch.tensor([low / 100, high / 100], dtype=torch.float64), dim=0)
        return PCAFit(
            mean=self._mean.float(),
            components=components.float(),
            low=bounds[0].float(),
            high=torch.maximum(bounds[1], bounds[0] + 1e-6).float(),
            explained=(variances.flip(0)[:_COMPONENTS].clamp_min(0) / total).float(),
            source=dict(source or {}),
        )

    def _add_image(self, features: Tensor, where: Tensor) -> None:
        if not features.isfinite().all():
            raise ValueError("the features have values that are not finite")
        width = features.shape[0]
        if self._mean.numel() not in (0, width):
            raise ValueError(f"expected features of {self._mean.numel()} channels as before, got {width}")
        taken = where.flatten()
        if self.exclude_outliers:
            outliers = outlier_patches(features).flatten() & taken
            self.outliers += int(outliers.sum())
            taken = taken & ~outliers
        patches = features.detach().flatten(1).T[taken]
        if self._mean.numel() == 0:
            self._mean = torch.zeros(width, dtype=torch.float64)
            self._scatter = torch.zeros(width, width, dtype=torch.float64)
            self._sample = torch.zeros(0, width)
        if not len(patches):
            return
        patches = patches.float().cpu()
        self._update_moments(patches.double())
        self._update_sample(patches)

    def _update_moments(self, patches: Tensor) -> None:
        """Join two sets' moments (Chan, Golub, LeVeque 1983, "Algorithms for Computing the Sample Variance")."""
        mean = patches.mean(dim=0)
        centered = patches - mean
        difference = mean - self._mean
        total = self.count + len(patches)
        self._scatter += centered.T @ centered
        self._scatter += torch.outer(difference, difference) * (self.count * len(patches) / total)
        self._mean += difference * (len(patches) / total)
        self.count = total

    def _update_sample(self, patches: Tensor) -> None:
        """Every patch draws a number and those with the smallest stay: each patch is as likely as any other."""
        keys = torch.cat([self._keys, torch.rand(len(patches), generator=self._generator)])
        sample = torch.cat([self._sample, patches])
        if len(keys) > _SAMPLE_SIZE:
            kept = keys.topk(_SAMPLE_SIZE, largest=False).indices
            keys, sample = keys[kept], sample[kept]
        self._keys, self._sample = keys, sample


def outlier_patches(features: Tensor, score: float = OUTLIER_SCORE) -> Tensor:
    """Patches whose norm is unusually high for their image.

    Large vision transformers use a few patches of the background as scratch space (Darcet et al. 2023, "Vision
    Transformers Need Registers", arXiv 2309.16588). They are found by the robust z-score of their norms: the distance
    from the median in units of 1.4826 times the median absolute deviation, which is one standard deviation for normal
    values. The unit is at least 2 % of the median, so that images of nearly equal norms have no outliers.

    Args:
        features: (..., C, h, w), floating point.
        score: The z-score above which a patch is an outlier.

    Returns:
        (..., h, w) bool.
    """
    norms = features.detach().float().norm(dim=-3)
    flat = norms.flatten(-2)
    median = flat.median(dim=-1, keepdim=True).values
    deviation = 1.4826 * (flat - median).abs().median(dim=-1, keepdim=True).values
    unit = torch.maximum(deviation, _SMALLEST_SPREAD * median)
    return (flat - median > score * unit).view(norms.shape)


def _fix_signs(components: Tensor) -> Tensor:
    """Rows turned so that the entry of largest magnitude is positive."""
    largest = components.abs().argmax(dim=1, keepdim=True)
    return components * components.gather(1, largest).sign()
