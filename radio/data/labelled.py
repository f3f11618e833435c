"""Labelled images from folders and `datasets`, read ahead, resized and put in batches of one size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from radio.images import SizeSpec, load_image, resize_image
from radio.optional import require

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")

Progress = Callable[[Iterable, int, str], Iterable]
"""``progress(iterable, total, what)`` passes an iterable through and may show how far it is."""


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
    positions: Iterable[int],
    size: SizeSpec,
    step: int,
    batch_size: int = 16,
    workers: int = 4,
) -> Iterator[Batch]:
    """Read images ahead in threads, resize them, and collect those that got the same size.

    Args:
        images: The data set: paths, or anything else that `radio.images.load_image` reads.
        positions: Which of them to read.
        size: The size they get, as in `radio.images.target_size`: ``224`` for the short side, ``"crop:224x224"``.
        step: Height and width become multiples of this: the model's ``min_resolution_step``.
        batch_size: Largest batch.
        workers: Threads; twice the batch size is read ahead.

    Yields:
        Full batches as they fill up, then the rest. Every position comes once.

    Raises:
        ImageError: An image cannot be read; the message names it.
        ValueError: The size is not one that the model supports.
    """
    waiting: dict[tuple[int, int], list[tuple[int, Tensor]]] = {}

    def read(position: int) -> tuple[int, Tensor]:
        return position, resize_image(load_image(images[position]), size, step)

    for position, pixels in _read_ahead(read, positions, 2 * batch_size, workers):
        key = (pixels.shape[1], pixels.shape[2])
        group = waiting.setdefault(key, [])
        group.append((position, pixels))
        if len(group) == batch_size:
            yield _stack(waiting.pop(key))
    for group in waiting.values():
        yield _stack(group)


def _read_ahead(
    read: Callable[[int], tuple[int, Tensor]], positions: Iterable[int], ahead: int, workers: int
) -> Iterator[tuple[int, Tensor]]:
    futures: deque[Future[tuple[int, Tensor]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for position in positions:
            futures.append(pool.submit(read, position))
            if len(futures) >= ahead:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()


def _stack(group: list[tuple[int, Tensor]]) -> Batch:
    return Batch(torch.stack([pixels for _, pixels in group]), [position for position, _ in group])
