"""Images that show a runtime what activations are like, for a graph in int8."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from radio.images import as_list, is_batch, load_image, resize_image
from radio.modeling.network import RADIONetwork

_SMALL = 224
"""Side of two out of three images, in pixels; the others have the preferred one."""


def read_calibration(images: Any, network: RADIONetwork) -> list[Tensor]:
    """Squares cut out of images, at two sizes, since activations of large images are not those of small ones.

    Args:
        images: Several, as `radio.images.load_image` takes one.
        network: The model whose sizes they get; its weights are not used.

    Returns:
        (3, H, W) in [0, 1] each.

    Raises:
        ValueError: There are none, or only one.
        ImageError: One cannot be read.
    """
    several = as_list(images) if is_batch(images) else []
    if not several:
        raise ValueError("calibration= is a list of images like those to come, 50 to 300 of them")
    sides = (_SMALL, _SMALL, min(network.preferred_resolution))
    step = network.min_resolution_step
    read = []
    for number, image in enumerate(several):
        side = network.get_nearest_supported_resolution(*2 * (sides[number % len(sides)],)).height
        read.append(
            resize_image(load_image(image), f"crop:{side}x{side}", step=step, patch_size=network.patch_size)
        )
    return read


@torch.inference_mode()
def normalized_batches(pixels: Sequence[Tensor], network: RADIONetwork) -> Iterator[Tensor]:
    """Each image as a batch of one that the graph takes."""
    for image in pixels:
        yield network.input_conditioner(image.unsqueeze(0))
