"""Images read ahead in threads, resized for a model, and put in batches of one size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from radio.images import SizeSpec
from radio.model import RADIOModel

Progress = Callable[[Iterable, int, str], Iterable]
"""``progress(iterable, total, what)`` passes an iterable through and may show how far it is."""


class ImageBatch(NamedTuple):
    """Images of one size.

    Attributes:
        pixels: ``(B, 3, H, W)`` float32 in [0, 1].
        positions: Which images of the data set these are.
    """

    pixels: Tensor
    positions: list[int]


def image_batches(
    model: RADIOModel,
    images: Sequence[Any],
    positions: Iterable[int],
    size: SizeSpec = None,
    batch_size: int = 16,
    workers: int = 4,
) -> Iterator[ImageBatch]:
    """Read images ahead in threads, resize them for a model, and collect those that got the same size.

    Args:
        model: Whose `RADIOModel.resize` is used.
        images: The data set: paths, or anything else that `radio.images.load_image` reads.
        positions: Which of them to read.
        size: The size they get, as in `radio.images.target_size`: ``224`` for the short side, ``"crop:224x224"``.
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
        return position, model.resize(images[position], size)

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


def _stack(group: list[tuple[int, Tensor]]) -> ImageBatch:
    return ImageBatch(torch.stack([pixels for _, pixels in group]), [position for position, _ in group])
