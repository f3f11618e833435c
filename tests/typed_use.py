"""What users write, for mypy: `tests/test_types.py` checks this file. It is never run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import radio
from radio.encoding import Encoding


def one_image(model: radio.RADIOModel, picture: Image.Image) -> list[Tensor]:
    """One image gives one encoding."""
    return [
        model.encode("photo.jpg").summary,
        model.encode(Path("photo.jpg")).features,
        model.encode(picture, size="short:512", feature_fmt="NCHW").adaptors["clip"].summary,
    ]


def several(model: radio.RADIOModel, paths: list[Path], picture: Image.Image) -> list[Encoding]:
    """A list or a tuple gives a list, whatever is in it."""
    mixed = model.encode([picture, "photo.jpg"])
    first: Encoding = model.encode(("a.jpg", "b.jpg"))[0]
    return [*model.encode(paths), *model.encode(["a.jpg"], size=512), *mixed, first]


def tensors_and_arrays(model: radio.RADIOModel) -> Tensor:
    """One image or a batch: only the reader knows, and both may be written."""
    one: Tensor = model.encode(torch.rand(3, 64, 64)).summary
    batch: Encoding = model.encode(np.zeros((2, 64, 64, 3), np.uint8))[0]
    pixels: Tensor = model.resize("photo.jpg", 512)
    return one + batch.summary + pixels


def calls(
    plain: radio.RADIOModel[radio.RadioOutput], adapted: radio.RADIOModel[dict[str, radio.RadioOutput]]
) -> Tensor:
    """Without adaptors a call gives an output, with them a dict."""
    pixels = torch.rand(1, 3, 64, 64)
    return plain(pixels).summary + adapted(pixels)["clip"].summary
