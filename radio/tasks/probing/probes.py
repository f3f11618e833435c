"""Probes: a head together with the model whose features it takes. They predict from images, are measured, and saved."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from radio.data.batches import Progress
from radio.data.tensor_files import save_tensors
from radio.errors import ImageError
from radio.files import Outputs
from radio.images import ImageInput, SizeSpec, as_list, is_batch, load_image
from radio.model import RADIOModel
from radio.modeling.outputs import RadioOutput
from radio.tasks.pixels import best_labels, enlarge
from radio.tasks.probing.config import CONFIG_FILE, WEIGHTS_FILE, ProbeConfig, check_backbone
from radio.tasks.probing.features import (
    DenseData,
    LabeledData,
    read_features,
    read_target,
    warn_of_failures,
)
from radio.tasks.probing.metrics import (
    ClassificationMetrics,
    DepthMetrics,
    Metrics,
    SegmentationMetrics,
)
from radio.tasks.probing.sliding import SlidingWindows, sliding_maps
from radio.wording import counted

_ROWS_AT_ONCE = 1024


class LabelScore(NamedTuple):
    """One class for one image.

    Attributes:
        label: Its name.
        score: Its probability, or for neighbors its share of their votes; those of all classes add up to 1.
    """

    label: str
    score: float


class PixelLabels(NamedTuple):
    """Classes of an image's pixels.

    Attributes:
        label: ``(H, W)`` int64, the number of the best class of each pixel.
        probability: ``(K, H, W)`` float32, adding up to 1 over the classes.
    """

    label: Tensor
    probability: Tensor


class Probe:
    """A head on frozen features. Make one with `train_probe` or `load_probe`.

    Attributes:
        config: What it is.
        head: The trained module, on the model's device.
        model: Whose features it takes.

    Raises:
        ValueError: The model is not the one that the probe was trained on.
    """

    def __init__(self, config: ProbeConfig, head: nn.Module, model: RADIOModel) -> None:
        check_backbone(config, model)
        self.config = config
        self.head = head.to(model.device).eval()
        self.model = model

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; none for depth."""
        return self.config.classes

    def save(self, folder: str | os.PathLike[str], outputs: Outputs | None = None) -> None:
        """Write ``config.json`` and ``probe.safetensors``.

        The config names the hash of the other, so that an interrupted save is noticed.

        Args:
            folder: Made if it does not exist.
            outputs: The files of the run, which keep it from replacing an input.

        Raises:
            ValueError: The folder has the ``config.json`` of something else.
            OSError: It cannot be written.
        """
        place, outputs = Path(folder), outputs or Outputs()
        config = place / CONFIG_FILE
        if config.exists():
            ProbeConfig.read(config)  # a model's would be lost
        outputs.check(config, place / WEIGHTS_FILE)
        with outputs.write(place / WEIGHTS_FILE) as temporary:
            save_tensors(temporary, {n: v.cpu().contiguous() for n, v in self.head.state_dict().items()})
        digest = hashlib.sha256((place / WEIGHTS_FILE).read_bytes()).hexdigest()
        with outputs.write(config) as temporary:
            values = {**self.config.to_dict(), "weights": digest}
            temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    def _output(self, image: Any) -> RadioOutput:
        """The features of one image that the head takes, as maps."""
        return self._outputs([image], self.config.size)[0]

    def _outputs(self, images: list[Any], size: SizeSpec) -> list[RadioOutput]:
        """Those of several, at a size."""
        outputs = []
        for found in self.model.encode(images, size=size, feature_fmt="NCHW"):
            output = found.backbone if self.config.adaptor is None else found.adaptors[self.config.adaptor]
            assert isinstance(output, RadioOutput)
            outputs.append(output)
        return outputs


class ClassificationProbe(Probe):
    """Classes of images, by their summaries."""

    def predict(self, images: ImageInput | Sequence[ImageInput], top: int = 5) -> Any:
        """The best classes of one image, or of several.

        Args:
            images: As `RADIOModel.encode` takes them.
            top: How many classes.

        Returns:
            A list of `LabelScore`, best first; for several images a list of such lists.
        """
        several = is_batch(images)
        each = as_list(images) if several else [images]
        found = [self._ranked(self.scores(self._output(image).summary)[0], top) for image in each]
        return found if several else found[0]

    @torch.no_grad()
    def scores(self, vectors: Tensor) -> Tensor:
        """Probabilities (or shares of votes) of all classes, (B, K) on the CPU, for vectors (B, D)."""
        found = self.head(vectors.to(self.model.device).float())
        return (found.softmax(dim=1) if self.config.task == "linear" else found).cpu()

    def evaluate(
        self,
        data: LabeledData,
        features: str | os.PathLike[str],
        batch_size: int = 16,
        skip_unreadable: bool = False,
        progress: Progress | None = None,
    ) -> Metrics:
        """``top1``, ``top5`` and ``mean_class_accuracy`` on labeled images, in [0, 1].

        Args:
            data: With the same classes.
            features: Where features are kept.
            batch_size: Images a pass.
            skip_unreadable: Leave out images that cannot be read.
            progress: Shows the progress.

        Raises:
            ValueError: Other classes.
            ImageError: An image cannot be read.
            MissingExtraError: The extra ``probe`` is not installed.
        """
        _check_classes(data.classes, self.classes)
        metrics = ClassificationMetrics(self.classes)
        cached, rows = read_features(
            self.model, data, features, self.config.size, False, batch_size, skip_unreadable, progress
        )
        vectors = cached.vectors(self.config.adaptor or "summary")[rows]
        labels = torch.tensor(data.labels)[rows]
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            metrics.update(self.scores(vectors[part]), labels[part])
        return {"images": len(rows), **metrics.compute()}

    def _ranked(self, scores: Tensor, top: int) -> list[LabelScore]:
        best = scores.sort(descending=True, stable=True)
        pairs = zip(best.indices.tolist()[:top], best.values.tolist()[:top], strict=True)
        return [LabelScore(self.classes[number], score) for number, score in pairs]


class DenseProbe(Probe):
    """What probes on spatial features share."""

    def evaluate(
        self,
        data: DenseData,
        features: str | os.PathLike[str],
        batch_size: int = 16,
        skip_unreadable: bool = False,
        progress: Progress | None = None,
        windows: SlidingWindows | None = None,
    ) -> Metrics:
        """Compare what each image gets with the truth, at its own size.

        Other arguments and errors are those of `ClassificationProbe.evaluate`.

        Args:
            windows: Run every image in crops that overlap, and not at the size of the training. Features of crops are
                not kept.

        Returns:
            For classes ``miou`` over those that occur, ``pixel_accuracy``, and ``iou/CLASS``; for depths ``rmse`` in
            meters, ``abs_rel`` and ``delta1``.
        """
        metrics = self._metrics(data)
        if windows is None:
            found = self._cached(data, features, batch_size, skip_unreadable, progress)
        else:
            found = self._sliding(data, windows, skip_unreadable, progress)
        images = 0
        for maps, truth in found:
            metrics.update(self._pixels(maps, *truth.shape), truth)
            images += 1
        return {"images": images, **metrics.compute()}

    def _maps_of(self, image: ImageInput, windows: SlidingWindows | None) -> tuple[Tensor, int, int]:
        """The head's maps (K, h, w) of an image, and the image's height and width."""
        pixels = load_image(image)
        if windows is None:
            maps = self._head_maps(self._output(pixels).features)[0]
        else:
            maps = sliding_maps(self.model, self._crop_maps, pixels, windows)
        return maps, pixels.shape[-2], pixels.shape[-1]

    @torch.no_grad()
    def _head_maps(self, features: Tensor) -> Tensor:
        """The head's maps (B, K, h', w') of features (B, C, h, w)."""
        found: Tensor = self.head(features.to(self.model.device).float())
        return found

    def _crop_maps(self, crops: list[Tensor]) -> Tensor:
        outputs = self._outputs(crops, tuple(crops[0].shape[-2:]))
        return self._head_maps(torch.cat([output.features for output in outputs]))

    def _cached(
        self,
        data: DenseData,
        features: str | os.PathLike[str],
        batch_size: int,
        skip_unreadable: bool,
        progress: Progress | None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The head's maps and the truth of every image, from features in files."""
        cached, rows = read_features(
            self.model, data, features, self.config.size, True, batch_size, skip_unreadable, progress
        )
        name = self.config.adaptor or "features"
        for row in rows if progress is None else progress(rows, len(rows), "evaluating"):
            truth = read_target(data, row, cached.image_sizes[row], cached.ids[row])
            yield self._head_maps(cached.spatial(row, name)[None])[0], truth

    def _sliding(
        self, data: DenseData, windows: SlidingWindows, skip_unreadable: bool, progress: Progress | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The head's maps and the truth of every image, in crops."""
        failures: dict[str, ImageError] = {}
        rows = range(len(data))
        for row in rows if progress is None else progress(rows, len(rows), "evaluating"):
            try:
                pixels = load_image(data[row])
            except ImageError as error:
                failures[f"image {row}"] = error
                if not skip_unreadable or len(failures) == len(data):
                    raise
                continue
            maps, height, width = self._maps_of(pixels, windows)
            yield maps, read_target(data, row, (height, width), f"image {row}")
        warn_of_failures(failures)

    def _pixels(self, maps: Tensor, height: int, width: int) -> Tensor:
        """What maps (K, h, w) say of every pixel, (height, width) on the CPU."""
        raise NotImplementedError

    def _metrics(self, data: DenseData) -> SegmentationMetrics | DepthMetrics:
        raise NotImplementedError


class SegmentationProbe(DenseProbe):
    """Classes of pixels."""

    def predict(self, image: ImageInput, windows: SlidingWindows | None = None) -> PixelLabels:
        """The classes of an image's pixels, at the image's own size.

        Args:
            image: As `radio.images.load_image` takes it.
            windows: Run the image in crops that overlap, and not at the size of the training.

        Raises:
            ImageError: It cannot be read.
            ValueError: The windows do not fit the model.
        """
        maps, height, width = self._maps_of(image, windows)
        full = enlarge(maps[None], height, width)[0].cpu()
        return PixelLabels(full.argmax(dim=0), full.softmax(dim=0))

    def labels(self, image: ImageInput, windows: SlidingWindows | None = None) -> Tensor:
        """As `predict`, but the labels alone: probabilities of many classes take gigabytes.

        Returns:
            ``(H, W)`` int64.
        """
        return self._pixels(*self._maps_of(image, windows))

    def _pixels(self, maps: Tensor, height: int, width: int) -> Tensor:
        return best_labels(maps, height, width)[0].cpu()

    def _metrics(self, data: DenseData) -> SegmentationMetrics:
        _check_classes(getattr(data, "classes", self.classes), self.classes)
        return SegmentationMetrics(self.classes)


class DepthProbe(DenseProbe):
    """Depths of pixels."""

    def predict(self, image: ImageInput, windows: SlidingWindows | None = None) -> Tensor:
        """The depth of an image's pixels, (H, W) float32 in meters, at the image's own size.

        Args:
            image: As `radio.images.load_image` takes it.
            windows: Run the image in crops that overlap, and not at the size of the training.

        Raises:
            ImageError: It cannot be read.
            ValueError: The windows do not fit the model.
        """
        return self._pixels(*self._maps_of(image, windows))

    def _pixels(self, maps: Tensor, height: int, width: int) -> Tensor:
        return enlarge(maps[None], height, width)[0, 0].cpu()

    def _metrics(self, data: DenseData) -> DepthMetrics:
        return DepthMetrics()


def _check_classes(asked: Sequence[str], known: Sequence[str]) -> None:
    if tuple(asked) != tuple(known):
        other = [name for name in asked if name not in known]
        what = f"; {other[0]!r} is not among them" if other else ""
        raise ValueError(
            f"the probe has {counted(len(known), 'class', 'classes')} and the data {len(asked)}{what}: both "
            "need the same ones, in the same order"
        )
