"""Photographs of the viewer: read through the library, bounded in bytes and pixels, ready to be shown."""

from __future__ import annotations

import io
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

from radio.drawing.pictures import to_pil_image
from radio.errors import ImageError, printable
from radio.images import load_image, resize_image
from radio.images.opening import decode, open_image

MAX_UPLOAD = 32 * 2**20
"""The largest file that may be uploaded, in bytes."""

MAX_PHOTO_PIXELS = 50_000_000
"""The largest photograph, in pixels: those of telephones with 48 million fit."""

KEPT_SIDE = 2048
"""Photographs are kept with a long side of at most so many pixels."""

_PREVIEW_SIDE = 1280
_LONGEST_NAME = 80


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph as the viewer holds it.

    Attributes:
        id: Random; nobody guesses it.
        name: Of its file.
        pixels: (3, H, W) uint8.
        preview: A JPEG for the page, with a long side of at most 1280 pixels.
        given: Height and width of the file's image.
    """

    id: str
    name: str
    pixels: Tensor
    preview: bytes
    given: tuple[int, int]


class _NamedBytes(io.BytesIO):
    """The content of a file with its name, which messages then have."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def read_photo(source: Path | bytes, name: str) -> Photo:
    """Read a photograph.

    Args:
        source: A file, or the content of one.
        name: What it is called.

    Raises:
        ImageError: It is no image that the library reads, or has more than `MAX_PHOTO_PIXELS`.
    """
    name = printable(name.strip() or "photo", _LONGEST_NAME)
    if isinstance(source, bytes):
        with _NamedBytes(source, name) as file, decode(file, name) as image:
            _check_pixels(image.size, name)
            return _photo(file, name)
    with open_image(source) as image:
        _check_pixels(image.size, name)
    return _photo(source, name)


def _check_pixels(size: tuple[int, int], name: str) -> None:
    if size[0] * size[1] > MAX_PHOTO_PIXELS:
        raise ImageError(
            f"{name} has {size[0]} x {size[1]} pixels; the viewer takes at most {MAX_PHOTO_PIXELS / 1e6:.0f} million. "
            "Make it smaller first"
        )


def _photo(source: Path | BinaryIO, name: str) -> Photo:
    pixels = load_image(source)
    given = pixels.shape[-2], pixels.shape[-1]
    if max(given) > KEPT_SIDE:
        pixels = resize_image(pixels, f"long:{KEPT_SIDE}")
    shown = to_pil_image(pixels)
    shown.thumbnail((_PREVIEW_SIDE, _PREVIEW_SIDE))
    preview = io.BytesIO()
    shown.save(preview, "JPEG", quality=90)
    kept = (pixels * 255).round().byte()
    return Photo(secrets.token_hex(8), name, kept, preview.getvalue(), given)
