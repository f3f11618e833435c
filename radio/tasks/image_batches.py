"""Labelled images from folders and `datasets`, read ahead, resized and put in batches of one size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")


class ImageFolder(Sequence):
    """Images sorted into one subfolder per class, as ImageNet is: ``root/class/any/depth/image.jpg``.

    Attributes:
        classes: The subfolders' names, sorted; a label is a position in this list.
        paths: The images, sorted.
        labels: Their classes.

    Raises:
        ValueError: The folder does not exist, or has no images in subfolders.
    """

    def __init__(self, root: str | Path) -> None:
        folder = Path(root).expanduser()
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder")
        self.classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
        found = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((folder / name).rglob("*"))
            if path.suffix.lower() in IMAGE_SUFFIXES
        ]
        if not found:
            raise ValueError(f"{folder} has no images in subfolders; expected {folder}/CLASS/IMAGE.jpg")
        self.paths = [path for path, _ in found]
        self.labels = [label for _, label in found]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        """The path of one image."""
        return self.paths[index]


class HubImages(Sequence):
    """Labelled images that the ``datasets`` library can load, with columns ``image`` and ``label``.

    Attributes:
        classes: The names of the labels.
        labels: The label of each image.

    Raises:
        MissingExtraError: `datasets` is not installed.
        ValueError: The data set has no such columns.
    """

    def __init__(self, name: str, split: str) -> None:
        from radio.optional import require

        self._rows = require("datasets", "datasets").load_dataset(name, split=split)
        missing = {"image", "label"} - set(self._rows.column_names)
        if missing:
            raise ValueError(
                f"{name} has columns {', '.join(self._rows.column_names)}; expected image and label"
            )
        self.classes = tuple(self._rows.features["label"].names)
        self.labels = list(self._rows["label"])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """One image, as PIL decodes it."""
        return self._rows[index]["image"]


@dataclass(frozen=True)
class Resize:
    """How images get a size that the model accepts.

    Attributes:
        resolution: One number: the short side, in pixels; the aspect ratio is kept as far as ``step`` allows.
            Two: height and width; the image is resized to cover them and its centre is cut out.
        step: Height and width are multiples of this.

    Raises:
        ValueError: Not one or two numbers, or two that are no multiples of the step.
    """

    resolution: tuple[int, ...]
    step: int

    def __post_init__(self) -> None:
        if len(self.resolution) not in (1, 2) or min(self.resolution) < 1:
            raise ValueError(
                f"resolution is one number (short side) or two (height and width), got {self.resolution}"
            )
        if len(self.resolution) == 2 and any(side % self.step for side in self.resolution):
            near = " ".join(str(max(round(side / self.step), 1) * self.step) for side in self.resolution)
            raise ValueError(
                f"height and width must be multiples of {self.step} for this model, got {self.resolution}; "
                f"try {near}"
            )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The height and width that an image of this height and width gets."""
        if len(self.resolution) == 2:
            return self.resolution[0], self.resolution[1]
        scale = self.resolution[0] / min(height, width)
        return tuple(max(int(side * scale / self.step + 0.5), 1) * self.step for side in (height, width))  # type: ignore[return-value]

    def __call__(self, image: Image) -> Image:
        """The resized (and, with two numbers, cropped) image; bicubic with antialiasing."""
        from PIL.Image import Resampling

        height, width = self.size(image.height, image.width)
        if len(self.resolution) == 1:
            return image.resize((width, height), Resampling.BICUBIC)
        scale = max(height / image.height, width / image.width)
        crop_w, crop_h = width / scale, height / scale
        left, top = (image.width - crop_w) / 2, (image.height - crop_h) / 2
        return image.resize((width, height), Resampling.BICUBIC, box=(left, top, left + crop_w, top + crop_h))


class Batch(NamedTuple):
    """Images of one size.

    Attributes:
        pixels: ``(B, 3, H, W)`` float32 in [0, 1].
        positions: Which images these are.
    """

    pixels: Tensor
    positions: list[int]


def batches(
    images: Sequence[Any],
    positions: Sequence[int],
    resize: Resize,
    load: Callable[[Any], Image],
    batch_size: int = 16,
    workers: int = 4,
) -> Iterator[Batch]:
    """Read images ahead in threads, resize them, and collect those that got the same size.

    Args:
        images: What ``load`` opens: paths, or PIL images.
        positions: Which of them to read.
        load: Opens one as an RGB PIL image.
        batch_size: Largest batch.
        workers: Threads; the number of images read ahead is twice the batch.

    Yields:
        Full batches as they fill up, then the rest. Every position comes once.
    """
    waiting: dict[tuple[int, int], list[tuple[int, Tensor]]] = {}
    for position, pixels in _read_ahead(images, positions, resize, load, 2 * batch_size, workers):
        size = (pixels.shape[1], pixels.shape[2])
        group = waiting.setdefault(size, [])
        group.append((position, pixels))
        if len(group) == batch_size:
            yield _stack(waiting.pop(size))
    for group in waiting.values():
        yield _stack(group)


def _read_ahead(
    images: Sequence[Any],
    positions: Sequence[int],
    resize: Resize,
    load: Callable[[Any], Image],
    ahead: int,
    workers: int,
) -> Iterator[tuple[int, Tensor]]:
    def read(position: int) -> tuple[int, Tensor]:
        image = resize(load(images[position]))
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return position, pixels.reshape(image.height, image.width, 3).permute(2, 0, 1)

    futures: deque[Future[tuple[int, Tensor]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for position in positions:
            futures.append(pool.submit(read, position))
            if len(futures) >= ahead:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()


def _stack(group: list[tuple[int, Tensor]]) -> Batch:
    return Batch(
        torch.stack([pixels for _, pixels in group]).float() / 255, [position for position, _ in group]
    )
